//! Rooms of real clouds, made when a cluster first asks: equal settings share a room, and so its lists and its turns.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcp")]
mod gcp;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use constellation_crds::{
    ConstellationCluster,
    cluster::{LocalRef, Tee},
    condition::reason,
};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::{
    Cloud,
    offer::{Guard, provider},
};
use crate::{error::Error, events::Events};

/// Its UID says which management cluster this is, for as long as that lives.
const SYSTEM: &str = "kube-system";

/// How long making a room may take: some SDKs ask the machine that they run on who they are.
const PATIENCE: Duration = Duration::from_secs(30);
/// A room in which everything is denied is made anew after so long: some SDKs keep a token that was refused for ever, and
/// what was missing may have been granted.
const ANEW: Duration = Duration::from_mins(1);
/// Everything: so many calls in a row. One that may not do this or that keeps its room, which knows what it launched.
const DENIALS: u32 = 3;

/// The rooms.
pub(super) struct Rooms {
    client: Client,
    guard: Guard,
    owner: OnceCell<String>,
    made: Mutex<BTreeMap<String, Room>>,
}

struct Room {
    /// Version of the Secret with the credentials.
    credentials: Option<String>,
    cloud: Arc<dyn Cloud>,
    made: Instant,
    /// Calls in a row that were denied.
    denied: Arc<AtomicU32>,
}

impl Room {
    fn is_good(&self, credentials: Option<&String>) -> bool {
        let denied = self.denied.load(Ordering::Relaxed);
        self.credentials.as_ref() == credentials && !is_stale(denied, self.made.elapsed())
    }
}

fn is_stale(denied: u32, age: Duration) -> bool {
    denied >= DENIALS && age >= ANEW
}

/// What rooms are made from, beside the provider's own settings.
struct Given<'a> {
    /// Marks what is ours in an account that others use too.
    owner: String,
    tee: Tee,
    credentials: Option<&'a Secret>,
    /// A scripted cloud that is asked without credentials; nothing in any build but one for tests.
    endpoint: Option<String>,
}

impl Given<'_> {
    /// Who asks: the version of the credentials; empty for the operator's own identity.
    #[cfg(any(feature = "aws", feature = "gcp"))]
    fn identity(&self) -> String {
        let version = |secret: &Secret| {
            format!("{} {}", secret.uid().unwrap_or_default(), secret.resource_version().unwrap_or_default())
        };
        self.credentials.map(version).unwrap_or_default()
    }

    /// A member of the credentials; nothing without credentials.
    fn credential(&self, key: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let Some(secret) = self.credentials else { return Ok(None) };
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        let text = value.and_then(|value| String::from_utf8(value.0.clone()).ok()).filter(|text| !text.is_empty());
        let wrong = || Error::Invalid(format!("Secret {} with the credentials has no text {key}", secret.name_any()));
        text.map(|text| Some(Zeroizing::new(text))).ok_or_else(wrong)
    }
}

impl Rooms {
    pub(super) fn new(client: Client, guard: Guard) -> Self {
        Self { client, guard, owner: OnceCell::new(), made: Mutex::default() }
    }

    /// The room of a cluster's settings; made anew when its credentials changed, or were denied everything.
    pub(super) async fn of(&self, cluster: &ConstellationCluster, events: &Events) -> Result<Arc<dyn Cloud>, Error> {
        let secret = self.credentials(cluster).await?;
        let version = secret.as_ref().and_then(kube::ResourceExt::resource_version);
        let place = place(cluster);
        let good = |rooms: &BTreeMap<String, Room>| {
            let room = rooms.get(&place).filter(|room| room.is_good(version.as_ref()))?;
            Some(Arc::clone(&room.cloud))
        };
        if let Some(cloud) = good(&self.rooms()) {
            return Ok(cloud);
        }
        let (owner, tee) = (self.owner().await?, cluster.spec.tee);
        let given = Given { owner, tee, credentials: secret.as_ref(), endpoint: endpoint() };
        // Without the lock: a cloud that can't be reached must not hold the others up.
        let made = tokio::time::timeout(PATIENCE, make(cluster, &given)).await;
        let cloud = made.map_err(|_| Error::Time("connecting to the cloud"))??;
        #[cfg(feature = "scripted")]
        let cloud = if given.endpoint.is_some() { Arc::new(super::scripted::Scripted(cloud)) } else { cloud };
        let told;
        {
            let mut rooms = self.rooms();
            // Who was faster made the one that all share.
            if let Some(cloud) = good(&rooms) {
                return Ok(cloud);
            }
            let denied = self.guard.stand_beside(cloud.as_ref());
            let credentials = version.clone();
            let room = Room { credentials, cloud: Arc::clone(&cloud), made: Instant::now(), denied };
            told = rooms.insert(place, room).is_some_and(|before| before.credentials == version);
        }
        if let Some(secret) = secret.filter(|_| !told) {
            let name = secret.name_any();
            let message =
                format!("the key in Secret {name} is used; an identity of the operator's own can't be copied");
            events.warning(cluster, reason::STATIC_CREDENTIALS, message).await;
        }
        Ok(cloud)
    }

    /// Every room that was made, by its settings.
    pub(super) fn all(&self) -> Vec<(String, Arc<dyn Cloud>)> {
        self.rooms().iter().map(|(place, room)| (place.clone(), Arc::clone(&room.cloud))).collect()
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<String, Room>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn credentials(&self, cluster: &ConstellationCluster) -> Result<Option<Secret>, Error> {
        let Some(LocalRef { name }) = reference(cluster) else { return Ok(None) };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &cluster.namespace().unwrap_or_default());
        let found = api.get_opt(name).await.map_err(Error::kube(format!("reading Secret {name}")))?;
        let missing = || Error::Secret(format!("Secret {name} with the credentials isn't there: create it"));
        found.map(Some).ok_or_else(missing)
    }

    async fn owner(&self) -> Result<String, Error> {
        let read = async {
            let api: Api<Namespace> = Api::all(self.client.clone());
            let found = api.get(SYSTEM).await.map_err(Error::kube(format!("reading namespace {SYSTEM}")))?;
            found.uid().ok_or_else(|| Error::Invalid(format!("namespace {SYSTEM} has no UID")))
        };
        self.owner.get_or_try_init(|| read).await.cloned()
    }
}

fn endpoint() -> Option<String> {
    #[cfg(feature = "scripted")]
    return super::scripted::endpoint();
    #[cfg(not(feature = "scripted"))]
    None
}

/// What tells rooms apart. With credentials the namespace too: a Secret of the same name elsewhere is another.
fn place(cluster: &ConstellationCluster) -> String {
    let namespace = reference(cluster).and_then(|_| cluster.namespace());
    serde_json::json!([provider(cluster), cluster.spec.provider, cluster.spec.tee, namespace]).to_string()
}

fn reference(cluster: &ConstellationCluster) -> Option<&LocalRef> {
    let given = &cluster.spec.provider;
    let aws = given.aws.as_ref().and_then(|aws| aws.credentials_ref.as_ref());
    let azure = given.azure.as_ref().and_then(|azure| azure.credentials_ref.as_ref());
    aws.or(azure).or_else(|| given.gcp.as_ref()?.credentials_ref.as_ref())
}

async fn make(cluster: &ConstellationCluster, given: &Given<'_>) -> Result<Arc<dyn Cloud>, Error> {
    #[cfg(feature = "aws")]
    if let Some(settings) = &cluster.spec.provider.aws {
        return aws::make(settings, given).await;
    }
    #[cfg(feature = "azure")]
    if let Some(settings) = &cluster.spec.provider.azure {
        return azure::make(settings, given);
    }
    #[cfg(feature = "gcp")]
    if let Some(settings) = &cluster.spec.provider.gcp {
        return gcp::make(settings, given).await;
    }
    Err(Error::Invalid(format!("provider {} has no settings", provider(cluster))))
}

#[cfg(test)]
mod tests {
    use constellation_crds::cluster::{ConstellationClusterSpec, Provider};
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_room_in_which_everything_is_denied_is_made_anew_after_a_while() {
        let before = ANEW.saturating_sub(Duration::from_millis(1));
        assert_eq!([0, DENIALS - 1, DENIALS].map(|denied| is_stale(denied, ANEW)), [false, false, true]);
        assert!(!is_stale(DENIALS, before));
    }

    #[cfg(feature = "azure")]
    const ID: &str = "00000000-0000-0000-0000-000000000001";

    fn cluster(namespace: &str, credentials: Option<&str>) -> ConstellationCluster {
        let spec = serde_json::json!({"provider": {"gcp": {"project": "p", "region": "europe-west4",
            "zones": ["europe-west4-a"], "reach": "External", "allowedSources": ["192.0.2.0/24"]}},
            "tee": "snp", "nodeVersion": "v", "controlPlane": {"replicas": 1, "instanceType": "n2d-standard-4"}});
        let mut spec: ConstellationClusterSpec = serde_json::from_value(spec).unwrap();
        let settings = spec.provider.gcp.as_mut().unwrap();
        settings.credentials_ref = credentials.map(|name| LocalRef { name: name.into() });
        let mut cluster = ConstellationCluster::new("c", spec);
        cluster.metadata.namespace = Some(namespace.into());
        cluster
    }

    #[test]
    fn equal_settings_share_a_room_and_others_do_not() {
        assert_eq!(place(&cluster("a", None)), place(&cluster("b", None)), "the operator's own identity is one");
        assert_ne!(place(&cluster("a", Some("key"))), place(&cluster("b", Some("key"))), "two Secrets");
        let mut other = cluster("a", None);
        other.spec.tee = Tee::Tdx;
        assert_ne!(place(&other), place(&cluster("a", None)));
        let mut other = cluster("a", None);
        other.spec.provider.gcp.as_mut().unwrap().project = "q".into();
        assert_ne!(place(&other), place(&cluster("a", None)));
        other.spec.provider = Provider::default();
        assert_eq!(reference(&other), None);
    }

    #[test]
    fn a_credential_is_a_text_that_is_there() {
        let with = |value: &[u8]| {
            let data = [("key.json".to_owned(), ByteString(value.to_vec()))].into();
            Secret { data: Some(data), ..Secret::default() }
        };
        let read = |secret: &Secret, key: &str| {
            let given = Given { owner: "o".into(), tee: Tee::Snp, credentials: Some(secret), endpoint: None };
            given.credential(key).map(|text| text.unwrap().to_string()).map_err(drop)
        };
        assert_eq!(read(&with(b"{}"), "key.json"), Ok("{}".to_owned()));
        for (secret, key) in [(with(b"{}"), "other"), (with(b""), "key.json"), (with(&[255]), "key.json")] {
            assert_eq!(read(&secret, key), Err(()));
        }
        let none = Given { owner: "o".into(), tee: Tee::Snp, credentials: None, endpoint: None };
        assert_eq!(none.credential("key.json").unwrap(), None);
    }

    #[cfg(feature = "azure")]
    #[tokio::test]
    async fn an_azure_room_has_the_platform_that_the_tee_names_and_a_whole_credential() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let with = |keys: &[&str]| {
            let data = keys.iter().map(|key| ((*key).to_owned(), ByteString(ID.as_bytes().to_vec())));
            Secret { data: Some(data.collect()), ..Secret::default() }
        };
        let mut cluster = cluster("a", None);
        cluster.spec.provider = serde_json::from_value(serde_json::json!({"azure": {"subscriptionID": ID,
            "location": "westeurope", "reach": "External", "allowedSources": ["192.0.2.0/24"]}}))
        .unwrap();
        let whole = with(&["tenantID", "clientID", "clientSecret"]);
        for (tee, platform) in [(Tee::Snp, "azure-snp"), (Tee::Tdx, "azure-tdx"), (Tee::Vtpm, "azure-trusted-launch")] {
            for credentials in [Some(&whole), None] {
                let given = Given { owner: "o-1".into(), tee, credentials, endpoint: None };
                assert_eq!(make(&cluster, &given).await.unwrap().platform(), platform);
            }
        }
        for (missing, part) in [
            ("tenantID", with(&["clientID", "clientSecret"])),
            ("clientID", with(&["tenantID", "clientSecret"])),
            ("clientSecret", with(&["tenantID", "clientID"])),
        ] {
            let given = Given { owner: "o-1".into(), tee: Tee::Snp, credentials: Some(&part), endpoint: None };
            let refused = make(&cluster, &given).await.err().unwrap().to_string();
            assert!(refused.contains(missing), "{refused}");
        }
    }

    #[cfg(feature = "gcp")]
    #[tokio::test]
    async fn a_room_of_google_cloud_is_refused_with_a_key_that_is_none() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let key = |text: &str| {
            let data = [("key.json".to_owned(), ByteString(text.as_bytes().to_vec()))].into();
            Secret { data: Some(data), ..Secret::default() }
        };
        for text in ["{}", "no JSON"] {
            let key = key(text);
            let given = Given { owner: "o-1".into(), tee: Tee::Snp, credentials: Some(&key), endpoint: None };
            let refused = make(&cluster("a", None), &given).await.err().unwrap();
            assert!(matches!(refused, Error::Cloud(super::super::CloudError::Denied(_))), "{refused}");
        }
        let mut open = cluster("a", None);
        open.spec.provider.gcp.as_mut().unwrap().allowed_sources.clear();
        let given = Given { owner: "o-1".into(), tee: Tee::Snp, credentials: None, endpoint: None };
        assert!(make(&open, &given).await.is_err(), "nobody may reach it");
    }

    #[cfg(feature = "aws")]
    #[tokio::test]
    async fn an_aws_room_has_the_platform_that_the_tee_names() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let data = ["accessKeyID", "secretAccessKey"].map(|key| (key.to_owned(), ByteString(b"AKIA1".to_vec())));
        let key = Secret { data: Some(data.into()), ..Secret::default() };
        let mut cluster = cluster("a", None);
        cluster.spec.provider = serde_json::from_value(serde_json::json!({"aws": {"region": "us-east-2",
            "zones": ["us-east-2a"], "reach": "External", "allowedSources": ["192.0.2.0/24"]}}))
        .unwrap();
        let given = |tee| Given { owner: "o-1".into(), tee, credentials: Some(&key), endpoint: None };
        for (tee, platform) in [(Tee::Snp, "aws-snp"), (Tee::Vtpm, "aws-nitro-tpm")] {
            assert_eq!(make(&cluster, &given(tee)).await.unwrap().platform(), platform);
        }
        assert!(make(&cluster, &given(Tee::Tdx)).await.is_err());
        cluster.spec.provider.aws.as_mut().unwrap().allowed_sources.clear();
        assert!(make(&cluster, &given(Tee::Snp)).await.is_err());
    }
}
