//! Rounds over kubelets' requests, against an API that others write to as well.

use constellation_attestation::protocol::KUBELET_SIGNER;
use constellation_crds::trust::KubeletCertificate;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequestSpec, CertificateSigningRequestStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SerialNumber};

use super::*;
use crate::approver::{self, Next};

/// A certificate of `worker-1`, PEM; of each number another one.
fn certificate(number: u64) -> String {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(number));
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn digest(pem: &str) -> String {
    renewal::fingerprint(pem.as_bytes()).unwrap()
}

/// What the kubelet of `worker-1` asks with this certificate.
fn request(name: &str, with: &str) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:worker-1");
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap().replace('\r', "");
    let extra = BTreeMap::from([(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={}", digest(with))],
    )]);
    let spec = CertificateSigningRequestSpec {
        signer_name: KUBELET_SIGNER.to_owned(),
        username: Some("system:node:worker-1".to_owned()),
        groups: Some(vec!["system:nodes".to_owned()]),
        usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
        request: ByteString(pem.into_bytes()),
        extra: Some(extra),
        ..CertificateSigningRequestSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
        ..ObjectMeta::default()
    };
    CertificateSigningRequest { metadata, spec, status: None }
}

impl Given {
    /// A worker whose kubelet has this certificate.
    fn is_member_with(&self, certificate: &str) {
        let mut member = with_admission(&self.node, "000b01");
        let admission = member.status.as_mut().unwrap().admission.as_mut().unwrap();
        admission.kubelet_certificate =
            Some(KubeletCertificate { current: digest(certificate), ..KubeletCertificate::default() });
        *self.verifier.store.node.lock().unwrap() = *member;
    }

    fn ask(&self, request: CertificateSigningRequest) {
        self.verifier.store.requests.lock().unwrap().push(request);
    }

    /// Signs what was approved of this name.
    fn sign(&self, name: &str, certificate: &str) {
        let mut requests = self.verifier.store.requests.lock().unwrap();
        let request = requests.iter_mut().find(|request| request.metadata.name.as_deref() == Some(name)).unwrap();
        let status = request.status.as_mut().unwrap();
        assert_eq!(status.conditions.as_ref().unwrap()[0].type_, renewal::APPROVED);
        status.certificate = Some(ByteString(certificate.as_bytes().to_vec()));
    }

    /// How each request was answered, and what its owner reads there.
    fn answers(&self) -> Vec<(String, String)> {
        let requests = self.verifier.store.requests.lock().unwrap();
        let answer = |request: &CertificateSigningRequest| {
            let conditions =
                request.status.iter().flat_map(|status: &CertificateSigningRequestStatus| &status.conditions);
            let all: Vec<_> =
                conditions.flatten().map(|one| (one.type_.clone(), one.message.clone().unwrap())).collect();
            assert!(all.len() <= 1, "{all:?}");
            all.into_iter().next().unwrap_or_default()
        };
        requests.iter().map(answer).collect()
    }

    fn recorded(&self) -> KubeletCertificate {
        let node = self.verifier.store.node.lock().unwrap().clone();
        node.status.unwrap().admission.unwrap().kubelet_certificate.unwrap()
    }

    async fn round(&self) -> Next {
        approver::round(&self.verifier).await.unwrap()
    }
}

fn kinds(answers: Vec<(String, String)>) -> Vec<String> {
    answers.into_iter().map(|(kind, _)| kind).collect()
}

#[tokio::test]
async fn a_kubelet_renews_again_and_again_and_nothing_is_done_twice() {
    let (given, first, second, third) = (given([]), certificate(1), certificate(2), certificate(3));
    given.is_member_with(&first);
    assert_eq!(given.round().await, Next::Changed);
    given.ask(request("csr-1", &first));
    for _ in 0..2 {
        assert_eq!(given.round().await, Next::Changed);
        assert_eq!(kinds(given.answers()), ["Approved"]);
    }
    assert_eq!(given.verifier.store.writes.lock().unwrap().len(), 0, "it isn't issued yet");
    given.sign("csr-1", &second);
    for _ in 0..2 {
        given.round().await;
        assert_eq!((given.recorded().current, given.recorded().previous), (digest(&second), Some(digest(&first))));
    }
    // Asked before anybody has seen what was issued.
    given.ask(request("csr-2", &second));
    given.round().await;
    given.sign("csr-2", &third);
    given.ask(request("csr-3", &third));
    given.round().await;
    assert_eq!(kinds(given.answers()), ["Approved"; 3]);
    assert_eq!((given.recorded().current, given.recorded().previous), (digest(&third), Some(digest(&second))));
    assert_eq!(given.verifier.store.writes.lock().unwrap().len(), 2);
    assert!(given.verifier.ledger.due(Instant::now()).is_empty());
}

#[tokio::test]
async fn who_may_not_renew_learns_nothing_and_the_owner_is_told_why_once() {
    let (given, first, copy) = (given([]), certificate(1), certificate(2));
    given.is_member_with(&first);
    given.ask(request("csr-1", &copy));
    for _ in 0..2 {
        given.round().await;
    }
    assert_eq!(given.answers(), [("Denied".to_owned(), "not admitted".to_owned())]);
    let told = given.verifier.ledger.due(Instant::now());
    assert_eq!((told.len(), told[0].count, &told[0].name), (1, 1, &Name::Node("uid-1".to_owned())));
    assert_eq!(told[0].reasons[0].mismatches[0].clause, renewal::CERTIFICATE);
    let mut stranger = request("csr-2", &first);
    stranger.spec.username = Some("system:node:worker-9".to_owned());
    given.ask(stranger);
    given.round().await;
    assert_eq!(given.verifier.ledger.due(Instant::now())[0].name, Name::Nobody);
    assert_eq!(given.verifier.store.writes.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_request_waits_for_the_admission_of_its_node_and_is_looked_at_soon() {
    let (given, first) = (given([]), certificate(1));
    given.ask(request("csr-1", &first));
    assert_eq!(given.round().await, Next::Soon);
    assert_eq!(given.answers(), [(String::new(), String::new())]);
    given.is_member_with(&first);
    assert_eq!(given.round().await, Next::Changed);
    assert_eq!(kinds(given.answers()), ["Approved"]);
}

#[tokio::test]
async fn nobody_is_denied_for_a_record_that_could_not_be_written() {
    let (given, first, second) = (given([]), certificate(1), certificate(2));
    given.is_member_with(&first);
    given.ask(request("csr-1", &first));
    given.round().await;
    given.sign("csr-1", &second);
    given.ask(request("csr-2", &second));
    let others = given.verifier.store.node.lock().unwrap().clone();
    given.verifier.store.script.lock().unwrap().extend([Write::Conflict(Box::new(others)), Write::Fail]);
    assert_eq!(given.round().await, Next::Soon);
    assert!(approver::round(&given.verifier).await.is_err());
    assert_eq!(kinds(given.answers()), ["Approved", ""]);
    given.round().await;
    assert_eq!(kinds(given.answers()), ["Approved", "Approved"]);
    assert_eq!(given.recorded().current, digest(&second));
}

/// A ticket's certificate.
struct Granted(String);

impl Promise for Granted {
    fn kubelet_certificate(&self) -> Option<&str> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn a_ticket_is_recorded_with_its_certificate_and_a_member_that_is_asked_again_keeps_it() {
    let (mut given, first, second) = (given([]), certificate(1), certificate(2));
    for pem in [&first, &second] {
        let node = given.verifier.store.node.lock().unwrap().clone();
        let settled = given.verifier.settle(node, &given.case, |_| Ok(Granted(pem.clone()))).await;
        assert!(granted(&settled));
        assert_eq!(given.recorded().current, digest(pem));
    }
    assert_eq!(given.recorded().previous, Some(digest(&first)), "both tickets are of one boot");
    given.case.door = Door::Member;
    given.case.proof.hello.address = "10.77.0.12".to_owned();
    let node = given.verifier.store.node.lock().unwrap().clone();
    assert!(granted(&given.verifier.settle(node, &given.case, |_| Ok(())).await));
    assert_eq!(given.recorded().current, digest(&second));
    given.case.door = Door::Join;
    given.case.proof.hello.keys.wireguard = vec![4; 32];
    let node = given.verifier.store.node.lock().unwrap().clone();
    assert!(granted(&given.verifier.settle(node, &given.case, |_| Ok(Granted(first.clone()))).await));
    assert_eq!((given.recorded().current, given.recorded().previous), (digest(&first), None), "another boot");
    let node = given.verifier.store.node.lock().unwrap().clone();
    let broken = given.verifier.settle(node, &given.case, |_| Ok(Granted("x".to_owned()))).await;
    assert!(matches!(broken, Err(Error::Ticket(_))));
}
