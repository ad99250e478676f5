//! AWS: confidential VMs, their network and their endpoint.
//!
//! The story of a node. [`AwsCloud::launch`] sends one `RunInstances` whose client token comes from the node's UID, the
//! subnet and the number of the attempt, so that the same launch sent twice is one instance. [`AwsCloud::find`] is one
//! list by tag for all clusters of an account and region; what was launched and is not listed yet is added from memory.
//! One that ended by itself is shown as failed, with its reason, until it is terminated once.
//! [`AwsCloud::terminate`] terminates until the instance is no longer listed. Every object bears its cluster's tag from
//! the call on that makes it, and what doesn't bear it is never touched.

mod account;
mod convert;
mod credentials;
mod ending;
mod endpoint;
mod error;
mod holders;
mod instances;
mod kms;
mod network;
mod permissions;
mod removal;
mod security;
mod supply;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use async_trait::async_trait;
use constellation_cloud::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, LaunchRequest, Network, NetworkRequest, Stream, calls,
    demand::{Demand, Shape},
    dial,
};

pub use self::{
    account::{Account, Pace},
    credentials::{Access, StaticKey},
    kms::AwsKms,
    permissions::{CALLS, KEY_CALLS, Limit, key_policy, policy},
};

/// What a node proves itself by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A `NitroTPM` alone: measured boot, memory in the clear for AWS.
    NitroTpm,
    /// AMD SEV-SNP beside the `NitroTPM`.
    SevSnp,
}

/// Where nodes are put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Subnets that the user keeps, of one VPC.
    Subnets(Vec<String>),
    /// A VPC is made, with one subnet in each of these zones.
    Zones(Vec<String>),
}

/// How the operator and users reach nodes and the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By public addresses.
    External,
    /// Inside the VPC, or from networks joined to it.
    Internal,
}

/// What a user says about a cluster's place in an account.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where nodes are put.
    pub placement: Placement,
    /// How nodes are reached.
    pub reach: Reach,
    /// Networks that may reach the API server and [`OWNER_PORT`] of nodes, CIDR. Empty is refused.
    pub sources: Vec<String>,
    /// What nodes prove themselves by.
    pub proof: Proof,
    /// ARN of the KMS key of the volumes; absent: the account's default.
    pub volume_key: Option<String>,
    /// Who runs the operator: marks every object, so that two operators may share an account. Letters, digits, dashes.
    pub owner: String,
}

/// Port of the API server.
pub const API_PORT: u16 = 6443;
/// Port of the verifiers on control-plane nodes: where nodes join.
pub const VERIFIER_PORT: u16 = 9001;
/// Port on which a node answers its owner.
pub const OWNER_PORT: u16 = 9000;

/// AWS, for clusters with the same settings.
#[derive(Clone)]
pub struct AwsCloud {
    account: Arc<Account>,
    settings: Settings,
}

impl AwsCloud {
    /// The cloud as these settings make it; sends nothing.
    ///
    /// # Errors
    /// [`CloudError::Unsupported`] when a setting is empty or malformed.
    pub fn new(account: Arc<Account>, settings: Settings) -> Result<Self, CloudError> {
        convert::check(&settings)?;
        Ok(Self { account, settings })
    }
}

#[async_trait]
impl Cloud for AwsCloud {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn platform(&self) -> &'static str {
        match self.settings.proof {
            Proof::NitroTpm => "aws-nitro-tpm",
            Proof::SevSnp => "aws-snp",
        }
    }

    /// None: a `NitroTPM` has no endorsement certificate, AWS signs its attestation documents.
    async fn endorsement_roots(&self, _: &ClusterUid) -> Result<Vec<String>, CloudError> {
        Ok(Vec::new())
    }

    async fn check_capability(&self, demand: &Demand) -> Result<(), CloudError> {
        self.capable(demand).await
    }

    async fn check_quota(&self, cluster: &ClusterUid, demand: &Demand) -> Result<(), CloudError> {
        self.affordable(cluster, demand).await
    }

    async fn shapes(&self, types: &BTreeSet<String>) -> Result<Vec<Shape>, CloudError> {
        self.catalogue(types).await
    }

    fn calls(&self) -> BTreeMap<calls::Key, u64> {
        self.account.calls().counts()
    }

    fn watch_calls(&self, watcher: Box<dyn calls::Watcher>) {
        self.account.calls().watch(watcher);
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<Network, CloudError> {
        self.make_network(request).await
    }

    async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        self.unmake_network(cluster).await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        self.launch_instance(request).await
    }

    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        self.instances(cluster).await
    }

    async fn terminate(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        self.terminate_instance(cluster, id).await
    }

    async fn set_endpoint_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError> {
        self.set_targets(cluster, targets).await
    }

    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        self.list_clusters().await
    }

    async fn dial(&self, cluster: &ClusterUid, address: SocketAddr) -> Result<Box<dyn Stream>, CloudError> {
        let reachable = match self.settings.reach {
            Reach::Internal => address.ip(),
            Reach::External => self.public_address(cluster, address.ip()).await?,
        };
        let address = SocketAddr::new(reachable, address.port());
        Ok(Box::new(dial(address).await?))
    }
}
