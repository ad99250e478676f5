//! Takes connections: a bounded number at a time, each for a bounded time.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::metrics::Metrics;

/// How much strangers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. Until its Hello, a caller costs a handshake and at most 32 KiB
    /// ([`constellation_attestation::session::HELLO_MAX`]), and is left after two steps of ten seconds. Half of the
    /// 1024 files that a process may have open unless it asks for more (systemd, `DefaultLimitNOFILE`), so that calls
    /// to the API still find one. Those who said Hello wait for one of [`crate::verifier::ABREAST`] places.
    pub connections: usize,
    /// Longest conversation. The single steps have shorter limits; this is for peers who use each of them up.
    pub conversation: Duration,
    /// How long running conversations may go on after we were told to stop.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, conversation: Duration::from_secs(150), farewell: Duration::from_secs(5) }
    }
}

/// Accepting fails when we are out of file descriptors; asking again at once would burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` is done, and gives each to `handle`.
///
/// Over the limit a connection is closed at once: whoever is honest tries again, and nobody waits in a queue that
/// strangers fill.
pub async fn listen<H, F>(
    listener: TcpListener,
    limits: Limits,
    metrics: &Metrics,
    stop: impl Future<Output = ()>,
    handle: H,
) where
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut conversations = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = conversations.join_next(), if !conversations.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            metrics.dropped.add();
            tracing::debug!(%peer, "Dropped a connection over the limit");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let conversation = handle(stream, peer);
        conversations.spawn(async move {
            if timeout(limits.conversation, conversation).await.is_err() {
                tracing::info!(%peer, "Closed a conversation that took too long");
            }
            drop(slot);
        });
    }
    drop(listener);
    let drained = async { while conversations.join_next().await.is_some() {} };
    let _ = timeout(limits.farewell, drained).await;
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Mutex};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::oneshot,
    };

    use super::*;

    struct Running {
        address: SocketAddr,
        metrics: Arc<Metrics>,
        stop: oneshot::Sender<()>,
        server: tokio::task::JoinHandle<()>,
    }

    /// Each conversation says hello and waits for a byte.
    async fn given_server(limits: Limits) -> Running {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let metrics = Arc::new(Metrics::default());
        let counters = metrics.clone();
        let server = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            listen(listener, limits, &counters, stop, |mut stream, _| async move {
                let _ = stream.write_all(b"h").await;
                let _ = stream.read_u8().await;
            })
            .await;
        });
        Running { address, metrics, stop, server }
    }

    async fn greeted(address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.read_u8().await.ok().map(|_| stream)
    }

    #[tokio::test]
    async fn over_the_limit_connections_are_closed_and_a_free_slot_is_used_again() {
        let server = given_server(Limits { connections: 2, ..Limits::default() }).await;
        let first = greeted(server.address).await.unwrap();
        let _second = greeted(server.address).await.unwrap();
        assert!(greeted(server.address).await.is_none());
        assert_eq!(server.metrics.dropped.value(), 1);
        drop(first);
        let again = async { while greeted(server.address).await.is_none() {} };
        timeout(Duration::from_secs(5), again).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_dropped_in_time() {
        let limits = Limits { connections: 1, conversation: Duration::from_millis(50), ..Limits::default() };
        let server = given_server(limits).await;
        let mut silent = greeted(server.address).await.unwrap();
        let ended = timeout(Duration::from_secs(5), silent.read_u8()).await.unwrap();
        assert!(ended.is_err());
        let next = async { while greeted(server.address).await.is_none() {} };
        timeout(Duration::from_secs(5), next).await.unwrap();
    }

    #[tokio::test]
    async fn running_conversations_may_end_after_stop() {
        let server = given_server(Limits::default()).await;
        let mut stream = greeted(server.address).await.unwrap();
        server.stop.send(()).unwrap();
        stream.write_all(b"x").await.unwrap();
        timeout(Duration::from_secs(5), server.server).await.unwrap().unwrap();
        let refused = Mutex::new(TcpStream::connect(server.address).await);
        assert!(refused.into_inner().unwrap().is_err());
    }
}
