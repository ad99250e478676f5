//! Tables for `admit`: the good one passes, and each with exactly one thing wrong is refused for exactly that.

use std::collections::BTreeMap;

use constellation_attestation::{
    appraise::Origin,
    protocol::{BootKeys, Purpose},
};
use constellation_crds::{cluster::DiskIntegrity, node::AttestationResult};

use super::*;

struct Given {
    spec: NodeAdmissionSpec,
    status: Option<NodeAdmissionStatus>,
    hello: Hello,
    appraisal: Appraisal,
    appraised_launch: [u8; 32],
    ours: LaunchConfig,
    revision: u64,
    door: Door,
}

/// A worker that the operator has announced.
pub(crate) fn given_spec() -> NodeAdmissionSpec {
    NodeAdmissionSpec {
        node_uid: "uid-1".to_owned(),
        node_name: "worker-1".to_owned(),
        role: NodeRole::Worker,
        launch_config_digest: String::new(),
        pod_cidr: "10.244.1.0/24".to_owned(),
        provider_id: "local://1".to_owned(),
        labels: BTreeMap::default(),
        taints: Vec::new(),
        disk_integrity: DiskIntegrity::None,
        evicted: None,
    }
}

/// A worker that knocks for the first time, with nothing wrong.
fn given() -> Given {
    let ours = LaunchConfig {
        cluster_uid: "cluster-1".to_owned(),
        node_uid: "cp".to_owned(),
        node_name: "cp-0".to_owned(),
        role: Role::ControlPlane,
        owner_public_key: "b3duZXI=".to_owned(),
    };
    let mut spec = given_spec();
    let appraised_launch = launch_digest(&spec, &ours);
    spec.launch_config_digest = hex::encode(appraised_launch);
    let hello = Hello {
        purpose: Purpose::Join,
        node_uid: "uid-1".to_owned(),
        cluster_uid: "cluster-1".to_owned(),
        address: "10.77.0.11".to_owned(),
        keys: BootKeys { csr: vec![1], encryption: vec![2; 32], wireguard: vec![3; 32] },
        ek_certificate: vec![4],
        ek_public: vec![5],
        ak_public: vec![6],
    };
    let appraisal = Appraisal {
        accepted: true,
        origin: Origin::Machine,
        set: Some("v1".to_owned()),
        mismatches: Vec::new(),
        lacking: Vec::new(),
        ak_name: "000b01".to_owned(),
        ek_certificate_digest: "ee".to_owned(),
        reset_count: 7,
        restart_count: 0,
        clock: 1,
        evidence_digest: "dd".to_owned(),
    };
    Given { spec, status: None, hello, appraisal, appraised_launch, ours, revision: 3, door: Door::Join }
}

fn given_known() -> Given {
    let mut given = given();
    let Decision::Admit(admission) = decide(&given) else { panic!("the good one is admitted") };
    let last = AttestationResult { trust_revision: Some(3), ..AttestationResult::default() };
    given.status = Some(NodeAdmissionStatus { admission: Some(admission), last_appraisal: Some(last), refusals: None });
    given
}

fn decide(given: &Given) -> Decision {
    admit(&Seen {
        spec: &given.spec,
        status: given.status.as_ref(),
        hello: &given.hello,
        appraisal: &given.appraisal,
        appraised_launch: &given.appraised_launch,
        ours: &given.ours,
        revision: given.revision,
        door: given.door,
        now: Timestamp::UNIX_EPOCH,
    })
}

fn clauses(decision: &Decision) -> Vec<&str> {
    match decision {
        Decision::Refuse(reasons) => reasons.iter().map(|reason| reason.clause.as_str()).collect(),
        Decision::Admit(_) | Decision::Returning(_) => Vec::new(),
    }
}

#[test]
fn a_first_good_appraisal_is_admitted_with_what_the_evidence_says() {
    let expected = Admission {
        ak_name: "000b01".to_owned(),
        ek_certificate_digest: "ee".to_owned(),
        reset_count: 7,
        admitted_at: "1970-01-01T00:00:00Z".to_owned(),
        wireguard_key: STANDARD.encode([3; 32]),
        address: "10.77.0.11".to_owned(),
        kubelet_certificate: None,
    };
    assert_eq!(decide(&given()), Decision::Admit(expected));
}

#[test]
fn the_same_machine_returns_and_keeps_its_first_admission() {
    for (reset_count, address, wireguard) in [(7, "10.77.0.11", 3), (8, "10.77.0.12", 9)] {
        let mut given = given_known();
        given.appraisal.reset_count = reset_count;
        given.hello.address = address.to_owned();
        given.hello.keys.wireguard = vec![wireguard; 32];
        let Decision::Returning(admission) = decide(&given) else { panic!("the same machine returns") };
        assert_eq!((admission.reset_count, admission.address.as_str()), (reset_count, address));
        assert_eq!(admission.wireguard_key, STANDARD.encode([wireguard; 32]));
        assert_eq!(admission.admitted_at, "1970-01-01T00:00:00Z");
    }
}

#[test]
fn one_thing_wrong_is_refused_for_exactly_that() {
    type Change = fn(&mut Given);
    let table: &[(&str, Change)] = &[
        ("admission.second-key", |given| given.appraisal.ak_name = "000b02".to_owned()),
        ("admission.second-tpm", |given| given.appraisal.ek_certificate_digest = "ef".to_owned()),
        ("admission.reset-count", |given| given.appraisal.reset_count = 6),
        ("admission.evicted", |given| given.spec.evicted = Some(true)),
        ("admission.node", |given| given.hello.node_uid = "uid-2".to_owned()),
        ("admission.cluster", |given| given.hello.cluster_uid = "cluster-2".to_owned()),
        ("admission.launch-config", |given| given.spec.launch_config_digest = "00".repeat(32)),
        ("admission.launch-config", |given| given.appraised_launch = [0; 32]),
        ("admission.launch-config", |given| given.spec.role = NodeRole::ControlPlane),
        ("admission.launch-config", |given| given.spec.node_name = "worker-2".to_owned()),
        ("admission.launch-config", |given| given.ours.owner_public_key = "ZXZpbA==".to_owned()),
        ("admission.trust-revision", |given| given.revision = 2),
        ("evidence", |given| given.appraisal.accepted = false),
    ];
    assert_eq!(clauses(&decide(&given_known())), Vec::<&str>::new());
    for (clause, change) in table {
        let mut given = given_known();
        change(&mut given);
        assert_eq!(clauses(&decide(&given)), [*clause]);
    }
}

#[test]
fn a_newcomer_is_refused_like_a_known_node() {
    type Change = fn(&mut Given);
    let table: &[(&str, Change)] = &[
        ("evidence", |given| given.appraisal.accepted = false),
        ("admission.evicted", |given| given.spec.evicted = Some(true)),
        ("admission.launch-config", |given| given.spec.role = NodeRole::ControlPlane),
        ("admission.anchor", |given| given.appraisal.ak_name = String::new()),
        ("admission.anchor", |given| given.appraisal.ek_certificate_digest = String::new()),
    ];
    for (clause, change) in table {
        let mut given = given();
        change(&mut given);
        assert_eq!(clauses(&decide(&given)), [*clause]);
    }
}

#[test]
fn every_reason_is_listed() {
    let mut given = given_known();
    given.spec.evicted = Some(true);
    given.appraisal.ak_name = "000b02".to_owned();
    given.appraisal.reset_count = 0;
    let expected = ["admission.evicted", "admission.second-key", "admission.reset-count"];
    assert_eq!(clauses(&decide(&given)), expected);
}

#[test]
fn claims_of_bad_evidence_raise_no_alarm_about_keys() {
    let mut given = given_known();
    given.appraisal.accepted = false;
    given.appraisal.ak_name = "000b02".to_owned();
    assert_eq!(clauses(&decide(&given)), ["evidence"]);
}

#[test]
fn a_member_needs_a_record_and_our_own_node_may_get_one() {
    let mut given = given();
    given.door = Door::Member;
    assert_eq!(clauses(&decide(&given)), ["admission.missing"]);
    given.door = Door::Own;
    assert!(matches!(decide(&given), Decision::Admit(_)));
    let mut known = given_known();
    known.door = Door::Member;
    assert!(matches!(decide(&known), Decision::Returning(_)));
}

#[test]
fn only_a_uid_is_looked_up() {
    for good in ["a", "9d1b4c1e-2f7a-4a70-9a57-3b0c5e9f6a11"] {
        assert!(is_uid(good), "{good}");
    }
    for bad in ["", "..", "a/b", "a?watch=true", "A", "a b", "-a", "a-", "a%2fb", "a.b", &"a".repeat(64)] {
        assert!(!is_uid(bad), "{bad}");
    }
}
