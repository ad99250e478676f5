//! Genuine, mutated and synthetic SEV-SNP evidence gives the verdict, and exactly the failing clauses, that its
//! provenance says.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use constellation_attestation::{
    bytes::Hex,
    reference::Requirement,
    result::Checks,
    snp::{
        Anchors, Evidence, KeyKind, Policy, Product, Revocation, clause,
        parse::{self, Report},
        tcb::PerProduct,
        verify_and_appraise,
    },
    x509,
};
use proptest::prelude::*;
use serde::Deserialize;

mod mutate;

use mutate::Genuine;

/// A day inside all genuine certificates.
const TODAY: &str = "2026-11-20T00:00:00Z";

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The certificates of a file, DER or PEM, as DER.
fn certificates(name: &str) -> Vec<Vec<u8>> {
    let bytes = read(name);
    if bytes.starts_with(b"-----") { x509::from_pem(&bytes, 3).unwrap() } else { vec![bytes] }
}

/// The strict policy with every clause waived that only an owner can fill in.
fn waived() -> Policy {
    let mut policy = Policy::strict();
    for name in clause::REFERENCE {
        assert!(policy.waive(name, "the case has no value for it"));
    }
    policy
}

fn failures(checks: &Checks) -> BTreeSet<&str> {
    assert_eq!(checks.accepted(), checks.failures().next().is_none());
    checks.failures().map(|clause| clause.name.as_str()).collect()
}

/// Evidence as files' contents.
#[derive(Clone)]
struct Files {
    report: Vec<u8>,
    vek: Vec<u8>,
    intermediate: Vec<u8>,
    crl: Option<Vec<u8>>,
}

impl Files {
    fn run(&self, anchors: &Anchors, policy: &Policy, now: &str) -> Checks {
        let evidence = Evidence {
            report: &self.report,
            vek: &self.vek,
            intermediate: &self.intermediate,
            crl: self.crl.as_deref(),
        };
        verify_and_appraise(&evidence, anchors, policy, now.parse().unwrap())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    trust_anchors: BTreeMap<Product, PathBuf>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    report: String,
    vek: String,
    intermediate: String,
    #[serde(rename = "ark")]
    _ark: String,
    crl: Option<String>,
    now: String,
    policy: CasePolicy,
    expect: String,
    #[serde(rename = "reason")]
    _reason: String,
}

/// The policy of a case, as the manifest writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // the manifest's form
struct CasePolicy {
    measurement: Hex<48>,
    report_data: Hex<64>,
    host_data: Option<Hex<32>>,
    vmpl: u32,
    allow_debug: bool,
    allow_migration: bool,
    require_alias_check: bool,
    min_reported_tcb: BTreeMap<Product, constellation_attestation::snp::Tcb>,
    min_launch_tcb: Option<BTreeMap<Product, constellation_attestation::snp::Tcb>>,
    allow_provisional: bool,
    allow_vlek: bool,
    require_crl: bool,
    csp_ids: Option<Vec<String>>,
}

impl CasePolicy {
    fn policy(&self) -> Policy {
        let mut policy = waived();
        policy.measurement = Requirement::Exact(self.measurement);
        policy.report_data = Requirement::Exact(self.report_data);
        policy.vmpl = Requirement::Exact(self.vmpl);
        policy.reported_tcb = PerProduct::at_least(self.min_reported_tcb.clone());
        if let Some(floors) = self.min_launch_tcb.clone() {
            policy.launch_tcb = PerProduct::at_least(floors);
        }
        if let Some(wanted) = self.host_data {
            policy.host_data = Requirement::Exact(wanted);
        }
        if let Some(wanted) = self.csp_ids.clone() {
            policy.csp_id = Requirement::AnyOf(wanted);
        }
        let kinds = [KeyKind::Vcek, KeyKind::Vlek];
        policy.key = Requirement::AnyOf(kinds.into_iter().filter(|k| self.allow_vlek || *k == KeyKind::Vcek).collect());
        for (allowed, requirement) in [
            (self.allow_debug, &mut policy.debug),
            (self.allow_migration, &mut policy.migration),
            (self.allow_provisional, &mut policy.provisional),
        ] {
            *requirement = Requirement::AnyOf(if allowed { vec![false, true] } else { vec![false] });
        }
        if self.require_alias_check {
            policy.platform_alias_check = Requirement::Exact(true);
        }
        if self.require_crl {
            policy.revocation = Requirement::Exact(Revocation::Current);
        }
        policy
    }
}

/// The clauses that fail in each case that isn't accepted.
fn wanted(name: &str) -> BTreeSet<&'static str> {
    let clauses: &[&str] = match name {
        "neg_debug" => &[clause::POLICY_DEBUG],
        "neg_vmpl1" | "neg_vmpl3" => &[clause::VMPL],
        "neg_report_data" => &[clause::REPORT_DATA],
        "neg_measurement" => &[clause::MEASUREMENT],
        "neg_host_data" => &[clause::HOST_DATA],
        "neg_reported_tcb_below_min" => &[clause::TCB_REPORTED],
        "neg_hwid_mismatch" => &[clause::VEK_HWID],
        "neg_launch_tcb_below_min" => &[clause::TCB_LAUNCH],
        "neg_provisional" => &[clause::TCB_PROVISIONAL],
        "neg_no_alias_check" => &[clause::PLATFORM_ALIAS_CHECK],
        "neg_flag_vlek_cert_vcek" => &[clause::SIGNING_KEY],
        "neg_vlek_not_allowed" => &[clause::KEY_KIND],
        "neg_vlek_csp" => &[clause::CSP_ID],
        "neg_sig_algo" => &[clause::SIGNATURE_ALGORITHM],
        "neg_sig_zero" | "neg_sig_tamper" | "neg_body_tamper" => &[clause::SIGNATURE],
        "neg_truncated" | "neg_trailing" => &[clause::REPORT_STRUCTURE],
        "neg_report_id_ma" => &[clause::REPORT_ID_MA],
        "neg_ask_revoked" => &[clause::INTERMEDIATE_REVOKED],
        "neg_crl_expired" => &[clause::CRL],
        "neg_vcek_not_yet_valid" | "neg_vcek_expired" => &[clause::VEK_VALIDITY],
        "neg_product_mismatch" => &[clause::REPORT_PRODUCT],
        "neg_vcek_product_name" => &[clause::VEK_PRODUCT],
        "neg_cert_pkcs1" => &[clause::VEK_ISSUER],
        other => panic!("no clause is written down for {other}"),
    };
    clauses.iter().copied().collect()
}

fn manifest() -> (Anchors, BTreeMap<String, (Case, Files)>) {
    let manifest: Manifest = serde_json::from_slice(&read("synthetic-snp/manifest.json")).unwrap();
    let file = |name: &str| read(Path::new("synthetic-snp").join(name).to_str().unwrap());
    let certificate = |name: &str| certificates(&format!("synthetic-snp/{name}")).remove(0);
    let roots: Vec<_> =
        manifest.trust_anchors.iter().map(|(product, path)| (*product, certificate(path.to_str().unwrap()))).collect();
    let anchors = Anchors::new(roots.iter().map(|(product, der)| (*product, der.as_slice()))).unwrap();
    let cases = manifest.cases.into_iter().map(|case| {
        let files = Files {
            report: file(&case.report),
            vek: certificate(&case.vek),
            intermediate: certificate(&case.intermediate),
            crl: case.crl.as_deref().map(file),
        };
        (case.name.clone(), (case, files))
    });
    (anchors, cases.collect())
}

#[test]
fn every_synthetic_case_has_its_verdict_for_exactly_its_reason() {
    let (anchors, cases) = manifest();
    assert!(cases.len() >= 34);
    for (name, (case, files)) in &cases {
        let checks = files.run(&anchors, &case.policy.policy(), &case.now);
        let expected = if case.expect == "accept" { BTreeSet::new() } else { wanted(name) };
        assert_eq!(failures(&checks), expected, "{name}: {:#?}", checks.failures().collect::<Vec<_>>());
        assert!(!checks.clauses().is_empty());
    }
}

#[test]
fn a_chain_under_another_root_or_from_another_branch_is_refused() {
    let (anchors, cases) = manifest();
    let (case, good) = &cases["ok_milan_v3"];
    let (policy, now) = (case.policy.policy(), case.now.as_str());
    assert!(good.run(&anchors, &policy, now).accepted());
    // AMD's own roots don't know the test's.
    let unknown = good.run(&Anchors::amd(), &policy, now);
    assert_eq!(failures(&unknown), [clause::INTERMEDIATE_ISSUER].into());
    let said = &unknown.failures().next().unwrap().message;
    assert!(said.starts_with("issued by ") && said.contains("CN=ARK-Milan instead of "), "{said}");

    let with =
        |file: &str| Files { intermediate: certificates(&format!("synthetic-snp/{file}")).remove(0), ..good.clone() };
    for (file, clauses) in [
        ("evil_ask.pem", &[clause::INTERMEDIATE_ISSUER, clause::VEK_ISSUER][..]),
        ("nonca_ask.pem", &[clause::INTERMEDIATE_USAGE]),
        ("ask_genoa.pem", &[clause::VEK_ISSUER, clause::VEK_PRODUCT, clause::REPORT_PRODUCT, clause::CRL]),
        ("asvk_milan.pem", &[clause::VEK_ISSUER, clause::VEK_KIND]),
        ("ark_milan.pem", &[clause::INTERMEDIATE_NAME]),
    ] {
        let checks = with(file).run(&anchors, &policy, now);
        let found = failures(&checks);
        assert!(!found.is_empty() && found.iter().all(|name| clauses.contains(name)), "{file}: {found:?}");
    }
}

#[test]
fn a_list_of_revocations_must_be_the_roots_and_in_date_only_where_it_is_wanted() {
    let (anchors, cases) = manifest();
    let (case, good) = &cases["ok_milan_v3"];
    let with =
        |file: Option<&str>| Files { crl: file.map(|file| read(&format!("synthetic-snp/{file}"))), ..good.clone() };
    let strict = case.policy.policy();
    let mut lax = strict.clone();
    assert!(lax.waive(clause::CRL, "test"));
    for (file, wanted, waived) in [
        (Some("crl_milan_empty.der"), None, None),
        (Some("crl_milan_asvk_revoked.der"), None, None),
        (Some("crl_milan_ask_revoked.der"), Some(clause::INTERMEDIATE_REVOKED), Some(clause::INTERMEDIATE_REVOKED)),
        (Some("crl_milan_expired.der"), Some(clause::CRL), None),
        (Some("crl_milan_wrong_signer.der"), Some(clause::CRL), Some(clause::CRL)),
        (Some("crl_genoa_empty.der"), Some(clause::CRL), Some(clause::CRL)),
        (None, Some(clause::CRL), None),
    ] {
        for (policy, clause) in [(&strict, wanted), (&lax, waived)] {
            let checks = with(file).run(&anchors, policy, &case.now);
            assert_eq!(failures(&checks), clause.into_iter().collect(), "{file:?}");
        }
    }
}

/// Genuine evidence: folder and report, key's certificate, chain, the day to look at it.
fn genuine(name: &str) -> (Files, &'static str) {
    let (report, vek, chain, intermediate, day) = match name {
        "milan" => {
            ("trustee-snp/test-report.bin", "trustee-snp/test-vcek.der", "trustee-snp/milan_ask_ark_asvk.pem", 0, TODAY)
        }
        "debug" => {
            ("go-sev-guest/attestation.bin", "go-sev-guest/vcek.testcer", "go-sev-guest/ask_ark_milan.pem", 0, TODAY)
        }
        "azure" => ("trustee-az-snp/hcl-report.bin", "trustee-az-snp/vcek.pem", "trustee-az-snp/vcek.pem", 1, TODAY),
        // Version 5.
        "google" => ("teekit/sev-gcp.bin", "teekit/sev-gcp-vcek.pem", "teekit/sev-gcp-cert-chain.pem", 0, TODAY),
        other => panic!("{other}"),
    };
    let mut report = read(report);
    if name == "azure" {
        report = report[0x20..0x20 + parse::BYTES].to_vec();
    }
    let files = Files {
        report,
        vek: certificates(vek).remove(0),
        intermediate: certificates(chain).remove(intermediate),
        crl: None,
    };
    (files, day)
}

const GENUINE: [&str; 4] = ["milan", "debug", "azure", "google"];

#[test]
fn genuine_reports_hold_under_amds_roots_and_fail_only_what_a_strict_policy_wants_of_them() {
    let nothing_named = [
        clause::CRL,
        clause::TCB_REPORTED,
        clause::TCB_COMMITTED,
        clause::TCB_LAUNCH,
        clause::MEASUREMENT,
        clause::REPORT_DATA,
    ];
    for (name, own) in [
        ("milan", &[clause::TCB_PROVISIONAL, clause::PLATFORM_ALIAS_CHECK, clause::ID_KEY_DIGEST][..]),
        ("debug", &[clause::POLICY_DEBUG, clause::PLATFORM_ALIAS_CHECK]),
        ("azure", &[clause::TCB_PROVISIONAL, clause::PLATFORM_ALIAS_CHECK, clause::ID_KEY_DIGEST]),
    ] {
        let (files, now) = genuine(name);
        let checks = files.run(&Anchors::amd(), &waived(), now);
        assert!(checks.accepted(), "{name}: {:#?}", checks.failures().collect::<Vec<_>>());
        let checks = files.run(&Anchors::amd(), &Policy::strict(), now);
        let found: BTreeSet<_> = failures(&checks).into_iter().filter(|name| !nothing_named.contains(name)).collect();
        assert_eq!(found, own.iter().copied().collect(), "{name}");
    }
}

#[test]
fn the_key_of_another_processor_signs_nothing_here() {
    let (mut files, now) = genuine("milan");
    files.vek = read("trustee-snp/test-vcek-invalid-legacy.der");
    let checks = files.run(&Anchors::amd(), &waived(), now);
    assert_eq!(
        failures(&checks),
        [clause::VEK_ISSUER, clause::VEK_TCB, clause::VEK_HWID, clause::SIGNATURE].into(),
        "{:#?}",
        checks.failures().collect::<Vec<_>>()
    );
}

/// Everything in some DER that says how long something is.
fn der(bytes: &[u8]) -> Vec<mutate::Length> {
    mutate::der(bytes, 0)
}

#[test]
fn no_flipped_bit_and_no_truncation_of_genuine_evidence_is_accepted() {
    let (anchors, policy) = (Anchors::amd(), waived());
    for name in GENUINE {
        let (files, now) = genuine(name);
        let with = |change: &dyn Fn(&mut Files)| {
            let mut changed = files.clone();
            change(&mut changed);
            changed.run(&anchors, &policy, now).accepted()
        };
        Genuine::new(name, &files.report)
            .at_most(1184, 50)
            .is_the_only_one(|bytes| with(&|f| f.report = bytes.to_vec()));
        let Files { vek, intermediate, .. } = &files;
        let vek = Genuine::new(name, vek).lengths(der(vek)).at_most(300, 300);
        vek.is_the_only_one(|bytes| with(&|f| f.vek = bytes.to_vec()));
        let intermediate = Genuine::new(name, intermediate).lengths(der(intermediate)).at_most(150, 150);
        intermediate.is_the_only_one(|bytes| with(&|f| f.intermediate = bytes.to_vec()));
    }
}

#[test]
fn no_changed_list_of_revocations_is_one() {
    let (anchors, cases) = manifest();
    let (case, good) = &cases["ok_milan_v3"];
    let list = good.crl.clone().unwrap();
    let accepts = |bytes: &[u8]| {
        let files = Files { crl: Some(bytes.to_vec()), ..good.clone() };
        files.run(&anchors, &case.policy.policy(), &case.now).accepted()
    };
    Genuine::new("list", &list).lengths(der(&list)).at_most(1000, 1000).is_the_only_one(accepts);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_at_its_offset_is_read_as_its_member(
        version in 2u32..=5,
        policy: u64,
        vmpl: u32,
        report_data in prop::array::uniform32(any::<u8>()),
        chip in prop::array::uniform32(any::<u8>()),
        tcb: [u8; 8],
        mitigations: u64,
    ) {
        let mut bytes = vec![0; parse::BYTES];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &version.to_le_bytes());
        put(0x08, &policy.to_le_bytes());
        put(0x30, &vmpl.to_le_bytes());
        put(0x50, &report_data);
        put(0x180, &tcb);
        put(0x188, &[0x19, 0x01, 0x01]);
        put(0x1a0, &chip);
        put(0x1f0, &tcb);
        put(0x1f8, &mitigations.to_le_bytes());
        put(0x200, &(!mitigations).to_le_bytes());
        let report = Report::parse(&bytes).unwrap();
        prop_assert_eq!((report.version, report.policy, report.vmpl), (version, policy, vmpl));
        prop_assert_eq!(&report.report_data.0[..32], &report_data);
        prop_assert_eq!(&report.chip_id.0[..32], &chip);
        prop_assert_eq!((report.reported_tcb.0, report.launch_tcb.0), (tcb, tcb));
        prop_assert_eq!(report.cpuid.is_some(), version >= 3);
        let mitigated = [report.launch_mit_vector, report.current_mit_vector];
        prop_assert_eq!(mitigated, [mitigations, !mitigations].map(|bits| (version >= 5).then_some(bits)));
    }

    #[test]
    fn no_bytes_make_the_verifier_panic_or_accept(
        report in prop::collection::vec(any::<u8>(), 0..1300),
        vek in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (mut files, now) = genuine("milan");
        (files.report, files.vek) = (report, vek);
        prop_assert!(!files.run(&Anchors::amd(), &waived(), now).accepted());
    }
}

#[test]
fn a_report_of_an_unknown_version_is_refused() {
    for version in [0_u32, 1, 6, u32::MAX] {
        let mut bytes = vec![0; parse::BYTES];
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        assert_eq!(Report::parse(&bytes).unwrap_err().clause(), clause::REPORT_VERSION);
    }
}

#[test]
fn dates_are_those_of_the_given_time() {
    let (files, _) = genuine("milan");
    for (now, clause) in
        [("2022-01-01T00:00:00Z", clause::VEK_VALIDITY), ("2031-01-01T00:00:00Z", clause::VEK_VALIDITY)]
    {
        assert_eq!(failures(&files.run(&Anchors::amd(), &waived(), now)), [clause].into());
    }
}
