//! `docs/threats.md` names only tests that exist, and every attack on the real processes is on it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> String {
    fs::read_to_string(root().join("docs/threats.md")).unwrap()
}

/// Names of the tests in a source file: the functions whose attributes have a `test` among them.
fn tests(file: &str) -> Vec<String> {
    let source = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (mut names, mut marked) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if let Some((name, _)) =
            line.trim_start_matches("async ").strip_prefix("fn ").and_then(|f| f.split_once('('))
        {
            names.extend(marked.then(|| name.to_owned()));
            marked = false;
        }
    }
    names
}

#[test]
fn every_test_on_the_page_exists() {
    let page = page();
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|code| code.contains(".rs::")).collect();
    assert!(named.len() > 40);
    for code in named {
        let (file, name) = code.split_once("::").unwrap();
        assert!(tests(file).iter().any(|test| test == name), "{file} has no test {name}");
    }
}

#[test]
fn every_attack_is_on_the_page() {
    let page = page();
    let rooms = [
        "attacks",
        "bootstrapper",
        "clock",
        "deaths",
        "event_log",
        "files",
        "keys",
        "owner",
        "power",
        "refusals",
        "secrets",
    ];
    let files = rooms.map(|room| format!("tests/tests/join_process/{room}.rs"));
    for file in files.into_iter().chain(["tests/tests/renewal.rs".to_owned()]) {
        for name in tests(&file) {
            assert!(page.contains(&format!("`{file}::{name}`")), "docs/threats.md lacks {name}");
        }
    }
}
