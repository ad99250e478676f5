//! What watches last told of admissions and the trust bundle: enough to challenge a node with, never to decide by.
//!
//! A watch can be late, and whoever holds up the network can keep it late for long. So the bundle counts only once the API
//! server has said, after the node's Hello, that it has no other (else that one counts), and an admission only by the write that
//! takes the place of what was read, or by another read where there is nothing to write.

use std::{
    fmt::Debug,
    sync::{Mutex, OnceLock, PoisonError},
};

use constellation_crds::{NodeAdmission, TrustBundle, TrustBundleSpec};
use futures::StreamExt as _;
use kube::{
    Api, Resource,
    api::ObjectMeta,
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde::de::DeserializeOwned;

use crate::store::BUNDLE;

/// Which of its contents an object has: the API server counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    uid: String,
    generation: i64,
}

impl Version {
    /// As an object's metadata says; nothing where it doesn't.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        Some(Self { uid: metadata.uid.clone()?, generation: metadata.generation? })
    }
}

/// A trust bundle to challenge a node with.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What it says. Not yet believed.
    pub spec: TrustBundleSpec,
    /// Its version, where a watch told of it before the node's Hello: another one that is there by now takes its place.
    pub unconfirmed: Option<Version>,
}

impl From<TrustBundleSpec> for Bundle {
    /// One that was read for this conversation.
    fn from(spec: TrustBundleSpec) -> Self {
        Self { spec, unconfirmed: None }
    }
}

/// A node's admission and the trust bundle, as they were not long ago.
#[derive(Clone, Debug)]
pub struct AtHand {
    /// The admission.
    pub node: NodeAdmission,
    /// The bundle, unconfirmed.
    pub bundle: Bundle,
}

/// Both, by watches that [`Watched::follow`] drives.
pub struct Watched {
    namespace: String,
    stores: OnceLock<Stores>,
    /// A version that the API server no longer has, whatever a watch that stands still says.
    outdated: Mutex<Option<Version>>,
}

struct Stores {
    nodes: reflector::Store<NodeAdmission>,
    bundles: reflector::Store<TrustBundle>,
}

impl Watched {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), stores: OnceLock::new(), outdated: Mutex::default() }
    }

    /// What is known of a node; nothing where a part is missing, or the bundle was found to be old.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<AtHand> {
        let Stores { nodes, bundles } = self.stores.get()?;
        let node = nodes.get(&reflector::ObjectRef::new(uid).within(&self.namespace))?;
        let bundle = bundles.get(&reflector::ObjectRef::new(BUNDLE).within(&self.namespace))?;
        let version = Version::of(bundle.meta())?;
        if self.outdated.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&version) {
            return None;
        }
        let bundle = Bundle { spec: bundle.spec.clone(), unconfirmed: Some(version) };
        Some(AtHand { node: NodeAdmission::clone(&node), bundle })
    }

    /// The API server has another bundle than this one: nothing starts from it again.
    pub fn forget(&self, version: Version) {
        *self.outdated.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
    }

    /// Watches without end; who calls this a second time waits for nothing.
    pub async fn follow(&self, nodes: Api<NodeAdmission>, bundles: Api<TrustBundle>) {
        let ((of_nodes, to_nodes), (of_bundles, to_bundles)) = (reflector::store(), reflector::store());
        if self.stores.set(Stores { nodes: of_nodes, bundles: of_bundles }).is_err() {
            return;
        }
        let bundle = watcher::Config::default().fields(&format!("metadata.name={BUNDLE}"));
        tokio::join!(follow(nodes, watcher::Config::default(), to_nodes), follow(bundles, bundle, to_bundles));
    }
}

async fn follow<K>(api: Api<K>, config: watcher::Config, writer: reflector::store::Writer<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher::watcher(api, config).default_backoff().reflect(writer);
    events
        .for_each(|event| async move {
            if let Err(error) = event {
                tracing::debug!(kind = %K::kind(&()), %error, "Watching failed, trying again");
            }
        })
        .await;
}
