//! Takes connections: a bounded number of strangers at a time, each conversation for a bounded time.

use std::{future::Future, net::SocketAddr, time::Duration};

use constellation_attestation::seats::{Seat, Seats};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How much strangers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time of callers that have named no node of ours. Until its Hello, one costs a handshake and at
    /// most 32 KiB ([`constellation_attestation::session::HELLO_MAX`]), and is left after two steps of ten seconds. Half of
    /// the 1024 files that a process may have open unless it asks for more (systemd, `DefaultLimitNOFILE`), so that calls
    /// to the API still find one, and those who hold one of [`crate::verifier::ABREAST`] places.
    pub strangers: usize,
    /// Longest conversation. The single steps have shorter limits; this is for peers who use each of them up.
    pub conversation: Duration,
    /// How long running conversations may go on after we were told to stop.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { strangers: 512, conversation: Duration::from_secs(150), farewell: Duration::from_secs(5) }
    }
}

/// Accepting fails when we are out of file descriptors; asking again at once would burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` is done, and gives each to `handle`, with a seat among the strangers that is left when
/// the caller has become somebody.
pub async fn listen<H, F>(listener: TcpListener, limits: Limits, stop: impl Future<Output = ()>, handle: H)
where
    H: Fn(TcpStream, SocketAddr, Seat) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let strangers = Seats::new(limits.strangers);
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
        let _ = stream.set_nodelay(true);
        let conversation = handle(stream, peer, strangers.take(peer.ip()));
        conversations.spawn(async move {
            if timeout(limits.conversation, conversation).await.is_err() {
                tracing::info!(%peer, "Closed a conversation that took too long");
            }
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
        net::TcpSocket,
        sync::oneshot,
    };

    use super::*;

    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        server: tokio::task::JoinHandle<()>,
    }

    /// Each conversation says hello and waits for a byte, for which it needs its seat.
    async fn given_server(limits: Limits) -> Running {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            listen(listener, limits, stop, |mut stream, _, mut seat| async move {
                let _ = stream.write_all(b"h").await;
                let _ = seat.hold(stream.read_u8()).await;
            })
            .await;
        });
        Running { address, stop, server }
    }

    async fn greeted(address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.read_u8().await.ok().map(|_| stream)
    }

    #[tokio::test]
    async fn one_stranger_too_many_takes_the_seat_of_the_oldest_of_the_greediest_address() {
        let server = given_server(Limits { strangers: 2, ..Limits::default() }).await;
        let honest = TcpSocket::new_v4().unwrap();
        honest.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
        let mut honest = honest.connect(server.address).await.unwrap();
        honest.read_u8().await.unwrap();
        let mut oldest = greeted(server.address).await.unwrap();
        let mut newest = greeted(server.address).await.unwrap();
        assert!(timeout(Duration::from_secs(5), oldest.read_u8()).await.unwrap().is_err());
        for stream in [&mut honest, &mut newest] {
            assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err(), "still open");
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_dropped_in_time() {
        let limits = Limits { strangers: 1, conversation: Duration::from_millis(50), ..Limits::default() };
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
