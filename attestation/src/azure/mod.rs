//! Azure: a TPM that the paravisor (HCL) keeps for the guest, and the processor's report that speaks for its key.
//!
//! In the order it happens: [`hcl`] reads the paravisor's report; [`verify`](mod@verify) verifies the processor's report
//! in it (SEV-SNP) or the quote made from it (TDX), which must speak for the runtime data, takes the TPM's key out of
//! these, and checks the TPM's quote; the [`policy`] says which machine it must be. A machine of Trusted Launch has no
//! such report and is refused there; what it shows is evidence of another form, see [`trusted_launch`].

pub mod clause;
pub mod hcl;
pub mod policy;
pub mod trusted_launch;
pub mod verify;

pub use self::{
    policy::{Hardware, Policy},
    verify::{Anchors, Endorsement, Evidence, Machine, examine, verify, verify_and_appraise},
};
