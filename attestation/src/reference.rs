//! One clause of a policy: a closed set of ways to want a value. Nothing can be wanted silently.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{Bytes, Hex},
    gcp, nitro,
    result::Checks,
    snp, tdx,
};

/// What a claim must be. There is no default: a policy says it, or says why not.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Requirement<T> {
    /// This value.
    Exact(T),
    /// This value or a greater one.
    AtLeast(T),
    /// One of these; an empty list accepts nothing.
    AnyOf(Vec<T>),
    /// Anything, for a reason that stands in the result.
    Waived {
        /// Why; empty is refused.
        reason: String,
    },
}

/// Whether a greater value is a better one. Of what has no such scale, "at least" would accept what nobody meant: a guest
/// under debug is "at least" one that isn't.
pub trait Scale: PartialOrd {
    /// Whether [`Requirement::AtLeast`] means anything; if not, nothing meets it.
    const RISES: bool;
}

macro_rules! scale {
    ($rises:literal: $($kind:ty),*) => { $(impl Scale for $kind { const RISES: bool = $rises; })* };
}

// Versions and numbers; of equal rank are digests, of which each is at least itself and no other.
scale!(true: u8, u32, u64, snp::Tcb, snp::policy::Bits, snp::parse::Firmware, tdx::tcb::TcbStatus);
scale!(false: bool, String, Bytes, snp::KeyKind, snp::Product, snp::Revocation, nitro::policy::Age, gcp::Technology);

impl<const N: usize> Scale for Hex<N> {
    const RISES: bool = true;
}

impl<T: Scale> Requirement<T> {
    /// Whether `actual` meets it; a waiver isn't met but recorded, see [`Requirement::apply`].
    fn is_met(&self, actual: &T) -> bool {
        match self {
            Self::Exact(wanted) => actual == wanted,
            Self::AtLeast(floor) => T::RISES && actual >= floor,
            Self::AnyOf(wanted) => wanted.contains(actual),
            Self::Waived { .. } => false,
        }
    }

    /// Whether evidence that says `actual` isn't refused for it.
    pub fn allows(&self, actual: &T) -> bool {
        matches!(self, Self::Waived { .. }) || self.is_met(actual)
    }

    /// Records whether `actual` meets the requirement; `None` (the evidence doesn't say) meets none but a waiver.
    pub fn apply(
        &self,
        checks: &mut Checks,
        name: &str,
        actual: Option<&T>,
        show: impl Fn(&T) -> String,
        message: &str,
    ) -> bool {
        if let Self::Waived { reason } = self {
            checks.waived(name, reason);
            return !reason.trim().is_empty();
        }
        let expected = match self {
            Self::Exact(wanted) => show(wanted),
            Self::AtLeast(floor) if T::RISES => format!("at least {}", show(floor)),
            Self::AtLeast(_) => "nothing: such values have no scale".into(),
            Self::AnyOf(wanted) if wanted.is_empty() => "nothing: the list is empty".into(),
            Self::AnyOf(wanted) => wanted.iter().map(&show).collect::<Vec<_>>().join(" or "),
            Self::Waived { .. } => String::new(),
        };
        checks.check(name, actual.is_some_and(|a| self.is_met(a)), expected, actual.map(show), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(requirement: &Requirement<u8>, actual: Option<u8>) -> bool {
        let mut checks = Checks::default();
        let met = requirement.apply(&mut checks, "x", actual.as_ref(), u8::to_string, "x");
        assert_eq!(met, checks.accepted());
        met
    }

    #[test]
    fn each_way_to_want_a_value_accepts_only_what_it_says() {
        for (requirement, yes, no) in
            [(Requirement::Exact(3), 3, 4), (Requirement::AtLeast(3), 4, 2), (Requirement::AnyOf(vec![1, 3]), 1, 2)]
        {
            assert!(accepts(&requirement, Some(yes)));
            assert!(!accepts(&requirement, Some(no)));
            assert!(!accepts(&requirement, None));
        }
        assert!(!accepts(&Requirement::AnyOf(vec![]), Some(0)));
        for (floor, actual) in [(false, true), (true, true)] {
            let mut checks = Checks::default();
            assert!(!Requirement::AtLeast(floor).apply(&mut checks, "x", Some(&actual), bool::to_string, "x"));
        }
        assert!(accepts(&Requirement::Waived { reason: "test".into() }, None));
        assert!(!accepts(&Requirement::Waived { reason: String::new() }, Some(1)));
    }
}
