//! The cluster's secrets in its namespace: owner key, master secret, verifier CA, kubeconfig.

use std::sync::Arc;

use constellation_attestation::{channel::Identity, owner::SigningKey};
use constellation_crds::ConstellationCluster;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, Resource as _, ResourceExt as _, api::PostParams};
use zeroize::Zeroizing;

use super::seen::SecretSeen;
use crate::{error::Error, init::begin::VerifierCa};

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
    let mut secret = Secret {
        data: Some(data.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes.to_vec()))).collect()),
        ..Secret::default()
    };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.labels = Some([(constellation_crds::LABEL_CLUSTER.to_owned(), cluster.name_any())].into());
    secret.metadata.owner_references = Some(cluster.controller_owner_ref(&()).into_iter().collect());
    match api(client, cluster).create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(Error::kube(format!("creating Secret {name}"))(error)),
    }
}

/// The owner key.
pub async fn owner_key(
    client: &Client,
    cluster: &ConstellationCluster,
) -> Result<(SecretSeen, Option<Arc<SigningKey>>), Error> {
    let name = owner_key_name(cluster);
    let Some(secret) = read(client, cluster, &name).await? else { return Ok((SecretSeen::Missing(name), None)) };
    let key = text(&secret, "key.pem").and_then(|pem| SigningKey::from_pkcs8_pem(&pem).ok());
    Ok(match key {
        Some(key) => (SecretSeen::Present, Some(Arc::new(key))),
        None => (SecretSeen::Invalid(format!("Secret {name} holds no P-256 key under `key.pem`: restore it")), None),
    })
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
) -> Result<(SecretSeen, Option<Zeroizing<Vec<u8>>>), Error> {
    let name = master_secret_name(cluster);
    let Some(secret) = read(client, cluster, &name).await? else { return Ok((SecretSeen::Missing(name), None)) };
    Ok(match value(&secret, "secret") {
        Some(bytes) if bytes.len() == MASTER_BYTES => (SecretSeen::Present, Some(bytes)),
        _ => (SecretSeen::Invalid(format!("Secret {name} has not {MASTER_BYTES} bytes under `secret`")), None),
    })
}

/// Makes the master secret.
pub async fn create_master_secret(client: &Client, cluster: &ConstellationCluster) -> Result<(), Error> {
    let mut bytes = Zeroizing::new([0; MASTER_BYTES]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| Error::Invalid("the random source failed".to_owned()))?;
    create(client, cluster, &master_secret_name(cluster), vec![("secret", bytes.as_slice())]).await
}

/// The CA of the cluster's verifiers; made the first time, and the same for ever.
pub async fn verifier_ca(
    client: &Client,
    cluster: &ConstellationCluster,
    owner: &SigningKey,
) -> Result<VerifierCa, Error> {
    let name = format!("{}-verifier-ca", cluster.name_any());
    if read(client, cluster, &name).await?.is_none() {
        let (certificate, key) =
            Identity::issue_verifier_ca(owner).map_err(|error| Error::Invalid(error.to_string()))?;
        let data = vec![("tls.crt", certificate.as_bytes()), ("tls.key", key.as_bytes())];
        create(client, cluster, &name, data).await?;
    }
    let secret = read(client, cluster, &name).await?;
    let parts = secret.as_ref().and_then(|secret| text(secret, "tls.crt").zip(text(secret, "tls.key")));
    let (certificate, key) =
        parts.ok_or_else(|| Error::Invalid(format!("Secret {name} has not `tls.crt` and `tls.key`: restore it")))?;
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
    let mut config = kube::config::Kubeconfig::from_yaml(kubeconfig)
        .map_err(|_| Error::Invalid("the node's kubeconfig can't be read".to_owned()))?;
    for entry in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        entry.server = Some(server.to_owned());
    }
    let yaml = serde_yaml::to_string(&config)
        .map(Zeroizing::new)
        .map_err(|_| Error::Invalid("the node's kubeconfig can't be written".to_owned()))?;
    create(client, cluster, &kubeconfig_name(cluster), vec![("value", yaml.as_bytes())]).await
}
