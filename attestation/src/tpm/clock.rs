//! Has the TPM been on since the last evidence? Registers can only be set back by a reset, and a reset is counted.

use serde::{Deserialize, Serialize};

use super::{attest::Attest, clause};
use crate::result::Checks;

/// Counters of a TPM (`TPMS_CLOCK_INFO`, TPM 2.0 Library, Part 2, 10.11.1), from a verified quote.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clock {
    /// Milliseconds the TPM has been powered.
    pub clock_ms: u64,
    /// TPM resets: power cycles of the machine.
    pub reset_count: u32,
    /// TPM restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether no later clock value was ever reported.
    pub safe: bool,
}

impl From<&Attest> for Clock {
    fn from(attest: &Attest) -> Self {
        Self {
            clock_ms: attest.clock,
            reset_count: attest.reset_count,
            restart_count: attest.restart_count,
            safe: attest.safe,
        }
    }
}

impl Clock {
    /// Checks that `later` is of the boot that `self` was recorded in: no reset, no restart, and time went on. An
    /// operating system can reset a TPM it controls and extend the values of a clean boot again; it can't take back
    /// the count.
    pub fn check_same_boot(&self, later: &Self, checks: &mut Checks) {
        let (expected, actual) = (self.reset_count.to_string(), later.reset_count.to_string());
        let same = self.reset_count == later.reset_count;
        checks.check(clause::CLOCK_RESET, same, expected, actual, "the TPM wasn't reset since the last evidence");
        let (expected, actual) = (self.restart_count.to_string(), later.restart_count.to_string());
        let same = self.restart_count == later.restart_count;
        checks.check(clause::CLOCK_RESTART, same, expected, actual, "the TPM wasn't restarted since the last evidence");
        let (expected, actual) = (format!("at least {}", self.clock_ms), later.clock_ms.to_string());
        let on = later.clock_ms >= self.clock_ms;
        checks.check(clause::CLOCK_TIME, on, expected, actual, "the TPM's clock went on since the last evidence");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Clock = Clock { clock_ms: 1000, reset_count: 3, restart_count: 1, safe: true };

    fn failures(later: Clock) -> Vec<String> {
        let mut checks = Checks::default();
        FIRST.check_same_boot(&later, &mut checks);
        checks.failures().map(|c| c.name.clone()).collect()
    }

    #[test]
    fn a_later_moment_of_the_same_boot_is_accepted_and_a_reset_restart_or_older_clock_is_not() {
        assert_eq!(failures(Clock { clock_ms: 2000, ..FIRST }), [""; 0]);
        assert_eq!(failures(Clock { reset_count: 4, ..FIRST }), [clause::CLOCK_RESET]);
        assert_eq!(failures(Clock { reset_count: 2, ..FIRST }), [clause::CLOCK_RESET]);
        assert_eq!(failures(Clock { restart_count: 2, ..FIRST }), [clause::CLOCK_RESTART]);
        assert_eq!(failures(Clock { clock_ms: 999, ..FIRST }), [clause::CLOCK_TIME]);
    }
}
