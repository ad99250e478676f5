//! The words between operator and supervisor: one JSON line each way on a Unix socket; after `Dial`, raw bytes.

use std::net::{Ipv4Addr, SocketAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cloud::{CloudError, LaunchRequest};

/// What the operator asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Request {
    /// Connect me to this address in the cluster's network.
    Dial { address: SocketAddr },
    /// List all VMs.
    Find,
    /// Launch this VM, or show the one that this node has.
    Launch { vm: Record },
    /// Are you there?
    Ping,
    /// Pull the plug of this node's VM and switch it on again: same disks, same TPM.
    Restart { node: String },
    /// Make exactly these nodes the endpoint's targets.
    Targets { nodes: Vec<String> },
    /// Remove this node's VM.
    Terminate { node: String },
}

/// What the supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Reply {
    Done,
    Refused { kind: Kind, message: String },
    Vms { vms: Vec<View> },
}

/// A refusal, by the reaction it wants.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    Capacity,
    Denied,
    Host,
    NotFound,
    Transient,
    Unsupported,
}

/// A VM as it was asked for; also the content of its `request.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Record {
    pub(super) node: String,
    pub(super) name: String,
    pub(super) control_plane: bool,
    pub(super) image: String,
    pub(super) instance_type: String,
    pub(super) state_disk_bytes: u64,
    pub(super) index: u32,
    /// The bytes that the node measures, in base64.
    #[serde(with = "bytes")]
    pub(super) launch_config: Vec<u8>,
}

impl From<&LaunchRequest> for Record {
    fn from(request: &LaunchRequest) -> Self {
        Self {
            node: request.node.0.clone(),
            name: request.name.clone(),
            control_plane: request.control_plane,
            image: request.image.clone(),
            instance_type: request.instance_type.clone(),
            state_disk_bytes: request.state_disk_bytes,
            index: request.index,
            launch_config: request.launch_config.clone(),
        }
    }
}

/// A VM as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct View {
    pub(super) node: String,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) state: State,
    pub(super) message: Option<String>,
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    Failed,
    Running,
    Terminating,
}

impl From<CloudError> for Reply {
    fn from(error: CloudError) -> Self {
        let (kind, message) = match error {
            CloudError::Capacity(message) => (Kind::Capacity, message),
            CloudError::Denied(message) => (Kind::Denied, message),
            CloudError::Host(message) => (Kind::Host, message),
            CloudError::NotFound(message) => (Kind::NotFound, message),
            CloudError::Unsupported(message) => (Kind::Unsupported, message),
            other => (Kind::Transient, other.to_string()),
        };
        Self::Refused { kind, message }
    }
}

impl Reply {
    /// A refusal as the error that it is.
    pub(super) fn into_result(self) -> Result<Self, CloudError> {
        match self {
            Self::Refused { kind, message } => Err(match kind {
                Kind::Capacity => CloudError::Capacity(message),
                Kind::Denied => CloudError::Denied(message),
                Kind::Host => CloudError::Host(message),
                Kind::NotFound => CloudError::NotFound(message),
                Kind::Transient => CloudError::Transient(message),
                Kind::Unsupported => CloudError::Unsupported(message),
            }),
            answer => Ok(answer),
        }
    }
}

/// What went wrong with a line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("the line is not understood")]
    Malformed(#[from] serde_json::Error),
    #[error("the connection ended within a line, or the line is longer than {LONGEST} bytes")]
    Cut,
}

/// A launch configuration is a few KiB; a megabyte holds hundreds of instances in a list.
const LONGEST: u64 = 1 << 20;

/// Reads one line; bytes after it stay in `from`.
pub(super) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncBufRead + Unpin)) -> Result<T, Error> {
    let mut line = Vec::new();
    from.take(LONGEST).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(Error::Cut);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Writes one line.
pub(super) async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), words: &T) -> Result<(), Error> {
    let mut line = serde_json::to_vec(words)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await?;
    Ok(())
}

/// Bytes as base64 text.
mod bytes {
    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{BASE64_STANDARD, Deserialize, Engine};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{ClusterUid, NodeUid};

    fn record() -> Record {
        Record::from(&LaunchRequest {
            cluster: ClusterUid("c".into()),
            node: NodeUid("n".into()),
            name: "cp-0".into(),
            control_plane: true,
            image: "/node.img".into(),
            instance_type: "2x3072".into(),
            zone: None,
            state_disk_bytes: 1 << 30,
            index: 3,
            launch_config: vec![0, 255, b'\n'],
        })
    }

    #[tokio::test]
    async fn a_request_survives_the_wire_and_leaves_what_follows() {
        let mut wire = Vec::new();
        write(&mut wire, &Request::Launch { vm: record() }).await.unwrap();
        wire.extend_from_slice(b"raw");
        let mut wire = wire.as_slice();
        let Request::Launch { vm } = read(&mut wire).await.unwrap() else { panic!("another request came out") };
        assert_eq!(vm, record());
        assert_eq!(wire, b"raw");
    }

    #[tokio::test]
    async fn a_cut_or_foreign_line_is_refused() {
        assert!(matches!(read::<Request>(&mut b"{\"call\":\"find\"}".as_slice()).await, Err(Error::Cut)));
        assert!(matches!(read::<Request>(&mut b"{\"call\":\"format\"}\n".as_slice()).await, Err(Error::Malformed(_))));
        assert!(matches!(
            read::<Request>(&mut b"{\"call\":\"restart\",\"node\":\"n\",\"x\":1}\n".as_slice()).await,
            Err(Error::Malformed(_))
        ));
    }

    #[test]
    fn a_refusal_keeps_its_kind() {
        let through = |error| Reply::from(error).into_result().unwrap_err();
        assert!(matches!(through(CloudError::Capacity("x".into())), CloudError::Capacity(_)));
        assert!(matches!(through(CloudError::Host("x".into())), CloudError::Host(_)));
        assert!(matches!(through(CloudError::NotFound("x".into())), CloudError::NotFound(_)));
        assert!(matches!(through(CloudError::Unsupported("x".into())), CloudError::Unsupported(_)));
        assert!(matches!(through(CloudError::Transient("x".into())), CloudError::Transient(_)));
    }
}
