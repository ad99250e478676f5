//! The Kubernetes API as the verifier needs it: reads that are live or say that they aren't, and writes by compare-and-swap.

use std::{
    fmt::Debug,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::protocol::KUBELET_SIGNER;
use constellation_crds::{
    NodeAdmission, TrustBundle, TrustBundleSpec,
    node::{AttestationResult, Refusals},
};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::ConfigMap};
use kube::{
    Api, Client, Config, Resource,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, NamedAuthInfo},
    runtime::{WatchStreamExt as _, watcher},
};
use rcgen::KeyPair;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    authority::{self, Key, Subject},
    home,
    refusals::{self, Name, News},
    watched::{AtHand, Version, Watched},
};

/// The user that verifiers are to the API server.
pub const USER: &str = "constellation:verifier";
/// Name of the one trust bundle.
pub const BUNDLE: &str = "constellation";
/// What is missing where it isn't there.
pub const TRUST: &str = "TrustBundle constellation";
/// `ConfigMap` in which kubeadm keeps the kubelets' configuration.
const KUBELET_CONFIG: &str = "kubelet-config";
/// Status of an answer that asks to come again later (RFC 6585, 4).
const TOO_MANY: u16 = 429;
/// Where kubeadm puts it.
const KUBELET_CONFIG_NAMESPACE: &str = "kube-system";
/// Its key.
const KUBELET_CONFIG_KEY: &str = "kubelet";
/// An API server under emulation may take many seconds, but a node waits no longer than a minute for its verdict.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the API gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server failed or can't be reached.
    #[error("{0} failed")]
    Api(&'static str, #[source] Box<kube::Error>),
    /// We can't make ourselves a certificate.
    #[error("making a certificate for user {USER} failed")]
    Authority(#[source] authority::Error),
    /// Somebody else wrote first.
    #[error("the object was changed meanwhile")]
    Conflict,
    /// The cluster's CA can't be read.
    #[error("reading the cluster's CA failed")]
    Files(#[source] home::Error),
    /// The kubeconfig can't be used.
    #[error("using the kubeconfig {0} failed")]
    Kubeconfig(PathBuf, #[source] kube::config::KubeconfigError),
    /// An object that must be there isn't.
    #[error("{0} isn't there")]
    Missing(&'static str),
    /// The API server took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
}

impl Error {
    /// Whether the API server answered, and gave nothing: it won't do so the next time either, unless somebody acts.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Api(_, error) => {
                matches!(&**error, kube::Error::Api(status) if matches!(status.code, 400..=499) && !status.is_conflict() && status.code != TOO_MANY)
            }
            _ => false,
        }
    }
}

/// What the verifier reads and writes. Nothing is cached but [`Store::at_hand`].
pub trait Store: Send + Sync + 'static {
    /// The admission of a node.
    fn node(&self, uid: &str) -> impl Future<Output = Result<Option<NodeAdmission>, Error>> + Send;
    /// All admissions.
    fn nodes(&self) -> impl Future<Output = Result<Vec<NodeAdmission>, Error>> + Send;
    /// Writes an admission's status, if nobody wrote the object since it was read.
    ///
    /// # Errors
    /// [`Error::Conflict`] when somebody did, or deleted it.
    fn record(&self, node: &NodeAdmission) -> impl Future<Output = Result<(), Error>> + Send;
    /// Adds refusals to what is told of a node, or of the cluster: to that alone, if nobody wrote it meanwhile.
    ///
    /// # Errors
    /// [`Error::Conflict`] when somebody did; [`Error::Missing`] when there is nothing to write to.
    fn refused(&self, news: &News) -> impl Future<Output = Result<(), Error>> + Send;
    /// What watches last told of a node and of the bundle, where they know both. It may be old: [`Store::record`] knows
    /// whether the admission is, and [`Store::is_current`] whether the bundle is.
    fn at_hand(&self, uid: &str) -> Option<AtHand>;
    /// Whether the API server has this version of the trust bundle now. One that it hasn't isn't at hand again.
    fn is_current(&self, version: &Version) -> impl Future<Output = Result<bool, Error>> + Send;
    /// The trust bundle. Not yet believed.
    fn bundle(&self) -> impl Future<Output = Result<TrustBundleSpec, Error>> + Send;
    /// The kubelets' configuration.
    fn kubelet_config(&self) -> impl Future<Output = Result<String, Error>> + Send;
    /// Kubelets' requests for certificates, answered and not.
    fn requests(&self) -> impl Future<Output = Result<Vec<CertificateSigningRequest>, Error>> + Send;
    /// Writes a request's conditions, if nobody wrote it since it was read.
    ///
    /// # Errors
    /// [`Error::Conflict`] when somebody did; [`Error::Missing`] when it is gone.
    fn answer(&self, request: &CertificateSigningRequest) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The cluster that we are part of.
pub struct Cluster {
    nodes: Api<NodeAdmission>,
    bundles: Api<TrustBundle>,
    config_maps: Api<ConfigMap>,
    requests: Api<CertificateSigningRequest>,
    watched: Watched,
}

impl Cluster {
    /// Prepares calls with a kubeconfig; the API server needn't be up.
    pub async fn open(kubeconfig: &Path, namespace: &str) -> Result<Self, Error> {
        Self::with(read(kubeconfig)?, kubeconfig, namespace).await
    }

    /// As [`Cluster::open`], as user [`USER`] with a certificate made now. Of the administrator's kubeconfig only the
    /// API server's address and CA are used; we hold the cluster's CA key anyway, and want no more rights than we need.
    pub async fn open_as_verifier(
        admin_kubeconfig: &Path,
        ca_certificate: &str,
        ca_key: &str,
        namespace: &str,
    ) -> Result<Self, Error> {
        let mut kubeconfig = read(admin_kubeconfig)?;
        let key = Key(KeyPair::generate().map_err(|error| Error::Authority(authority::Error::Sign(error)))?);
        let subject = Subject { organization: None, common_name: USER };
        let time = (Timestamp::now(), authority::LIFE);
        let certificate =
            authority::client_certificate(ca_certificate, ca_key, &key.0, subject, time).map_err(Error::Authority)?;
        let user = AuthInfo {
            client_certificate_data: Some(STANDARD.encode(certificate)),
            client_key_data: Some(STANDARD.encode(Zeroizing::new(key.0.serialize_pem()).as_bytes()).into()),
            ..AuthInfo::default()
        };
        let context = kubeconfig.current_context.clone().unwrap_or_default();
        let Some(context) = kubeconfig.contexts.iter_mut().find(|named| named.name == context) else {
            return Err(Error::Missing("the administrator's current context"));
        };
        let Some(context) = &mut context.context else {
            return Err(Error::Missing("the administrator's current context"));
        };
        context.user = Some(USER.to_owned());
        kubeconfig.auth_infos =
            vec![NamedAuthInfo { name: USER.to_owned(), auth_info: Some(user), ..NamedAuthInfo::default() }];
        Self::with(kubeconfig, admin_kubeconfig, namespace).await
    }

    async fn with(kubeconfig: Kubeconfig, path: &Path, namespace: &str) -> Result<Self, Error> {
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| Error::Kubeconfig(path.to_owned(), error))?;
        // The node knocks again by itself; retries in here would only make it wait.
        config.default_retry = false;
        // [`call`] has the limit; kube's would close connections that are idle for as long.
        config.read_timeout = None;
        let client = Client::try_from(config).map_err(|error| Error::Api("preparing a client", Box::new(error)))?;
        Ok(Self {
            nodes: Api::namespaced(client.clone(), namespace),
            bundles: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), KUBELET_CONFIG_NAMESPACE),
            requests: Api::all(client),
            watched: Watched::new(namespace),
        })
    }

    /// Keeps up what is at hand, without end.
    pub async fn follow(&self) {
        self.watched.follow(self.nodes.clone(), self.bundles.clone()).await;
    }

    /// A word whenever something may have changed about kubelets' requests for certificates, and when it can't be told.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        let config = watcher::Config::default().fields(&of_kubelets());
        watcher::watcher(self.requests.clone(), config).default_backoff().map(|event| match event {
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "Watching kubelets' requests failed, trying again"),
        })
    }
}

fn read(kubeconfig: &Path) -> Result<Kubeconfig, Error> {
    Kubeconfig::read_from(kubeconfig).map_err(|error| Error::Kubeconfig(kubeconfig.to_owned(), error))
}

impl Store for Cluster {
    async fn node(&self, uid: &str) -> Result<Option<NodeAdmission>, Error> {
        call("reading a NodeAdmission", self.nodes.get_opt(uid)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeAdmission>, Error> {
        Ok(call("listing NodeAdmissions", self.nodes.list(&ListParams::default())).await?.items)
    }

    async fn record(&self, node: &NodeAdmission) -> Result<(), Error> {
        let name = node.metadata.name.as_deref().ok_or(Error::Missing("the admission's name"))?;
        // Without it the API server would overwrite whatever is there.
        node.metadata.resource_version.as_deref().ok_or(Error::Missing("the admission's resource version"))?;
        let params = PostParams::default();
        match call("recording an admission", self.nodes.replace_status(name, &params, node)).await {
            Ok(_) => Ok(()),
            Err(Error::Api(_, error)) if is_conflict(&error) || is_gone(&error) => Err(Error::Conflict),
            Err(error) => Err(error),
        }
    }

    async fn refused(&self, news: &News) -> Result<(), Error> {
        match &news.name {
            Name::Node(uid) => {
                let node = self.node(uid).await?.ok_or(Error::Missing("the node's NodeAdmission"))?;
                let before = node.status.as_ref().and_then(|status| status.refusals.as_ref());
                add(&self.nodes, &node, &refusals::after(before, news)).await
            }
            Name::Nobody => {
                let bundle = call("reading the TrustBundle", self.bundles.get_opt(BUNDLE)).await?;
                let bundle = bundle.ok_or(Error::Missing(TRUST))?;
                let before = bundle.status.as_ref().and_then(|status| status.refusals.as_ref());
                add(&self.bundles, &bundle, &refusals::after(before, news)).await
            }
        }
    }

    fn at_hand(&self, uid: &str) -> Option<AtHand> {
        self.watched.get(uid)
    }

    async fn is_current(&self, version: &Version) -> Result<bool, Error> {
        let bundle = call("looking at the TrustBundle", self.bundles.get_metadata_opt(BUNDLE)).await?;
        let current = bundle.and_then(|bundle| Version::of(&bundle.metadata)).as_ref() == Some(version);
        if !current {
            self.watched.forget(version.clone());
        }
        Ok(current)
    }

    async fn bundle(&self) -> Result<TrustBundleSpec, Error> {
        let bundle = call("reading the TrustBundle", self.bundles.get_opt(BUNDLE)).await?;
        Ok(bundle.ok_or(Error::Missing(TRUST))?.spec)
    }

    async fn kubelet_config(&self) -> Result<String, Error> {
        let map = call("reading the kubelets' configuration", self.config_maps.get_opt(KUBELET_CONFIG)).await?;
        map.and_then(|map| map.data)
            .and_then(|mut data| data.remove(KUBELET_CONFIG_KEY))
            .filter(|text| !text.is_empty())
            .ok_or(Error::Missing("ConfigMap kubelet-config"))
    }

    async fn requests(&self) -> Result<Vec<CertificateSigningRequest>, Error> {
        let params = ListParams::default().fields(&of_kubelets());
        Ok(call("listing CertificateSigningRequests", self.requests.list(&params)).await?.items)
    }

    async fn answer(&self, request: &CertificateSigningRequest) -> Result<(), Error> {
        let name = request.metadata.name.as_deref().ok_or(Error::Missing("the request's name"))?;
        let version = request.metadata.resource_version.as_deref();
        let version = version.ok_or(Error::Missing("the request's resource version"))?;
        let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
        let body = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&body));
        match call("answering a kubelet's request", self.requests.patch_approval(name, &params, &patch)).await {
            Ok(_) => Ok(()),
            Err(Error::Api(_, error)) if is_conflict(&error) => Err(Error::Conflict),
            Err(Error::Api(_, error)) if is_gone(&error) => Err(Error::Missing("the request")),
            Err(error) => Err(error),
        }
    }
}

/// Selects kubelets' requests.
fn of_kubelets() -> String {
    format!("spec.signerName={KUBELET_SIGNER}")
}

/// Writes the refusals in a status, and nothing beside them.
async fn add<K>(api: &Api<K>, object: &K, refusals: &Refusals) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    // With the version that was read: what another verifier counted meanwhile isn't lost.
    let metadata = json!({"resourceVersion": object.meta().resource_version});
    let body = json!({"metadata": metadata, "status": {"refusals": whole(refusals)}});
    let (name, params) = (object.meta().name.as_deref().unwrap_or_default(), PatchParams::default());
    match call("telling of refusals", api.patch_status(name, &params, &Patch::Merge(&body))).await {
        Ok(_) => Ok(()),
        Err(Error::Api(_, error)) if is_conflict(&error) => Err(Error::Conflict),
        Err(error) => Err(error),
    }
}

/// As JSON that replaces what is there: what isn't said is null, else a merge would keep the earlier refusal's. Taken
/// apart without `..`, so that a new field can't be forgotten here.
fn whole(refusals: &Refusals) -> Value {
    let Refusals { count, since, last, others } = refusals;
    let AttestationResult {
        verdict,
        platform,
        measurement_set,
        trust_revision,
        time,
        evidence_digest,
        refusal_id,
        mismatches,
    } = last;
    json!({"count": count, "since": since, "last": {
        "verdict": verdict, "platform": platform, "measurementSet": measurement_set, "trustRevision": trust_revision,
        "time": time, "evidenceDigest": evidence_digest, "refusalId": refusal_id, "mismatches": mismatches,
    }, "others": others})
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

async fn call<T>(what: &'static str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| Error::Api(what, Box::new(error))),
        Err(_) => Err(Error::Timeout(what)),
    }
}
