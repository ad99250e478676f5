//! What every controller is given.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_crds::ConstellationCluster;
use futures::Stream;
use kube::{
    Api, Client,
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;

use crate::{
    backoff::Counts,
    cloud::{Cloud, CloudError, ClusterUid, Instance, offer::Offer},
    collateral::Collector,
    error::Error,
    events::Events,
    health::Health,
    init,
    lease::Fence,
    metrics::Metrics,
    node::hold::Holds,
    watch::watch,
    workload,
};

/// What every controller is given.
pub struct Context {
    /// The management cluster.
    pub client: Client,
    /// The clouds on offer.
    pub clouds: Offer,
    /// What makers and clouds say about machines.
    pub collector: Arc<Collector>,
    /// Events.
    pub events: Events,
    /// Clusters that were made.
    pub workloads: workload::Registry,
    /// Conversations with nodes that take minutes.
    pub inits: Arc<init::Registry>,
    /// Machines as they were listed last.
    pub listings: Listings,
    /// Launches that were refused.
    pub holds: Holds,
    /// Failures in a row, of every kind of object.
    pub failures: Counts,
    /// Looks in a row at which nothing was new, of every object that waits for what no watch tells.
    pub looks: Counts,
    /// Whether this process may still act.
    pub fence: Arc<Fence>,
    /// Whether this process can do its work.
    pub health: Arc<Health>,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// Only this namespace; absent: all.
    pub namespace: Option<String>,
    /// Until a watch begins anew.
    pub relist: Duration,
}

impl Context {
    /// The objects that this operator looks after.
    #[must_use]
    pub fn scope<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let client = self.client.clone();
        match &self.namespace {
            Some(name) => Api::namespaced(client, name),
            None => Api::all(client),
        }
    }

    /// Objects that this operator looks after, as they come, change and go; now and then all of them again.
    pub fn watch<K>(&self) -> impl Stream<Item = watcher::Result<K>> + Send + use<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
        K::DynamicType: Default,
    {
        watch(self.scope::<K>(), watcher::Config::default(), self.relist).touched_objects()
    }

    /// The cloud that a cluster names.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the operator doesn't offer it, or its settings or credentials can't be used.
    pub async fn cloud(&self, cluster: &ConstellationCluster) -> Result<Arc<dyn Cloud>, Error> {
        self.clouds.of(cluster, &self.events).await
    }
}

/// Machines as they were listed last, by cluster: nodes that only wait for news share one listing.
#[derive(Default)]
pub struct Listings(Mutex<BTreeMap<ClusterUid, (Instant, Vec<Instance>)>>);

impl Listings {
    /// The machines of a cluster, not older than `age`.
    ///
    /// # Errors
    /// The cloud's own.
    pub async fn of(
        &self,
        cloud: &dyn Cloud,
        cluster: &ClusterUid,
        age: Duration,
    ) -> Result<Vec<Instance>, CloudError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned();
        if let Some((_, instances)) = known.filter(|(at, _)| at.elapsed() < age) {
            return Ok(instances);
        }
        let asked = Instant::now();
        let instances = match cloud.find(cluster).await {
            Err(CloudError::NotFound(_)) => Vec::new(),
            found => found?,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A cluster that nobody asked for in so long is gone.
        all.retain(|_, (at, _)| at.elapsed() < FORGET);
        all.insert(cluster.clone(), (asked, instances.clone()));
        Ok(instances)
    }
}

/// Longer than any age that is asked for.
const FORGET: Duration = Duration::from_mins(10);
