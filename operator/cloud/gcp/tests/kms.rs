//! A master secret kept by a scripted Cloud KMS, which authenticates what it opens; requests keep to Google's model.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{Method, StatusCode, Uri},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_cloud::custody::{Binding, CustodyError, KeyService, Wrapped, must_rewrap};
use constellation_cloud_gcp::{Access, CloudKms, KEY_CALLS};
use constellation_cloud_scripted::gcp::model::{self, Service};
use serde_json::{Value, json};

const KEY: &str = "projects/example.com:p/locations/europe-west4/keyRings/ring/cryptoKeys/master";

/// What KMS knows, and how it is to behave.
struct Kms {
    /// Number of the primary version.
    version: u32,
    state: &'static str,
    purpose: &'static str,
    /// The next answer instead of the right one: HTTP status and status of Google's API.
    refusal: Option<(u16, &'static str)>,
    /// Changes the next good answer.
    spoil: Option<fn(&mut Value)>,
    sealed: Vec<(Vec<u8>, Vec<u8>)>,
    calls: BTreeSet<String>,
    violations: Vec<String>,
}

type Shared = Arc<Mutex<Kms>>;
type Answer = (StatusCode, Json<Value>);

fn refusal(status: u16, code: &str) -> Answer {
    let body = json!({"error": {"code": status, "status": code, "message": "as scripted"}});
    (StatusCode::from_u16(status).unwrap(), Json(body))
}

fn bytes(body: &Value, name: &str) -> Vec<u8> {
    STANDARD.decode(body[name].as_str().unwrap_or_default()).unwrap()
}

/// Bytes that came with a checksum, which Cloud KMS checks.
fn checked(body: &Value, name: &str) -> Option<Vec<u8>> {
    let bytes = bytes(body, name);
    (body[format!("{name}Crc32c")] == sum(&bytes)).then_some(bytes)
}

fn sum(bytes: &[u8]) -> Value {
    crc32c::crc32c(bytes).to_string().into()
}

impl Kms {
    fn answer(&mut self, id: &str, body: &Value) -> Answer {
        if let Some((status, code)) = self.refusal.take() {
            return refusal(status, code);
        }
        let version = format!("{KEY}/cryptoKeyVersions/{}", self.version);
        let aad = checked(body, "additionalAuthenticatedData");
        let mut answer = match id {
            "cloudkms.cryptoKeys.get" => {
                json!({"name": KEY, "purpose": self.purpose, "primary": {"name": version, "state": self.state}})
            }
            "cloudkms.cryptoKeys.encrypt" => {
                let (Some(secret), Some(aad)) = (checked(body, "plaintext"), aad) else {
                    return refusal(400, "INVALID_ARGUMENT");
                };
                let sealed = format!("sealed-{:04}", self.sealed.len()).into_bytes();
                self.sealed.push((aad, secret));
                json!({"name": version, "ciphertext": STANDARD.encode(&sealed), "ciphertextCrc32c": sum(&sealed),
                    "verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true})
            }
            _ => {
                let sealed = checked(body, "ciphertext").and_then(|bytes| String::from_utf8(bytes).ok());
                let at = sealed.and_then(|text| text.strip_prefix("sealed-")?.parse::<usize>().ok());
                let known = at.and_then(|at| self.sealed.get(at)).filter(|(its, _)| Some(its) == aad.as_ref());
                let Some((_, secret)) = known else { return refusal(400, "INVALID_ARGUMENT") };
                json!({"plaintext": STANDARD.encode(secret), "plaintextCrc32c": sum(secret), "usedPrimary": true})
            }
        };
        if let Some(spoil) = self.spoil.take() {
            spoil(&mut answer);
        }
        (StatusCode::OK, Json(answer))
    }
}

async fn serve(
    State(kms): State<Shared>,
    method: Method,
    uri: Uri,
    Query(query): Query<Vec<(String, String)>>,
    body: Bytes,
) -> Answer {
    let body: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap());
    let mut kms = kms.lock().unwrap();
    match model::check(Service::Kms, method.as_str(), uri.path(), &query, body.as_ref()) {
        Ok(matched) => {
            let id = matched.id.replace("projects.locations.keyRings.", "");
            kms.calls.insert(id.clone());
            if !matched.path.contains(KEY) {
                return refusal(404, "NOT_FOUND");
            }
            kms.answer(&id, &body.unwrap_or_default())
        }
        Err(wrong) => {
            kms.violations.extend(wrong);
            refusal(400, "INVALID_ARGUMENT")
        }
    }
}

async fn given() -> (CloudKms, Shared) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kms = Shared::new(Mutex::new(Kms {
        version: 1,
        state: "ENABLED",
        purpose: "ENCRYPT_DECRYPT",
        refusal: None,
        spoil: None,
        sealed: Vec::new(),
        calls: BTreeSet::new(),
        violations: Vec::new(),
    }));
    let app = Router::new().fallback(serve).with_state(Arc::clone(&kms));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (CloudKms::connect(&Access::Anonymous, Some(&url)).await.unwrap(), kms)
}

fn cluster(name: &str) -> Binding {
    Binding { cluster: name.into() }
}

#[tokio::test]
async fn a_secret_comes_back_for_its_cluster_and_for_no_other() {
    let (service, kms) = given().await;
    let wrapped = service.wrap(KEY, &[7; 32], &cluster("a")).await.unwrap();
    assert_eq!((wrapped.key.as_str(), wrapped.version.as_deref()), (KEY, Some("1")));
    assert_eq!(**service.unwrap(&wrapped, &cluster("a")).await.unwrap(), [7; 32]);
    let other = service.unwrap(&wrapped, &cluster("b")).await;
    assert!(matches!(other, Err(CustodyError::Foreign(_))), "{other:?}");
    let mut changed = wrapped.clone();
    changed.ciphertext[10] ^= 1;
    assert!(matches!(service.unwrap(&changed, &cluster("a")).await, Err(CustodyError::Foreign(_))));
    let of_another = Wrapped { key: KEY.replace("master", "other"), ..wrapped };
    assert!(matches!(service.unwrap(&of_another, &cluster("a")).await, Err(CustodyError::Key(_))));

    assert_eq!(service.version(KEY).await.unwrap().as_deref(), Some("1"));
    let kms = kms.lock().unwrap();
    let listed: Vec<_> = KEY_CALLS.iter().map(|(method, _)| *method).collect();
    assert_eq!(kms.calls.iter().collect::<Vec<_>>(), listed, "the printed role has what is called, and no more");
    assert_eq!(kms.violations, [""; 0]);
}

#[tokio::test]
async fn a_newer_version_wraps_again() {
    let (service, kms) = given().await;
    let wrapped = service.wrap(KEY, &[7; 32], &cluster("a")).await.unwrap();
    assert!(!must_rewrap(&wrapped, KEY, service.version(KEY).await.unwrap().as_deref()));
    kms.lock().unwrap().version = 2;
    let newest = service.version(KEY).await.unwrap();
    assert!(must_rewrap(&wrapped, KEY, newest.as_deref()));
    let again = service.rewrap(&wrapped, KEY, &cluster("a")).await.unwrap();
    assert_eq!(again.version.as_deref(), Some("2"));
    assert_eq!(**service.unwrap(&again, &cluster("a")).await.unwrap(), [7; 32]);
    assert_eq!(kms.lock().unwrap().violations, [""; 0]);
}

#[tokio::test]
async fn an_answer_that_was_damaged_on_its_way_is_not_used() {
    let (service, kms) = given().await;
    let wrapped = service.wrap(KEY, &[7; 32], &cluster("a")).await.unwrap();
    let of_wrapping: [fn(&mut Value); 6] = [
        |answer| answer["ciphertext"] = "AAAA".into(),
        |answer| answer["ciphertextCrc32c"] = Value::Null,
        |answer| answer["verifiedPlaintextCrc32c"] = false.into(),
        |answer| answer["verifiedAdditionalAuthenticatedDataCrc32c"] = Value::Null,
        |answer| answer["name"] = KEY.replace("master", "other").into(),
        |answer| answer["name"] = format!("{KEY}/cryptoKeyVersions/").into(),
    ];
    for (number, spoil) in of_wrapping.into_iter().enumerate() {
        kms.lock().unwrap().spoil = Some(spoil);
        let refused = service.wrap(KEY, &[7; 32], &cluster("a")).await;
        assert!(matches!(refused, Err(CustodyError::Transient(_))), "{number}: {refused:?}");
    }
    let of_opening: [fn(&mut Value); 2] =
        [|answer| answer["plaintext"] = "AAAA".into(), |answer| answer["plaintextCrc32c"] = Value::Null];
    for (number, spoil) in of_opening.into_iter().enumerate() {
        kms.lock().unwrap().spoil = Some(spoil);
        let refused = service.unwrap(&wrapped, &cluster("a")).await;
        assert!(matches!(refused, Err(CustodyError::Transient(_))), "{number}");
    }
    assert_eq!(**service.unwrap(&wrapped, &cluster("a")).await.unwrap(), [7; 32]);
}

#[tokio::test]
async fn a_refusal_says_who_must_do_what() {
    let (service, kms) = given().await;
    let wrapped = service.wrap(KEY, &[7; 32], &cluster("a")).await.unwrap();
    for (status, code, wanted) in [
        (403, "PERMISSION_DENIED", "cloudkms.cryptoKeyVersions.useToDecrypt"),
        (401, "UNAUTHENTICATED", "the key service denies"),
        (404, "NOT_FOUND", "the key can't be used"),
        (400, "FAILED_PRECONDITION", "the key can't be used"),
        (400, "INVALID_ARGUMENT", "not this key's and this cluster's"),
        (429, "RESOURCE_EXHAUSTED", "retry"),
        (503, "UNAVAILABLE", "cloudkms.cryptoKeys.decrypt"),
    ] {
        kms.lock().unwrap().refusal = Some((status, code));
        let error = service.unwrap(&wrapped, &cluster("a")).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{code}: {error}");
    }
    for (state, purpose) in [("DISABLED", "ENCRYPT_DECRYPT"), ("ENABLED", "ASYMMETRIC_DECRYPT")] {
        let usual = {
            let mut kms = kms.lock().unwrap();
            (std::mem::replace(&mut kms.state, state), std::mem::replace(&mut kms.purpose, purpose))
        };
        let version = service.version(KEY).await;
        assert!(matches!(version, Err(CustodyError::Key(_))), "{state} {purpose}: {version:?}");
        let mut kms = kms.lock().unwrap();
        (kms.state, kms.purpose) = usual;
    }
    let before = kms.lock().unwrap().calls.clone();
    kms.lock().unwrap().calls.clear();
    let none = ["master", "projects/p/locations/l/keyRings/../cryptoKeys/k", &format!("{KEY}/cryptoKeyVersions/1")];
    for none in none {
        assert!(matches!(service.version(none).await, Err(CustodyError::Key(_))), "{none}");
    }
    assert!(kms.lock().unwrap().calls.is_empty() && !before.is_empty(), "nothing is sent for what is no key");
}
