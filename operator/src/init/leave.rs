//! Asks a control-plane node to leave etcd before its VM goes.

use std::time::Duration;

use constellation_attestation::{protocol::Purpose, session};

use super::talk::{self, Error, Peer};

/// How long leaving may take: the node answers already, and removing an etcd member takes seconds.
const LIMIT: Duration = Duration::from_mins(2);

/// Returns when the node has left etcd. Only a member that proves to be one is asked.
pub async fn leave(peer: &Peer) -> Result<(), Error> {
    let conversation = async {
        let mut channel = talk::open(peer).await?;
        talk::prove(peer, &mut channel, Purpose::Leave).await?;
        session::accept(&mut channel).await?;
        talk::listen(&mut channel, |line| tracing::info!(node = peer.node_uid, line, "leaving")).await?;
        channel.close().await;
        Ok(())
    };
    tokio::time::timeout(LIMIT, conversation)
        .await
        .unwrap_or_else(|_| Err(Error::Node(format!("it did not leave etcd in {} s", LIMIT.as_secs()))))
}
