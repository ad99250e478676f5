//! The clouds that this operator offers: those that were started with it, and rooms made from a cluster's own settings.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use constellation_crds::ConstellationCluster;
use kube::Client;

#[cfg(feature = "rooms")]
use super::rooms::Rooms;
use super::{
    Cloud,
    calls::{Call, Watcher},
};
use crate::{error::Error, events::Events, lease::Fence, metrics::Metrics};

/// The clouds on offer.
pub struct Offer {
    started: BTreeMap<&'static str, Arc<dyn Cloud>>,
    #[cfg(feature = "rooms")]
    rooms: Rooms,
}

impl Offer {
    /// Offers what was started, by provider name, and the rooms that are built in; their calls are counted, and held back
    /// when another operator may lead.
    #[must_use]
    pub fn new(client: Client, started: BTreeMap<&'static str, Arc<dyn Cloud>>, guard: &Guard) -> Self {
        #[cfg(not(feature = "rooms"))]
        drop(client);
        for cloud in started.values() {
            guard.stand_beside(cloud.as_ref());
        }
        Self {
            started,
            #[cfg(feature = "rooms")]
            rooms: Rooms::new(client, guard.clone()),
        }
    }

    /// Whether no cluster at all could be served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.started.is_empty() && !["aws", "azure", "gcp"].into_iter().any(built_in)
    }

    /// The cloud that a cluster names.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it isn't offered, or its settings or credentials can't be used.
    #[cfg_attr(not(feature = "rooms"), allow(clippy::unused_async, reason = "only rooms are waited for"))]
    pub async fn of(&self, cluster: &ConstellationCluster, events: &Events) -> Result<Arc<dyn Cloud>, Error> {
        let name = provider(cluster);
        if let Some(cloud) = self.started.get(name) {
            return Ok(Arc::clone(cloud));
        }
        #[cfg(feature = "rooms")]
        if built_in(name) {
            // An SDK's set-up is a large future, and every caller's would hold it.
            return Box::pin(self.rooms.of(cluster, events)).await;
        }
        #[cfg(not(feature = "rooms"))]
        let _ = events;
        Err(Error::Invalid(refusal(name)))
    }

    /// Every cloud in use, under a name that tells it from the others.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Arc<dyn Cloud>> {
        let all: BTreeMap<_, _> =
            self.started.iter().map(|(name, cloud)| ((*name).to_owned(), Arc::clone(cloud))).collect();
        #[cfg(feature = "rooms")]
        let all = all.into_iter().chain(self.rooms.all()).collect();
        all
    }
}

/// Who stands beside the calls of all clouds.
#[derive(Clone)]
pub struct Guard {
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// Whether this process may still act.
    pub fence: Arc<Fence>,
}

impl Guard {
    /// Watches a cloud's calls; what is given back counts those that were denied since one was answered.
    pub(super) fn stand_beside(&self, cloud: &dyn Cloud) -> Arc<AtomicU32> {
        let denied = Arc::<AtomicU32>::default();
        let beside = Beside { provider: cloud.name(), guard: self.clone(), denied: Arc::clone(&denied) };
        cloud.watch_calls(Box::new(beside));
        denied
    }
}

/// [`CloudError::word`](super::CloudError::word) of a call that was denied.
const DENIED: &str = "denied";

/// A guard of one cloud.
struct Beside {
    provider: &'static str,
    guard: Guard,
    denied: Arc<AtomicU32>,
}

impl Watcher for Beside {
    fn may_call(&self) -> bool {
        self.guard.fence.check().is_ok()
    }

    fn ended(&self, call: &Call) {
        self.guard.metrics.called(self.provider, call);
        match call.outcome {
            DENIED => self.denied.fetch_add(1, Ordering::Relaxed),
            _ => self.denied.swap(0, Ordering::Relaxed),
        };
    }
}

/// Name of the provider that a cluster asks for.
#[must_use]
pub fn provider(cluster: &ConstellationCluster) -> &'static str {
    let given = &cluster.spec.provider;
    let named = [
        ("aws", given.aws.is_some()),
        ("azure", given.azure.is_some()),
        ("gcp", given.gcp.is_some()),
        ("simulated", given.simulated.is_some()),
    ];
    named.into_iter().find(|(_, asked)| *asked).map_or("local", |(name, _)| name)
}

/// Whether a cluster's machines are played: the management cluster's API server is theirs, and there is no etcd, no port
/// and no proof. In a build for tests those of a scripted cloud are, too.
#[must_use]
pub fn is_simulated(cluster: &ConstellationCluster) -> bool {
    #[cfg(feature = "scripted")]
    if super::scripted::endpoint().is_some() {
        return true;
    }
    provider(cluster) == "simulated"
}

/// Whether a provider's room is part of this program.
fn built_in(provider: &str) -> bool {
    let built = [("aws", cfg!(feature = "aws")), ("azure", cfg!(feature = "azure")), ("gcp", cfg!(feature = "gcp"))];
    built.contains(&(provider, true))
}

fn refusal(provider: &str) -> String {
    let cure = match provider {
        "local" => "start it with --local-state-dir",
        "simulated" => "start it with --allow-simulated: this provider proves nothing",
        _ => "it was built without it: use an operator that was built with this cargo feature",
    };
    format!("this operator doesn't run provider {provider} ({cure})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_is_not_offered_is_refused_with_the_cure() {
        assert!(refusal("simulated").contains("--allow-simulated"));
        assert!(refusal("local").contains("--local-state-dir"));
        assert!(refusal("aws").contains("provider aws") && refusal("aws").contains("cargo feature"));
        assert_eq!(built_in("aws"), cfg!(feature = "aws"));
        assert_eq!(built_in("azure"), cfg!(feature = "azure"));
        assert_eq!(built_in("gcp"), cfg!(feature = "gcp"));
        assert!(!built_in("local"));
    }
}
