//! What was seen of one node: plain values for plan and report.

use constellation_crds::{
    ConfidentialNode, ConfidentialNodeStatus,
    cluster::OnFailure,
    node::{AttestationResult, Refusals, Role},
};
use jiff::Timestamp;

use crate::{
    cloud::{Instance, InstanceState},
    collateral::plan::lacking,
    events,
};

/// The other control-plane nodes of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Those that stay and were Ready once: each is a member of etcd, also while its kubelet is away.
    pub members: u32,
    /// How many of these are Ready now.
    pub ready: u32,
    /// Members that are being deleted as well.
    pub leaving: u32,
}

/// The cluster that the node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct ClusterSeen {
    /// It is being deleted.
    pub deleting: bool,
    /// Its VMs stay when it is deleted.
    pub orphan: bool,
    /// The user paused it.
    pub paused: bool,
    /// Its network and endpoint exist, and its owner key.
    pub infrastructure: bool,
    /// Its API server can be asked.
    pub initialized: bool,
    /// Its other control-plane nodes; looked at for one that is to go.
    pub others: Others,
    /// Seconds that pods get to leave.
    pub drain_seconds: i64,
    /// Seconds from launch to Ready.
    pub node_seconds: i64,
    /// What follows when a member is refused.
    pub on_failure: OnFailure,
}

/// The node's admission in the cluster that was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmissionSeen {
    /// It was admitted.
    pub admitted: bool,
    /// It is marked as on its way out.
    pub evicted: bool,
    /// The last appraisal.
    pub appraisal: Option<AttestationResult>,
    /// Refusals in its name that say nothing about it.
    pub refusals: Option<Refusals>,
}

/// The Kubernetes node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct KubeSeen {
    /// Kubernetes says that it is Ready.
    pub ready: bool,
    /// It takes no new pods, and it was us who said so.
    pub cordoned: bool,
    /// It has our label.
    pub labelled: bool,
    /// It has our taint for members that are refused.
    pub unattested: bool,
    /// Pods that have to leave before it goes.
    pub pods: u32,
}

/// The owner's conversation with the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TalkSeen {
    /// Result of the appraisal.
    pub attestation: Option<AttestationResult>,
    /// Refusals of whoever answered, that say nothing about the node.
    pub refusals: Option<Refusals>,
    /// The last lines.
    pub progress: Vec<String>,
    /// Why it failed for good.
    pub failed: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The object.
    pub node: ConfidentialNode,
    /// Its cluster; absent: gone.
    pub cluster: Option<ClusterSeen>,
    /// Its VM.
    pub instance: Option<Instance>,
    /// Its admission; absent: there is none, or it can't be asked.
    pub admission: Option<AdmissionSeen>,
    /// The Kubernetes node.
    pub kube: Option<KubeSeen>,
    /// The owner's conversation with it.
    pub talk: Option<TalkSeen>,
    /// SHA-256 of its launch configuration, hex.
    pub launch_digest: Option<String>,
    /// When.
    pub now: Timestamp,
}

impl Observed {
    /// What was told last.
    #[must_use]
    pub fn before(&self) -> ConfidentialNodeStatus {
        self.node.status.clone().unwrap_or_default()
    }

    /// Whether the object is being deleted.
    #[must_use]
    pub fn deleting(&self) -> bool {
        self.node.metadata.deletion_timestamp.is_some()
    }

    /// Seconds since a phase was reached for the first time; nothing if it never was.
    #[must_use]
    pub fn since(&self, phase: &str) -> Option<i64> {
        let status = self.node.status.as_ref()?;
        let at: Timestamp = status.phase_times.get(phase)?.parse().ok()?;
        Some(self.now.as_second() - at.as_second())
    }

    /// Whether its VM was launched and is no more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.instance
            .as_ref()
            .map_or_else(|| self.since("Launched").is_some(), |instance| instance.state == InstanceState::Failed)
    }

    /// Whether the node runs the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.node.spec.role == Role::ControlPlane
    }

    /// Why it doesn't leave yet though its object is being deleted, for people. With the last member of its control plane
    /// a cluster would end that nobody wanted to end.
    #[must_use]
    pub fn stays(&self) -> Option<&'static str> {
        let cluster = self.cluster.filter(|cluster| self.deleting() && !cluster.deleting)?;
        if cluster.paused {
            return Some("it is to go, and stays as long as it or its cluster is paused");
        }
        self.is_last(&cluster.others).then_some(
            "it is to go, and stays until another control-plane node is Ready, for etcd would end with it: the cluster \
             makes one in its place; to end everything delete the cluster",
        )
    }

    /// Whether no other control-plane node goes on with what this one's etcd holds. One that never was Ready isn't needed
    /// where another one was, even if that is to go as well.
    fn is_last(&self, others: &Others) -> bool {
        let runs = self.instance.as_ref().is_some_and(|instance| instance.state == InstanceState::Running);
        let holds = self.since("Ready").is_some() || (self.has_joined() && others.leaving == 0);
        self.is_control_plane() && runs && holds && others.members == 0 && self.since("Left").is_none()
    }

    /// The last appraisal, by verifier or owner; what was told before counts while neither can be asked.
    #[must_use]
    pub fn attestation(&self) -> Option<AttestationResult> {
        let verifier = self.admission.as_ref().and_then(|admission| admission.appraisal.clone());
        let owner = self.talk.as_ref().and_then(|talk| talk.attestation.clone());
        verifier.or(owner).or_else(|| self.before().attestation)
    }

    /// Whether Kubernetes knows it, or did.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.kube.is_some() || self.since("Joined").is_some()
    }

    /// Why the verifiers refuse this member. Only what they say now counts: nothing is done to a node for what its owner
    /// or an older look says of it. Nor for what is only wanting, which is being fetched.
    #[must_use]
    pub fn refused_member(&self) -> Option<&AttestationResult> {
        let last = self.admission.as_ref()?.appraisal.as_ref()?;
        (self.has_joined() && last.verdict == "Refused" && lacking(last).is_empty()).then_some(last)
    }

    /// Refusals in the node's name that say nothing about it; what was told before counts while nobody can be asked.
    #[must_use]
    pub fn refusals(&self) -> Option<Refusals> {
        let before = self.before().refusals;
        let verifier = self.admission.as_ref().and_then(|admission| admission.refusals.clone());
        let owner = self.talk.as_ref().and_then(|talk| talk.refusals.clone());
        // A verifier tells its number seldom. The owner's is told when the reason changes, and each time that it has
        // doubled, so that whoever answers with nonsense can't make the status change each time.
        let is_news = |now: &Refusals| {
            let same = before.as_ref().filter(|before| before.last.refusal_id == now.last.refusal_id);
            same.is_none_or(|before| now.count / 2 >= before.count)
        };
        verifier.or_else(|| owner.filter(is_news)).or(before)
    }

    /// What is said of a node that waits: perhaps it was the one that was refused.
    #[must_use]
    pub fn last_refusal(&self) -> String {
        self.refusals().map_or_else(String::new, |refusals| format!("; last refused{}", events::first(&refusals.last)))
    }

    /// Why the node can't become, or is no longer, a node of its cluster.
    #[must_use]
    pub fn failure(&self) -> Option<(&'static str, String)> {
        use constellation_crds::condition::reason;
        let launched = self.since("Launched").is_some();
        if let Some(why) = self.talk.as_ref().and_then(|talk| talk.failed.clone()) {
            return Some((reason::INSTANCE_FAILED, why));
        }
        // A member isn't ended for it: the cluster's plan replaces it, if that is wanted, once another is Ready.
        let refused = self.attestation().filter(|result| result.verdict == "Refused" && !self.has_joined());
        // What is only wanting is being fetched, and the node asks again until its time is up.
        if let Some(result) = refused.filter(|result| lacking(result).is_empty()) {
            return Some((reason::ATTESTATION_REFUSED, format!("its evidence was refused{}", events::first(&result))));
        }
        match &self.instance {
            // A listing may lack a machine for a moment; a kubelet that still reports knows better.
            None if launched && !self.kube.is_some_and(|kube| kube.ready) => {
                return Some((reason::INSTANCE_VANISHED, "the VM is gone without our doing".into()));
            }
            Some(instance) if instance.state == InstanceState::Failed => {
                let why = instance.message.clone().unwrap_or_else(|| "the VM ended".into());
                return Some((reason::INSTANCE_FAILED, why));
            }
            _ => {}
        }
        let limit = self.cluster.map_or(i64::MAX, |cluster| cluster.node_seconds);
        let silent = self.attestation().is_none() && self.talk.is_none() && self.kube.is_none();
        if silent && self.since("Launched").is_some_and(|seconds| seconds > limit / 2) {
            // Evidence comes before joining, which takes as long again: one that is silent by now comes too late.
            let message = format!("it showed no evidence {} s after its launch{}", limit / 2, self.last_refusal());
            return Some((reason::NODE_TIMED_OUT, message));
        }
        let late = self.since("Launched").is_some_and(|seconds| seconds > limit);
        let ready = self.since("Ready").is_some() || self.kube.is_some_and(|kube| kube.ready);
        (late && !ready).then(|| {
            let message = format!("it wasn't Ready {limit} s after its launch{}", self.last_refusal());
            (reason::NODE_TIMED_OUT, message)
        })
    }
}
