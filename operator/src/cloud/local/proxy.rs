//! Layer-4 forwarding to the control-plane nodes: the endpoint inside, the loopback port outside, and `dial`.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

/// Ports of the control-plane nodes that the endpoint offers.
pub(super) const API_SERVER: u16 = 6443;
pub(super) const VERIFIER: u16 = 9001;

/// How long a target has to accept. The first round passes quickly over nodes that are still booting; the second is
/// for guests that run in software on a busy host. Together they stay below a client's usual ten seconds.
const ROUNDS: [Duration; 2] = [Duration::from_millis(700), Duration::from_secs(3)];

/// Accepts for ever; each connection goes to the next target that accepts one on `port`, and ends when its target is
/// no target any more.
pub(super) async fn forward(listener: TcpListener, port: u16, targets: watch::Receiver<Vec<Ipv4Addr>>) {
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(serve(client, port, targets.clone(), turn.fetch_add(1, Ordering::Relaxed)));
            }
            Err(error) => {
                tracing::warn!(%error, port, "Accepting a connection failed");
                // Out of file descriptors, most likely: do not spin until some are closed.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, port: u16, mut targets: watch::Receiver<Vec<Ipv4Addr>>, turn: usize) {
    let now = targets.borrow_and_update().clone();
    let Some((target, mut server)) = connect_any(&now, port, turn).await else {
        tracing::debug!(port, targets = ?now, "No target accepts connections");
        return;
    };
    // Latency only; a socket that refuses it still works.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        // An error ends the connection on both sides, which is all there is to do.
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = targets.wait_for(|targets| !targets.contains(&target)) => {}
    }
}

async fn connect_any(targets: &[Ipv4Addr], port: u16, turn: usize) -> Option<(Ipv4Addr, TcpStream)> {
    let start = turn % targets.len().max(1);
    let (before, after) = targets.split_at_checked(start)?;
    for patience in ROUNDS {
        for target in after.iter().chain(before) {
            if let Ok(Ok(stream)) = timeout(patience, TcpStream::connect((*target, port))).await {
                return Some((*target, stream));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

    async fn given_target(says: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(says).await.unwrap();
                held.push(stream);
            }
        });
        port
    }

    async fn given_proxy(port: u16, targets: watch::Receiver<Vec<Ipv4Addr>>) -> std::net::SocketAddr {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(forward(listener, port, targets));
        address
    }

    #[tokio::test]
    async fn a_connection_passes_over_a_dead_target_and_ends_when_its_target_is_removed() {
        let port = given_target(b"hello").await;
        // 127.0.0.9 refuses: the target listens on 127.0.0.1 only.
        let (change, targets) = watch::channel(vec![Ipv4Addr::new(127, 0, 0, 9), LOCAL]);
        let proxy = given_proxy(port, targets).await;
        let mut client = TcpStream::connect(proxy).await.unwrap();
        let mut hello = [0; 5];
        client.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        change.send(vec![Ipv4Addr::new(127, 0, 0, 9)]).unwrap();
        assert_eq!(client.read(&mut hello).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_connection_stays_while_other_targets_come_and_go() {
        let port = given_target(b"hello").await;
        let (change, targets) = watch::channel(vec![LOCAL]);
        let proxy = given_proxy(port, targets).await;
        let mut client = TcpStream::connect(proxy).await.unwrap();
        let mut hello = [0; 5];
        client.read_exact(&mut hello).await.unwrap();
        change.send(vec![LOCAL, Ipv4Addr::new(127, 0, 0, 9)]).unwrap();
        change.send(vec![LOCAL]).unwrap();
        client.write_all(b"still here").await.unwrap();
    }

    #[tokio::test]
    async fn without_targets_a_connection_is_closed() {
        let (_change, targets) = watch::channel(Vec::new());
        let proxy = given_proxy(1, targets).await;
        let mut client = TcpStream::connect(proxy).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
