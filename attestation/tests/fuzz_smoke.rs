//! The fuzz targets of this library on every build.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::path::{Path, PathBuf};

#[macro_use]
#[path = "../fuzz/smoke.rs"]
mod smoke;
#[path = "../fuzz/src/targets.rs"]
mod targets;

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

smoke!(
    azure_hcl,
    collateral,
    delivery,
    dsse,
    endorsement,
    gcp_certificate,
    gcp_endorsement,
    guest_ccel,
    guest_certificates,
    guest_nsm,
    guest_thim,
    guest_wire,
    nitro_document,
    pe,
    policy,
    protocol,
    snp_certificate,
    snp_crl,
    snp_firmware,
    snp_report,
    tdx_ccel,
    tdx_collateral,
    tdx_quote,
    told,
    tpm_attest,
    tpm_eventlog,
    tpm_public,
    tpm_signature,
    trusted_launch
);

#[test]
fn every_target_has_a_body_a_file_a_corpus_and_a_smoke_run() {
    smoke::is_whole(&package(), targets::TARGETS, SMOKED, include_str!("../fuzz/README.md"));
}
