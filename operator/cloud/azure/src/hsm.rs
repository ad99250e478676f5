//! Keeps a master secret by an AES key of an Azure Managed HSM.
//!
//! A symmetric key (`oct-HSM`, `A256GCM`) and not an RSA key of a vault: anybody can wrap under a public key, so what an
//! RSA key opens may be anybody's; AES-GCM opens only what this key closed, for the cluster that it was closed for.
//! Source: REST reference of Key Vault, "Encrypt" and "Decrypt" of keys, API version 7.4.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use constellation_cloud::{
    CloudError,
    custody::{Binding, CustodyError, KeyService, Wrapped},
    limit::Limiter,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{Access, arm::Arm, credential};

const SCOPE: &str = "https://managedhsm.azure.net/.default";
/// Of the HSMs in Azure's public cloud ("Azure Key Vault and Managed HSM recovery", DNS suffixes).
const DOMAIN: &str = ".managedhsm.azure.net";
const VERSION: &str = "7.4";
const ALGORITHM: &str = "A256GCM";
/// Bytes of an initialisation vector and of a tag of AES-GCM (NIST SP 800-38D, section 5.2.1).
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// An Azure Managed HSM.
pub struct ManagedHsm {
    url: String,
    arm: Arm,
}

impl ManagedHsm {
    /// Makes the client; nothing is sent before the first use. `url` is the HSM's, `https://NAME.managedhsm.azure.net`;
    /// its keys are named `URL/keys/NAME`. The token goes to that address: [`ManagedHsm::is_url`] is to be asked before.
    ///
    /// # Errors
    /// [`CloudError::Unsupported`] when the URL is none, [`CloudError::Denied`] when there are no credentials.
    pub fn new(url: &str, access: &Access, limiter: Arc<Limiter>) -> Result<Self, CloudError> {
        let arm = Arm::new(url, SCOPE, credential(access)?, limiter, Duration::ZERO)?;
        Ok(Self { url: url.to_owned(), arm })
    }

    /// Whether a URL is that of a Managed HSM of Azure's public cloud: no other address may see the operator's token.
    #[must_use]
    pub fn is_url(url: &str) -> bool {
        let name = url.strip_prefix("https://").and_then(|rest| rest.strip_suffix(DOMAIN));
        name.is_some_and(is_name)
    }

    /// The path of a key of this HSM.
    fn path(&self, key: &str) -> Result<String, CustodyError> {
        let name = key.strip_prefix(&self.url).and_then(|rest| rest.strip_prefix("/keys/"));
        match name.filter(|name| is_name(name)) {
            Some(name) => Ok(format!("/keys/{name}")),
            None => Err(CustodyError::Key(format!("{key:?} is no key of {}", self.url))),
        }
    }

    /// The newest version of a key that may be used.
    async fn newest(&self, key: &str) -> Result<String, CustodyError> {
        let found =
            self.arm.read(&self.path(key)?, &[("api-version", VERSION)]).await.map_err(|e| refused(e, "read"))?;
        let found = found.ok_or_else(|| CustodyError::Key(format!("there is no key {key}")))?;
        if found["key"]["kty"] != "oct-HSM" {
            return Err(CustodyError::Key(format!("key {key} is no oct-HSM key: an RSA key can't say who wrapped")));
        }
        if found["attributes"]["enabled"] != true {
            return Err(CustodyError::Key(format!("key {key} is disabled")));
        }
        let id = found["key"]["kid"].as_str().and_then(|id| id.rsplit('/').next()).filter(|id| is_name(id));
        id.map(str::to_owned).ok_or_else(|| CustodyError::Transient(format!("key {key} came without a version")))
    }
}

#[async_trait]
impl KeyService for ManagedHsm {
    fn name(&self) -> &'static str {
        "azure"
    }

    async fn wrap(&self, key: &str, secret: &[u8], binding: &Binding) -> Result<Wrapped, CustodyError> {
        let version = self.newest(key).await?;
        let value = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret));
        let body = json!({"alg": ALGORITHM, "value": *value, "aad": aad(binding)});
        let path = format!("{}/{version}/encrypt", self.path(key)?);
        let sealed = self.arm.post(&path, VERSION, &body).await.map_err(|error| refused(error, "encrypt"))?;
        let (iv, tag, value) = (bytes(&sealed, "iv")?, bytes(&sealed, "tag")?, bytes(&sealed, "value")?);
        if (iv.len(), tag.len(), value.len()) != (IV_BYTES, TAG_BYTES, secret.len()) {
            return Err(CustodyError::Transient("the HSM's answer has not the lengths of AES-GCM".into()));
        }
        Ok(Wrapped { key: key.to_owned(), version: Some(version), ciphertext: [iv, tag, value].concat() })
    }

    async fn unwrap(&self, wrapped: &Wrapped, binding: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let foreign = |why: &str| CustodyError::Foreign(why.to_owned());
        let version = wrapped.version.as_deref().filter(|version| is_name(version));
        let version = version.ok_or_else(|| foreign("it names no version of the key"))?;
        let (iv, rest) = wrapped.ciphertext.split_at_checked(IV_BYTES).ok_or_else(|| foreign("it is too short"))?;
        let (tag, value) = rest.split_at_checked(TAG_BYTES).ok_or_else(|| foreign("it is too short"))?;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let body = json!({"alg": ALGORITHM, "value": encode(value), "iv": encode(iv), "tag": encode(tag),
            "aad": aad(binding)});
        let path = format!("{}/{version}/decrypt", self.path(&wrapped.key)?);
        let mut opened = self.arm.post(&path, VERSION, &body).await.map_err(|error| match error {
            // What can't be authenticated is a bad request.
            CloudError::Unsupported(text) => CustodyError::Foreign(text),
            other => refused(other, "decrypt"),
        })?;
        let text = match opened["value"].take() {
            Value::String(text) => Zeroizing::new(text),
            _ => return Err(CustodyError::Transient("the HSM's answer has no value".into())),
        };
        let secret = URL_SAFE_NO_PAD.decode(text.as_bytes());
        secret.map(Zeroizing::new).map_err(|_| CustodyError::Transient("the HSM's answer is not base64".into()))
    }

    async fn version(&self, key: &str) -> Result<Option<String>, CustodyError> {
        self.newest(key).await.map(Some)
    }
}

/// Names and versions of keys: letters, digits and dashes, at most 127 (Key Vault, "Objects, identifiers").
fn is_name(text: &str) -> bool {
    (1..=127).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn aad(binding: &Binding) -> String {
    URL_SAFE_NO_PAD.encode(format!("constellation.dev/master-secret/1/{}", binding.cluster))
}

fn bytes(answer: &Value, member: &str) -> Result<Vec<u8>, CustodyError> {
    let decoded = answer[member].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    decoded.ok_or_else(|| CustodyError::Transient(format!("the HSM's answer has no {member}")))
}

fn refused(error: CloudError, permission: &str) -> CustodyError {
    match error {
        CloudError::Denied(text) => {
            CustodyError::Denied(format!("{text}; needs Microsoft.KeyVault/managedHsm/keys/{permission}/action"))
        }
        CloudError::NotFound(text) | CloudError::Unsupported(text) => CustodyError::Key(text),
        CloudError::Throttled { after } => CustodyError::Throttled { after },
        other => CustodyError::Transient(other.to_string()),
    }
}
