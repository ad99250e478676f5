//! A relay that stops at a chosen point of a conversation, so that a test can end one side exactly there.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Turns of a join over TLS 1.3, in their order: one side speaks until the other begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// The node's `ClientHello`.
    ClientHello = 1,
    /// The verifier's half of the handshake.
    ServerHello,
    /// The rest of the handshake, and the node's Hello.
    Hello,
    /// The verifier's challenge.
    Challenge,
    /// The node's evidence.
    Evidence,
    /// The ticket.
    Verdict,
}

impl Turn {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::ClientHello, Self::ServerHello, Self::Hello, Self::Challenge, Self::Evidence, Self::Verdict];
}

/// Both connections of a relay that stopped; neither side notices until this is dropped.
pub struct Held {
    _caller: TcpStream,
    _upstream: TcpStream,
}

/// Relays the next connection to `address` until `turn` begins, of which nothing is passed on.
pub async fn relay_until(listener: &TcpListener, address: SocketAddr, turn: Turn) -> Result<Held> {
    let (mut caller, _) = listener.accept().await?;
    let mut upstream = TcpStream::connect(address).await?;
    let (mut turns, mut caller_spoke) = (0, false);
    let (mut there, mut back) = ([0; 4096], [0; 4096]);
    loop {
        let (length, caller_speaks) = tokio::select! {
            length = caller.read(&mut there) => (length?, true),
            length = upstream.read(&mut back) => (length?, false),
        };
        ensure!(length > 0, "the conversation ended before {turn:?}");
        if turns == 0 || caller_speaks != caller_spoke {
            turns += 1;
            caller_spoke = caller_speaks;
        }
        if turns == turn as usize {
            return Ok(Held { _caller: caller, _upstream: upstream });
        }
        if caller_speaks {
            upstream.write_all(&there[..length]).await?;
        } else {
            caller.write_all(&back[..length]).await?;
        }
    }
}
