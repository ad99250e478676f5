//! Attestation reports, versions 2 to 5 (AMD SEV Secure Nested Paging Firmware ABI, document 56860, revision 1.58,
//! table "`ATTESTATION_REPORT` Structure"): bytes to members, nothing judged.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{clause, tcb::RawTcb};
use crate::bytes::{Hex, Measurement, Reader, Short};

/// Bytes of a report with its signature; the same in all versions.
pub const BYTES: usize = 1184;
/// Bytes that the signature is over: all before it.
pub const SIGNED_BYTES: usize = 0x2a0;
/// Versions that we know. Version 1 was never shipped.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;
/// Bytes of one number of the signature, little-endian.
pub const SIGNATURE_NUMBER: usize = 72;

/// Bits of a guest's policy, same document, table "Guest Policy Structure".
pub mod guest_policy {
    /// Two threads may share a core.
    pub const SMT: u64 = 1 << 16;
    /// Must be one.
    pub const RESERVED_ONE: u64 = 1 << 17;
    /// A migration agent may be bound.
    pub const MIGRATE_MA: u64 = 1 << 18;
    /// The host may debug the guest.
    pub const DEBUG: u64 = 1 << 19;
    /// One socket only.
    pub const SINGLE_SOCKET: u64 = 1 << 20;
    /// CXL devices may be there.
    pub const CXL_ALLOW: u64 = 1 << 21;
    /// Memory must be encrypted with AES-256-XTS.
    pub const MEM_AES_256_XTS: u64 = 1 << 22;
    /// Power measurement must be off.
    pub const RAPL_DIS: u64 = 1 << 23;
    /// Ciphertext must be hidden.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 24;
    /// Pages must not be swapped or moved.
    pub const PAGE_SWAP_DISABLE: u64 = 1 << 25;
    /// Everything above and the two bytes of the least ABI version, which the firmware enforces.
    pub const KNOWN: u64 = (1 << 26) - 1;
}

/// Bits of the platform's information, same document, table "`PLATFORM_INFO`".
pub mod platform_info {
    /// Two threads share a core.
    pub const SMT: u64 = 1;
    /// All memory is encrypted.
    pub const TSME: u64 = 1 << 1;
    /// Memory corrects errors.
    pub const ECC: u64 = 1 << 2;
    /// Power measurement is off.
    pub const RAPL_DIS: u64 = 1 << 3;
    /// Ciphertext is hidden.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 4;
    /// Memory was checked for aliases and has none.
    pub const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
    /// Trusted I/O is on.
    pub const TIO: u64 = 1 << 7;
}

/// Why bytes aren't a report.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not the length of a report.
    #[error("{0} bytes instead of {BYTES}")]
    Length(usize),
    /// It ends inside a member.
    #[error("ends in {0}")]
    Short(&'static str),
    /// A version that we don't know.
    #[error("version {0} instead of 2 to 5")]
    Version(u32),
}

impl Error {
    /// The clause that doesn't hold.
    #[must_use]
    pub fn clause(&self) -> &'static str {
        match self {
            Self::Length(_) | Self::Short(_) => clause::REPORT_STRUCTURE,
            Self::Version(_) => clause::REPORT_VERSION,
        }
    }
}

impl From<Short> for Error {
    fn from(Short(what): Short) -> Self {
        Self::Short(what)
    }
}

/// What a processor says of itself by `CPUID`; there from version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// Base and extended family together.
    pub family: u8,
    /// Base and extended model together.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// Version of the firmware of the secure processor.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// A report as it came; member names are those of the ABI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// 2 to 5.
    pub version: u32,
    /// Security version in the guest's identity.
    pub guest_svn: u32,
    /// See [`guest_policy`].
    pub policy: u64,
    /// Family in the guest's identity.
    pub family_id: Hex<16>,
    /// Image in the guest's identity.
    pub image_id: Hex<16>,
    /// Privilege level of who asked: 0 to 3, or 0xffffffff for the host.
    pub vmpl: u32,
    /// 1 is ECDSA P-384 with SHA-384.
    pub signature_algo: u32,
    /// TCB that runs.
    pub current_tcb: RawTcb,
    /// See [`platform_info`].
    pub platform_info: u64,
    /// What kind of key signed, and two switches.
    pub key_info: u32,
    /// What the guest wanted attested.
    pub report_data: Hex<64>,
    /// Digest of the launch.
    pub measurement: Measurement,
    /// What the host told the launch.
    pub host_data: Hex<32>,
    /// Digest of the key that signed the guest's identity.
    pub id_key_digest: Measurement,
    /// Digest of the key that signed that key.
    pub author_key_digest: Measurement,
    /// Identity of the guest.
    pub report_id: Hex<32>,
    /// Identity of its migration agent; all ones without one.
    pub report_id_ma: Hex<32>,
    /// TCB that the signing key stands for.
    pub reported_tcb: RawTcb,
    /// The processor; there from version 3.
    pub cpuid: Option<Cpuid>,
    /// Identity of the processor.
    pub chip_id: Hex<64>,
    /// TCB below which the platform can't be rolled back.
    pub committed_tcb: RawTcb,
    /// Firmware that runs.
    pub current_firmware: Firmware,
    /// Firmware below which it can't be rolled back.
    pub committed_firmware: Firmware,
    /// TCB when the guest was launched.
    pub launch_tcb: RawTcb,
    /// Mitigations at launch; there from version 5.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations now; there from version 5.
    pub current_mit_vector: Option<u64>,
    /// First number of the signature, little-endian.
    pub signature_r: Hex<SIGNATURE_NUMBER>,
    /// Second number of the signature, little-endian.
    pub signature_s: Hex<SIGNATURE_NUMBER>,
    /// Whether the rest of the signature's space is zero, as it must be: the signature doesn't cover it.
    pub signature_rest_is_zero: bool,
}

impl Report {
    /// Parses a report. Total: refuses, never panics.
    ///
    /// Reserved members are the signer's to fill; they are signed and not looked at.
    ///
    /// # Errors
    /// When it has another length or version.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != BYTES {
            return Err(Error::Length(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let r = &mut reader;
        let version = r.u32("version")?;
        if !VERSIONS.contains(&version) {
            return Err(Error::Version(version));
        }
        let report = Self {
            version,
            guest_svn: r.u32("guest_svn")?,
            policy: r.u64("policy")?,
            family_id: r.hex("family_id")?,
            image_id: r.hex("image_id")?,
            vmpl: r.u32("vmpl")?,
            signature_algo: r.u32("signature_algo")?,
            current_tcb: RawTcb(r.array("current_tcb")?),
            platform_info: r.u64("platform_info")?,
            key_info: r.u32("key_info")?,
            report_data: {
                r.take(4, "reserved")?;
                r.hex("report_data")?
            },
            measurement: r.hex("measurement")?,
            host_data: r.hex("host_data")?,
            id_key_digest: r.hex("id_key_digest")?,
            author_key_digest: r.hex("author_key_digest")?,
            report_id: r.hex("report_id")?,
            report_id_ma: r.hex("report_id_ma")?,
            reported_tcb: RawTcb(r.array("reported_tcb")?),
            cpuid: cpuid(r)?.filter(|_| version >= 3),
            chip_id: r.hex("chip_id")?,
            committed_tcb: RawTcb(r.array("committed_tcb")?),
            current_firmware: firmware(r)?,
            committed_firmware: firmware(r)?,
            launch_tcb: RawTcb(r.array("launch_tcb")?),
            launch_mit_vector: Some(r.u64("launch_mit_vector")?).filter(|_| version >= 5),
            current_mit_vector: Some(r.u64("current_mit_vector")?).filter(|_| version >= 5),
            signature_r: {
                r.take(152, "reserved")?;
                r.hex("signature")?
            },
            signature_s: r.hex("signature")?,
            signature_rest_is_zero: r.take(368, "signature")?.iter().all(|byte| *byte == 0),
        };
        Ok(report)
    }

    /// Whether a bit of the guest's policy is one.
    #[must_use]
    pub const fn allows(&self, bit: u64) -> bool {
        self.policy & bit != 0
    }

    /// Whether a bit of the platform's information is one.
    #[must_use]
    pub const fn platform(&self, bit: u64) -> bool {
        self.platform_info & bit != 0
    }
}

fn cpuid(reader: &mut Reader<'_>) -> Result<Option<Cpuid>, Short> {
    let [family, model, stepping] = reader.array("cpuid")?;
    reader.take(21, "reserved")?;
    Ok(Some(Cpuid { family, model, stepping }))
}

fn firmware(reader: &mut Reader<'_>) -> Result<Firmware, Short> {
    let [build, minor, major, _reserved] = reader.array("firmware")?;
    Ok(Firmware { major, minor, build })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_is_told_by_its_version() {
        assert_eq!(Firmware { major: 1, minor: 55, build: 29 }.to_string(), "1.55.29");
    }
}
