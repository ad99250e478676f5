//! Finds a verifier and asks to be admitted, until it is, or until the owner comes first.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use constellation_attestation::{
    binding::VerifierRole,
    channel,
    protocol::{Purpose, Ticket},
    session,
    told::chain,
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    error::Error,
    machine::{Grant, Machine},
    source::Source,
};

/// First pause after a failure; a person waits for this node.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause: an admission may appear at any moment, and a verifier appraises in milliseconds.
const LONGEST: Duration = Duration::from_secs(5);
/// Longest pause of a member that can't use its tickets: each is another write to its admission.
const LONGEST_ADMITTED: Duration = Duration::from_mins(1);
const CONNECT: Duration = Duration::from_secs(5);

/// Asks every verifier in turn until the node is a member, by one of them or by its owner, or must be replaced. The
/// network is up since `up`, or in a cloud for longer.
pub async fn join(machine: Arc<Machine>, source: Source, up: Instant) {
    let (mut pause, mut longest) = (FIRST, LONGEST);
    while machine.wants_grant().await {
        match attempt(&machine, &source).await {
            Ok((ticket, took)) => {
                let milliseconds = up.elapsed().as_millis();
                let [channel, hello, proof] = took.map(|part| part.as_millis());
                tracing::info!(milliseconds, channel, hello, proof, "Admitted");
                longest = LONGEST_ADMITTED;
                if machine.claim() {
                    machine.carry_out(Grant::Join(ticket)).await;
                }
            }
            Err(error) => tracing::info!(error = %chain(&error), "Not admitted yet"),
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(longest);
    }
}

/// How long the parts of a conversation took: opening the channel, the Hello, and the proof until its verdict.
type Took = [Duration; 3];

async fn attempt(machine: &Machine, source: &Source) -> Result<(Ticket, Took), Error> {
    let mut last = Error::State("the user data names no verifier".into());
    for verifier in &source.hints().await?.verifiers {
        match ask(machine, verifier).await {
            Ok(admitted) => return Ok(admitted),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(machine: &Machine, verifier: &str) -> Result<(Ticket, Took), Error> {
    let mut began = Instant::now();
    let mut lap = || std::mem::replace(&mut began, Instant::now()).elapsed();
    let failed = |problem: String| Error::State(format!("connecting to verifier {verifier}: {problem}"));
    let stream = timeout(CONNECT, TcpStream::connect(verifier))
        .await
        .map_err(|_| failed(format!("no answer in {} s", CONNECT.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    let mut channel =
        timeout(CONNECT * 4, channel::node_connect(stream, &machine.secrets.identity, &machine.owner_spki))
            .await
            .map_err(|_| failed("no TLS handshake".into()))??;
    let connected = lap();
    let hello = machine.hello(Purpose::Join)?;
    channel.send(&hello).await?;
    let greeted = lap();
    let (verdict, binding) = session::prove(&mut channel, &hello, VerifierRole::Cluster, &mut &machine.tpm).await?;
    let ticket = session::unseal(&verdict, &binding, &machine.secrets.opener)?;
    Ok((ticket, [connected, greeted, lap()]))
}

/// Between half of the pause and all of it, so that nodes that start together don't ask together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the pause is simply whole.
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return pause;
    }
    pause / 2 + pause * u32::from(byte[0]) / 512
}
