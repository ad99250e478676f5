//! Accept and refuse, in pairs.

use constellation_attestation::owner::SigningKey;
use constellation_attestation::protocol;
use constellation_crds::{NodeAdmissionSpec, TrustBundleSpec, cluster::DiskIntegrity};

use super::*;
use crate::cloud::simulated::store::State;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn given(image: &str, owner: &SigningKey) -> (Record, NodeAdmission) {
    let config = LaunchConfig {
        cluster_uid: "c".into(),
        node_uid: "n".into(),
        node_name: "a-1".into(),
        role: protocol::Role::Worker,
        owner_public_key: STANDARD.encode(owner.public_spki()),
    };
    let record = Record {
        cluster: "c".into(),
        node: "n".into(),
        name: "a-1".into(),
        image: image.into(),
        index: 3,
        launch_config: String::from_utf8(config.to_bytes()).unwrap(),
        launched_at: now(),
        boot_seconds: 1,
        state: State::Running,
        message: None,
    };
    let admission = NodeAdmission::new(
        "n",
        NodeAdmissionSpec {
            node_uid: "n".into(),
            node_name: "a-1".into(),
            role: Role::Worker,
            launch_config_digest: digest(&record.launch_config),
            pod_cidr: "10.244.3.0/24".into(),
            provider_id: "simulated://n".into(),
            labels: BTreeMap::from([("x".into(), "y".into())]),
            taints: vec!["k=v:NoSchedule".into(), "l:NoExecute".into()],
            disk_integrity: DiskIntegrity::None,
            evicted: None,
        },
    );
    (record, admission)
}

fn trust(images: &[&str]) -> TrustPolicy {
    let set = |image: &&str| {
        let pcrs = REGISTERS.iter().map(|&n| (n, vec![claim(image, n)])).collect();
        MeasurementSet::of_registers(format!("set-{image}"), Platform::Simulated, pcrs)
    };
    TrustPolicy {
        cluster_uid: "c".into(),
        revision: 7,
        sets: images.iter().map(set).collect(),
        endorsement_roots: Vec::new(),
        place: None,
        reattestation_interval_seconds: None,
    }
}

#[test]
fn an_image_in_the_policy_is_accepted_and_names_its_set() {
    let owner = SigningKey::generate().unwrap();
    let (record, admission) = given("v2", &owner);
    let result = appraise(&record, Evidence::Whole, &admission, &trust(&["v1", "v2"]), now());
    assert!(accepted(&result), "{result:?}");
    assert_eq!(result.measurement_set.as_deref(), Some("set-v2"));
    assert_eq!((result.platform.as_str(), result.trust_revision), ("simulated", Some(7)));
}

#[test]
fn one_thing_wrong_is_refused_with_expected_and_actual() {
    let owner = SigningKey::generate().unwrap();
    let (record, admission) = given("v1", &owner);
    let clauses = |result: &AttestationResult| result.mismatches.iter().map(|m| m.clause.clone()).collect::<Vec<_>>();

    let broken = appraise(&record, Evidence::Broken, &admission, &trust(&["v1"]), now());
    assert_eq!(clauses(&broken), ["tpm.pcr.12"]);
    assert_eq!(broken.mismatches[0].expected, Some(claim("v1", 12)));
    assert!(broken.mismatches[0].actual.is_some() && broken.measurement_set.is_none() && broken.refusal_id.is_some());

    let other = appraise(&record, Evidence::Whole, &admission, &trust(&["v2"]), now());
    assert_eq!(clauses(&other), ["tpm.pcr.4", "tpm.pcr.11", "tpm.pcr.12", "tpm.pcr.13"]);

    let none = appraise(&record, Evidence::Whole, &admission, &TrustPolicy { sets: Vec::new(), ..trust(&[]) }, now());
    assert_eq!(clauses(&none), ["policy.empty"]);

    let mut foreign = trust(&["v1"]);
    foreign.sets[0].platform = Platform::QemuVtpm;
    assert_eq!(clauses(&appraise(&record, Evidence::Whole, &admission, &foreign, now())), ["policy.empty"]);

    let mut moved = admission.clone();
    moved.spec.launch_config_digest = "0".repeat(64);
    assert_eq!(clauses(&appraise(&record, Evidence::Whole, &moved, &trust(&["v1"]), now())), ["tpm.pcr.15"]);

    let mut evicted = admission;
    evicted.spec.evicted = Some(true);
    assert_eq!(clauses(&appraise(&record, Evidence::Whole, &evicted, &trust(&["v1"]), now())), ["admission.evicted"]);
}

#[test]
fn only_the_owners_newest_bundle_of_this_cluster_counts() {
    let owner = SigningKey::generate().unwrap();
    let stranger = SigningKey::generate().unwrap();
    let (record, _) = given("v1", &owner);
    let bundle = |policy: &TrustPolicy, key: &SigningKey| {
        let envelope = dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(policy).unwrap(), key);
        TrustBundle::new("constellation", TrustBundleSpec { envelope, collateral: [].into() })
    };
    let newer = TrustPolicy { revision: 9, ..trust(&["v1"]) };
    let foreign = TrustPolicy { cluster_uid: "d".into(), revision: 10, ..trust(&["v1"]) };
    let bundles = [bundle(&trust(&["v1"]), &owner), bundle(&newer, &owner), bundle(&foreign, &owner)];
    assert_eq!(policy(&record, &bundles).map(|p| p.revision), Some(9));
    assert_eq!(policy(&record, &[bundle(&newer, &stranger)]), None);
    assert_eq!(policy(&record, &[bundle(&foreign, &owner)]), None);
}

#[test]
fn an_admission_is_written_once_and_a_refusal_makes_none() {
    let owner = SigningKey::generate().unwrap();
    let (record, admission) = given("v1", &owner);
    let bad = appraise(&record, Evidence::Broken, &admission, &trust(&["v1"]), now());
    assert_eq!(status(&record, None, bad.clone(), now()).admission, None);
    let good = appraise(&record, Evidence::Whole, &admission, &trust(&["v1"]), now());
    let first = status(&record, None, good.clone(), now());
    let later = status(&record, Some(&first), bad, "2031-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(later.admission, first.admission);
    assert!(first.admission.is_some());
    let again = AttestationResult { time: Some("2031-01-01T00:00:00Z".into()), ..good.clone() };
    assert!(!news(Some(&good), &again) && news(None, &good));
}

#[test]
fn the_node_is_as_the_admission_says() {
    let owner = SigningKey::generate().unwrap();
    let (record, admission) = given("v1", &owner);
    let node = kube_node(&record, &admission, now());
    let spec = node.spec.unwrap();
    assert_eq!(spec.provider_id.as_deref(), Some("simulated://n"));
    assert_eq!(spec.pod_cidr.as_deref(), Some("10.244.3.0/24"));
    assert_eq!(spec.taints.unwrap().len(), 2);
    assert_eq!(node.metadata.labels.unwrap()["x"], "y");
}
