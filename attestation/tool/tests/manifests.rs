//! Manifests that can't be used as a whole, or in part.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod program;

use std::fs;

use program::{complaint, run, vectors};
use serde_json::{Value, json};

/// Runs a manifest; gives its lines, what it says, and the exit status.
fn cases(manifest: &Value) -> (Vec<Value>, String, i32) {
    let file = tempfile::NamedTempFile::new_in(vectors()).unwrap();
    fs::write(file.path(), manifest.to_string()).unwrap();
    let output = run(&["cases", file.path().to_str().unwrap()]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
}

fn log(name: &str) -> Value {
    json!({"name": name, "kind": "eventlog", "expect": "accept", "log": "go-tpm-tools/eventlogs/cos-101-amd-sev.bin",
        "pcrs": "go-tpm-tools/eventlogs/expected_pcrs.json#cos-101-amd-sev.bin"})
}

fn with(case: &Value, key: &str, value: Value) -> Value {
    let mut case = case.clone();
    case[key] = value;
    case
}

/// A synthetic TDX case that is accepted, as the only one of a manifest.
fn tdx(change: impl FnOnce(&mut Value)) -> Value {
    let all = fs::read(vectors().join("synthetic-tdx/manifest.json")).unwrap();
    let mut all: Value = serde_json::from_slice(&all).unwrap();
    let good = all["cases"].as_array().unwrap().iter().find(|case| case["expect"] == "accept").unwrap();
    let mut good = good.clone();
    for key in ["quote", "collateral"] {
        good[key] = json!(format!("synthetic-tdx/{}", good[key].as_str().unwrap()));
    }
    change(&mut good);
    all["trust_anchor"] = json!(format!("synthetic-tdx/{}", all["trust_anchor"].as_str().unwrap()));
    all["cases"] = json!([good]);
    all
}

#[test]
fn a_case_that_can_not_be_used_is_named_and_takes_no_other_case_with_it() {
    let manifest = json!([
        log("first"),
        with(&log("no file"), "log", json!("absent.bin")),
        with(&log("no key"), "pcrs", json!("go-tpm-tools/eventlogs/expected_pcrs.json#absent")),
        with(&log("stray"), "nonce", json!("00")),
        with(&log("unknown"), "surprise", json!(1)),
        ["nameless"],
        with(&log("differs"), "expect", json!("reject")),
        with(&log("not hex"), "kind", json!("tdx")),
        log("last"),
    ]);
    let (lines, said, status) = cases(&manifest);
    let names: Vec<_> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!((names.as_slice(), status), (&["first", "differs", "last"][..], 2), "{said}");
    for (name, why) in [
        ("no file", "reading"),
        ("no key", "no such key"),
        ("stray", "nonce: nothing looks at it"),
        ("unknown", "surprise"),
        ("number 6", "expected an object"),
        ("not hex", "pcrs: nothing looks at it"),
    ] {
        let line = said.lines().find(|line| line.starts_with(&format!("error: case {name}: ")));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {said}");
    }
    assert!(said.trim_end().ends_with("cases that can't be used: 6"), "{said}");

    let (lines, said, status) = cases(&json!([log("good"), with(&log("differs"), "expect", json!("reject"))]));
    assert_eq!((lines.len(), said.as_str(), status), (2, "", 1));
}

#[test]
fn a_manifest_without_cases_judges_nothing() {
    let anchor = json!("synthetic-tdx/root_ca.der");
    for none in [json!([]), json!({"trust_anchor": anchor, "cases": []})] {
        let (lines, said, status) = cases(&none);
        assert!((lines.len(), status) == (0, 2) && said.contains("there is no case in it"), "{said}");
    }
}

#[test]
fn null_waives_nothing_and_a_list_is_no_policy() {
    let (lines, said, status) = cases(&tdx(|_| ()));
    assert_eq!((lines.len(), status), (1, 0), "{said}");
    assert_eq!(cases(&tdx(|case| drop(case.as_object_mut().unwrap().remove("policy")))).2, 0);
    for policy in [json!([]), json!(null), json!([["00"]]), json!({"mrtd": null}), json!({"report_data": null})] {
        let (lines, said, status) = cases(&tdx(|case| case["policy"] = policy.clone()));
        assert!((lines.len(), status) == (0, 2) && said.contains("error: case "), "{policy}: {said}");
    }
}

#[test]
fn collateral_is_an_object_and_no_list_of_its_members() {
    let folder = tempfile::tempdir_in(vectors()).unwrap();
    let file = folder.path().join("collateral.json");
    let members = [
        "pck_crl_issuer_chain",
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
        "qe_identity_issuer_chain",
        "qe_identity",
        "qe_identity_signature",
        "pck_certificate_chain",
    ];
    let judged = |shape: &dyn Fn(&Value) -> Value| {
        let manifest = tdx(|case| {
            let good = fs::read(vectors().join(case["collateral"].as_str().unwrap())).unwrap();
            fs::write(&file, shape(&serde_json::from_slice(&good).unwrap()).to_string()).unwrap();
            case["collateral"] = json!(file.to_str().unwrap());
            case["tcb_status"] = json!(null);
        });
        cases(&manifest).0[0]["clauses"].clone()
    };
    assert_eq!(judged(&Value::clone), json!([]));
    let list = |good: &Value| Value::Array(members.iter().map(|member| good[member].clone()).collect());
    for shape in [&list as &dyn Fn(&Value) -> Value, &|_| json!([]), &|_| json!(null)] {
        assert_eq!(judged(shape), json!(["tdx.collateral.structure"]));
    }
}

#[test]
fn what_is_no_manifest_at_all_is_refused_at_once() {
    for wrong in [json!("text"), json!({}), json!({"trust_anchor": "a", "cases": {}}), json!({"cases": []})] {
        let (lines, said, status) = cases(&wrong);
        assert!((lines.len(), status) == (0, 2) && said.contains("isn't a manifest of cases"), "{said}");
    }
    let mut surprise = tdx(|_| ());
    surprise["surprise"] = json!(1);
    assert!(cases(&surprise).1.contains("surprise"));
    assert!(complaint(&["cases", "absent.json"]).contains("reading absent.json failed: "));
}
