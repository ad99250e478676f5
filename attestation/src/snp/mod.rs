//! AMD SEV-SNP: is this report of a genuine guest, and of the wanted one?
//!
//! In the order it happens: [`parse`] reads the report; [`verify`](mod@verify) follows the [`endorsement`] from the trust
//! anchor to the key, holds it against the report, and checks the signature over the bytes as they came;
//! [`appraise`](mod@appraise) compares the proven guest with the owner's [`policy`].

pub mod appraise;
pub mod clause;
pub mod endorsement;
pub mod floors;
pub mod launch;
pub mod parse;
pub mod policy;
pub mod product;
pub mod tcb;
pub mod verify;

use jiff::Timestamp;

pub use self::{
    endorsement::{Anchors, intermediate_of},
    parse::Report,
    policy::Policy,
    product::{KeyKind, Product},
    tcb::Tcb,
    verify::{Guest, verify},
};
use crate::result::Checks;
pub use crate::x509::Revocation;

/// What an attester sent and what AMD says about its key. None of it is trusted; who brings it doesn't matter. A root
/// that an attester sends along isn't among it: nothing would look at it.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The report, raw.
    pub report: &'a [u8],
    /// Certificate of the key that signed it (VCEK or VLEK), DER.
    pub vek: &'a [u8],
    /// Certificate of that certificate's issuer (ASK or ASVK), DER.
    pub intermediate: &'a [u8],
    /// Revocation list of the root, DER.
    pub crl: Option<&'a [u8]>,
}

/// Verifies a report with its endorsement at a time, and appraises the guest.
///
/// Never fails: what can't be parsed is a clause that doesn't hold. When the report isn't genuine nothing it says is
/// appraised.
#[must_use]
pub fn verify_and_appraise(evidence: &Evidence<'_>, anchors: &Anchors, policy: &Policy, now: Timestamp) -> Checks {
    let mut checks = Checks::default();
    if let Some(guest) = verify(evidence, anchors, now, &mut checks) {
        appraise::appraise(&guest, policy, &mut checks);
    }
    checks
}
