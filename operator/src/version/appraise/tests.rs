//! Each way a version can be wrong has its reason; the good ones give their sets.

use std::collections::BTreeSet;

use constellation_attestation::{
    bytes::Hex,
    owner::{SigningKey, spki_to_pem},
    platform::Platform,
    reference::Requirement,
    snp,
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
fn floors_that_are_named_by_their_date_are_written_out_and_an_unknown_date_is_refused_with_the_known_ones() {
    let mut given = given();
    let mut policy = snp::Policy::strict();
    policy.measurement = Requirement::Exact(Hex([1; 48]));
    let mut wanted = serde_json::json!({ "snp": policy });
    let members = wanted["snp"].as_object_mut().unwrap();
    members.retain(|name, _| !floors::MEMBERS.contains(&name.as_str()));
    members.insert(floors::NAME.into(), "2025-02-03".into());
    let mut look = |wanted: &serde_json::Value| {
        let mut set = public(given.manifest.sets[0].clone()).ok().unwrap();
        set.platform = "gcp-snp".into();
        set.hardware = serde_json::from_value(wanted.clone()).unwrap();
        given.version.spec.measurements = Measurements { inline: Some(vec![set]), signed: None };
        given.status(&Manifest::Inline)
    };
    let status = look(&wanted);
    assert!(condition::is_true(&status.conditions, kind::READY), "{:?}", status.conditions);
    let set = private(&status.sets[0]).unwrap();
    let Some(policy::Hardware::Snp(policy)) = set.hardware else { unreachable!("a set for SEV-SNP") };
    let floor = Requirement::AtLeast("bl=4,tee=0,snp=24,ucode=219".parse().unwrap());
    assert_eq!(policy.reported_tcb.of(snp::Product::Milan), floor);
    assert_eq!(policy.reported_tcb.of(snp::Product::Turin), Requirement::AnyOf(vec![]));

    wanted["snp"][floors::NAME] = "2025-02-04".into();
    let status = look(&wanted);
    let ready = status.conditions.iter().find(|c| c.type_ == kind::READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", reason::MANIFEST_INVALID));
    assert!(ready.message.contains("known are 2025-02-03, 2026-11-27"), "{}", ready.message);
    assert!(status.digest.is_none());
    // Neither floors nor a name for some: no value is assumed.
    wanted["snp"].as_object_mut().unwrap().remove(floors::NAME);
    assert!(look(&wanted).digest.is_none());
}

#[test]
fn the_api_server_knows_the_members_that_floors_stand_for() {
    let definition = serde_json::json!(<NodeVersion as kube::CustomResourceExt>::crd());
    let place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/measurements/properties/inline/items\
                 /properties/hardware/properties/snp/properties";
    let known = definition.pointer(place).unwrap().as_object().unwrap().keys().cloned();
    let members = floors::MEMBERS.into_iter().chain([floors::NAME]).map(ToOwned::to_owned);
    assert_eq!(known.collect::<BTreeSet<_>>(), members.collect());
}

#[test]
fn a_second_look_changes_nothing() {
    let mut given = given();
    let first = given.status(&given.envelope());
    given.version.status = Some(first.clone());
    let later = Observed { version: &given.version, manifest: &given.envelope(), now: Timestamp::MAX };
    assert_eq!(appraise(&later), first);
}
