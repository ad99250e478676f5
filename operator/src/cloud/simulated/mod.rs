//! No machines at all: for trying the operator out and for its tests. Proves nothing, and says so everywhere.
//!
//! The story of a simulated node. [`SimulatedCloud::launch`] writes a record ([`store`], a `ConfigMap` beside the
//! cluster: the "cloud" outlives the operator as a real one does). The driver ([`driver`]) plays the machine: after
//! the boot time it looks for the `NodeAdmission` of its uid and for the owner-signed `TrustBundle` of its cluster
//! **on the same API server** (any namespace that the operator looks after), claims the measurements of its image, appraises the claim as a
//! verifier would ([`node`]), records the verdict, and then plays the kubelet: a `Node` that is Ready, and its lease.
//! [`SimulatedCloud::terminate`] marks the record; the driver deletes the `Node`, then the record, and only then is
//! the instance not found. Capacity errors, slow boots, vanished machines and broken evidence are scripted ([`script`]).

mod driver;
mod node;
mod script;
mod store;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use jiff::Timestamp;
use kube::Client;
use tokio::task::AbortHandle;

use self::store::{Record, State, Store};
use super::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, Network, NetworkRequest, Stream,
};

pub use self::{
    node::claim,
    script::{Behaviour, SCRIPT, Script},
};

/// Name of the provider, and platform of its claims.
pub const NAME: &str = "simulated";

/// The `simulated` provider. Clones drive the same machines; the last one dropped stops them.
pub struct SimulatedCloud {
    store: Store,
    script: Script,
    driver: AbortHandle,
}

impl SimulatedCloud {
    /// A cloud whose records live on this API server, in one namespace or (`None`) in all: it plays every machine
    /// that it sees there. Must be called inside a tokio runtime.
    ///
    /// The caller has checked that the person who runs the operator allowed it.
    #[must_use]
    pub fn new(client: Client, namespace: Option<String>) -> Self {
        let script = Script::default();
        let store = Store::new(client.clone(), namespace);
        let driver = tokio::spawn(driver::run(client, store.clone(), script.clone())).abort_handle();
        Self { store, script, driver }
    }

    /// What goes wrong next.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }
}

impl Drop for SimulatedCloud {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[async_trait]
impl Cloud for SimulatedCloud {
    fn name(&self) -> &'static str {
        NAME
    }

    fn platform(&self) -> &'static str {
        NAME
    }

    fn exclusive(&self) -> bool {
        true
    }

    async fn endorsement_roots(&self, _: &ClusterUid) -> Result<Vec<String>, CloudError> {
        Ok(Vec::new())
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<Network, CloudError> {
        self.store.ensure_network(request).await?;
        Ok(Network {
            id: format!("{NAME}://network/{}", request.cluster.0),
            endpoint: "10.77.0.1:6443".to_owned(),
            external_url: "https://10.77.0.1:6443".to_owned(),
            cert_sans: vec!["10.77.0.1".to_owned()],
        })
    }

    async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        self.store.remove_network(cluster).await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        if let Some(record) = self.store.record(&request.cluster, &request.node).await? {
            return Ok(instance(&record));
        }
        if let Some(error) = self.script.next_failure() {
            return Err(error);
        }
        if self.script.applies(Behaviour::NoCapacity, &request.name) {
            return Err(CloudError::Capacity("the script says so".to_owned()));
        }
        self.store.create(request, Timestamp::now()).await.map(|record| instance(&record))
    }

    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        let records = self.store.records(cluster).await?;
        Ok(records.iter().filter(|r| !self.script.applies(Behaviour::Hide, &r.name)).map(instance).collect())
    }

    async fn terminate(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        self.store.mark_terminating(cluster, id).await
    }

    async fn set_endpoint_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError> {
        self.store.set_targets(cluster, targets).await
    }

    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        self.store.clusters().await
    }

    async fn dial(&self, _: &ClusterUid, address: SocketAddr) -> Result<Box<dyn Stream>, CloudError> {
        Err(CloudError::Unsupported(format!("a simulated node has no ports, so {address} can't be dialled")))
    }
}

fn instance(record: &Record) -> Instance {
    Instance {
        id: record.id(),
        node: record.node.clone().into(),
        address: Some(address(record.index)),
        state: match record.state {
            State::Failed => InstanceState::Failed,
            State::Running => InstanceState::Running,
            State::Terminating => InstanceState::Terminating,
        },
        message: record.message.clone(),
    }
}

/// Address of the n-th node; nothing listens there.
fn address(index: u32) -> IpAddr {
    let [_, _, high, low] = index.saturating_add(10).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 77, high, low))
}
