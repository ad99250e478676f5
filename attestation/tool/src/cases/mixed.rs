//! Cases of the mixed form: each of its own kind.

use std::path::Path;

use constellation_attestation::{result::Checks, tdx::Anchors, tpm::replay};
use jiff::Timestamp;

use super::{
    Evaluated, cloud,
    manifest::{Kind, MixedCase, OneOrMore, TdxPolicy},
    tdx,
};
use crate::input::{self, Error};

/// Evaluates one case, with these clauses waived.
pub(super) fn evaluate(folder: &Path, case: &MixedCase, now: Timestamp, waived: &[String]) -> Result<Evaluated, Error> {
    if let Some(key) = case.stray() {
        return Err(Error::said(key, "nothing looks at it for this kind: take it out"));
    }
    match case.kind {
        Kind::Eventlog => event_log(folder, case).map(Evaluated::from),
        Kind::Tdx => tdx(folder, case, now, waived),
        Kind::AzSnpVtpm | Kind::GcpVtpm | Kind::Nitrotpm => {
            cloud::evaluate(folder, case, now, waived).map(Evaluated::from)
        }
    }
}

/// A quote under Intel's root, or under the one that the case names. A log that the case names must replay to its registers.
fn tdx(folder: &Path, case: &MixedCase, now: Timestamp, waived: &[String]) -> Result<Evaluated, Error> {
    let anchors = match &case.root {
        Some(root) => tdx::anchor(&folder.join(root))?,
        None => Anchors::intel(),
    };
    let case = tdx::Case {
        quote: needed(case.quote.as_deref(), "quote")?,
        collateral: case.collateral.as_deref(),
        now: case.now.unwrap_or(now),
        log: case.log.as_deref(),
        policy: &TdxPolicy { report_data: case.nonce.clone().map(OneOrMore::One), ..TdxPolicy::default() },
        tcb_status: None,
    };
    tdx::evaluate(folder, &case, &anchors, waived)
}

/// A log must replay to every expected register, and say what was digested.
fn event_log(folder: &Path, case: &MixedCase) -> Result<Checks, Error> {
    let log = input::read(&folder.join(needed(case.log.as_deref(), "log")?))?;
    let expected = input::registers(folder, needed(case.pcrs.as_deref(), "pcrs")?)?;
    let mut checks = Checks::default();
    replay::check(&log, &expected, &mut checks);
    Ok(checks)
}

/// A key that the kind can't do without.
pub(super) fn needed<'a, T: ?Sized>(value: Option<&'a T>, key: &str) -> Result<&'a T, Error> {
    value.ok_or_else(|| Error::said(key, "this kind needs it"))
}
