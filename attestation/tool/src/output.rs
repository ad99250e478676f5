//! Results as text, for people.

use std::fmt::Write as _;

use constellation_attestation::result::{Checks, Outcome};

/// Every clause, one line each, what fails with what was wanted and seen; then the verdict.
#[must_use]
pub fn checks(checks: &Checks) -> String {
    let mut text = String::new();
    for clause in checks.clauses() {
        let word = match clause.outcome {
            Outcome::Holds => "holds ",
            Outcome::Fails => "FAILS ",
            Outcome::Waived => "waived",
        };
        let _ = writeln!(text, "{word} {}: {}", clause.name, clause.message);
        if clause.outcome == Outcome::Fails {
            for (what, value) in [("wanted", &clause.expected), ("found", &clause.actual)] {
                if let Some(value) = value {
                    let _ = writeln!(text, "         {what:6} {value}");
                }
            }
        }
    }
    let _ = writeln!(text, "{}", if checks.accepted() { "accepted" } else { "refused" });
    text
}
