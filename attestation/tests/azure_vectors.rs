//! Genuine evidence of machines of Azure, and evidence that was changed, give the verdict they must.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{fs, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_URL_SAFE};
use constellation_attestation::{
    azure::{self, Endorsement, Evidence, Hardware, Policy, clause, hcl::Report},
    bytes::Bytes,
    reference::Requirement,
    snp, tdx,
    tpm::{self, Hash, quote::Values, registers::Registers, signature::Signature},
    x509,
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

mod mutate;

use mutate::{Genuine, Length};

const NONCE: &[u8] = b"challenge";
const VM: &str = "26F8BC30-774E-4290-8E7A-535F3B672AEE";

fn read(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The parts of evidence in the JSON of its attester.
#[derive(Clone)]
struct Sent {
    hcl: Vec<u8>,
    vek: Vec<u8>,
    quote: Vec<u8>,
    collateral: Vec<u8>,
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
}

fn unbase64(value: &Value) -> Vec<u8> {
    BASE64_URL_SAFE.decode(value.as_str().unwrap_or_default()).or_else(|_| unpadded(value)).unwrap()
}

fn unpadded(value: &Value) -> Result<Vec<u8>, base64::DecodeError> {
    base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(value.as_str().unwrap_or_default())
}

fn sent(path: &str) -> Sent {
    let json: Value = serde_json::from_slice(&read(path)).unwrap();
    let tpm = &json["tpm_quote"];
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    Sent {
        hcl: unbase64(&json["hcl_report"]),
        vek: unbase64(&json["vcek"]),
        quote: unbase64(&json["td_quote"]),
        collateral: read("tdx-composite/collateral_00806f050000_20251001.json"),
        attest: bytes(&tpm["message"]),
        signature: bytes(&tpm["signature"]),
        pcrs: tpm["pcrs"].as_array().unwrap().iter().map(bytes).collect(),
    }
}

fn snp_machine() -> Sent {
    sent("trustee-az-snp/evidence-v1.json")
}

fn tdx_machine() -> Sent {
    sent("trustee-az-tdx/evidence-v1.json")
}

fn exactly(registers: &[Vec<u8>]) -> Registers {
    Registers([4, 11, 12, 13].map(|pcr| (pcr, Requirement::Exact(hex::encode(&registers[usize::from(pcr)])))).into())
}

/// As an owner would write it who knows the machine.
fn policy(hardware: Hardware, sent: &Sent, vm: &str) -> Policy {
    Policy {
        console: Requirement::Exact(true),
        vm_id: Requirement::Exact(vm.into()),
        nonce: Requirement::Exact(Bytes(NONCE.to_vec())),
        registers: exactly(&sent.pcrs),
        ..Policy::strict(hardware)
    }
}

fn snp_policy() -> Policy {
    let machine = snp_machine();
    let mut policy = snp::Policy::strict();
    for name in snp::clause::REFERENCE {
        policy.waive(name, "a test of the paravisor");
    }
    policy.vmpl = Requirement::Exact(0);
    self::policy(Hardware::Snp(Box::new(policy)), &machine, VM)
}

/// The machine's TCB is out of date, and the paravisor handles `#VE`.
fn tdx_policy() -> Policy {
    let machine = tdx_machine();
    let mut policy = tdx::Policy::strict();
    let mut names = tdx::clause::REFERENCE.to_vec();
    names.extend([tdx::clause::TCB_STATUS, tdx::clause::SEPT_VE_DISABLE]);
    for name in names {
        policy.waive(name, "a test of the paravisor");
    }
    self::policy(Hardware::Tdx(Box::new(policy)), &machine, "6332533D-5649-4D02-8AA7-8F64B7C3EE21")
}

fn failures(sent: &Sent, policy: &Policy) -> Vec<String> {
    let signature = Signature::Rsassa(Hash::Sha256, sent.signature.clone());
    let values = Values { bank: Hash::Sha256, pcrs: (0..).zip(sent.pcrs.clone()).collect() };
    let endorsement = if sent.vek.is_empty() {
        Endorsement::Tdx { quote: &sent.quote, collateral: &sent.collateral }
    } else {
        let intermediate = snp::intermediate_of(&sent.vek).unwrap_or_default();
        Endorsement::Snp { vek: &sent.vek, intermediate, crl: None }
    };
    let (amd, intel) = (snp::Anchors::amd(), tdx::Anchors::intel());
    let now: Timestamp =
        if sent.vek.is_empty() { "2025-10-01T12:00:00Z" } else { "2026-11-23T00:00:00Z" }.parse().unwrap();
    let evidence = Evidence {
        hcl: &sent.hcl,
        endorsement,
        attest: &sent.attest,
        signature: &signature,
        values: &values,
        log: None,
    };
    let anchors = azure::Anchors { snp: &amd, tdx: &intel };
    let checks = azure::verify_and_appraise(&evidence, anchors, policy, now);
    assert_eq!(checks.accepted(), checks.failures().next().is_none());
    checks.failures().map(|c| c.name.clone()).collect()
}

#[test]
fn a_genuine_machine_is_accepted_for_its_conversation_and_registers() {
    assert_eq!(failures(&snp_machine(), &snp_policy()), [""; 0]);
    assert_eq!(failures(&tdx_machine(), &tdx_policy()), [""; 0]);
}

#[test]
fn each_thing_that_is_not_wanted_is_refused_by_its_own_clause() {
    let change = |change: &dyn Fn(&mut Policy)| {
        let mut policy = snp_policy();
        change(&mut policy);
        failures(&snp_machine(), &policy)
    };
    assert_eq!(change(&|p| p.secure_boot = Requirement::Exact(false)), [clause::SECURE_BOOT]);
    assert_eq!(change(&|p| p.console = Requirement::Exact(false)), [clause::CONSOLE]);
    assert_eq!(change(&|p| p.vm_id = Requirement::Exact("other".into())), [clause::VM_ID]);
    assert_eq!(change(&|p| p.user_data = Requirement::Exact(Bytes(vec![1; 64]))), [clause::USER_DATA]);
    assert_eq!(change(&|p| p.user_data = Requirement::Exact(Bytes(vec![0; 64]))), [""; 0]);
    assert_eq!(change(&|p| p.nonce = Requirement::Exact(Bytes(b"other".to_vec()))), [tpm::clause::NONCE]);
    assert_eq!(change(&|p| drop(p.registers.0.insert(4, Requirement::Exact("00".repeat(32))))), ["tpm.pcr.4"]);
    // What the owner wants of the report's data isn't asked for: it speaks for the runtime data.
    let hardware = |p: &mut Policy| {
        let Hardware::Snp(snp) = &mut p.hardware else { panic!("SEV-SNP") };
        snp.report_data = Requirement::Waived { reason: "a test".into() };
        snp.vmpl = Requirement::Exact(1);
    };
    assert_eq!(change(&hardware), [snp::clause::VMPL]);
    // The strict policy names no machine, conversation or registers, so it accepts none.
    let strict = failures(&snp_machine(), &Policy::strict(snp_policy().hardware));
    assert!([clause::VM_ID, clause::CONSOLE, tpm::clause::NONCE].iter().all(|name| strict.iter().any(|s| s == name)));
}

#[test]
fn evidence_of_one_processor_is_not_judged_by_the_policy_of_another() {
    assert_eq!(failures(&snp_machine(), &tdx_policy()), [clause::KIND]);
    assert_eq!(failures(&tdx_machine(), &snp_policy()), [clause::KIND]);
}

#[test]
fn another_hash_length_or_kind_of_report_is_refused() {
    let with = |at: usize, value: u32| {
        let mut machine = snp_machine();
        machine.hcl[at..at + 4].copy_from_slice(&value.to_le_bytes());
        failures(&machine, &snp_policy())
    };
    // SHA-384 and SHA-512 are read, and aren't what the report speaks for; there is no fourth.
    assert_eq!(with(0x4cc, 2), [snp::clause::REPORT_DATA]);
    assert_eq!(with(0x4cc, 3), [snp::clause::REPORT_DATA]);
    assert_eq!(with(0x4cc, 4), [clause::STRUCTURE]);
    assert_eq!(with(0x4c8, 4), [clause::KIND]);
    assert_eq!(with(0x4c8, 0), [clause::STRUCTURE]);
    for size in [0, 1, 1109, 1111, 1 << 20, u32::MAX] {
        assert_eq!(with(0x4d0, size), [clause::STRUCTURE], "{size}");
    }
    assert_eq!(with(0, 0), [clause::STRUCTURE]);
}

#[test]
fn only_the_one_key_of_its_name_is_taken() {
    let runtime = |keys: &str, more: &str| {
        let genuine = snp_machine().hcl;
        let json = format!(
            r#"{{"keys":[{keys}],"vm-configuration":{{"secure-boot":true,"console-enabled":true,"vmUniqueId":"{VM}"}}{more}}}"#
        );
        let mut hcl = genuine[..0x4d4].to_vec();
        let (end, size) = (u32::try_from(0x4d4 + json.len()).unwrap(), u32::try_from(json.len()).unwrap());
        hcl[8..12].copy_from_slice(&end.to_le_bytes());
        hcl[0x4c0..0x4c4].copy_from_slice(&(20 + size).to_le_bytes());
        hcl[0x4d0..0x4d4].copy_from_slice(&size.to_le_bytes());
        hcl.extend_from_slice(json.as_bytes());
        Report::parse(&hcl).unwrap().runtime().is_ok()
    };
    let modulus = BASE64_URL_SAFE.encode([0xc5; 256]).trim_end_matches('=').to_owned();
    let ak = format!(r#"{{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"{modulus}"}}"#);
    let ek = ak.replace("HCLAkPub", "HCLEkPub");
    assert!(runtime(&format!("{ek},{ak}"), ""));
    assert!(runtime(&ak, r#","user-data":"00ff""#));
    assert!(!runtime(&ek, ""), "no attestation key");
    assert!(!runtime(&format!("{ak},{ak}"), ""), "two of them");
    assert!(!runtime(&ak.replace("RSA", "EC"), ""), "another type");
    assert!(!runtime(&ak.replace("AQAB", "Aw"), ""), "another exponent");
    assert!(!runtime(&ak.replace("\"e\"", "\"kid\":\"HCLAkPub\",\"e\""), ""), "a member twice");
    assert!(!runtime(&ak, r#","user-data":"0""#), "no hex");
    assert!(!runtime(&ak, r#","keys":[]"#), "a member twice");
}

#[test]
fn a_certificate_of_another_chip_or_none_is_refused() {
    let mut machine = snp_machine();
    machine.vek = x509::from_pem(&read("trustee-az-snp/vcek.pem"), 8).unwrap().remove(0);
    let failed = failures(&machine, &snp_policy());
    assert!(failed.iter().any(|name| name == snp::clause::VEK_HWID), "{failed:?}");
    machine.vek = b"no certificate".to_vec();
    assert!(!failures(&machine, &snp_policy()).is_empty());
}

#[test]
fn no_changed_evidence_is_accepted() {
    for (name, machine, policy) in [("SEV-SNP", snp_machine(), snp_policy()), ("TDX", tdx_machine(), tdx_policy())] {
        let with = |change: &dyn Fn(&mut Sent)| {
            let mut changed = machine.clone();
            change(&mut changed);
            failures(&changed, &policy).is_empty()
        };
        let tdx = machine.vek.is_empty();
        let hcl = Genuine::new(name, &machine.hcl).lengths([8, 0x4c0, 0x4d0].map(|at| Length::Little(at, 4)));
        // Nobody but its machine can check a TDX report, so it isn't looked at: the quote speaks for the same. Zeros after
        // the report are how the index ends.
        let same = |bytes: &[u8]| {
            let read = |hcl: &[u8]| [&hcl[..0x20], &hcl[0x4c0..]].concat();
            let end = u32::from_le_bytes(machine.hcl[8..12].try_into().unwrap()).try_into().unwrap();
            tdx && read(&bytes[..end]) == read(&machine.hcl[..end]) || bytes[..end] == machine.hcl[..end]
        };
        let verdict = |bytes: &[u8]| with(&|sent| sent.hcl = bytes.to_vec()).then_some(());
        hcl.at_most(800, 300).gives_one_verdict(verdict, |bytes, ()| same(bytes));
        let attest = Genuine::new(name, &machine.attest).at_most(500, 100);
        attest.is_the_only_one(|bytes| with(&|sent| sent.attest = bytes.to_vec()));
        let signature = Genuine::new(name, &machine.signature).at_most(200, 50);
        signature.is_the_only_one(|bytes| with(&|sent| sent.signature = bytes.to_vec()));
        // Quotes of TDX have tests of their own.
        if !tdx {
            let vek = Genuine::new(name, &machine.vek).lengths(mutate::der(&machine.vek, 0)).at_most(300, 100);
            vek.is_the_only_one(|bytes| with(&|sent| sent.vek = bytes.to_vec()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn no_cut_or_spliced_report_is_accepted(from: prop::sample::Index, to: prop::sample::Index, with: Vec<u8>) {
        let genuine = snp_machine().hcl;
        let (from, to) = (from.index(genuine.len()), to.index(genuine.len()));
        let (from, to) = (from.min(to), from.max(to));
        let hcl = [&genuine[..from], &with, &genuine[to..]].concat();
        // Zeros after the report are how the index ends, however many.
        let same = hcl.len() >= 2346 && hcl[..2346] == genuine[..2346] && hcl[2346..].iter().all(|b| *b == 0);
        let machine = Sent { hcl, ..snp_machine() };
        prop_assert!(same || !failures(&machine, &snp_policy()).is_empty());
    }
}
