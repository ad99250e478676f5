//! What every controller is given.

use std::sync::Arc;

use constellation_crds::ConstellationCluster;
use kube::{Api, Client, core::NamespaceResourceScope};

use crate::{
    cloud::{Cloud, offer::Offer},
    error::Error,
    events::Events,
    init, workload,
};

/// What every controller is given.
pub struct Context {
    /// The management cluster.
    pub client: Client,
    /// The clouds on offer.
    pub clouds: Offer,
    /// Events.
    pub events: Events,
    /// Clusters that were made.
    pub workloads: workload::Registry,
    /// Conversations with nodes that take minutes.
    pub inits: Arc<init::Registry>,
    /// Only this namespace; absent: all.
    pub namespace: Option<String>,
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

    /// The cloud that a cluster names.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the operator doesn't offer it, or its settings or credentials can't be used.
    pub async fn cloud(&self, cluster: &ConstellationCluster) -> Result<Arc<dyn Cloud>, Error> {
        self.clouds.of(cluster, &self.events).await
    }
}
