//! Google Cloud: a TPM whose attestation key Google certifies, and firmware whose measurements Google signs.
//!
//! In the order it happens: [`verify`](mod@verify) follows the key's certificate to the trust anchor, reads from it which
//! [`instance`] it is, checks the quote and appraises both by a [`policy`]; where the processor reports as well, its
//! report is bound to the same key, and an [`endorsement`] says what firmware it may have measured. Nothing is asked of
//! Google's services.

pub mod clause;
pub mod endorsement;
pub mod instance;
pub mod policy;
pub mod verify;

pub use self::{
    instance::Machine,
    policy::{Policy, Technology},
    verify::{Evidence, Tpm, bind, examine, verify, verify_and_appraise},
};
use crate::x509::chain::Anchors;

/// EK/AK CA Root, valid 2022-07-08 to 2122-07-08; SHA-256 of the certificate starts with `59475959`.
const GOOGLE: &[u8] = include_bytes!("ek_ak_ca_root.der");

/// Google's root for keys of TPMs.
#[must_use]
pub fn google() -> Anchors {
    Anchors::pinned(GOOGLE)
}
