//! The program as a user meets it: output, exit status, and what it says about input that it can't use.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_constellation-attest")).args(arguments).current_dir(vectors()).output().unwrap()
}

/// Runs a command that prints JSON lines; gives them and the exit status.
fn lines(arguments: &[&str]) -> (Vec<Value>, i32) {
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), output.status.code().unwrap())
}

/// What a command says when its input can't be used.
fn complaint(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
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
fn every_tdx_case_has_its_verdict() {
    let (found, status) = lines(&["cases", "synthetic-tdx/manifest.json"]);
    assert!(found.len() >= 25);
    assert_eq!(status, 0, "{found:#?}");
    let policy = found.iter().find(|line| line["expect"] == "policy").unwrap();
    assert_eq!((&policy["verdict"], &policy["clauses"]), (&json!("reject"), &json!(["tdx.tcb.status"])));
}
