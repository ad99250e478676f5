//! How long it takes to verify a TPM's quote, and to read and replay an event log of 200 events.
//!
//! Goals on one core: 0.5 ms for a quote, 1 ms for the log.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use constellation_attestation::tpm::{eventlog::EventLog, quote};
use constellation_attestation_bench::{QUOTED, event_log, tpm_quote};
use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("tpm");
    for kind in ["ecc", "rsa"] {
        let files = tpm_quote(kind);
        let presented = files.presented();
        quote::verify(&presented).unwrap();
        group.bench_function(format!("quote, {kind} key"), |bench| bench.iter(|| quote::verify(black_box(&presented))));
    }
    let log = event_log(200);
    assert_eq!(EventLog::parse(&log).unwrap().events.len(), 200);
    group.bench_function("event log of 200 events, read and replayed", |bench| {
        bench.iter(|| {
            let log = EventLog::parse(black_box(&log)).unwrap();
            QUOTED.map(|register| log.replay(register))
        });
    });
    group.finish();
    criterion.final_summary();
}
