//! The fuzz targets of the programs on every build.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::path::{Path, PathBuf};

#[macro_use]
#[path = "../../attestation/fuzz/smoke.rs"]
mod smoke;
#[path = "../fuzz/src/targets.rs"]
mod targets;

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

smoke!(
    channel_frame,
    channel_leaf,
    console,
    csr,
    header,
    hint,
    issuer,
    kubeconfig,
    mesh,
    monitor,
    renewal,
    sev_guest,
    tsm
);

#[test]
fn every_target_has_a_body_a_file_a_corpus_and_a_smoke_run() {
    smoke::is_whole(&package(), targets::TARGETS, SMOKED, include_str!("../../attestation/fuzz/README.md"));
}
