//! The paravisor's report, NV index 0x01400001: a header, the processor's report, and the runtime data it speaks for.
//!
//! Source: Microsoft, "Guest attestation for confidential virtual machines", sections "Attestation report" and "Runtime
//! data"; all numbers are little endian. Nothing of it is believed before the processor's signature.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::{
    bytes::{Bytes, Hex},
    tpm::public::Key,
};

/// Signature of the header.
const MAGIC: &[u8; 4] = b"HCLA";
/// Versions of the header; the layout is the same.
const VERSIONS: [u32; 2] = [1, 2];
/// Type of request: an attestation report.
const ATTESTATION: u32 = 2;
/// Where the processor's report begins.
const HARDWARE: usize = 0x20;
/// Where it ends, whatever its kind.
const HARDWARE_END: usize = 0x4c0;
/// Bytes of the numbers before the runtime data.
const HEAD: usize = 20;
/// Bytes of a SEV-SNP report.
const SNP_REPORT: usize = 1184;
/// Bytes of a TDX report.
const TD_REPORT: usize = 1024;
/// Name of the attestation key among the keys.
const AK: &str = "HCLAkPub";
/// RSA, RFC 7518, 6.3.
const RSA: &str = "RSA";

/// What isn't as it must be.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is cut, or longer than it says.
    #[error("it is cut, or has other bytes where it ends")]
    Length,
    /// A member has a value that isn't known.
    #[error("{member} is {value}")]
    Value {
        /// Which.
        member: &'static str,
        /// The value.
        value: u32,
    },
    /// It doesn't begin as such a report.
    #[error("it isn't a report of the paravisor")]
    Magic,
    /// The runtime data aren't in their form.
    #[error("the runtime data: {0}")]
    Runtime(String),
}

/// Whose report is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX; the report can only be checked on the machine, so a quote is made from it.
    Tdx,
}

/// The paravisor's report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Whose report is in it.
    pub kind: Kind,
    /// The processor's report.
    pub hardware: &'a [u8],
    hash: &'static digest::Algorithm,
    runtime: &'a [u8],
}

fn number(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Error::Length)?;
    Ok(u32::from_le_bytes(*four))
}

impl<'a> Report<'a> {
    /// Reads a report; the NV index may be longer than it, then the rest is zero.
    ///
    /// # Errors
    /// When a number isn't known, or the lengths don't fit each other.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        let version = number(bytes, 4)?;
        if !VERSIONS.contains(&version) {
            return Err(Error::Value { member: "version", value: version });
        }
        for (member, at, wanted) in [
            ("type of request", 12, ATTESTATION),
            ("status", 16, 0),
            ("first reserved number", 20, 0),
            ("second reserved number", 24, 0),
            ("third reserved number", 28, 0),
            ("version of the runtime data", HARDWARE_END + 4, 1),
        ] {
            let value = number(bytes, at)?;
            if value != wanted {
                return Err(Error::Value { member, value });
            }
        }
        let kind = number(bytes, HARDWARE_END + 8)?;
        let (kind, length) = match kind {
            2 => (Kind::Snp, SNP_REPORT),
            4 => (Kind::Tdx, TD_REPORT),
            value => return Err(Error::Value { member: "type of report", value }),
        };
        let hash = match number(bytes, HARDWARE_END + 12)? {
            1 => &SHA256,
            2 => &SHA384,
            3 => &SHA512,
            value => return Err(Error::Value { member: "type of hash", value }),
        };
        let size = usize::try_from(number(bytes, HARDWARE_END + 16)?).map_err(|_| Error::Length)?;
        let start = HARDWARE_END + HEAD;
        let end = start.checked_add(size).ok_or(Error::Length)?;
        let runtime = bytes.get(start..end).filter(|runtime| !runtime.is_empty()).ok_or(Error::Length)?;
        // Two more numbers say the same length.
        let (whole, data) = (number(bytes, 8)?, number(bytes, HARDWARE_END)?);
        let wanted = (u32::try_from(end).ok(), u32::try_from(HEAD + size).ok());
        if (Some(whole), Some(data)) != wanted || bytes.get(end..).is_none_or(|rest| rest.iter().any(|byte| *byte != 0))
        {
            return Err(Error::Length);
        }
        let hardware = bytes.get(HARDWARE..HARDWARE + length).ok_or(Error::Length)?;
        Ok(Self { kind, hardware, hash, runtime })
    }

    /// What the processor must have attested to: the digest of the runtime data, then zeros.
    #[must_use]
    pub fn report_data(&self) -> Hex<64> {
        let digest = digest::digest(self.hash, self.runtime);
        let mut data = Hex::ZERO;
        data.0.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        data
    }

    /// The runtime data.
    ///
    /// # Errors
    /// [`Error::Runtime`]
    pub fn runtime(&self) -> Result<Runtime, Error> {
        let json: Json = serde_json::from_slice(self.runtime).map_err(|e| Error::Runtime(e.to_string()))?;
        json.try_into().map_err(Error::Runtime)
    }
}

/// What the paravisor says of itself and the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The TPM's attestation key.
    pub key: Key,
    /// Whether signatures are checked at boot.
    pub secure_boot: bool,
    /// Whether there is a console that the host can use.
    pub console: bool,
    /// The machine.
    pub vm_id: String,
    /// What the guest asked to have said; 64 bytes, zero until it asks.
    pub user_data: Bytes,
}

/// Members that aren't named here are passed over: the paravisor adds some with its releases. One that is named and
/// stands there twice is refused.
#[derive(Deserialize)]
struct Json {
    keys: Vec<Jwk>,
    #[serde(rename = "vm-configuration")]
    vm: Configuration,
    #[serde(rename = "user-data", default)]
    user_data: String,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    // Of RSA keys; others have other members (RFC 7518, 6).
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Configuration {
    secure_boot: bool,
    console_enabled: bool,
    #[serde(rename = "vmUniqueId")]
    vm_unique_id: String,
}

impl TryFrom<Json> for Runtime {
    type Error = String;

    fn try_from(json: Json) -> Result<Self, String> {
        let mut named = json.keys.iter().filter(|key| key.kid == AK);
        // By name, not by place: whoever could add a key could also put it first. Older releases say that this key
        // encrypts, so its use isn't looked at; the quote's form is.
        let (Some(key), None) = (named.next(), named.next()) else {
            return Err(format!("there isn't exactly one key {AK}"));
        };
        if key.kty != RSA {
            return Err(format!("key {AK} is of type {:?}", key.kty));
        }
        let number = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|e| format!("key {AK}: {e}"));
        let key = Key::rsa(&number(&key.n)?, &number(&key.e)?).map_err(|e| format!("key {AK}: {e}"))?;
        Ok(Self {
            key,
            secure_boot: json.vm.secure_boot,
            console: json.vm.console_enabled,
            vm_id: json.vm.vm_unique_id,
            user_data: json.user_data.try_into().map_err(|e| format!("user-data: {e}"))?,
        })
    }
}
