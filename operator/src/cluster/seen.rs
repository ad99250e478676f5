//! What was seen of a cluster: plain values for plan and report.

use constellation_crds::{
    cluster::{AcceptedVersion, DeletionPolicy, OnFailure, RolledBack},
    node::{Phase, Role},
};

/// A Secret that the cluster needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSeen {
    /// It is not there; this is its name.
    Missing(String),
    /// It is there and can't be used; says why.
    Invalid(String),
    /// It is there.
    Present,
}

/// The `NodeVersion` that the cluster names.
#[derive(Clone, Debug, PartialEq)]
pub enum VersionSeen {
    /// There is none of that name.
    Missing(String),
    /// It is refused; says why.
    NotReady(String),
    /// It can't be told at present whether it can be used; says what is waited for.
    Awaited(String),
    /// It has no image for the provider; its name.
    NoImage(String),
    /// It has no set for the platform; its name.
    NoSet(String),
    /// No node can be made of it, or as the spec wants: another version of Kubernetes than the cluster's, a label that no
    /// kubelet takes; says why.
    Impossible(String),
    /// It can be launched.
    Ready(AcceptedVersion),
}

/// A conversation with a control-plane node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// It goes on; the last line.
    Running(String),
    /// Kubernetes is initialised, or the disk is open.
    Done,
    /// The node failed for good, or did not answer in time.
    Failed(String),
    /// The node's evidence was refused.
    Refused(String),
}

/// A `ConfidentialNode`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct NodeSeen {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Group.
    pub group: String,
    /// Role.
    pub role: Role,
    /// Number in the cluster.
    pub index: u32,
    /// Digest of its version.
    pub digest: String,
    /// It was made from what the cluster's spec said of its group then, and says otherwise now.
    pub drifted: bool,
    /// Phase.
    pub phase: Phase,
    /// Its object is being deleted.
    pub deleting: bool,
    /// The user wants it to go first.
    pub delete_first: bool,
    /// Its last evidence was accepted; or refused; or there was none.
    pub accepted: Option<bool>,
    /// Its last evidence was refused, for more than what is being fetched.
    pub disproved: bool,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// When it failed, seconds since 1970.
    pub failed_at: Option<i64>,
    /// The reason, where the cloud, or the host, has no room for its VM or a quota is used up.
    pub short: Option<&'static str>,
    /// The cloud has its VM no longer.
    pub vanished: bool,
    /// Kubernetes knew it once.
    pub was_joined: bool,
    /// It was Ready once.
    pub was_ready: bool,
    /// When it was Ready for the first time.
    pub ready_at: Option<i64>,
    /// How many nodes failed in its place before it.
    pub failures: u32,
    /// The cloud's id of the VM.
    pub provider_id: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// One line for people.
    pub message: String,
}

impl NodeSeen {
    /// Neither failed nor on its way out.
    #[must_use]
    pub fn alive(&self) -> bool {
        !self.deleting && !matches!(self.phase, Phase::Failed | Phase::Terminating)
    }

    /// Whether its VM takes its time to start. One that the cloud has no room for holds nobody up.
    #[must_use]
    pub fn booting(&self) -> bool {
        self.alive() && !self.was_ready && self.short.is_none() && matches!(self.phase, Phase::Pending | Phase::Booting)
    }

    /// Whether it isn't what the cluster's spec asks for now: another version, or other settings of its group.
    #[must_use]
    pub fn outdated(&self, target: &str) -> bool {
        self.digest != target || self.drifted
    }

    /// Whether it is a member whose evidence is refused.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.was_joined && self.disproved
    }

    /// Whether there is nothing against its evidence but what is being fetched.
    #[must_use]
    pub fn lacks(&self) -> bool {
        self.accepted == Some(false) && !self.disproved
    }

    /// Whether no VM was made for it yet.
    #[must_use]
    pub fn unlaunched(&self) -> bool {
        self.alive() && self.phase == Phase::Pending && self.provider_id.is_none()
    }
}

/// A group of the spec, and its `NodeGroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSeen {
    /// Name in the spec.
    pub name: String,
    /// Size that the spec asks for; the least one of an autoscaled group.
    pub wanted: u32,
    /// The spec's size as it is remembered on the `NodeGroup`.
    pub spec: String,
    /// The one that is remembered.
    pub remembered: Option<String>,
    /// Size in the `NodeGroup`.
    pub current: Option<u32>,
    /// Least size.
    pub min: u32,
    /// Greatest size.
    pub max: u32,
    /// Others set its size between the two.
    pub autoscaled: bool,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Observed {
    /// Name of the cluster.
    pub name: String,
    /// Seconds since 1970, by the operator's clock.
    pub now: i64,
    /// When it was made, seconds since 1970, by the API server's clock.
    pub created: i64,
    /// It is being deleted.
    pub deleting: bool,
    /// What happens to the VMs then.
    pub deletion_policy: DeletionPolicy,
    /// Our finalizer is on it.
    pub finalizer: bool,
    /// The user paused it.
    pub paused: bool,
    /// Nothing but records stands behind its machines.
    pub simulated: bool,
    /// Why the operator may not use its provider.
    pub provider_refused: Option<String>,
    /// The owner key.
    pub owner_key: SecretSeen,
    /// There was an owner key before.
    pub owner_key_known: bool,
    /// The master secret.
    pub master_secret: SecretSeen,
    /// Another key, or a newer version of its key, shall wrap it.
    pub master_secret_stale: bool,
    /// The spec names it.
    pub master_secret_named: bool,
    /// There was a master secret before.
    pub cluster_id_known: bool,
    /// Network and endpoint exist.
    pub network: bool,
    /// The version that is wanted.
    pub version: VersionSeen,
    /// Versions that are accepted.
    pub accepted: Vec<AcceptedVersion>,
    /// Digest of the version that all nodes were of last.
    pub current: Option<String>,
    /// Nodes go back to the version before when one of the wanted version doesn't prove itself.
    pub auto_rollback: bool,
    /// The version that was given up.
    pub rolled_back: Option<RolledBack>,
    /// Kubernetes was initialised.
    pub initialized: bool,
    /// The Secret with its kubeconfig, where that is gone.
    pub kubeconfig_lost: Option<String>,
    /// Its API server answers.
    pub reachable: bool,
    /// What it says to us, where it answers and doesn't let us in.
    pub turned_away: Option<String>,
    /// For longer than one that starts does.
    pub shut_out: bool,
    /// For how long it hasn't answered.
    pub unreachable_seconds: i64,
    /// Our kinds and rights are in it.
    pub installed: bool,
    /// The trust bundle in it says what is accepted.
    pub trust_current: bool,
    /// Greatest number that a node may have: the pod network has a slice for each, and so have the nodes' networks.
    pub max_index: u32,
    /// Wanted number of control-plane nodes.
    pub control_plane_replicas: u32,
    /// What follows when a member is refused.
    pub on_failure: OnFailure,
    /// How many VMs of the cluster may boot at a time.
    pub most_booting: usize,
    /// How many nodes more than asked for there may be during a roll.
    pub max_surge: u32,
    /// Groups of the spec.
    pub groups: Vec<GroupSeen>,
    /// Groups that the spec no longer has, and whose `NodeGroup` we made.
    pub stale_groups: Vec<String>,
    /// Nodes.
    pub nodes: Vec<NodeSeen>,
    /// Conversations, by UID of the node.
    pub talks: Vec<(String, Init)>,
    /// The endpoint's targets, as far as known.
    pub targets: Option<Vec<String>>,
}

impl Observed {
    /// The control-plane nodes.
    pub fn control_plane(&self) -> impl Iterator<Item = &NodeSeen> {
        self.nodes.iter().filter(|node| node.role == Role::ControlPlane)
    }

    /// The conversation with a node.
    #[must_use]
    pub fn init_of(&self, uid: &str) -> Option<&Init> {
        self.talks.iter().find(|(of, _)| of == uid).map(|(_, talk)| talk)
    }

    /// Number of nodes that are asked for.
    #[must_use]
    pub fn desired(&self) -> u32 {
        self.control_plane_replicas + self.groups.iter().map(|group| group.current.unwrap_or(group.wanted)).sum::<u32>()
    }

    /// The version that nodes are made of: the wanted one, or the one before it where that was given up.
    #[must_use]
    pub fn goal(&self) -> Option<&AcceptedVersion> {
        let VersionSeen::Ready(wanted) = &self.version else { return None };
        let instead = self.rolled_back.as_ref().filter(|given_up| given_up.from == wanted.digest);
        instead.and_then(|instead| self.accepted.iter().find(|known| known.digest == instead.to)).or(Some(wanted))
    }

    /// Its digest.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.goal().map(|version| version.digest.as_str())
    }

    /// Whether a node is of the version that was given up.
    #[must_use]
    pub fn has_given_up(&self, node: &NodeSeen) -> bool {
        self.rolled_back.as_ref().is_some_and(|given_up| given_up.from == node.digest)
    }

    /// Whether a node isn't what is wanted now; no node is outdated while nobody knows which version that is.
    #[must_use]
    pub fn is_outdated(&self, node: &NodeSeen) -> bool {
        self.target().is_some_and(|target| node.outdated(target))
    }
}
