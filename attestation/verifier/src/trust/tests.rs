//! A good bundle is used; one with another signature, cluster or content isn't; an older one never again.

use std::collections::BTreeMap;

use constellation_attestation::{owner::SigningKey, platform::Platform, policy::MeasurementSet};
use tempfile::TempDir;

use super::*;

struct Given {
    dir: TempDir,
    owner: SigningKey,
}

impl Given {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), owner: SigningKey::generate().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("trust-revision")
    }

    fn open(&self) -> Trust {
        Trust::open(&self.owner.public_spki(), "cluster-1", Platform::QemuVtpm, &self.path()).unwrap()
    }

    fn sign(&self, policy: &TrustPolicy) -> String {
        dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(policy).unwrap(), &self.owner)
    }
}

fn given_policy(revision: u64) -> TrustPolicy {
    let value = vec!["ab".repeat(32)];
    let pcrs = [4, 11, 12, 13].into_iter().map(|index| (index, value.clone())).collect::<BTreeMap<_, _>>();
    let set = MeasurementSet::of_registers("v1".to_owned(), Platform::QemuVtpm, pcrs);
    TrustPolicy {
        cluster_uid: "cluster-1".to_owned(),
        revision,
        sets: vec![set],
        endorsement_roots: vec![given_root()],
        place: None,
        reattestation_interval_seconds: None,
    }
}

fn given_root() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

fn clause(error: &Error) -> Option<String> {
    error.reason().map(|reason| reason.clause)
}

#[test]
fn a_bundle_signed_by_the_owner_is_used() {
    let given = Given::new();
    let trust = given.open();
    assert_eq!(trust.accept(&given.sign(&given_policy(1))).unwrap().revision, 1);
    assert_eq!(trust.accept(&given.sign(&given_policy(1))).unwrap().revision, 1);
    assert_eq!(trust.accept(&given.sign(&given_policy(5))).unwrap().revision, 5);
    assert_eq!(trust.revision(), 5);
}

#[test]
fn an_older_revision_is_refused_even_after_a_restart() {
    let given = Given::new();
    let trust = given.open();
    trust.accept(&given.sign(&given_policy(5))).unwrap();
    for trust in [trust, given.open()] {
        let error = trust.accept(&given.sign(&given_policy(4))).unwrap_err();
        assert_eq!(clause(&error).as_deref(), Some("trust.revision"));
        trust.accept(&given.sign(&given_policy(5))).unwrap();
    }
}

#[test]
fn an_envelope_that_was_accepted_is_known_by_its_every_byte_and_no_longer_once_a_newer_one_was() {
    let given = Given::new();
    let trust = given.open();
    let [first, second] = [4, 5].map(|revision| given.sign(&given_policy(revision)));
    for _ in 0..2 {
        assert_eq!(trust.accept(&first).unwrap().revision, 4);
    }
    let mut altered: serde_json::Value = serde_json::from_str(&first).unwrap();
    let other: serde_json::Value = serde_json::from_str(&second).unwrap();
    altered["payload"] = other["payload"].clone();
    assert_eq!(clause(&trust.accept(&altered.to_string()).unwrap_err()).as_deref(), Some("trust.signature"));
    trust.accept(&second).unwrap();
    assert_eq!(clause(&trust.accept(&first).unwrap_err()).as_deref(), Some("trust.revision"));
}

#[test]
fn a_bundle_signed_by_nobody_or_another_is_refused() {
    let (given, other) = (Given::new(), Given::new());
    let trust = given.open();
    let payload = serde_json::to_string(&given_policy(1)).unwrap();
    let other_type = dsse::sign("application/x-other", payload.as_bytes(), &given.owner);
    for envelope in [other.sign(&given_policy(1)), payload, other_type, String::new(), "{}".to_owned()] {
        let error = trust.accept(&envelope).unwrap_err();
        assert_eq!(clause(&error).as_deref(), Some("trust.signature"));
    }
    assert_eq!(trust.revision(), 0);
}

#[test]
fn a_signed_bundle_of_another_cluster_or_without_content_is_refused() {
    let given = Given::new();
    let trust = given.open();
    let other = TrustPolicy { cluster_uid: "cluster-2".to_owned(), ..given_policy(1) };
    assert_eq!(clause(&trust.accept(&given.sign(&other)).unwrap_err()).as_deref(), Some("trust.cluster"));
    let empty = [
        TrustPolicy { sets: Vec::new(), ..given_policy(1) },
        TrustPolicy { endorsement_roots: Vec::new(), ..given_policy(1) },
    ];
    for policy in empty {
        let error = trust.accept(&given.sign(&policy)).unwrap_err();
        assert_eq!(clause(&error).as_deref(), Some("trust.policy"));
    }
    let garbage = dsse::sign(TRUST_POLICY_TYPE, b"[]", &given.owner);
    assert_eq!(clause(&trust.accept(&garbage).unwrap_err()).as_deref(), Some("trust.policy"));
    assert_eq!(trust.revision(), 0);
}

#[test]
fn a_revision_that_cannot_be_remembered_or_read_is_not_used() {
    let given = Given::new();
    let nowhere = given.dir.path().join("missing/trust-revision");
    let trust = Trust::open(&given.owner.public_spki(), "cluster-1", Platform::QemuVtpm, &nowhere).unwrap();
    let error = trust.accept(&given.sign(&given_policy(1))).unwrap_err();
    assert!(matches!(error, Error::Floor(..)) && clause(&error).is_none());
    assert_eq!(trust.revision(), 0);
    fs::write(given.path(), "not a number").unwrap();
    assert!(Trust::open(&given.owner.public_spki(), "cluster-1", Platform::QemuVtpm, &given.path()).is_err());
    // Only a file that isn't there means that there was no bundle yet.
    assert!(Trust::open(&given.owner.public_spki(), "cluster-1", Platform::QemuVtpm, given.dir.path()).is_err());
}

#[test]
fn a_revision_that_is_remembered_is_not_written_again() {
    let given = Given::new();
    let trust = given.open();
    trust.accept(&given.sign(&given_policy(1))).unwrap();
    let mut fresh = given.path().into_os_string();
    fresh.push(".new");
    fs::create_dir(fresh).unwrap();
    trust.accept(&given.sign(&given_policy(1))).unwrap();
    assert!(matches!(trust.accept(&given.sign(&given_policy(2))), Err(Error::Floor(..))));
}
