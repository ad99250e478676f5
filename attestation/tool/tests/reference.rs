//! The reference page is what the sources say, and names every clause that a result holds.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use constellation_attest::{cases, reference};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_page_is_what_the_sources_say() {
    let page = fs::read_to_string(root().join(reference::PATH)).unwrap();
    assert!(page == reference::page(&root()).unwrap(), "run `make generate`");
}

#[test]
fn every_clause_that_fails_in_a_case_is_on_the_page() {
    let known: BTreeSet<String> = reference::clauses(&root().join("attestation/src"))
        .unwrap()
        .into_values()
        .flat_map(BTreeMap::into_keys)
        .collect();
    assert!(known.len() > 50);
    let mut seen = 0;
    for form in ["synthetic-snp", "synthetic-tdx"] {
        let manifest = root().join("attestation/vectors").join(form).join("manifest.json");
        for line in cases::run(&manifest, jiff::Timestamp::UNIX_EPOCH).unwrap().map(Result::unwrap) {
            for clause in line.clauses {
                let numbered = clause.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned() + "<n>";
                assert!(known.contains(&clause) || known.contains(&numbered), "{clause} of case {}", line.name);
                seen += 1;
            }
        }
    }
    assert!(seen > 45);
}
