//! Is this machine what it claims, and is it ours?
//!
//! The story, in the order it happens: a verifier sends a [`protocol::Challenge`]; the attester collects
//! evidence whose report data is the one [`binding`] of everything the conversation is about; the verifier
//! parses it ([`tpm`]), verifies it into a [`verified::Verified`], and appraises that against an owner-signed
//! [`policy::TrustPolicy`]. Only then it releases a secret, sealed ([`seal`]) to a key inside the evidence.
//!
//! No Kubernetes, no cloud, no clock, no network: time and collateral are arguments.

pub mod appraise;
pub mod azure;
pub mod binding;
#[cfg(feature = "channel")]
pub mod boot;
pub mod bytes;
#[cfg(feature = "channel")]
pub mod channel;
pub mod collateral;
#[cfg(feature = "collect")]
pub mod collect;
pub mod credential;
pub mod delivery;
pub mod dsse;
#[cfg(feature = "channel")]
pub mod dumps;
pub mod endorsement;
pub mod endorsers;
pub mod gcp;
pub mod guest;
pub mod keys;
pub mod machine;
pub mod nitro;
pub mod owner;
pub mod place;
pub mod platform;
pub mod policy;
pub mod predict;
pub mod protocol;
pub mod published;
pub mod reference;
pub mod result;
pub mod seal;
#[cfg(feature = "channel")]
pub mod seats;
#[cfg(feature = "channel")]
pub mod session;
pub mod settings;
pub mod snp;
pub mod tdx;
pub mod told;
pub mod tpm;
pub mod verified;
pub mod x509;
