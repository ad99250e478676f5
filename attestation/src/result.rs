//! Result of checking evidence: every clause that was looked at, what it wanted, what it saw.

use serde::{Deserialize, Serialize};

/// How a clause came out. There is no fourth way: what wasn't looked at isn't in the list, and a list
/// without a failure proves nothing unless its author names the clauses it must hold.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was checked and holds.
    Holds,
    /// It was checked and doesn't hold, or what it needs is missing.
    Fails,
    /// The policy says, with a reason, that it needn't hold.
    Waived,
}

/// One clause of an appraisal.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Clause {
    /// Stable name, for example `snp.policy.debug`; see the generated reference page.
    pub name: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What the evidence says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// In words, for the owner; never for the peer.
    pub message: String,
}

/// Collects clauses while evidence is checked. It starts with none and then isn't [accepted](Self::accepted).
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(transparent)]
pub struct Checks {
    clauses: Vec<Clause>,
}

impl Checks {
    /// Records whether a clause holds; gives it back.
    pub fn check(
        &mut self,
        name: &str,
        holds: bool,
        expected: impl Into<Option<String>>,
        actual: impl Into<Option<String>>,
        message: &str,
    ) -> bool {
        let outcome = if holds { Outcome::Holds } else { Outcome::Fails };
        let (expected, actual) = (expected.into(), actual.into());
        self.clauses.push(Clause { name: name.into(), outcome, expected, actual, message: message.into() });
        holds
    }

    /// Records a clause that holds.
    pub fn holds(&mut self, name: &str, message: &str) {
        self.check(name, true, None, None, message);
    }

    /// Records a clause that doesn't hold.
    pub fn fails(&mut self, name: &str, message: &str) {
        self.check(name, false, None, None, message);
    }

    /// Records a clause that the policy waives. A waiver without a reason is a failure.
    pub fn waived(&mut self, name: &str, reason: &str) {
        let outcome = if reason.trim().is_empty() { Outcome::Fails } else { Outcome::Waived };
        let message = if outcome == Outcome::Fails { "waived without a reason" } else { reason };
        self.clauses.push(Clause { name: name.into(), outcome, expected: None, actual: None, message: message.into() });
    }

    /// Takes over the clauses of a part of the evidence.
    pub fn extend(&mut self, other: Checks) {
        self.clauses.extend(other.clauses);
    }

    /// Takes over the clauses about a proof, and gives what came of them if all hold. Where all hold and nothing came of
    /// them, `name` fails: an examination that ends early without a word proves nothing.
    pub fn prove<T>(&mut self, own: Self, found: Option<T>, name: &str) -> Option<T> {
        let holds = own.accepted();
        self.extend(own);
        if holds && found.is_none() {
            self.fails(name, "the examination came to no end");
        }
        found.filter(|_| holds)
    }

    /// Whether something was checked and nothing failed.
    #[must_use]
    pub fn accepted(&self) -> bool {
        !self.clauses.is_empty() && self.failures().next().is_none()
    }

    /// The clauses that don't hold, in the order they were checked.
    pub fn failures(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(|c| c.outcome == Outcome::Fails)
    }

    /// All clauses, in the order they were checked.
    #[must_use]
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_checked_is_nothing_accepted() {
        assert!(!Checks::default().accepted());
        let mut checks = Checks::default();
        checks.holds("a", "fine");
        assert!(checks.accepted());
        checks.waived("b", " ");
        assert!(!checks.accepted());
        checks.waived("c", "known");
        assert_eq!(checks.failures().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b"]);
        let said: Vec<_> = checks.clauses().iter().map(|c| c.message.as_str()).collect();
        assert_eq!(said, ["fine", "waived without a reason", "known"]);
    }

    #[test]
    fn clauses_that_hold_and_come_to_nothing_are_no_proof() {
        let of = |holds: bool, found: Option<()>| {
            let (mut checks, mut own) = (Checks::default(), Checks::default());
            own.check("a", holds, None, None, "");
            let proof = checks.prove(own, found, "b");
            (proof, checks.failures().map(|clause| clause.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(of(true, Some(())), (Some(()), vec![]));
        assert_eq!(of(false, Some(())), (None, vec!["a".to_owned()]));
        assert_eq!(of(false, None), (None, vec!["a".to_owned()]));
        assert_eq!(of(true, None), (None, vec!["b".to_owned()]));
    }
}
