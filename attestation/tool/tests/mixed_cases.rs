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
    let (gcp, nitro) = (gcp(), nitro());
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

/// Evidence of a file, altered, as the evidence of a case; gives the clauses that fail.
fn altered(case: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let file = vectors().join(case["evidence"].as_str().unwrap());
    let mut sent: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut sent);
    let other = manifest(&sent);
    let (_, clauses) = judged(&with(case, "evidence", other.path().to_str().unwrap()));
    clauses.as_array().unwrap().iter().map(|clause| clause.as_str().unwrap().to_owned()).collect()
}

fn gcp() -> Value {
    json!({"kind": "gcp-vtpm", "evidence": "vaportpm/test-gcp-amd-fixture.json", "now": 1_770_200_000})
}

fn nitro() -> Value {
    json!({"kind": "nitrotpm", "evidence": "vaportpm/test-nitro-fixture.json", "now": 1_770_113_522})
}

#[test]
fn what_is_wrong_with_a_quote_is_a_clause_of_the_quote() {
    type Change = fn(&mut Value);
    fn signed(sent: &mut Value) -> &mut Value {
        &mut sent["attestation"]["tpm"]["ecc_p256"]
    }
    fn attest(sent: &mut Value, change: impl FnOnce(&str) -> String) {
        let digits = signed(sent)["attest_data"].as_str().unwrap().to_owned();
        signed(sent)["attest_data"] = json!(change(&digits));
    }
    fn signature(sent: &mut Value, change: impl FnOnce(&str) -> String) {
        let digits = signed(sent)["signature"].as_str().unwrap().to_owned();
        signed(sent)["signature"] = json!(change(&digits));
    }
    fn bank(sent: &mut Value) -> &mut Value {
        sent["pcrs"].as_object_mut().unwrap().values_mut().next().unwrap()
    }
    let cases: [(Change, &[&str]); 17] = [
        (|_| (), &[]),
        (|sent| signature(sent, |_| "zz".to_owned()), &["tpm.signature"]),
        (|sent| signature(sent, |_| String::new()), &["tpm.signature"]),
        (|sent| signature(sent, |digits| format!("{digits}00")), &["tpm.signature"]),
        (|sent| drop(signed(sent).as_object_mut().unwrap().remove("signature")), &["tpm.signature"]),
        (|sent| attest(sent, |_| "zz".to_owned()), &["tpm.quote.structure"]),
        (|sent| attest(sent, |digits| digits[2..].to_owned()), &["tpm.signature", "tpm.quote.magic"]),
        (
            |sent| attest(sent, |digits| format!("{}17{}", &digits[..10], &digits[12..])),
            &["tpm.signature", "tpm.quote.type"],
        ),
        (|sent| attest(sent, |digits| format!("{digits}00")), &["tpm.signature", "tpm.quote.structure"]),
        (|sent| drop(sent.as_object_mut().unwrap().remove("pcrs")), &["tpm.quote.selection"]),
        (|sent| sent["pcrs"] = json!({"sha1": {"0": "00".repeat(20)}}), &["tpm.quote.selection"]),
        (|sent| bank(sent)["04"] = bank(sent)["4"].clone(), &["tpm.quote.selection"]),
        (|sent| bank(sent)["4"] = json!("zz"), &["tpm.quote.digest"]),
        (|sent| sent["nonce"] = json!("zz"), &["tpm.quote.nonce"]),
        (|sent| signature(sent, |_| "zz".to_owned()), &["tpm.signature"]),
        (
            |sent| {
                signature(sent, |_| "zz".to_owned());
                attest(sent, |digits| digits[2..].to_owned());
                bank(sent)["4"] = json!("zz");
            },
            &["tpm.quote.magic", "tpm.signature", "tpm.quote.digest"],
        ),
        (|sent| bank(sent)["4"] = json!("00"), &["tpm.quote.digest"]),
    ];
    for (change, wanted) in cases {
        assert_eq!(altered(&gcp(), change), wanted);
        let of_nitro: Vec<_> = altered(&nitro(), change);
        // A document also says what the registers are.
        assert_eq!(of_nitro.iter().filter(|name| *name != "nitro.quote.registers").collect::<Vec<_>>(), wanted);
    }
    assert_eq!(altered(&gcp(), |sent| *sent = json!([])), ["gcp.ak.structure"]);
    assert_eq!(altered(&nitro(), |sent| *sent = json!([])), ["nitro.structure"]);
    assert_eq!(altered(&gcp(), |sent| sent["attestation"]["gcp"] = json!(null)), ["gcp.ak.structure"]);
}

#[test]
fn what_is_wrong_with_an_azure_machine_is_named_where_it_is_wrong() {
    let azure = json!({"kind": "az-snp-vtpm", "evidence": "trustee-az-snp/evidence-v1.json"});
    let ask = fs::read(vectors().join("../src/snp/ask_milan.der")).unwrap();
    let ask = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ask);
    for (vcek, wanted) in [
        ("***", "snp.vek.structure"),
        ("", "snp.vek.structure"),
        ("MAA=", "snp.vek.structure"),
        (ask.as_str(), "snp.vek.kind"),
    ] {
        assert_eq!(altered(&azure, |sent| sent["vcek"] = json!(vcek)), [wanted], "{vcek}");
    }
    let quote = |key: &'static str, value: Value| altered(&azure, move |sent| sent["tpm_quote"][key] = value);
    assert_eq!(altered(&azure, |_| ()), [""; 0]);
    assert_eq!(quote("signature", json!("abc")), ["tpm.signature"]);
    assert_eq!(quote("message", json!("abc")), ["tpm.quote.structure"]);
    assert_eq!(quote("message", json!("")), ["tpm.signature", "tpm.quote.structure"]);
    assert_eq!(quote("pcrs", json!(["zz"])), ["tpm.quote.digest"]);
    assert!(quote("pcrs", json!([])).contains(&"tpm.quote.selection".to_owned()));
    assert_eq!(altered(&azure, |sent| sent["hcl_report"] = json!("***")), ["azure.hcl.structure"]);
    assert_eq!(altered(&azure, |sent| sent["version"] = json!(3)), ["azure.hcl.structure"]);
    let both = altered(&azure, |sent| {
        sent["vcek"] = json!("MAA=");
        sent["hcl_report"] = json!("MAA=");
    });
    assert_eq!(both, ["snp.vek.structure", "azure.hcl.structure"]);
}

#[test]
fn a_document_may_be_old() {
    for age in [0, 3600] {
        let mut case = nitro();
        case["now"] = json!(1_770_113_522 + age);
        assert_eq!(judged(&case).1, json!([]), "{age} seconds");
    }
}

#[test]
fn an_enclave_in_a_frame_is_still_an_enclave() {
    let framed = fs::read(vectors().join("dstack/nitro_attestation.bin")).unwrap();
    let clauses = |document: &[u8]| {
        let file = tempfile::NamedTempFile::new_in(vectors()).unwrap();
        fs::write(file.path(), document).unwrap();
        judged(&json!({"kind": "nitrotpm", "now": 1_766_668_560, "document": file.path()}))
    };
    let both = json!(["nitro.kind", "nitro.structure"]);
    assert_eq!(clauses(&framed), (json!("reject"), both.clone()));
    assert_eq!(clauses(&[&[0; 4], framed.as_slice()].concat()), (json!("reject"), both));
    assert_eq!(clauses(&[&[0; 5], framed.as_slice()].concat()).1, json!(["nitro.structure"]));
    assert_eq!(clauses(&[0, 2, 0xb9, 0x46]).1, json!(["nitro.structure"]));
}

#[test]
fn a_register_may_differ_by_policy_and_a_nonce_may_not() {
    let of = |case: &Value, change: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir_in(vectors()).unwrap();
        let evidence = fs::read(vectors().join(case["evidence"].as_str().unwrap())).unwrap();
        let mut pcrs = serde_json::from_slice::<Value>(&evidence).unwrap()["pcrs"].clone();
        change(&mut pcrs);
        let file = folder.path().join("pcrs.json");
        fs::write(&file, json!({"k": pcrs}).to_string()).unwrap();
        let mut case = with(case, "pcrs", &format!("{}#k", file.display()));
        case["name"] = json!("n");
        case["expect"] = json!("policy");
        let file = manifest(&json!([case]));
        let line = lines(&["cases", file.path().to_str().unwrap()])[0].clone();
        (line["clauses"].clone(), line["ok"].clone())
    };
    for (case, bank, bytes) in [(gcp(), "sha256", 32), (nitro(), "sha384", 48)] {
        let four = |pcrs: &mut Value| pcrs[bank]["4"] = json!("00".repeat(bytes));
        assert_eq!(of(&case, &|_| ()), (json!([]), json!(false)), "nothing differs");
        assert_eq!(of(&case, &four), (json!(["tpm.pcr.4"]), json!(true)));
        let (clauses, ok) = of(&with(&case, "nonce", "00"), &four);
        assert!(clauses.as_array().unwrap().contains(&json!("tpm.quote.nonce")) && ok == json!(false), "{clauses}");
    }
    let real = fs::read(vectors().join("mutated-real/manifest.json")).unwrap();
    let real: Value = serde_json::from_slice(&real).unwrap();
    let mut other = real.as_array().unwrap().iter().find(|case| case["name"] == "nitro_wrong_nonce").unwrap().clone();
    let document = format!("mutated-real/{}", other["document"].as_str().unwrap());
    other["document"] = json!(document);
    other["root"] = json!(format!("mutated-real/{}", other["root"].as_str().unwrap()));
    for (expect, ok) in [("reject", true), ("policy", false)] {
        other["expect"] = json!(expect);
        let file = manifest(&json!([other]));
        let line = lines(&["cases", file.path().to_str().unwrap()])[0].clone();
        assert_eq!((&line["clauses"], &line["ok"]), (&json!(["nitro.nonce"]), &json!(ok)), "{expect}");
    }
}

#[test]
fn every_bank_that_is_named_is_compared() {
    let name = "cos-101-amd-sev.bin";
    let all = fs::read(vectors().join("go-tpm-tools/eventlogs/expected_pcrs.json")).unwrap();
    let pcrs = serde_json::from_slice::<Value>(&all).unwrap()[name]["pcrs"].clone();
    let judge = |pcrs: &Value| {
        let file = manifest(&json!({"k": pcrs}));
        let reference = format!("{}#k", file.path().display());
        judged(&json!({"kind": "eventlog", "log": format!("go-tpm-tools/eventlogs/{name}"), "pcrs": reference}))
    };
    assert_eq!(judge(&pcrs).0, json!("accept"));
    let mut both = pcrs.clone();
    both["sha384"] = json!({"4": "00".repeat(48)});
    let (verdict, clauses) = judge(&both);
    assert!(verdict == "reject" && clauses.to_string().contains("tpm.log."), "{clauses}");

    let document = fs::read(vectors().join("vaportpm/test-nitro-fixture.json")).unwrap();
    let pcrs = serde_json::from_slice::<Value>(&document).unwrap()["pcrs"]["sha384"].clone();
    for (object, wanted) in [
        (json!({"sha256": {"4": "00".repeat(32)}, "sha384": pcrs}), json!([])),
        (pcrs.clone(), json!([])),
        (json!({"4": "00".repeat(48)}), json!(["tpm.pcr.4"])),
        (json!({"sha256": {"4": "00".repeat(32)}}), json!(["tpm.pcr.4"])),
    ] {
        let file = manifest(&json!({"k": object}));
        let (_, clauses) = judged(&with(&nitro(), "pcrs", &format!("{}#k", file.path().display())));
        assert_eq!(clauses, wanted);
    }
}
