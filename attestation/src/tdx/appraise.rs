//! Whether a genuine trust domain is the wanted one. Looks at every clause, whatever the ones before it said.

use jiff::Timestamp;

use super::{
    bytes::{Hex, Measurement},
    clause,
    policy::Policy,
    quote::{TdReport, attribute},
    tcb::TcbStatus,
    verify::Td,
};
use crate::{reference::Requirement, result::Checks, verified::Verified};

/// Appraises a genuine trust domain against a policy at a time.
pub fn appraise(td: &Verified<Td>, policy: &Policy, now: Timestamp, checks: &mut Checks) {
    let Td { report, .. } = td.get();
    tcb(td.get(), policy, now, checks);
    attributes(report, policy, checks);
    measurements(report, policy, checks);
    policy.report_data.apply(
        checks,
        clause::REPORT_DATA,
        Some(&report.report_data),
        Hex::to_string,
        "the trust domain attests to something else than this conversation",
    );
}

fn tcb(td: &Td, policy: &Policy, now: Timestamp, checks: &mut Checks) {
    let verdict = &td.tcb;
    let name = clause::TCB_STATUS;
    let open = if verdict.advisories.is_empty() { "none".into() } else { verdict.advisories.join(", ") };
    let message = format!("TCB level of {} with open advisories: {open}", verdict.date);
    let graced = verdict.status == TcbStatus::OutOfDate
        && verdict.date.checked_add(policy.grace).is_ok_and(|end| policy.grace.is_positive() && now <= end);
    if verdict.status == TcbStatus::Revoked {
        checks.check(
            name,
            false,
            "not revoked".to_owned(),
            verdict.status.to_string(),
            "Intel revoked the platform's TCB level",
        );
    } else if graced {
        checks.check(
            name,
            true,
            "in its time of grace".to_owned(),
            format!("{} since {}", verdict.status, verdict.date),
            &message,
        );
    } else {
        policy.tcb_status.apply(checks, name, Some(&verdict.status), TcbStatus::to_string, &message);
    }
    policy.evaluation_number.apply(
        checks,
        clause::TCB_EVALUATION_NUMBER,
        Some(&td.evaluation_number),
        u32::to_string,
        "collateral of this TCB recovery",
    );
    let refused: Vec<_> =
        verdict.advisories.iter().filter(|id| policy.refused_advisories.contains(id)).map(String::as_str).collect();
    checks.check(
        clause::TCB_ADVISORIES,
        refused.is_empty(),
        format!("none of {}", policy.refused_advisories.join(", ")),
        open,
        "open advisories that the policy refuses",
    );
}

fn attributes(report: &TdReport, policy: &Policy, checks: &mut Checks) {
    for (name, requirement, bit, message) in [
        (clause::DEBUG, &policy.debug, attribute::DEBUG, "the host can read and change a TD under debug"),
        (clause::PROFILING, &policy.profiling, attribute::PROFILING, "the host can profile the TD"),
        (clause::MIGRATABLE, &policy.migratable, attribute::MIGRATABLE, "a migration TD can move the TD"),
        (
            clause::SEPT_VE_DISABLE,
            &policy.sept_ve_disable,
            attribute::SEPT_VE_DISABLE,
            "without it the host can inject #VE into the TD",
        ),
        (clause::PKS, &policy.pks, attribute::PKS, "supervisor protection keys"),
        (clause::KEY_LOCKER, &policy.key_locker, attribute::KEY_LOCKER, "Key Locker"),
        (clause::PERFMON, &policy.perfmon, attribute::PERFMON, "performance monitoring by the guest"),
    ] {
        requirement.apply(checks, name, Some(&report.has(bit)), bool::to_string, message);
    }
    let reserved = report.attributes & !attribute::KNOWN;
    checks.check(
        clause::RESERVED,
        reserved == 0,
        show(0),
        show(reserved),
        "attributes that this verifier doesn't know the meaning of",
    );
    policy.xfam.apply(checks, clause::XFAM, Some(&report.xfam), |bits| show(*bits), "extended features the TD may use");
}

fn measurements(report: &TdReport, policy: &Policy, checks: &mut Checks) {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = &report.rtmr;
    let mut apply = |name: &str, requirement: &Requirement<Measurement>, actual: &Measurement, message: &str| {
        requirement.apply(checks, name, Some(actual), Hex::to_string, message);
    };
    apply(clause::MRSEAM, &policy.mrseam, &report.mrseam, "the TDX module");
    apply(clause::MRTD, &policy.mrtd, &report.mrtd, "initial contents of the TD: its firmware");
    for (name, requirement, actual) in clause::RTMR
        .into_iter()
        .zip([&policy.rtmr0, &policy.rtmr1, &policy.rtmr2, &policy.rtmr3])
        .zip([rtmr0, rtmr1, rtmr2, rtmr3])
        .map(|((name, requirement), actual)| (name, requirement, actual))
    {
        apply(name, requirement, actual, "what was measured at run time; the CCEL explains it");
    }
    apply(clause::MRCONFIGID, &policy.mrconfigid, &report.mrconfigid, "configuration the host gave the TD");
    apply(clause::MROWNER, &policy.mrowner, &report.mrowner, "owner the host names");
    apply(clause::MROWNERCONFIG, &policy.mrownerconfig, &report.mrownerconfig, "owner's configuration");
    // Intel's quoting enclave never makes a TD 1.0 body for a trust domain with service TDs.
    let bound = report.v1_5.as_ref().map_or(Measurement::ZERO, |v1_5| v1_5.mrservicetd);
    apply(clause::MRSERVICETD, &policy.mrservicetd, &bound, "service TDs bound to the TD");
    // Service TDs that were bound first, or are bound later, stand only here, and only when there are any.
    if let Some(extended) = report.v1_5.as_ref().and_then(|v1_5| v1_5.extended.as_ref()) {
        for (service, when) in [
            (&extended.init_servtd, "service TDs that were bound to the TD when it was made"),
            (&extended.current_servtd, "service TDs bound to the TD after it started"),
        ] {
            if service.hash != Measurement::ZERO {
                apply(clause::MRSERVICETD, &policy.mrservicetd, &service.hash, when);
            }
        }
    }
}

fn show(bits: u64) -> String {
    format!("{bits:#018x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_told_by_all_their_digits() {
        assert_eq!(show(0), "0x0000000000000000");
        assert_eq!(show(0x1000_0000), "0x0000000010000000");
    }
}
