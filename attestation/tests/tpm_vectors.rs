//! Genuine quotes, boots and certificates of software TPMs give the verdicts that their provenance says.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::PathBuf};

use constellation_attestation::{
    appraise::clause,
    bytes::Bytes,
    endorsement,
    reference::Requirement,
    result::Checks,
    tpm::{
        Error, Hash,
        attest::Attest,
        eventlog::EventLog,
        public::Public,
        quote::{self, Claim, Presented, Values},
        replay,
        signature::Signature,
    },
};
use proptest::prelude::*;

mod mutate;

use mutate::{Genuine, Length};

const NONCE: &[u8] = b"join-nonce-0001-swtpm-vector-set";
const ALL: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const BOOTS: [&str; 5] = ["base-ovmf2m", "cmdline-changed", "mem2048", "node-verity", "secureboot-snakeoil"];

fn read(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(case: &str, ak: &str) -> Result<(), Vec<String>> {
    let file = |name: &str| read(&format!("qemu-swtpm/{case}/{name}"));
    let values = if case == "neg_certify_type" { Vec::new() } else { file("pcrs.bin") };
    let (attest, signature, ak) = (file("quote.msg"), file("quote.sig"), read(&format!("qemu-swtpm/{ak}")));
    quote::verify(&Presented {
        attest: &attest,
        signature: &signature,
        ak_public: &ak,
        values: &values,
        nonce: NONCE,
        pcrs: &ALL,
    })
    .map(|_| ())
    .map_err(|wrong| wrong.into_iter().map(|m| m.clause).collect())
}

#[test]
fn good_quotes_of_both_key_kinds_are_accepted() {
    assert_eq!(check("good_ecc_sha256", "ak_ecc.tpm2b_public"), Ok(()));
    assert_eq!(check("good_rsa_sha256", "ak_rsa.tpm2b_public"), Ok(()));
    // Clause by clause, as clouds' evidence is looked at.
    for kind in ["ecc", "rsa"] {
        let file = |name: &str| read(&format!("qemu-swtpm/good_{kind}_sha256/{name}"));
        let key = Public::parse(&read(&format!("qemu-swtpm/ak_{kind}.tpm2b_public"))).unwrap().key;
        let signature = Signature::parse(&file("quote.sig")).unwrap();
        let values = Values::cut(Hash::Sha256, &ALL, &file("pcrs.bin")).unwrap();
        for (nonce, good) in [(NONCE, true), (&NONCE[1..], false)] {
            let (attest, nonce) = (file("quote.msg"), Requirement::Exact(Bytes(nonce.to_vec())));
            let claim = Claim { attest: &attest, signature: &signature, key: &key, values: &values, nonce: &nonce };
            let mut checks = Checks::default();
            assert_eq!((quote::check(&claim, &mut checks).is_some(), checks.accepted()), (good, good), "{kind}");
        }
    }
}

#[test]
fn values_are_cut_where_they_are_all_there_each_once_and_in_order() {
    let values = [7; 64];
    let cut =
        |pcrs: &[u8], values: &[u8]| Values::cut(Hash::Sha256, pcrs, values).map(|it| it.pcrs.into_keys().collect());
    assert_eq!(cut(&[0, 3], &values), Some(vec![0, 3]));
    for (pcrs, values) in [
        (&[3, 0][..], &values[..]),
        (&[3, 3], &values),
        (&[0, 3], &values[1..]),
        (&[0, 3, 4], &values),
        (&[0], &values),
    ] {
        assert_eq!(cut(pcrs, values), None, "{pcrs:?}");
    }
}

#[test]
fn each_bad_quote_is_refused_for_its_own_reason() {
    for (case, ak, wanted) in [
        ("neg_bad_magic", "neg_bad_magic/ak.tpm2b_public", clause::MAGIC),
        ("neg_certify_type", "ak_rsa.tpm2b_public", clause::TYPE),
        ("neg_partial_selection", "ak_rsa.tpm2b_public", clause::SELECTION),
        ("neg_sha1_bank", "ak_rsa.tpm2b_public", clause::SELECTION),
        ("neg_wrong_nonce", "ak_rsa.tpm2b_public", clause::NONCE),
        ("good_rsa_sha256", "ak_ecc.tpm2b_public", clause::SIGNATURE),
    ] {
        let wrong = check(case, ak).expect_err(case);
        assert!(wrong.iter().any(|c| c == wanted), "{case}: {wrong:?}");
    }
    assert_eq!(check("neg_wrong_nonce", "ak_rsa.tpm2b_public"), Err(vec![clause::NONCE.to_owned()]));
}

#[test]
fn a_structure_with_a_byte_behind_it_is_none() {
    for kind in ["ecc", "rsa"] {
        let attest = read(&format!("qemu-swtpm/good_{kind}_sha256/quote.msg"));
        let signature = read(&format!("qemu-swtpm/good_{kind}_sha256/quote.sig"));
        let public = read(&format!("qemu-swtpm/ak_{kind}.tpm2b_public"));
        let more = |bytes: &[u8]| [bytes, &[0]].concat();
        // The byte lies in the public area, or behind what holds that.
        let area = [&u16::try_from(public.len() - 1).unwrap().to_be_bytes(), &more(&public)[2..]].concat();
        assert!(
            Attest::parse(&attest).is_ok() && Signature::parse(&signature).is_ok() && Public::parse(&public).is_ok()
        );
        let behind = Some(Error::Trailing(1));
        assert_eq!(Attest::parse(&more(&attest)).err(), behind, "{kind}");
        assert_eq!(Signature::parse(&more(&signature)).err(), behind, "{kind}");
        assert_eq!(Public::parse(&more(&public)).err(), behind, "{kind}");
        assert_eq!(Public::parse(&area).err(), behind, "{kind}");
    }
}

#[test]
fn recorded_boots_verify_and_their_logs_replay_to_what_was_quoted() {
    for boot in BOOTS {
        let file = |name: &str| read(&format!("local-qemu-swtpm/{boot}/{name}"));
        let nonce = hex::decode(String::from_utf8(file("nonce.hex")).unwrap().trim()).unwrap();
        let values = &file("pcrs.bin")[..16 * 32];
        let quote = quote::verify(&Presented {
            attest: &file("quote.msg"),
            signature: &file("quote.sig"),
            ak_public: &file("ak.pub"),
            values,
            nonce: &nonce,
            pcrs: &ALL,
        })
        .unwrap_or_else(|wrong| panic!("{boot}: {wrong:?}"));
        assert_eq!(quote.ak.name, file("ak.name"), "{boot}");
        let expected: std::collections::BTreeMap<u8, String> = serde_json::from_slice(&file("expected-pcrs.json"))
            .map(|map: std::collections::BTreeMap<String, serde_json::Value>| {
                map.into_iter().filter_map(|(k, v)| Some((k.parse().ok()?, v.as_str()?.to_owned()))).collect()
            })
            .unwrap();
        let log = EventLog::parse(&file("eventlog.bin")).unwrap();
        for pcr in [4, 5, 9, 11, 12] {
            let quoted = &values[usize::from(pcr) * 32..][..32];
            if let Some(predicted) = expected.get(&pcr) {
                assert_eq!(&hex::encode(quoted), predicted, "{boot} PCR {pcr}");
            }
            // The full guest extends PCR 11 with systemd's boot phases after the firmware's log ended.
            if !(boot == "node-verity" && pcr == 11) {
                assert_eq!(log.replay(pcr), quoted, "{boot} PCR {pcr}");
            }
        }
        for event in &log.events {
            assert_ne!(event.digest_matches_data(), Some(false), "{boot}: {}", event.describe());
        }
    }
}

#[test]
fn a_changed_command_line_is_explained_by_the_event_that_measured_it() {
    let log = EventLog::parse(&read("local-qemu-swtpm/cmdline-changed/eventlog.bin")).unwrap();
    let base = EventLog::parse(&read("local-qemu-swtpm/base-ovmf2m/eventlog.bin")).unwrap();
    for pcr in [4, 9, 11] {
        assert_ne!(log.replay(pcr), base.replay(pcr));
        let explanation = log.explain(pcr, &log.replay(pcr), None);
        assert!(explanation.starts_with("the event log replays to this value: event "), "{explanation}");
    }
    assert!(log.explain(11, &log.replay(11), None).contains(".cmdline"), "{}", log.explain(11, &log.replay(11), None));
    assert!(log.explain(11, &[0; 32], None).contains("does NOT replay"));

    let expected =
        |pcr| base.of(pcr).map(|event| <[u8; 32]>::try_from(event.digest.as_slice()).unwrap()).collect::<Vec<_>>();
    let eleven = log.explain(11, &log.replay(11), Some(&expected(11)));
    assert_eq!(eleven.matches("event ").count() - 1, 1, "one event differs: {eleven}");
    assert!(eleven.contains("\".cmdline\"") && eleven.contains("was expected"), "{eleven}");
    let mut longer = expected(11);
    longer.push([1; 32]);
    assert!(base.explain(11, &base.replay(11), Some(&longer)).contains("the event 01010101 is missing at the end"));
    longer.truncate(longer.len() - 2);
    assert!(base.explain(11, &base.replay(11), Some(&longer)).contains("is one too many"));
}

#[test]
fn an_endorsement_certificate_is_believed_only_under_its_ca_in_its_time_and_for_its_key() {
    let file = |name: &str| read(&format!("local-qemu-swtpm/base-ovmf2m/{name}"));
    let certificate = file("nv-0x01c00002.bin");
    let ek = Public::parse(&file("ekrsa.pub")).unwrap();
    let issuer = String::from_utf8(file("issuercert.pem")).unwrap();
    let root = String::from_utf8(file("swtpm-localca-rootca-cert.pem")).unwrap();
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    assert_eq!(endorsement::verify(&certificate, &ek, &[issuer.clone(), root.clone()], now), Ok(()));
    assert_eq!(endorsement::verify(&certificate, &ek, &[], now), Err(endorsement::Error::NoRoots));
    let other = String::from_utf8(read("local-qemu-swtpm/mem2048/issuercert.pem")).unwrap();
    if other != issuer {
        assert!(matches!(endorsement::verify(&certificate, &ek, &[other], now), Err(endorsement::Error::Issuer(_))));
    }
    let foreign = String::from_utf8(read("qemu-swtpm/ek_ca_issuer.pem")).unwrap();
    assert!(matches!(endorsement::verify(&certificate, &ek, &[foreign], now), Err(endorsement::Error::Issuer(_))));
    let early = "1999-01-01T00:00:00Z".parse().unwrap();
    assert!(matches!(
        endorsement::verify(&certificate, &ek, std::slice::from_ref(&issuer), early),
        Err(endorsement::Error::Time(_))
    ));
    let stranger = Public::parse(&read("qemu-swtpm/ek_rsa.tpm2b_public")).unwrap();
    assert_eq!(
        endorsement::verify(&certificate, &stranger, std::slice::from_ref(&issuer), now),
        Err(endorsement::Error::Key)
    );
    let mut cut = certificate.clone();
    cut.pop();
    assert_eq!(endorsement::verify(&cut, &ek, &[issuer], now), Err(endorsement::Error::Certificate));
}

#[test]
fn an_endorsement_certificate_of_a_point_is_for_that_point_only() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut ca = named("CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = named("TPM").signed_by(&key, &ca).unwrap();
    // A public area with this point: its last members are x and y with their lengths.
    let area = |point: &[u8]| {
        let mut area = read("qemu-swtpm/ak_ecc.tpm2b_public");
        let end = area.len();
        area[end - 66..end - 34].copy_from_slice(&point[1..33]);
        area[end - 32..].copy_from_slice(&point[33..]);
        Public::parse(&area).unwrap()
    };
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    let roots = [ca.pem()];
    let verify = |point: &[u8]| endorsement::verify(certificate.der(), &area(point), &roots, now);
    assert_eq!(verify(key.public_key_raw()), Ok(()));
    for place in [1, 64] {
        let mut other = key.public_key_raw().to_vec();
        other[place] ^= 1;
        assert_eq!(verify(&other), Err(endorsement::Error::Key));
    }
}

/// Registers that a genuine log of `go-tpm-tools` must replay to.
fn expected(name: &str) -> Values {
    let all: serde_json::Value = serde_json::from_slice(&read("go-tpm-tools/eventlogs/expected_pcrs.json")).unwrap();
    let register = |(number, value): (&String, &serde_json::Value)| {
        (number.parse().unwrap(), hex::decode(value.as_str().unwrap()).unwrap())
    };
    let values = all[name]["pcrs"]["sha256"].as_object().unwrap();
    Values { bank: Hash::Sha256, pcrs: values.iter().map(register).collect() }
}

fn replayed(log: &[u8], values: &Values) -> Vec<String> {
    let mut checks = Checks::default();
    replay::check(log, values, &mut checks);
    checks.failures().map(|c| c.name.clone()).collect()
}

const CLOUD_LOGS: [&str; 5] = [
    "cos-85-amd-sev.bin",
    "cos-93-amd-sev.bin",
    "cos-101-amd-sev.bin",
    "ubuntu-1804-amd-sev.bin",
    "ubuntu-2104-no-dbx.bin",
];

#[test]
fn genuine_logs_replay_to_their_registers_and_say_what_was_digested() {
    for name in CLOUD_LOGS.into_iter().chain(["ubuntu-2104-no-secure-boot.bin", "glinux-alex.bin"]) {
        let log = read(&format!("go-tpm-tools/eventlogs/{name}"));
        assert_eq!(replayed(&log, &expected(name)), [""; 0], "{name}");
        let mut checks = Checks::default();
        replay::check_exit(&EventLog::parse(&log).unwrap(), &mut checks);
        // A workstation whose firmware doesn't say.
        assert_eq!(checks.accepted(), name != "glinux-alex.bin", "{name}");
    }
}

#[test]
fn a_log_that_is_cut_lies_about_data_or_is_of_another_boot_is_refused_for_that() {
    let name = "ubuntu-1804-amd-sev.bin";
    let (genuine, values) = (read(&format!("go-tpm-tools/eventlogs/{name}")), expected(name));
    assert_eq!(replayed(&genuine[..genuine.len() - 40], &values), [clause::LOG_STRUCTURE]);
    assert_eq!(replayed(&read("go-tpm-tools/eventlogs/debian-10.bin"), &values), [clause::LOG_STRUCTURE]);
    // SecureBoot's value, the byte after its name: the digest stays what it was.
    let variable: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let place = genuine.windows(variable.len()).position(|part| part == variable).unwrap() + variable.len();
    let mut lying = genuine.clone();
    lying[place] ^= 1;
    assert_eq!(replayed(&lying, &values), [clause::LOG_DATA]);
    let mut other = values.clone();
    other.pcrs.insert(4, vec![0; 32]);
    assert_eq!(replayed(&genuine, &other), [format!("{}4", clause::LOG_REPLAY)]);
    other.pcrs.clear();
    assert_eq!(replayed(&genuine, &other), [clause::LOG_STRUCTURE]);
}

#[test]
fn a_log_whose_events_have_other_types_or_other_words_is_refused_though_it_replays() {
    const UNUSED: [u8; 4] = [2, 0, 0, 0];
    let name = "ubuntu-1804-amd-sev.bin";
    let (genuine, values) = (read(&format!("go-tpm-tools/eventlogs/{name}")), expected(name));
    let events = mutate::events(&genuine);
    let of = |pcr: u8, kind: u32| {
        let found = events.iter().find(|(at, _)| genuine[*at] == pcr && genuine[at + 4..at + 8] == kind.to_le_bytes());
        *found.unwrap()
    };
    let retyped = |(at, _): (usize, usize), kind: [u8; 4]| {
        let mut log = genuine.clone();
        log[at + 4..at + 8].copy_from_slice(&kind);
        log
    };
    // Secure Boot's variable as something that says nothing, and then with other words.
    let mut hidden = retyped(of(7, 0x8000_0001), UNUSED);
    assert_eq!(replayed(&hidden, &values), [clause::LOG_DATA]);
    hidden[of(7, 0x8000_0001).1 + 60] ^= 1;
    assert_eq!(replayed(&hidden, &values), [clause::LOG_DATA]);
    // A separator as something else: what comes after it would look like the firmware's.
    for (kind, clauses) in
        [(UNUSED, &[clause::LOG_DATA, clause::LOG_SEPARATOR][..]), ([5, 0, 0, 0], &[clause::LOG_SEPARATOR])]
    {
        assert_eq!(replayed(&retyped(of(7, 4), kind), &values), clauses, "{kind:?}");
    }
    assert_eq!(replayed(&retyped(of(0, 4), UNUSED), &values), [clause::LOG_SEPARATOR]);
    // Words of the firmware's version, of the platform, and of what is booted.
    for (pcr, kind) in [(0, 0x08), (0, 0x11), (1, 0x8000_0002)] {
        let mut lying = genuine.clone();
        lying[of(pcr, kind).1 + if kind == 0x8000_0002 { 32 + 18 } else { 0 }] ^= 1;
        assert_eq!(replayed(&lying, &values), [clause::LOG_DATA], "{kind:#x}");
    }
}

/// Where lengths of 16 bits stand in a structure, one after the other: places of what has this many bytes before it.
fn sized(bytes: &[u8], gaps: &[usize]) -> Vec<Length> {
    let mut at = 0;
    let place = |gap: &usize| {
        at += gap;
        let place = at;
        at += 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        Length::Big(place, 2)
    };
    gaps.iter().map(place).collect()
}

#[test]
fn no_altered_quote_is_accepted() {
    for (case, ak, members) in
        [("good_ecc_sha256", "ak_ecc.tpm2b_public", &[4, 0][..]), ("good_rsa_sha256", "ak_rsa.tpm2b_public", &[4])]
    {
        let file = |name: &str| read(&format!("qemu-swtpm/{case}/{name}"));
        let (attest, signature, values, ak) =
            (file("quote.msg"), file("quote.sig"), file("pcrs.bin"), read(&format!("qemu-swtpm/{ak}")));
        let name = |attest: &[u8], signature: &[u8], values: &[u8], ak: &[u8]| {
            let presented = Presented { attest, signature, ak_public: ak, values, nonce: NONCE, pcrs: &ALL };
            quote::verify(&presented).ok().map(|quote| quote.ak.name)
        };
        // Signer, qualifying data, the one selection's map, digest.
        let mut lengths = sized(&attest, &[6, 0]);
        lengths.extend([Length::Big(attest.len() - 2 - 32 - 4, 1), Length::Big(attest.len() - 2 - 32, 2)]);
        let quote = Genuine::new(case, &attest).lengths(lengths);
        quote.is_the_only_one(|bytes| name(bytes, &signature, &values, &ak).is_some());
        let signed = Genuine::new(case, &signature).lengths(sized(&signature, members));
        signed.is_the_only_one(|bytes| name(&attest, bytes, &values, &ak).is_some());
        let shown = Genuine::new(case, &values).at_most(1000, usize::MAX);
        shown.is_the_only_one(|bytes| name(&attest, &signature, bytes, &ak).is_some());
        // Another area with the same key is another name, and the name is what is endorsed.
        let genuine = name(&attest, &signature, &values, &ak).unwrap();
        Genuine::new(case, &ak).lengths([Length::Big(0, 2), Length::Big(10, 2)]).harms_nothing(|bytes| {
            assert_ne!(name(&attest, &signature, &values, bytes).as_ref(), Some(&genuine));
        });
    }
}

#[test]
fn no_altered_certificate_of_an_endorsement_key_is_believed() {
    let file = |name: &str| read(&format!("local-qemu-swtpm/base-ovmf2m/{name}"));
    let certificate = file("nv-0x01c00002.bin");
    let ek = Public::parse(&file("ekrsa.pub")).unwrap();
    let roots = [String::from_utf8(file("issuercert.pem")).unwrap()];
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    let genuine = Genuine::new("nv-0x01c00002.bin", &certificate).lengths(mutate::der(&certificate, 0));
    genuine.at_most(2000, 1000).is_the_only_one(|bytes| endorsement::verify(bytes, &ek, &roots, now).is_ok());
}

#[test]
fn an_altered_log_replays_to_the_same_registers_or_is_refused() {
    for name in CLOUD_LOGS {
        let (log, values) = (read(&format!("go-tpm-tools/eventlogs/{name}")), expected(name));
        let verdict = |bytes: &[u8]| {
            let mut checks = Checks::default();
            let found = replay::check(bytes, &values, &mut checks);
            found.filter(|_| checks.accepted()).map(|log| ALL.map(|pcr| log.replay(pcr)))
        };
        // What no digest is of (paths of images, commands of the boot loader's own) may differ; no register does.
        Genuine::new(name, &log).at_most(400, 200).gives_one_verdict(verdict, |_, _| true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn parsers_are_total_over_cut_and_altered_bytes(cut in 0_usize..4000, at in 0_usize..4000, value: u8) {
        let mut log = read("local-qemu-swtpm/base-ovmf2m/eventlog.bin");
        let length = log.len();
        log[at % length] = value;
        log.truncate(cut % (length + 1));
        if let Ok(log) = EventLog::parse(&log) {
            for pcr in ALL { let _ = log.explain(pcr, &[], None); }
        }
        for (file, parse) in [
            ("qemu-swtpm/good_ecc_sha256/quote.msg", (|b| Attest::parse(b).is_ok()) as fn(&[u8]) -> bool),
            ("qemu-swtpm/ak_rsa.tpm2b_public", |b| Public::parse(b).is_ok()),
        ] {
            let mut bytes = read(file);
            bytes.truncate(cut % bytes.len());
            prop_assert!(!parse(&bytes), "a cut structure was accepted");
        }
    }
}
