//! What a trust domain must be: a closed set of requirements, none of which can be left out.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{
    bytes::{Hex, Measurement},
    clause,
    tcb::TcbStatus,
};
use crate::reference::Requirement;

/// Least TCB evaluation number that [`Policy::strict`] accepts: Intel's TCB recovery of mid 2025.
pub const MIN_EVALUATION_NUMBER: u32 = 17;

/// What a trust domain and its platform must be.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Status of platform, TDX module and quoting enclave together. `Revoked` isn't accepted whatever stands here.
    pub tcb_status: Requirement<TcbStatus>,
    /// How long after the date of its TCB level a platform may be `OutOfDate`; zero is not at all.
    pub grace: SignedDuration,
    /// The TCB recovery that TCB info and QE identity are of, the older one counts. A floor keeps an attacker from
    /// showing collateral that is in date but from before a recovery.
    pub evaluation_number: Requirement<u32>,
    /// Advisories (`INTEL-SA-...`) that must not be open, even where the status is accepted.
    pub refused_advisories: Vec<String>,
    /// The host can read and change the trust domain.
    pub debug: Requirement<bool>,
    /// The host can profile the trust domain.
    pub profiling: Requirement<bool>,
    /// A migration TD can move it.
    pub migratable: Requirement<bool>,
    /// The host can't inject `#VE`. Off in Azure's trust domains, where a paravisor handles them.
    pub sept_ve_disable: Requirement<bool>,
    /// Supervisor protection keys.
    pub pks: Requirement<bool>,
    /// Key Locker.
    pub key_locker: Requirement<bool>,
    /// Performance monitoring.
    pub perfmon: Requirement<bool>,
    /// Extended features.
    pub xfam: Requirement<u64>,
    /// Measurement of the TDX module, beside its signer and security version.
    pub mrseam: Requirement<Measurement>,
    /// The launch clause: measurement of the initial contents.
    pub mrtd: Requirement<Measurement>,
    /// Run-time measurement register 0.
    pub rtmr0: Requirement<Measurement>,
    /// Run-time measurement register 1.
    pub rtmr1: Requirement<Measurement>,
    /// Run-time measurement register 2.
    pub rtmr2: Requirement<Measurement>,
    /// Run-time measurement register 3.
    pub rtmr3: Requirement<Measurement>,
    /// Configuration the host gave it.
    pub mrconfigid: Requirement<Measurement>,
    /// Owner.
    pub mrowner: Requirement<Measurement>,
    /// Owner's configuration.
    pub mrownerconfig: Requirement<Measurement>,
    /// Service TDs bound to it.
    pub mrservicetd: Requirement<Measurement>,
    /// What the conversation wants attested.
    pub report_data: Requirement<Hex<64>>,
}

/// Why a policy isn't one to admit nodes by.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A clause that says what runs, or for whom, is waived or names nothing.
    #[error("{0} must name what it wants")]
    Open(&'static str),
}

impl Policy {
    /// The default: everything that has a right value for all trust domains has it, and the rest refuses every value
    /// until the owner names one.
    #[must_use]
    pub fn strict() -> Self {
        let either = || Requirement::AnyOf(vec![false, true]);
        Self {
            tcb_status: Requirement::Exact(TcbStatus::UpToDate),
            grace: SignedDuration::ZERO,
            evaluation_number: Requirement::AtLeast(MIN_EVALUATION_NUMBER),
            refused_advisories: Vec::new(),
            debug: Requirement::Exact(false),
            profiling: Requirement::Exact(false),
            migratable: Requirement::Exact(false),
            sept_ve_disable: Requirement::Exact(true),
            pks: either(),
            key_locker: either(),
            perfmon: either(),
            xfam: waived("features the guest may use; what it does with them is measured"),
            mrseam: waived("the TDX module's signer and security version are checked against Intel's collateral"),
            mrtd: Requirement::AnyOf(Vec::new()),
            rtmr0: Requirement::AnyOf(Vec::new()),
            rtmr1: Requirement::AnyOf(Vec::new()),
            rtmr2: Requirement::AnyOf(Vec::new()),
            rtmr3: Requirement::AnyOf(Vec::new()),
            mrconfigid: Requirement::Exact(Hex::ZERO),
            mrowner: Requirement::Exact(Hex::ZERO),
            mrownerconfig: Requirement::Exact(Hex::ZERO),
            mrservicetd: Requirement::Exact(Hex::ZERO),
            report_data: Requirement::AnyOf(Vec::new()),
        }
    }

    /// [`Policy::strict`] for Azure's trust domains: their paravisor is the measured guest, handles `#VE` itself, and
    /// measures the operating system into a vTPM instead of the registers.
    #[must_use]
    pub fn azure() -> Self {
        let registers = "Azure measures the operating system into the vTPM";
        Self {
            sept_ve_disable: waived("Azure's paravisor, which MRTD measures, handles #VE itself"),
            rtmr0: waived(registers),
            rtmr1: waived(registers),
            rtmr2: waived(registers),
            rtmr3: waived(registers),
            ..Self::strict()
        }
    }

    /// Waives the requirement of a clause (see [`clause`]); false when it has none: what makes a quote genuine can't be
    /// waived.
    pub fn waive(&mut self, name: &str, reason: &str) -> bool {
        match name {
            clause::TCB_STATUS => self.tcb_status = waived(reason),
            clause::TCB_EVALUATION_NUMBER => self.evaluation_number = waived(reason),
            clause::TCB_ADVISORIES => self.refused_advisories.clear(),
            clause::DEBUG => self.debug = waived(reason),
            clause::PROFILING => self.profiling = waived(reason),
            clause::MIGRATABLE => self.migratable = waived(reason),
            clause::SEPT_VE_DISABLE => self.sept_ve_disable = waived(reason),
            clause::PKS => self.pks = waived(reason),
            clause::KEY_LOCKER => self.key_locker = waived(reason),
            clause::PERFMON => self.perfmon = waived(reason),
            clause::XFAM => self.xfam = waived(reason),
            clause::REPORT_DATA => self.report_data = waived(reason),
            _ => match self.measurement(name) {
                Some(requirement) => *requirement = waived(reason),
                None => return false,
            },
        }
        true
    }

    /// The requirement of a measurement's clause.
    pub fn measurement(&mut self, name: &str) -> Option<&mut Requirement<Measurement>> {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = clause::RTMR;
        let requirement = match name {
            clause::MRSEAM => &mut self.mrseam,
            clause::MRTD => &mut self.mrtd,
            clause::MRCONFIGID => &mut self.mrconfigid,
            clause::MROWNER => &mut self.mrowner,
            clause::MROWNERCONFIG => &mut self.mrownerconfig,
            clause::MRSERVICETD => &mut self.mrservicetd,
            name if name == rtmr0 => &mut self.rtmr0,
            name if name == rtmr1 => &mut self.rtmr1,
            name if name == rtmr2 => &mut self.rtmr2,
            name if name == rtmr3 => &mut self.rtmr3,
            _ => return None,
        };
        Some(requirement)
    }

    /// Whether nodes may be admitted by it: it says what was launched and for which conversation.
    ///
    /// # Errors
    /// The clause that is open.
    pub fn validate(&self) -> Result<(), Error> {
        let named = |requirement: &Requirement<Measurement>| match requirement {
            Requirement::AnyOf(values) => !values.is_empty(),
            Requirement::Exact(_) | Requirement::AtLeast(_) => true,
            Requirement::Waived { .. } => false,
        };
        if !named(&self.mrtd) {
            return Err(Error::Open(clause::MRTD));
        }
        match self.report_data {
            Requirement::Exact(_) => Ok(()),
            _ => Err(Error::Open(clause::REPORT_DATA)),
        }
    }
}

fn waived<T>(reason: &str) -> Requirement<T> {
    Requirement::Waived { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::tests::{assert_waives, waived};

    #[test]
    fn a_policy_without_a_launch_clause_admits_nobody() {
        let mut policy = Policy::strict();
        assert_eq!(policy.validate(), Err(Error::Open(clause::MRTD)));
        policy.mrtd = Requirement::Exact(Hex([1; 48]));
        assert_eq!(policy.validate(), Err(Error::Open(clause::REPORT_DATA)));
        policy.report_data = Requirement::Exact(Hex([2; 64]));
        assert_eq!(policy.validate(), Ok(()));
        assert!(policy.waive(clause::MRTD, "test"));
        assert_eq!(policy.validate(), Err(Error::Open(clause::MRTD)));
    }

    #[test]
    fn what_makes_a_quote_genuine_cannot_be_waived() {
        for name in [clause::SIGNATURE, clause::PCK_REVOKED, clause::TCB_LEVEL, clause::RESERVED, "tdx.unknown"] {
            assert!(!Policy::strict().waive(name, "test"), "{name}");
        }
        for name in clause::REFERENCE {
            assert!(Policy::strict().waive(name, "test"), "{name}");
        }
    }

    #[test]
    fn a_waiver_is_of_the_requirement_of_its_clause_and_of_nothing_else() {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = clause::RTMR;
        let mut strict = Policy::strict();
        strict.refused_advisories.push("INTEL-SA-00001".into());
        let clauses = [
            (clause::TCB_STATUS, "tcbStatus"),
            (clause::TCB_EVALUATION_NUMBER, "evaluationNumber"),
            (clause::DEBUG, "debug"),
            (clause::PROFILING, "profiling"),
            (clause::MIGRATABLE, "migratable"),
            (clause::SEPT_VE_DISABLE, "septVeDisable"),
            (clause::PKS, "pks"),
            (clause::KEY_LOCKER, "keyLocker"),
            (clause::PERFMON, "perfmon"),
            (clause::XFAM, "xfam"),
            (clause::MRSEAM, "mrseam"),
            (clause::MRTD, "mrtd"),
            (rtmr0, "rtmr0"),
            (rtmr1, "rtmr1"),
            (rtmr2, "rtmr2"),
            (rtmr3, "rtmr3"),
            (clause::MRCONFIGID, "mrconfigid"),
            (clause::MROWNER, "mrowner"),
            (clause::MROWNERCONFIG, "mrownerconfig"),
            (clause::MRSERVICETD, "mrservicetd"),
            (clause::REPORT_DATA, "reportData"),
        ];
        assert_waives(&strict, Policy::waive, &clauses, &[]);
        let advisories = waived(&strict, Policy::waive, clause::TCB_ADVISORIES, "refusedAdvisories");
        assert_eq!(advisories, serde_json::json!([]));
    }

    #[test]
    fn a_policy_survives_json_and_refuses_unknown_members() {
        let policy = Policy::azure();
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert!(serde_json::from_str::<Policy>(&json.replace("\"grace\"", "\"graze\"")).is_err());
    }
}
