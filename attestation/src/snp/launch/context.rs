//! The chain that a launch digest is: one link for each page, in the order the monitor gives them.

use sha2::{Digest as _, Sha384};

use crate::bytes::{Hex, Measurement};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

/// Bytes of `PAGE_INFO` (AMD document 56860, revision 1.58, table "Layout of the `PAGE_INFO` Structure").
const PAGE_INFO_BYTES: u16 = 0x70;

/// What a page is to the processor: `PAGE_TYPE` (document 56860, table "Encodings for the `PAGE_TYPE` Field").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// `PAGE_TYPE_NORMAL`: its content is measured.
    Normal = 1,
    /// `PAGE_TYPE_VMSA`: as normal, the first state of a virtual processor.
    SaveArea = 2,
    /// `PAGE_TYPE_ZERO`: its address is measured, and that it is zero.
    Zero = 3,
    /// `PAGE_TYPE_UNMEASURED`: its address is measured, its content isn't.
    Unmeasured = 4,
    /// `PAGE_TYPE_SECRETS`: its address is measured; the processor writes it.
    Secrets = 5,
    /// `PAGE_TYPE_CPUID`: its address is measured; the processor checks it.
    Cpuid = 6,
}

/// A launch digest that pages are added to: `GCTX.LD`, zero before the first (document 56860, `SNP_LAUNCH_START`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context(Measurement);

impl Default for Context {
    fn default() -> Self {
        Self(Hex::ZERO)
    }
}

impl Context {
    /// Adds pages with their content, the first at an address. A last page that isn't whole is measured as it is.
    pub fn contents(&mut self, kind: PageKind, address: u64, bytes: &[u8]) {
        for (page, number) in bytes.chunks(4096).zip(0..) {
            self.link(kind, address.saturating_add(PAGE_BYTES * number), Sha384::digest(page).into());
        }
    }

    /// Adds so many bytes of pages whose content isn't measured, the first at an address.
    pub fn without_contents(&mut self, kind: PageKind, address: u64, bytes: u64) {
        for number in 0..bytes / PAGE_BYTES {
            self.link(kind, address.saturating_add(PAGE_BYTES * number), [0; 48]);
        }
    }

    /// The digest over all that was added.
    #[must_use]
    pub const fn digest(&self) -> Measurement {
        self.0
    }

    /// `PAGE_INFO`: digest so far, content, length of this structure, kind, no initial migration image, no permissions for
    /// lower privilege levels, address.
    fn link(&mut self, kind: PageKind, address: u64, contents: [u8; 48]) {
        let info = Sha384::new()
            .chain_update(self.0.0)
            .chain_update(contents)
            .chain_update(PAGE_INFO_BYTES.to_le_bytes())
            .chain_update([kind as u8, 0, 0, 0, 0, 0])
            .chain_update(address.to_le_bytes());
        self.0 = Hex(info.finalize().into());
    }
}
