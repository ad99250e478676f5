//! A software TPM's genuine quotes under certificates of a Microsoft of the test's own: accepted, and refused with one thing
//! wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use constellation_attestation::{
    azure::{
        clause,
        trusted_launch::{Evidence, Issuers, Policy, verify_and_appraise},
    },
    bytes::Bytes,
    reference::Requirement,
    tpm::{Hash, clause as tpm, quote::Values, registers::Registers, signature::Signature},
    x509::{Revocation, chain::Anchors},
};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CrlDistributionPoint,
    CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};

const NONCE: &[u8] = b"join-nonce-0001-swtpm-vector-set";
const SUBJECT: &str = "5f6e.TrustedVM.Azure";
/// `tcg-kp-AIKCertificate`.
const AIK: &[u64] = &[2, 23, 133, 8, 3];

fn read(path: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/qemu-swtpm").join(path)).unwrap()
}

fn now() -> Timestamp {
    "2026-11-20T00:00:00Z".parse().unwrap()
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Where a list is.
fn place() -> Vec<CrlDistributionPoint> {
    vec![CrlDistributionPoint { uris: vec!["http://www.microsoft.com/pkiops/crl/tpm.crl".into()] }]
}

/// Root and issuing CA.
struct Microsoft {
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

impl Microsoft {
    fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca("Virtual TPM Root"), KeyPair::generate().unwrap()).unwrap();
        let mut issuing = ca("Virtual TPM CA 01");
        issuing.serial_number = Some(SerialNumber::from_slice(&[2]));
        issuing.crl_distribution_points = place();
        let issuing = CertifiedIssuer::signed_by(issuing, KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, issuing }
    }

    /// What revokes a serial number, of one of the two.
    fn list(issuer: &CertifiedIssuer<'static, KeyPair>, revoked: &[u8], next_year: i32) -> Vec<u8> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(next_year, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer).unwrap().der().to_vec()
    }
}

/// What is shown and wanted.
struct Scene {
    microsoft: Microsoft,
    leaf: CertificateParams,
    ak: &'static str,
    quote: &'static str,
    chain: Option<Vec<Vec<u8>>>,
    lists: Option<Vec<Vec<u8>>>,
    anchors: Option<Anchors>,
    policy: Policy,
    values: Values,
    signature: Vec<u8>,
}

impl Scene {
    fn of(ak: &'static str, quote: &'static str) -> Self {
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, SUBJECT);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(AIK.to_vec())];
        leaf.serial_number = Some(SerialNumber::from_slice(&[3]));
        leaf.crl_distribution_points = place();
        let all: Vec<u8> = (0..16).collect();
        let values = Values::cut(Hash::Sha256, &all, &read(&format!("{quote}/pcrs.bin"))).unwrap();
        let exact = |pcr: u8| (pcr, Requirement::Exact(hex::encode(&values.pcrs[&pcr])));
        let policy = Policy {
            subject: Requirement::Exact(SUBJECT.into()),
            nonce: Requirement::Exact(Bytes(NONCE.to_vec())),
            registers: Registers([4, 11, 12, 13].map(exact).into()),
            ..Policy::strict()
        };
        Self {
            microsoft: Microsoft::new(),
            leaf,
            ak,
            quote,
            chain: None,
            lists: None,
            anchors: None,
            policy,
            values,
            signature: read(&format!("{quote}/quote.sig")),
        }
    }

    fn good() -> Self {
        Self::of("ak_rsa.pem", "good_rsa_sha256")
    }

    fn leaf(&self) -> Vec<u8> {
        let key = SubjectPublicKeyInfo::from_pem(&String::from_utf8(read(self.ak)).unwrap()).unwrap();
        self.leaf.signed_by(&key, &self.microsoft.issuing).unwrap().der().to_vec()
    }

    fn failures(&self) -> BTreeSet<String> {
        let Microsoft { root, issuing } = &self.microsoft;
        let (leaf, issuer) = (self.leaf(), issuing.der().to_vec());
        let chain = self.chain.clone().unwrap_or_else(|| vec![leaf, issuer]);
        let both = || vec![Microsoft::list(root, &[], 2027), Microsoft::list(issuing, &[], 2027)];
        let lists = self.lists.clone().unwrap_or_else(both);
        let anchors = self.anchors.clone().unwrap_or_else(|| Anchors::new([root.der().as_ref()]).unwrap());
        let signature = Signature::parse(&self.signature).unwrap();
        let attest = read(&format!("{}/quote.msg", self.quote));
        let evidence =
            Evidence { chain: &chain, attest: &attest, signature: &signature, values: &self.values, log: None };
        let issuers = Issuers { anchors: &anchors, lists: &lists };
        let checks = verify_and_appraise(&evidence, issuers, &self.policy, now());
        checks.failures().map(|clause| clause.name.clone()).collect()
    }
}

fn refused(what: &str, wrong: impl FnOnce(&mut Scene), wanted: &[&str]) {
    let mut scene = Scene::good();
    wrong(&mut scene);
    assert_eq!(scene.failures(), wanted.iter().map(|name| (*name).to_owned()).collect(), "{what}");
}

#[test]
fn a_key_that_microsoft_certified_and_its_quote_are_accepted() {
    for (ak, quote) in [("ak_rsa.pem", "good_rsa_sha256"), ("ak_ecc.pem", "good_ecc_sha256")] {
        assert_eq!(Scene::of(ak, quote).failures(), BTreeSet::new(), "{quote}");
    }
    // The issuing CA may be the anchor, where the owner doesn't believe all that the root issues.
    let inner = |s: &mut Scene| s.anchors = Some(Anchors::new([s.microsoft.issuing.der().as_ref()]).unwrap());
    refused("another anchor of the chain", inner, &[]);
    // As long as the TPM's storage.
    let padded = |more: &'static [u8]| {
        move |s: &mut Scene| {
            s.chain = Some(vec![[s.leaf(), more.to_vec()].concat(), s.microsoft.issuing.der().to_vec()]);
        }
    };
    refused("zeros behind it", padded(&[0; 2436]), &[]);
    refused("something behind it", padded(&[0, 1]), &[clause::AK_STRUCTURE, clause::AK_CHAIN]);
}

#[test]
fn a_certificate_of_somebody_else_or_for_something_else_is_refused() {
    refused("nothing", |s| s.chain = Some(vec![]), &[clause::AK_STRUCTURE]);
    let stranger = |s: &mut Scene| {
        let chain = vec![s.leaf(), s.microsoft.issuing.der().to_vec()];
        s.chain = Some(chain);
        s.microsoft = Microsoft::new();
    };
    refused("a stranger's, whose root has the name", stranger, &[clause::AK_CHAIN]);
    let alone = |s: &mut Scene| s.chain = Some(vec![s.leaf()]);
    refused("without its issuer", alone, &[clause::AK_CHAIN]);
    refused("expired", |s| s.leaf.not_after = date_time_ymd(2026, 5, 24), &[clause::AK_VALIDITY]);
    let usages = |usages: Vec<KeyUsagePurpose>| move |s: &mut Scene| s.leaf.key_usages = usages;
    for other in [
        vec![],
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment],
    ] {
        refused("an endorsement key's", usages(other), &[clause::AK_USAGE]);
    }
    let purposes = |purposes: Vec<ExtendedKeyUsagePurpose>| move |s: &mut Scene| s.leaf.extended_key_usages = purposes;
    for other in [vec![], vec![ExtendedKeyUsagePurpose::ServerAuth], vec![ExtendedKeyUsagePurpose::Any]] {
        refused("not of an attestation key", purposes(other), &[clause::AK_PURPOSE]);
    }
    refused("of another key", |s| s.ak = "ak_ecc.pem", &[tpm::SIGNATURE]);
    let unknown = |s: &mut Scene| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
        extension.set_criticality(true);
        s.leaf.custom_extensions.push(extension);
    };
    refused("a critical extension nobody knows", unknown, &[clause::AK_STRUCTURE, clause::AK_CHAIN]);
    let renamed = |s: &mut Scene| s.policy.subject = Requirement::Exact("another".into());
    refused("another machine's", renamed, &[clause::AK_SUBJECT]);
    refused("nobody said whose", |s| s.policy.subject = Policy::strict().subject, &[clause::AK_SUBJECT]);
}

#[test]
fn what_was_revoked_is_refused_and_lists_are_wanted_unless_waived() {
    let with = |lists: fn(&Microsoft) -> Vec<Vec<u8>>| move |s: &mut Scene| s.lists = Some(lists(&s.microsoft));
    refused("no lists", with(|_| vec![]), &[clause::AK_REVOCATION]);
    refused("one list", with(|m| vec![Microsoft::list(&m.root, &[], 2027)]), &[clause::AK_REVOCATION]);
    let old = with(|m| vec![Microsoft::list(&m.root, &[], 2027), Microsoft::list(&m.issuing, &[], 2026)]);
    refused("one too old", old, &[clause::AK_REVOCATION]);
    let garbage =
        with(|m| vec![vec![0; 9], Microsoft::list(&m.root, &[], 2027), Microsoft::list(&m.issuing, &[], 2027)]);
    refused("one that is none, besides", garbage, &[]);
    let key = with(|m| vec![Microsoft::list(&m.root, &[], 2027), Microsoft::list(&m.issuing, &[3], 2027)]);
    refused("the key", key, &[clause::AK_REVOKED]);
    let issuer = with(|m| vec![Microsoft::list(&m.root, &[2], 2027), Microsoft::list(&m.issuing, &[], 2027)]);
    refused("its issuer", issuer, &[clause::AK_REVOKED]);
    // A key's certificate that names no list can't be on one; its issuer's can.
    let unlisted = |lists: fn(&Microsoft) -> Vec<Vec<u8>>| {
        move |s: &mut Scene| {
            s.leaf.crl_distribution_points = vec![];
            s.lists = Some(lists(&s.microsoft));
        }
    };
    refused("the root's list", unlisted(|m| vec![Microsoft::list(&m.root, &[], 2027)]), &[]);
    refused("not even that", unlisted(|_| vec![]), &[clause::AK_REVOCATION]);
    let named = unlisted(|m| vec![Microsoft::list(&m.root, &[], 2027), Microsoft::list(&m.issuing, &[3], 2027)]);
    refused("it is on one all the same", named, &[clause::AK_REVOKED]);
    // Waived, none is wanted; one that is there counts all the same.
    let waived = |s: &mut Scene| assert!(s.policy.waive(clause::AK_REVOCATION, "nobody fetches them"));
    refused("none, and none wanted", |s| (waived(s), s.lists = Some(vec![])).1, &[]);
    let both = |s: &mut Scene| {
        waived(s);
        s.lists = Some(vec![Microsoft::list(&s.microsoft.issuing, &[3], 2026)]);
    };
    refused("none wanted, and one names the key", both, &[clause::AK_REVOKED]);
    assert_eq!(Policy::strict().revocation, Requirement::Exact(Revocation::Current));
}

#[test]
fn a_quote_of_other_registers_or_another_conversation_is_refused() {
    let other = |s: &mut Scene| s.policy.nonce = Requirement::Exact(Bytes(NONCE[1..].to_vec()));
    refused("another conversation", other, &[tpm::NONCE]);
    refused("no nonce asked", |s| s.policy.nonce = Requirement::AnyOf(vec![]), &[tpm::NONCE]);
    let replaced = |s: &mut Scene| s.values.pcrs.get_mut(&4).unwrap()[0] ^= 1;
    refused("a value replaced", replaced, &[tpm::DIGEST]);
    let wanted = |s: &mut Scene| {
        s.policy.registers.0.insert(4, Requirement::Exact("00".repeat(32)));
    };
    refused("another image wanted", wanted, &["tpm.pcr.4"]);
    let unnamed = |s: &mut Scene| {
        s.policy.registers.0.remove(&12);
    };
    refused("a register that must be named", unnamed, &[tpm::PCR_POLICY]);
    for (name, reason) in [(clause::AK_SUBJECT, "r"), (clause::AK_PURPOSE, "r"), (clause::AK_REVOCATION, "r")] {
        assert!(Policy::strict().waive(name, reason));
    }
    assert!(!Policy::strict().waive(tpm::NONCE, "r") && !Policy::strict().waive("", "r"));
}
