//! The cluster's secrets in its namespace: owner key, master secret, verifier CA, kubeconfig.

use std::{collections::BTreeMap, sync::Arc};

use constellation_attestation::{
    channel::Identity,
    keys,
    owner::{self, SigningKey},
};
use constellation_cloud::custody::Wrapped;
use constellation_crds::{ANNOTATION_CLUSTER_UID, ConstellationCluster, condition};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use zeroize::Zeroizing;

use super::seen::SecretSeen;
use crate::{
    context::Context,
    custody::{self, Master},
    error::Error,
    init::begin::VerifierCa,
    workload,
};

/// Length of a master secret: what HKDF-SHA256 gives out, so nothing is lost on the way.
const MASTER_BYTES: usize = 32;

/// Name of the Secret with the owner key.
#[must_use]
pub fn owner_key_name(cluster: &ConstellationCluster) -> String {
    format!("{}-owner-key", cluster.name_any())
}

/// Name of the Secret with the master secret.
#[must_use]
pub fn master_secret_name(cluster: &ConstellationCluster) -> String {
    let named = cluster.spec.master_secret.as_ref().and_then(|master| master.existing_secret.as_ref());
    named.map_or_else(|| format!("{}-master-secret", cluster.name_any()), |secret| secret.name.clone())
}

/// Name of the Secret with the CA of the cluster's verifiers.
#[must_use]
pub fn verifier_ca_name(cluster: &ConstellationCluster) -> String {
    format!("{}-verifier-ca", cluster.name_any())
}

/// Name of the Secret with the administrator's kubeconfig.
#[must_use]
pub fn kubeconfig_name(cluster: &ConstellationCluster) -> String {
    format!("{}-kubeconfig", cluster.name_any())
}

fn api(client: &Client, cluster: &ConstellationCluster) -> Api<Secret> {
    Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default())
}

async fn read(client: &Client, cluster: &ConstellationCluster, name: &str) -> Result<Option<Secret>, Error> {
    api(client, cluster).get_opt(name).await.map_err(Error::kube(format!("reading Secret {name}")))
}

fn value(secret: &Secret, key: &str) -> Option<Zeroizing<Vec<u8>>> {
    secret.data.as_ref()?.get(key).map(|bytes| Zeroizing::new(bytes.0.clone()))
}

fn text(secret: &Secret, key: &str) -> Option<Zeroizing<String>> {
    String::from_utf8(value(secret, key)?.to_vec()).ok().map(Zeroizing::new)
}

/// Creates a Secret; one that is there already stays as it is.
async fn create(
    client: &Client,
    cluster: &ConstellationCluster,
    name: &str,
    data: Vec<(&str, &[u8])>,
) -> Result<(), Error> {
    let mut secret = Secret { data: Some(bytes(data)), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.labels = Some([(constellation_crds::LABEL_CLUSTER.to_owned(), cluster.name_any())].into());
    secret.metadata.annotations = Some([(ANNOTATION_CLUSTER_UID.to_owned(), cluster.uid().unwrap_or_default())].into());
    match api(client, cluster).create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(Error::kube(format!("creating Secret {name}"))(error)),
    }
}

/// Has Kubernetes delete the Secrets with the cluster's object: nothing is left that needs them.
pub async fn hand_over(client: &Client, cluster: &ConstellationCluster) -> Result<(), Error> {
    let names = [owner_key_name, master_secret_name, verifier_ca_name, kubeconfig_name].map(|name| name(cluster));
    for name in names {
        let Some(secret) = read(client, cluster, &name).await? else { continue };
        let owned = secret.owner_references().iter().any(|owner| Some(&owner.uid) == cluster.uid().as_ref());
        if owned || !is_of(cluster, &secret.metadata, false) {
            continue;
        }
        let owners: Vec<_> = secret.owner_references().iter().cloned().chain(cluster.owner_ref(&())).collect();
        let body = json!({"metadata": {"ownerReferences": owners, "resourceVersion": secret.resource_version()}});
        match api(client, cluster).patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(Error::kube(format!("handing over Secret {name}"))(error)),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The owner key.
pub async fn owner_key(
    client: &Client,
    cluster: &ConstellationCluster,
) -> Result<(SecretSeen, Option<Arc<SigningKey>>), Error> {
    let name = owner_key_name(cluster);
    let Some(secret) = read(client, cluster, &name).await? else { return Ok((SecretSeen::Missing(name), None)) };
    let recorded = cluster.status.as_ref().and_then(|status| status.owner_key.as_deref());
    let key = text(&secret, "key.pem").and_then(|pem| SigningKey::from_pkcs8_pem(&pem).ok());
    let invalid = |problem| Ok((SecretSeen::Invalid(problem), None));
    match key {
        None => invalid(format!("Secret {name} holds no P-256 key under `key.pem`: restore it")),
        Some(key) if recorded.is_some_and(|recorded| recorded != owner::fingerprint(&key.public_spki())) => {
            invalid(another(&name))
        }
        Some(_) if !is_of(cluster, &secret.metadata, recorded.is_some()) => invalid(foreign(&name)),
        Some(key) => Ok((SecretSeen::Present, Some(Arc::new(key)))),
    }
}

/// Makes the owner key.
pub async fn create_owner_key(client: &Client, cluster: &ConstellationCluster) -> Result<(), Error> {
    let key = SigningKey::generate().map_err(|error| Error::Invalid(error.to_string()))?;
    create(client, cluster, &owner_key_name(cluster), vec![("key.pem", key.to_pkcs8_pem().as_bytes())]).await
}

/// The master secret.
pub async fn master_secret(
    client: &Client,
    cluster: &ConstellationCluster,
) -> Result<(SecretSeen, Option<Master>), Error> {
    let name = master_secret_name(cluster);
    let Some(secret) = read(client, cluster, &name).await? else { return Ok((SecretSeen::Missing(name), None)) };
    let recorded = cluster.status.as_ref().and_then(|status| status.cluster_id.as_deref());
    let given = cluster.spec.master_secret.as_ref().is_some_and(|master| master.existing_secret.is_some());
    let master = if custody::kms(cluster).is_some() { wrapped(&secret) } else { plain(&secret) };
    let invalid = |problem| Ok((SecretSeen::Invalid(problem), None));
    match master {
        Err(problem) => invalid(format!("Secret {name} {problem}")),
        Ok(master) if recorded.is_some_and(|recorded| recorded != hex::encode(master.cluster_id())) => {
            invalid(another(&name))
        }
        Ok(_) if !is_of(cluster, &secret.metadata, recorded.is_some() || given) => invalid(foreign(&name)),
        Ok(master) => Ok((SecretSeen::Present, Some(master))),
    }
}

/// Whether a Secret is this cluster's: we made it for this very object, or what it holds was recorded or given.
#[must_use]
pub fn is_of(cluster: &ConstellationCluster, secret: &ObjectMeta, known: bool) -> bool {
    let made_for = secret.annotations.as_ref().and_then(|all| all.get(ANNOTATION_CLUSTER_UID));
    known || (made_for.is_some() && made_for == cluster.uid().as_ref())
}

/// Whether Kubernetes was initialised, as the status says.
#[must_use]
pub fn is_initialized(cluster: &ConstellationCluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| {
        condition::is_true(&status.conditions, condition::kind::CONTROL_PLANE_INITIALIZED)
            || status.initialization.as_ref().is_some_and(|facts| facts.control_plane_initialized_at.is_some())
    })
}

/// What to do about a Secret of another cluster.
#[must_use]
pub fn foreign(name: &str) -> String {
    format!(
        "Secret {name} is of an earlier cluster of this name: keep it under another name if that still runs, and delete it"
    )
}

fn another(name: &str) -> String {
    format!("Secret {name} holds another key than the one that the cluster was made with: restore that one")
}

fn plain(secret: &Secret) -> Result<Master, String> {
    match value(secret, "secret") {
        Some(bytes) if bytes.len() == MASTER_BYTES => Ok(Master::Plain(bytes)),
        Some(bytes) => Err(format!("has {} bytes under `secret`: {MASTER_BYTES} are needed", bytes.len())),
        None => Err(format!("has nothing under `secret`: put {MASTER_BYTES} bytes there")),
    }
}

fn wrapped(secret: &Secret) -> Result<Master, String> {
    if value(secret, "secret").is_some() {
        return Err("holds the master secret in the clear, and the cluster's kms says that it must not".to_owned());
    }
    let missing = |key: &str| format!("has no `{key}`: restore it from a backup");
    let whole = |key: &str| value(secret, key).filter(|bytes| !bytes.is_empty()).ok_or_else(|| missing(key));
    let cluster_id = whole("clusterID")?.to_vec();
    if cluster_id.len() != MASTER_BYTES {
        return Err(format!("has not {MASTER_BYTES} bytes under `clusterID`: restore it from a backup"));
    }
    let key = text(secret, "key").filter(|key| !key.is_empty()).ok_or_else(|| missing("key"))?.to_string();
    let version = text(secret, "version").map(|version| version.to_string());
    let wrapped = Wrapped { key, version, ciphertext: whole("wrapped")?.to_vec() };
    Ok(Master::Wrapped { wrapped, cluster_id })
}

/// Makes the master secret.
pub async fn create_master_secret(context: &Context, cluster: &ConstellationCluster) -> Result<(), Error> {
    let client = &context.client;
    let mut bytes = Zeroizing::new([0; MASTER_BYTES]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| Error::Invalid("the random source failed".to_owned()))?;
    let name = master_secret_name(cluster);
    let Some(kms) = custody::kms(cluster) else {
        return create(client, cluster, &name, vec![("secret", bytes.as_slice())]).await;
    };
    let service = custody::service(context, cluster, kms).await?;
    let wrapped = service.wrap(&custody::key(kms), bytes.as_slice(), &custody::binding(cluster)).await?;
    let cluster_id = keys::derive(bytes.as_slice(), keys::CLUSTER_ID);
    create(client, cluster, &name, stored(&wrapped, cluster_id.as_slice())).await
}

/// Has the master secret wrapped again; what is stored stays until the new form is there.
pub async fn rewrap_master_secret(
    context: &Context,
    cluster: &ConstellationCluster,
    master: &Master,
) -> Result<(), Error> {
    let client = &context.client;
    let (Some(kms), Master::Wrapped { wrapped, cluster_id }) = (custody::kms(cluster), master) else {
        return Ok(());
    };
    let name = master_secret_name(cluster);
    let service = custody::service(context, cluster, kms).await?;
    let again = service.rewrap(wrapped, &custody::key(kms), &custody::binding(cluster)).await?;
    let Some(mut secret) = read(client, cluster, &name).await? else { return Ok(()) };
    secret.data = Some(bytes(stored(&again, cluster_id)));
    // With the version that was read: what somebody else wrote meanwhile stays, and the next look sees it.
    let done = api(client, cluster).replace(&name, &PostParams::default(), &secret).await;
    done.map(drop).map_err(Error::kube(format!("writing Secret {name}")))
}

/// A wrapped master secret as its Secret holds it.
fn stored<'a>(wrapped: &'a Wrapped, cluster_id: &'a [u8]) -> Vec<(&'static str, &'a [u8])> {
    let version = wrapped.version.as_deref().map(|version| ("version", version.as_bytes()));
    let always = [("clusterID", cluster_id), ("key", wrapped.key.as_bytes()), ("wrapped", &wrapped.ciphertext)];
    always.into_iter().chain(version).collect()
}

fn bytes(data: Vec<(&str, &[u8])>) -> BTreeMap<String, ByteString> {
    data.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes.to_vec()))).collect()
}

/// The CA of the cluster's verifiers; made the first time, and the same for ever.
pub async fn verifier_ca(
    client: &Client,
    cluster: &ConstellationCluster,
    owner: &SigningKey,
) -> Result<VerifierCa, Error> {
    let name = verifier_ca_name(cluster);
    if read(client, cluster, &name).await?.is_none() {
        let (certificate, key) =
            Identity::issue_verifier_ca(owner).map_err(|error| Error::Invalid(error.to_string()))?;
        let data = vec![("tls.crt", certificate.as_bytes()), ("tls.key", key.as_bytes())];
        create(client, cluster, &name, data).await?;
    }
    let secret = read(client, cluster, &name).await?;
    let parts = secret.as_ref().and_then(|secret| text(secret, "tls.crt").zip(text(secret, "tls.key")));
    // Nodes would believe no verifier under another one, such as an earlier cluster's, and nobody would be told.
    let good = |(certificate, key): &(Zeroizing<String>, Zeroizing<String>)| {
        Identity::check_verifier_ca(certificate, key, &owner.public_spki()).is_ok()
    };
    let (certificate, key) = parts.filter(good).ok_or_else(|| {
        Error::Secret(format!(
            "Secret {name} has not under `tls.crt` and `tls.key` a verifier CA of this cluster's owner key: restore it, or \
             delete it for a new one"
        ))
    })?;
    Ok(VerifierCa { certificate: certificate.to_string(), key })
}

/// Whether there is a kubeconfig.
pub async fn has_kubeconfig(client: &Client, cluster: &ConstellationCluster) -> Result<bool, Error> {
    let secret = read(client, cluster, &kubeconfig_name(cluster)).await?;
    Ok(secret.is_some_and(|secret| value(&secret, "value").is_some()))
}

/// Keeps the administrator's kubeconfig, with the address under which we and the user reach the API server.
pub async fn save_kubeconfig(
    client: &Client,
    cluster: &ConstellationCluster,
    kubeconfig: &str,
    server: &str,
) -> Result<(), Error> {
    let mut config =
        workload::parse(kubeconfig).map_err(|unfit| Error::Invalid(format!("the node's kubeconfig {unfit}")))?;
    for entry in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        entry.server = Some(server.to_owned());
    }
    let yaml = serde_yaml::to_string(&config)
        .map(Zeroizing::new)
        .map_err(|_| Error::Invalid("the node's kubeconfig can't be written".to_owned()))?;
    create(client, cluster, &kubeconfig_name(cluster), vec![("value", yaml.as_bytes())]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(change: &[(&str, Option<&[u8]>)]) -> Secret {
        let good = Wrapped { key: "transit/k".to_owned(), version: Some("2".to_owned()), ciphertext: vec![9; 60] };
        let mut data = bytes(stored(&good, &[3; MASTER_BYTES]));
        for (key, value) in change {
            match value {
                Some(value) => drop(data.insert((*key).to_owned(), ByteString(value.to_vec()))),
                None => drop(data.remove(*key)),
            }
        }
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn a_wrapped_secret_is_read_as_it_was_stored() {
        let Ok(Master::Wrapped { wrapped: read, cluster_id }) = wrapped(&secret(&[])) else { unreachable!() };
        assert_eq!(
            (read.key.as_str(), read.version.as_deref(), read.ciphertext),
            ("transit/k", Some("2"), vec![9; 60])
        );
        assert_eq!(cluster_id, [3; MASTER_BYTES]);
        let unversioned = wrapped(&secret(&[("version", None)]));
        assert!(matches!(unversioned, Ok(Master::Wrapped { wrapped: Wrapped { version: None, .. }, .. })));
    }

    #[test]
    fn a_wrapped_secret_with_one_thing_wrong_is_refused() {
        let clear: &[u8] = &[7; MASTER_BYTES];
        for change in [
            ("secret", Some(clear)),
            ("clusterID", None),
            ("clusterID", Some(&clear[1..])),
            ("key", None),
            ("key", Some(&[255][..])),
            ("wrapped", None),
            ("wrapped", Some(&[][..])),
        ] {
            assert!(wrapped(&secret(&[change])).is_err(), "{change:?}");
        }
        assert!(plain(&secret(&[])).is_err());
        assert!(matches!(plain(&secret(&[("secret", Some(clear))])), Ok(Master::Plain(_))));
    }
}
