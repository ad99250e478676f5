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
pub(crate) mod tests {
    use std::fmt::Debug;

    use serde_json::{Value, json};

    use super::*;

    fn accepts(requirement: &Requirement<u8>, actual: Option<u8>) -> bool {
        let mut checks = Checks::default();
        let met = requirement.apply(&mut checks, "x", actual.as_ref(), u8::to_string, "x");
        assert_eq!(met, checks.accepted());
        met
    }

    /// What a policy says under `member` once the requirement of a clause is waived; nothing else may have changed.
    pub(crate) fn waived<P: Clone + Serialize>(strict: &P, waive: Waive<P>, name: &str, member: &str) -> Value {
        let mut policy = strict.clone();
        assert!(waive(&mut policy, name, "test"), "{name}");
        let [before, mut after] = [strict, &policy].map(|policy| match serde_json::to_value(policy).unwrap() {
            Value::Object(members) => members,
            other => panic!("{other}"),
        });
        assert!(before.iter().all(|(key, value)| key == member || after[key] == *value), "{name}");
        after.remove(member).unwrap()
    }

    /// Waives the requirement of a clause, with a reason; false when it has none.
    pub(crate) type Waive<P> = fn(&mut P, &str, &str) -> bool;

    /// A waiver is of the requirement of its clause, which is a member of the policy, and of nothing else; the others have
    /// none.
    pub(crate) fn assert_waives<P>(strict: &P, waive: Waive<P>, clauses: &[(&str, &str)], others: &[&str])
    where
        P: Clone + Debug + PartialEq + Serialize,
    {
        for (name, member) in clauses {
            assert_eq!(waived(strict, waive, name, member), json!({"waived": {"reason": "test"}}), "{name}");
        }
        for name in others {
            let mut policy = strict.clone();
            assert!(!waive(&mut policy, name, "test"), "{name}");
            assert_eq!(policy, *strict, "{name}");
        }
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

    #[test]
    fn evidence_is_not_refused_for_what_meets_a_requirement_or_is_waived() {
        let waived = || Requirement::Waived { reason: "test".into() };
        for (requirement, allowed, refused) in [
            (Requirement::Exact(3), &[3][..], &[2, 4][..]),
            (Requirement::AtLeast(3), &[3, 4], &[2]),
            (Requirement::AnyOf(vec![1, 3]), &[1, 3], &[2]),
            (Requirement::AnyOf(vec![]), &[], &[0]),
            (waived(), &[0, 9], &[]),
        ] {
            assert!(allowed.iter().all(|actual| requirement.allows(actual)), "{requirement:?}");
            assert!(!refused.iter().any(|actual: &u32| requirement.allows(actual)), "{requirement:?}");
        }
    }

    #[test]
    fn what_was_wanted_is_told() {
        fn wanted<T: Scale + ToString>(requirement: &Requirement<T>) -> Option<String> {
            let mut checks = Checks::default();
            requirement.apply(&mut checks, "x", None, T::to_string, "x");
            checks.clauses()[0].expected.clone()
        }
        assert_eq!(wanted(&Requirement::Exact(3_u8)).as_deref(), Some("3"));
        assert_eq!(wanted(&Requirement::AtLeast(3_u8)).as_deref(), Some("at least 3"));
        assert_eq!(wanted(&Requirement::AtLeast(true)).as_deref(), Some("nothing: such values have no scale"));
        assert_eq!(wanted(&Requirement::AnyOf(vec![1_u8, 3])).as_deref(), Some("1 or 3"));
        assert_eq!(wanted(&Requirement::<u8>::AnyOf(vec![])).as_deref(), Some("nothing: the list is empty"));
        assert_eq!(wanted(&Requirement::<u8>::Waived { reason: "test".into() }), None);
    }
}
