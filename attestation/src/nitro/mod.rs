//! AWS: the attestation document of a `NitroTPM`, which AWS signs. It says what the TPM's registers hold, so no
//! attestation key has to be believed; AWS itself does.
//!
//! In the order it happens: [`document`] parses COSE and [`cbor`]; [`verify`](mod@verify) follows the certificates to the
//! trust anchor and appraises what the document says by a [`policy`]; [`bind`] holds it against the TPM's own quote and,
//! on machines with SEV-SNP, against the report.

pub mod bind;
pub mod cbor;
pub mod clause;
pub mod document;
pub mod policy;
pub mod verify;

pub use self::{
    document::Document,
    policy::Policy,
    verify::{Tpm, appraise, verify},
};
use crate::x509::chain::Anchors;

/// AWS Nitro Enclaves Root G1, valid 2019-10-28 to 2049-10-28; SHA-256 of the certificate starts with `641a0321`.
const AWS: &[u8] = include_bytes!("aws_nitro_root.der");

/// AWS's root for Nitro systems.
#[must_use]
pub fn aws() -> Anchors {
    Anchors::pinned(AWS)
}
