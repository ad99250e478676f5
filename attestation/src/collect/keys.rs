//! The TPM's two keys: the certified endorsement key, and the attestation key made from a fixed template.

use super::{Doing as _, Error, transport::Wire};
use crate::guest::commands;

/// Where the RSA-2048 EK is kept by those who made it (TCG Provisioning Guidance, table 2).
const EK_PERSISTENT: u32 = 0x8101_0001;
/// Its certificate (TCG EK Credential Profile, 2.2.1.4).
pub(super) const EK_CERTIFICATE: u32 = 0x01c0_0002;

/// A key inside the TPM.
pub(super) struct Key {
    pub(super) handle: u32,
    /// `TPM2B_PUBLIC`.
    pub(super) public: Vec<u8>,
    /// Whether it was made here, and takes one of the TPM's few places until it is flushed.
    pub(super) made: bool,
}

impl Key {
    /// Gives back the place that it takes. Who can't be reached keeps it. The kernel's resource manager empties it
    /// by itself when this process ends; a TPM that is spoken to without one doesn't.
    pub(super) fn flush(&self, wire: &mut dyn Wire) {
        if self.made {
            let _ = super::send(wire, "flushing a key", &commands::flush(self.handle));
        }
    }
}

/// The persistent RSA-2048 endorsement key, or one made from the default template, which is the same key.
pub(super) fn endorsement_key(wire: &mut dyn Wire) -> Result<Key, Error> {
    if exists(wire, EK_PERSISTENT)? {
        let key = persistent(wire, EK_PERSISTENT)?;
        // Somebody may have put another one there.
        if commands::is_endorsement_key(&key.public) {
            return Ok(key);
        }
    }
    primary(wire, &commands::endorsement_template(), "making the endorsement key")
}

/// A key that somebody else made persistent.
pub(super) fn persistent(wire: &mut dyn Wire, handle: u32) -> Result<Key, Error> {
    const DOING: &str = "reading a persistent key";
    let read = super::send(wire, DOING, &commands::read_public(handle))?;
    Ok(Key { handle, public: commands::public(&read.parameters).doing(DOING)?, made: false })
}

/// A P-256 key that signs only what the TPM itself made; the template is a constant, so the key survives reboots.
pub(super) fn attestation_key(wire: &mut dyn Wire) -> Result<Key, Error> {
    primary(wire, &commands::attestation_template(), "making the attestation key")
}

/// The key of the endorsement hierarchy that follows from this template.
pub(super) fn primary(wire: &mut dyn Wire, template: &[u8], doing: &'static str) -> Result<Key, Error> {
    let made = super::send(wire, doing, &commands::create_primary(template))?;
    Ok(Key { handle: made.handle, public: commands::public(&made.parameters).doing(doing)?, made: true })
}

/// Whether the TPM has this handle; asking is quieter than using one that isn't there.
pub(super) fn exists(wire: &mut dyn Wire, handle: u32) -> Result<bool, Error> {
    const DOING: &str = "looking for a handle";
    let found = super::send(wire, DOING, &commands::look_for(handle))?;
    commands::is_there(&found.parameters, handle).doing(DOING)
}
