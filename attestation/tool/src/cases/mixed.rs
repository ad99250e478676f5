//! Cases of the mixed form: each of its own kind.

use std::path::Path;

use constellation_attestation::{
    nitro,
    result::Checks,
    snp, tdx,
    tpm::{self, replay},
};
use jiff::Timestamp;

use super::{
    Evaluated, cloud,
    manifest::{Kind, MixedCase, OneOrMore, TdxPolicy},
    tdx as quote,
};
use crate::{
    input::{self, Error},
    registers::{self, Banks},
};

/// Clauses of this conversation and this time.
const FRESHNESS: [&str; 5] = [
    nitro::clause::NONCE,
    nitro::clause::TIMESTAMP,
    snp::clause::REPORT_DATA,
    tdx::clause::REPORT_DATA,
    tpm::clause::NONCE,
];

/// Evaluates one case, with these clauses waived.
pub(super) fn evaluate(folder: &Path, case: &MixedCase, now: Timestamp, waived: &[String]) -> Result<Evaluated, Error> {
    if let Some(key) = case.stray() {
        return Err(Error::said(key, "nothing looks at it for this kind: take it out"));
    }
    // Who answers another conversation isn't let in by any policy.
    let waived: Vec<String> = waived.iter().filter(|name| !FRESHNESS.contains(&name.as_str())).cloned().collect();
    let waived = waived.as_slice();
    match case.kind {
        Kind::Eventlog => event_log(folder, case).map(Evaluated::from),
        Kind::Tdx => tdx_quote(folder, case, now, waived),
        Kind::AzSnpVtpm | Kind::GcpVtpm | Kind::Nitrotpm => {
            cloud::evaluate(folder, case, now, waived).map(Evaluated::from)
        }
    }
}

/// A quote under Intel's root, or under the one that the case names. A log that the case names must replay to its registers.
fn tdx_quote(folder: &Path, case: &MixedCase, now: Timestamp, waived: &[String]) -> Result<Evaluated, Error> {
    let anchors = match &case.root {
        Some(root) => quote::anchor(&folder.join(root))?,
        None => tdx::Anchors::intel(),
    };
    let case = quote::Case {
        quote: needed(case.quote.as_deref(), "quote")?,
        collateral: case.collateral.as_deref(),
        now: case.now.unwrap_or(now),
        log: case.log.as_deref(),
        policy: &TdxPolicy { report_data: case.nonce.clone().map(OneOrMore::One), ..TdxPolicy::default() },
        tcb_status: None,
    };
    quote::evaluate(folder, &case, &anchors, waived)
}

/// A log must replay to every expected register in every bank that is named, and say what was digested.
fn event_log(folder: &Path, case: &MixedCase) -> Result<Checks, Error> {
    let log = input::read(&folder.join(needed(case.log.as_deref(), "log")?))?;
    let expected = registers::read(folder, needed(case.pcrs.as_deref(), "pcrs")?)?;
    let mut checks = Checks::default();
    replayed(&log, &expected, &mut checks);
    Ok(checks)
}

/// Checks a log against the registers of every bank that is named; where none is, nothing is proven.
pub(crate) fn replayed(log: &[u8], expected: &Banks, checks: &mut Checks) {
    for values in expected.all() {
        replay::check(log, values, checks);
    }
    if expected.all().next().is_none() {
        checks.fails(tpm::clause::LOG_STRUCTURE, "there is no register of an accepted bank to compare the log with");
    }
}

/// A key that the kind can't do without.
pub(super) fn needed<'a, T: ?Sized>(value: Option<&'a T>, key: &str) -> Result<&'a T, Error> {
    value.ok_or_else(|| Error::said(key, "this kind needs it"))
}
