//! In a build for tests: real rooms over a scripted endpoint, whose machines `simulated` ones answer for.
//!
//! Everything that the operator does to a cloud is what it does to a real one. What its machines say isn't: they are
//! played on the management cluster, as those of provider `simulated` are, and what they claim is named so.

#[cfg(not(debug_assertions))]
compile_error!("feature `scripted` is for tests: a release must not believe machines that prove nothing");

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, LaunchRequest, Network, NetworkRequest, Stream, calls,
    demand::{Demand, Shape},
    simulated::NAME,
};

/// Environment variable: URL of the endpoint.
const ENDPOINT: &str = "CONSTELLATION_SCRIPTED_ENDPOINT";

/// Where the scripted cloud listens; without it rooms talk to the real one, as in any other build.
pub fn endpoint() -> Option<String> {
    std::env::var(ENDPOINT).ok()
}

/// A room whose machines claim what `simulated` ones do.
pub struct Scripted(pub Arc<dyn Cloud>);

#[async_trait]
impl Cloud for Scripted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn platform(&self) -> &'static str {
        NAME
    }

    fn exclusive(&self) -> bool {
        self.0.exclusive()
    }

    async fn endorsement_roots(&self, cluster: &ClusterUid) -> Result<Vec<String>, CloudError> {
        self.0.endorsement_roots(cluster).await
    }

    async fn check_capability(&self, demand: &Demand) -> Result<(), CloudError> {
        self.0.check_capability(demand).await
    }

    async fn check_quota(&self, cluster: &ClusterUid, demand: &Demand) -> Result<(), CloudError> {
        self.0.check_quota(cluster, demand).await
    }

    async fn shapes(&self, types: &BTreeSet<String>) -> Result<Vec<Shape>, CloudError> {
        self.0.shapes(types).await
    }

    fn calls(&self) -> BTreeMap<calls::Key, u64> {
        self.0.calls()
    }

    fn watch_calls(&self, watcher: Box<dyn calls::Watcher>) {
        self.0.watch_calls(watcher);
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<Network, CloudError> {
        self.0.ensure_network(request).await
    }

    async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        self.0.remove_network(cluster).await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, CloudError> {
        self.0.launch(request).await
    }

    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, CloudError> {
        self.0.find(cluster).await
    }

    async fn terminate(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        self.0.terminate(cluster, id).await
    }

    async fn set_endpoint_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError> {
        self.0.set_endpoint_targets(cluster, targets).await
    }

    async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        self.0.clusters().await
    }

    async fn dial(&self, cluster: &ClusterUid, address: SocketAddr) -> Result<Box<dyn Stream>, CloudError> {
        self.0.dial(cluster, address).await
    }
}
