//! One request that a kubelet sends, and each way in which another one may differ from it.

use std::collections::BTreeMap;

use constellation_crds::{NodeAdmissionSpec, NodeAdmissionStatus};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, KeyUsagePurpose, SanType};

use super::*;
use crate::admit::tests::given_spec;

const USER_1: &str = "system:node:worker-1";
/// Digests of certificates.
const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const C: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

fn subject(parts: &[(DnType, &str)]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in parts {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params
}

fn kubelets() -> CertificateParams {
    subject(&[(DnType::OrganizationName, GROUP), (DnType::CommonName, USER_1)])
}

/// As a kubelet's text: rcgen ends its lines otherwise.
fn text(params: &CertificateParams) -> String {
    armor(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der())
}

/// What a genuine kubelet 1.36.3 sent whose `kubelet.conf` kubeadm had made.
const GENUINE: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHyMIGYAgEAMDYxFTATBgNVBAoTDHN5c3RlbTpub2RlczEdMBsGA1UEAxMUc3lz
dGVtOm5vZGU6d29ya2VyLTEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASUQkoN
YW5EPvECVwcTXSpbOBzec7SMlIg4lrc9Im9MEC1Q5vvTluJPYgSrmFqWCZATCmv1
Wb2EaU8eohanmze3oAAwCgYIKoZIzj0EAwIDSQAwRgIhAOh8f5wy1u2UO49XLR/d
jCJRdiQTuGpVKBhSHV/I/wh5AiEA74m86jJpZoGBB5uHfqeilW6K8wiAAIOg/a7p
9+NnH60=
-----END CERTIFICATE REQUEST-----
";

/// What the kubelet of `worker-1` asks with the certificate [`A`].
fn given() -> CertificateSigningRequest {
    let strings = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect());
    let spec = CertificateSigningRequestSpec {
        signer_name: KUBELET_SIGNER.to_owned(),
        username: Some(USER_1.to_owned()),
        groups: strings(&[GROUP, "system:authenticated"]),
        usages: strings(&["digital signature", "client auth"]),
        request: ByteString(text(&kubelets()).into_bytes()),
        extra: Some(BTreeMap::from([(CREDENTIAL.to_owned(), vec![format!("X509SHA256={A}")])])),
        ..CertificateSigningRequestSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some("csr-1".to_owned()),
        uid: Some("request-1".to_owned()),
        creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
        ..ObjectMeta::default()
    };
    CertificateSigningRequest { metadata, spec, status: None }
}

fn by(request: CertificateSigningRequest, credential: &str) -> CertificateSigningRequest {
    let extra = BTreeMap::from([(CREDENTIAL.to_owned(), vec![format!("X509SHA256={credential}")])]);
    CertificateSigningRequest { spec: CertificateSigningRequestSpec { extra: Some(extra), ..request.spec }, ..request }
}

fn node(uid: &str, role: Role, certificate: Option<KubeletCertificate>) -> NodeAdmission {
    let spec = NodeAdmissionSpec { node_uid: uid.to_owned(), role, ..given_spec() };
    let admission = Admission { kubelet_certificate: certificate, ..Admission::default() };
    let status = NodeAdmissionStatus { admission: Some(admission), ..NodeAdmissionStatus::default() };
    NodeAdmission { status: Some(status), ..NodeAdmission::new(uid, spec) }
}

fn record(current: &str, previous: Option<&str>) -> KubeletCertificate {
    KubeletCertificate { current: current.to_owned(), previous: previous.map(str::to_owned), requested_at: None }
}

fn worker() -> NodeAdmission {
    node("uid-1", Role::Worker, Some(record(A, None)))
}

fn evicted(node: NodeAdmission) -> NodeAdmission {
    NodeAdmission { spec: NodeAdmissionSpec { evicted: Some(true), ..node.spec }, ..node }
}

fn denied(decision: Decision) -> (Option<String>, String) {
    match decision {
        Decision::Deny { uid, reason } => (uid, reason.clause),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_members_kubelet_renews_with_either_kind_of_key() {
    let approved = Decision::Approve("uid-1".to_owned());
    assert_eq!(decide(&given(), &[worker()], "cp-0"), approved);
    let mut genuine = given();
    genuine.spec.request = ByteString(GENUINE.as_bytes().to_vec());
    assert_eq!(decide(&genuine, &[worker()], "cp-0"), approved);
    let mut with_rsa = given();
    with_rsa.spec.usages.as_mut().unwrap().push("key encipherment".to_owned());
    assert_eq!(decide(&with_rsa, &[worker()], "cp-0"), approved);
}

#[test]
fn a_request_with_one_thing_wrong_is_denied_for_that() {
    type Change = fn(&mut CertificateSigningRequestSpec);
    fn put(spec: &mut CertificateSigningRequestSpec, params: &CertificateParams) {
        spec.request = ByteString(text(params).into_bytes());
    }
    fn id(spec: &mut CertificateSigningRequestSpec, ids: &[&str]) {
        spec.extra = Some(BTreeMap::from([(CREDENTIAL.to_owned(), ids.iter().map(|&id| id.to_owned()).collect())]));
    }
    let table: &[(&str, &str, Change)] = &[
        ("another signer", REQUEST, |spec| spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned()),
        ("not a node's group", REQUEST, |spec| spec.groups = Some(vec!["system:authenticated".to_owned()])),
        ("no group", REQUEST, |spec| spec.groups = None),
        ("to serve", REQUEST, |spec| spec.usages.as_mut().unwrap()[1] = "server auth".to_owned()),
        ("to serve as well", REQUEST, |spec| spec.usages.as_mut().unwrap().push("server auth".to_owned())),
        ("one usage too few", REQUEST, |spec| spec.usages.as_mut().unwrap().truncate(1)),
        ("no usages", REQUEST, |spec| spec.usages = None),
        ("another name", REQUEST, |spec| {
            put(spec, &subject(&[(DnType::OrganizationName, GROUP), (DnType::CommonName, "system:node:worker-2")]));
        }),
        ("another group", REQUEST, |spec| {
            put(spec, &subject(&[(DnType::OrganizationName, "system:masters"), (DnType::CommonName, USER_1)]));
        }),
        ("no group in the name", REQUEST, |spec| put(spec, &subject(&[(DnType::CommonName, USER_1)]))),
        ("more in the name", REQUEST, |spec| {
            put(
                spec,
                &subject(&[
                    (DnType::OrganizationName, GROUP),
                    (DnType::CommonName, USER_1),
                    (DnType::OrganizationalUnitName, "x"),
                ]),
            );
        }),
        ("the other way round", REQUEST, |spec| {
            put(spec, &subject(&[(DnType::CommonName, USER_1), (DnType::OrganizationName, GROUP)]));
        }),
        ("an alternative name", REQUEST, |spec| {
            let mut params = kubelets();
            params.subject_alt_names = vec![SanType::DnsName("kubernetes".try_into().unwrap())];
            put(spec, &params);
        }),
        ("usages in the request", REQUEST, |spec| {
            let mut params = kubelets();
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            put(spec, &params);
        }),
        ("not signed by its key", REQUEST, |spec| {
            let mut der = kubelets().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            *der.last_mut().unwrap() ^= 1;
            spec.request = ByteString(armor(&der).into_bytes());
        }),
        ("something behind it", REQUEST, |spec| spec.request.0.extend(b"x")),
        ("another request behind it", REQUEST, |spec| {
            let again = spec.request.0.clone();
            spec.request.0.extend(again);
        }),
        ("something before it", REQUEST, |spec| spec.request.0.insert(0, b'\n')),
        ("bytes behind it", REQUEST, |spec| {
            let mut der = kubelets().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            der.push(0);
            spec.request = ByteString(armor(&der).into_bytes());
        }),
        ("a certificate", REQUEST, |spec| {
            let text = String::from_utf8(spec.request.0.clone()).unwrap();
            spec.request = ByteString(text.replace("CERTIFICATE REQUEST", "CERTIFICATE").into_bytes());
        }),
        ("nothing", REQUEST, |spec| spec.request.0.clear()),
        ("another certificate of the node", CERTIFICATE, |spec| id(spec, &[&format!("X509SHA256={B}")])),
        ("no certificate", CERTIFICATE, |spec| spec.extra = None),
        ("a token", CERTIFICATE, |spec| id(spec, &[&format!("JTI={A}")])),
        ("two certificates", CERTIFICATE, |spec| {
            id(spec, &[&format!("X509SHA256={A}"), &format!("X509SHA256={A}")]);
        }),
        ("the digest's beginning", CERTIFICATE, |spec| id(spec, &[&format!("X509SHA256={}", &A[1..])])),
        ("the digest in capitals", CERTIFICATE, |spec| id(spec, &[&format!("X509SHA256={}", A.to_uppercase())])),
    ];
    for (what, clause, change) in table {
        let mut request = given();
        change(&mut request.spec);
        let expected = (Some("uid-1".to_owned()), (*clause).to_owned());
        assert_eq!(denied(decide(&request, &[worker()], "cp-0")), expected, "{what}");
    }
}

#[test]
fn who_is_no_node_has_no_kubelets_certificate() {
    for user in ["admin", "system:node:", "system:node", "constellation:verifier", ""] {
        let mut request = given();
        request.spec.username = Some(user.to_owned());
        assert_eq!(denied(decide(&request, &[worker()], "")), (None, REQUEST.to_owned()), "{user}");
    }
}

#[test]
fn a_name_counts_as_long_as_one_member_has_it() {
    let without = |node: NodeAdmission| NodeAdmission { status: None, ..node };
    let second = || node("uid-2", Role::Worker, Some(record(A, None)));
    let other = || {
        let other = node("uid-3", Role::Worker, Some(record(A, None)));
        NodeAdmission { spec: NodeAdmissionSpec { node_name: "worker-2".to_owned(), ..other.spec }, ..other }
    };
    let deleted = |mut node: NodeAdmission| {
        node.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        node
    };
    let approved = |uid: &str| Ok(Decision::Approve(uid.to_owned()));
    let denied_of = |uid: Option<&str>| Err((uid.map(str::to_owned), NODE.to_owned()));
    for (what, nodes, expected) in [
        ("a member", vec![worker()], approved("uid-1")),
        ("beside another one", vec![other(), worker()], approved("uid-1")),
        ("after one that left", vec![evicted(second()), worker()], approved("uid-1")),
        ("beside one that waits", vec![worker(), without(second())], approved("uid-1")),
        ("not admitted yet", vec![without(worker())], Ok(Decision::Wait)),
        ("not admitted yet, after one that left", vec![evicted(second()), without(worker())], Ok(Decision::Wait)),
        ("evicted", vec![evicted(worker())], denied_of(Some("uid-1"))),
        ("deleted", vec![deleted(worker())], denied_of(Some("uid-1"))),
        ("evicted before it was admitted", vec![evicted(without(worker()))], denied_of(Some("uid-1"))),
        ("two members", vec![worker(), second()], denied_of(Some("uid-2"))),
        ("only others", vec![other()], denied_of(None)),
        ("nobody", vec![], denied_of(None)),
    ] {
        let decision = decide(&given(), &nodes, "cp-0");
        match expected {
            Ok(expected) => assert_eq!(decision, expected, "{what}"),
            Err(expected) => assert_eq!(denied(decision), expected, "{what}"),
        }
    }
    assert_eq!(
        decide(&given(), &[], "worker-1"),
        Decision::Wait,
        "our own node, before the operator has written of it"
    );
    assert_eq!(denied(decide(&given(), &[evicted(worker())], "worker-1")).1, NODE);
}

#[test]
fn a_worker_is_bound_to_a_recorded_certificate_and_who_holds_the_ca_is_not() {
    for (what, role, known, expected) in [
        ("the last", Role::Worker, Some(record(A, Some(B))), true),
        ("the one before", Role::Worker, Some(record(B, Some(A))), true),
        ("an older one", Role::Worker, Some(record(B, Some(C))), false),
        ("never recorded", Role::Worker, None, false),
        ("a control-plane node's", Role::ControlPlane, None, true),
        ("a control-plane node's that was recorded", Role::ControlPlane, Some(record(A, None)), true),
        ("a control-plane node's, another than was recorded", Role::ControlPlane, Some(record(B, None)), false),
    ] {
        let decision = decide(&given(), &[node("uid-1", role, known)], "cp-0");
        assert_eq!(decision == Decision::Approve("uid-1".to_owned()), expected, "{what}: {decision:?}");
        assert!(expected || denied(decision).1 == CERTIFICATE, "{what}");
    }
    let mut token = given();
    token.spec.extra = None;
    let holder = node("uid-1", Role::ControlPlane, None);
    assert_eq!(decide(&token, &[holder], "cp-0"), Decision::Approve("uid-1".to_owned()));
}

fn condition(kind: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition { type_: kind.to_owned(), ..CertificateSigningRequestCondition::default() }
}

#[test]
fn what_is_answered_is_answered_once() {
    for kind in [APPROVED, DENIED, FAILED] {
        let mut request = given();
        let conditions = Some(vec![condition(kind)]);
        request.status = Some(CertificateSigningRequestStatus { conditions, certificate: None });
        assert_eq!(decide(&request, &[], "cp-0"), Decision::Leave, "{kind}");
    }
}

/// A certificate, which is just bytes here, and its digest.
fn certificate(name: &str) -> (ByteString, String) {
    let text = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(name));
    (ByteString(text.into_bytes()), hex::encode(Sha256::digest(name)))
}

/// A request of this second, with this certificate, that was answered with another one.
fn answered(second: i64, credential: &str, with: &str) -> CertificateSigningRequest {
    let mut request = by(given(), credential);
    request.metadata.uid = Some(format!("request-{second}"));
    request.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
    let (conditions, certificate) = (Some(vec![condition(APPROVED)]), Some(certificate(with).0));
    request.status = Some(CertificateSigningRequestStatus { conditions, certificate });
    request
}

/// The digests on record after these requests were seen, and after they were seen again.
fn after(node: &NodeAdmission, requests: &[CertificateSigningRequest]) -> Option<(String, Option<String>)> {
    let record = moved(node, requests)?;
    let again =
        NodeAdmission { status: self::node("uid-1", node.spec.role, Some(record.clone())).status, ..node.clone() };
    assert_eq!(moved(&again, requests), None, "nothing moves twice");
    Some((record.current, record.previous))
}

#[test]
fn the_record_moves_on_with_what_was_issued_to_it() {
    let [b, c, d] = ["b", "c", "d"].map(|name| certificate(name).1);
    let is = |current: &str, previous: &str| Some((current.to_owned(), Some(previous.to_owned())));
    let (first, second, lost) = (answered(1, A, "b"), answered(5, &b, "c"), answered(3, A, "d"));
    for (what, requests, expected) in [
        ("nothing", vec![], None),
        ("one", vec![first.clone()], is(&b, A)),
        ("two in a row", vec![first.clone(), second.clone()], is(&c, &b)),
        ("two in a row, told in another order", vec![second.clone(), first.clone()], is(&c, &b)),
        ("one that was lost on its way and asked for again", vec![lost.clone(), first.clone()], is(&d, A)),
        ("somebody else's", vec![answered(1, C, "b")], None),
    ] {
        assert_eq!(after(&worker(), &requests), expected, "{what}");
    }
    // It stays where it is when only some of the same are seen later on.
    let mut moved_on = node("uid-1", Role::Worker, moved(&worker(), &[first.clone(), lost.clone()]));
    for requests in [vec![first.clone()], vec![lost.clone()], vec![]] {
        assert_eq!(moved(&moved_on, &requests), None);
    }
    // What was asked for first is issued last.
    moved_on = node("uid-1", Role::Worker, moved(&worker(), std::slice::from_ref(&lost)));
    assert_eq!(moved(&moved_on, &[first.clone(), lost]), None);
    // The kubelet has joined anew.
    assert_eq!(moved(&node("uid-1", Role::Worker, Some(record(C, None))), &[first, second]), None);
}

#[test]
fn the_record_follows_only_what_a_kubelet_was_given() {
    type Change = fn(&mut CertificateSigningRequest);
    assert!(moved(&worker(), &[answered(1, A, "b")]).is_some());
    let table: &[(&str, Change)] = &[
        ("not approved", |request| request.status.as_mut().unwrap().conditions = None),
        ("denied", |request| request.status.as_mut().unwrap().conditions = Some(vec![condition(DENIED)])),
        ("failed", |request| request.status.as_mut().unwrap().conditions.as_mut().unwrap().push(condition(FAILED))),
        ("not signed", |request| request.status.as_mut().unwrap().certificate = None),
        ("no certificate", |request| request.status.as_mut().unwrap().certificate = Some(ByteString(b"x".to_vec()))),
        ("of another node", |request| request.spec.username = Some("system:node:worker-2".to_owned())),
        ("for another name", |request| {
            let other = subject(&[(DnType::OrganizationName, GROUP), (DnType::CommonName, "system:node:worker-2")]);
            request.spec.request = ByteString(text(&other).into_bytes());
        }),
        ("without a certificate", |request| request.spec.extra = None),
    ];
    for (what, change) in table {
        let mut request = answered(1, A, "b");
        change(&mut request);
        assert_eq!(moved(&worker(), &[request]), None, "{what}");
    }
    for node in [node("uid-1", Role::ControlPlane, None), NodeAdmission { status: None, ..worker() }] {
        assert_eq!(moved(&node, &[answered(1, A, "b")]), None);
    }
}

#[test]
fn joining_again_ends_what_was_before_but_for_a_ticket_of_the_same_boot() {
    let boot = |key: &str, certificate| Admission {
        wireguard_key: key.to_owned(),
        kubelet_certificate: certificate,
        ..Admission::default()
    };
    let (first, again) = (boot("1", Some(record(A, Some(B)))), boot("2", Some(record(A, Some(B)))));
    assert_eq!(joined(None, &first, C.to_owned()), record(C, None));
    assert_eq!(joined(Some(&boot("1", None)), &first, C.to_owned()), record(C, None));
    assert_eq!(joined(Some(&first), &again, C.to_owned()), record(C, None));
    assert_eq!(joined(Some(&first), &first, C.to_owned()), record(C, Some(A)));
}

#[test]
fn a_certificate_is_named_as_the_api_server_names_it() {
    let key = KeyPair::generate().unwrap();
    let certificate = kubelets().self_signed(&key).unwrap();
    assert_eq!(fingerprint(certificate.pem().as_bytes()), Some(hex::encode(Sha256::digest(certificate.der()))));
    for bad in ["", "x", "-----BEGIN CERTIFICATE-----\n", &key.serialize_pem()] {
        assert_eq!(fingerprint(bad.as_bytes()), None, "{bad}");
    }
}
