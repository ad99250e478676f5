//! Intel TDX: is this quote of a genuine trust domain, and of the wanted one?
//!
//! In the order it happens: [`quote`] and [`collateral`] parse; [`verify`] follows the signatures from the trust anchor
//! through the platform's certificate ([`pck`]) and the quoting enclave to the quote, and finds Intel's verdict about
//! the platform ([`tcb`]); [`appraise`](mod@appraise) compares the proven trust domain with the owner's [`policy`].
//! [`ccel`] replays the firmware's log to explain a register; it proves nothing.

pub mod appraise;
pub mod ccel;
pub mod clause;
pub mod collateral;
pub mod endorsement;
pub mod pck;
mod pki;
pub mod policy;
pub mod quote;
pub mod tcb;
pub mod verify;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

pub use self::{
    pki::{Anchors, Error as PkiError},
    policy::Policy,
    tcb::TcbStatus,
    verify::Td,
};
pub use crate::bytes;
use crate::{result::Checks, verified::Verified};

/// What an attester sent, and what Intel says about its platform. Neither is trusted; who brings it doesn't matter.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The quote, raw.
    pub quote: &'a [u8],
    /// The collateral, JSON; see [`collateral::Collateral`].
    pub collateral: &'a [u8],
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Every clause that was looked at.
    pub checks: Checks,
    /// Status of platform, TDX module and quoting enclave together; `None` when the quote isn't genuine.
    pub tcb_status: Option<TcbStatus>,
    /// The trust domain, when it is genuine; whether it is wanted, the checks say.
    pub td: Option<Verified<Td>>,
    /// SHA-256 of the quote as it came, hex: names the evidence in records.
    pub evidence_digest: String,
}

/// Verifies a quote with its collateral at a time, and appraises the trust domain.
///
/// Never fails: what can't be parsed is a clause that doesn't hold. When the quote isn't genuine nothing it says is
/// appraised.
#[must_use]
pub fn verify_and_appraise(evidence: &Evidence<'_>, anchors: &Anchors, policy: &Policy, now: Timestamp) -> Outcome {
    let mut checks = Checks::default();
    let td = verify::verify(evidence, anchors, now, &mut checks);
    if let Some(td) = &td {
        appraise::appraise(td, policy, now, &mut checks);
    }
    Outcome {
        checks,
        tcb_status: td.as_ref().map(|td| td.get().tcb.status),
        td,
        evidence_digest: hex::encode(digest(&SHA256, evidence.quote)),
    }
}
