//! The page that ties a kernel to firmware: hashes of kernel, initial RAM disk and command line, which the firmware checks
//! before it starts them (QEMU, `target/i386/sev.c`, `SevHashTable`; edk2, `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`).

use sha2::{Digest as _, Sha256};

use super::{context::PAGE_BYTES, firmware::Guid};

/// Identifies the table.
const TABLE: Guid = Guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
/// Identifies the hash of the command line.
const COMMAND_LINE: Guid = Guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
/// Identifies the hash of the initial RAM disk.
const INITRD: Guid = Guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
/// Identifies the hash of the kernel.
const KERNEL: Guid = Guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);

/// Bytes of an entry: identity, length, hash.
const ENTRY_BYTES: u16 = 16 + 2 + 32;
/// Bytes of the table: identity, length, three entries.
const TABLE_BYTES: u16 = 16 + 2 + 3 * ENTRY_BYTES;
/// Bytes that the table takes, rounded up to a multiple of 16.
pub const PADDED_BYTES: u64 = (TABLE_BYTES as u64).next_multiple_of(16);

/// What a monitor loads for the firmware, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    image: [u8; 32],
    initrd: [u8; 32],
    command_line: [u8; 32],
}

/// A command line that no kernel sees whole.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("the command line holds a zero byte, where a kernel's ends: give it without")]
pub struct ZeroByte;

impl Kernel {
    /// A kernel with its initial RAM disk (empty: none) and its command line, exactly as the monitor is given it.
    ///
    /// # Errors
    /// When the command line holds a zero byte.
    pub fn new(kernel: &[u8], initrd: &[u8], command_line: &str) -> Result<Self, ZeroByte> {
        if command_line.contains('\0') {
            return Err(ZeroByte);
        }
        Ok(Self {
            image: Sha256::digest(kernel).into(),
            initrd: Sha256::digest(initrd).into(),
            command_line: Sha256::new().chain_update(command_line).chain_update([0]).finalize().into(),
        })
    }

    /// The page: the table at an offset, zeros around it. What would stand behind the page's end is cut.
    #[must_use]
    pub fn page(&self, offset: u64) -> Vec<u8> {
        let mut page = vec![0; usize::try_from(offset.min(PAGE_BYTES)).unwrap_or_default()];
        page.extend(TABLE.to_bytes());
        page.extend(TABLE_BYTES.to_le_bytes());
        for (guid, hash) in [(COMMAND_LINE, self.command_line), (INITRD, self.initrd), (KERNEL, self.image)] {
            page.extend(guid.to_bytes());
            page.extend(ENTRY_BYTES.to_le_bytes());
            page.extend(hash);
        }
        page.resize(4096, 0);
        page
    }
}
