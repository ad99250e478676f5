//! Genuine, mutated and synthetic TDX evidence gives the verdict, and the failing clause, that its provenance says.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use constellation_attestation::{
    reference::Requirement,
    result::Checks,
    tdx::{
        Anchors, Evidence, Outcome, Policy, TcbStatus,
        bytes::Hex,
        ccel, clause,
        collateral::{Collateral, Hint, HintError, signed_part},
        quote::{Error, MAX_BYTES, Quote},
        verify_and_appraise,
    },
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde::Deserialize;

/// The day at which `tdx-composite` collateral is good, and the one for `dcap-qvl`.
const OCTOBER: i64 = 1_759_276_800;
const JULY: i64 = 1_751_328_000;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn read(name: &str) -> Vec<u8> {
    let path = path(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// The strict policy with every clause waived that only an owner can fill in.
fn strict() -> Policy {
    let mut policy = Policy::strict();
    for name in clause::REFERENCE {
        assert!(policy.waive(name, "the case has no value for it"));
    }
    policy
}

fn run(quote: &[u8], collateral: &[u8], policy: &Policy, now: i64) -> Outcome {
    verify_and_appraise(&Evidence { quote, collateral }, &Anchors::intel(), policy, at(now))
}

fn failures(outcome: &Outcome) -> BTreeSet<String> {
    outcome.checks.failures().map(|clause| clause.name.clone()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[derive(Deserialize)]
struct Manifest {
    trust_anchor: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    quote: String,
    collateral: String,
    now: i64,
    expect: String,
    tcb_status: Option<TcbStatus>,
    #[serde(default)]
    policy: CasePolicy,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CasePolicy {
    mrtd: Option<Vec<Hex<48>>>,
    report_data: Option<Hex<64>>,
}

/// The clauses that fail in each case that isn't accepted.
fn wanted(name: &str) -> BTreeSet<String> {
    set(match name {
        "policy_outofdate" | "neg_tcb_revoked" => &[clause::TCB_STATUS],
        "neg_no_level" | "tdx_real_v5_no_level" => &[clause::TCB_LEVEL],
        "neg_module_signer" => &[clause::MRSIGNERSEAM],
        "neg_debug" => &[clause::DEBUG],
        "neg_reserved_attr" => &[clause::RESERVED],
        "neg_service_td" => &[clause::MRSERVICETD],
        "neg_qe_signer" => &[clause::QE_MRSIGNER],
        "neg_qe_prodid" => &[clause::QE_PRODUCT],
        "neg_qe_below" => &[clause::QE_LEVEL],
        "neg_qe_report_other_pck" | "tdx_qe_report" => &[clause::QE_SIGNATURE],
        "neg_pck_revoked" => &[clause::PCK_REVOKED],
        "neg_pck_crl_expired" => &[clause::PCK_CRL_VALIDITY],
        "neg_pck_crl_forged" | "tdx_crl_sig" => &[clause::PCK_CRL_SIGNATURE],
        "neg_tcbinfo_expired" => &[clause::TCB_INFO_VALIDITY],
        "neg_qeid_expired" => &[clause::QE_IDENTITY_VALIDITY],
        "neg_tcbinfo_fmspc" | "tdx_tcbinfo_other_fmspc" => &[clause::TCB_FMSPC],
        "neg_pck_expired" => &[clause::PCK_VALIDITY],
        "neg_ecdsa_high_cert_type" => &[clause::PCK_CERTIFICATION_DATA],
        "neg_truncated" | "tdx_truncated" => &[clause::QUOTE_STRUCTURE],
        "neg_mrtd_flip" | "tdx_mrtd" | "tdx_report_data" | "tdx_td_attr_debug" | "tdx_isv_sig" => &[clause::SIGNATURE],
        "neg_mrtd_policy" => &[clause::MRTD],
        "neg_report_data" => &[clause::REPORT_DATA],
        "tdx_hdr_vendor" => &[clause::QUOTE_VENDOR],
        "tdx_tee_type_sgx" => &[clause::QUOTE_TEE_TYPE],
        "tdx_collateral_expired" => {
            &[clause::TCB_INFO_VALIDITY, clause::QE_IDENTITY_VALIDITY, clause::PCK_CRL_VALIDITY]
        }
        "tdx_tcbinfo_sig" => &[clause::TCB_INFO_SIGNATURE],
        "tdx_no_root_crl" => &[clause::ROOT_CRL_SIGNATURE],
        "tdx_real_debug" => &[clause::DEBUG, clause::TCB_STATUS],
        "tdx_real_azure_no_sept" => &[clause::SEPT_VE_DISABLE, clause::TCB_STATUS],
        other => panic!("what fails in {other}?"),
    })
}

fn check(case: &Case, folder: &str, anchors: &Anchors) {
    let name = &case.name;
    let mut policy = strict();
    if let Some(values) = &case.policy.mrtd {
        policy.mrtd = Requirement::AnyOf(values.clone());
    }
    if let Some(value) = case.policy.report_data {
        policy.report_data = Requirement::Exact(value);
    }
    let (quote, collateral) =
        (read(&format!("{folder}/{}", case.quote)), read(&format!("{folder}/{}", case.collateral)));
    let evidence = Evidence { quote: &quote, collateral: &collateral };
    let outcome = verify_and_appraise(&evidence, anchors, &policy, at(case.now));
    if case.tcb_status.is_some() {
        assert_eq!(outcome.tcb_status, case.tcb_status, "{name}");
    }
    match case.expect.as_str() {
        "accept" => assert!(outcome.checks.accepted(), "{name}: {:?}", failures(&outcome)),
        "reject" => assert_eq!(failures(&outcome), wanted(name), "{name}"),
        "policy" => {
            assert_eq!(failures(&outcome), wanted(name), "{name}");
            for failed in wanted(name) {
                assert!(policy.waive(&failed, "the case says so"), "{name}: {failed}");
            }
            let outcome = verify_and_appraise(&evidence, anchors, &policy, at(case.now));
            assert!(outcome.checks.accepted(), "{name}: {:?}", failures(&outcome));
        }
        other => panic!("{name} expects {other}"),
    }
}

#[test]
fn synthetic_cases_give_their_verdict_for_their_reason() {
    let manifest: Manifest = serde_json::from_slice(&read("synthetic-tdx/manifest.json")).unwrap();
    let anchors = Anchors::new([&*read(&format!("synthetic-tdx/{}", manifest.trust_anchor))]).unwrap();
    for case in &manifest.cases {
        check(case, "synthetic-tdx", &anchors);
    }
}

#[test]
fn mutations_of_real_evidence_give_their_verdict_for_their_reason() {
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&read("mutated-real/manifest.json")).unwrap();
    let ours: Vec<_> = cases.into_iter().filter(|case| case["kind"] == "tdx").collect();
    assert!(!ours.is_empty());
    for case in ours {
        check(&serde_json::from_value(case).unwrap(), "mutated-real", &Anchors::intel());
    }
}

#[test]
fn an_attackers_root_is_no_anchor_for_coming_with_the_evidence() {
    let (quote, collateral) = (read("synthetic-tdx/ok_v4/quote.bin"), read("synthetic-tdx/ok_v4/collateral.json"));
    let outcome = run(&quote, &collateral, &strict(), 1_795_132_800);
    let wanted = [clause::ROOT_CRL_SIGNATURE, clause::TCB_INFO_ISSUER, clause::QE_IDENTITY_ISSUER, clause::PCK_CHAIN];
    assert_eq!(failures(&outcome), set(&wanted));
    assert!(outcome.td.is_none());
    assert!(Anchors::new([]).is_err());
}

#[test]
fn with_two_anchors_either_may_be_the_one() {
    let test_root = read("synthetic-tdx/root_ca.der");
    let intel = read("dcap-qvl/TrustedRootCA.der");
    let anchors = Anchors::new([&*intel, &*test_root]).unwrap();
    for (quote, collateral, now) in [
        ("synthetic-tdx/ok_v4/quote.bin", "synthetic-tdx/ok_v4/collateral.json", 1_795_132_800),
        ("dcap-qvl/tdx_quote", "dcap-qvl/tdx_quote_collateral.json", JULY),
    ] {
        let (quote, collateral) = (read(quote), read(collateral));
        let evidence = Evidence { quote: &quote, collateral: &collateral };
        let outcome = verify_and_appraise(&evidence, &anchors, &strict(), at(now));
        assert!(outcome.checks.accepted(), "{:?}", failures(&outcome));
    }
}

#[test]
fn an_sgx_quote_is_none_of_a_trust_domain() {
    let outcome = run(&read("dcap-qvl/sgx_quote"), &read("dcap-qvl/sgx_quote_collateral.json"), &strict(), JULY);
    assert!(failures(&outcome).contains(clause::QUOTE_TEE_TYPE));
    assert!(Quote::parse(&read("dcap-qvl/sgx_quote")).is_err());
}

#[test]
fn genuine_quotes_parse_whatever_follows_them() {
    for (name, version, length) in [
        ("dcap-qvl/tdx_quote", 4, 4936),
        ("dcap-qvl/tdx_quote_outdated", 5, 5006),
        ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", 4, 4935),
        ("go-tdx-guest/ccel/cos-113-tdx-quote.dat", 4, 4935),
        ("trustee-tdx/tdx_quote_4.dat", 4, 4936),
        ("trustee-az-tdx/td-quote.bin", 4, 4936),
        ("teekit/tdx-v4-gcp-no-nonce.quote.bin", 4, 4935),
    ] {
        let bytes = read(name);
        let quote = Quote::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((quote.version, quote.length), (version, length), "{name}");
        let mut longest = bytes.clone();
        longest.resize(MAX_BYTES, 0);
        assert_eq!(Quote::parse(&longest).map(|quote| quote.length), Ok(length), "{name}");
        longest.push(0);
        assert_eq!(Quote::parse(&longest), Err(Error::Size(MAX_BYTES + 1)), "{name}");
    }
}

#[test]
fn a_platform_below_every_level_is_refused() {
    let quote = read("go-tdx-guest/tdx_prod_quote_SPR_E4.dat");
    let outcome = run(&quote, &read("go-tdx-guest/collateral_v4.json"), &strict(), 1_688_169_600);
    assert!(failures(&outcome).contains(clause::TCB_LEVEL), "{:?}", failures(&outcome));
    let text = read("dcap-qvl/tdx-quote.hex");
    let quote = hex::decode(text.trim_ascii().strip_prefix(b"0x").unwrap()).unwrap();
    let outcome = run(&quote, &read("tdx-composite/collateral_50806f000000_20251001.json"), &strict(), OCTOBER);
    assert_eq!(failures(&outcome), set(&[clause::TCB_FMSPC]));
}

#[test]
fn googles_trust_domain_is_accepted_with_its_nonce_only() {
    let quote = read("teekit/tdx-v4-gcp-no-nonce.quote.bin");
    let collateral = read("tdx-composite/collateral_00806f050000_20251001.json");
    let mut policy = strict();
    // SHA-512 of nothing: the attester was given no nonce.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, b"");
    let mut wanted: [u8; 64] = digest.as_ref().try_into().unwrap();
    policy.report_data = Requirement::Exact(Hex(wanted));
    assert!(run(&quote, &collateral, &policy, OCTOBER).checks.accepted());
    // Only the last byte differs: compared in full length.
    wanted[63] ^= 1;
    policy.report_data = Requirement::Exact(Hex(wanted));
    assert_eq!(failures(&run(&quote, &collateral, &policy, OCTOBER)), set(&[clause::REPORT_DATA]));
}

#[test]
fn azures_trust_domain_needs_azures_policy_and_its_status_accepted() {
    let quote = read("trustee-az-tdx/td-quote.bin");
    let collateral = read("tdx-composite/collateral_00806f050000_20251001.json");
    let mut policy = Policy::azure();
    for name in clause::REFERENCE {
        policy.waive(name, "test");
    }
    let outcome = run(&quote, &collateral, &policy, OCTOBER);
    assert_eq!(outcome.tcb_status, Some(TcbStatus::OutOfDate));
    assert_eq!(failures(&outcome), set(&[clause::TCB_STATUS]));
    policy.tcb_status = Requirement::AtLeast(TcbStatus::OutOfDate);
    assert!(run(&quote, &collateral, &policy, OCTOBER).checks.accepted());
}

#[test]
fn a_strict_policy_without_values_refuses_every_value() {
    let outcome =
        run(&read("dcap-qvl/tdx_quote"), &read("dcap-qvl/tdx_quote_collateral.json"), &Policy::strict(), JULY);
    let mut wanted = set(&[clause::MRTD, clause::REPORT_DATA]);
    wanted.extend(clause::RTMR.map(str::to_owned));
    assert_eq!(failures(&outcome), wanted);
}

#[test]
fn an_old_set_of_collateral_is_refused_by_its_number() {
    let (quote, collateral) = (read("dcap-qvl/tdx_quote"), read("dcap-qvl/tdx_quote_collateral.json"));
    let mut policy = strict();
    policy.evaluation_number = Requirement::AtLeast(18);
    assert_eq!(failures(&run(&quote, &collateral, &policy, JULY)), set(&[clause::TCB_EVALUATION_NUMBER]));
    policy.evaluation_number = Requirement::AtLeast(17);
    assert!(run(&quote, &collateral, &policy, JULY).checks.accepted());
}

#[test]
fn grace_ends_and_refused_advisories_outlive_an_accepted_status() {
    let root = read("synthetic-tdx/root_ca.der");
    let anchors = Anchors::new([&*root]).unwrap();
    let (quote, collateral) =
        (read("synthetic-tdx/policy_outofdate/quote.bin"), read("synthetic-tdx/policy_outofdate/collateral.json"));
    let evidence = Evidence { quote: &quote, collateral: &collateral };
    let judge = |policy: &Policy| failures(&verify_and_appraise(&evidence, &anchors, policy, at(1_795_132_800)));
    // The level is of 2024-03-13; the case's time is 982 days later.
    let mut policy = strict();
    policy.grace = SignedDuration::from_hours(24 * 981);
    assert_eq!(judge(&policy), set(&[clause::TCB_STATUS]));
    policy.grace = SignedDuration::from_hours(24 * 982);
    assert_eq!(judge(&policy), set(&[]));
    policy.refused_advisories = vec!["INTEL-SA-01099".into()];
    assert_eq!(judge(&policy), set(&[clause::TCB_ADVISORIES]));
}

#[test]
fn evidence_before_and_after_its_time_is_refused() {
    let (quote, collateral) = (read("dcap-qvl/tdx_quote"), read("dcap-qvl/tdx_quote_collateral.json"));
    for (now, wanted) in [
        (JULY - 30 * 86_400, vec![clause::TCB_INFO_VALIDITY, clause::QE_IDENTITY_VALIDITY]),
        (
            4_102_444_800,
            vec![
                clause::ROOT_VALIDITY,
                clause::ROOT_CRL_VALIDITY,
                clause::PCK_VALIDITY,
                clause::PCK_CRL_VALIDITY,
                clause::TCB_INFO_VALIDITY,
                clause::TCB_INFO_ISSUER_VALIDITY,
                clause::QE_IDENTITY_VALIDITY,
                clause::QE_IDENTITY_ISSUER_VALIDITY,
            ],
        ),
    ] {
        let outcome = run(&quote, &collateral, &strict(), now);
        let failed = failures(&outcome);
        assert!(wanted.iter().all(|name| failed.contains(*name)), "{now}: {failed:?}");
        assert!(outcome.td.is_none());
    }
}

/// Each member of the collateral, taken away or replaced by one of another platform, is missed.
#[test]
fn no_part_of_the_collateral_can_be_left_out() {
    let quote = read("dcap-qvl/tdx_quote");
    let whole: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&read("dcap-qvl/tdx_quote_collateral.json")).unwrap();
    for name in whole.keys() {
        let mut part = whole.clone();
        part.remove(name);
        let outcome = run(&quote, &serde_json::to_vec(&part).unwrap(), &strict(), JULY);
        assert!(!outcome.checks.accepted(), "{name}");
        part.insert(name.clone(), "".into());
        let outcome = run(&quote, &serde_json::to_vec(&part).unwrap(), &strict(), JULY);
        assert!(!outcome.checks.accepted(), "{name}");
    }
}

#[test]
fn the_signed_bytes_of_the_collateral_are_those_that_came() {
    let quote = read("dcap-qvl/tdx_quote");
    let mut collateral: serde_json::Value =
        serde_json::from_slice(&read("dcap-qvl/tdx_quote_collateral.json")).unwrap();
    for (member, name) in [("tcb_info", clause::TCB_INFO_SIGNATURE), ("qe_identity", clause::QE_IDENTITY_SIGNATURE)] {
        let genuine = collateral[member].clone();
        // The same JSON value in other bytes.
        collateral[member] = format!(" {}", genuine.as_str().unwrap()).into();
        let outcome = run(&quote, &serde_json::to_vec(&collateral).unwrap(), &strict(), JULY);
        assert_eq!(failures(&outcome), set(&[name]));
        collateral[member] = genuine;
    }
}

#[test]
fn a_pck_chain_may_come_with_the_collateral_instead() {
    let root = read("synthetic-tdx/root_ca.der");
    let anchors = Anchors::new([&*root]).unwrap();
    let quote = read("synthetic-tdx/neg_ecdsa_high_cert_type/quote.bin");
    let chain = String::from_utf8(Quote::parse(&quote).unwrap().certification_data.to_vec()).unwrap();
    let mut collateral: serde_json::Value =
        serde_json::from_slice(&read("synthetic-tdx/neg_ecdsa_high_cert_type/collateral.json")).unwrap();
    collateral["pck_certificate_chain"] = chain.into();
    let collateral = serde_json::to_vec(&collateral).unwrap();
    let evidence = Evidence { quote: &quote, collateral: &collateral };
    let outcome = verify_and_appraise(&evidence, &anchors, &strict(), at(1_795_132_800));
    assert!(outcome.checks.accepted(), "{:?}", failures(&outcome));
    // It needs the anchor as well.
    let outcome = run(&quote, &collateral, &strict(), 1_795_132_800);
    assert!(failures(&outcome).contains(clause::PCK_CHAIN));
}

/// Every genuine pair of quote and collateral that is accepted.
fn accepted() -> [(Vec<u8>, Vec<u8>, i64); 2] {
    [
        (read("dcap-qvl/tdx_quote"), read("dcap-qvl/tdx_quote_collateral.json"), JULY),
        (
            read("go-tdx-guest/ccel/cos-113-tdx-quote.dat"),
            read("tdx-composite/collateral_00806f050000_20251001.json"),
            OCTOBER,
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused_without_harm(
        quote in prop::collection::vec(any::<u8>(), 0..6000),
        collateral in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        prop_assert!(!run(&quote, &collateral, &strict(), JULY).checks.accepted());
    }

    #[test]
    fn any_change_of_the_collateral_is_refused_or_without_effect(place in 0..16_000_usize, value in any::<u8>()) {
        let (quote, mut collateral) = (read("dcap-qvl/tdx_quote"), read("dcap-qvl/tdx_quote_collateral.json"));
        let place = place % collateral.len();
        collateral[place] = value;
        let outcome = run(&quote, &collateral, &strict(), JULY);
        // What is accepted is what was accepted before: the same verdict about the same trust domain.
        if let Some(td) = outcome.td {
            let same = run(&quote, &read("dcap-qvl/tdx_quote_collateral.json"), &strict(), JULY).td.unwrap();
            prop_assert_eq!(td.get(), same.get());
        }
    }

    #[test]
    fn a_quote_gives_back_the_parts_it_was_made_of(
        version in 4..=5_u16,
        kind in 2..=4_u16,
        fill in any::<u8>(),
        auth in prop::collection::vec(any::<u8>(), 0..64),
        data in prop::collection::vec(any::<u8>(), 0..512),
        trailing in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let kind = if version == 4 { 2 } else { kind };
        let size = match kind { 2 => 584, 3 => 648, _ => 885_usize };
        let mut bytes = Vec::new();
        bytes.extend(version.to_le_bytes());
        bytes.extend([2, 0, 0x81, 0, 0, 0, 9, 9, 9, 9]);
        bytes.extend(hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap());
        bytes.extend([7; 20]);
        if version == 5 {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(u32::try_from(size).unwrap().to_le_bytes());
        }
        bytes.extend(std::iter::repeat_n(fill, size));
        let signed = bytes.clone();
        let mut inner = vec![3; 384 + 64];
        inner.extend(u16::try_from(auth.len()).unwrap().to_le_bytes());
        inner.extend(&auth);
        inner.extend([5, 0]);
        inner.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        inner.extend(&data);
        bytes.extend(u32::try_from(128 + 6 + inner.len()).unwrap().to_le_bytes());
        bytes.extend([[1; 64], [2; 64]].concat());
        bytes.extend([6, 0]);
        bytes.extend(u32::try_from(inner.len()).unwrap().to_le_bytes());
        bytes.extend(inner);
        let length = bytes.len();
        bytes.extend(trailing);
        let quote = Quote::parse(&bytes).unwrap();
        prop_assert_eq!(quote.signed, signed);
        prop_assert_eq!((quote.qe_auth_data, quote.certification_data, quote.length), (&*auth, &*data, length));
        prop_assert_eq!((quote.td.mrtd, quote.td.v1_5.is_some()), (Hex([fill; 48]), kind > 2));
        prop_assert_eq!(quote.td.v1_5.is_some_and(|v1_5| v1_5.extended.is_some()), kind == 4);
    }
}

#[test]
fn a_quote_says_what_collateral_it_needs() {
    let quote = read("dcap-qvl/tdx_quote");
    let hint = Hint::of(&Quote::parse(&quote).unwrap()).unwrap();
    assert_eq!(hint.platform.fmspc.to_string(), "b0c06f000000");
    let paths = hint.needs().map(|need| need.path);
    assert_eq!(paths[0], "/tdx/certification/v4/tcb?fmspc=b0c06f000000");
    assert_eq!(paths[2], "/sgx/certification/v4/pckcrl?ca=platform&encoding=der");
    let quote = read("synthetic-tdx/neg_ecdsa_high_cert_type/quote.bin");
    assert_eq!(Hint::of(&Quote::parse(&quote).unwrap()), Err(HintError::Kind(3)));
}

/// Intel's answers, cut into signed bytes and signature, are collateral: their signatures hold.
#[test]
fn intels_answers_become_collateral_without_changing_a_byte() {
    let whole: Collateral = Collateral::parse(&read("go-tdx-guest/collateral_v4.json")).unwrap();
    let tcb_info = String::from_utf8(read("go-tdx-guest/sample_tcbInfo_response")).unwrap();
    let identity = String::from_utf8(read("go-tdx-guest/sample_qeIdentity_response")).unwrap();
    assert_eq!(signed_part(&tcb_info, "tcbInfo"), Some((&*whole.tcb_info, &*whole.tcb_info_signature)));
    let cut = signed_part(&identity, "enclaveIdentity");
    assert_eq!(cut, Some((&*whole.qe_identity, &*whole.qe_identity_signature)));
    for wrong in ["", "{", "{}", "{\"tcbInfo\":{}}", "{\"tcbInfo\":{},\"signature\":\"", "[]"] {
        assert_eq!(signed_part(wrong, "tcbInfo"), None);
    }
}

fn cos_113() -> Outcome {
    let [_, (quote, collateral, now)] = accepted();
    run(&quote, &collateral, &strict(), now)
}

#[test]
fn a_genuine_log_explains_the_registers_of_its_trust_domain() {
    let td = cos_113().td.unwrap();
    let log = read("go-tdx-guest/ccel/ccel_data.dat");
    let mut checks = Checks::default();
    let ccel = ccel::check(&log, &td, &mut checks).unwrap();
    assert!(checks.accepted(), "{:?}", checks.failures().collect::<Vec<_>>());
    assert_eq!(ccel.replay(), td.get().report.rtmr);
    assert!((0..3).all(|rtmr| ccel.of(rtmr).count() > 0));
}

#[test]
fn a_log_of_another_boot_or_with_other_data_explains_nothing() {
    let td = cos_113().td.unwrap();
    let checked = |log: &[u8]| {
        let mut checks = Checks::default();
        ccel::check(log, &td, &mut checks);
        checks
    };
    let failed = |log: &[u8]| checked(log).failures().map(|clause| clause.name.clone()).collect::<BTreeSet<_>>();
    for other in ["trustee-tdx/CCEL_data_ovmf", "dstack/ccel.bin"] {
        let failed = failed(&read(other));
        assert!(clause::CCEL_RTMR[..2].iter().all(|name| failed.contains(*name)), "{other}: {failed:?}");
        assert!(!failed.contains(clause::CCEL_STRUCTURE), "{other}");
    }
    let genuine = read("go-tdx-guest/ccel/ccel_data.dat");
    assert_eq!(failed(&genuine[..5000]), set(&[clause::CCEL_STRUCTURE]));
    // Text that a digest is of, changed: the replay still holds, so only the data can tell.
    let text = b"Calling EFI Application from Boot Option";
    let place = genuine.windows(text.len()).position(|part| part == text).unwrap();
    let mut lying = genuine.clone();
    lying[place] ^= 1;
    assert_eq!(failed(&lying), set(&[clause::CCEL_DATA]));
    let told = |log: &[u8]| {
        let checks = checked(log);
        checks.clauses().iter().find(|found| found.name == clause::CCEL_DATA).and_then(|found| found.actual.clone())
    };
    assert_eq!(told(&genuine), None);
    assert!(told(&lying).is_some_and(|said| said.starts_with("event ") && !said.contains(',')));
}
