//! The operator's end of the conversation with a supervisor.

use std::time::Duration;

use tokio::{io::BufReader, net::UnixStream, time::timeout};

use super::{
    api::{self, Reply, Request, View},
    launcher,
    layout::ClusterDir,
};
use crate::cloud::CloudError;

/// The VMs of an answer.
pub(super) fn vms(reply: Reply) -> Result<Vec<View>, CloudError> {
    match reply {
        Reply::Vms { vms } => Ok(vms),
        _ => Err(CloudError::Transient("the supervisor gave another answer than was asked for".into())),
    }
}

/// Asks and reads the answer; a refusal is an error.
pub(super) async fn call(dir: &ClusterDir, request: &Request) -> Result<Reply, CloudError> {
    converse(dir, request).await?.1.into_result()
}

/// Asks and reads the answer; the connection with what follows it.
pub(super) async fn converse(
    dir: &ClusterDir,
    request: &Request,
) -> Result<(BufReader<UnixStream>, Reply), CloudError> {
    let failed = |e: &dyn std::fmt::Display| {
        CloudError::Transient(format!("asking the supervisor of {} failed: {e}", dir.path().display()))
    };
    let conversation = async {
        let (path, _open) = launcher::socket_path(dir).map_err(|e| failed(&e))?;
        let mut stream = BufReader::new(UnixStream::connect(path).await.map_err(|e| failed(&e))?);
        api::write(&mut stream, request).await.map_err(|e| failed(&e))?;
        let reply = api::read(&mut stream).await.map_err(|e| failed(&e))?;
        Ok((stream, reply))
    };
    timeout(ANSWER, conversation).await.map_err(|_| failed(&"it does not answer"))?
}

/// The longest answers wait for a removal during a launch: up to a second or two, more on a busy host.
const ANSWER: Duration = Duration::from_mins(1);
