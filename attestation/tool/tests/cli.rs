//! The program as a user meets it: output, exit status, and what it says about input that it can't use.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod program;

use std::{collections::BTreeMap, fs};

use constellation_attestation::{
    platform::Platform,
    policy::{Hardware, MeasurementSet, TrustPolicy},
    reference::Requirement,
    tdx::{self, bytes::Hex},
};
use program::{complaint, run, vectors};
use serde_json::{Value, json};

/// Runs a command that prints JSON lines; gives them and the exit status.
fn lines(arguments: &[&str]) -> (Vec<Value>, i32) {
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output.status.code().unwrap())
}

fn manifest(cases: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(vectors()).unwrap();
    fs::write(file.path(), cases.to_string()).unwrap();
    file
}

fn event_log(name: &str, expect: &str) -> Value {
    json!({
        "name": name, "kind": "eventlog", "expect": expect,
        "log": format!("go-tpm-tools/eventlogs/{name}"), "pcrs": format!("go-tpm-tools/eventlogs/expected_pcrs.json#{name}"),
    })
}

#[test]
fn a_case_that_differs_from_its_manifest_is_exit_status_1() {
    let good = manifest(&json!([event_log("cos-101-amd-sev.bin", "accept")]));
    let (found, status) = lines(&["cases", good.path().to_str().unwrap()]);
    let wanted =
        json!({"name": "cos-101-amd-sev.bin", "verdict": "accept", "clauses": [], "expect": "accept", "ok": true});
    assert_eq!((found, status), (vec![wanted], 0));

    let other = manifest(&json!([event_log("cos-101-amd-sev.bin", "reject")]));
    let (found, status) = lines(&["cases", other.path().to_str().unwrap()]);
    assert_eq!((&found[0]["verdict"], &found[0]["ok"], status), (&json!("accept"), &json!(false), 1));
}

#[test]
fn a_manifest_that_can_not_be_used_is_exit_status_2_and_says_why() {
    let mut case = event_log("cos-101-amd-sev.bin", "accept");
    case["surprise"] = json!(1);
    for (cases, said) in [
        (json!([case]), "unknown field `surprise`"),
        (json!([event_log("absent.bin", "accept")]), "case absent.bin: reading"),
        (
            json!([{"name": "n", "kind": "eventlog", "expect": "accept", "pcrs": "a#b"}]),
            "case n: log: this kind needs it",
        ),
        (json!("text"), "isn't a manifest of cases"),
    ] {
        let file = manifest(&cases);
        let complaint = complaint(&["cases", file.path().to_str().unwrap()]);
        assert!(complaint.contains(said), "{complaint}");
    }
    assert!(complaint(&["cases", "absent.json"]).contains("reading absent.json failed: "));
    assert!(complaint(&["cases", "x", "--now", "soon"]).contains("--now"));
}

#[test]
fn an_event_log_is_explained_and_compared() {
    let log = "local-qemu-swtpm/base-ovmf2m/eventlog.bin";
    let (found, status) = lines(&["--output", "json", "explain-eventlog", log]);
    assert_eq!(status, 0);
    assert!(found[0]["events"].as_array().unwrap().len() > 10);
    assert!(found[0]["registers"]["4"].is_string());

    let text = String::from_utf8(run(&["explain-eventlog", log]).stdout).unwrap();
    assert!(text.contains("PCR  4 ") && text.contains("EV_EFI_BOOT_SERVICES_APPLICATION"), "{text}");

    let log = "go-tpm-tools/eventlogs/cos-101-amd-sev.bin";
    let pcrs = |name: &str| format!("go-tpm-tools/eventlogs/expected_pcrs.json#{name}");
    assert_eq!(run(&["explain-eventlog", log, "--pcrs", &pcrs("cos-101-amd-sev.bin")]).status.code(), Some(0));
    let other = run(&["explain-eventlog", log, "--pcrs", &pcrs("cos-93-amd-sev.bin")]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8(other.stdout).unwrap().ends_with("refused\n"));
    assert!(complaint(&["explain-eventlog", log, "--pcrs", &pcrs("none")]).contains("no such key"));
    assert!(complaint(&["explain-eventlog", "README.md"]).contains("README.md: "));
    for unreadable in ["README.md", "mutated-real/evlog_truncated/log.bin"] {
        let refused = run(&["explain-eventlog", unreadable, "--pcrs", &pcrs("cos-101-amd-sev.bin")]);
        assert_eq!(refused.status.code(), Some(1), "{unreadable}");
        let text = String::from_utf8(refused.stdout).unwrap();
        assert!(text.contains("FAILS  tpm.log.structure") && text.ends_with("refused\n"), "{text}");
    }
}

#[test]
fn an_image_is_predicted_and_anything_else_refused() {
    let image = "../tests/vectors/predict/small-uki.efi";
    let (found, status) = lines(&["--output", "json", "predict", image]);
    assert_eq!(status, 0);
    for register in ["4", "9", "11", "12", "13"] {
        assert_eq!(found[0]["pcrs"][register][0].as_str().unwrap().len(), 64);
    }
    assert!(complaint(&["predict", "README.md"]).contains("README.md: "));
}

#[test]
fn every_snp_case_has_its_verdict() {
    let (found, status) = lines(&["cases", "synthetic-snp/manifest.json"]);
    assert!(found.len() >= 34);
    assert_eq!(status, 0, "{found:#?}");
    let debug = found.iter().find(|line| line["name"] == "neg_debug").unwrap();
    assert_eq!(debug["clauses"], json!(["snp.policy.debug"]));
}

#[test]
fn every_mutation_of_real_evidence_has_the_verdict_of_its_manifest() {
    let (found, status) = lines(&["cases", "mutated-real/manifest.json"]);
    assert_eq!((found.len(), status), (36, 0), "{found:#?}");
    let clauses = |name: &str| {
        let case = found.iter().find(|case| case["name"] == name).unwrap();
        case["clauses"].as_array().unwrap().iter().map(|clause| clause.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (name, wanted) in [
        ("az_real_v1", &[] as &[&str]),
        ("az_vardata_userdata", &["snp.report_data"]),
        ("az_ak_modulus", &["snp.report_data"]),
        ("az_vardata_size_zero", &["azure.hcl.structure"]),
        ("az_quote_other_vm", &["tpm.signature", "tpm.quote.nonce"]),
        ("az_pcr4_replaced", &["tpm.quote.digest"]),
        ("az_vcek_other_chip", &["snp.vek.hwid", "snp.signature"]),
        ("az_wrong_nonce", &["tpm.quote.nonce"]),
        ("nitro_real", &[]),
        ("nitro_wrong_nonce", &["nitro.nonce"]),
        ("nitro_pcr4", &["nitro.signature"]),
        ("nitro_module_id", &["nitro.signature", "nitro.certificate.module"]),
        ("gcp_real_amd", &[]),
        ("gcp_pcr0_replaced", &["tpm.quote.digest"]),
        ("gcp_wrong_nonce", &["tpm.quote.nonce"]),
    ] {
        assert_eq!(clauses(name), wanted, "{name}");
    }
}

#[test]
fn other_genuine_evidence_of_clouds_is_accepted() {
    let good = manifest(&json!([
        {"name": "azure v0", "kind": "az-snp-vtpm", "expect": "accept", "evidence": "trustee-az-snp/evidence-v0.json"},
        {"name": "nitro with its quote", "kind": "nitrotpm", "expect": "accept", "now": 1_770_113_522,
         "evidence": "vaportpm/test-nitro-fixture.json", "root": "vaportpm/aws-nitro-root.pem"},
    ]));
    let (found, status) = lines(&["cases", good.path().to_str().unwrap()]);
    assert_eq!(status, 0, "{found:#?}");
}

#[test]
fn every_tdx_case_has_its_verdict() {
    let (found, status) = lines(&["cases", "synthetic-tdx/manifest.json"]);
    assert!(found.len() >= 25);
    assert_eq!(status, 0, "{found:#?}");
    let policy = found.iter().find(|line| line["expect"] == "policy").unwrap();
    assert_eq!((&policy["verdict"], &policy["clauses"]), (&json!("reject"), &json!(["tdx.tcb.status"])));
}

const TDX: [&str; 8] = [
    "--platform",
    "qemu-tdx",
    "--quote",
    "dcap-qvl/tdx_quote",
    "--collateral",
    "dcap-qvl/tdx_quote_collateral.json",
    "--now",
    "2025-07-01T00:00:00Z",
];

#[test]
fn genuine_evidence_is_verified_and_altered_or_stale_evidence_is_not() {
    let (found, status) = lines(&[&["--output", "json", "verify"][..], &TDX].concat());
    assert_eq!((&found[0]["accepted"], status), (&json!(true), 0), "{found:#?}");
    let mut altered = TDX;
    altered[3] = "mutated-real/tdx_mrtd/quote.bin";
    let text = String::from_utf8(run(&[&["verify"][..], &altered].concat()).stdout).unwrap();
    assert!(text.contains("FAILS  tdx.signature") && text.ends_with("refused\n"), "{text}");
    let mut digits = TDX;
    digits[3] = "dcap-qvl/tdx-quote.hex";
    let text = String::from_utf8(run(&[&["verify"][..], &digits].concat()).stdout).unwrap();
    assert!(text.contains("holds  tdx.quote.structure"), "{text}");
    let mut stale = TDX;
    stale[7] = "2027-01-01T00:00:00Z";
    assert_eq!(run(&[&["verify"][..], &stale].concat()).status.code(), Some(1));
    assert!(complaint(&["verify", "--platform", "qemu-tdx"]).contains("--quote: the platform needs it"));
    assert!(complaint(&["verify", "--platform", "sgx"]).contains("isn't a platform"));
}

/// A policy with one set that is exactly the genuine quote's machine, and what that quote attests to.
fn policy_of_the_genuine_quote(change: impl FnOnce(&mut tdx::Policy)) -> (tempfile::NamedTempFile, String) {
    let bytes = fs::read(vectors().join(TDX[3])).unwrap();
    let report = tdx::quote::Quote::parse(&bytes).unwrap().td;
    let mut wanted = tdx::Policy::strict();
    wanted.mrtd = Requirement::Exact(report.mrtd);
    for (name, value) in tdx::clause::RTMR.into_iter().zip(report.rtmr) {
        *wanted.measurement(name).unwrap() = Requirement::Exact(value);
    }
    for name in [tdx::clause::MRCONFIGID, tdx::clause::MROWNER, tdx::clause::MROWNERCONFIG] {
        wanted.waive(name, "the quote's machine has what its host gave it");
    }
    change(&mut wanted);
    let mut set = MeasurementSet::of_registers("tdx".into(), Platform::QemuTdx, BTreeMap::new());
    set.hardware = Some(Hardware::Tdx(Box::new(wanted)));
    let policy = TrustPolicy {
        cluster_uid: "c".into(),
        revision: 1,
        sets: vec![set],
        endorsement_roots: Vec::new(),
        place: None,
        reattestation_interval_seconds: None,
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(&file, &policy).unwrap();
    (file, report.report_data.to_string())
}

#[test]
fn evidence_is_accepted_by_its_own_set_and_nonce_and_by_no_other() {
    let appraise = |policy: &tempfile::NamedTempFile, nonce: &[&str]| {
        let path = policy.path().to_str().unwrap();
        lines(&[&["--output", "json", "appraise", "--policy", path][..], &TDX, nonce].concat())
    };
    let (policy, nonce) = policy_of_the_genuine_quote(|_| ());
    let (found, status) = appraise(&policy, &["--nonce", &nonce]);
    assert_eq!((&found[0]["accepted"], &found[0]["set"], status), (&json!(true), &json!("tdx"), 0), "{found:#?}");

    for other in [&["--nonce", &"11".repeat(64)][..], &[]] {
        let (found, status) = appraise(&policy, other);
        let failing = found[0]["clauses"].as_array().unwrap().iter().filter(|clause| clause["outcome"] == "fails");
        assert_eq!(
            (failing.map(|clause| &clause["name"]).collect::<Vec<_>>(), status),
            (vec![&json!("tdx.report_data")], 1)
        );
    }
    let (policy, nonce) = policy_of_the_genuine_quote(|wanted| wanted.mrtd = Requirement::Exact(Hex([1; 48])));
    assert_eq!(appraise(&policy, &["--nonce", &nonce]).1, 1);
}

#[test]
fn a_policy_that_leaves_the_launch_open_can_not_be_used() {
    let (policy, nonce) = policy_of_the_genuine_quote(|wanted| wanted.mrtd = Requirement::AnyOf(Vec::new()));
    let path = policy.path().to_str().unwrap();
    let said = complaint(&[&["appraise", "--policy", path, "--nonce", &nonce][..], &TDX].concat());
    assert!(said.contains("launch clause"), "{said}");
}

#[test]
fn a_genuine_report_of_a_guest_under_debug_is_refused() {
    let failing = |report: &str, vek: &str, intermediate: &str, now: &str| {
        let arguments = ["--output", "json", "verify", "--platform", "snp", "--report", report, "--vek", vek];
        let (found, status) = lines(&[&arguments[..], &["--intermediate", intermediate, "--now", now]].concat());
        let clauses = found[0]["clauses"].as_array().unwrap().clone();
        let failing = clauses.into_iter().filter(|clause| clause["outcome"] == "fails");
        (failing.map(|clause| clause["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), status)
    };
    let milan = "../src/snp/ask_milan.der";
    let good = failing("trustee-snp/test-report.bin", "trustee-snp/test-vcek.der", milan, "2025-07-01T00:00:00Z");
    assert_eq!(good, (vec![], 0));
    let debug = failing("go-sev-guest/attestation.bin", "go-sev-guest/vcek.testcer", milan, "2025-07-01T00:00:00Z");
    assert_eq!(debug, (vec!["snp.policy.debug".to_owned()], 1));
}
