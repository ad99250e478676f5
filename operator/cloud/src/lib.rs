//! What the operator wants of a cloud: one trait, one room per cloud, errors that choose the reaction.

pub mod answers;
pub mod calls;
pub mod contract;
pub mod crash;
pub mod custody;
pub mod demand;
mod dial;
pub mod limit;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use self::demand::{Demand, Shape};
pub use self::dial::dial;

/// A byte stream to a node.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Marks every cloud object of a cluster: the UID of the `ConstellationCluster`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterUid(pub String);

/// UID of a `ConfidentialNode`: tag of its VM and idempotency token of its launch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeUid(pub String);

impl From<String> for NodeUid {
    fn from(uid: String) -> Self {
        Self(uid)
    }
}

/// The cloud's id of a VM; also `spec.providerID` of the Kubernetes node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub String);

/// A cluster's network and endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The cloud's id.
    pub id: String,
    /// `host:port` of the API server as nodes see it.
    pub endpoint: String,
    /// URL of the API server as the operator and users of the kubeconfig Secret see it.
    pub external_url: String,
    /// Names and addresses the API server's certificate must hold.
    pub cert_sans: Vec<String>,
}

/// What a network is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The cluster.
    pub cluster: ClusterUid,
    /// Its name, for people.
    pub name: String,
    /// Addresses of the nodes.
    pub node_cidr: String,
}

/// What a VM is made from. `node` is the idempotency token: same token, same instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRequest {
    /// The cluster.
    pub cluster: ClusterUid,
    /// The node.
    pub node: NodeUid,
    /// Name, for people; also the guest's host name.
    pub name: String,
    /// Role, group and version of the node, for people and for `simulated`.
    pub control_plane: bool,
    /// The image.
    pub image: String,
    /// Instance type.
    pub instance_type: String,
    /// Zone.
    pub zone: Option<String>,
    /// Size of the state disk, bytes.
    pub state_disk_bytes: u64,
    /// Number of the node in its cluster; fixes its address where the cloud lets us.
    pub index: u32,
    /// User data: the launch configuration, exactly as the node measures it; in clouds with hints after it.
    pub launch_config: Vec<u8>,
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// It failed, or ended by itself.
    Failed,
    /// It runs or will soon.
    Running,
    /// It is being removed.
    Terminating,
}

/// A VM as the cloud shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The cloud's id.
    pub id: InstanceId,
    /// The node it was launched for, read from its tag.
    pub node: NodeUid,
    /// Its address in the cluster's network, once known.
    pub address: Option<std::net::IpAddr>,
    /// Whether it runs.
    pub state: InstanceState,
    /// Why it failed, for people.
    pub message: Option<String>,
}

/// What went wrong; the reaction follows the variant, never the text.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// No capacity here now; another zone or type may have some.
    #[error("no capacity: {0}")]
    Capacity(String),
    /// The credentials may not do this.
    #[error("denied: {0}")]
    Denied(String),
    /// The host that the operator runs on lacks something that only a person can put there: says what.
    #[error("{0}")]
    Host(String),
    /// There is no such thing; for a removal that means it is finished.
    #[error("not found: {0}")]
    NotFound(String),
    /// A quota is used up.
    #[error("quota exhausted: {0}")]
    Quota(String),
    /// Too many calls.
    #[error("throttled, retry after {}s", after.as_secs())]
    Throttled {
        /// How long to wait.
        after: Duration,
    },
    /// It may work the next time.
    #[error("{0}")]
    Transient(String),
    /// It will never work as asked: says what to change.
    #[error("{0}")]
    Unsupported(String),
}

impl CloudError {
    /// A fixed word for metrics and counts.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Capacity(_) => "capacity",
            Self::Denied(_) => "denied",
            Self::Host(_) => "host",
            Self::NotFound(_) => "not-found",
            Self::Quota(_) => "quota",
            Self::Throttled { .. } => "throttled",
            Self::Transient(_) => "transient",
            Self::Unsupported(_) => "unsupported",
        }
    }
}

/// A cloud, as one user's settings make it: account, region, zones, hardware proof. Every function may be called
/// twice, by anybody, after a crash at any point.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// Name of the provider: `aws`, `azure`, `gcp`, `local`, `simulated`.
    fn name(&self) -> &'static str;

    /// What a VM's evidence rests on: `qemu-vtpm`, `simulated`. Chooses the reference values' platform.
    fn platform(&self) -> &'static str;

    /// Whether [`Cloud::clusters`] shows nothing that another operator may have made. Where others use the same account,
    /// an operator that sees one namespace only must not take their clusters for leaks.
    fn exclusive(&self) -> bool {
        false
    }

    /// PEM certificates of the CAs whose endorsement keys this cloud's TPMs have; empty where there are none.
    async fn endorsement_roots(&self, cluster: &ClusterUid) -> Result<Vec<String>, CloudError>;

    /// Whether the cloud can run this at all: each type with the settings' hardware proof in each zone, and the image.
    /// Called before the first create; [`CloudError::Unsupported`] names what can't be, and what could.
    async fn check_capability(&self, _: &Demand) -> Result<(), CloudError> {
        Ok(())
    }

    /// Whether the account's quotas leave room for this beside what the cluster has already; [`CloudError::Quota`]
    /// names the quota, its limit and what is missing.
    async fn check_quota(&self, _: &ClusterUid, _: &Demand) -> Result<(), CloudError> {
        Ok(())
    }

    /// What VMs of these types have; a type that the cloud doesn't know is left out.
    async fn shapes(&self, _: &BTreeSet<String>) -> Result<Vec<Shape>, CloudError> {
        Err(CloudError::Unsupported(format!("provider {} has no catalogue of instance types", self.name())))
    }

    /// How often each call was made so far, by operation and outcome; a cloud without calls that cost has none.
    fn calls(&self) -> BTreeMap<calls::Key, u64> {
        BTreeMap::new()
    }

    /// Has somebody told of every call from now on; a cloud without calls that cost tells nothing.
    fn watch_calls(&self, _: Box<dyn calls::Watcher>) {}

    /// Creates or repairs the network and the endpoint.
    async fn ensure_network(&self, request: &NetworkRequest) -> Result<Network, CloudError>;

    /// Removes them; [`CloudError::NotFound`] when nothing is left.
    async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError>;

    /// Launches a VM, or returns the one that this token launched. [`CloudError::Capacity`] only after every zone that
    /// the request allows was tried.
    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError>;

    /// All VMs of a cluster, by tag.
    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError>;

    /// Starts removing a VM; [`CloudError::NotFound`] when it is gone.
    async fn terminate(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError>;

    /// Makes exactly these control-plane nodes the endpoint's targets.
    async fn set_endpoint_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError>;

    /// Clusters of which this cloud still has anything; for the sweep.
    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError>;

    /// A connection to a port of a node.
    async fn dial(&self, cluster: &ClusterUid, address: SocketAddr) -> Result<Box<dyn Stream>, CloudError>;
}
