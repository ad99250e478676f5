//! Genuine quotes and certificates of Google Cloud machines, and changed ones, give the verdict they must.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{fs, path::PathBuf};

use constellation_attestation::{
    bytes::{Bytes, Hex},
    gcp::{self, Evidence, Policy, Technology, clause},
    machine,
    reference::Requirement,
    result::Checks,
    tpm::{self, Hash, eventlog::EventLog, quote::Values, registers::Registers, signature::Signature},
    x509::{self, chain::Anchors},
};
use jiff::Timestamp;
use serde_json::Value;

mod mutate;

use mutate::Genuine;

fn read(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn now() -> Timestamp {
    at(1_770_200_000)
}

/// Evidence as the JSON of the vectors holds it.
#[derive(Clone)]
struct Sent {
    nonce: Vec<u8>,
    chain: Vec<Vec<u8>>,
    attest: Vec<u8>,
    signature: Signature,
    values: Values,
}

fn sent(path: &str) -> Sent {
    let json: Value = serde_json::from_slice(&read(path)).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let tpm = &json["attestation"]["tpm"]["ecc_p256"];
    let values = json["pcrs"]["sha256"].as_object().unwrap();
    Sent {
        nonce: bytes(&json["nonce"]),
        chain: x509::from_pem(json["attestation"]["gcp"]["ak_cert_chain"].as_str().unwrap().as_bytes(), 8).unwrap(),
        attest: bytes(&tpm["attest_data"]),
        signature: Signature::parse_ecdsa_der(&bytes(&tpm["signature"])).unwrap(),
        values: Values {
            bank: Hash::Sha256,
            pcrs: values.iter().map(|(pcr, value)| (pcr.parse().unwrap(), bytes(value))).collect(),
        },
    }
}

fn genuine() -> Sent {
    sent("vaportpm/test-gcp-amd-fixture.json")
}

/// As an owner would write it who knows the machine.
fn policy() -> Policy {
    let Sent { nonce, values, .. } = genuine();
    let exact = |pcr: u8| (pcr, Requirement::Exact(hex::encode(&values.pcrs[&pcr])));
    Policy {
        project: Requirement::Exact("lockboot".into()),
        zone: Requirement::Exact("us-central1-f".into()),
        instance_id: Requirement::Exact(3_414_240_648_225_485_836),
        technology: Requirement::Waived { reason: "the vectors have no log of this machine".into() },
        nonce: Requirement::Exact(Bytes(nonce)),
        registers: Registers([0, 4, 7, 11, 12, 13].map(exact).into()),
        ..Policy::strict()
    }
}

fn failures(sent: &Sent, policy: &Policy, anchors: &Anchors, now: Timestamp) -> Vec<String> {
    let Sent { chain, attest, signature, values, .. } = sent;
    let evidence = Evidence { chain, attest, signature, values, log: None };
    gcp::verify_and_appraise(&evidence, anchors, policy, now).failures().map(|c| c.name.clone()).collect()
}

fn strictly(sent: &Sent) -> Vec<String> {
    failures(sent, &policy(), &gcp::google(), now())
}

#[test]
fn a_genuine_machine_is_accepted_as_itself() {
    assert_eq!(strictly(&genuine()), [""; 0]);
    // Roots that the owner names instead.
    let root = x509::from_pem(&read("vaportpm/gcp-ekak-root.pem"), 1).unwrap();
    let anchors = Anchors::new([root[0].as_slice()]).unwrap();
    assert_eq!(failures(&genuine(), &policy(), &anchors, now()), [""; 0]);
}

#[test]
fn each_thing_that_is_not_wanted_is_refused_by_its_own_clause() {
    let change = |change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        change(&mut policy);
        failures(&genuine(), &policy, &gcp::google(), now())
    };
    let other = || Requirement::Exact("other".to_owned());
    assert_eq!(change(&|p| p.project = other()), [clause::PROJECT]);
    assert_eq!(change(&|p| p.zone = other()), [clause::ZONE]);
    assert_eq!(change(&|p| p.instance_name = other()), [clause::INSTANCE_NAME]);
    assert_eq!(change(&|p| p.instance_id = Requirement::Exact(1)), [clause::INSTANCE_ID]);
    assert_eq!(change(&|p| p.project_number = Requirement::Exact(1)), [clause::PROJECT_NUMBER]);
    assert_eq!(change(&|p| p.production = Requirement::Exact(false)), [clause::PRODUCTION]);
    assert_eq!(change(&|p| p.technology = Requirement::Exact(Technology::SevEs)), [clause::TECHNOLOGY]);
    assert_eq!(change(&|p| p.nonce = Requirement::Exact(Bytes(vec![0; 32]))), [tpm::clause::NONCE]);
    assert_eq!(change(&|p| drop(p.registers.0.insert(4, other()))), ["tpm.pcr.4"]);
    assert_eq!(change(&|p| drop(p.registers.0.remove(&12))), [tpm::clause::PCR_POLICY]);
    assert!(!failures(&genuine(), &Policy::strict(), &gcp::google(), now()).is_empty());
}

#[test]
fn changed_evidence_is_refused_for_what_was_changed() {
    let changed = |case: &str| sent(&format!("mutated-real/{case}/evidence.json"));
    assert_eq!(strictly(&changed("gcp_pcr0_replaced")), [tpm::clause::DIGEST]);
    // That file changes what was asked for.
    let other = changed("gcp_wrong_nonce");
    let policy = Policy { nonce: Requirement::Exact(Bytes(other.nonce.clone())), ..policy() };
    assert_eq!(failures(&other, &policy, &gcp::google(), now()), [tpm::clause::NONCE]);
    let mut other = genuine();
    other.values.pcrs.remove(&12);
    assert_eq!(strictly(&other), [tpm::clause::SELECTION, tpm::clause::DIGEST]);
}

#[test]
fn a_chain_that_is_short_out_of_date_or_of_another_root_is_refused() {
    let mut short = genuine();
    short.chain.truncate(1);
    assert_eq!(strictly(&short), [clause::AK_CHAIN]);
    short.chain.clear();
    assert_eq!(strictly(&short), [clause::AK_STRUCTURE]);
    let early = at(1_769_000_000);
    assert_eq!(failures(&genuine(), &policy(), &gcp::google(), early), [clause::AK_VALIDITY]);
    let aws = fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/nitro/aws_nitro_root.der")).unwrap();
    let anchors = Anchors::new([aws.as_slice()]).unwrap();
    assert_eq!(failures(&genuine(), &policy(), &anchors, now()), [clause::AK_CHAIN]);
}

#[test]
fn the_certificate_of_an_endorsement_key_of_the_same_machine_is_no_attestation_keys() {
    let verify = |name: &str| {
        let mut checks = Checks::default();
        let leaf = x509::from_pem(&read(&format!("go-tpm-tools/certificates/{name}")), 1).unwrap().remove(0);
        let ca = read("go-tpm-tools/ca/gcp_ek_ak_ca_intermediate_v3.crt");
        let tpm = gcp::verify(&[leaf, ca], &gcp::google(), now(), &mut checks);
        (tpm, checks.failures().map(|c| c.name.clone()).collect::<Vec<_>>())
    };
    for kind in ["rsa", "ecc"] {
        let (tpm, failed) = verify(&format!("pca_tpm_{kind}_sign_cert.pem"));
        assert_eq!(failed, [""; 0], "{kind}");
        assert_eq!(tpm.unwrap().get().machine.project_id, "google.com:wuale-gcp-testing");
        let (tpm, failed) = verify(&format!("pca_tpm_{kind}_enc_cert.pem"));
        assert_eq!(failed, [clause::AK_USAGE], "{kind}");
        assert!(tpm.is_none());
    }
}

#[test]
fn the_processors_report_names_conversation_and_key() {
    let mut checks = Checks::default();
    let tpm = gcp::verify(&genuine().chain, &gcp::google(), now(), &mut checks).unwrap();
    let data = Hex(machine::report_data(&[7; 32], &tpm.get().key.to_bytes()));
    let verdict = |data: &Hex<64>, binding: &[u8; 32]| {
        let mut checks = Checks::default();
        gcp::bind(&tpm, data, binding, &mut checks);
        checks.accepted()
    };
    assert!(verdict(&data, &[7; 32]));
    assert!(!verdict(&data, &[8; 32]));
    assert!(!verdict(&Hex([0; 64]), &[7; 32]));
}

/// The technology that a genuine log names, when the quoted registers are those it replays to.
fn technology(log: &[u8], values: &Values) -> Option<Technology> {
    let mut checks = Checks::default();
    let log = tpm::replay::check(log, values, &mut checks)?;
    if checks.accepted() { gcp::verify::technology(&log) } else { None }
}

#[test]
fn the_technology_is_read_from_the_one_event_of_a_log_that_replays() {
    let expected: Value = serde_json::from_slice(&read("go-tpm-tools/eventlogs/expected_pcrs.json")).unwrap();
    for (name, wanted) in [
        ("cos-85-amd-sev.bin", Some(Technology::Sev)),
        ("ubuntu-1804-amd-sev.bin", Some(Technology::Sev)),
        ("glinux-alex.bin", None),
    ] {
        let values = expected[name]["pcrs"]["sha256"].as_object().unwrap();
        let values = Values {
            bank: Hash::Sha256,
            pcrs: values.iter().map(|(k, v)| (k.parse().unwrap(), hex::decode(v.as_str().unwrap()).unwrap())).collect(),
        };
        let log = read(&format!("go-tpm-tools/eventlogs/{name}"));
        assert_eq!(technology(&log, &values), wanted, "{name}");
        // Another byte in the event's data: the log still replays, so only the digest can tell.
        if let Some(place) = log.windows(16).position(|part| part == b"GCE NonHostInfo\0") {
            let mut lying = log.clone();
            lying[place + 16] = 4;
            assert_eq!(technology(&lying, &values), None, "{name}");
        }
    }
}

#[test]
fn no_technology_is_believed_that_was_named_after_the_firmware() {
    let genuine = read("go-tpm-tools/eventlogs/ubuntu-1804-amd-sev.bin");
    let read = |log: &[u8]| gcp::verify::technology(&EventLog::parse(log).unwrap());
    assert_eq!(read(&genuine), Some(Technology::Sev));
    let events = mutate::events(&genuine);
    let (at, data) = *events.iter().find(|(_, data)| genuine[*data..].starts_with(b"GCE NonHostInfo\0")).unwrap();
    let end = data + 32;
    // As anybody may extend PCR 0 once the machine runs: the genuine event under another type, and another one at the end.
    let mut forged = [&genuine[at..data], b"GCE NonHostInfo\0\x02", &[0; 15]].concat();
    let digest = Hash::Sha256.digest(&[&forged[data - at..]]);
    let place = genuine[at..data].windows(2).position(|part| part == [0x0b, 0]).unwrap() + 2;
    forged[place..place + 32].copy_from_slice(&digest);
    let padding = events.last().map(|(_, data)| data).unwrap();
    let length = u32::from_le_bytes(genuine[padding - 4..*padding].try_into().unwrap());
    let last = padding + usize::try_from(length).unwrap();
    let mut log = [&genuine[..last], &forged].concat();
    assert_eq!(read(&log), Some(Technology::Sev), "the firmware's own");
    for kind in [0x08, 0x06] {
        log[at + 4] = kind;
        assert_eq!(read(&log), None, "hidden as {kind:#x}");
    }
    log[data..end].fill(0);
    assert_eq!(read(&log), None, "hidden, with other words");
}

#[test]
fn no_changed_quote_or_certificate_is_accepted() {
    let genuine = genuine();
    let with = |change: &dyn Fn(&mut Sent)| {
        let mut changed = genuine.clone();
        change(&mut changed);
        strictly(&changed).is_empty()
    };
    Genuine::new("quote", &genuine.attest).is_the_only_one(|bytes| with(&|sent| sent.attest = bytes.to_vec()));
    for (at, certificate) in genuine.chain.iter().enumerate().take(2) {
        let certificate =
            Genuine::new("certificate", certificate).lengths(mutate::der(certificate, 0)).at_most(800, 400);
        certificate.is_the_only_one(|bytes| with(&|sent| sent.chain[at] = bytes.to_vec()));
    }
    // Certificates of other machines' keys, of either kind.
    let ca = read("go-tpm-tools/ca/gcp_ek_ak_ca_intermediate_v3.crt");
    for kind in ["rsa", "ecc"] {
        let leaf = read(&format!("go-tpm-tools/certificates/pca_tpm_{kind}_sign_cert.pem"));
        let leaf = x509::from_pem(&leaf, 1).unwrap().remove(0);
        let certificate = Genuine::new(kind, &leaf).lengths(mutate::der(&leaf, 0)).at_most(500, 200);
        certificate.is_the_only_one(|bytes| {
            gcp::verify(&[bytes.to_vec(), ca.clone()], &gcp::google(), now(), &mut Checks::default()).is_some()
        });
    }
}
