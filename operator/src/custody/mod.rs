//! Who keeps the master secret: a Secret in the clear, or a key that never leaves a key service.
//!
//! With a key service the Secret holds only what the service wrapped, and beside it the cluster's ID, which everybody may
//! know. [`Master::open`] is called where a node is sent the secret, at Init and Recover, and nowhere else.

mod counted;
pub mod vault;

use constellation_attestation::keys;
use constellation_cloud::custody::{Binding, CustodyError, KeyService, Wrapped};
use constellation_crds::{ConstellationCluster, cluster::LocalRef, custody::Kms};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt as _};
use zeroize::Zeroizing;

use self::{
    counted::Counted,
    vault::{MOUNT, Vault},
};
use crate::{context::Context, error::Error};

/// A master secret as it is stored.
pub enum Master {
    /// In the clear.
    Plain(Zeroizing<Vec<u8>>),
    /// As a key service wrapped it.
    Wrapped {
        /// What it wrapped, by which key.
        wrapped: Wrapped,
        /// The cluster's ID, which the secret gives.
        cluster_id: Vec<u8>,
    },
}

impl Master {
    /// The cluster's ID; opens nothing.
    #[must_use]
    pub fn cluster_id(&self) -> Vec<u8> {
        match self {
            Self::Plain(secret) => keys::derive(secret, keys::CLUSTER_ID).to_vec(),
            Self::Wrapped { cluster_id, .. } => cluster_id.clone(),
        }
    }

    /// The secret itself, for a node that is to be sent what comes of it.
    ///
    /// # Errors
    /// [`Error::Custody`] when the key service refuses, or when what it opened isn't this cluster's.
    pub async fn open(&self, context: &Context, cluster: &ConstellationCluster) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (wrapped, cluster_id) = match self {
            Self::Plain(secret) => return Ok(secret.clone()),
            Self::Wrapped { wrapped, cluster_id } => (wrapped, cluster_id),
        };
        let kms =
            kms(cluster).ok_or_else(|| Error::Invalid("the master secret is wrapped: name its kms".to_owned()))?;
        let secret = service(context, cluster, kms).await?.unwrap(wrapped, &binding(cluster)).await?;
        if keys::derive(&secret, keys::CLUSTER_ID).as_slice() != cluster_id.as_slice() {
            return Err(CustodyError::Foreign("it opens to another secret than was stored".to_owned()).into());
        }
        Ok(secret)
    }
}

/// The key service that a cluster names.
#[must_use]
pub fn kms(cluster: &ConstellationCluster) -> Option<&Kms> {
    cluster.spec.master_secret.as_ref()?.kms.as_ref()
}

/// What a cluster's wrapped secret is bound to.
#[must_use]
pub fn binding(cluster: &ConstellationCluster) -> Binding {
    Binding { cluster: cluster.uid().unwrap_or_default() }
}

/// The key that the spec names, in one line.
#[must_use]
pub fn key(kms: &Kms) -> String {
    match kms {
        Kms { aws: Some(aws), .. } => aws.key_arn.clone(),
        Kms { azure: Some(azure), .. } => format!("{}/keys/{}", azure.vault_url, azure.key),
        Kms { gcp: Some(gcp), .. } => gcp.key.clone(),
        Kms { vault: Some(vault), .. } => format!("{}/{}", vault.mount.as_deref().unwrap_or(MOUNT), vault.key),
        Kms { .. } => String::new(),
    }
}

/// The service of a key, reached as the spec says; its calls are counted.
///
/// # Errors
/// When the credentials aren't there, or this build can't reach the service.
pub async fn service(
    context: &Context,
    cluster: &ConstellationCluster,
    kms: &Kms,
) -> Result<Box<dyn KeyService>, Error> {
    let service = connect(&context.client, cluster, kms).await?;
    Ok(Box::new(Counted::new(service, context.metrics.clone())))
}

async fn connect(client: &Client, cluster: &ConstellationCluster, kms: &Kms) -> Result<Box<dyn KeyService>, Error> {
    match kms {
        Kms { vault: Some(vault), .. } => {
            let secret = credentials(client, cluster, &vault.credentials_ref).await?;
            let token = text(&secret, "token")?;
            let ca = secret.data.as_ref().and_then(|data| data.get("ca.crt")).map(|bytes| bytes.0.as_slice());
            Ok(Box::new(Vault::new(&vault.address, token, ca)?))
        }
        #[cfg(feature = "aws")]
        Kms { aws: Some(aws), .. } => {
            use constellation_cloud_aws::{Access, AwsKms, StaticKey};
            let access = match &aws.credentials_ref {
                None => Access::Ambient,
                Some(name) => {
                    let secret = credentials(client, cluster, name).await?;
                    let id = text(&secret, "accessKeyID")?;
                    let secret = text(&secret, "secretAccessKey")?;
                    Access::Static(StaticKey { id: id.to_string(), secret })
                }
            };
            let region = AwsKms::region(&aws.key_arn).unwrap_or_default();
            // An SDK's set-up is a large future, and every caller's would hold it.
            Ok(Box::new(Box::pin(AwsKms::connect(region, &access, None)).await))
        }
        #[cfg(feature = "azure")]
        Kms { azure: Some(azure), .. } => {
            use constellation_cloud_azure::{Access, ManagedHsm, RATE};
            // The API server checks it as well; here the operator's token would go out.
            if !ManagedHsm::is_url(&azure.vault_url) {
                let url = &azure.vault_url;
                return Err(Error::Invalid(format!(
                    "{url} is no URL of a Managed HSM (https://NAME.managedhsm.azure.net)"
                )));
            }
            let limiter = constellation_cloud::limit::Limiter::new(RATE.0, RATE.1);
            let hsm = ManagedHsm::new(&azure.vault_url, &Access::ambient(), std::sync::Arc::new(limiter));
            Ok(Box::new(hsm?))
        }
        #[cfg(feature = "gcp")]
        Kms { gcp: Some(_), .. } => {
            use constellation_cloud_gcp::{Access, CloudKms};
            Ok(Box::new(Box::pin(CloudKms::connect(&Access::Ambient, None)).await?))
        }
        Kms { .. } => {
            let (name, feature) = if kms.aws.is_some() {
                ("AWS KMS", "aws")
            } else if kms.azure.is_some() {
                ("Azure Managed HSM", "azure")
            } else {
                ("Google Cloud KMS", "gcp")
            };
            Err(Error::Invalid(format!(
                "this build of the operator has no {name}: choose another kms, or a build with feature `{feature}`"
            )))
        }
    }
}

/// A Secret that the spec refers to.
async fn credentials(client: &Client, cluster: &ConstellationCluster, name: &LocalRef) -> Result<Secret, Error> {
    let LocalRef { name } = name;
    let api: Api<Secret> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let found = api.get_opt(name).await.map_err(Error::kube(format!("reading Secret {name}")))?;
    found.ok_or_else(|| Error::Secret(format!("Secret {name} with credentials is missing: create it")))
}

fn text(secret: &Secret, key: &str) -> Result<Zeroizing<String>, Error> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).map(str::trim);
    let wrong = || Error::Secret(format!("Secret {} has no text under `{key}`", secret.name_any()));
    text.filter(|text| !text.is_empty()).map(|text| Zeroizing::new(text.to_owned())).ok_or_else(wrong)
}
