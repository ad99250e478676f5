//! Every genuine TDX quote, its collateral and event logs with one thing wrong: nothing panics, and nothing is accepted but
//! what says the same.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

use constellation_attestation::{
    result::Checks,
    tdx::{
        Anchors, Evidence, Outcome, Policy, ccel, clause,
        collateral::Collateral,
        quote::{self, Quote},
        verify_and_appraise,
    },
};
use jiff::Timestamp;

mod mutate;

use mutate::{Genuine, Length};

/// The day at which `tdx-composite` collateral is good, and the one for `dcap-qvl`.
const OCTOBER: i64 = 1_759_276_800;
const JULY: i64 = 1_751_328_000;

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Asks for nothing but that a quote is genuine.
fn lax() -> Policy {
    let mut policy = Policy::strict();
    let also = [
        clause::TCB_STATUS,
        clause::TCB_EVALUATION_NUMBER,
        clause::DEBUG,
        clause::SEPT_VE_DISABLE,
        clause::MRSERVICETD,
    ];
    for name in clause::REFERENCE.into_iter().chain(also) {
        assert!(policy.waive(name, "a test of what is genuine"));
    }
    policy
}

fn run(quote: &[u8], collateral: &[u8], now: i64) -> Outcome {
    let now = Timestamp::from_second(now).unwrap();
    verify_and_appraise(&Evidence { quote, collateral }, &Anchors::intel(), &lax(), now)
}

/// Quotes whose collateral is at hand.
fn verified() -> Vec<(&'static str, Vec<u8>, Vec<u8>, i64)> {
    let (gcp, qemu) =
        ("tdx-composite/collateral_00806f050000_20251001.json", "tdx-composite/collateral_50806f000000_20251001.json");
    [
        ("dcap-qvl/tdx_quote", "dcap-qvl/tdx_quote_collateral.json", JULY),
        ("go-tdx-guest/ccel/cos-113-tdx-quote.dat", gcp, OCTOBER),
        ("teekit/tdx-v4-gcp-no-nonce.quote.bin", gcp, OCTOBER),
        ("trustee-az-tdx/td-quote.bin", gcp, OCTOBER),
        ("trustee-tdx/tdx_quote_4.dat", qemu, OCTOBER),
    ]
    .map(|(quote, collateral, now)| (quote, read(quote), read(collateral), now))
    .into()
}

/// All others, with collateral that doesn't speak for them.
fn refused() -> Vec<(&'static str, Vec<u8>, Vec<u8>, i64)> {
    let text = read("dcap-qvl/tdx-quote.hex");
    let hex = hex::decode(text.trim_ascii().strip_prefix(b"0x").unwrap()).unwrap();
    let outdated = read("dcap-qvl/tdx_quote_outdated_collateral.json");
    let files = [
        ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", read("go-tdx-guest/collateral_v4.json"), 1_688_169_600),
        ("dcap-qvl/tdx_quote_outdated", outdated, 1_772_323_200),
    ]
    .map(|(name, collateral, now)| (name, read(name), collateral, now));
    files
        .into_iter()
        .chain([("dcap-qvl/tdx-quote.hex", hex, read("dcap-qvl/tdx_quote_collateral.json"), JULY)])
        .collect()
}

/// Where the lengths of a quote stand, and the PEM begins, whose frame may be written in several ways.
fn lengths(quote: &[u8]) -> (Vec<Length>, usize) {
    let parsed = Quote::parse(quote).unwrap();
    let data = parsed.signed.len();
    let outer = data + 4 + 64 + 64 + 2;
    let auth = outer + 4 + 384 + 64;
    let inner = auth + 2 + parsed.qe_auth_data.len() + 2;
    let mut found =
        vec![Length::Little(data, 4), Length::Little(outer, 4), Length::Little(auth, 2), Length::Little(inner, 4)];
    if parsed.version == 5 {
        found.push(Length::Little(50, 4));
    }
    (found, inner + 4)
}

#[test]
fn every_bit_of_a_quote_counts() {
    for (name, quote, collateral, now) in verified() {
        let (lengths, pem) = lengths(&quote);
        let length = Quote::parse(&quote).unwrap().length;
        let verdict = |bytes: &[u8]| {
            let outcome = run(bytes, &collateral, now);
            outcome.td.filter(|_| outcome.checks.accepted()).map(|td| td.get().clone())
        };
        let genuine = Genuine::new(name, &quote[..length]).lengths(lengths).at_most(500, 100);
        // What stands between certificates, and line ends, may be another: the certificates are the same.
        genuine.gives_one_verdict(verdict, |bytes, _| bytes[..pem] == quote[..pem]);
    }
}

#[test]
fn no_other_quote_becomes_one_by_a_change() {
    for (name, quote, collateral, now) in refused() {
        let (lengths, _) = lengths(&quote);
        let length = Quote::parse(&quote).unwrap().length;
        Genuine::new(name, &quote[..length]).lengths(lengths).at_most(500, 100).harms_nothing(|bytes| {
            assert!(!run(bytes, &collateral, now).checks.accepted());
        });
    }
}

#[test]
fn no_cut_quote_is_a_quote_and_no_length_may_lie() {
    for (name, quote, ..) in verified().into_iter().chain(refused()) {
        let (lengths, pem) = lengths(&quote);
        let length = Quote::parse(&quote).unwrap().length;
        let quote = &quote[..length];
        // Where what is inside the lengths differs, they agree with what they hold, or the quote is none.
        Genuine::new(name, quote).lengths(lengths).at_most(0, usize::MAX).harms_nothing(|bytes| {
            let error = Quote::parse(bytes).unwrap_err();
            assert_eq!(error.clause(), clause::QUOTE_STRUCTURE);
        });
        assert!(pem < length);
    }
    let size = quote::MAX_BYTES + 1;
    assert_eq!(Quote::parse(&vec![0; size]), Err(quote::Error::Size(size)));
}

#[test]
fn collateral_that_was_changed_says_the_same_or_nothing() {
    let [(_, quote, collateral, now), (_, other, others, later)] =
        verified().into_iter().take(2).collect::<Vec<_>>().try_into().unwrap();
    for (name, quote, collateral, now) in
        [("dcap-qvl", quote, collateral, now), ("tdx-composite", other, others, later)]
    {
        let verdict = |bytes: &[u8]| {
            let outcome = run(&quote, bytes, now);
            outcome.td.filter(|_| outcome.checks.accepted()).map(|td| td.get().clone())
        };
        let signed = Collateral::parse(&collateral).unwrap();
        let parts = |c: &Collateral| [c.tcb_info.clone(), c.qe_identity.clone()];
        Genuine::new(name, &collateral)
            .at_most(500, 150)
            .gives_one_verdict(verdict, |bytes, _| parts(&Collateral::parse(bytes).unwrap()) == parts(&signed));
    }
}

#[test]
fn a_changed_event_log_explains_the_same_registers_or_is_refused() {
    let (_, quote, collateral, now) = verified().remove(1);
    let td = run(&quote, &collateral, now).td.unwrap();
    let log = read("go-tdx-guest/ccel/ccel_data.dat");
    let verdict = |bytes: &[u8]| {
        let mut checks = Checks::default();
        let found = ccel::check(bytes, &td, &mut checks);
        found.filter(|_| checks.accepted()).map(|found| found.replay())
    };
    // What no digest covers (file paths of images, the end of the area) may differ; no register does.
    Genuine::new("ccel_data.dat", &log).at_most(1500, 500).gives_one_verdict(verdict, |_, _| true);
    for name in ["trustee-tdx/CCEL_data_ovmf", "dstack/ccel.bin"] {
        Genuine::new(name, &read(name)).at_most(1000, 500).harms_nothing(|bytes| assert!(verdict(bytes).is_none()));
    }
}
