//! Google's signed statement about firmware: what a processor measures that launches it (`VMLaunchEndorsement`).
//!
//! Source: `gce-tcb-verifier`, `proto/endorsement.proto` (form) and `verify` (RSA-PSS with SHA-256 over the serialised
//! golden measurement by the key of the certificate inside). The wire format is Protocol Buffers', as far as it is used:
//! numbers and byte strings; an unknown member is passed over, a known one may stand once.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;

use super::clause;
use crate::{
    bytes::{Hex, Measurement},
    reference::Requirement,
    result::Checks,
    verified::Verified,
    x509::{
        self, Algorithm,
        chain::{Anchors, Chain, MAX_CHAIN},
    },
};

/// Greatest endorsement, bytes: certificates and a few hundred measurements.
pub const MAX_BYTES: usize = 256 * 1024;
/// Most members of a message: measurements, one for each count of processors or size of memory, and a few others.
const MAX_MEASUREMENTS: usize = 1024;
/// What certificates of the chain may be signed with.
const ALLOWED: &[Algorithm] = &[
    Algorithm::RsaPssSha256,
    Algorithm::RsaPkcs1Sha256,
    Algorithm::RsaPkcs1Sha384,
    Algorithm::RsaPkcs1Sha512,
    Algorithm::EcdsaP256,
    Algorithm::EcdsaP384,
];

/// Why bytes aren't an endorsement.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// They end inside a member.
    #[error("it is cut off")]
    Short,
    /// Something else than this form has.
    #[error("{0} isn't there in its form")]
    Member(&'static str),
}

/// What firmware measures on SEV-SNP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snp {
    /// Google's security version of the firmware.
    pub svn: u32,
    /// Count of virtual processors to launch measurement.
    pub measurements: BTreeMap<u32, Measurement>,
}

/// What firmware measures on TDX.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tdx {
    /// Google's security version of the firmware.
    pub svn: u32,
    /// MRTD for each size of memory.
    pub mrtds: Vec<Measurement>,
}

/// What Google says about one build of its firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// Certificate of the key that signed, DER.
    certificate: Vec<u8>,
    /// Its issuers, root first, DER.
    bundle: Vec<Vec<u8>>,
    /// SHA-384 of the firmware.
    pub digest: Measurement,
    /// On SEV-SNP.
    pub snp: Option<Snp>,
    /// On TDX.
    pub tdx: Option<Tdx>,
}

/// An endorsement, as far as it could be read; nobody has looked at the signature yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    message: &'a [u8],
    signature: &'a [u8],
    /// What it says.
    pub golden: Golden,
}

impl<'a> Signed<'a> {
    /// Parses an endorsement.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Member("an endorsement of at most 256 KiB"));
        }
        let [message, signature] = Fields::parse(bytes)?.bytes([1, 2])?;
        let message = message.ok_or(Error::Member("golden measurement"))?;
        let signature = signature.ok_or(Error::Member("signature"))?;
        Ok(Self { message, signature, golden: golden(message)? })
    }
}

/// Verifies an endorsement at a time; gives what it says if all clauses hold.
pub fn verify(bytes: &[u8], anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Verified<Golden>> {
    let Signed { message, signature, golden } = match Signed::parse(bytes) {
        Ok(signed) => signed,
        Err(error) => {
            checks.fails(clause::ENDORSEMENT_STRUCTURE, &error.to_string());
            return None;
        }
    };
    let mut own = Checks::default();
    own.holds(clause::ENDORSEMENT_STRUCTURE, "a signed golden measurement");
    let signed = x509::certificate(&golden.certificate).is_ok_and(|leaf| is_signed(&leaf, message, signature));
    own.check(clause::ENDORSEMENT_SIGNATURE, signed, None, None, "signed by its certificate's key");
    let intermediates = golden.bundle.iter().rev().map(Vec::as_slice);
    let names = [clause::ENDORSEMENT_CHAIN, clause::ENDORSEMENT_VALIDITY];
    Chain::check(&golden.certificate, intermediates, anchors, ALLOWED, now, names, &mut own);
    checks.prove(own, Some(golden), clause::ENDORSEMENT_STRUCTURE).map(Verified::new)
}

fn is_signed(leaf: &X509Certificate<'_>, message: &[u8], signature: &[u8]) -> bool {
    let may_sign = leaf.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.digital_signature()));
    let key = &leaf.public_key().subject_public_key.data;
    may_sign
        && x509::is_leaf(leaf)
        && UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key).verify(message, signature).is_ok()
}

/// Checks that a genuine SEV-SNP report's launch measurement is one that Google endorses, of firmware at the floor or
/// above.
pub fn check_snp(golden: &Verified<Golden>, measurement: &Measurement, svn: &Requirement<u32>, checks: &mut Checks) {
    let endorsed = golden.get().snp.as_ref();
    let named = |snp: &Snp| snp.measurements.values().any(|known| known == measurement);
    check(endorsed.is_some_and(named), measurement, svn, endorsed.map(|snp| snp.svn), checks);
}

/// Checks that a genuine TDX quote's MRTD is one that Google endorses, of firmware at the floor or above.
pub fn check_tdx(golden: &Verified<Golden>, mrtd: &Measurement, svn: &Requirement<u32>, checks: &mut Checks) {
    let endorsed = golden.get().tdx.as_ref();
    let named = |tdx: &Tdx| tdx.mrtds.contains(mrtd);
    check(endorsed.is_some_and(named), mrtd, svn, endorsed.map(|tdx| tdx.svn), checks);
}

fn check(named: bool, launched: &Measurement, svn: &Requirement<u32>, said: Option<u32>, checks: &mut Checks) {
    let actual = launched.to_string();
    let message = "what the processor measured at launch is endorsed";
    checks.check(clause::ENDORSEMENT_MEASUREMENT, named, None, actual, message);
    let message = "security version of the firmware";
    svn.apply(checks, clause::ENDORSEMENT_SVN, said.as_ref(), u32::to_string, message);
}

impl Golden {
    /// The launch clause of a reference set for SEV-SNP: what a machine of so many virtual processors measures, or of
    /// any endorsed number. It accepts nothing when nothing is endorsed.
    #[must_use]
    pub fn snp_measurement(&self, processors: Option<u32>) -> Requirement<Measurement> {
        let known = self.snp.iter().flat_map(|snp| &snp.measurements);
        let wanted = known.filter(|(count, _)| processors.is_none_or(|wanted| wanted == **count));
        Requirement::AnyOf(wanted.map(|(_, measurement)| *measurement).collect())
    }

    /// The launch clause of a reference set for TDX.
    #[must_use]
    pub fn tdx_mrtd(&self) -> Requirement<Measurement> {
        Requirement::AnyOf(self.tdx.iter().flat_map(|tdx| &tdx.mrtds).copied().collect())
    }
}

fn golden(bytes: &[u8]) -> Result<Golden, Error> {
    let fields = Fields::parse(bytes)?;
    let [certificate, digest, bundle, snp, tdx] = fields.bytes([4, 5, 6, 7, 8])?;
    Ok(Golden {
        certificate: certificate.ok_or(Error::Member("certificate"))?.to_vec(),
        bundle: x509::from_pem(bundle.unwrap_or_default(), MAX_CHAIN).map_err(|_| Error::Member("CA bundle"))?,
        digest: measurement(digest, "digest")?,
        snp: snp.map(self::snp).transpose()?,
        tdx: tdx.map(self::tdx).transpose()?,
    })
}

fn snp(bytes: &[u8]) -> Result<Snp, Error> {
    let fields = Fields::parse(bytes)?;
    let mut measurements = BTreeMap::new();
    for entry in fields.all(2)? {
        // An entry of a map: key 1, value 2.
        let entry = Fields::parse(entry)?;
        let [value] = entry.bytes([2])?;
        let count = entry.number(1)?;
        if measurements.insert(count, measurement(value, "measurement")?).is_some() {
            return Err(Error::Member("a count of processors, once,"));
        }
    }
    Ok(Snp { svn: fields.number(1)?, measurements })
}

fn tdx(bytes: &[u8]) -> Result<Tdx, Error> {
    let fields = Fields::parse(bytes)?;
    let mrtds = fields.all(2)?.into_iter().map(|entry| {
        let [mrtd] = Fields::parse(entry)?.bytes([3])?;
        measurement(mrtd, "MRTD")
    });
    Ok(Tdx { svn: fields.number(1)?, mrtds: mrtds.collect::<Result<_, _>>()? })
}

fn measurement(bytes: Option<&[u8]>, what: &'static str) -> Result<Measurement, Error> {
    bytes.and_then(|bytes| bytes.try_into().ok()).map(Hex).ok_or(Error::Member(what))
}

/// A member's value, as far as its wire type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed width: of no member that is looked at.
    Fixed,
}

/// The members of a message, in order.
struct Fields<'a>(Vec<(u64, Field<'a>)>);

impl<'a> Fields<'a> {
    fn parse(mut bytes: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)?),
                1 => take(&mut bytes, 8).map(|_| Field::Fixed)?,
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).map_err(|_| Error::Short)?;
                    Field::Bytes(take(&mut bytes, length)?)
                }
                5 => take(&mut bytes, 4).map(|_| Field::Fixed)?,
                _ => return Err(Error::Member("wire type")),
            };
            if key >> 3 == 0 || fields.len() >= MAX_MEASUREMENTS {
                return Err(Error::Member("number of a member"));
            }
            fields.push((key >> 3, field));
        }
        Ok(Self(fields))
    }

    /// All members of a number, which are byte strings.
    fn all(&self, number: u64) -> Result<Vec<&'a [u8]>, Error> {
        let of = self.0.iter().filter(|(known, _)| *known == number);
        of.map(|(_, field)| if let Field::Bytes(bytes) = field { Ok(*bytes) } else { Err(Error::Member("type")) })
            .collect()
    }

    /// The byte strings of these numbers, each at most once.
    fn bytes<const N: usize>(&self, numbers: [u64; N]) -> Result<[Option<&'a [u8]>; N], Error> {
        let mut found = [None; N];
        for (place, number) in found.iter_mut().zip(numbers) {
            *place = match self.all(number)?.as_slice() {
                [] => None,
                [bytes] => Some(*bytes),
                _ => return Err(Error::Member("a member, once,")),
            };
        }
        Ok(found)
    }

    /// The number of a member; 0 when it isn't there, as in proto3.
    fn number(&self, number: u64) -> Result<u32, Error> {
        let mut of = self.0.iter().filter(|(known, _)| *known == number);
        match (of.next(), of.next()) {
            (None, _) => Ok(0),
            (Some((_, Field::Number(value))), None) => {
                u32::try_from(*value).map_err(|_| Error::Member("32-bit number"))
            }
            _ => Err(Error::Member("a number, once,")),
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Error> {
    let (head, tail) = bytes.split_at_checked(length).ok_or(Error::Short)?;
    *bytes = tail;
    Ok(head)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut number = 0_u64;
    for place in 0..10_u32 {
        let byte = *take(bytes, 1)?.first().ok_or(Error::Short)?;
        let part = u64::from(byte & 0x7f);
        number |= part
            .checked_shl(7 * place)
            .filter(|shifted| shifted >> (7 * place) == part)
            .ok_or(Error::Member("number"))?;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Error::Member("number"))
}

#[cfg(test)]
mod tests;
