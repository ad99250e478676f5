//! Conditions: their types, their reasons, and the one way to set them.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does not hold.
    False,
    /// It holds.
    True,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// The word that the Kubernetes API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::False => "False",
            Self::True => "True",
            Self::Unknown => "Unknown",
        }
    }
}

/// Sets condition `kind` in `list`: keeps the transition time while the status stays the same, keeps the list sorted by type.
pub fn set(
    list: &mut Vec<Condition>,
    kind: &str,
    status: Status,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: jiff::Timestamp,
) {
    let status = status.as_str();
    let since = list
        .iter()
        .find(|c| c.type_ == kind && c.status == status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    list.retain(|c| c.type_ != kind);
    list.push(Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    });
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// Removes condition `kind`; for the abnormal-true ones that are present only while true.
pub fn clear(list: &mut Vec<Condition>, kind: &str) {
    list.retain(|c| c.type_ != kind);
}

/// Condition `kind`, where it is present.
#[must_use]
pub fn find<'a>(list: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    list.iter().find(|c| c.type_ == kind)
}

/// Whether condition `kind` is present and true.
#[must_use]
pub fn is_true(list: &[Condition], kind: &str) -> bool {
    find(list, kind).is_some_and(|c| c.status == "True")
}

/// Types of conditions: a closed list. `RECONCILING` and `STALLED` are abnormal-true: present only while true.
pub mod kind {
    /// All kinds: the object is what its spec asks for, wholly and now.
    pub const READY: &str = "Ready";
    /// All kinds: work is going on; the message says which. Present only while true.
    pub const RECONCILING: &str = "Reconciling";
    /// All kinds: no progress without somebody's help; the message says whose. Present only while true.
    pub const STALLED: &str = "Stalled";

    /// Cluster: the API server answers and a control-plane node is Ready; it may still be converging.
    pub const AVAILABLE: &str = "Available";
    /// Cluster: network and endpoint exist.
    pub const INFRASTRUCTURE_READY: &str = "InfrastructureReady";
    /// Cluster: the first control-plane node initialised Kubernetes. Never goes back.
    pub const CONTROL_PLANE_INITIALIZED: &str = "ControlPlaneInitialized";
    /// Cluster: the last evidence of every node was accepted.
    pub const ATTESTATION_VERIFIED: &str = "AttestationVerified";
    /// Cluster: something that makers of processors or clouds have to have said is missing or will soon be too old, and
    /// can't be fetched; the message says why and what to do. Present only while true.
    pub const COLLATERAL_UNAVAILABLE: &str = "CollateralUnavailable";
    /// Cluster: etcd has a quorum. Also with members that are down, of which reason and message tell; False when so many are
    /// gone for good that it can't have one again; Unknown while the API server doesn't answer.
    pub const ETCD_HEALTHY: &str = "EtcdHealthy";
    /// Cluster: every node runs the wanted node version.
    pub const NODES_UP_TO_DATE: &str = "NodesUpToDate";
    /// Cluster: reconciling is paused by the user.
    pub const PAUSED: &str = "Paused";
    /// Cluster: a node failed and is being replaced, or the API server doesn't answer, or no control-plane node is Ready; the
    /// reason says which. Present only while true.
    pub const DEGRADED: &str = "Degraded";
    /// Cluster: it is being deleted and something outside stands in the way.
    pub const DELETION_BLOCKED: &str = "DeletionBlocked";

    /// Version: the publisher's signature of the manifest holds, or the sets are inline.
    pub const SIGNATURE_VERIFIED: &str = "SignatureVerified";

    /// Group: nodes are being added.
    pub const SCALING_UP: &str = "ScalingUp";
    /// Group: nodes are being removed.
    pub const SCALING_DOWN: &str = "ScalingDown";

    /// Node: the cloud has its VM.
    pub const LAUNCHED: &str = "Launched";
    /// Node: the VM was heard from.
    pub const BOOTED: &str = "Booted";
    /// Node: its last evidence was accepted.
    pub const ATTESTED: &str = "Attested";
    /// Node: Kubernetes knows it.
    pub const JOINED: &str = "Joined";
    /// Node: its pods are leaving, or have left.
    pub const DRAINING: &str = "Draining";

    /// Every type.
    pub const ALL: &[&str] = &[
        ATTESTATION_VERIFIED,
        ATTESTED,
        AVAILABLE,
        BOOTED,
        COLLATERAL_UNAVAILABLE,
        CONTROL_PLANE_INITIALIZED,
        DEGRADED,
        DELETION_BLOCKED,
        DRAINING,
        ETCD_HEALTHY,
        INFRASTRUCTURE_READY,
        JOINED,
        LAUNCHED,
        NODES_UP_TO_DATE,
        PAUSED,
        READY,
        RECONCILING,
        SCALING_DOWN,
        SCALING_UP,
        SIGNATURE_VERIFIED,
        STALLED,
    ];
}

/// Reasons of conditions and Events: a closed list. Each says, with its condition's message, why.
pub mod reason {
    /// The first look at the object has not ended.
    pub const NOT_YET_RECONCILED: &str = "NotYetReconciled";
    /// Everything is as the spec asks.
    pub const RECONCILED: &str = "Reconciled";
    /// Work is going on; the message says which step.
    pub const IN_PROGRESS: &str = "InProgress";
    /// It can't be told at present.
    pub const UNKNOWN: &str = "Unknown";
    /// The user paused it: `spec.paused` or the annotation `constellation.dev/paused`.
    pub const PAUSED: &str = "Paused";
    /// It is not paused.
    pub const NOT_PAUSED: &str = "NotPaused";
    /// The spec can't be carried out; the message says what to change.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// There is no `NodeVersion` of that name.
    pub const NODE_VERSION_NOT_FOUND: &str = "NodeVersionNotFound";
    /// The `NodeVersion` is refused; its own condition says why.
    pub const NODE_VERSION_NOT_READY: &str = "NodeVersionNotReady";
    /// The `NodeVersion` names no image for the cluster's provider.
    pub const IMAGE_NOT_FOUND: &str = "ImageNotFound";
    /// The `NodeVersion` has no set for the platform of the cluster's provider.
    pub const NO_MEASUREMENTS: &str = "NoMeasurements";
    /// The operator runs without that provider, or without `--allow-simulated`.
    pub const PROVIDER_NOT_ALLOWED: &str = "ProviderNotAllowed";
    /// A Secret that the spec names is missing.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A Secret has not the keys or lengths that are asked for.
    pub const SECRET_INVALID: &str = "SecretInvalid";
    /// An object of another cluster has the name that one of this cluster needs; the message says which, and what to do.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// Network and endpoint are being made.
    pub const CREATING_INFRASTRUCTURE: &str = "CreatingInfrastructure";
    /// Network and endpoint exist.
    pub const INFRASTRUCTURE_READY: &str = "InfrastructureReady";
    /// The first control-plane node sets Kubernetes up.
    pub const INITIALIZING_CONTROL_PLANE: &str = "InitializingControlPlane";
    /// The first control-plane node set Kubernetes up.
    pub const CONTROL_PLANE_INITIALIZED: &str = "ControlPlaneInitialized";
    /// Nodes wait until the control plane can let them join.
    pub const WAITING_FOR_CONTROL_PLANE: &str = "WaitingForControlPlane";
    /// Nodes are being launched and are joining.
    pub const CREATING_NODES: &str = "CreatingNodes";
    /// Some nodes are not Ready.
    pub const NODES_NOT_READY: &str = "NodesNotReady";
    /// Every wanted node is Ready.
    pub const NODES_READY: &str = "NodesReady";
    /// The cluster's API server answers.
    pub const API_SERVER_REACHABLE: &str = "APIServerReachable";
    /// The cluster's API server does not answer.
    pub const API_SERVER_UNREACHABLE: &str = "APIServerUnreachable";
    /// All etcd members are healthy, or so many that one more may be lost.
    pub const QUORUM_HEALTHY: &str = "QuorumHealthy";
    /// So many control-plane nodes are gone for good that etcd can't have a majority again; the message says what to do.
    pub const QUORUM_LOST: &str = "QuorumLost";
    /// One more loss of a control-plane node would stop etcd.
    pub const QUORUM_AT_RISK: &str = "QuorumAtRisk";
    /// Nodes are being replaced by nodes of another version.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// A node of the wanted version didn't prove itself: the nodes are of the version before until another one is wanted.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// Every node runs the wanted version.
    pub const UP_TO_DATE: &str = "UpToDate";
    /// Nodes are being added.
    pub const SCALING_UP: &str = "ScalingUp";
    /// Nodes are being removed.
    pub const SCALING_DOWN: &str = "ScalingDown";
    /// The number of nodes is the wanted one.
    pub const STABLE: &str = "Stable";
    /// A failed node is being replaced.
    pub const REPLACING_NODE: &str = "ReplacingNode";
    /// The last evidence of every node was accepted.
    pub const ALL_ATTESTED: &str = "AllAttested";
    /// Some node has not shown evidence yet.
    pub const ATTESTATION_PENDING: &str = "AttestationPending";
    /// The evidence matched a set.
    pub const ATTESTATION_ACCEPTED: &str = "AttestationAccepted";
    /// The evidence was refused; the message names register, expected and actual value.
    pub const ATTESTATION_REFUSED: &str = "AttestationRefused";
    /// Event only: somebody was refused in a node's name, or in no node's; nothing is wrong with the node itself.
    pub const PEER_REFUSED: &str = "PeerRefused";
    /// An entry of `ConfigMap` `constellation-collateral` can't be read, and isn't used.
    pub const COLLATERAL_INVALID: &str = "CollateralInvalid";
    /// What makers or clouds have to have said can't be fetched; the message names the host, the cause and the cure.
    pub const FETCH_FAILED: &str = "FetchFailed";
    /// What makers or clouds have to have said is missing, and the operator runs without `--fetch-collateral`.
    pub const FETCHING_OFF: &str = "FetchingOff";
    /// The publisher's signature holds.
    pub const SIGNATURE_VALID: &str = "SignatureValid";
    /// The publisher's signature does not hold.
    pub const SIGNATURE_INVALID: &str = "SignatureInvalid";
    /// The sets stand in the object; who may edit it vouches for them.
    pub const INLINE: &str = "Inline";
    /// The `ConfigMap` with the manifest, or its key, is missing.
    pub const MANIFEST_NOT_FOUND: &str = "ManifestNotFound";
    /// The manifest can't be read, or its sets are not complete.
    pub const MANIFEST_INVALID: &str = "ManifestInvalid";
    /// The manifest's revision is lower than one that was accepted before.
    pub const MANIFEST_TOO_OLD: &str = "ManifestTooOld";
    /// There is no VM yet.
    pub const PENDING: &str = "Pending";
    /// The cloud has the VM.
    pub const LAUNCHED: &str = "Launched";
    /// The cloud refused the launch; the message says what to do.
    pub const LAUNCH_FAILED: &str = "LaunchFailed";
    /// The cloud has no room for such a VM now.
    pub const NO_CAPACITY: &str = "NoCapacity";
    /// The operator's host lacks something for VMs of provider `local`; the message says what to install or to free.
    pub const HOST_NOT_READY: &str = "HostNotReady";
    /// A quota of the cloud is used up.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// The cloud's credentials may not do this.
    pub const ACCESS_DENIED: &str = "AccessDenied";
    /// The cloud did not answer, or answered with an error; it is tried again.
    pub const CLOUD_ERROR: &str = "CloudError";
    /// The operator's clock is wrong: by it the object isn't made yet. Nothing is changed until it is set.
    pub const CLOCK_WRONG: &str = "ClockWrong";
    /// The VM runs and was not heard from yet.
    pub const BOOTING: &str = "Booting";
    /// The VM was heard from.
    pub const BOOTED: &str = "Booted";
    /// The evidence was accepted; Kubernetes does not know the node yet.
    pub const JOINING: &str = "Joining";
    /// Kubernetes knows the node.
    pub const JOINED: &str = "Joined";
    /// Kubernetes knows the node and says that it is not Ready.
    pub const KUBELET_NOT_READY: &str = "KubeletNotReady";
    /// Kubernetes says that the node is Ready.
    pub const KUBELET_READY: &str = "KubeletReady";
    /// The VM failed or ended by itself.
    pub const INSTANCE_FAILED: &str = "InstanceFailed";
    /// The cloud no longer has the VM.
    pub const INSTANCE_VANISHED: &str = "InstanceVanished";
    /// The node was not Ready in time.
    pub const NODE_TIMED_OUT: &str = "NodeTimedOut";
    /// The node's pods are leaving.
    pub const DRAINING: &str = "Draining";
    /// Pods stay.
    pub const NOT_DRAINING: &str = "NotDraining";
    /// The VM is being removed.
    pub const TERMINATING: &str = "Terminating";
    /// The object is being deleted.
    pub const DELETING: &str = "Deleting";
    /// Something outside stands in the way of deletion; `deletionPolicy: Orphan` is the way out.
    pub const DELETION_BLOCKED: &str = "DeletionBlocked";

    /// Event only: the operator acts in a cloud by a key that is kept in a Secret, which doesn't expire.
    pub const STATIC_CREDENTIALS: &str = "StaticCredentials";

    /// Whether a person has to do something about it, or should know at once: Events with such a reason are warnings.
    #[must_use]
    pub fn needs_help(reason: &str) -> bool {
        NEED_HELP.contains(&reason)
    }

    /// Reasons that don't pass by themselves, or cost somebody something while they last.
    pub const NEED_HELP: &[&str] = &[
        ACCESS_DENIED,
        ATTESTATION_REFUSED,
        CLOCK_WRONG,
        COLLATERAL_INVALID,
        FETCHING_OFF,
        FETCH_FAILED,
        HOST_NOT_READY,
        IMAGE_NOT_FOUND,
        INVALID_SPEC,
        LAUNCH_FAILED,
        MANIFEST_INVALID,
        MANIFEST_NOT_FOUND,
        MANIFEST_TOO_OLD,
        NAME_TAKEN,
        NODE_VERSION_NOT_FOUND,
        NODE_VERSION_NOT_READY,
        NO_CAPACITY,
        NO_MEASUREMENTS,
        PROVIDER_NOT_ALLOWED,
        QUORUM_LOST,
        QUOTA_EXCEEDED,
        ROLLED_BACK,
        SECRET_INVALID,
        SECRET_NOT_FOUND,
        SIGNATURE_INVALID,
    ];

    /// Every reason.
    pub const ALL: &[&str] = &[
        ACCESS_DENIED,
        ALL_ATTESTED,
        API_SERVER_REACHABLE,
        API_SERVER_UNREACHABLE,
        ATTESTATION_ACCEPTED,
        ATTESTATION_PENDING,
        ATTESTATION_REFUSED,
        BOOTED,
        BOOTING,
        CLOCK_WRONG,
        CLOUD_ERROR,
        COLLATERAL_INVALID,
        CONTROL_PLANE_INITIALIZED,
        CREATING_INFRASTRUCTURE,
        CREATING_NODES,
        DELETING,
        DELETION_BLOCKED,
        DRAINING,
        FETCHING_OFF,
        FETCH_FAILED,
        HOST_NOT_READY,
        IMAGE_NOT_FOUND,
        INFRASTRUCTURE_READY,
        INITIALIZING_CONTROL_PLANE,
        INLINE,
        INSTANCE_FAILED,
        INSTANCE_VANISHED,
        INVALID_SPEC,
        IN_PROGRESS,
        JOINED,
        JOINING,
        KUBELET_NOT_READY,
        KUBELET_READY,
        LAUNCHED,
        LAUNCH_FAILED,
        MANIFEST_INVALID,
        MANIFEST_NOT_FOUND,
        MANIFEST_TOO_OLD,
        NAME_TAKEN,
        NODES_NOT_READY,
        NODES_READY,
        NODE_TIMED_OUT,
        NODE_VERSION_NOT_FOUND,
        NODE_VERSION_NOT_READY,
        NOT_DRAINING,
        NOT_PAUSED,
        NOT_YET_RECONCILED,
        NO_CAPACITY,
        NO_MEASUREMENTS,
        PAUSED,
        PEER_REFUSED,
        PENDING,
        PROVIDER_NOT_ALLOWED,
        QUORUM_AT_RISK,
        QUORUM_HEALTHY,
        QUORUM_LOST,
        QUOTA_EXCEEDED,
        RECONCILED,
        REPLACING_NODE,
        ROLLED_BACK,
        ROLLING_OUT,
        SCALING_DOWN,
        SCALING_UP,
        SECRET_INVALID,
        SECRET_NOT_FOUND,
        SIGNATURE_INVALID,
        SIGNATURE_VALID,
        STABLE,
        STATIC_CREDENTIALS,
        TERMINATING,
        UNKNOWN,
        UP_TO_DATE,
        WAITING_FOR_CONTROL_PLANE,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        set(&mut list, kind::READY, Status::False, reason::IN_PROGRESS, "a", Some(1), at(1));
        set(&mut list, kind::READY, Status::False, reason::IN_PROGRESS, "b", Some(2), at(2));
        assert_eq!(list[0].last_transition_time.0, at(1));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), (reason::IN_PROGRESS, Some(2)));
        set(&mut list, kind::READY, Status::True, reason::RECONCILED, "", Some(2), at(3));
        assert_eq!(list[0].last_transition_time.0, at(3));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn list_is_sorted_by_type_whatever_the_order_of_setting() {
        let mut list = Vec::new();
        for kind in [kind::READY, kind::AVAILABLE, kind::PAUSED] {
            set(&mut list, kind, Status::Unknown, reason::NOT_YET_RECONCILED, "", None, at(1));
        }
        let kinds: Vec<_> = list.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(kinds, [kind::AVAILABLE, kind::PAUSED, kind::READY]);
    }

    #[test]
    fn lists_are_sorted_unique_and_pascal_case() {
        assert!(reason::NEED_HELP.iter().all(|reason| reason::ALL.contains(reason)));
        for list in [kind::ALL, reason::ALL, reason::NEED_HELP] {
            for word in list {
                assert!(word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric), "{word}");
            }
            let mut unique = list.to_vec();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), list.len());
        }
    }
}
