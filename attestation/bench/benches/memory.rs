//! The greatest memory that one verification holds at a time, in bytes beyond what stands before it.

#![allow(clippy::unwrap_used)]

use constellation_attestation::{
    snp, tdx,
    tpm::{eventlog::EventLog, quote},
};
use constellation_attestation_bench::{QUOTED, event_log, tpm_quote};
use dhat::{HeapStats, Profiler};

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Runs it under the counting allocator and prints its peak.
fn measure<T>(what: &str, run: impl Fn() -> T) {
    // Once before: what a crate keeps for ever isn't a verification's.
    run();
    let profiler = Profiler::builder().testing().build();
    let before = HeapStats::get();
    let result = run();
    let after = HeapStats::get();
    drop(result);
    drop(profiler);
    let (peak, blocks) = (after.max_bytes - before.curr_bytes, after.total_blocks - before.total_blocks);
    println!("{what:<50} peak {peak:>8} bytes in {blocks:>6} allocations");
}

fn main() {
    for kind in ["ecc", "rsa"] {
        let files = tpm_quote(kind);
        measure(&format!("tpm: quote, {kind} key"), || quote::verify(&files.presented()).unwrap());
    }
    let log = event_log(200);
    measure("tpm: event log of 200 events", || {
        let log = EventLog::parse(&log).unwrap();
        QUOTED.map(|register| log.replay(register))
    });

    let mut policy = tdx::Policy::strict();
    for name in tdx::clause::REFERENCE {
        policy.waive(name, "a benchmark");
    }
    let evidence = tdx::Evidence {
        quote: include_bytes!("../../vectors/dcap-qvl/tdx_quote"),
        collateral: include_bytes!("../../vectors/dcap-qvl/tdx_quote_collateral.json"),
    };
    let (anchors, now) = (tdx::Anchors::intel(), jiff::Timestamp::from_second(1_751_328_000).unwrap());
    measure("tdx: verify and appraise", || tdx::verify_and_appraise(&evidence, &anchors, &policy, now));

    let mut policy = snp::Policy::strict();
    for name in snp::clause::REFERENCE {
        policy.waive(name, "a benchmark");
    }
    let evidence = snp::Evidence {
        report: include_bytes!("../../fuzz/corpus/snp_report/milan"),
        vek: include_bytes!("../../fuzz/corpus/snp_certificate/vcek"),
        intermediate: include_bytes!("../../fuzz/corpus/snp.ask.der"),
        crl: None,
    };
    let (anchors, now) = (snp::Anchors::amd(), jiff::Timestamp::from_second(1_790_000_000).unwrap());
    measure("snp: verify and appraise", || snp::verify_and_appraise(&evidence, &anchors, &policy, now));
}
