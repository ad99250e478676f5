//! A Vault with a Transit engine, as far as the operator's master secrets need it; every key of it is derived.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::proxy::Worker;

/// The token that it takes.
const TOKEN: &str = "hvs.test";
/// The key that wraps first.
pub const OLD: &str = "old";
/// The key that is named later.
pub const NEW: &str = "new";

/// A running Vault; ends when dropped.
pub struct Vault {
    custody: Custody,
    wrapped: Arc<Wrapped>,
    _task: Worker,
}

/// How a cluster reaches it.
#[derive(Clone, Debug)]
pub struct Custody {
    /// Its URL.
    pub address: String,
    /// Its certificate, PEM.
    pub ca: String,
    /// What lets the operator in.
    pub token: &'static str,
}

/// By ciphertext: the key, the context and what was wrapped.
#[derive(Default)]
struct Wrapped(Mutex<BTreeMap<String, (String, Value, Value)>>);

impl Wrapped {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, (String, Value, Value)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault {
    /// Listens on loopback.
    ///
    /// # Errors
    /// When it can't be had.
    pub async fn start() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("https://localhost:{}", listener.local_addr()?.port());
        let wrapped = Arc::<Wrapped>::default();
        let task = Worker::start(accept(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&wrapped)));
        let custody = Custody { address, ca: made.cert.pem(), token: TOKEN };
        Ok(Self { custody, wrapped, _task: task })
    }

    /// How a cluster reaches it.
    #[must_use]
    pub fn custody(&self) -> Custody {
        self.custody.clone()
    }

    /// The key that wrapped something, and what it opens to.
    #[must_use]
    pub fn open(&self, ciphertext: &str) -> Option<(String, Value)> {
        self.wrapped.all().get(ciphertext).map(|(key, _, secret)| (key.clone(), secret.clone()))
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, wrapped: Arc<Wrapped>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, wrapped) = (tls.clone(), Arc::clone(&wrapped));
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&wrapped), request));
            // An error is a connection that was cut by a process that died.
            let Ok(stream) = tls.accept(stream).await else { return };
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Answers `/v1/transit/<operation>/<key>` ("Transit secrets engine (API)").
async fn answer(wrapped: Arc<Wrapped>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let asked = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let asked: Value = serde_json::from_slice(&asked).unwrap_or_default();
    let known = head.headers.get("x-vault-token").is_some_and(|token| token == TOKEN);
    let (status, said) = match head.uri.path().strip_prefix("/v1/transit/").and_then(|path| path.split_once('/')) {
        _ if !known => (StatusCode::FORBIDDEN, json!({"errors": ["permission denied"]})),
        Some((operation, key)) if [OLD, NEW].contains(&key) => match said(&wrapped, operation, key, &asked) {
            Some(data) if (operation == "keys") == (head.method == Method::GET) => {
                (StatusCode::OK, json!({"data": data}))
            }
            _ => (StatusCode::BAD_REQUEST, json!({"errors": ["cipher: message authentication failed"]})),
        },
        _ => (StatusCode::NOT_FOUND, json!({"errors": []})),
    };
    Response::builder().status(status).body(Full::new(Bytes::from(said.to_string()))).map_err(io::Error::other)
}

fn said(wrapped: &Wrapped, operation: &str, key: &str, asked: &Value) -> Option<Value> {
    let mut all = wrapped.all();
    match operation {
        "keys" => Some(json!({"type": "aes256-gcm96", "derived": true, "latest_version": 1})),
        "encrypt" => {
            let ciphertext = format!("vault:v1:{}", STANDARD.encode(all.len().to_string()));
            let content = (key.to_owned(), asked["context"].clone(), asked["plaintext"].clone());
            all.insert(ciphertext.clone(), content);
            Some(json!({"ciphertext": ciphertext, "key_version": 1}))
        }
        "decrypt" => {
            let (of, context, secret) = all.get(asked["ciphertext"].as_str()?)?;
            (of == key && *context == asked["context"]).then(|| json!({"plaintext": secret}))
        }
        _ => None,
    }
}

/// The wrapped form in a Secret, as text.
///
/// # Errors
/// When it isn't there.
pub fn ciphertext(secret: &BTreeMap<String, k8s_openapi::ByteString>) -> Result<String> {
    let bytes = secret.get("wrapped").context("nothing is wrapped in the Secret")?;
    Ok(String::from_utf8(bytes.0.clone())?)
}
