//! Google Cloud: confidential VMs, their network and their endpoint.
//!
//! The story of a node. [`GcpCloud::launch`] sends one insert whose request id comes from the node's UID, the zone and
//! the number of the attempt, waits for its operation a few seconds and then leaves it to the next pass: the same id
//! names the same operation, so nothing of it has to be stored. [`GcpCloud::find`] is one list by label over all zones,
//! of all clusters; launches that the list doesn't show yet are added from their operations. [`GcpCloud::terminate`]
//! deletes until the instance is not found. Networks have no labels here: they are named after the cluster and carry a
//! description that says whose they are, and what doesn't carry it is never touched.

mod api;
mod bodies;
mod convert;
mod demand;
mod endpoint;
mod error;
mod instances;
mod kinds;
mod kms;
mod listing;
mod network;
mod permissions;

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use constellation_cloud::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, LaunchRequest, Network, NetworkRequest, Stream, calls,
    demand::Demand, dial, limit::Limiter,
};
use zeroize::Zeroizing;

use self::{api::Api, convert::Names, instances::Launches};

pub use self::{
    kms::CloudKms,
    listing::Listing,
    permissions::{CALLS, KEY_CALLS, custom_role, key_role},
};

/// Calls at once, and the time in which one more is allowed: Compute Engine takes 1500 reads a minute and region, and
/// as many mutations ("API quota and limits"); four fifths of it, as others use the project too.
pub const RATE: (u32, Duration) = (40, Duration::from_millis(50));

/// What protects a VM's memory, see the `confidentialInstanceType` of the Compute API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technology {
    /// AMD SEV with encrypted state as Google runs it: no report, the vTPM is Google's word.
    Sev,
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
}

/// How the operator and the internet reach nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every node has an external address.
    External,
    /// Nodes have none: the operator runs in a network that is peered with the cluster's, and a Cloud NAT that the
    /// user keeps lets nodes out.
    Internal,
}

/// Who we are to Google.
#[derive(Clone)]
pub enum Access {
    /// Workload identity, metadata server or `GOOGLE_APPLICATION_CREDENTIALS`.
    Ambient,
    /// Nobody: for tests.
    Anonymous,
    /// The JSON of a service account's key; tell its user that workload identity is better.
    ServiceAccountKey(Zeroizing<String>),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ambient => "Ambient",
            Self::Anonymous => "Anonymous",
            Self::ServiceAccountKey(_) => "ServiceAccountKey",
        })
    }
}

/// What a user says about a project.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The project's id.
    pub project: String,
    /// The region of networks and endpoints.
    pub region: String,
    /// Zones of the region that nodes without a zone are spread over, in order; at least one.
    pub zones: Vec<String>,
    /// Who runs the operator: marks every object, so that two operators may share a project. For example the UID of
    /// the namespace `kube-system` of the management cluster. Letters, digits and dashes, at most 40.
    pub owner: String,
    /// What protects memory.
    pub technology: Technology,
    /// How nodes are reached.
    pub reach: Reach,
    /// Networks that may use the API server and port 9000 of nodes, CIDR. Empty is refused.
    pub sources: Vec<String>,
    /// E-mail of the service account that nodes run as; absent: none, which is all they need.
    pub service_account: Option<String>,
    /// PEM certificates of the CAs that sign the endorsement keys of the vTPMs.
    pub endorsement_roots: Vec<String>,
    /// Another endpoint than `https://compute.googleapis.com`, for tests and private access.
    pub endpoint: Option<String>,
    /// Who we are.
    pub access: Access,
    /// The turns of all that call this project's region.
    pub limiter: Arc<Limiter>,
    /// The list of instances that all clusters of this project, owner and access share.
    pub listing: Arc<Listing>,
    /// Waits.
    pub pace: Pace,
}

/// How long calls wait for what the cloud does.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks at an operation.
    pub poll: Duration,
    /// For the operation of a launch: most stock-outs show within it, and another zone is tried in the same call.
    pub launch: Duration,
    /// For one layer of a network: longer, and the next pass goes on.
    pub network: Duration,
    /// How old a list may be: every node of every cluster asks for it.
    pub list: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            launch: Duration::from_secs(10),
            network: Duration::from_secs(45),
            list: Duration::from_secs(5),
        }
    }
}

/// Google Cloud.
pub struct GcpCloud {
    settings: Settings,
    api: Api,
    launches: Launches,
}

impl GcpCloud {
    /// Connects; nothing is sent before the first use.
    ///
    /// # Errors
    /// [`CloudError::Unsupported`] when a setting is empty or malformed, [`CloudError::Denied`] when there are no
    /// credentials.
    pub async fn connect(settings: Settings) -> Result<Self, CloudError> {
        convert::check(&settings)?;
        let api = Api::connect(&settings).await?;
        Ok(Self { settings, api, launches: Launches::default() })
    }

    fn names(&self, cluster: &ClusterUid) -> Result<Names, CloudError> {
        Names::new(&self.settings, cluster)
    }
}

#[async_trait]
impl Cloud for GcpCloud {
    fn name(&self) -> &'static str {
        "gcp"
    }

    fn platform(&self) -> &'static str {
        match self.settings.technology {
            Technology::Sev => "gcp-sev-es",
            Technology::SevSnp => "gcp-snp",
            Technology::Tdx => "gcp-tdx",
        }
    }

    async fn endorsement_roots(&self, _: &ClusterUid) -> Result<Vec<String>, CloudError> {
        Ok(self.settings.endorsement_roots.clone())
    }

    async fn check_capability(&self, demand: &Demand) -> Result<(), CloudError> {
        self.capable(demand).await
    }

    async fn check_quota(&self, cluster: &ClusterUid, demand: &Demand) -> Result<(), CloudError> {
        self.room(&self.names(cluster)?, demand).await
    }

    fn calls(&self) -> BTreeMap<calls::Key, u64> {
        self.api.calls.counts()
    }

    fn watch_calls(&self, watcher: Box<dyn calls::Watcher>) {
        self.api.calls.watch(watcher);
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<Network, CloudError> {
        self.make_network(&self.names(&request.cluster)?, request).await
    }

    async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        self.unmake_network(&self.names(cluster)?).await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        self.launch_instance(&self.names(&request.cluster)?, request).await
    }

    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        self.instances(&self.names(cluster)?).await
    }

    async fn terminate(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        self.terminate_instance(&self.names(cluster)?, id).await
    }

    async fn set_endpoint_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError> {
        self.set_targets(&self.names(cluster)?, targets).await
    }

    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        self.list_clusters().await
    }

    async fn dial(&self, cluster: &ClusterUid, address: SocketAddr) -> Result<Box<dyn Stream>, CloudError> {
        let reachable = match self.settings.reach {
            Reach::Internal => address.ip(),
            Reach::External => self.external_address(&self.names(cluster)?, address.ip()).await?,
        };
        let address = SocketAddr::new(reachable, address.port());
        Ok(Box::new(dial(address).await?))
    }
}
