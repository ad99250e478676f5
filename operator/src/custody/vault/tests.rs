//! A Vault that behaves as its documentation says, over TLS.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::any,
};
use constellation_cloud::custody::must_rewrap;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;

const TOKEN: &str = "hvs.test";
const SECRET: [u8; 32] = [7; 32];

/// What the fake keeps: keys by name, and what it wrapped by ciphertext.
struct World {
    keys: BTreeMap<&'static str, Value>,
    sealed: BTreeMap<String, (String, Value, Value)>,
    refuse: Option<(StatusCode, &'static str)>,
}

type Shared = Arc<Mutex<World>>;

struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = self.0.accept().await.unwrap();
            // A client that refuses our certificate is one of the tests.
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

async fn serve(
    State(shared): State<Shared>,
    Path((mount, operation, name)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut world = shared.lock().unwrap();
    let no = |status: StatusCode, words: &str| (status, Json(json!({"errors": [words]}))).into_response();
    if let Some((status, words)) = world.refuse.take() {
        return no(status, words);
    }
    if headers["x-vault-token"] != TOKEN {
        return no(StatusCode::FORBIDDEN, "permission denied");
    }
    let Some(key) = world.keys.get(name.as_str()).filter(|_| mount == "transit").cloned() else {
        return no(StatusCode::NOT_FOUND, "");
    };
    if operation == "keys" {
        assert_eq!(method, Method::GET);
        return Json(json!({"data": key})).into_response();
    }
    assert_eq!(method, Method::POST);
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let plaintext = match operation.as_str() {
        "encrypt" => asked["plaintext"].clone(),
        "decrypt" | "rewrap" => match world.sealed.get(asked["ciphertext"].as_str().unwrap()) {
            None => return no(StatusCode::BAD_REQUEST, "invalid ciphertext: no prefix"),
            Some((of, context, plaintext)) if *of == name && *context == asked["context"] => plaintext.clone(),
            Some(_) => return no(StatusCode::BAD_REQUEST, "cipher: message authentication failed"),
        },
        other => panic!("transit has no {other}"),
    };
    if operation == "decrypt" {
        return Json(json!({"data": {"plaintext": plaintext}})).into_response();
    }
    let ciphertext = format!("vault:v{}:{}", key["latest_version"], STANDARD.encode(world.sealed.len().to_string()));
    world.sealed.insert(ciphertext.clone(), (name, asked["context"].clone(), plaintext));
    Json(json!({"data": {"ciphertext": ciphertext, "key_version": key["latest_version"]}})).into_response()
}

struct Fake {
    shared: Shared,
    address: String,
    ca: String,
}

async fn fake() -> Fake {
    let key = |kind: &str, derived: bool| json!({"type": kind, "derived": derived, "latest_version": 1});
    let keys = [
        ("good", key("aes256-gcm96", true)),
        ("other", key("chacha20-poly1305", true)),
        ("loose", key("aes256-gcm96", false)),
        ("signs", key("ed25519", true)),
    ];
    let shared = Arc::new(Mutex::new(World { keys: keys.into(), sealed: BTreeMap::new(), refuse: None }));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let app = Router::new().route("/v1/{mount}/{operation}/{name}", any(serve)).with_state(Arc::clone(&shared));
    let listener = Tls(listener, TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Fake { shared, address, ca: made.cert.pem() }
}

impl Fake {
    fn vault(&self, token: &str) -> Vault {
        Vault::new(&self.address, Zeroizing::new(token.to_owned()), Some(self.ca.as_bytes())).unwrap()
    }
}

fn of(cluster: &str) -> Binding {
    Binding { cluster: cluster.to_owned() }
}

#[tokio::test]
async fn a_secret_is_opened_for_its_cluster_by_its_key_only() {
    let fake = fake().await;
    let vault = fake.vault(TOKEN);
    let wrapped = vault.wrap("transit/good", &SECRET, &of("c-1")).await.unwrap();
    assert_eq!(wrapped.version.as_deref(), Some("1"));
    assert_eq!(*vault.unwrap(&wrapped, &of("c-1")).await.unwrap(), SECRET);
    let other_key = Wrapped { key: "transit/other".to_owned(), ..wrapped.clone() };
    let mut changed = wrapped.clone();
    changed.ciphertext.pop();
    for (what, cluster) in [(&wrapped, "c-2"), (&other_key, "c-1"), (&changed, "c-1")] {
        let refusal = vault.unwrap(what, &of(cluster)).await.unwrap_err();
        assert!(matches!(refusal, CustodyError::Foreign(_)), "{refusal}");
    }
}

#[tokio::test]
async fn a_rotated_key_wraps_again_and_so_does_another_key() {
    let fake = fake().await;
    let vault = fake.vault(TOKEN);
    let wrapped = vault.wrap("transit/good", &SECRET, &of("c-1")).await.unwrap();
    let newest = vault.version("transit/good").await.unwrap();
    assert!(!must_rewrap(&wrapped, "transit/good", newest.as_deref()));
    fake.shared.lock().unwrap().keys.get_mut("good").unwrap()["latest_version"] = json!(2);
    let newest = vault.version("transit/good").await.unwrap();
    assert!(must_rewrap(&wrapped, "transit/good", newest.as_deref()));
    let again = vault.rewrap(&wrapped, "transit/good", &of("c-1")).await.unwrap();
    assert_eq!(
        (again.version.as_deref(), *vault.unwrap(&again, &of("c-1")).await.unwrap() == SECRET),
        (Some("2"), true)
    );
    let moved = vault.rewrap(&again, "transit/other", &of("c-1")).await.unwrap();
    assert_eq!(moved.key, "transit/other");
    assert_eq!(*vault.unwrap(&moved, &of("c-1")).await.unwrap(), SECRET);
    let refusal = vault.rewrap(&again, "transit/good", &of("c-2")).await.unwrap_err();
    assert!(matches!(refusal, CustodyError::Foreign(_)), "{refusal}");
}

#[tokio::test]
async fn a_key_that_binds_nothing_is_refused() {
    let vault = fake().await.vault(TOKEN);
    for key in ["transit/loose", "transit/signs", "transit/missing", "elsewhere/good"] {
        let refusal = vault.wrap(key, &SECRET, &of("c-1")).await.unwrap_err();
        assert!(matches!(refusal, CustodyError::Key(_)), "{key}: {refusal}");
    }
}

#[tokio::test]
async fn refusals_have_the_class_that_chooses_the_reaction() {
    let fake = fake().await;
    let vault = fake.vault(TOKEN);
    let wrapped = vault.wrap("transit/good", &SECRET, &of("c-1")).await.unwrap();
    let cases = [
        (StatusCode::FORBIDDEN, "permission denied", "`update` on transit/decrypt/good"),
        (StatusCode::BAD_REQUEST, "encryption key not found", "the key can't be used"),
        (StatusCode::TOO_MANY_REQUESTS, "", "retry after 10s"),
        (StatusCode::SERVICE_UNAVAILABLE, "Vault is sealed", "Vault is sealed"),
    ];
    for (status, words, wanted) in cases {
        fake.shared.lock().unwrap().refuse = Some((status, words));
        let refusal = vault.unwrap(&wrapped, &of("c-1")).await.unwrap_err().to_string();
        assert!(refusal.contains(wanted) && !refusal.contains(TOKEN), "{refusal}");
    }
    let refusal = fake.vault("hvs.wrong").unwrap(&wrapped, &of("c-1")).await.unwrap_err();
    assert!(matches!(refusal, CustodyError::Denied(_)), "{refusal}");
}

#[tokio::test]
async fn a_vault_with_another_certificate_is_not_spoken_to() {
    let (fake, other) = (fake().await, fake().await);
    let ca = Some(other.ca.as_bytes());
    let vault = Vault::new(&fake.address, Zeroizing::new(TOKEN.to_owned()), ca).unwrap();
    let refusal = vault.wrap("transit/good", &SECRET, &of("c-1")).await.unwrap_err();
    assert!(matches!(refusal, CustodyError::Transient(_)), "{refusal}");
    assert!(fake.shared.lock().unwrap().sealed.is_empty());
    assert!(Vault::new(&fake.address, Zeroizing::new(TOKEN.to_owned()), Some(b"nothing")).is_err());
}
