//! The clusters that were made, seen from outside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use constellation_crds::ConstellationCluster;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{cloud::offer::is_simulated, cluster::secrets, error::Error, lease::Fence};

/// Key of the kubeconfig in its Secret; Cluster API's naming.
pub const KUBECONFIG_KEY: &str = "value";
/// Where our objects live in a real cluster.
const NAMESPACE: &str = "kube-system";

/// A cluster that was made.
#[derive(Clone)]
pub enum Workload {
    /// Its own API server.
    Real {
        /// An administrator's client.
        client: Client,
        /// The cluster's CA: PEM in base64, as kubeconfigs hold it.
        ca: String,
    },
    /// The management cluster itself plays it.
    Simulated {
        /// The management cluster's client.
        client: Client,
        /// The cluster's namespace.
        namespace: String,
    },
}

impl Workload {
    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        match self {
            Self::Real { client, .. } | Self::Simulated { client, .. } => client.clone(),
        }
    }

    /// Where `TrustBundle` and `NodeAdmission` live.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Real { .. } => NAMESPACE,
            Self::Simulated { namespace, .. } => namespace,
        }
    }
}

/// One client per cluster, made anew when its kubeconfig changes.
pub struct Registry {
    fence: Arc<Fence>,
    known: Mutex<HashMap<String, (String, Workload)>>,
}

impl Registry {
    /// Clients that write nothing once another operator may lead.
    #[must_use]
    pub fn new(fence: Arc<Fence>) -> Self {
        Self { fence, known: Mutex::default() }
    }

    /// The cluster that was made, or nothing while there is none yet.
    ///
    /// # Errors
    /// When the Secret can't be read, or holds no kubeconfig.
    pub async fn of(&self, management: &Client, cluster: &ConstellationCluster) -> Result<Option<Workload>, Error> {
        let namespace = cluster.namespace().unwrap_or_default();
        if is_simulated(cluster) {
            return Ok(Some(Workload::Simulated { client: management.clone(), namespace }));
        }
        let name = secrets::kubeconfig_name(cluster);
        let secrets: Api<Secret> = Api::namespaced(management.clone(), &namespace);
        let Some(secret) = secrets.get_opt(&name).await.map_err(Error::kube(format!("reading Secret {name}")))? else {
            return Ok(None);
        };
        let version = secret.resource_version().unwrap_or_default();
        let key = cluster.uid().unwrap_or_default();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((_, workload)) = known.filter(|(known, _)| *known == version) {
            return Ok(Some(workload));
        }
        let wrong = || {
            Error::Invalid(format!(
                "Secret {name} holds no kubeconfig under key {KUBECONFIG_KEY}; restore it: a cluster gives it once"
            ))
        };
        let bytes = secret.data.and_then(|mut data| data.remove(KUBECONFIG_KEY)).ok_or_else(wrong)?;
        let text = String::from_utf8(bytes.0).map_err(|_| wrong())?;
        let kubeconfig = Kubeconfig::from_yaml(&text).map_err(|_| wrong())?;
        let ca =
            kubeconfig.clusters.iter().find_map(|named| named.cluster.as_ref()?.certificate_authority_data.clone());
        let ca = ca.ok_or_else(wrong)?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|_| wrong())?;
        // Our cluster's address is no matter of a proxy to the Internet, which the environment may name.
        config.proxy_url = None;
        config.connect_timeout = Some(std::time::Duration::from_secs(5));
        config.read_timeout = Some(std::time::Duration::from_secs(30));
        let client = self.fence.client(config).map_err(|error| Error::Invalid(format!("Secret {name}: {error}")))?;
        let workload = Workload::Real { client, ca };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (version, workload.clone()));
        Ok(Some(workload))
    }
}
