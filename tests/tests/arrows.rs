//! Who may know whom: the arrows between crates, and rooms that only think.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Our packages, as cargo sees them.
fn packages() -> BTreeMap<String, Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), p.clone())).collect()
}

/// Dependencies outside tests; `all` counts the optional ones too.
fn dependencies(package: &Value, all: bool) -> BTreeSet<String> {
    let list = package["dependencies"].as_array().unwrap().iter();
    list.filter(|d| d["kind"].is_null() && (all || d["optional"] == false))
        .map(|d| d["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_word_of_conditions_and_events_is_said_somewhere() {
    let said = sources(&root().join("operator/src")).into_iter().map(|path| fs::read_to_string(path).unwrap());
    let said = said.collect::<String>();
    let source = fs::read_to_string(root().join("crds/src/condition.rs")).unwrap();
    let (kinds, reasons) = source.split_once("pub mod reason").unwrap();
    for (module, text) in [("kind", kinds), ("reason", reasons)] {
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": &str = "));
        let silent: Vec<_> = names.map(|(name, _)| format!("{module}::{name}")).filter(|n| !said.contains(n)).collect();
        assert!(silent.is_empty(), "nobody says {silent:?}");
    }
}

#[test]
fn crates_point_only_where_the_house_plan_says() {
    let allowed = BTreeMap::from([
        ("constellation-crds", vec![]),
        ("constellation-attestation", vec![]),
        ("constellation-attest", vec!["constellation-attestation", "constellation-image"]),
        ("constellation-model", vec!["constellation-attestation"]),
        ("constellation-verifier", vec!["constellation-attestation", "constellation-crds"]),
        ("constellation-cloud", vec![]),
        ("constellation-cloud-aws", vec!["constellation-cloud"]),
        ("constellation-cloud-azure", vec!["constellation-cloud"]),
        ("constellation-cloud-gcp", vec!["constellation-cloud"]),
        // For tests, and a dependency of nothing else: only of constellation-tests, and of the rooms' own.
        ("constellation-cloud-scripted", vec!["constellation-cloud"]),
        (
            "constellation-operator",
            vec![
                "constellation-attestation",
                "constellation-cloud",
                "constellation-cloud-aws",
                "constellation-cloud-azure",
                "constellation-cloud-gcp",
                "constellation-crds",
            ],
        ),
        ("constellation-bootstrapper", vec!["constellation-attestation"]),
        ("constellation-image", vec!["constellation-attestation"]),
    ]);
    let packages = packages();
    for (name, package) in &packages {
        if name == "constellation-tests" {
            continue;
        }
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the house plan"));
        for dependency in dependencies(package, true).iter().filter(|d| packages.contains_key(*d)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
    assert_eq!(packages.len(), allowed.len() + 1, "a crate of the house plan is missing");
}

#[test]
fn the_api_knows_no_client_and_attestation_by_itself_no_world() {
    let packages = packages();
    for word in ["tokio", "hyper", "constellation-attestation"] {
        assert!(!dependencies(&packages["constellation-crds"], true).contains(word), "crds must not know {word}");
    }
    let kube = packages["constellation-crds"]["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["name"] == "kube")
        .unwrap();
    assert_eq!(kube["uses_default_features"], false);
    assert!(!kube["features"].as_array().unwrap().iter().any(|f| f == "client" || f == "runtime"));
    let core = dependencies(&packages["constellation-attestation"], false);
    for word in ["tokio", "tokio-rustls", "rustls", "kube", "tss-esapi", "hyper", "k8s-openapi"] {
        assert!(!core.contains(word), "attestation without features must not know {word}");
    }
}

/// All `.rs` files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file: no comments, and nothing from its tests on.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Words of a room that does more than think.
const ACTS: [&str; 8] = ["async ", ".await", "Client", "::now()", "std::env", "rand::", "tokio::", "tracing::"];

#[test]
fn rooms_that_think_do_not_act() {
    let mut rooms = 0;
    for folder in ["operator/src", "attestation/verifier/src", "bootstrapper/src"] {
        for path in sources(&root().join(folder)) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !["plan.rs", "report.rs", "stage.rs", "admit.rs", "renewal.rs"].contains(&name) {
                continue;
            }
            rooms += 1;
            let code = code(&path);
            for word in ACTS {
                assert!(!code.contains(word), "{} contains {word:?}", path.display());
            }
        }
    }
    assert!(rooms > 1, "no room was looked at");
}

#[test]
fn attestation_without_features_neither_waits_nor_looks_at_the_clock() {
    let folder = root().join("attestation/src");
    for path in sources(&folder) {
        let room = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
        let behind_a_feature = ["channel", "collect", "session", "seats", "boot"].iter().any(|f| room.starts_with(f));
        if behind_a_feature || room.ends_with("tests.rs") {
            continue;
        }
        let code = code(&path);
        for word in ["async ", ".await", "::now()", "std::env", "tokio::", "std::net"] {
            assert!(!code.contains(word), "{room} contains {word:?}");
        }
    }
}

#[test]
fn clouds_do_not_know_each_other_nor_kubernetes() {
    let folder = root().join("operator/src/cloud");
    for path in sources(&folder) {
        let room = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
        let code = code(&path);
        if room.starts_with("local") {
            for word in ["kube::", "constellation_crds", "simulated"] {
                assert!(!code.contains(word), "{room} contains {word:?}");
            }
        }
        if room.starts_with("simulated") {
            assert!(!code.contains("cloud::local"), "{room} knows the local provider");
        }
    }
}

#[test]
fn the_operator_the_verifier_and_the_bootstrapper_do_not_know_each_other() {
    for (folder, strangers) in [
        ("operator/src", ["constellation_verifier", "constellation_bootstrapper"]),
        ("attestation/verifier/src", ["constellation_operator", "constellation_bootstrapper"]),
        ("bootstrapper/src", ["constellation_operator", "constellation_verifier"]),
    ] {
        for path in sources(&root().join(folder)) {
            let code = code(&path);
            for stranger in strangers {
                assert!(!code.contains(&format!("{stranger}::")), "{} knows {stranger}", path.display());
            }
        }
    }
}
