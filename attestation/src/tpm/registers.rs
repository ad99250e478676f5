//! What a policy wants of registers, and whether quoted values are that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{clause, eventlog::EventLog, quote::Values};
use crate::{policy::REQUIRED_PCRS, reference::Requirement, result::Checks};

/// Registers that every policy must speak of: those that pin the boot chain, or that the host may extend from outside.
const ALWAYS: [u8; 4] = REQUIRED_PCRS;
/// The last register that only a reset of the TPM sets back (TCG PC Client Platform TPM Profile 1.06, 4.6.2); values
/// of 16 and 23 can be reset by anybody, those of 17 to 22 by a dynamic launch.
const LAST: u8 = 15;

/// What registers of one bank must be: lower-case hex, each by a clause of its own. One that isn't named isn't looked at,
/// but boot loader, kernel image and command line (4, 11) and what comes from outside (12, 13) must be named.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Registers(pub BTreeMap<u8, Requirement<String>>);

impl Registers {
    /// Wants nothing of the registers that must be named, for a reason that stands in the result.
    #[must_use]
    pub fn waived(reason: &str) -> Self {
        Self(ALWAYS.into_iter().map(|pcr| (pcr, Requirement::Waived { reason: reason.into() })).collect())
    }

    /// Appraises values that a quote proved. The event log explains a difference, and proves nothing.
    pub fn appraise(&self, values: &Values, log: Option<&EventLog>, checks: &mut Checks) {
        for pcr in ALWAYS.into_iter().filter(|pcr| !self.0.contains_key(pcr)) {
            checks.fails(clause::PCR_POLICY, &format!("the policy says nothing about PCR {pcr}"));
        }
        for (&pcr, wanted) in &self.0 {
            if pcr > LAST {
                checks.fails(clause::PCR_POLICY, &format!("PCR {pcr} can be reset and says nothing"));
                continue;
            }
            if matches!(wanted, Requirement::AtLeast(_)) {
                checks.fails(clause::PCR_POLICY, &format!("PCR {pcr} is a digest; no order makes sense of it"));
                continue;
            }
            let actual = values.pcrs.get(&pcr);
            let why = match (log, actual) {
                (Some(log), Some(actual)) => log.explain(pcr, actual, None),
                (None, Some(_)) => "no event log explains it".to_owned(),
                (_, None) => "the quote doesn't cover it".to_owned(),
            };
            let text = actual.map(hex::encode);
            wanted.apply(checks, &format!("{}{pcr}", clause::PCR), text.as_ref(), String::clone, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::Hash;

    fn values() -> Values {
        Values { bank: Hash::Sha256, pcrs: (0..16).map(|pcr| (pcr, vec![pcr; 32])).collect() }
    }

    fn good() -> Registers {
        Registers(ALWAYS.into_iter().map(|pcr| (pcr, Requirement::Exact(hex::encode([pcr; 32])))).collect())
    }

    fn failures(registers: &Registers) -> Vec<String> {
        let mut checks = Checks::default();
        registers.appraise(&values(), None, &mut checks);
        checks.failures().map(|c| c.name.clone()).collect()
    }

    #[test]
    fn the_wanted_values_are_accepted_and_each_other_one_is_named() {
        assert_eq!(failures(&good()), [""; 0]);
        for pcr in ALWAYS {
            let mut other = good();
            other.0.insert(pcr, Requirement::AnyOf(vec!["00".repeat(32)]));
            assert_eq!(failures(&other), [format!("tpm.pcr.{pcr}")]);
            other.0.remove(&pcr);
            assert_eq!(failures(&other), [clause::PCR_POLICY]);
        }
    }

    #[test]
    fn every_register_that_only_a_reset_sets_back_may_be_wanted() {
        for pcr in 0..=LAST {
            let mut more = good();
            more.0.insert(pcr, Requirement::Exact(hex::encode([pcr; 32])));
            assert_eq!(failures(&more), [""; 0], "{pcr}");
            more.0.insert(pcr, Requirement::Exact(hex::encode([99; 32])));
            assert_eq!(failures(&more), [format!("tpm.pcr.{pcr}")]);
        }
    }

    #[test]
    fn a_policy_of_resettable_registers_or_of_an_order_or_of_nothing_is_refused() {
        for (pcr, wanted) in [
            (16, Requirement::Exact(hex::encode([16; 32]))),
            (23, Requirement::Waived { reason: "x".into() }),
            (7, Requirement::AtLeast(hex::encode([0; 32]))),
        ] {
            let mut other = good();
            other.0.insert(pcr, wanted);
            assert_eq!(failures(&other), [clause::PCR_POLICY], "{pcr}");
        }
        assert_eq!(failures(&Registers(BTreeMap::new())).len(), ALWAYS.len());
        assert_eq!(failures(&Registers::waived("test")), [""; 0]);
    }
}
