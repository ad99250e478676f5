//! Cases of the mixed form: what one names is looked at, or refused.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod program;

use std::fs;

use program::{complaint, lines, vectors};
use serde_json::{Value, json};

fn manifest(cases: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(vectors()).unwrap();
    fs::write(file.path(), cases.to_string()).unwrap();
    file
}

/// Runs one case of the mixed form; gives its verdict and the clauses that fail.
fn judged(case: &Value) -> (Value, Value) {
    let mut case = case.clone();
    case["name"] = json!("n");
    case["expect"] = json!("accept");
    let file = manifest(&json!([case]));
    let found = lines(&["cases", file.path().to_str().unwrap()]);
    (found[0]["verdict"].clone(), found[0]["clauses"].clone())
}

/// The case with one key more.
fn with(case: &Value, key: &str, value: &str) -> Value {
    let mut case = case.clone();
    case[key] = json!(value);
    case
}

#[test]
fn what_a_case_of_a_cloud_names_is_looked_at() {
    let gcp = json!({"kind": "gcp-vtpm", "evidence": "vaportpm/test-gcp-amd-fixture.json", "now": 1_770_200_000});
    let nitro = json!({"kind": "nitrotpm", "evidence": "vaportpm/test-nitro-fixture.json", "now": 1_770_113_522});
    let azure = json!({"kind": "az-snp-vtpm", "evidence": "trustee-az-snp/evidence-v1.json"});
    let cos = json!({"kind": "tdx", "quote": "go-tdx-guest/ccel/cos-113-tdx-quote.dat", "now": 1_759_276_800,
        "collateral": "tdx-composite/collateral_00806f050000_20251001.json"});
    let (root, forged) = ("../src/snp/ark_milan.der", "synthetic-snp/ark_milan.pem");
    for (case, key, good, bad, clause) in [
        (
            &gcp,
            "pcrs",
            "vaportpm/test-gcp-amd-fixture.json#pcrs",
            "go-tpm-tools/eventlogs/expected_pcrs.json#cos-101-amd-sev.bin",
            "tpm.pcr.",
        ),
        (
            &nitro,
            "pcrs",
            "vaportpm/test-nitro-fixture.json#pcrs",
            "go-tpm-tools/eventlogs/expected_pcrs.json#cos-101-amd-sev.bin",
            "tpm.pcr.",
        ),
        (&azure, "root", root, forged, "snp."),
        (&cos, "log", "go-tdx-guest/ccel/ccel_data.dat", "dstack/ccel.bin", "tdx.ccel.rtmr"),
    ] {
        assert_eq!(judged(&with(case, key, good)), (json!("accept"), json!([])), "{key}");
        let (verdict, clauses) = judged(&with(case, key, bad));
        let named = clauses.as_array().unwrap().iter().any(|name| name.as_str().unwrap().starts_with(clause));
        assert!(verdict == "reject" && named, "{key}: {clauses}");
    }
    let other = judged(&with(&gcp, "nonce", "00"));
    assert_eq!(other, (json!("reject"), json!(["tpm.quote.nonce"])), "a nonce is a nonce's clause");
}

#[test]
fn what_nothing_would_look_at_can_not_be_named() {
    for (kind, key) in [
        ("az-snp-vtpm", "collateral"),
        ("az-snp-vtpm", "document"),
        ("eventlog", "nonce"),
        ("eventlog", "root"),
        ("gcp-vtpm", "quote"),
        ("nitrotpm", "log"),
        ("tdx", "evidence"),
        ("tdx", "pcrs"),
    ] {
        let file = manifest(&json!([{"name": "n", "kind": kind, "expect": "reject", key: "README.md"}]));
        let said = complaint(&["cases", file.path().to_str().unwrap()]);
        assert!(said.contains(&format!("{key}: nothing looks at it")), "{kind} {key}: {said}");
    }
    let azure = json!({"name": "n", "kind": "az-snp-vtpm", "expect": "accept",
        "evidence": "trustee-az-snp/evidence-v1.json", "root": "synthetic-tdx/root_ca.der"});
    let file = manifest(&json!([azure]));
    assert!(complaint(&["cases", file.path().to_str().unwrap()]).contains("isn't a root of SEV-SNP"));
}
