//! How long it takes to verify a TDX quote with its collateral, both as bytes: ours with appraisal, and dcap-qvl in the
//! same run.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use constellation_attestation::tdx::{Anchors, Evidence, Policy, clause, verify_and_appraise};
use criterion::Criterion;
use dcap_qvl::{QuoteCollateralV3, verify::ring};
use jiff::Timestamp;

const QUOTE: &[u8] = include_bytes!("../../vectors/dcap-qvl/tdx_quote");
const COLLATERAL: &[u8] = include_bytes!("../../vectors/dcap-qvl/tdx_quote_collateral.json");
/// 2025-07-01, inside the collateral's dates.
const NOW: u32 = 1_751_328_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("tdx");

    let (anchors, now) = (Anchors::intel(), Timestamp::from_second(NOW.into()).unwrap());
    let mut policy = Policy::strict();
    for name in clause::REFERENCE {
        policy.waive(name, "a benchmark");
    }
    let evidence = Evidence { quote: QUOTE, collateral: COLLATERAL };
    assert!(verify_and_appraise(&evidence, &anchors, &policy, now).checks.accepted());
    group.bench_function("verify and appraise", |bench| {
        bench.iter(|| verify_and_appraise(black_box(&evidence), &anchors, &policy, now));
    });

    group.bench_function("dcap-qvl verify", |bench| {
        bench.iter(|| {
            let collateral: QuoteCollateralV3 = serde_json::from_slice(black_box(COLLATERAL)).unwrap();
            ring::verify(black_box(QUOTE), &collateral, NOW.into()).unwrap()
        });
    });
    group.finish();
    criterion.final_summary();
}
