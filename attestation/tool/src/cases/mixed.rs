//! Cases of the mixed form: each of its own kind.

use std::path::Path;

use constellation_attestation::{result::Checks, tpm::eventlog::EventLog};
use jiff::Timestamp;

use super::{
    Evaluated,
    manifest::{Kind, MixedCase},
};
use crate::input::{self, Error};

/// Evaluates one case.
pub(super) fn evaluate(
    folder: &Path,
    case: &MixedCase,
    _now: Timestamp,
    _waived: &[String],
) -> Result<Evaluated, Error> {
    match case.kind {
        Kind::Eventlog => event_log(folder, case).map(Evaluated::from),
        Kind::AzSnpVtpm | Kind::GcpVtpm | Kind::Nitrotpm | Kind::Tdx => Err(Error::said("kind", "can't be run yet")),
    }
}

/// A log must parse and replay to every expected register.
fn event_log(folder: &Path, case: &MixedCase) -> Result<Checks, Error> {
    let log = input::read(&folder.join(needed(case.log.as_ref(), "log")?))?;
    let expected = input::registers(folder, needed(case.pcrs.as_ref(), "pcrs")?)?;
    Ok(crate::explain::check(&EventLog::parse(&log), &expected))
}

/// A key that the kind can't do without.
fn needed<'a, T: ?Sized>(value: Option<&'a T>, key: &str) -> Result<&'a T, Error> {
    value.ok_or_else(|| Error::said(key, "this kind needs it"))
}
