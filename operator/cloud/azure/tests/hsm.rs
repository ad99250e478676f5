//! A master secret kept by a scripted Managed HSM, which authenticates what it opens.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::{get, post},
};
use constellation_cloud::{
    custody::{Binding, CustodyError, KeyService, must_rewrap},
    limit::Limiter,
};
use constellation_cloud_azure::{Access, ManagedHsm};
use serde_json::{Value, json};

/// What an HSM knows: for each tag that it gave out, the key's version, the data and the secret.
#[derive(Default)]
struct Hsm {
    version: u32,
    kind: &'static str,
    enabled: bool,
    denies: bool,
    sealed: BTreeMap<String, (String, String, String)>,
}

type Shared = Arc<Mutex<Hsm>>;
type Answer = (StatusCode, Json<Value>);

fn refusal(status: u16, code: &str) -> Answer {
    (StatusCode::from_u16(status).unwrap(), Json(json!({"error": {"code": code, "message": "as scripted"}})))
}

async fn key(State(hsm): State<Shared>) -> Answer {
    let hsm = hsm.lock().unwrap();
    if hsm.denies {
        return refusal(403, "Forbidden");
    }
    let id = format!("https://x/keys/master/v{}", hsm.version);
    let body = json!({"key": {"kid": id, "kty": hsm.kind}, "attributes": {"enabled": hsm.enabled}});
    (StatusCode::OK, Json(body))
}

async fn operate(State(hsm): State<Shared>, uri: Uri, Json(body): Json<Value>) -> Answer {
    let mut hsm = hsm.lock().unwrap();
    let parts: Vec<_> = uri.path().split('/').collect();
    let (version, operation) = (parts[3].to_owned(), parts[4]);
    assert_eq!((body["alg"].as_str(), uri.query()), (Some("A256GCM"), Some("api-version=7.4")));
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    if operation == "encrypt" {
        assert_eq!(body.as_object().unwrap().len(), 3, "alg, value and aad; the service makes the vector");
        let tag = format!("{:0>21}A", hsm.sealed.len());
        hsm.sealed.insert(tag.clone(), (version, text("aad"), text("value")));
        // As long as what it hides, and another.
        let value = "A".repeat(text("value").len());
        return (StatusCode::OK, Json(json!({"kid": "k", "value": value, "iv": "AAAAAAAAAAAAAAAA", "tag": tag})));
    }
    let known = hsm
        .sealed
        .get(&text("tag"))
        .filter(|(its, aad, value)| *its == version && *aad == text("aad") && text("value") == "A".repeat(value.len()));
    match known {
        Some((_, _, secret)) => (StatusCode::OK, Json(json!({"kid": "k", "value": secret}))),
        None => refusal(400, "BadParameter"),
    }
}

async fn given() -> (ManagedHsm, Shared) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let hsm = Shared::new(Mutex::new(Hsm { version: 1, kind: "oct-HSM", enabled: true, ..Hsm::default() }));
    let app = Router::new()
        .route("/keys/master", get(key))
        .route("/keys/master/{version}/{operation}", post(operate))
        .with_state(Arc::clone(&hsm));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (ManagedHsm::new(&url, &Access::Anonymous, Arc::new(Limiter::new(1000, Duration::ZERO))).unwrap(), hsm)
}

fn cluster(name: &str) -> Binding {
    Binding { cluster: name.into() }
}

#[tokio::test]
async fn a_secret_comes_back_for_its_cluster_and_for_no_other() {
    let (service, _) = given().await;
    let wrapped = service.wrap("master", &[7; 32], &cluster("a")).await.unwrap();
    assert_eq!((wrapped.version.as_deref(), wrapped.ciphertext.len()), (Some("v1"), 60));
    assert_eq!(**service.unwrap(&wrapped, &cluster("a")).await.unwrap(), [7; 32]);
    let other = service.unwrap(&wrapped, &cluster("b")).await;
    assert!(matches!(other, Err(CustodyError::Foreign(_))), "{other:?}");
    for at in [12, 27, 59] {
        let mut changed = wrapped.clone();
        changed.ciphertext[at] ^= 1;
        assert!(matches!(service.unwrap(&changed, &cluster("a")).await, Err(CustodyError::Foreign(_))), "byte {at}");
    }
    for length in [0, 12, 27] {
        let mut cut = wrapped.clone();
        cut.ciphertext.truncate(length);
        assert!(matches!(service.unwrap(&cut, &cluster("a")).await, Err(CustodyError::Foreign(_))), "{length} bytes");
    }
}

#[tokio::test]
async fn a_newer_version_wraps_again() {
    let (service, hsm) = given().await;
    let wrapped = service.wrap("master", &[7; 32], &cluster("a")).await.unwrap();
    hsm.lock().unwrap().version = 2;
    let newest = service.version("master").await.unwrap();
    assert!(must_rewrap(&wrapped, "master", newest.as_deref()));
    let again = service.rewrap(&wrapped, "master", &cluster("a")).await.unwrap();
    assert_eq!(again.version.as_deref(), Some("v2"));
    assert_eq!(**service.unwrap(&again, &cluster("a")).await.unwrap(), [7; 32]);
    assert_eq!(**service.unwrap(&wrapped, &cluster("a")).await.unwrap(), [7; 32], "until the old version is disabled");
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_told_apart_from_one_that_must_not() {
    let (service, hsm) = given().await;
    let wrap = || async { service.wrap("master", &[7; 32], &cluster("a")).await.map(drop) };
    hsm.lock().unwrap().enabled = false;
    assert!(matches!(wrap().await, Err(CustodyError::Key(_))));
    hsm.lock().unwrap().enabled = true;
    hsm.lock().unwrap().kind = "RSA-HSM";
    assert!(matches!(wrap().await, Err(CustodyError::Key(_))));
    hsm.lock().unwrap().kind = "oct-HSM";
    hsm.lock().unwrap().denies = true;
    let denied = wrap().await;
    assert!(matches!(&denied, Err(CustodyError::Denied(why)) if why.contains("keys/read")), "{denied:?}");
    assert!(matches!(service.version("other").await, Err(CustodyError::Key(_))));
    assert!(matches!(service.version("../master").await, Err(CustodyError::Key(_))));
}
