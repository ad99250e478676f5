//! The certificate names the admitted node whatever was asked for; only control planes get what makes one.

use std::{collections::BTreeSet, fs, time::Duration};

use constellation_attestation::owner::SigningKey;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::{
    certificate::X509Certificate,
    prelude::{FromDer as _, Pem},
};

use super::*;

const NOW: i64 = 1_800_000_000;

struct Ca {
    certificate: String,
    key: String,
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn given_ca(from: i64, until: i64) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from.try_into().unwrap());
    params.not_after = epoch + Duration::from_secs(until.try_into().unwrap());
    Ca { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn given_good_ca() -> Ca {
    given_ca(NOW - 100_000, NOW + 10 * 365 * 24 * 3600)
}

/// A request that asks for an administrator's name, a server's names, and to be a CA.
fn given_greedy_request() -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(DnType::CommonName, "system:node:cp-0");
    params.subject_alt_names = vec![SanType::DnsName("kubernetes.default".try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (params.serialize_request(&key).unwrap().der().to_vec(), key.public_key_raw().to_vec())
}

fn parsed(pem: &str, check: impl FnOnce(&X509Certificate<'_>)) {
    let pem = Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap();
    let (rest, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
    assert!(rest.is_empty());
    check(&certificate);
}

fn given_home(dir: &Path) -> Home {
    let owner = SigningKey::generate().unwrap();
    let paths = home::tests::given_files(dir, &owner);
    for name in CONTROL_PLANE_FILES {
        fs::write(paths.pki.join(name), name).unwrap();
    }
    let ca = given_good_ca();
    fs::write(paths.pki.join("ca.crt"), &ca.certificate).unwrap();
    fs::write(paths.pki.join("ca.key"), &ca.key).unwrap();
    Home::load(&paths).unwrap()
}

fn given_spec(role: Role) -> NodeAdmissionSpec {
    NodeAdmissionSpec {
        role,
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        taints: vec!["c=d:NoSchedule".to_owned()],
        disk_integrity: DiskIntegrity::Hmac,
        ..crate::admit::tests::given_spec()
    }
}

#[test]
fn a_greedy_request_gets_the_admitted_name_and_nothing_else() {
    let ((csr, public), ca) = (given_greedy_request(), given_good_ca());
    let pem = kubelet_certificate(&ca.certificate, &ca.key, &csr, "worker-1", now()).unwrap();
    parsed(&pem, |certificate| {
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:worker-1");
        assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), public);
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.any);
        parsed(&ca.certificate, |ca| certificate.verify_signature(Some(ca.public_key())).unwrap());
    });
}

#[test]
fn the_certificate_lasts_a_week_but_never_longer_than_the_ca() {
    let (csr, _) = given_greedy_request();
    let week = 604_800;
    for (from, until, expected) in
        [(NOW - 100_000, NOW + 2 * week, (NOW - 300, NOW + week)), (NOW - 10, NOW + 50, (NOW - 10, NOW + 50))]
    {
        let ca = given_ca(from, until);
        let pem = kubelet_certificate(&ca.certificate, &ca.key, &csr, "worker-1", now()).unwrap();
        parsed(&pem, |certificate| {
            let validity = certificate.validity();
            assert_eq!((validity.not_before.timestamp(), validity.not_after.timestamp()), expected);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_verifiers_own_certificate_is_renewed_when_half_of_its_time_is_over() {
    let (key, ca) = (KeyPair::generate().unwrap(), given_good_ca());
    let subject = Subject { organization: None, common_name: crate::store::USER };
    let life = (now(), authority::LIFE);
    let pem = authority::client_certificate(&ca.certificate, &ca.key, &key, subject, life).unwrap();
    let begun = tokio::time::Instant::now();
    crate::authority::renewal().await;
    let lived = begun.elapsed().as_secs();
    parsed(&pem, |certificate| {
        let left = certificate.validity().not_after.timestamp() - NOW - i64::try_from(lived).unwrap();
        assert!(left.abs_diff(i64::try_from(lived).unwrap()) <= 1, "{left} s are left after {lived} s");
    });
}

#[test]
fn serial_numbers_are_new_positive_and_of_one_length() {
    let (csr, _) = given_greedy_request();
    let ca = given_good_ca();
    let serials: BTreeSet<_> = (0..100)
        .map(|_| {
            let pem = kubelet_certificate(&ca.certificate, &ca.key, &csr, "worker-1", now()).unwrap();
            let mut serial = Vec::new();
            parsed(&pem, |certificate| serial = certificate.raw_serial().to_vec());
            assert!(serial.len() == 16 && (0x40..0x80).contains(&serial[0]), "{serial:?}");
            serial
        })
        .collect();
    assert_eq!(serials.len(), 100);
}

#[test]
fn a_ca_signs_in_its_first_and_last_second() {
    let (csr, _) = given_greedy_request();
    for ca in [given_ca(NOW, NOW + 100), given_ca(NOW - 100, NOW + 1)] {
        kubelet_certificate(&ca.certificate, &ca.key, &csr, "worker-1", now()).unwrap();
    }
}

#[test]
fn an_expired_early_or_foreign_ca_signs_nothing() {
    let (csr, _) = given_greedy_request();
    let good = given_good_ca();
    let leaf = kubelet_certificate(&good.certificate, &good.key, &csr, "worker-1", now()).unwrap();
    let cases = [
        given_ca(NOW - 100, NOW - 1),
        given_ca(NOW - 100, NOW),
        given_ca(NOW + 1, NOW + 100),
        Ca { certificate: good.certificate.clone(), key: given_good_ca().key },
        Ca { certificate: leaf, key: good.key.clone() },
        Ca { certificate: String::new(), key: good.key.clone() },
        Ca { certificate: good.certificate.clone(), key: String::new() },
    ];
    for ca in cases {
        let result = kubelet_certificate(&ca.certificate, &ca.key, &csr, "worker-1", now());
        assert!(matches!(result, Err(Error::Authority(_))), "{result:?}");
    }
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let ca = given_good_ca();
    let (mut csr, _) = given_greedy_request();
    kubelet_certificate(&ca.certificate, &ca.key, &csr, "worker-1", now()).unwrap();
    // The last byte belongs to the signature.
    *csr.last_mut().unwrap() ^= 1;
    for bad in [csr, Vec::new(), vec![0x30, 0]] {
        let result = kubelet_certificate(&ca.certificate, &ca.key, &bad, "worker-1", now());
        assert!(matches!(result, Err(Error::Request(_))), "{result:?}");
    }
}

#[test]
fn only_names_of_nodes_are_signed() {
    let ((csr, _), ca) = (given_greedy_request(), given_good_ca());
    for good in ["a", "worker-1", "ip-10-0-0-1.eu.internal"] {
        kubelet_certificate(&ca.certificate, &ca.key, &csr, good, now()).unwrap();
    }
    for bad in ["", "Worker", "a b", "a,O=system:masters", "-a", "a.", "a/b", &"a".repeat(254)] {
        let result = kubelet_certificate(&ca.certificate, &ca.key, &csr, bad, now());
        assert!(matches!(result, Err(Error::Name(_))), "{bad}");
    }
}

#[test]
fn a_worker_gets_its_own_disk_key_and_no_control_plane_material() {
    let dir = tempfile::tempdir().unwrap();
    let home = given_home(dir.path());
    let (csr, _) = given_greedy_request();
    let ticket = prepare(&home, &given_spec(Role::Worker), &csr, "kind: KubeletConfiguration", 7, now()).unwrap();
    assert!(ticket.control_plane.is_none());
    assert_eq!(ticket.disk_key, keys::disk_key(&[1; 32], "uid-1").to_vec());
    assert_eq!(ticket.cluster_id, [2; 32]);
    assert_eq!(ticket.node.node_name, "worker-1");
    assert_eq!(ticket.node.taints, ["c=d:NoSchedule"]);
    assert!(ticket.node.disk_integrity);
    assert_eq!(ticket.kubelet_config, "kind: KubeletConfiguration");
    let json = serde_json::to_string(&ticket).unwrap();
    let ca_key = fs::read_to_string(home.paths.pki.join("ca.key")).unwrap();
    assert!(!json.contains("PRIVATE KEY") && !json.contains(&ca_key));
}

#[test]
fn an_admission_that_a_kubelet_would_misread_makes_no_ticket() {
    let dir = tempfile::tempdir().unwrap();
    let home = given_home(dir.path());
    let (csr, _) = given_greedy_request();
    let mut spec = given_spec(Role::Worker);
    spec.taints.push("e=f:NoSchedule --anonymous-auth=true".to_owned());
    assert!(matches!(prepare(&home, &spec, &csr, "x", 7, now()), Err(Error::Settings(_))));
    spec.taints.pop();
    prepare(&home, &spec, &csr, "x", 7, now()).unwrap();
}

#[test]
fn a_control_plane_gets_all_of_its_material_or_no_ticket() {
    let dir = tempfile::tempdir().unwrap();
    let home = given_home(dir.path());
    let (csr, _) = given_greedy_request();
    let spec = given_spec(Role::ControlPlane);
    let ticket = prepare(&home, &spec, &csr, "x", 7, now()).unwrap();
    let material = ticket.control_plane.as_ref().unwrap();
    assert_eq!(material.trust_revision, 7);
    let names: Vec<&str> = material.pki.keys().map(String::as_str).collect();
    let mut expected = CONTROL_PLANE_FILES;
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!((material.admin_kubeconfig.as_str(), material.disk_secret.as_slice()), ("admin", [1; 32].as_slice()));
    for name in CONTROL_PLANE_FILES {
        let path = home.paths.pki.join(name);
        let contents = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(prepare(&home, &spec, &csr, "x", 7, now()), Err(Error::File(_))), "{name}");
        fs::write(&path, contents).unwrap();
    }
}
