//! What each fuzz target of the programs does with its bytes: one place for libFuzzer and for the smoke run of
//! `cargo test`, as in `attestation/fuzz`.
//!
//! Here is what needs more than the library's plain features: the channel and the collectors, the bootstrapper, the
//! verifier and the operator.

use std::{collections::BTreeMap, io, sync::OnceLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    channel::{read_frame, spki},
    collect::{sev_guest, tsm},
    protocol::{KUBELET_SIGNER, MAX_FRAME},
};
use constellation_bootstrapper::{
    host::header,
    mesh::{List, Peer},
    network::Hint,
};
use constellation_crds::NodeAdmission;
use constellation_operator::{cloud::local, collateral::vendors, workload};
use constellation_verifier::{
    renewal::{self, Decision},
    ticket,
};
use futures::FutureExt as _;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;
use x509_parser::{
    certification_request::X509CertificationRequest, parse_x509_certificate, pem::parse_x509_pem, prelude::FromDer as _,
};

#[path = "../../../attestation/fuzz/src/run.rs"]
mod run;

pub use run::{Target, run};

/// Every target.
pub const TARGETS: &[Target] = &[
    ("channel_frame", channel_frame),
    ("channel_leaf", channel_leaf),
    ("console", console),
    ("csr", signing_request),
    ("header", disk_header),
    ("hint", network_hint),
    ("issuer", issuer),
    ("kubeconfig", kubeconfig),
    ("mesh", mesh_peers),
    ("monitor", monitor),
    ("renewal", renewal),
    ("sev_guest", sev_guest_answer),
    ("tsm", tsm_attributes),
];

/// A frame is what its length says and lies in the bytes that came.
fn channel_frame(bytes: &[u8]) {
    let mut stream = bytes;
    let read = read_frame(&mut stream, MAX_FRAME).now_or_never().expect("bytes that are there are read at once");
    if let Ok(frame) = read {
        let (length, rest) = bytes.split_at(4);
        assert_eq!(length, u32::try_from(frame.len()).expect("at most a MiB").to_be_bytes());
        assert!(frame.len() <= MAX_FRAME && rest.starts_with(&frame));
    }
}

/// A peer's key is a part of the certificate that it showed.
fn channel_leaf(bytes: &[u8]) {
    if let Ok(key) = spki(&bytes.into()) {
        assert!(!key.is_empty() && bytes.windows(key.len()).any(|part| part == key));
    }
}

/// The tail of a console is short and plain.
fn console(bytes: &[u8]) {
    let tail = local::tail(bytes, 5);
    assert!(tail.len() <= 1024 && !tail.contains(char::is_control));
}

/// Whatever a request asks for, the certificate is one of that node, for the request's key.
fn signing_request(bytes: &[u8]) {
    static CA: OnceLock<(String, String)> = OnceLock::new();
    let (certificate, key) = CA.get_or_init(|| {
        let key = KeyPair::generate().expect("a key is made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).expect("a CA signs itself").pem(), key.serialize_pem())
    });
    let now = jiff::Timestamp::from_second(1_790_000_000).expect("in September 2026");
    if let Ok(signed) = ticket::kubelet_certificate(certificate, key, bytes, "a-workers-1", now) {
        let (_, signed) = parse_x509_pem(signed.as_bytes()).expect("what was signed is PEM");
        let (_, signed) = parse_x509_certificate(&signed.contents).expect("what was signed is a certificate");
        assert_eq!(signed.subject().to_string(), "O=system:nodes, CN=system:node:a-workers-1");
        let key = signed.public_key().raw;
        assert!(bytes.windows(key.len()).any(|part| part == key));
    }
}

/// Only a request for that very name is approved, as it is and as what its bytes are written as.
fn renewal(bytes: &[u8]) {
    let encoded = STANDARD.encode(bytes);
    let lines = encoded.as_bytes().chunks(64).collect::<Vec<_>>().join(&b'\n');
    let [begin, end]: [&[u8]; 2] = [b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\n-----END CERTIFICATE REQUEST-----\n"];
    for text in [bytes.to_vec(), [begin, &lines, end].concat()] {
        let nodes = [given_member("a-workers-1", &"ab".repeat(32))];
        let request = given_request("a-workers-1", &"ab".repeat(32), text);
        let approved = matches!(renewal::decide(&request, &nodes, "a-cp-1"), Decision::Approve(_));
        assert!(approved || request.spec.request.0 != include_bytes!("../corpus/renewal/text"), "a kubelet's own");
        if approved {
            let (_, pem) = parse_x509_pem(&request.spec.request.0).expect("what was approved is PEM");
            let (rest, read) = X509CertificationRequest::from_der(&pem.contents).expect("and a request");
            let info = read.certification_request_info;
            assert!(rest.is_empty() && info.attributes().is_empty());
            assert_eq!(info.subject.to_string(), "O=system:nodes, CN=system:node:a-workers-1");
        }
    }
}

/// A member whose kubelet has the certificate of this digest.
fn given_member(name: &str, digest: &str) -> NodeAdmission {
    let node = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeAdmission", "metadata": {"name": "uid-1"},
        "spec": {"nodeUid": "uid-1", "nodeName": name, "role": "worker", "launchConfigDigest": "", "podCIDR": "10.244.1.0/24",
            "providerID": "local://1", "diskIntegrity": "None"},
        "status": {"admission": {"akName": "000b", "ekCertificateDigest": "ee", "resetCount": 1, "admittedAt": "",
            "wireguardKey": "", "address": "10.77.0.11", "kubeletCertificate": {"current": digest}}},
    });
    serde_json::from_value(node).expect("an admission")
}

/// A request as the API server has it from a kubelet that showed the certificate of this digest.
fn given_request(name: &str, digest: &str, request: Vec<u8>) -> CertificateSigningRequest {
    let spec = CertificateSigningRequestSpec {
        request: ByteString(request),
        signer_name: KUBELET_SIGNER.to_owned(),
        username: Some(format!("system:node:{name}")),
        groups: Some(vec!["system:nodes".to_owned()]),
        usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
        extra: Some(
            [("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={digest}")])].into(),
        ),
        ..CertificateSigningRequestSpec::default()
    };
    CertificateSigningRequest { spec, ..CertificateSigningRequest::default() }
}

/// A header is opened only as the one cipher. (JSON may write letters as escapes.)
fn disk_header(bytes: &[u8]) {
    let json = String::from_utf8_lossy(bytes);
    if header::check(&json).is_ok_and(|header| header.complete) {
        assert!(json.contains(header::COMPLETE) && json.contains(header::CIPHER) || json.contains('\\'));
    }
}

/// A hint has an address.
fn network_hint(bytes: &[u8]) {
    if let Ok(hint) = Hint::parse(&String::from_utf8_lossy(bytes)) {
        let address = hint.ip().expect("a hint that was read has an address");
        assert!(hint.address.contains('/') && !address.to_string().is_empty());
    }
}

/// What a maker's service calls a certificate is one, whole.
fn issuer(bytes: &[u8]) {
    if let Some(certificate) = vendors::certificate(bytes.to_vec()) {
        assert!(!certificate.is_empty() && certificate.len() <= bytes.len());
    }
}

/// A kubeconfig of a node names no file, program or proxy.
fn kubeconfig(bytes: &[u8]) {
    let Ok(config) = workload::parse(&String::from_utf8_lossy(bytes)) else { return };
    for cluster in config.clusters.iter().filter_map(|named| named.cluster.as_ref()) {
        assert_eq!((&cluster.certificate_authority, &cluster.proxy_url), (&None, &None));
    }
    for user in config.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        assert!(user.exec.is_none() && user.auth_provider.is_none());
        assert_eq!((&user.token_file, &user.client_key, &user.client_certificate), (&None, &None, &None));
    }
}

/// Whoever is in a list of admissions, a peer has a key, an address and a part of the pod network; what is known stays.
fn mesh_peers(bytes: &[u8]) {
    let Ok(list) = List::read(bytes) else { return };
    let wanted = |known: &BTreeMap<String, Peer>| list.wanted("own", "10.244.0.0/16", known);
    let peers = wanted(&BTreeMap::new());
    for (key, peer) in &peers {
        assert!(key.len() == 44 && peer.address.parse::<std::net::IpAddr>().is_ok());
        assert!(peer.pod_cidr.starts_with("10.244.") && peer.pod_cidr.ends_with(".0/24"));
    }
    assert_eq!(wanted(&peers), peers);
}

/// A line of QEMU's monitor gives a reason that was in it, or none.
fn monitor(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    if let Some(reason) = local::shutdown_reason(&line) {
        assert!(line.contains("SHUTDOWN") || line.contains('\\'), "{reason}");
    }
}

/// A report is taken from its place in the answer.
fn sev_guest_answer(bytes: &[u8]) {
    if let Ok(report) = sev_guest::report(bytes) {
        assert_eq!(Some(report), bytes.get(32..32 + 1184));
    }
}

/// A request whose attributes the host made up: one after the other, each up to a line's end.
fn tsm_attributes(bytes: &[u8]) {
    struct Host<'a>(std::vec::IntoIter<&'a [u8]>);
    impl tsm::Entry for Host<'_> {
        fn write(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn read(&mut self, _: &str, most: usize) -> io::Result<Vec<u8>> {
            let next = self.0.next().ok_or(io::ErrorKind::NotFound)?;
            Ok(next.iter().copied().take(most + 1).collect())
        }
    }
    let lines: Vec<_> = bytes.splitn(4, |byte| *byte == b'\n').collect();
    if let Ok(attested) = tsm::request(&mut Host(lines.into_iter()), &[7; 64]) {
        assert!(!attested.report.is_empty() && attested.report.len() + attested.certificates.len() < bytes.len());
    }
}
