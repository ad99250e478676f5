//! Runs a manifest of cases and compares each verdict with the one that it must have.
//!
//! One case: read its files, verify and appraise them under the case's policy, list the clauses that fail. A case that
//! expects `policy` is run twice: strictly, which must fail, and with exactly the failing clauses waived, which must
//! be accepted. A case that can't be read, or whose file is missing, has no verdict; the other cases are judged
//! all the same.

mod cloud;
mod form;
pub mod manifest;
mod mixed;
mod snp;
mod tdx;

use std::path::Path;

use constellation_attestation::{bytes::Hex, reference::Requirement, result::Checks};
use jiff::Timestamp;
use serde::Serialize;

use self::manifest::{Case, Expect, Manifest, Stated};
use crate::input::{self, Error};

pub(crate) use self::{mixed::replayed, tdx::anchor as tdx_anchor};

/// Verdict on evidence.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every clause holds or is waived.
    Accept,
    /// A clause fails.
    Reject,
}

/// How one case came out; one line of the output.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Name of the case.
    pub name: String,
    /// Verdict of the strict policy.
    pub verdict: Verdict,
    /// Names of the clauses that fail.
    pub clauses: Vec<String>,
    /// Verdict that the manifest wants.
    pub expect: &'static str,
    /// Whether it is as wanted.
    pub ok: bool,
}

/// Why a clause is waived that a case says nothing about.
const ABSENT: &str = "the case has no value for it";
/// Why a clause is waived in the second run of a case that expects `policy`.
const WAIVED: &str = "the case expects that only policy refuses it";

/// What evaluating evidence gave.
#[derive(Debug)]
struct Evaluated {
    /// Every clause.
    checks: Checks,
    /// Whether a fact that the manifest states besides the verdict (a TCB status) is as stated.
    facts: bool,
}

impl From<Checks> for Evaluated {
    fn from(checks: Checks) -> Self {
        Self { checks, facts: true }
    }
}

/// How the cases of a manifest come out, one by one; of one that can't be used, why.
pub type Lines = Box<dyn Iterator<Item = Result<Line, Error>>>;

/// Runs the cases of the manifest at `path`, each when it is asked for; `now` is the time for cases that name none.
///
/// # Errors
/// When the manifest or its trust anchors can't be used, or it has no cases.
pub fn run(path: &Path, now: Timestamp) -> Result<Lines, Error> {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let parsed = Manifest::parse(&input::read(path)?).map_err(|source| Error::Json {
        path: path.to_owned(),
        what: "a manifest of cases",
        source,
    })?;
    if parsed.is_empty() {
        return Err(Error::said(path.display().to_string(), "there is no case in it: nothing is judged"));
    }
    Ok(match parsed {
        Manifest::Mixed(cases) => each(cases, move |case, waived| mixed::evaluate(&folder, case, now, waived)),
        Manifest::Tdx(manifest) => {
            let anchors = tdx::anchor(&folder.join(&manifest.trust_anchor))?;
            each(manifest.cases, move |case, waived| {
                tdx::evaluate(&folder, &tdx::Case::new(case, now), &anchors, waived)
            })
        }
        Manifest::Snp(manifest) => {
            let anchors = snp::anchors(&folder, &manifest)?;
            each(manifest.cases, move |case, waived| snp::evaluate(&folder, case, &anchors, now, waived))
        }
    })
}

/// Judges each case of one form.
fn each<T: Case>(cases: Vec<Stated>, evaluate: impl Fn(&T, &[String]) -> Result<Evaluated, Error> + 'static) -> Lines {
    Box::new(cases.into_iter().zip(1..).map(move |(stated, place): (Stated, usize)| {
        let case: T = stated.read().map_err(|error| {
            let name = stated.name().unwrap_or_else(|| format!("number {place}"));
            Error::value(format!("case {name}"), &error)
        })?;
        judge(case.name(), case.expect(), |waived| evaluate(&case, waived))
    }))
}

/// Gives the verdict on one case. `evaluate` is given the names of the clauses to waive.
fn judge(name: &str, expect: Expect, evaluate: impl Fn(&[String]) -> Result<Evaluated, Error>) -> Result<Line, Error> {
    let named = |error: Error| Error::value(format!("case {name}"), &error);
    let strict = evaluate(&[]).map_err(named)?;
    let mut clauses: Vec<String> = Vec::new();
    for clause in strict.checks.failures() {
        if !clauses.contains(&clause.name) {
            clauses.push(clause.name.clone());
        }
    }
    let verdict = if strict.checks.accepted() { Verdict::Accept } else { Verdict::Reject };
    let as_wanted = match expect {
        Expect::Accept => verdict == Verdict::Accept,
        Expect::Reject => verdict == Verdict::Reject,
        Expect::Policy => {
            verdict == Verdict::Reject && !clauses.is_empty() && {
                let waived = evaluate(&clauses).map_err(named)?;
                waived.checks.accepted() && waived.facts
            }
        }
    };
    Ok(Line { name: name.to_owned(), verdict, clauses, expect: expect.as_str(), ok: as_wanted && strict.facts })
}

/// Any of the values in a manifest. One of another length is none of them: evidence never equals it.
fn any_of<const N: usize>(name: &str, values: &[String]) -> Result<Requirement<Hex<N>>, Error> {
    let values = values.iter().map(|digits| input::hex(name, digits)).collect::<Result<Vec<_>, _>>()?;
    Ok(Requirement::AnyOf(values.into_iter().filter_map(|value| value.try_into().ok().map(Hex)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evidence that fails at `failing`, unless that is waived.
    fn evidence(failing: &[&str]) -> impl Fn(&[String]) -> Result<Evaluated, Error> {
        move |waived| {
            let mut checks = Checks::default();
            checks.holds("signature", "genuine");
            for name in failing {
                if waived.iter().any(|w| w == name) {
                    checks.waived(name, "test");
                } else {
                    checks.fails(name, "differs");
                }
            }
            Ok(checks.into())
        }
    }

    #[test]
    fn a_case_is_ok_only_with_the_verdict_it_expects() {
        for (failing, expect, ok) in [
            (&[][..], Expect::Accept, true),
            (&[], Expect::Reject, false),
            (&[], Expect::Policy, false),
            (&["a"], Expect::Accept, false),
            (&["a"], Expect::Reject, true),
            (&["a", "b"], Expect::Policy, true),
        ] {
            let line = judge("x", expect, evidence(failing)).unwrap();
            assert_eq!(
                (line.ok, line.clauses.as_slice()),
                (ok, failing.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice())
            );
        }
    }

    #[test]
    fn what_can_not_be_waived_is_no_matter_of_policy() {
        let forged = |_: &[String]| {
            let mut checks = Checks::default();
            checks.fails("signature", "forged");
            Ok(checks.into())
        };
        assert!(!judge("x", Expect::Policy, forged).unwrap().ok);
        assert!(judge("x", Expect::Reject, forged).unwrap().ok);
    }

    #[test]
    fn a_stated_fact_that_differs_is_not_ok() {
        let wrong = |_: &[String]| {
            let mut checks = Checks::default();
            checks.fails("tcb", "revoked");
            Ok(Evaluated { checks, facts: false })
        };
        assert!(!judge("x", Expect::Reject, wrong).unwrap().ok);
    }
}
