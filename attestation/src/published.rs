//! Import of the measurements that Constellation publishes for its images: `measurements.json`, version 2.
//!
//! The file lists registers per cloud and attestation variant, and its signature stands beside it: ECDSA P-256 over
//! SHA-256, ASN.1, base64, as `cosign sign-blob` writes it. A good signature says who published, not that the file is
//! the one that was asked for: version, ref, stream and variant are compared as well, and one that isn't listed exactly
//! once is refused. What the publisher only warns about is no reference value and is left out.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{
    platform::Platform,
    policy::{self, Hardware, LAUNCH_PCR, MeasurementSet},
    reference::Requirement,
    tdx::{self, bytes::Hex},
};

/// Greatest file, bytes: a release lists some ten variants of some twenty registers, about 20 KB.
pub const MAX_BYTES: usize = 1024 * 1024;
/// What stands where a value was never computed.
const PLACEHOLDER: [u8; 2] = [0x12, 0x34];
/// First register that software may reset; the publisher lists none, and we'd want none.
const RESETTABLE: u8 = 16;

/// Why a file isn't imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is larger than [`MAX_BYTES`].
    #[error("the file is larger than {MAX_BYTES} bytes")]
    Large,
    /// The signature isn't base64.
    #[error("the signature isn't base64")]
    Base64(#[from] base64::DecodeError),
    /// The signature isn't by the publisher's key.
    #[error("the file isn't signed by the publisher's key")]
    Signature,
    /// It isn't such a file.
    #[error("the file isn't a list of measurements of version 2")]
    Json(#[from] serde_json::Error),
    /// It is of something else than was asked for.
    #[error("its {what} is {actual:?}, asked for was {expected:?}")]
    Other {
        /// Which.
        what: &'static str,
        /// What was asked for.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// It lists the platform not at all or more than once.
    #[error("it lists {platform} {count} times")]
    Listed {
        /// The platform.
        platform: Platform,
        /// How often.
        count: usize,
    },
    /// Nothing is published for the platform, or in a form we don't know.
    #[error("nothing is published for {0}")]
    Platform(Platform),
    /// A register's value can't be a reference value.
    #[error("register {register} {problem}")]
    Register {
        /// Its number.
        register: u8,
        /// What is wrong.
        problem: &'static str,
    },
    /// What it lists makes no set.
    #[error("the registers make no set of reference values")]
    Set(#[source] policy::Error),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Version, for example `v2.16.0`.
    pub version: &'a str,
    /// Branch; releases are of `-`.
    pub reference: &'a str,
    /// Stream, for example `stable`.
    pub stream: &'a str,
    /// Platform.
    pub platform: Platform,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    r#ref: String,
    stream: String,
    list: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    csp: String,
    attestation_variant: String,
    measurements: BTreeMap<u8, Measurement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Measurement {
    #[serde(with = "hex")]
    expected: Vec<u8>,
    warn_only: bool,
}

/// Gives the set that a signed file lists for what is wanted, named after version and platform.
///
/// For SEV-SNP the publisher gives no launch measurement: the set is then [valid](MeasurementSet::validate) only after
/// the owner adds [`Hardware`] with one.
///
/// # Errors
/// When the signature isn't by the key (SPKI, DER), the file is of something else, or a value can't be used.
pub fn import(file: &[u8], signature: &str, key_spki: &[u8], wanted: &Wanted<'_>) -> Result<MeasurementSet, Error> {
    if file.len() > MAX_BYTES {
        return Err(Error::Large);
    }
    let signature = STANDARD.decode(signature.trim_ascii())?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key_spki);
    key.verify(file, &signature).map_err(|_| Error::Signature)?;
    let file: File = serde_json::from_slice(file)?;
    for (what, expected, actual) in [
        ("version", wanted.version, &file.version),
        ("ref", wanted.reference, &file.r#ref),
        ("stream", wanted.stream, &file.stream),
    ] {
        if expected != actual || expected.is_empty() {
            return Err(Error::Other { what, expected: expected.to_owned(), actual: actual.clone() });
        }
    }
    let name = format!("{}-{}", wanted.version, wanted.platform);
    let entry = entry(&file, wanted.platform)?;
    let set = match wanted.platform {
        Platform::QemuTdx => trust_domain(name, entry)?,
        platform => MeasurementSet::of_registers(name, platform, registers(entry, platform)?),
    };
    match set.validate() {
        Err(policy::Error::Hardware { .. }) if set.hardware.is_none() => Ok(set),
        Err(error) => Err(Error::Set(error)),
        Ok(()) => Ok(set),
    }
}

/// The names that the publisher gives a platform: cloud and attestation variant.
fn published(platform: Platform) -> Option<(&'static str, &'static str)> {
    Some(match platform {
        Platform::AwsNitroTpm => ("aws", "aws-nitro-tpm"),
        Platform::AwsSnp => ("aws", "aws-sev-snp"),
        Platform::AzureSnp => ("azure", "azure-sev-snp"),
        Platform::AzureTdx => ("azure", "azure-tdx"),
        Platform::AzureTrustedLaunch => ("azure", "azure-trustedlaunch"),
        Platform::GcpSevEs => ("gcp", "gcp-sev-es"),
        Platform::GcpSnp => ("gcp", "gcp-sev-snp"),
        Platform::QemuTdx => ("qemu", "qemu-tdx"),
        Platform::QemuVtpm => ("qemu", "qemu-vtpm"),
        Platform::GcpTdx | Platform::Simulated | Platform::Snp => return None,
    })
}

fn entry(file: &File, platform: Platform) -> Result<&Entry, Error> {
    let (cloud, variant) = published(platform).ok_or(Error::Platform(platform))?;
    let is_it = |entry: &&Entry| entry.csp.eq_ignore_ascii_case(cloud) && entry.attestation_variant == variant;
    let mut found = file.list.iter().filter(is_it);
    match (found.next(), found.count()) {
        (Some(entry), 0) => Ok(entry),
        (first, more) => Err(Error::Listed { platform, count: usize::from(first.is_some()) + more }),
    }
}

/// The enforced values of `N` bytes, by register.
fn enforced<const N: usize>(entry: &Entry) -> Result<BTreeMap<u8, [u8; N]>, Error> {
    let mut values = BTreeMap::new();
    for (&register, measurement) in entry.measurements.iter().filter(|(_, measurement)| !measurement.warn_only) {
        let refuse = |problem| Error::Register { register, problem };
        if measurement.expected.chunks(2).all(|pair| pair == PLACEHOLDER) {
            return Err(refuse("was never computed"));
        }
        let value = measurement.expected.as_slice().try_into().map_err(|_| refuse("hasn't the length of the bank"))?;
        values.insert(register, value);
    }
    Ok(values)
}

fn registers(entry: &Entry, platform: Platform) -> Result<BTreeMap<u8, Vec<String>>, Error> {
    // The publisher lists the SHA-256 bank for all clouds; a document of a NitroTPM proves the SHA-384 bank only.
    if platform.register_bytes() != Some(32) {
        return Err(Error::Platform(platform));
    }
    let mut registers = BTreeMap::new();
    for (register, value) in enforced::<32>(entry)? {
        match register {
            // The publisher's nodes are to have measured nothing here before they join; ours have measured their launch
            // configuration, and the verifier knows it for each node.
            LAUNCH_PCR if value == [0; 32] => {}
            LAUNCH_PCR.. => {
                let problem = if register < RESETTABLE { "isn't zero before a node joins" } else { "can be reset" };
                return Err(Error::Register { register, problem });
            }
            _ => {
                registers.insert(register, vec![hex::encode(value)]);
            }
        }
    }
    Ok(registers)
}

/// For TDX, register 0 is MRTD and 1 to 4 are the run-time registers.
fn trust_domain(name: String, entry: &Entry) -> Result<MeasurementSet, Error> {
    let mut policy = tdx::Policy::strict();
    let [first, second, third, fourth] = tdx::clause::RTMR;
    let clauses = [tdx::clause::MRTD, first, second, third, fourth];
    for (register, value) in enforced::<48>(entry)? {
        let clause = clauses.get(usize::from(register)).and_then(|clause| policy.measurement(clause));
        let clause = clause.ok_or(Error::Register { register, problem: "isn't one of a trust domain" })?;
        *clause = Requirement::Exact(Hex(value));
    }
    for (&register, _) in entry.measurements.iter().filter(|(_, measurement)| measurement.warn_only) {
        let clause = clauses.get(usize::from(register)).copied();
        // Left out, it would be wanted and without a value, which nothing meets. What says which system runs is never left
        // out: the firmware (MRTD), the boot loader and kernel, and their command line.
        let Some(clause) = clause.filter(|clause| [first, fourth].contains(clause)) else {
            return Err(Error::Register { register, problem: "is only warned about" });
        };
        if let Some(requirement) = policy.measurement(clause) {
            *requirement = Requirement::Waived { reason: "its publisher only warns about it".into() };
        }
    }
    let set = MeasurementSet::of_registers(name, Platform::QemuTdx, BTreeMap::new());
    Ok(MeasurementSet { hardware: Some(Hardware::Tdx(Box::new(policy))), ..set })
}

#[cfg(test)]
mod tests;
