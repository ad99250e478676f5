//! The Transit engine of a Vault as keeper of master secrets, by its HTTP API ("Transit secrets engine (API)").
//!
//! A key must be derived: its `context` is then the cluster's UID, and the ciphertext of one cluster opens for no other.
//! A key that isn't derived would ignore the context, so it is refused.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_cloud::custody::{Binding, CustodyError, KeyService, Wrapped};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject as _};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Where the engine is mounted unless somebody says otherwise.
pub const MOUNT: &str = "transit";
/// An answer takes milliseconds; a sealed or distant Vault is tried again by reconcile.
const ANSWER: Duration = Duration::from_secs(10);
/// A wrapped secret of 32 bytes has about 100; no answer that we want is longer.
const ANSWER_BYTES: usize = 64 * 1024;
/// Vault's own hint is in `Retry-After`; this is for answers without it.
const THROTTLED: Duration = Duration::from_secs(10);
/// Types of keys that authenticate what they encrypt and can be derived ("Create key", parameter type).
const TYPES: [&str; 3] = ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305"];

/// A Vault, and the token that it gave us.
pub struct Vault {
    address: String,
    token: Zeroizing<String>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Vault {
    /// Connects; nothing is sent before the first use. `ca` is the PEM certificate of a private CA, which then is the
    /// only one; absent: the CAs of the system.
    ///
    /// # Errors
    /// [`CustodyError::Key`] when the CA can't be read or the system has none.
    pub fn new(address: &str, token: Zeroizing<String>, ca: Option<&[u8]>) -> Result<Self, CustodyError> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = ca {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|_| CustodyError::Key("`ca.crt` is not PEM".to_owned()))?;
                roots.add(certificate).map_err(|_| CustodyError::Key("`ca.crt` holds no certificate".to_owned()))?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if roots.is_empty() {
            return Err(CustodyError::Key("there is no CA to know the Vault by: give `ca.crt`".to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| CustodyError::Transient(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1();
        let client = Client::builder(TokioExecutor::new()).build(connector.build());
        Ok(Self { address: address.trim_end_matches('/').to_owned(), token, client })
    }

    /// Sends a request to `<mount>/<operation>/<key>`; gives the answer's `data`.
    async fn call(
        &self,
        method: Method,
        key: &str,
        operation: &str,
        body: Option<Value>,
    ) -> Result<Value, CustodyError> {
        let (mount, name) = key.rsplit_once('/').unwrap_or((MOUNT, key));
        let path = format!("{mount}/{operation}/{name}");
        // The token and the body must not get into an error: only what is said here does.
        let broken = |what: &str| CustodyError::Transient(format!("Vault: {path}: {what}"));
        let request = Request::builder()
            .method(&method)
            .uri(format!("{}/v1/{path}", self.address))
            .header("x-vault-token", self.token.as_str())
            .header("x-vault-request", "true")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))))
            .map_err(|_| CustodyError::Key("the token or the address can't be sent".to_owned()))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| broken(&crate::error::chain(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|_| broken("the answer was cut"))?;
            Ok((head, Zeroizing::new(body.to_bytes().to_vec())))
        };
        let (head, body) = tokio::time::timeout(ANSWER, exchange).await.map_err(|_| broken("no answer"))??;
        if head.status.is_success() {
            let mut answer: Value = serde_json::from_slice(&body).map_err(|_| broken("the answer is not JSON"))?;
            return Ok(answer["data"].take());
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said: Vec<_> = said["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Err(refused(head.status, &path, &method, &said.join("; "), after.map(Duration::from_secs)))
    }

    /// What the engine says of a key; refuses one that doesn't bind what it encrypts.
    async fn key(&self, key: &str) -> Result<Value, CustodyError> {
        let known = self.call(Method::GET, key, "keys", None).await?;
        let kind = known["type"].as_str().unwrap_or_default();
        if !TYPES.contains(&kind) || known["derived"] != true {
            let message = format!("{key} must be of a type in {}, and made with derived=true", TYPES.join(", "));
            return Err(CustodyError::Key(message));
        }
        Ok(known)
    }
}

/// Vault's answers: 400 is any mistake in a request, so its words must be read ("HTTP API", "Status codes").
fn refused(status: StatusCode, path: &str, method: &Method, said: &str, after: Option<Duration>) -> CustodyError {
    let right = if method == Method::GET { "read" } else { "update" };
    match status {
        StatusCode::FORBIDDEN => {
            CustodyError::Denied(format!("Vault: the token is not valid, or its policy lacks `{right}` on {path}"))
        }
        StatusCode::NOT_FOUND => CustodyError::Key(format!("Vault has no {path}: {said}")),
        StatusCode::TOO_MANY_REQUESTS => CustodyError::Throttled { after: after.unwrap_or(THROTTLED) },
        StatusCode::BAD_REQUEST if said.contains("key not found") => CustodyError::Key(format!("{path}: {said}")),
        StatusCode::BAD_REQUEST if said.contains("message authentication failed") || said.contains("ciphertext") => {
            CustodyError::Foreign(format!("Vault: {path}: {said}"))
        }
        StatusCode::BAD_REQUEST => CustodyError::Key(format!("Vault: {path}: {said}")),
        _ => CustodyError::Transient(format!("Vault: {path}: {status} {said}")),
    }
}

fn context(binding: &Binding) -> String {
    STANDARD.encode(&binding.cluster)
}

/// What `encrypt` and `rewrap` answer.
fn wrapped(key: &str, data: &Value) -> Result<Wrapped, CustodyError> {
    let ciphertext = data["ciphertext"].as_str().filter(|text| text.starts_with("vault:v"));
    let ciphertext = ciphertext.ok_or_else(|| CustodyError::Transient("Vault gave no ciphertext".to_owned()))?;
    let version = ciphertext.split(':').nth(1).and_then(|part| part.strip_prefix('v')).map(str::to_owned);
    Ok(Wrapped { key: key.to_owned(), version, ciphertext: ciphertext.as_bytes().to_vec() })
}

fn text(wrapped: &Wrapped) -> Result<&str, CustodyError> {
    std::str::from_utf8(&wrapped.ciphertext).map_err(|_| CustodyError::Foreign("it is not Vault's".to_owned()))
}

#[async_trait]
impl KeyService for Vault {
    fn name(&self) -> &'static str {
        "vault"
    }

    async fn wrap(&self, key: &str, secret: &[u8], binding: &Binding) -> Result<Wrapped, CustodyError> {
        self.key(key).await?;
        let body = json!({"plaintext": STANDARD.encode(secret), "context": context(binding)});
        wrapped(key, &self.call(Method::POST, key, "encrypt", Some(body)).await?)
    }

    async fn unwrap(&self, wrapped: &Wrapped, binding: &Binding) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
        let body = json!({"ciphertext": text(wrapped)?, "context": context(binding)});
        let data = self.call(Method::POST, &wrapped.key, "decrypt", Some(body)).await?;
        let secret = data["plaintext"].as_str().and_then(|text| STANDARD.decode(text).ok());
        secret.map(Zeroizing::new).ok_or_else(|| CustodyError::Transient("Vault gave no plaintext".to_owned()))
    }

    async fn version(&self, key: &str) -> Result<Option<String>, CustodyError> {
        let known = self.key(key).await?;
        Ok(known["latest_version"].as_u64().map(|version| version.to_string()))
    }

    async fn rewrap(&self, old: &Wrapped, key: &str, binding: &Binding) -> Result<Wrapped, CustodyError> {
        if old.key != key {
            // `rewrap` stays within one key.
            let secret = self.unwrap(old, binding).await?;
            return self.wrap(key, &secret, binding).await;
        }
        self.key(key).await?;
        let body = json!({"ciphertext": text(old)?, "context": context(binding)});
        wrapped(key, &self.call(Method::POST, key, "rewrap", Some(body)).await?)
    }
}

#[cfg(test)]
mod tests;
