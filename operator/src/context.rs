//! What every controller is given.

use std::{collections::BTreeMap, sync::Arc};

use constellation_crds::ConstellationCluster;
use kube::{Api, Client, core::NamespaceResourceScope};

use crate::{cloud::Cloud, error::Error, events::Events, init, workload};

/// What every controller is given.
pub struct Context {
    /// The management cluster.
    pub client: Client,
    /// Clouds by provider name.
    pub clouds: BTreeMap<&'static str, Arc<dyn Cloud>>,
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
    /// [`Error::Invalid`] when the operator wasn't started with it.
    pub fn cloud(&self, cluster: &ConstellationCluster) -> Result<&Arc<dyn Cloud>, Error> {
        let name = provider(cluster);
        self.clouds.get(name).ok_or_else(|| {
            let flag = if name == "simulated" {
                " (start it with --allow-simulated: this provider proves nothing)"
            } else {
                ""
            };
            Error::Invalid(format!("this operator doesn't run provider {name}{flag}"))
        })
    }
}

/// Name of the provider that a cluster asks for.
#[must_use]
pub fn provider(cluster: &ConstellationCluster) -> &'static str {
    if cluster.spec.provider.simulated.is_some() { "simulated" } else { "local" }
}
