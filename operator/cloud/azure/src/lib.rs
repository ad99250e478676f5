//! Azure: confidential VMs, their network and their endpoint.
//!
//! The story of a node. [`AzureCloud::launch`] is one PUT of a VM by its name, which comes from the node's UID: network
//! interface, public address and disks are part of it and go with it. Its operation is awaited a few seconds and then
//! left to the next pass. A VM that got no capacity stays as a failed resource in Azure: it is deleted before another
//! zone is tried. [`AzureCloud::find`] is a list of VMs and one of interfaces, shared by the nodes of a cluster. A
//! cluster has a resource group of its own, whose deletion takes everything with it, or is put into one that the user
//! keeps; then its parts are removed one by one.

pub mod arm;
mod bodies;
mod convert;
mod demand;
mod endpoint;
mod error;
mod hsm;
mod instances;
mod network;
mod permissions;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use azure_core::credentials::{Secret, TokenCredential};
use azure_identity::{
    ClientSecretCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential,
};
use constellation_cloud::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, LaunchRequest, Network, NetworkRequest, Stream, calls,
    demand::{Demand, Shape},
    dial,
    limit::Limiter,
};

use self::{
    arm::Arm,
    convert::Names,
    demand::Catalogue,
    instances::{Attempts, Lists},
};

pub use self::{
    hsm::ManagedHsm,
    permissions::{ACTIONS, KEY_ACTIONS, custom_role, key_role},
};

/// Calls at once, and the time in which one more is allowed: Resource Manager refills 10 writes and 25 reads a second
/// and subscription ("Understand how Azure Resource Manager throttles requests").
pub const RATE: (u32, Duration) = (100, Duration::from_millis(100));
/// Set in pods by the workload identity webhook ("Workload identity", "Service account annotations and environment").
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
/// The user-assigned identity, if there are several.
const CLIENT: &str = "AZURE_CLIENT_ID";

/// What protects a VM's memory: `securityType` of a VM, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technology {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// Nothing: a measured boot with a vTPM of Microsoft.
    TrustedLaunch,
}

/// How the OS disk is encrypted by Azure. Our own state disk is encrypted by the node in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEncryption {
    /// The disk and the guest's state, with a key of the VM; under the user's disk encryption set, if one is named.
    DiskWithGuestState {
        /// Resource id of a disk encryption set.
        set: Option<String>,
    },
    /// The guest's state (the vTPM) only: the disk holds a public, measured image.
    GuestState,
}

/// How the operator and the internet reach nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every node has a public address.
    External,
    /// Nodes have none: the operator runs in a network that is peered with the cluster's, and the user's routes or a
    /// NAT gateway let nodes out.
    Internal,
}

/// Who we are to Azure.
#[derive(Clone, Debug)]
pub enum Access {
    /// Nobody: for tests.
    Anonymous,
    /// A secret of an app registration; tell its user that workload identity is better.
    ClientSecret {
        /// The directory.
        tenant: String,
        /// The app.
        client: String,
        /// Its secret.
        secret: Secret,
    },
    /// The identity of the machine or pod; absent client: the system-assigned one.
    ManagedIdentity {
        /// The user-assigned identity's client id.
        client: Option<String>,
    },
    /// A projected token of the pod's service account, from the variables that the workload identity webhook sets.
    WorkloadIdentity,
}

impl Access {
    /// The operator's own identity: of its service account where the webhook gave the pod a token, else the machine's.
    #[must_use]
    pub fn ambient() -> Self {
        if env::var_os(TOKEN_FILE).is_some() {
            Self::WorkloadIdentity
        } else {
            Self::ManagedIdentity { client: env::var(CLIENT).ok() }
        }
    }
}

/// What a user says about a subscription.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The subscription's id.
    pub subscription: String,
    /// The region, for example `westeurope`.
    pub location: String,
    /// Zones that nodes without a zone are spread over, in order, for example `1`; empty where the region has none.
    pub zones: Vec<String>,
    /// A resource group that the user keeps; absent: one per cluster.
    pub resource_group: Option<String>,
    /// Who runs the operator: marks every object, so that two operators may share a subscription. Letters, digits and
    /// dashes, at most 40.
    pub owner: String,
    /// What protects memory.
    pub technology: Technology,
    /// How the OS disk is encrypted.
    pub disk_encryption: DiskEncryption,
    /// How nodes are reached.
    pub reach: Reach,
    /// Networks that may use port 9000 of nodes, CIDR. Empty is refused.
    pub sources: Vec<String>,
    /// PEM certificates of the CAs that sign the endorsement keys of the vTPMs.
    pub endorsement_roots: Vec<String>,
    /// Another endpoint than [`arm::ENDPOINT`], for tests and sovereign clouds.
    pub endpoint: Option<String>,
    /// Who we are.
    pub access: Access,
    /// The turns of all that call this subscription's region.
    pub limiter: Arc<Limiter>,
    /// Waits.
    pub pace: Pace,
}

/// How long calls wait for what the cloud does.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks at an operation.
    pub poll: Duration,
    /// For the operation of a launch: most refusals of capacity show within it.
    pub launch: Duration,
    /// For one layer of a network: longer, and the next pass goes on.
    pub network: Duration,
    /// How old a list may be that nodes share; every node of a cluster asks for it.
    pub list: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(3),
            launch: Duration::from_secs(12),
            network: Duration::from_mins(1),
            list: Duration::from_secs(5),
        }
    }
}

/// Azure.
pub struct AzureCloud {
    settings: Settings,
    arm: Arm,
    catalogue: Catalogue,
    lists: Lists,
    attempts: Attempts,
}

impl AzureCloud {
    /// Makes the client; nothing is sent before the first use.
    ///
    /// # Errors
    /// [`CloudError::Unsupported`] when a setting is empty or malformed, [`CloudError::Denied`] when there are no
    /// credentials.
    pub fn new(settings: Settings) -> Result<Self, CloudError> {
        convert::check(&settings)?;
        let endpoint = settings.endpoint.as_deref().unwrap_or(arm::ENDPOINT);
        let limiter = Arc::clone(&settings.limiter);
        let arm = Arm::new(endpoint, arm::SCOPE, credential(&settings.access)?, limiter, settings.pace.poll)?;
        Ok(Self {
            settings,
            arm,
            catalogue: Catalogue::default(),
            lists: Lists::default(),
            attempts: Attempts::default(),
        })
    }

    fn names(&self, cluster: &ClusterUid) -> Result<Names, CloudError> {
        Names::new(&self.settings, cluster)
    }
}

fn credential(access: &Access) -> Result<Option<Arc<dyn TokenCredential>>, CloudError> {
    let denied = |error: azure_core::Error| CloudError::Denied(format!("no credentials: {error}"));
    Ok(Some(match access {
        Access::Anonymous => return Ok(None),
        Access::ClientSecret { tenant, client, secret } => {
            ClientSecretCredential::new(tenant, client.clone(), secret.clone(), None).map_err(denied)?
        }
        Access::ManagedIdentity { client } => {
            let id = client.clone().map(UserAssignedId::ClientId);
            let options = ManagedIdentityCredentialOptions { user_assigned_id: id, ..Default::default() };
            ManagedIdentityCredential::new(Some(options)).map_err(denied)?
        }
        Access::WorkloadIdentity => WorkloadIdentityCredential::new(None).map_err(denied)?,
    }))
}

#[async_trait]
impl Cloud for AzureCloud {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn platform(&self) -> &'static str {
        match self.settings.technology {
            Technology::SevSnp => "azure-snp",
            Technology::Tdx => "azure-tdx",
            Technology::TrustedLaunch => "azure-trusted-launch",
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

    async fn shapes(&self, types: &BTreeSet<String>) -> Result<Vec<Shape>, CloudError> {
        self.shapes_of(types).await
    }

    fn calls(&self) -> BTreeMap<calls::Key, u64> {
        self.arm.calls.counts()
    }

    fn watch_calls(&self, watcher: Box<dyn calls::Watcher>) {
        self.arm.calls.watch(watcher);
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
