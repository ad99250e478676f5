//! One conversation with a node: dial, ask, challenge, appraise, and give it what it proved to be worth.

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use constellation_attestation::{
    appraise::{self, Appraisal, LaunchRegister, Presented, appraise, clause, pcr15_after_join, pcr15_before_join},
    binding::VerifierRole,
    channel::{self, Channel, Identity},
    endorsers::Endorsers,
    owner::SigningKey,
    platform::{self, Platform},
    policy::{LAUNCH_PCR, TrustPolicy},
    protocol::{BOOTSTRAPPER_PORT, Progress, Purpose, machine::Machine},
    session::{self, Proof},
    told,
};
use constellation_crds::{
    ConstellationCluster,
    node::{AttestationResult, Mismatch},
};
use kube::ResourceExt as _;
use serde::Serialize;
use zeroize::{Zeroize, Zeroizing};

use super::Journal;
use crate::{
    cloud::{Cloud, CloudError, ClusterUid, Stream},
    collateral::{Collector, store},
    error::chain,
    events,
};

/// Pause after the first failed attempt to reach a node; doubled with each.
pub const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Greatest pause between attempts.
pub const GREATEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a VM may take until its bootstrapper answers: firmware, boot and TPM keys without hardware virtualisation.
const ANSWER_LIMIT: Duration = Duration::from_mins(10);
/// How long a node may be silent while it works. Images are in the disk, so no step waits for the network.
const SILENCE_LIMIT: Duration = Duration::from_mins(15);
/// Bytes of a refusal's id, as a verifier's.
const ID_BYTES: usize = 8;

/// Why a conversation did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cloud can't connect us.
    #[error("the node can't be reached")]
    Cloud(#[from] CloudError),
    /// The connection can't be opened or used.
    #[error("the connection to the node failed: {0}")]
    Channel(#[from] channel::Error),
    /// The node says that it failed for good.
    #[error("the node failed: {0}")]
    Node(String),
    /// The cloud says that its evidence is of a platform that can't be appraised.
    #[error("evidence of this cloud can't be appraised")]
    Platform(#[from] platform::Unknown),
    /// The API server doesn't say what there is of makers' and clouds' words.
    #[error("reading the collateral failed")]
    Words(#[from] kube::Error),
    /// The evidence was refused.
    #[error("the node's evidence was refused{}", reason(.0))]
    Refused(Box<AttestationResult>),
    /// The conversation broke off, which nobody may be blamed for.
    #[error("the conversation failed: {0}")]
    Session(#[from] session::Error),
    /// The node was refused before there was anything to appraise. That says nothing about it: whoever answers at its
    /// address may have done so in its name.
    #[error("the node showed nothing that could be appraised{}", reason(.0))]
    Unproven(Box<AttestationResult>),
}

impl Error {
    /// Whether the node finds the owner's certificate, which is new, out of its time: either clock is wrong.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        matches!(self, Self::Channel(error) | Self::Session(session::Error::Channel(error)) if error.is_out_of_time())
    }
}

/// The first reason of a refusal, and where to find the others.
fn reason(result: &AttestationResult) -> String {
    format!("{} (refusal {})", events::first(result), result.refusal_id.as_deref().unwrap_or("without id"))
}

/// A node, and what it must prove.
#[derive(Clone)]
pub struct Peer {
    /// The cloud it runs in.
    pub cloud: Arc<dyn Cloud>,
    /// Its cluster.
    pub cluster: ClusterUid,
    /// UID of the node.
    pub node_uid: String,
    /// Its address.
    pub address: std::net::IpAddr,
    /// The owner key.
    pub owner: Arc<SigningKey>,
    /// The launch configuration exactly as it was delivered.
    pub launch_config: Vec<u8>,
    /// Identity of the cluster.
    pub cluster_id: Zeroizing<Vec<u8>>,
    /// What is accepted.
    pub policy: TrustPolicy,
    /// Who is believed about machines, and what they said.
    pub words: Words,
}

/// What makers and clouds said, and who fetches what is missing.
#[derive(Clone)]
pub struct Words {
    /// Who fetches.
    pub collector: Arc<Collector>,
    /// The cluster.
    pub object: Arc<ConstellationCluster>,
}

impl Words {
    /// All that is there now, with what a machine needs beside it as far as it can be had soon.
    async fn about(&self, machine: Option<&Machine>, platform: Platform) -> Result<Endorsers, Error> {
        let known = store::endorsers(&self.collector.read(&self.object, platform.as_str()).await?);
        let Some(machine) = machine else { return Ok(known) };
        let (uid, namespace) = (self.object.uid().unwrap_or_default(), self.object.namespace().unwrap_or_default());
        Ok(self.collector.complete(known, machine, (&uid, &namespace), jiff::Timestamp::now()).await)
    }
}

/// What a node is given after it proved itself.
pub trait Secret: Serialize + Zeroize + Send + Sync + 'static {
    /// What the conversation is for.
    const PURPOSE: Purpose;
}

/// Reaches the node, waiting until it answers.
pub async fn open(peer: &Peer) -> Result<Channel<Box<dyn Stream>>, Error> {
    let address = SocketAddr::new(peer.address, BOOTSTRAPPER_PORT);
    let end = tokio::time::Instant::now() + ANSWER_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = async {
            let identity = Identity::owner_client(&peer.owner)?;
            let stream = peer.cloud.dial(&peer.cluster, address).await?;
            Ok::<_, Error>(channel::verifier_connect(stream, &identity).await?)
        };
        match attempt.await {
            Ok(channel) => return Ok(channel),
            Err(error) if tokio::time::Instant::now() + pause > end => return Err(error),
            Err(error) => tracing::debug!(node = peer.node_uid, %error, "not yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(GREATEST_PAUSE);
    }
}

/// Which states of a node are good for a purpose.
fn expected(peer: &Peer, purpose: Purpose) -> Vec<LaunchRegister> {
    let before = pcr15_before_join(&peer.launch_config);
    let after = pcr15_after_join(&before, &peer.cluster_id);
    match purpose {
        // A node that was granted once and lost its connection is a member by now, and goes on.
        Purpose::Init | Purpose::Recover => vec![before, after],
        Purpose::Join => vec![before],
        Purpose::Leave | Purpose::Reattest => vec![after],
    }
}

/// Asks for evidence and appraises it; a refusal is an error, and is told to the node as far as it listens.
pub async fn prove(
    peer: &Peer,
    channel: &mut Channel<Box<dyn Stream>>,
    purpose: Purpose,
) -> Result<(Proof, AttestationResult), Error> {
    let examined = examine(peer, channel, purpose).await;
    if let Err(Error::Refused(result) | Error::Unproven(result)) = &examined {
        // Who sent nonsense, or hung up, can't be told; the refusal stands.
        let _ = session::refuse(channel, result.refusal_id.as_deref().unwrap_or_default()).await;
    }
    examined
}

async fn examine(
    peer: &Peer,
    channel: &mut Channel<Box<dyn Stream>>,
    purpose: Purpose,
) -> Result<(Proof, AttestationResult), Error> {
    let platform: Platform = peer.cloud.platform().parse()?;
    let hello = session::ask(channel, purpose).await.map_err(|error| match error {
        session::Error::Purpose(_) => unproven(peer, error),
        // A first message that isn't a Hello says nothing that could be told.
        _ => Error::Session(error),
    })?;
    let challenged = session::challenge(channel, hello, VerifierRole::Owner, peer.policy.revision, platform).await;
    let proof = challenged.map_err(|error| unproven(peer, error))?;
    let endorsers = peer.words.about(proof.evidence.machine.as_ref(), platform).await?;
    let now = jiff::Timestamp::now();
    let mut result: Option<AttestationResult> = None;
    for pcr15 in expected(peer, purpose) {
        let appraisal = appraise(
            &Presented {
                hello: &proof.hello,
                evidence: &proof.evidence,
                binding: &proof.binding,
                credential_secret: &proof.credential_secret,
                platform,
                expected_pcr15: &pcr15,
            },
            &peer.policy,
            &endorsers,
            now,
        );
        let only_launch = only_launch_register(&appraisal);
        let mut reasons = if appraisal.accepted { Vec::new() } else { told::reasons(appraisal.reasons()) };
        if proof.hello.node_uid != peer.node_uid || proof.hello.cluster_uid != peer.cluster.0 {
            reasons.truncate(told::REASONS_MAX - 1);
            reasons.insert(0, another_node(peer, &proof.hello.node_uid));
        }
        let evidence = (Some(appraisal.evidence_digest), appraisal.set);
        if appraisal.accepted && reasons.is_empty() {
            return Ok((proof, verdict(peer, reasons, evidence, now)));
        }
        result.get_or_insert(verdict(peer, reasons, evidence, now));
        if !only_launch {
            break;
        }
    }
    Err(Error::Refused(Box::new(result.unwrap_or_default())))
}

fn another_node(peer: &Peer, uid: &str) -> appraise::Mismatch {
    appraise::Mismatch {
        clause: "node.uid".to_owned(),
        expected: Some(peer.node_uid.clone()),
        actual: Some(told::text(uid)),
        message: "another node answers at this node's address".to_owned(),
    }
}

/// A refusal where the node is to blame for having shown nothing.
fn unproven(peer: &Peer, error: session::Error) -> Error {
    let Some(clause) = error.clause() else { return Error::Session(error) };
    let reason = appraise::Mismatch {
        clause: clause.to_owned(),
        expected: None,
        actual: None,
        message: told::text(&chain(&error)),
    };
    Error::Unproven(Box::new(verdict(peer, vec![reason], (None, None), jiff::Timestamp::now())))
}

fn only_launch_register(appraisal: &Appraisal) -> bool {
    let launch = format!("{}{LAUNCH_PCR}", clause::PCR);
    !appraisal.accepted && appraisal.mismatches.iter().all(|mismatch| mismatch.clause == launch)
}

/// What the status says: refused where there are reasons.
fn verdict(
    peer: &Peer,
    reasons: Vec<appraise::Mismatch>,
    (evidence_digest, measurement_set): (Option<String>, Option<String>),
    now: jiff::Timestamp,
) -> AttestationResult {
    let accepted = reasons.is_empty();
    let public = |m: appraise::Mismatch| Mismatch {
        clause: m.clause,
        expected: m.expected,
        actual: m.actual,
        message: m.message,
    };
    AttestationResult {
        verdict: if accepted { "Accepted" } else { "Refused" }.to_owned(),
        platform: peer.cloud.platform().to_owned(),
        measurement_set,
        trust_revision: Some(peer.policy.revision),
        time: Some(now.to_string()),
        evidence_digest,
        refusal_id: (!accepted).then(|| refusal_id(peer, &reasons)),
        mismatches: reasons.into_iter().map(public).collect(),
    }
}

/// The same id while the same clauses don't hold of a node, so that it is told once however often it comes. Made with a
/// secret that only members know: nobody else can try out which clauses an id stands for.
fn refusal_id(peer: &Peer, reasons: &[appraise::Mismatch]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &peer.cluster_id);
    let mut context = hmac::Context::with_key(&key);
    let clauses = reasons.iter().map(|reason| reason.clause.as_str());
    for word in ["constellation.refusal-id.v1", &peer.node_uid].into_iter().chain(clauses) {
        context.update(word.as_bytes());
        context.update(&[0]);
    }
    hex::encode(context.sign().as_ref().get(..ID_BYTES).unwrap_or_default())
}

/// Gives a node its secret after it proved itself, and listens until it is done.
pub async fn give<S: Secret>(peer: &Peer, secret: &S, journal: &Journal) -> Result<Zeroizing<String>, Error> {
    let mut channel = open(peer).await?;
    journal.line("the node answers; it is asked for evidence");
    let (proof, result) = prove(peer, &mut channel, S::PURPOSE).await?;
    journal.attestation(result);
    session::grant(&mut channel, &proof, secret).await?;
    journal.line("the evidence was accepted");
    listen(&mut channel, |line| journal.line(&line)).await
}

/// Listens to a node that works; what it says is cut and cleaned.
pub async fn listen(
    channel: &mut Channel<Box<dyn Stream>>,
    mut line: impl FnMut(String),
) -> Result<Zeroizing<String>, Error> {
    loop {
        match channel.receive_within(SILENCE_LIMIT).await? {
            Progress::Phase { name } => line(told::text(&format!("phase {name}"))),
            Progress::Line { text } => line(told::text(&text)),
            Progress::Done { kubeconfig } => return Ok(Zeroizing::new(kubeconfig)),
            Progress::Failed { message } => return Err(Error::Node(told::text(&message))),
        }
    }
}
