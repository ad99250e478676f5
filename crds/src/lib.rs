//! The `constellation.dev/v1alpha1` API: what users say and see, and nothing else.

#![allow(clippy::duplicated_attributes, reason = "printcolumn(type_ = ...) of different columns is not a duplicate")]

pub mod cluster;
pub mod condition;
pub mod custody;
pub mod definition;
pub mod group;
pub mod node;
pub mod provider;
pub mod trust;
pub mod version;

pub use cluster::{ConstellationCluster, ConstellationClusterSpec, ConstellationClusterStatus};
pub use group::{NodeGroup, NodeGroupSpec, NodeGroupStatus};
pub use node::{ConfidentialNode, ConfidentialNodeSpec, ConfidentialNodeStatus};
pub use trust::{
    NodeAdmission, NodeAdmissionSpec, NodeAdmissionStatus, TrustBundle, TrustBundleSpec, TrustBundleStatus,
};
pub use version::{NodeVersion, NodeVersionSpec, NodeVersionStatus};

/// API group of every resource of ours.
pub const GROUP: &str = "constellation.dev";
/// API version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// Label: name of the cluster an object belongs to.
pub const LABEL_CLUSTER: &str = "constellation.dev/cluster-name";
/// Label: name of the node group, `control-plane` for the control plane.
pub const LABEL_GROUP: &str = "constellation.dev/node-group";
/// Label: role of the node, see [`node::Role`].
pub const LABEL_ROLE: &str = "constellation.dev/role";
/// Label: name of the `NodeVersion` the node was launched from.
pub const LABEL_VERSION: &str = "constellation.dev/node-version";
/// Label: name of the measurement set that the node's evidence matched.
pub const LABEL_SET: &str = "constellation.dev/measurement-set";

/// Finalizer: the cluster's cloud objects are gone before the object goes.
pub const FINALIZER_CLUSTER: &str = "constellation.dev/cluster-cleanup";
/// Finalizer: the VM is gone before the node's object goes.
pub const FINALIZER_NODE: &str = "constellation.dev/node-terminate";

/// Annotation: on a Secret that the operator made, the UID of the cluster it was made for. Kubernetes is not told of an owner
/// before everything that needs the Secret is gone: a foreground deletion would take it first.
pub const ANNOTATION_CLUSTER_UID: &str = "constellation.dev/cluster-uid";
/// Annotation: on a node or cluster, the reconciler leaves it alone.
pub const ANNOTATION_PAUSED: &str = "constellation.dev/paused";
/// Annotation: this node goes first when its group is scaled down.
pub const ANNOTATION_DELETE_FIRST: &str = "constellation.dev/delete-first";
/// Annotation: set by the operator on a node that is to be drained and replaced.
pub const ANNOTATION_RETIRE: &str = "constellation.dev/retire";

/// Taint of ours on nodes that are being replaced.
pub const TAINT_ROLLING: &str = "constellation.dev/rolling";
/// Taint of ours on members whose evidence is refused, effect `NoExecute`, where the cluster asks for it.
pub const TAINT_UNATTESTED: &str = "constellation.dev/unattested";
