//! `docs/trust.md` speaks of every platform and names only tests that exist.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{fs, path::PathBuf};

use constellation_attestation::platform::Platform;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    fs::read_to_string(root().join("docs/trust.md")).unwrap()
}

/// Tests named in a text, as file and function.
fn tests(text: &str) -> Vec<(&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::").map(|_| code)).map(split).collect()
}

fn split(code: &str) -> (&str, &str) {
    code.split_once("::").unwrap()
}

#[test]
fn every_test_on_the_page_exists() {
    let page = page();
    let named = tests(&page);
    assert!(named.len() > 30);
    for (file, function) in named {
        let source = fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(&format!("fn {function}(")), "{file} has no test {function}");
    }
}

#[test]
fn every_platform_is_on_the_page() {
    let page = page();
    let headings: Vec<_> = page.lines().filter(|line| line.starts_with("### ")).collect();
    for platform in Platform::ALL {
        let name = format!("`{platform}`");
        assert!(headings.iter().any(|line| line.contains(&name)), "{platform}");
    }
}

#[test]
fn each_of_the_fifteen_defects_has_a_test_or_is_said_to_be_open() {
    let page = page();
    for number in 1..=15 {
        let start = format!("| {number} | ");
        let row = page.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no defect {number}"));
        assert!(!tests(row).is_empty() || row.contains("| open"), "{row}");
    }
}
