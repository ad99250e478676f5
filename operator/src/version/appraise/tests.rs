//! Each way a version can be wrong has its reason; the good ones give their sets.

use constellation_attestation::{
    owner::{SigningKey, spki_to_pem},
    platform::Platform,
};
use constellation_crds::{
    NodeVersionSpec,
    version::{Image, Measurements, SignedManifest},
};

use super::*;

struct Given {
    publisher: SigningKey,
    manifest: MeasurementManifest,
    version: NodeVersion,
}

fn given() -> Given {
    let publisher = SigningKey::generate().unwrap();
    let pcrs = policy::REQUIRED_PCRS.into_iter().map(|pcr| (pcr, vec!["0".repeat(64)])).collect();
    let set = policy::MeasurementSet::of_registers("v1".into(), Platform::QemuVtpm, pcrs);
    let manifest = MeasurementManifest {
        revision: 3,
        kubernetes_version: "v1.36.3".into(),
        image_sha256: "0".repeat(64),
        sets: vec![set],
        expires: None,
    };
    let signed = SignedManifest { config_map: "m".into(), public_key: spki_to_pem(&publisher.public_spki()) };
    let spec = NodeVersionSpec {
        image: Image { local: Some("/image".into()), ..Image::default() },
        kubernetes_version: "v1.36.3".into(),
        measurements: Measurements { inline: None, signed: Some(signed) },
        rollout: None,
    };
    Given { publisher, manifest, version: NodeVersion::new("v", spec) }
}

impl Given {
    fn envelope(&self) -> Manifest {
        Manifest::Envelope(dsse::sign(MANIFEST_TYPE, &serde_json::to_vec(&self.manifest).unwrap(), &self.publisher))
    }

    fn status(&self, manifest: &Manifest) -> NodeVersionStatus {
        appraise(&Observed { version: &self.version, manifest, now: Timestamp::UNIX_EPOCH })
    }

    fn refusal(&self, manifest: &Manifest) -> String {
        let status = self.status(manifest);
        assert!(status.digest.is_none() && status.sets.is_empty());
        let ready = status.conditions.iter().find(|c| c.type_ == kind::READY).unwrap();
        assert_eq!(ready.status, "False");
        assert!(!ready.message.is_empty());
        ready.reason.clone()
    }
}

#[test]
fn a_manifest_of_its_publisher_gives_sets_signer_and_digest() {
    let given = given();
    let status = given.status(&given.envelope());
    assert!(condition::is_true(&status.conditions, kind::READY));
    assert!(condition::is_true(&status.conditions, kind::SIGNATURE_VERIFIED));
    assert_eq!((status.sets.len(), status.revision), (1, Some(3)));
    assert_eq!(status.signer, Some(fingerprint(&given.publisher.public_spki())));
}

#[test]
fn each_wrong_thing_is_refused_for_its_reason() {
    let mut given = given();
    assert_eq!(given.refusal(&Manifest::Missing), reason::MANIFEST_NOT_FOUND);
    assert_eq!(given.refusal(&Manifest::Envelope("{}".into())), reason::SIGNATURE_INVALID);
    let stranger =
        dsse::sign(MANIFEST_TYPE, &serde_json::to_vec(&given.manifest).unwrap(), &SigningKey::generate().unwrap());
    assert_eq!(given.refusal(&Manifest::Envelope(stranger)), reason::SIGNATURE_INVALID);
    let garbage = dsse::sign(MANIFEST_TYPE, b"[]", &given.publisher);
    assert_eq!(given.refusal(&Manifest::Envelope(garbage)), reason::MANIFEST_INVALID);
    given.manifest.kubernetes_version = "v1.35.0".into();
    assert_eq!(given.refusal(&given.envelope()), reason::MANIFEST_INVALID);
    given.manifest.kubernetes_version = "v1.36.3".into();
    given.manifest.sets[0].pcrs.remove(&12);
    assert_eq!(given.refusal(&given.envelope()), reason::MANIFEST_INVALID);
    given.version.spec.measurements.signed.as_mut().unwrap().public_key = "key".into();
    assert_eq!(given.refusal(&given.envelope()), reason::INVALID_SPEC);
}

#[test]
fn an_older_manifest_is_refused_also_after_a_broken_one() {
    let mut given = given();
    given.version.status = Some(given.status(&given.envelope()));
    given.version.status = Some(given.status(&Manifest::Missing));
    given.manifest.revision = 2;
    assert_eq!(given.refusal(&given.envelope()), reason::MANIFEST_TOO_OLD);
    given.manifest.revision = 3;
    assert!(given.status(&given.envelope()).digest.is_some());
    given.manifest.expires = Some(Timestamp::UNIX_EPOCH);
    assert_eq!(given.refusal(&given.envelope()), reason::MANIFEST_TOO_OLD);
}

#[test]
fn inline_sets_are_used_and_said_to_be_unsigned_and_empty_ones_are_refused() {
    let mut given = given();
    let sets: Vec<_> = given.manifest.sets.iter().cloned().map(|set| public(set).ok().unwrap()).collect();
    given.version.spec.measurements = Measurements { inline: Some(sets), signed: None };
    let status = given.status(&Manifest::Inline);
    assert!(status.digest.is_some() && status.signer.is_none());
    assert!(!condition::is_true(&status.conditions, kind::SIGNATURE_VERIFIED));
    given.version.spec.measurements.inline = Some(vec![]);
    assert_eq!(given.refusal(&Manifest::Inline), reason::NO_MEASUREMENTS);
}

#[test]
fn a_second_look_changes_nothing() {
    let mut given = given();
    let first = given.status(&given.envelope());
    given.version.status = Some(first.clone());
    let later = Observed { version: &given.version, manifest: &given.envelope(), now: Timestamp::MAX };
    assert_eq!(appraise(&later), first);
}
