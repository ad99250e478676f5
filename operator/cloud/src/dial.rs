//! A connection to a node that ends soon after the node does.
//!
//! A machine that loses its power says no goodbye, and whoever only listens to it would listen for as long as its
//! patience lasts. The kernel asks instead: a machine that is off is missed in 40 s, one that was switched on again
//! knows nothing of the connection and says so at the first question.

use std::{net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};

use crate::CloudError;

/// How long connecting may take. A node's kernel answers, so this is for hosts that are very busy.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence before the first question.
const IDLE: Duration = Duration::from_secs(10);
/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer that end the connection.
const QUESTIONS: u32 = 6;
/// How long what was sent may stay unconfirmed: as long as a silence may last.
const UNCONFIRMED: Duration = Duration::from_secs(IDLE.as_secs() + INTERVAL.as_secs() * QUESTIONS as u64);

/// Connects to a node's port.
///
/// # Errors
/// [`CloudError::Transient`] when nobody answers: a node that boots, or is gone.
pub async fn dial(address: SocketAddr) -> Result<TcpStream, CloudError> {
    let failed = |why: std::io::Error| CloudError::Transient(format!("connecting to {address} failed: {why}"));
    let stream = timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| CloudError::Transient(format!("{address} didn't answer in {} s", CONNECT.as_secs())))?
        .map_err(failed)?;
    watched(&stream).map_err(failed)?;
    Ok(stream)
}

/// Makes the kernel ask for the other end's life, and send small messages at once.
fn watched(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(QUESTIONS))?;
    socket.set_tcp_user_timeout(Some(UNCONFIRMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_asks_for_the_other_ends_life() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = dial(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNCONFIRMED));
    }

    #[tokio::test]
    async fn nobody_at_home_is_worth_another_try() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(dial(address).await, Err(CloudError::Transient(_))));
    }
}
