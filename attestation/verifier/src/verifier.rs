//! Examining a node and settling its case: the steps that joins and re-attestations share.
//!
//! [`Verifier::examine`] looks whether the trust bundle is the owner's, challenges and appraises. [`Verifier::settle`]
//! decides and records, by compare-and-swap: whoever loses the race decides again from what is there now. What was
//! promised to the node leaves only after the record is written, so a crash in between costs the node nothing but
//! another try.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

pub use constellation_attestation::told::chain;
use constellation_attestation::{
    appraise::{Appraisal, Presented, appraise, pcr15_after_join, pcr15_from_digest},
    binding::VerifierRole,
    channel::{self, Channel},
    endorsers::Endorsers,
    platform::Platform,
    policy::TrustPolicy,
    protocol::{Hello, LaunchConfig, Purpose, Ticket},
    session::{self, Proof},
};
use constellation_crds::{NodeAdmission, NodeAdmissionSpec, TrustBundleSpec, node::Mismatch, trust::Admission};
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};

use crate::{
    admit::{self, Decision, Door, Seen, reason},
    home::{self, Home},
    join::KubeletConfig,
    metrics::Metrics,
    record::{self, Quiet},
    refusals::{Ledger, Name},
    renewal,
    silence::Silence,
    store::{self, Store},
    ticket,
    trust::{self, Trust},
    turns::Turns,
    watched::{Bundle, Version},
};

/// Each loss of the race means that somebody else's write succeeded; more than this on one node isn't honest work.
const ATTEMPTS: usize = 5;
const ID_BYTES: usize = 8;
/// Joins that are past their Hello. Each may hold a message of a mebibyte and costs a few signatures; 32 at once are
/// more than a control plane on two cores can take, and twice as many would let strangers take 64 MiB. The others
/// wait, within the limit of their conversation.
pub const ABREAST: usize = 32;

/// Why a conversation ended without a verdict. The node may try again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The channel couldn't be opened or failed.
    #[error("the channel to the node failed")]
    Channel(#[from] channel::Error),
    /// Others kept writing the node's admission.
    #[error("the node's admission kept changing")]
    Contended,
    /// The node's admission was deleted meanwhile.
    #[error("the node's admission was deleted meanwhile")]
    Gone,
    /// Our own files can't be used.
    #[error("our own files can't be used")]
    Home(#[from] home::Error),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// The conversation failed.
    #[error("the conversation with the node failed")]
    Session(#[from] session::Error),
    /// There were too many callers, or too many in the node's name.
    #[error("the conversation made room for another caller")]
    Displaced,
    /// The API gave nothing.
    #[error("the Kubernetes API gave no answer")]
    Store(#[from] store::Error),
    /// No ticket can be made.
    #[error("making the ticket failed")]
    Ticket(#[source] ticket::Error),
    /// Our own memory of the trust bundle failed.
    #[error("remembering the trust bundle failed")]
    Trust(#[source] trust::Error),
}

/// One verifier: what it knows, whom it believes, what it writes to.
pub struct Verifier<A> {
    /// Secrets and files.
    pub home: Home,
    /// The owner's bundles.
    pub trust: Trust,
    /// The Kubernetes API.
    pub store: A,
    /// The platform that nodes must be on: our choice, never the evidence's.
    pub platform: Platform,
    /// Counters.
    pub metrics: Metrics,
    /// Places for joins that are past their Hello.
    pub places: Semaphore,
    /// Who holds them.
    pub turns: Turns,
    /// Refusals that say nothing about a node, on their way to the owner.
    pub ledger: Ledger,
    /// Members that give no evidence when they are asked.
    pub silence: Silence,
    /// What each ticket says to a kubelet.
    pub kubelet_config: KubeletConfig,
    quiet: Quiet,
}

/// How an examination went.
pub enum Examined {
    /// The evidence was appraised, well or badly; [`Verifier::settle`] decides.
    Appraised(Box<Case>),
    /// Refused under this id because the trust bundle isn't believed: nobody's fault who was asked.
    Distrusted(String),
    /// Refused before any evidence, under this id.
    Refused(String),
}

/// Appraised evidence and what it was appraised against.
pub struct Case {
    /// What the node showed.
    pub proof: Proof,
    /// What it is worth.
    pub appraisal: Appraisal,
    /// The launch configuration's digest that PCR 15 had to follow from.
    pub launch: [u8; 32],
    /// Revision of the trust policy.
    pub revision: u64,
    /// How the machine came here.
    pub door: Door,
}

/// What leaves once a case is recorded.
pub trait Promise: Send {
    /// The certificate (PEM) with which the node's kubelet is known from then on, if there is one that it has to renew.
    fn kubelet_certificate(&self) -> Option<&str>;
}

impl Promise for () {
    fn kubelet_certificate(&self) -> Option<&str> {
        None
    }
}

impl Promise for Ticket {
    /// A control-plane node holds the cluster's CA key: which certificate its kubelet has says nothing, and after a recovery it
    /// is one of its own making.
    fn kubelet_certificate(&self) -> Option<&str> {
        self.control_plane.is_none().then_some(&self.kubelet_certificate)
    }
}

/// The end of a case.
pub enum Settled<T> {
    /// Recorded; this may leave now.
    Granted(T),
    /// Refused under this id.
    Refused(String),
}

impl<A: Store> Verifier<A> {
    /// Puts the parts together.
    pub fn new(home: Home, trust: Trust, store: A, platform: Platform) -> Self {
        Self {
            home,
            trust,
            store,
            platform,
            metrics: Metrics::default(),
            places: Semaphore::new(ABREAST),
            turns: Turns::default(),
            ledger: Ledger::default(),
            silence: Silence::default(),
            kubelet_config: KubeletConfig::default(),
            quiet: Quiet::default(),
        }
    }

    /// Challenges the node that sent `hello` and appraises its evidence against the bundle that was read for this, or against
    /// the one that is there now.
    pub async fn examine<S>(
        &self,
        channel: &mut Channel<S>,
        hello: Hello,
        node: &NodeAdmission,
        bundle: Bundle,
        door: Door,
    ) -> Result<Examined, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let uid = &node.spec.node_uid;
        let mut policy = match self.believe(uid, &bundle.spec)? {
            Ok(policy) => policy,
            Err(id) => return Ok(Examined::Distrusted(id)),
        };
        let launch = admit::launch_digest(&node.spec, &self.home.launch);
        let before = pcr15_from_digest(&launch);
        let expected = match door {
            Door::Join => before,
            Door::Member | Door::Own => pcr15_after_join(&before, &self.home.cluster_id),
        };
        // The one takes a while at the node, the other at the API server.
        let (proof, now) = tokio::join!(
            session::challenge(channel, hello, VerifierRole::Cluster, policy.revision, self.platform),
            self.newer(bundle.unconfirmed.as_ref())
        );
        let proof = match proof {
            Ok(proof) => proof,
            Err(error) => {
                let Some(reason) = unproven(&error, door) else { return Err(error.into()) };
                return self.refuse_unproven(uid, reason).map(Examined::Refused);
            }
        };
        let mut spec = bundle.spec;
        if let Some(now) = now? {
            spec = now;
            policy = match self.believe(uid, &spec)? {
                Ok(policy) => policy,
                Err(id) => return Ok(Examined::Distrusted(id)),
            };
        }
        let presented = Presented {
            hello: &proof.hello,
            evidence: &proof.evidence,
            binding: &proof.binding,
            credential_secret: &proof.credential_secret,
            platform: self.platform,
            expected_pcr15: &expected,
        };
        let appraisal = appraise(&presented, &policy, &endorsers(&spec.collateral), Timestamp::now());
        Ok(Examined::Appraised(Box::new(Case { proof, appraisal, launch, revision: policy.revision, door })))
    }

    /// What the owner trusts by this bundle; or the id of the refusal where it isn't believed.
    fn believe(&self, uid: &str, bundle: &TrustBundleSpec) -> Result<Result<Arc<TrustPolicy>, String>, Error> {
        match self.trust.accept(&bundle.envelope) {
            Ok(policy) => Ok(Ok(policy)),
            Err(error) => {
                let Some(reason) = error.reason() else { return Err(Error::Trust(error)) };
                self.refuse_unproven(uid, reason).map(Err)
            }
        }
    }

    /// The bundle that is there now, if it isn't of this version.
    async fn newer(&self, unconfirmed: Option<&Version>) -> Result<Option<TrustBundleSpec>, Error> {
        match unconfirmed {
            Some(version) if !self.store.is_current(version).await? => Ok(Some(self.store.bundle().await?)),
            _ => Ok(None),
        }
    }

    /// Decides and records. What `prepare` makes may leave when this returns it, and not before.
    pub async fn settle<T, P>(&self, mut node: NodeAdmission, case: &Case, prepare: P) -> Result<Settled<T>, Error>
    where
        T: Promise,
        P: Fn(&NodeAdmissionSpec) -> Result<T, ticket::Error> + Send + Sync,
    {
        let uid = node.spec.node_uid.clone();
        // A refusal is one, however often others write while it is recorded.
        let mut may_refuse = None;
        for _ in 0..ATTEMPTS {
            let now = Timestamp::now();
            let (admission, prepared) = match self.decide(&node, case, &prepare, now)? {
                Ok(granted) => granted,
                Err(reasons) => {
                    // What stood against it may be gone: nobody is refused for what a watch told too late.
                    if let Some(now) = self.changed(&node).await? {
                        node = now;
                        continue;
                    }
                    if let Some(id) = self.refuse_case(&node, reasons, case, &mut may_refuse).await? {
                        return Ok(Settled::Refused(id));
                    }
                    node = self.store.node(&uid).await?.ok_or(Error::Gone)?;
                    continue;
                }
            };
            let result = record::accepted(&case.appraisal, self.platform, case.revision, now);
            let Some(status) = record::next(node.status.as_ref(), Some(admission), result) else {
                // No write will show whether somebody wrote meanwhile, such as an eviction.
                match self.changed(&node).await? {
                    Some(now) => node = now,
                    None => return Ok(Settled::Granted(prepared)),
                }
                continue;
            };
            node.status = Some(status);
            match self.store.record(&node).await {
                Ok(()) => return Ok(Settled::Granted(prepared)),
                Err(store::Error::Conflict) => node = self.store.node(&uid).await?.ok_or(Error::Gone)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended)
    }

    /// A node's admission as it is now, if it isn't this one.
    async fn changed(&self, node: &NodeAdmission) -> Result<Option<NodeAdmission>, Error> {
        let now = self.store.node(&node.spec.node_uid).await?.ok_or(Error::Gone)?;
        Ok((now.metadata.resource_version != node.metadata.resource_version).then_some(now))
    }

    /// What would be recorded, with what was prepared for the node; or why it is refused.
    fn decide<T: Promise>(
        &self,
        node: &NodeAdmission,
        case: &Case,
        prepare: impl Fn(&NodeAdmissionSpec) -> Result<T, ticket::Error>,
        now: Timestamp,
    ) -> Result<Result<(Admission, T), Vec<Mismatch>>, Error> {
        let seen = Seen {
            spec: &node.spec,
            status: node.status.as_ref(),
            hello: &case.proof.hello,
            appraisal: &case.appraisal,
            appraised_launch: &case.launch,
            ours: &self.home.launch,
            revision: case.revision,
            door: case.door,
            now,
        };
        let mut admission = match admit::admit(&seen) {
            Decision::Admit(admission) | Decision::Returning(admission) => admission,
            Decision::Refuse(reasons) => return Ok(Err(reasons)),
        };
        match prepare(&node.spec) {
            Ok(prepared) => {
                if let Some(certificate) = prepared.kubelet_certificate() {
                    let digest = renewal::fingerprint(certificate.as_bytes());
                    let digest = digest.ok_or(Error::Ticket(ticket::Error::Certificate))?;
                    let recorded = node.status.as_ref().and_then(|status| status.admission.as_ref());
                    admission.kubelet_certificate = Some(renewal::joined(recorded, &admission, digest));
                }
                Ok(Ok((admission, prepared)))
            }
            Err(error @ (ticket::Error::Name(_) | ticket::Error::Request(_) | ticket::Error::Settings(_))) => {
                Ok(Err(vec![reason("ticket", None, None, &chain(&error))]))
            }
            Err(error) => Err(Error::Ticket(error)),
        }
    }

    /// Refuses somebody who names no node of ours: the cluster is told.
    pub fn refuse_stranger(&self, uid: &str, reason: Mismatch) -> Result<String, Error> {
        let uid: String = uid.chars().take(64).collect();
        let clause = reason.clause.clone();
        let result = record::refused(vec![reason], None, self.platform, None, &fresh_id()?, Timestamp::now());
        let id = self.ledger.note(Name::Nobody, result, Instant::now());
        tracing::warn!(refusal = id, node_uid = ?uid, clause, "Refused a stranger");
        Ok(id)
    }

    /// Refuses somebody who named a node of ours before any evidence could be appraised: that says nothing about the
    /// node, and is counted beside its last appraisal.
    pub fn refuse_unproven(&self, uid: &str, reason: Mismatch) -> Result<String, Error> {
        let clause = reason.clause.clone();
        let result = record::refused(vec![reason], None, self.platform, None, &fresh_id()?, Timestamp::now());
        let id = self.ledger.note(Name::Node(uid.to_owned()), result, Instant::now());
        tracing::warn!(refusal = id, node_uid = uid, clause, "Refused a node without evidence");
        Ok(id)
    }

    /// Tells the owner that a join failed because of us, where it did. No peer can bring that about, but for saying that our
    /// certificate, which is new, is out of its time: then either clock is wrong.
    pub fn own_fault(&self, error: &Error) {
        let clause = match error {
            Error::Home(_) => "verifier.files",
            Error::Channel(error) if error.is_out_of_time() => "verifier.clock",
            Error::Ticket(_) => "verifier.ticket",
            Error::Trust(_) | Error::Store(store::Error::Missing(store::TRUST)) => "verifier.trust",
            // An API server that is away can't be told anything either; one that refuses can.
            Error::Store(error) if error.is_refusal() => "verifier.api",
            _ => return,
        };
        let Ok(id) = fresh_id() else { return };
        let message = match clause {
            "verifier.clock" => {
                "a caller finds our certificate, which is new, out of its time: our clock is wrong, or the caller's"
                    .into()
            }
            _ => chain(error),
        };
        let reasons = vec![reason(clause, None, None, &message)];
        let result = record::refused(reasons, None, self.platform, None, &id, Timestamp::now());
        self.ledger.note(Name::Nobody, result, Instant::now());
    }

    /// Refuses what a node has shown; the reasons go into its status, unless they are there already or that would be
    /// too often, which `may` remembers. Gives no id where somebody else wrote first: what is there now decides anew, or
    /// a member that is no longer trusted would only have to have itself written of at the right moment.
    async fn refuse_case(
        &self,
        node: &NodeAdmission,
        reasons: Vec<Mismatch>,
        case: &Case,
        may: &mut Option<bool>,
    ) -> Result<Option<String>, Error> {
        let uid = &node.spec.node_uid;
        let id = fresh_id()?;
        let digest = Some(case.appraisal.evidence_digest.clone());
        let last = node.status.as_ref().and_then(|status| status.last_appraisal.as_ref());
        // The recorded revision never goes back: it is the least that the node may be appraised against.
        let revision = last.and_then(|last| last.trust_revision).max(Some(case.revision));
        let result = record::refused(reasons, digest, self.platform, revision, &id, Timestamp::now());
        if let Some(known) = last.filter(|last| record::same(last, &result)).and_then(|last| last.refusal_id.clone()) {
            tracing::info!(refusal = known, node_uid = uid, "Refused a node for the recorded reasons");
            return Ok(Some(known));
        }
        let clauses: Vec<String> = result.mismatches.iter().map(|reason| reason.clause.clone()).collect();
        // That we are behind others says something about us.
        let behind = clauses.iter().all(|clause| clause == admit::OLD_REVISION);
        let own = !behind && record::attributable(node.status.as_ref(), case.door, &case.appraisal);
        // What our own node says while it becomes a member is no attempt of anybody.
        if !own && case.door != Door::Own {
            let id = self.ledger.note(Name::Node(uid.clone()), result, Instant::now());
            tracing::warn!(refusal = id, node_uid = uid, ?clauses, "Refused somebody in the name of a member");
            return Ok(Some(id));
        }
        tracing::warn!(refusal = id, node_uid = uid, ?clauses, "Refused a node");
        if !own {
            return Ok(Some(id));
        }
        let count = |result| Some(self.ledger.note(Name::Node(uid.clone()), result, Instant::now()));
        if !*may.get_or_insert_with(|| self.quiet.allows(uid, Instant::now())) {
            return Ok(count(result));
        }
        let Some(status) = record::next(node.status.as_ref(), None, result.clone()) else { return Ok(Some(id)) };
        match self.store.record(&NodeAdmission { status: Some(status), ..node.clone() }).await {
            Ok(()) => Ok(Some(id)),
            Err(store::Error::Conflict) => Ok(None),
            Err(error) => {
                tracing::warn!(refusal = id, error = %chain(&error), "Recording a refusal failed; it is counted");
                Ok(count(result))
            }
        }
    }
}

/// Whom we believe, with what the trust bundle has of their words. What can't be read is as good as absent: it refuses
/// nodes, and admits none.
fn endorsers(texts: &BTreeMap<String, String>) -> Endorsers {
    let (endorsers, errors) = Endorsers::read(texts);
    for error in errors {
        tracing::warn!(%error, "A part of the collateral can't be used");
    }
    endorsers
}

/// What is wrong with a peer that gave nothing to appraise; nothing where it is no fault of its own: a connection that
/// broke, or a member that we asked and that is slow.
#[must_use]
pub fn unproven(error: &session::Error, door: Door) -> Option<Mismatch> {
    let slow = matches!(error, session::Error::Channel(channel::Error::Timeout(_)));
    let clause = error.clause().filter(|_| !slow || door == Door::Join)?;
    Some(reason(clause, None, None, &chain(error)))
}

/// What of a Hello can be checked without asking anybody.
pub fn introduction(hello: &Hello, ours: &LaunchConfig, purpose: Purpose) -> Result<(), Mismatch> {
    let refused = |clause, actual: &str, message| Err(reason(clause, None, Some(actual), message));
    if hello.purpose != purpose {
        return refused("hello.purpose", hello.purpose.as_str(), "the conversation is for another purpose");
    }
    if !admit::is_uid(&hello.node_uid) {
        return refused("hello.node", "", "the node's uid isn't a uid");
    }
    if hello.cluster_uid != ours.cluster_uid {
        return refused("hello.cluster", "", "the node is of another cluster");
    }
    if hello.address.parse::<std::net::IpAddr>().is_err() {
        return refused("hello.address", "", "the node's address isn't an IP address");
    }
    Ok(())
}

/// An id for a refusal.
pub(crate) fn fresh_id() -> Result<String, Error> {
    let mut bytes = [0; ID_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests;
