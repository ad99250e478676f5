//! The operator's end of the conversation with a supervisor.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::{
    io::BufReader,
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

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

/// What came of a question to a supervisor that may not be there.
pub(super) enum Asked {
    Answer(Reply),
    /// There is no supervisor, hence no process; none can start while this lock is held.
    Nobody(OwnedFd),
}

/// No whole answer came, so whether the request was carried out is unknown.
#[derive(Debug, thiserror::Error)]
#[error("asking the supervisor of {dir} failed: {why}")]
pub(super) struct Unanswered {
    dir: String,
    why: String,
}

impl From<Unanswered> for CloudError {
    fn from(unanswered: Unanswered) -> Self {
        Self::Transient(unanswered.to_string())
    }
}

/// Asks the supervisor, or takes the cluster's lock if there is none. A supervisor that starts or dies holds the lock
/// for some milliseconds in which it does not answer: the kernel gives a dying one's lock back last of all.
///
/// # Errors
/// What the supervisor says; [`CloudError::Transient`] if it holds the lock and does not answer.
pub(super) async fn ask_or_lock(dir: &ClusterDir, request: &Request) -> Result<Asked, CloudError> {
    let deadline = Instant::now() + CHANGEOVER;
    loop {
        if let Some(lock) = launcher::take_lock(dir)? {
            return Ok(Asked::Nobody(lock));
        }
        match converse(dir, request).await {
            Ok((_, reply)) => return reply.into_result().map(Asked::Answer),
            Err(unanswered) if Instant::now() > deadline => return Err(unanswered.into()),
            // Another process's end can only be looked at.
            Err(_) => sleep(POLL).await,
        }
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
) -> Result<(BufReader<UnixStream>, Reply), Unanswered> {
    let failed = |e: &dyn std::fmt::Display| Unanswered { dir: dir.path().display().to_string(), why: e.to_string() };
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
/// A start is 100 ms to 3 s (a new CA in software), a death 19 ms; more on a busy host.
const CHANGEOVER: Duration = Duration::from_secs(10);
/// Short beside either.
const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::cloud::local::layout::SOCKET;

    #[tokio::test]
    async fn a_dying_supervisor_is_none_once_its_lock_is_free() {
        let path = std::env::temp_dir().join(format!("constellation-client-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let dir = ClusterDir::at(path.clone());
        let lock = launcher::take_lock(&dir).unwrap();
        let listener = UnixListener::bind(path.join(SOCKET)).unwrap();
        let dying = async {
            // It still accepts, hangs up, refuses, and only then lets its lock go.
            drop(listener.accept().await.unwrap());
            drop(listener);
            drop(lock);
        };
        let (asked, ()) = tokio::join!(ask_or_lock(&dir, &Request::Find), dying);
        assert!(matches!(asked.unwrap(), Asked::Nobody(_)));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_supervisor_that_answers_is_asked_once() {
        let path = std::env::temp_dir().join(format!("constellation-client-answers-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let dir = ClusterDir::at(path.clone());
        let _lock = launcher::take_lock(&dir).unwrap();
        let listener = UnixListener::bind(path.join(SOCKET)).unwrap();
        let answering = async {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            assert!(matches!(api::read(&mut stream).await.unwrap(), Request::Find));
            api::write(&mut stream, &Reply::Vms { vms: Vec::new() }).await.unwrap();
        };
        let (asked, ()) = tokio::join!(ask_or_lock(&dir, &Request::Find), answering);
        assert!(matches!(asked.unwrap(), Asked::Answer(Reply::Vms { vms }) if vms.is_empty()));
        std::fs::remove_dir_all(path).unwrap();
    }
}
