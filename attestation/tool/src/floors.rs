//! `floors`: the TCB that a platform's SEV-SNP machines should have at least, as members of a policy.

use std::fmt::Write as _;

use constellation_attestation::{
    platform::Platform,
    reference::Requirement,
    snp::{Policy, floors::Bundle, tcb::PerProduct},
};
use jiff::Timestamp;
use serde::Serialize;

use crate::input::Error;

/// Floors with what they rest on.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Floors {
    /// Since when they should be held.
    from: Timestamp,
    /// Whose machines they are for.
    platform: Platform,
    /// Bulletins, and what else decides.
    because: String,
    /// Members of the policy's `snp`.
    policy: Members,
}

#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Members {
    reported_tcb: PerProduct,
    committed_tcb: PerProduct,
    launch_tcb: PerProduct,
    provisional: Requirement<bool>,
}

/// Floors that should be held at a time.
///
/// # Errors
/// When none are known for the platform then.
pub fn run(platform: Platform, at: Timestamp) -> Result<Floors, Error> {
    let unknown = "no floors are known for it at that time: known are those of aws-snp, azure-snp, gcp-snp and snp since 2025-02-03";
    let bundle = Bundle::of(platform, at).ok_or_else(|| Error::said(platform.as_str(), unknown))?;
    let mut policy = Policy::strict();
    bundle.apply(&mut policy);
    let Policy { reported_tcb, committed_tcb, launch_tcb, provisional, .. } = policy;
    let policy = Members { reported_tcb, committed_tcb, launch_tcb, provisional };
    Ok(Floors { from: bundle.from, platform, because: bundle.because, policy })
}

impl Floors {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { from, platform, because, policy } = self;
        let mut text = format!("{platform} since {from}: {because}\n");
        for (name, floors) in
            [("reported", &policy.reported_tcb), ("committed", &policy.committed_tcb), ("launch", &policy.launch_tcb)]
        {
            for (product, floor) in &floors.0 {
                if let Requirement::AtLeast(floor) = floor {
                    let _ = writeln!(text, "{name:9} {product:6} {floor}");
                }
            }
        }
        text
    }
}
