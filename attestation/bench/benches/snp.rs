//! How long it takes to verify an SEV-SNP report with its certificates, all as bytes: ours with appraisal, and virtee's `sev`
//! (signatures alone) in the same run; then what clouds make of it: AWS's signed document of a `NitroTPM`, Azure's report
//! of a paravisor, the certificates of a key at Google Cloud. And a launch digest from firmware.
//!
//! Goal on one core: 1 ms for a report with its chain.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use constellation_attestation::{azure, gcp, nitro, result::Checks, snp, tdx};
use criterion::Criterion;
use jiff::Timestamp;
use sev::{
    certs::snp::{Chain, Verifiable as _},
    firmware::guest::AttestationReport,
    parser::ByteParser as _,
};

const REPORT: &[u8] = include_bytes!("../../fuzz/corpus/snp_report/milan");
const VCEK: &[u8] = include_bytes!("../../fuzz/corpus/snp_certificate/vcek");
const ASK: &[u8] = include_bytes!("../../fuzz/corpus/snp.ask.der");
const ARK: &[u8] = include_bytes!("../../src/snp/ark_milan.der");

fn policy() -> snp::Policy {
    let mut policy = snp::Policy::strict();
    for name in snp::clause::REFERENCE {
        policy.waive(name, "a benchmark");
    }
    policy
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    // September 2026.
    let now = Timestamp::from_second(1_790_000_000).unwrap();
    let (anchors, policy) = (snp::Anchors::amd(), policy());

    let mut group = criterion.benchmark_group("snp");
    let evidence = snp::Evidence { report: REPORT, vek: VCEK, intermediate: ASK, crl: None };
    assert!(snp::verify_and_appraise(&evidence, &anchors, &policy, now).accepted());
    group.bench_function("verify and appraise", |bench| {
        bench.iter(|| snp::verify_and_appraise(black_box(&evidence), &anchors, &policy, now));
    });
    group.bench_function("sev verify", |bench| {
        bench.iter(|| {
            let chain = Chain::from_der(black_box(ARK), black_box(ASK), black_box(VCEK)).unwrap();
            let report = AttestationReport::from_bytes(black_box(REPORT)).unwrap();
            (&chain, &report).verify().unwrap();
        });
    });
    let image = vec![0; 2 << 20];
    let image = [&image[..], include_bytes!("../../vectors/sev-ovmf/ovmf_AmdSev_suffix.bin")].concat();
    group.bench_function("launch digest of 2 MiB of firmware", |bench| {
        bench.iter(|| {
            let firmware = snp::launch::Firmware::parse(black_box(&image)).unwrap();
            let cpu = snp::launch::Cpu::new(25, 1, 1);
            let vmm = snp::launch::Vmm::Qemu;
            let launch = snp::launch::Launch { vmm, cpu, vcpus: 4, features: 1, kernel: None };
            snp::launch::predict(&firmware, &launch).unwrap()
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("clouds");
    let document = include_bytes!("../../fuzz/corpus/nitro_document/tpm");
    let (aws, then) = (nitro::aws(), Timestamp::from_second(1_770_113_522).unwrap());
    assert!(nitro::verify(document, &aws, then, &mut Checks::default()).is_some());
    group.bench_function("aws: NitroTPM document", |bench| {
        bench.iter(|| nitro::verify(black_box(document), &aws, then, &mut Checks::default()).is_some());
    });

    let hcl = include_bytes!("../../fuzz/corpus/azure_hcl/snp");
    let vek = include_bytes!("../../fuzz/corpus/azure.vcek.der");
    let intermediate = snp::intermediate_of(vek).unwrap();
    let intel = tdx::Anchors::intel();
    let wanted = azure::Hardware::Snp(Box::new(policy.clone()));
    let paravisor = |hcl: &[u8]| {
        let endorsement = azure::Endorsement::Snp { vek, intermediate, crl: None };
        let anchors = azure::Anchors { snp: &anchors, tdx: &intel };
        azure::verify(hcl, &endorsement, anchors, &wanted, now, &mut Checks::default()).is_some()
    };
    assert!(paravisor(hcl));
    group.bench_function("azure: report of the paravisor, with the processor's", |bench| {
        bench.iter(|| paravisor(black_box(hcl)));
    });

    let leaf = include_bytes!("../../fuzz/corpus/gcp_certificate/ak");
    let chain = [leaf.to_vec(), include_bytes!("../../fuzz/corpus/gcp.ca.der").to_vec()];
    let (google, then) = (gcp::google(), Timestamp::from_second(1_770_200_000).unwrap());
    assert!(gcp::verify(&chain, &google, then, &mut Checks::default()).is_some());
    group.bench_function("gcp: certificates of the attestation key", |bench| {
        bench.iter(|| gcp::verify(black_box(&chain), &google, then, &mut Checks::default()).is_some());
    });
    group.finish();
    criterion.final_summary();
}
