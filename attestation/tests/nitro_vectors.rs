//! Genuine documents of a `NitroTPM` and of an enclave, and documents that were changed, give the verdict they must.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use constellation_attestation::{
    bytes::{Bytes, Hex},
    machine,
    nitro::{self, Policy, Tpm, bind, clause, document::Signed, policy::Age},
    reference::Requirement,
    result::Checks,
    tpm::{
        self, Hash,
        public::Key,
        quote::{Claim, Values},
        registers::Registers,
        signature::Signature,
    },
    verified::Verified,
    x509::chain::Anchors,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::Value;

mod mutate;

use mutate::Genuine;

const NONCE: &str = "230af3f7c0ec43ccf99a4cab47ac61469a36ea74b1e79740fdf8ccfc8f56161a";

fn read(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn genuine() -> Vec<u8> {
    read("vaportpm/nitrotpm_attestation_doc.cbor")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// When the genuine document was made.
fn now() -> Timestamp {
    at(1_770_113_522)
}

/// As an owner would write it who knows the machine.
fn policy() -> Policy {
    let document = Signed::parse(&genuine()).unwrap().document;
    let exact = |pcr: u8| Requirement::Exact(hex::encode(&document.registers.pcrs[&pcr]));
    Policy {
        nonce: Requirement::Exact(Bytes(hex::decode(NONCE).unwrap())),
        public_key: Requirement::Exact(Bytes(document.public_key.clone().unwrap())),
        instance: Requirement::Exact("i-01cfb383223e42522".into()),
        region: Requirement::Exact("us-east-1".into()),
        registers: Registers([4, 7, 11, 12, 13].map(|pcr| (pcr, exact(pcr))).into()),
        ..Policy::strict()
    }
}

fn evaluate(
    document: &[u8],
    anchors: &Anchors,
    policy: &Policy,
    now: Timestamp,
) -> (Option<Verified<Tpm>>, Vec<String>) {
    let mut checks = Checks::default();
    let tpm = nitro::verify(document, anchors, now, &mut checks);
    if let Some(tpm) = &tpm {
        nitro::appraise(tpm, policy, now, &mut checks);
    }
    assert!(checks.accepted() <= tpm.is_some());
    (tpm, checks.failures().map(|c| c.name.clone()).collect())
}

fn failures(document: &[u8], policy: &Policy, now: Timestamp) -> Vec<String> {
    evaluate(document, &nitro::aws(), policy, now).1
}

fn tpm() -> Verified<Tpm> {
    evaluate(&genuine(), &nitro::aws(), &policy(), now()).0.unwrap()
}

#[test]
fn a_genuine_document_is_accepted_for_its_conversation_machine_and_registers() {
    assert_eq!(failures(&genuine(), &policy(), now()), [""; 0]);
    // With the tag of COSE_Sign1 and without.
    assert_eq!(failures(&[&[0xd2], genuine().as_slice()].concat(), &policy(), now()), [""; 0]);
    assert_eq!(failures(&[&[0xd2, 0xd2], genuine().as_slice()].concat(), &policy(), now()), [clause::STRUCTURE]);
    let tpm = tpm();
    let Tpm { document, instance, region } = tpm.get();
    assert_eq!((instance.as_str(), region.as_str()), ("i-01cfb383223e42522", "us-east-1"));
    assert_eq!(document.registers.pcrs.len(), 24);
}

#[test]
fn each_thing_that_is_not_wanted_is_refused_by_its_own_clause() {
    let other = || Requirement::Exact(Bytes(vec![0; 32]));
    let change = |change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        change(&mut policy);
        failures(&genuine(), &policy, now())
    };
    assert_eq!(change(&|p| p.nonce = other()), [clause::NONCE]);
    assert_eq!(change(&|p| p.public_key = other()), [clause::PUBLIC_KEY]);
    assert_eq!(change(&|p| p.user_data = other()), [clause::USER_DATA]);
    assert_eq!(change(&|p| p.instance = Requirement::Exact("i-0".into())), [clause::INSTANCE]);
    assert_eq!(change(&|p| p.region = Requirement::Exact("eu-west-1".into())), [clause::REGION]);
    assert_eq!(change(&|p| p.recent = SignedDuration::from_secs(-1)), [clause::TIMESTAMP]);
    assert_eq!(change(&|p| p.age = Requirement::Exact(Age::Old)), [clause::TIMESTAMP]);
    for pcr in [4, 7, 12] {
        let wrong = Requirement::Exact("00".repeat(48));
        let failed = change(&|p| drop(p.registers.0.insert(pcr, wrong.clone())));
        assert_eq!(failed.is_empty(), pcr == 12, "{failed:?}");
        assert!(failed.iter().all(|name| *name == format!("tpm.pcr.{pcr}")));
    }
    // The strict policy names nothing, so it accepts nothing.
    let named = [clause::NONCE, clause::PUBLIC_KEY, clause::INSTANCE, clause::REGION];
    let strict = failures(&genuine(), &Policy::strict(), now());
    assert!(named.iter().all(|name| strict.iter().any(|s| s == name)), "{strict:?}");
    assert_eq!(strict.iter().filter(|name| *name == tpm::clause::PCR_POLICY).count(), 4);
}

#[test]
fn a_document_is_accepted_only_while_its_certificates_are_in_date_and_it_is_recent() {
    let leaf = 1_770_113_519..=1_770_124_322;
    for (second, wanted) in [
        (*leaf.start() - 1, vec![clause::VALIDITY]),
        (*leaf.start(), vec![]),
        (1_770_113_522 + 301, vec![clause::TIMESTAMP]),
        (*leaf.end(), vec![clause::TIMESTAMP]),
        (*leaf.end() + 1, vec![clause::VALIDITY]),
    ] {
        assert_eq!(failures(&genuine(), &policy(), at(second)), wanted, "{second}");
    }
}

#[test]
fn a_document_under_another_root_is_refused() {
    let other = fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gcp/ek_ak_ca_root.der")).unwrap();
    let anchors = Anchors::new([other.as_slice()]).unwrap();
    assert_eq!(evaluate(&genuine(), &anchors, &policy(), now()).1, [clause::CHAIN]);
}

#[test]
fn an_enclaves_document_is_refused_for_being_one() {
    // SCALE: a tag of two bytes, a compact length of two, the document; then what the caller kept beside it.
    let file = read("dstack/nitro_attestation.bin");
    let length = usize::from(u16::from_le_bytes([file[2], file[3]]) >> 2);
    assert_eq!(failures(&file[4..4 + length], &policy(), at(1_766_668_600)), [clause::KIND]);
}

#[test]
fn each_changed_document_is_refused_for_what_was_changed() {
    for (case, wanted) in [
        ("nitro_pcr4", vec![clause::SIGNATURE]),
        ("nitro_sig", vec![clause::SIGNATURE]),
        ("nitro_module_id", vec![clause::SIGNATURE, clause::MODULE]),
        ("nitro_truncated", vec![clause::STRUCTURE]),
    ] {
        assert_eq!(failures(&read(&format!("mutated-real/{case}/document.cbor")), &policy(), now()), wanted, "{case}");
    }
    let mut longer = genuine();
    longer.push(0);
    assert_eq!(failures(&longer, &policy(), now()), [clause::STRUCTURE]);
    let mut header = genuine();
    // -35 (ES384) becomes -7 (ES256), in the same length.
    header[5] = 0x18;
    assert_eq!(failures(&header, &policy(), now()), [clause::ALGORITHM]);
}

/// A quote as the JSON of the vectors holds it.
struct Quote {
    attest: Vec<u8>,
    signature: Signature,
    key: Key,
    values: Values,
}

fn quote() -> Quote {
    let json: Value = serde_json::from_slice(&read("vaportpm/test-nitro-fixture.json")).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let tpm = &json["attestation"]["tpm"]["ecc_p256"];
    let key = &json["ak_pubkeys"]["ecc_p256"];
    let values = json["pcrs"]["sha384"].as_object().unwrap();
    Quote {
        attest: bytes(&tpm["attest_data"]),
        signature: Signature::parse_ecdsa_der(&bytes(&tpm["signature"])).unwrap(),
        key: Key::P256 { x: bytes(&key["x"]).try_into().unwrap(), y: bytes(&key["y"]).try_into().unwrap() },
        values: Values {
            bank: Hash::Sha384,
            pcrs: values.iter().map(|(pcr, value)| (pcr.parse().unwrap(), bytes(value))).collect::<BTreeMap<_, _>>(),
        },
    }
}

fn bound(quote: &Quote, nonce: &str) -> Vec<String> {
    let nonce = Requirement::Exact(Bytes(hex::decode(nonce).unwrap()));
    let mut checks = Checks::default();
    let Quote { attest, signature, key, values } = quote;
    bind::quote(&tpm(), &Claim { attest, signature, key, values, nonce: &nonce }, &mut checks);
    checks.failures().map(|c| c.name.clone()).collect()
}

#[test]
fn the_quote_of_the_same_tpm_is_held_against_its_document() {
    assert_eq!(bound(&quote(), NONCE), [""; 0]);
    assert_eq!(bound(&quote(), &"00".repeat(32)), [tpm::clause::NONCE]);
    let mut other = quote();
    other.values.pcrs.insert(4, vec![0; 48]);
    assert_eq!(bound(&other, NONCE), [tpm::clause::DIGEST, clause::QUOTE_REGISTERS]);
    let mut other = quote();
    let Key::P256 { x, .. } = &mut other.key else { panic!("a P-256 key") };
    x[0] ^= 1;
    assert_eq!(bound(&other, NONCE), [tpm::clause::SIGNATURE, clause::QUOTE_KEY]);
}

#[test]
fn a_report_is_of_the_documents_region_conversation_and_key() {
    let (tpm, binding, region) = (tpm(), [7; 32], Some("CN=cc-us-east-1.amazonaws.com"));
    let data = Hex(machine::report_data(&binding, tpm.get().document.public_key.as_ref().unwrap()));
    let verdict = |csp_id: Option<&str>, report_data: &Hex<64>, binding: &[u8; 32]| {
        let mut checks = Checks::default();
        bind::snp(&tpm, bind::Reported { csp_id, report_data }, binding, &mut checks);
        checks.failures().map(|c| c.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(verdict(region, &data, &binding), [""; 0]);
    assert_eq!(verdict(Some("CN=cc-eu-west-1.amazonaws.com"), &data, &binding), [clause::SNP_REGION]);
    assert_eq!(verdict(None, &data, &binding), [clause::SNP_REGION]);
    assert_eq!(verdict(region, &Hex([0; 64]), &binding), [clause::SNP_REPORT_DATA]);
    assert_eq!(verdict(region, &data, &[8; 32]), [clause::SNP_REPORT_DATA]);
}

#[test]
fn no_changed_document_is_accepted() {
    let document = genuine();
    let payload = document.windows(10).position(|part| part == b"\x69module_id").unwrap() - 1;
    let lengths = mutate::cbor(&document, 0).into_iter().chain(mutate::cbor(&document[..document.len() - 98], payload));
    let genuine = Genuine::new("NitroTPM", &document).lengths(lengths).at_most(3000, 1000);
    genuine.is_the_only_one(|bytes| failures(bytes, &policy(), now()).is_empty());
    // An enclave's, which nothing makes one of a TPM.
    let enclave = read("dstack/nitro_attestation.bin");
    let length = usize::from(u16::from_le_bytes([enclave[2], enclave[3]]) >> 2);
    Genuine::new("enclave", &enclave[4..4 + length]).at_most(500, 200).harms_nothing(|bytes| {
        assert!(!failures(bytes, &policy(), at(1_766_668_600)).is_empty());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_cut_or_spliced_document_is_accepted(from: prop::sample::Index, to: prop::sample::Index, with: Vec<u8>) {
        let document = genuine();
        let (from, to) = (from.index(document.len()), to.index(document.len()));
        prop_assert!(!failures(&document[..from], &policy(), now()).is_empty());
        let (from, to) = (from.min(to), from.max(to));
        let spliced = [&document[..from], &with, &document[to..]].concat();
        prop_assert!(spliced == document || !failures(&spliced, &policy(), now()).is_empty());
    }
}
