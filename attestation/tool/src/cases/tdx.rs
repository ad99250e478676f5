//! TDX quotes under the strict policy: what a case doesn't name is waived, what it names must be met.

use std::path::Path;

use constellation_attestation::tdx::{Anchors, Evidence, Policy, TcbStatus, ccel, clause, verify_and_appraise};
use jiff::Timestamp;

use super::{
    ABSENT, Evaluated, WAIVED, any_of,
    manifest::{TdxCase, TdxPolicy},
};
use crate::input::{self, Error};

/// A quote, what it is verified with, and what is wanted of it.
pub(super) struct Case<'a> {
    /// The quote's file.
    pub quote: &'a Path,
    /// The collateral's file; without one, what needs it fails.
    pub collateral: Option<&'a Path>,
    /// Its firmware's event log.
    pub log: Option<&'a Path>,
    /// Time to verify at.
    pub now: Timestamp,
    /// What is wanted besides the strict default.
    pub policy: &'a TdxPolicy,
    /// TCB status that the evaluation must yield, if the case states one.
    pub tcb_status: Option<TcbStatus>,
}

impl<'a> Case<'a> {
    /// As the manifest has it.
    pub fn new(case: &'a TdxCase, now: Timestamp) -> Self {
        Self {
            quote: &case.quote,
            collateral: case.collateral.as_deref(),
            log: None,
            now: case.now.unwrap_or(now),
            policy: &case.policy,
            tcb_status: case.tcb_status,
        }
    }
}

/// The anchor that a manifest names.
pub(crate) fn anchor(path: &Path) -> Result<Anchors, Error> {
    let root = input::certificate(path)?;
    Anchors::new([root.as_slice()]).map_err(|e| Error::value(path.display().to_string(), &e))
}

/// Evaluates one case, with these clauses waived.
pub(super) fn evaluate(
    folder: &Path,
    case: &Case<'_>,
    anchors: &Anchors,
    waived: &[String],
) -> Result<Evaluated, Error> {
    let mut policy = wanted(case.policy)?;
    for name in waived {
        // What makes a quote genuine can't be waived; it then fails again.
        policy.waive(name, WAIVED);
    }
    let quote = input::quote(&folder.join(case.quote))?;
    let collateral = case.collateral.map(|file| input::read(&folder.join(file))).transpose()?.unwrap_or_default();
    let evidence = Evidence { quote: &quote, collateral: &collateral };
    let log = case.log.map(|file| input::read(&folder.join(file))).transpose()?;
    let mut outcome = verify_and_appraise(&evidence, anchors, &policy, case.now);
    if let (Some(log), Some(td)) = (log, &outcome.td) {
        ccel::check(&log, td, &mut outcome.checks);
    }
    let facts = case.tcb_status.is_none() || case.tcb_status == outcome.tcb_status;
    Ok(Evaluated { checks: outcome.checks, facts })
}

fn wanted(case: &TdxPolicy) -> Result<Policy, Error> {
    let mut policy = Policy::strict();
    for name in clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    let [rtmr0, rtmr1, rtmr2, rtmr3] = clause::RTMR;
    for (name, values) in [
        (clause::MRTD, &case.mrtd),
        (rtmr0, &case.rtmr0),
        (rtmr1, &case.rtmr1),
        (rtmr2, &case.rtmr2),
        (rtmr3, &case.rtmr3),
        (clause::MRCONFIGID, &case.mrconfigid),
    ] {
        if let (Some(requirement), Some(values)) = (policy.measurement(name), values) {
            *requirement = any_of(name, values.values())?;
        }
    }
    if let Some(values) = &case.report_data {
        policy.report_data = any_of(clause::REPORT_DATA, values.values())?;
    }
    Ok(policy)
}
