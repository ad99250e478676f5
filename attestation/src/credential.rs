//! `TPM2_MakeCredential` without a TPM: a secret that only the TPM with this EK opens, and only beside this AK.
//!
//! TPM 2.0 Library, Part 1: 24 "Credential Protection", 11.4.10 key derivation, annexes B.10 (RSA) and C.6 (ECC).
//! Only what EK templates L-1 and L-2 of the TCG EK Credential Profile have is accepted: SHA-256 names, AES-128-CFB,
//! RSA-2048 or P-256.

use aws_lc_rs::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    digest, hmac,
    iv::FixedLength,
    rand::SystemRandom,
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use zeroize::Zeroizing;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;

/// `TPMA_OBJECT` (Part 2, 8.3): fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt.
const EK_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 17;
/// sign.
const SIGN: u32 = 1 << 18;

const DIGEST_BYTES: usize = 32;
const RSA_BYTES: usize = 256;
const AES_BITS: u16 = 128;
/// Part 1, B.10.3: the label is a string with its null.
const IDENTITY: &[u8] = b"IDENTITY\0";
/// `SubjectPublicKeyInfo` (RFC 8017, A.1.1) of an RSA-2048 key up to the modulus, whose top bit is set.
const RSA_PREFIX: &[u8] =
    b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82\x01\x0f\x00\
    \x30\x82\x01\x0a\x02\x82\x01\x01\x00";
/// The public exponent 65537.
const RSA_SUFFIX: &[u8] = b"\x02\x03\x01\x00\x01";

/// Why no credential can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The AK's public area has another name algorithm than SHA-256, or is cut off.
    #[error("the attestation key's public area can't be named")]
    Ak,
    /// A primitive failed, for example because the EK's point isn't on the curve.
    #[error("encrypting the credential failed")]
    Crypto,
    /// The EK's public area can't be parsed, or isn't one that we can use.
    #[error("the endorsement key's {0} isn't supported")]
    Ek(&'static str),
    /// The secret is longer than a digest.
    #[error("a credential holds at most 32 bytes")]
    Secret,
}

impl From<aws_lc_rs::error::Unspecified> for Error {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}

/// Wraps `secret` (at most 32 bytes): `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`.
///
/// Both keys are `TPM2B_PUBLIC`. That the EK is a genuine TPM's is for its certificate to say; here it is only
/// required to be a storage key that can't sign.
///
/// # Errors
/// When a public area is malformed or of another kind.
pub fn make_credential(ek_public: &[u8], ak_public: &[u8], secret: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    if secret.is_empty() || secret.len() > DIGEST_BYTES {
        return Err(Error::Secret);
    }
    let name = name(ak_public)?;
    let (seed, encrypted_seed) = match EndorsementKey::parse(ek_public)? {
        EndorsementKey::Rsa(modulus) => rsa_seed(&modulus)?,
        EndorsementKey::Ecc { x, y } => ecc_seed(&x, &y)?,
    };

    let key = kdfa(seed.as_slice(), b"STORAGE", &name, AES_BITS);
    let mut identity = Zeroizing::new(sized(secret));
    let cipher = EncryptingKey::cfb128(UnboundCipherKey::new(&AES_128, key.get(..16).ok_or(Error::Crypto)?)?)?;
    // The key is used for this one encryption, so Part 1, 24.4 has the IV zero.
    cipher.less_safe_encrypt(&mut identity, EncryptionContext::Iv128(FixedLength::from([0; 16])))?;

    let key = kdfa(seed.as_slice(), b"INTEGRITY", &[], 256);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
    mac.update(&identity);
    mac.update(&name);

    let mut object = sized(mac.sign().as_ref());
    object.extend_from_slice(&identity);
    Ok((sized(&object), sized(&encrypted_seed)))
}

/// The AK's Name (Part 1, 16): algorithm and digest of the public area.
fn name(public: &[u8]) -> Result<Vec<u8>, Error> {
    let area = unsized_exact(public).ok_or(Error::Ak)?;
    if area.get(2..4) != Some(ALG_SHA256.to_be_bytes().as_slice()) {
        return Err(Error::Ak);
    }
    let mut name = ALG_SHA256.to_be_bytes().to_vec();
    name.extend_from_slice(digest::digest(&digest::SHA256, area).as_ref());
    Ok(name)
}

/// Part 1, B.10.4: a random seed under OAEP with the EK's name algorithm.
fn rsa_seed(modulus: &[u8; RSA_BYTES]) -> Result<(Zeroizing<[u8; DIGEST_BYTES]>, Vec<u8>), Error> {
    let mut seed = Zeroizing::new([0; DIGEST_BYTES]);
    aws_lc_rs::rand::fill(seed.as_mut())?;
    let spki = [RSA_PREFIX, modulus, RSA_SUFFIX].concat();
    let key = PublicEncryptingKey::from_der(&spki).map_err(|_| Error::Ek("modulus"))?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut ciphertext = vec![0; RSA_BYTES];
    let length = key.encrypt(&OAEP_SHA256_MGF1SHA256, seed.as_slice(), &mut ciphertext, Some(IDENTITY))?.len();
    ciphertext.truncate(length);
    Ok((seed, ciphertext))
}

/// Part 1, C.6.4: a seed from an ephemeral key, and that key as a `TPMS_ECC_POINT`.
fn ecc_seed(x: &[u8; 32], y: &[u8; 32]) -> Result<(Zeroizing<[u8; DIGEST_BYTES]>, Vec<u8>), Error> {
    let ephemeral = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
    let public = ephemeral.compute_public_key()?;
    let (own_x, own_y) = public.as_ref().get(1..).filter(|point| point.len() == 64).ok_or(Error::Crypto)?.split_at(32);
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let seed = agree_ephemeral(ephemeral, UnparsedPublicKey::new(&ECDH_P256, &point), Error::Crypto, |shared| {
        Ok(kdfe(shared, IDENTITY, own_x, x))
    })?;
    Ok((seed, [sized(own_x), sized(own_y)].concat()))
}

/// Part 1, 11.4.10.2, for one block of SHA-256; the label is given without its null.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u16) -> Zeroizing<[u8; DIGEST_BYTES]> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    mac.update(&1u32.to_be_bytes());
    mac.update(label);
    mac.update(&[0]);
    mac.update(context);
    mac.update(&u32::from(bits).to_be_bytes());
    block(mac.sign().as_ref())
}

/// Part 1, 11.4.10.3, for one block of SHA-256; the label is given with its null.
fn kdfe(shared: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Zeroizing<[u8; DIGEST_BYTES]> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&1u32.to_be_bytes());
    for part in [shared, label, party_u, party_v] {
        hash.update(part);
    }
    block(hash.finish().as_ref())
}

fn block(bytes: &[u8]) -> Zeroizing<[u8; DIGEST_BYTES]> {
    let mut block = Zeroizing::new([0; DIGEST_BYTES]);
    block.copy_from_slice(bytes);
    block
}

/// `TPM2B`: length (u16) and bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("structures made here are below 64 KiB");
    [length.to_be_bytes().as_slice(), bytes].concat()
}

/// What a `TPM2B` holds, if it is exactly one.
fn unsized_exact(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes);
    let inner = reader.sized()?;
    (reader.0.is_empty() && !inner.is_empty()).then_some(inner)
}

/// The part of an EK that a credential needs.
#[derive(Debug, PartialEq, Eq)]
enum EndorsementKey {
    Ecc { x: [u8; 32], y: [u8; 32] },
    Rsa(Box<[u8; RSA_BYTES]>),
}

impl EndorsementKey {
    /// `TPM2B_PUBLIC` (Part 2, 12.2.5).
    fn parse(public: &[u8]) -> Result<Self, Error> {
        let mut area = Reader(unsized_exact(public).ok_or(Error::Ek("public area"))?);
        let kind = area.u16().ok_or(Error::Ek("type"))?;
        if area.u16() != Some(ALG_SHA256) {
            return Err(Error::Ek("name algorithm"));
        }
        let attributes = area.u32().ok_or(Error::Ek("attributes"))?;
        if attributes & (EK_ATTRIBUTES | SIGN) != EK_ATTRIBUTES {
            return Err(Error::Ek("attributes"));
        }
        area.sized().ok_or(Error::Ek("policy"))?;
        if [area.u16(), area.u16(), area.u16()] != [Some(ALG_AES), Some(AES_BITS), Some(ALG_CFB)] {
            return Err(Error::Ek("symmetric algorithm"));
        }
        if area.u16() != Some(ALG_NULL) {
            return Err(Error::Ek("scheme"));
        }
        let key = match kind {
            ALG_ECC => Self::ecc(&mut area),
            ALG_RSA => Self::rsa(&mut area),
            _ => return Err(Error::Ek("type")),
        };
        key.filter(|_| area.0.is_empty()).ok_or(Error::Ek("key"))
    }

    fn ecc(area: &mut Reader<'_>) -> Option<Self> {
        let (curve, kdf) = (area.u16()?, area.u16()?);
        let (x, y) = (padded(area.sized()?)?, padded(area.sized()?)?);
        (curve == CURVE_P256 && kdf == ALG_NULL).then_some(Self::Ecc { x, y })
    }

    fn rsa(area: &mut Reader<'_>) -> Option<Self> {
        let (bits, exponent) = (area.u16()?, area.u32()?);
        let modulus: [u8; RSA_BYTES] = area.sized()?.try_into().ok()?;
        // Exponent 0 means 65537 (Part 2, 12.2.3.5).
        let usable = bits == 2048 && (exponent == 0 || exponent == 65537) && modulus.first()? & 0x80 != 0;
        usable.then(|| Self::Rsa(Box::new(modulus)))
    }
}

/// A coordinate; a TPM may leave out leading zeros.
fn padded(coordinate: &[u8]) -> Option<[u8; 32]> {
    let mut padded = [0; 32];
    let start = padded.len().checked_sub(coordinate.len())?;
    padded.get_mut(start..)?.copy_from_slice(coordinate);
    (!coordinate.is_empty()).then_some(padded)
}

/// Reads big-endian structures and never past their end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
pub(crate) mod tests;
