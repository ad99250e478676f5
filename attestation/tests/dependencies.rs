//! What the library, the verifier and the node agent are built from: no C stack for TLS or TPMs, and for the library no
//! network, no runtime and no clock. What cargo would build says so, not a list of ours.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// C libraries that parse what a peer sends, and a second crypto provider.
const C_STACKS: [&str; 8] =
    ["openssl", "openssl-sys", "native-tls", "ring", "tss-esapi", "tss-esapi-sys", "curl-sys", "libgit2-sys"];
/// Crates that open connections or wait for something.
const WORLD: [&str; 16] = [
    "async-std",
    "curl",
    "h2",
    "hyper",
    "kube",
    "kube-client",
    "mio",
    "quinn",
    "reqwest",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tonic",
    "trust-dns-resolver",
    "ureq",
];
/// Ways to read a clock.
const CLOCKS: [&str; 3] = ["::now()", "SystemTime", "Instant"];
/// Rooms of the verifier that wait for somebody, or make a certificate that begins now (`home.rs`), and therefore look at the
/// clock; all others are told the time.
const VERIFIER_CLOCKS: [&str; 8] =
    ["home.rs", "join.rs", "reattest.rs", "record.rs", "refusals.rs", "silence.rs", "store.rs", "verifier.rs"];

/// Names of the crates that a package is built from, without those that only build it or test it.
fn built_from(package: &str, features: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn without(package: &str, features: &[&str], unwanted: &[&str]) {
    let crates = built_from(package, features);
    assert!(crates.contains(package) && crates.len() > 20, "{package}: {crates:?}");
    let found: Vec<_> = unwanted.iter().filter(|name| crates.contains(**name)).collect();
    assert!(found.is_empty(), "{package} {features:?} is built from {found:?}");
}

/// Source files below a folder with their code, without comments and tests.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().unwrap() != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
            found.push((path, lines.collect::<Vec<_>>().join("\n")));
        }
    }
    found
}

#[test]
fn the_library_is_built_without_a_c_stack_and_without_a_world() {
    without("constellation-attestation", &[], &C_STACKS);
    without("constellation-attestation", &[], &WORLD);
    without("constellation-attestation", &["--features", "channel"], &C_STACKS);
    without("constellation-attestation", &["--features", "collect"], &C_STACKS);
}

#[test]
fn the_verifier_and_the_node_agent_are_built_without_a_c_stack() {
    without("constellation-verifier", &[], &C_STACKS);
    without("constellation-bootstrapper", &[], &C_STACKS);
}

#[test]
fn a_crate_that_is_there_is_found() {
    assert!(built_from("constellation-attestation", &["--features", "channel"]).contains("tokio"));
    assert!(built_from("constellation-verifier", &[]).contains("tokio"));
}

#[test]
fn the_library_reads_no_clock_and_the_verifier_only_where_it_waits() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, code) in sources(&library) {
        // Attested TLS makes certificates whose validity begins now.
        let room = path.strip_prefix(&library).unwrap().to_str().unwrap();
        if room.starts_with("channel") || room.starts_with("collect") {
            continue;
        }
        for clock in CLOCKS {
            assert!(!code.contains(clock), "{room} contains {clock}");
        }
    }
    for (path, code) in sources(&library.join("../verifier/src")) {
        let room = path.file_name().unwrap().to_str().unwrap();
        let reads = CLOCKS.iter().any(|clock| code.contains(clock));
        assert!(!reads || VERIFIER_CLOCKS.contains(&room), "{} reads a clock", path.display());
    }
}
