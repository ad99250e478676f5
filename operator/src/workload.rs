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
use serde_json::Value;

use crate::{cloud::offer::is_simulated, cluster::secrets, error::Error, lease::Fence};

/// Key of the kubeconfig in its Secret; Cluster API's naming.
pub const KUBECONFIG_KEY: &str = "value";
/// Greatest kubeconfig, bytes: one of kubeadm's has six thousand. What the YAML parser allows is meant for files of one's
/// own: a thousand documents in a text, each merged with all before it, and 250,000 values in all.
const KUBECONFIG_BYTES: usize = 64 * 1024;
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

/// Why a text is no kubeconfig that is used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    /// It holds more than data.
    #[error("may hold data only, and has {0}")]
    Member(String),
    /// It is no kubeconfig, or a far greater text than one.
    #[error("can't be read")]
    Text,
}

/// Reads a kubeconfig that a node or a Secret gave.
///
/// # Errors
/// When it is none, or holds more than data.
pub fn parse(text: &str) -> Result<Kubeconfig, Unfit> {
    if text.len() > KUBECONFIG_BYTES {
        return Err(Unfit::Text);
    }
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|_| Unfit::Text)?;
    check(&kubeconfig).map_err(Unfit::Member)?;
    Ok(kubeconfig)
}

/// Checks that a kubeconfig holds data and nothing else: who may write a Secret, or made a node, must not have a file of
/// ours read and sent, a program run, or a proxy asked.
fn check(kubeconfig: &Kubeconfig) -> Result<(), String> {
    const CLUSTER: [&str; 2] = ["certificate-authority-data", "server"];
    const USER: [&str; 2] = ["client-certificate-data", "client-key-data"];
    let parts = |part: serde_json::Result<Value>, known: [&str; 2]| match part.unwrap_or_default() {
        Value::Object(members) => members.keys().find(|member| !known.contains(&member.as_str())).cloned(),
        Value::Null => None,
        _ => Some("a form that isn't known".to_owned()),
    };
    let clusters = kubeconfig.clusters.iter().filter_map(|named| parts(serde_json::to_value(&named.cluster), CLUSTER));
    let users = kubeconfig.auth_infos.iter().filter_map(|named| parts(serde_json::to_value(&named.auth_info), USER));
    clusters.chain(users).next().map_or(Ok(()), Err)
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

    /// The cluster that was made, or nothing while there is none yet. One that is being deleted is also none where its
    /// kubeconfig can't be used: to end VMs nobody in it is asked.
    ///
    /// # Errors
    /// When the Secret can't be read, or holds no kubeconfig.
    pub async fn of(&self, management: &Client, cluster: &ConstellationCluster) -> Result<Option<Workload>, Error> {
        match self.open(management, cluster).await {
            Err(error) if cluster.metadata.deletion_timestamp.is_some() && error.needs_help() => Ok(None),
            other => other,
        }
    }

    /// Lets go of a cluster's client, and of the administrator's key in it.
    pub fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    async fn open(&self, management: &Client, cluster: &ConstellationCluster) -> Result<Option<Workload>, Error> {
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
            Error::Secret(format!(
                "Secret {name} holds no kubeconfig under key {KUBECONFIG_KEY}; restore it: a cluster gives it once"
            ))
        };
        let metadata = secret.metadata;
        let bytes = secret.data.and_then(|mut data| data.remove(KUBECONFIG_KEY)).ok_or_else(wrong)?;
        let text = String::from_utf8(bytes.0).map_err(|_| wrong())?;
        let kubeconfig = parse(&text).map_err(|unfit| match unfit {
            Unfit::Member(_) => Error::Secret(format!("the kubeconfig in Secret {name} {unfit}: take it out")),
            Unfit::Text => wrong(),
        })?;
        if !secrets::is_of(cluster, &metadata, secrets::is_initialized(cluster)) {
            return Err(Error::Secret(secrets::foreign(&name)));
        }
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
        let client = self.fence.client(config).map_err(|error| Error::Secret(format!("Secret {name}: {error}")))?;
        let workload = Workload::Real { client, ca };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (version, workload.clone()));
        Ok(Some(workload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_holds_data_and_nothing_that_reads_runs_or_asks() {
        let with = |cluster: &str, user: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Config, clusters: [{{name: c, cluster: {{server: 'https://a:6443', \
                 certificate-authority-data: QQ=={cluster}}}}}], users: [{{name: u, user: {{client-certificate-data: QQ==, \
                 client-key-data: QQ=={user}}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], \
                 current-context: x}}"
            );
            parse(&text).map(drop)
        };
        assert_eq!(with("", ""), Ok(()));
        for (cluster, user, named) in [
            (", insecure-skip-tls-verify: true", "", "insecure-skip-tls-verify"),
            (", certificate-authority: /etc/ca", "", "certificate-authority"),
            (", proxy-url: 'http://a'", "", "proxy-url"),
            ("", ", tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token", "tokenFile"),
            ("", ", exec: {command: sh}", "exec"),
            ("", ", auth-provider: {name: x, config: {}}", "auth-provider"),
            ("", ", client-key: /etc/key", "client-key"),
            ("", ", token: a", "token"),
            ("", ", as: admin", "as"),
            ("", ", more: 1", "more"),
        ] {
            assert_eq!(with(cluster, user), Err(Unfit::Member(named.to_owned())));
        }
    }

    #[test]
    fn a_text_far_greater_than_a_kubeconfig_is_not_read() {
        let of = |bytes: usize| parse(&format!("kind: Config\n#{}", "-".repeat(bytes - 14))).map(drop);
        assert_eq!(of(KUBECONFIG_BYTES), Ok(()));
        assert_eq!(of(KUBECONFIG_BYTES + 1), Err(Unfit::Text));
    }
}
