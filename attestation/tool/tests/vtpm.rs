//! Quotes of software TPMs, from files as the vectors have them.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod program;

use std::{collections::BTreeMap, fs, path::Path};

use constellation_attestation::{
    platform::Platform,
    policy::{MeasurementSet, TrustPolicy},
};
use program::{complaint, run, vectors};
use serde_json::{Value, json};

/// `join-nonce-0001-swtpm-vector-set`.
const NONCE: &str = "6a6f696e2d6e6f6e63652d303030312d737774706d2d766563746f722d736574";
const NOW: &str = "2026-11-25T00:00:00Z";
const WAIVED: [&str; 4] = ["--waive", "tpm.ek.certificate", "--waive", "tpm.ak.credential"];

/// Runs a command on a quote; gives the names of the clauses with an outcome, and the exit status.
fn judged(command: &[&str], options: &[&str]) -> (BTreeMap<String, Vec<String>>, i32) {
    let arguments = [&["--output", "json"], command, &["--platform", "qemu-vtpm", "--now", NOW], options].concat();
    let output = run(&arguments);
    let status = output.status.code().unwrap();
    assert!(status < 2, "{}", String::from_utf8(output.stderr).unwrap());
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for clause in verdict["clauses"].as_array().unwrap() {
        let outcome = clause["outcome"].as_str().unwrap().to_owned();
        found.entry(outcome).or_default().push(clause["name"].as_str().unwrap().to_owned());
    }
    (found, status)
}

fn failing(options: &[&str]) -> Vec<String> {
    let (mut found, status) = judged(&["verify"], options);
    let failing = found.remove("fails").unwrap_or_default();
    assert_eq!(failing.is_empty(), status == 0, "{failing:?}");
    failing
}

/// Options for a folder of `qemu-swtpm`.
fn folder(name: &str) -> Vec<String> {
    let own = vectors().join("qemu-swtpm").join(name);
    let exists = |file: &str| own.join(file).exists();
    let ak = if exists("ak.tpm2b_public") {
        format!("qemu-swtpm/{name}/ak.tpm2b_public")
    } else {
        format!("qemu-swtpm/ak_{}.tpm2b_public", if name.contains("ecc") { "ecc" } else { "rsa" })
    };
    let values = if exists("pcrs.bin") { name } else { "good_rsa_sha256" };
    let file = |file: &str| format!("qemu-swtpm/{name}/{file}");
    [
        "--quote",
        &file("quote.msg"),
        "--signature",
        &file("quote.sig"),
        "--ak",
        &ak,
        "--pcrs",
        &format!("qemu-swtpm/{values}/pcrs.bin"),
        "--nonce",
        NONCE,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn strings(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

#[test]
fn every_recorded_quote_has_the_verdict_of_its_folder_for_its_reason() {
    let reasons = [
        ("neg_bad_magic", "tpm.quote.magic"),
        ("neg_certify_type", "tpm.quote.type"),
        ("neg_partial_selection", "tpm.quote.selection"),
        ("neg_sha1_bank", "tpm.quote.selection"),
        ("neg_wrong_nonce", "tpm.quote.nonce"),
    ];
    let mut seen = 0;
    for entry in fs::read_dir(vectors().join("qemu-swtpm")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !entry.file_type().unwrap().is_dir() {
            continue;
        }
        let options = folder(&name);
        let found = failing(&[strings(&options).as_slice(), &WAIVED].concat());
        match reasons.iter().find(|(bad, _)| *bad == name) {
            Some((_, clause)) => assert!(found.iter().any(|name| name == clause), "{name}: {found:?}"),
            None => assert!(name.starts_with("good_") && found.is_empty(), "{name}: {found:?}"),
        }
        seen += 1;
    }
    assert!(seen > reasons.len());
}

#[test]
fn nobody_is_believed_for_a_key_that_nobody_speaks_for() {
    let options = folder("good_rsa_sha256");
    let good = strings(&options);
    let ek = ["--ek", "qemu-swtpm/ek_rsa.tpm2b_public", "--ek-certificate", "qemu-swtpm/ek_rsa2048_cert.der"];
    let root = ["--root", "qemu-swtpm/ek_ca_issuer.pem"];
    let secret = "qemu-swtpm/cred_secret.bin";
    // What the TPM gave back, in a file of its own.
    let answer = tempfile::NamedTempFile::new().unwrap();
    fs::copy(vectors().join(secret), answer.path()).unwrap();
    let opened = ["--credential-secret", secret, "--activated", answer.path().to_str().unwrap()];
    let (certificate, credential) = ("tpm.ek.certificate", "tpm.ak.credential");
    for (more, wanted) in [
        (vec![], vec![certificate, credential]),
        ([&ek[..], &root, &opened].concat(), vec![]),
        ([&ek[..], &root].concat(), vec![credential]),
        ([&ek[..], &opened].concat(), vec![certificate]),
        ([&opened[..]].concat(), vec![certificate]),
        ([&ek[..], &["--root", "local-qemu-swtpm/base-ovmf2m/issuercert.pem"], &opened].concat(), vec![certificate]),
        ([&["--ek", "qemu-swtpm/ak_rsa.tpm2b_public"], &ek[2..], &root, &opened].concat(), vec![certificate]),
        ([&ek[..], &root, &opened[..3], &["qemu-swtpm/ak_rsa.name"]].concat(), vec![credential]),
    ] {
        assert_eq!(failing(&[good.as_slice(), more.as_slice()].concat()), wanted, "{more:?}");
    }
    let (found, status) = judged(&["verify"], &[good.as_slice(), &WAIVED].concat());
    assert!(found["waived"].starts_with(&[certificate.to_owned(), credential.to_owned()]) && status == 0, "{found:?}");
}

/// Options for a boot of `local-qemu-swtpm`, whose file has the values of registers 0 to 16 and 23.
fn boot(name: &str) -> Vec<String> {
    let file = |file: &str| format!("local-qemu-swtpm/{name}/{file}");
    let nonce = fs::read_to_string(vectors().join(file("nonce.hex"))).unwrap().trim().to_owned();
    let order = "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,23";
    [
        "--quote",
        &file("quote.msg"),
        "--signature",
        &file("quote.sig"),
        "--ak",
        &file("ak.pub"),
        "--pcrs",
        &file("pcrs.bin"),
        "--pcr-order",
        order,
        "--nonce",
        &nonce,
        "--log",
        &file("eventlog.bin"),
        "--ek",
        &file("ekrsa.pub"),
        "--ek-certificate",
        &file("nv-0x01c00002.bin"),
        "--root",
        &file("issuercert.pem"),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn recorded_boots_are_accepted_with_their_own_log_and_clock() {
    let credential = ["--waive", "tpm.ak.credential"];
    for name in ["base-ovmf2m", "cmdline-changed", "mem2048", "node-verity", "secureboot-snakeoil"] {
        let options = boot(name);
        assert_eq!(failing(&[strings(&options).as_slice(), &credential].concat()), [""; 0], "{name}");
    }
    let options = boot("base-ovmf2m");
    let good = [strings(&options).as_slice(), &credential].concat();
    let quote = "local-qemu-swtpm/base-ovmf2m/quote.msg";
    assert_eq!(failing(&[good.as_slice(), &["--earlier-quote", quote]].concat()), [""; 0]);
    let other = failing(&[good.as_slice(), &["--earlier-quote", "qemu-swtpm/good_ecc_sha256/quote.msg"]].concat());
    assert!(!other.is_empty() && other.iter().all(|name| name.starts_with("tpm.clock.")), "{other:?}");

    let replaced = |from: &str, to: &str| {
        let place = good.iter().position(|option| *option == from).unwrap() + 1;
        let mut changed = good.clone();
        changed[place] = to;
        failing(&changed)
    };
    assert_eq!(replaced("--log", "local-qemu-swtpm/mem2048/eventlog.bin"), ["tpm.log.replay.0"]);
    assert!(replaced("--pcrs", "local-qemu-swtpm/cmdline-changed/pcrs.bin").contains(&"tpm.quote.digest".to_owned()));
    assert!(replaced("--ak", "local-qemu-swtpm/mem2048/ak.pub").contains(&"tpm.signature".to_owned()));
    assert!(replaced("--ak", "local-qemu-swtpm/base-ovmf2m/ekrsa.pub").contains(&"tpm.ak.attributes".to_owned()));
    assert_eq!(replaced("--nonce", "00"), ["tpm.quote.nonce"]);
}

#[test]
fn a_public_area_is_read_with_and_without_its_size_and_values_by_name() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(place.path().join(name), bytes).unwrap();
        place.path().join(name).to_str().unwrap().to_owned()
    };
    let sized = fs::read(vectors().join("qemu-swtpm/ak_ecc.tpm2b_public")).unwrap();
    let values = fs::read(vectors().join("qemu-swtpm/good_ecc_sha256/pcrs.bin")).unwrap();
    let named: BTreeMap<String, String> =
        values.chunks(32).zip(0..).map(|(value, pcr): (_, u8)| (pcr.to_string(), hex::encode(value))).collect();
    let mut short = named.clone();
    short.remove("15");
    let (area, cut) = (write("area", &sized[2..]), write("cut", &sized[..sized.len() - 1]));
    let all = write("pcrs.json", json!({"all": named, "short": short}).to_string().as_bytes());
    let with = |ak: &str, pcrs: &str| {
        let mut options = folder("good_ecc_sha256");
        (options[5], options[7]) = (ak.to_owned(), pcrs.to_owned());
        failing(&[strings(&options).as_slice(), &WAIVED].concat())
    };
    assert_eq!(with(&area, &format!("{all}#all")), [""; 0]);
    assert_eq!(with(&cut, &format!("{all}#all")), ["tpm.ak.attributes"]);
    assert_eq!(with(&area, &format!("{all}#short")), ["tpm.quote.digest"]);
}

/// A policy with one set: the registers of a recorded boot that a set must name.
fn policy(folder: &Path, values: &[u8], change: impl FnOnce(&mut BTreeMap<u8, Vec<String>>)) -> String {
    let value = |pcr: u8| (pcr, vec![hex::encode(&values[usize::from(pcr) * 32..][..32])]);
    let mut pcrs: BTreeMap<_, _> = [4, 9, 11, 12, 13].map(value).into();
    change(&mut pcrs);
    let root = fs::read_to_string(vectors().join("local-qemu-swtpm/base-ovmf2m/issuercert.pem")).unwrap();
    let policy = TrustPolicy {
        cluster_uid: "c".into(),
        revision: 1,
        sets: vec![MeasurementSet::of_registers("base".into(), Platform::QemuVtpm, pcrs)],
        endorsement_roots: vec![root],
        place: None,
        reattestation_interval_seconds: None,
    };
    let file = folder.join("policy.json");
    fs::write(&file, serde_json::to_vec(&policy).unwrap()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_boot_is_appraised_by_a_set_and_by_its_launch_register() {
    let folder = tempfile::tempdir().unwrap();
    let values = fs::read(vectors().join("local-qemu-swtpm/base-ovmf2m/pcrs.bin")).unwrap();
    let mut options = boot("base-ovmf2m");
    options.truncate(options.len() - 2);
    options.extend(["--waive".to_owned(), "tpm.ak.credential".to_owned()]);
    let launch = hex::encode(&values[15 * 32..][..32]);
    let failing = |policy: &str, more: &[&str], options: &[String]| {
        judged(&["appraise", "--policy", policy], &[strings(options).as_slice(), more].concat())
            .0
            .remove("fails")
            .unwrap_or_default()
    };
    let good = policy(folder.path(), &values, |_| ());
    assert_eq!(failing(&good, &["--launch-register", &launch], &options), [""; 0], "the policy's CA");
    assert_eq!(failing(&good, &["--waive", "tpm.pcr.15"], &options), [""; 0]);
    assert_eq!(failing(&good, &[], &options), ["tpm.pcr.15"]);
    assert_eq!(failing(&good, &["--launch-register", &"11".repeat(32)], &options), ["tpm.pcr.15"]);
    let nonce = options.iter().position(|option| option == "--nonce").unwrap();
    let mut stale = options.clone();
    stale.drain(nonce..nonce + 2);
    assert_eq!(failing(&good, &["--launch-register", &launch], &stale), ["tpm.quote.nonce"]);
    let other = policy(folder.path(), &values, |pcrs| drop(pcrs.insert(4, vec!["00".repeat(32)])));
    assert_eq!(failing(&other, &["--launch-register", &launch], &options), ["tpm.pcr.4"]);
}

#[test]
fn an_option_of_another_platform_is_refused() {
    for (platform, option) in [
        ("qemu-tdx", "--ak"),
        ("qemu-tdx", "--report"),
        ("snp", "--quote"),
        ("snp", "--activated"),
        ("qemu-vtpm", "--collateral"),
        ("qemu-vtpm", "--vek"),
    ] {
        let said = complaint(&["verify", "--platform", platform, option, "README.md"]);
        assert!(said.contains(&format!("{option}: nothing looks at it")), "{said}");
    }
    assert!(complaint(&["verify", "--platform", "qemu-vtpm"]).contains("--pcrs: the platform needs it"));
    let options = [folder("good_rsa_sha256"), WAIVED.map(str::to_owned).to_vec()].concat();
    for option in ["--ek", "--root", "--activated"] {
        let all = [&["verify", "--platform", "qemu-vtpm", option, "README.md"], strings(&options).as_slice()].concat();
        assert!(complaint(&all).contains(&format!("{option}: its clause is waived")), "{option}");
    }
    let unknown = complaint(&["verify", "--platform", "qemu-vtpm", "--waive", "tpm.signature"]);
    assert!(unknown.contains("tpm.signature"), "{unknown}");
}
