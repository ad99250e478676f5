//! A master secret kept by a scripted Managed HSM, which authenticates what it opens.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
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
use constellation_cloud_azure::{Access, KEY_ACTIONS, ManagedHsm};
use serde_json::{Value, json};

/// What an HSM knows: for each tag that it gave out, the key's version, the data and the secret.
#[derive(Default)]
struct Hsm {
    version: u32,
    kind: &'static str,
    enabled: bool,
    denies: bool,
    asked: BTreeSet<String>,
    sealed: BTreeMap<String, (String, String, String)>,
}

type Shared = Arc<Mutex<Hsm>>;
type Answer = (StatusCode, Json<Value>);

fn refusal(status: u16, code: &str) -> Answer {
    (StatusCode::from_u16(status).unwrap(), Json(json!({"error": {"code": code, "message": "as scripted"}})))
}

async fn key(State(hsm): State<Shared>) -> Answer {
    let mut hsm = hsm.lock().unwrap();
    hsm.asked.insert("read".into());
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
    hsm.asked.insert(operation.to_owned());
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

/// The client, the HSM, and the key that it holds.
async fn given() -> (ManagedHsm, Shared, String) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let hsm = Shared::new(Mutex::new(Hsm { version: 1, kind: "oct-HSM", enabled: true, ..Hsm::default() }));
    let app = Router::new()
        .route("/keys/master", get(key))
        .route("/keys/master/{version}/{operation}", post(operate))
        .fallback(|| async { refusal(404, "KeyNotFound") })
        .with_state(Arc::clone(&hsm));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let limiter = Arc::new(Limiter::new(1000, Duration::ZERO));
    (ManagedHsm::new(&url, &Access::Anonymous, limiter).unwrap(), hsm, format!("{url}/keys/master"))
}

fn cluster(name: &str) -> Binding {
    Binding { cluster: name.into() }
}

#[tokio::test]
async fn a_secret_comes_back_for_its_cluster_and_for_no_other() {
    let (service, hsm, key) = given().await;
    let wrapped = service.wrap(&key, &[7; 32], &cluster("a")).await.unwrap();
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
    let asked = hsm.lock().unwrap().asked.clone();
    let asked: Vec<_> = asked.iter().map(|what| format!("Microsoft.KeyVault/managedHsm/keys/{what}/action")).collect();
    assert_eq!(asked, KEY_ACTIONS, "the printed role has what is asked for, and no more");
}

#[tokio::test]
async fn a_newer_version_wraps_again() {
    let (service, hsm, key) = given().await;
    let wrapped = service.wrap(&key, &[7; 32], &cluster("a")).await.unwrap();
    hsm.lock().unwrap().version = 2;
    let newest = service.version(&key).await.unwrap();
    assert!(must_rewrap(&wrapped, &key, newest.as_deref()));
    let again = service.rewrap(&wrapped, &key, &cluster("a")).await.unwrap();
    assert_eq!(again.version.as_deref(), Some("v2"));
    assert_eq!(**service.unwrap(&again, &cluster("a")).await.unwrap(), [7; 32]);
    assert_eq!(**service.unwrap(&wrapped, &cluster("a")).await.unwrap(), [7; 32], "until the old version is disabled");
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_told_apart_from_one_that_must_not() {
    let (service, hsm, key) = given().await;
    let wrap = || async { service.wrap(&key, &[7; 32], &cluster("a")).await.map(drop) };
    hsm.lock().unwrap().enabled = false;
    assert!(matches!(wrap().await, Err(CustodyError::Key(_))));
    hsm.lock().unwrap().enabled = true;
    hsm.lock().unwrap().kind = "RSA-HSM";
    assert!(matches!(wrap().await, Err(CustodyError::Key(_))));
    hsm.lock().unwrap().kind = "oct-HSM";
    hsm.lock().unwrap().denies = true;
    let denied = wrap().await;
    assert!(matches!(&denied, Err(CustodyError::Denied(why)) if why.contains("keys/read")), "{denied:?}");
    let elsewhere = key.replace("127.0.0.1", "127.0.0.2");
    let none =
        [format!("{key}er"), key.replace("master", "../master"), elsewhere, "master".into(), format!("{key}/v1")];
    for none in none {
        assert!(matches!(service.version(&none).await, Err(CustodyError::Key(_))), "{none}");
    }
}

#[test]
fn a_token_goes_to_a_managed_hsm_of_azure_only() {
    assert!(ManagedHsm::is_url("https://an-hsm.managedhsm.azure.net"));
    for other in [
        "http://an-hsm.managedhsm.azure.net",
        "https://.managedhsm.azure.net",
        "https://a.b.managedhsm.azure.net",
        "https://x@an-hsm.managedhsm.azure.net",
        "https://evil.example/an-hsm.managedhsm.azure.net",
        "https://an-hsm.managedhsm.azure.net:444",
        "https://an-hsm.managedhsm.azure.net.evil.example",
        "https://an-hsm.vault.azure.net",
    ] {
        assert!(!ManagedHsm::is_url(other), "{other}");
    }
}
