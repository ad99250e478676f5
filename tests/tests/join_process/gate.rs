//! Relays that stop at a chosen point, of a conversation or of a program's way with its TPM, so that a test can end one side
//! exactly there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// A step of a join takes a second; a loaded box may take longer.
const REACHED: Duration = Duration::from_mins(1);
/// Two ports in a row are soon found.
const ATTEMPTS: usize = 100;
/// `TPM_CC_PCR_Extend` (TPM 2.0 Library, Part 2, 6.5.2).
const PCR_EXTEND: u32 = 0x0000_0182;
/// Tag, size and code, before what else there is of a command or an answer (Part 1, 18).
const TPM_HEADER: usize = 2 + 4 + 4;

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

/// Between a program and a software TPM; ends when dropped.
pub struct TpmGate {
    port: u16,
    reached: watch::Receiver<bool>,
    _tasks: JoinSet<io::Result<()>>,
}

impl TpmGate {
    /// Lets everything through to the TPM at `tcti` until the `number`-th extension of a register, and then nothing.
    pub async fn before_extension(number: usize, tcti: &str) -> Result<Self> {
        let port: u16 = tcti.rsplit_once('=').context("a TPM on a port")?.1.parse()?;
        let (commands, control) = pair().await?;
        let own = commands.local_addr()?.port();
        let (reach, reached) = watch::channel(false);
        let mut tasks: JoinSet<io::Result<()>> = JoinSet::new();
        tasks.spawn(async move {
            let (reach, count) = (Arc::new(reach), Arc::new(AtomicUsize::new(0)));
            // Dropped with this task.
            let mut relays = JoinSet::new();
            loop {
                let program = commands.accept().await?.0;
                let tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                relays.spawn(relay_commands(program, tpm, number, Arc::clone(&count), Arc::clone(&reach)));
            }
        });
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            loop {
                let mut program = control.accept().await?.0;
                let mut tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).await?;
                relays.spawn(async move { copy_bidirectional(&mut program, &mut tpm).await });
            }
        });
        Ok(Self { port: own, reached, _tasks: tasks })
    }

    /// How a TPM library reaches it.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Waits until the program stands before it.
    pub async fn reached(&mut self) -> Result<()> {
        timeout(REACHED, self.reached.wait_for(|reached| *reached)).await.context("the gate was never reached")??;
        Ok(())
    }
}

/// Passes commands and answers on, one by one.
async fn relay_commands(
    mut program: TcpStream,
    mut tpm: TcpStream,
    number: usize,
    count: Arc<AtomicUsize>,
    reach: Arc<watch::Sender<bool>>,
) -> io::Result<()> {
    loop {
        let (code, command) = message(&mut program).await?;
        if code == PCR_EXTEND && count.fetch_add(1, Ordering::SeqCst) + 1 == number {
            reach.send_replace(true);
            return std::future::pending().await;
        }
        tpm.write_all(&command).await?;
        program.write_all(&message(&mut tpm).await?.1).await?;
    }
}

/// A command or an answer, and its code.
async fn message(from: &mut TcpStream) -> io::Result<(u32, Vec<u8>)> {
    let mut bytes = vec![0; TPM_HEADER];
    from.read_exact(&mut bytes).await?;
    let [_, _, s0, s1, s2, s3, c0, c1, c2, c3] = bytes[..] else { return Err(io::ErrorKind::InvalidData.into()) };
    let size = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3])).map_err(io::Error::other)?;
    bytes.resize(size.max(TPM_HEADER), 0);
    from.read_exact(&mut bytes[TPM_HEADER..]).await?;
    Ok((u32::from_be_bytes([c0, c1, c2, c3]), bytes))
}

/// Two ports in a row: swtpm's clients expect the control port right after the other.
async fn pair() -> Result<(TcpListener, TcpListener)> {
    for _ in 0..ATTEMPTS {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let Some(next) = first.local_addr()?.port().checked_add(1) else { continue };
        if let Ok(second) = TcpListener::bind((Ipv4Addr::LOCALHOST, next)).await {
            return Ok((first, second));
        }
    }
    bail!("no two ports in a row are free")
}
