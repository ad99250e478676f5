//! `TPMT_PUBLIC` (TPM 2.0 Library, Part 2, 12.2.4): the kinds that an attestation or endorsement key can be.

use sha2::{Digest, Sha256};

use x509_parser::{asn1_rs::FromDer as _, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use super::{ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_RSA, ALG_RSAPSS, ALG_RSASSA, ALG_SHA256, Error, Reader};

/// `TPMA_OBJECT` bits (Part 2, 8.3) that an attestation key must have: fixedTPM, fixedParent, sensitiveDataOrigin,
/// restricted, sign. Only a restricted key refuses to sign what the TPM didn't make itself.
pub const AK_REQUIRED: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18;
/// decrypt: an attestation key must not have it.
pub const DECRYPT: u32 = 1 << 17;
const CURVE_P256: u16 = 0x0003;
const DEFAULT_EXPONENT: u32 = 65_537;

/// The public key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// NIST P-256, affine coordinates.
    P256 {
        /// x.
        x: [u8; 32],
        /// y.
        y: [u8; 32],
    },
    /// RSA, exponent 65537.
    Rsa {
        /// Modulus, big endian, 2048 to 4096 bits.
        modulus: Vec<u8>,
    },
}

impl Key {
    /// An RSA key from modulus and exponent, big endian; leading zeros are dropped.
    ///
    /// # Errors
    /// When the exponent isn't 65537 or the modulus hasn't 2048, 3072 or 4096 bits.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, Error> {
        let (modulus, exponent) = (unsigned(modulus), unsigned(exponent));
        if exponent != [1, 0, 1] {
            return Err(Error::Value { what: "exponent", value: exponent.len() as u64 });
        }
        if !matches!(modulus.len(), 256 | 384 | 512) || modulus.first().is_none_or(|b| b & 0x80 == 0) {
            return Err(Error::Value { what: "bytes of the modulus", value: modulus.len() as u64 });
        }
        Ok(Self::Rsa { modulus: modulus.to_vec() })
    }

    /// A P-256 key from an uncompressed point (SEC 1, 2.3.3).
    ///
    /// # Errors
    /// When it has another form or length.
    pub fn point(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = Error::Value { what: "bytes of the point", value: bytes.len() as u64 };
        let [4, rest @ ..] = bytes else { return Err(wrong) };
        match (rest.get(..32).map(TryInto::try_into), rest.get(32..).map(TryInto::try_into)) {
            (Some(Ok(x)), Some(Ok(y))) => Ok(Self::P256 { x, y }),
            _ => Err(wrong),
        }
    }

    /// One form for each key, to be named by: an uncompressed point (SEC 1, 2.3.3), or the modulus, big endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::P256 { x, y } => [&[4], x.as_slice(), y.as_slice()].concat(),
            Self::Rsa { modulus } => modulus.clone(),
        }
    }

    /// A key from a `SubjectPublicKeyInfo` (RFC 5280, 4.1.2.7), DER.
    ///
    /// # Errors
    /// When the bytes aren't exactly that, or as [`Self::from_spki`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, Error> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], spki)) => Self::from_spki(&spki),
            Ok((rest, _)) => Err(Error::Trailing(rest.len())),
            Err(_) => Err(Error::Short("public key")),
        }
    }

    /// The key of a certificate.
    ///
    /// # Errors
    /// When it is neither RSA nor P-256 of the accepted sizes.
    pub fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, Error> {
        match spki.parsed() {
            Ok(PublicKey::RSA(rsa)) => Self::rsa(rsa.modulus, rsa.exponent),
            Ok(PublicKey::EC(point)) => Self::point(point.data()),
            _ => Err(Error::Short("key of the certificate")),
        }
    }
}

fn unsigned(bytes: &[u8]) -> &[u8] {
    bytes.get(bytes.iter().take_while(|b| **b == 0).count()..).unwrap_or_default()
}

/// A public area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// `TPMA_OBJECT`.
    pub attributes: u32,
    /// Signing scheme and its hash, if the key has a fixed one.
    pub scheme: Option<(u16, u16)>,
    /// The key.
    pub key: Key,
    /// Name: algorithm and digest of the area (Part 1, 16).
    pub name: Vec<u8>,
}

impl Public {
    /// Parses a `TPM2B_PUBLIC`.
    ///
    /// # Errors
    /// When it isn't exactly one RSA or P-256 area with a SHA-256 name.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut outer = Reader(bytes);
        let area = outer.sized("public area")?;
        outer.end()?;
        let mut reader = Reader(area);
        let kind = reader.u16("type")?;
        let name_algorithm = reader.u16("nameAlg")?;
        if name_algorithm != ALG_SHA256 {
            return Err(Error::Value { what: "nameAlg", value: name_algorithm.into() });
        }
        let attributes = reader.u32("objectAttributes")?;
        reader.sized("authPolicy")?;
        let symmetric = reader.u16("symmetric")?;
        if symmetric != ALG_NULL {
            reader.u16("symmetric.keyBits")?;
            reader.u16("symmetric.mode")?;
        }
        let scheme = match reader.u16("scheme")? {
            ALG_NULL => None,
            algorithm @ (ALG_ECDSA | ALG_RSAPSS | ALG_RSASSA) => Some((algorithm, reader.u16("scheme.hash")?)),
            value => return Err(Error::Value { what: "scheme", value: value.into() }),
        };
        let key = match kind {
            ALG_ECC => {
                let curve = reader.u16("curveID")?;
                if curve != CURVE_P256 {
                    return Err(Error::Value { what: "curveID", value: curve.into() });
                }
                let kdf = reader.u16("kdf")?;
                if kdf != ALG_NULL {
                    return Err(Error::Value { what: "kdf", value: kdf.into() });
                }
                Key::P256 { x: coordinate(&mut reader)?, y: coordinate(&mut reader)? }
            }
            ALG_RSA => {
                let bits = reader.u16("keyBits")?;
                let exponent = reader.u32("exponent")?;
                if exponent != 0 && exponent != DEFAULT_EXPONENT {
                    return Err(Error::Value { what: "exponent", value: exponent.into() });
                }
                let modulus = reader.sized("modulus")?;
                let whole = usize::from(bits) == modulus.len() * 8 && modulus.first().is_some_and(|b| b & 0x80 != 0);
                if !matches!(bits, 2048 | 3072 | 4096) || !whole {
                    return Err(Error::Value { what: "keyBits", value: bits.into() });
                }
                Key::Rsa { modulus: modulus.to_vec() }
            }
            value => return Err(Error::Value { what: "type", value: value.into() }),
        };
        reader.end()?;
        let mut name = ALG_SHA256.to_be_bytes().to_vec();
        name.extend_from_slice(&Sha256::digest(area));
        Ok(Self { attributes, scheme, key, name })
    }

    /// Whether the key signs only what the TPM itself made, and nothing else.
    #[must_use]
    pub fn is_attestation_key(&self) -> bool {
        self.attributes & AK_REQUIRED == AK_REQUIRED && self.attributes & DECRYPT == 0
    }
}

/// A coordinate, padded in front: TPMs drop leading zeros.
fn coordinate(reader: &mut Reader<'_>) -> Result<[u8; 32], Error> {
    let bytes = reader.sized("point")?;
    let mut out = [0; 32];
    let start = 32_usize.checked_sub(bytes.len()).ok_or(Error::Value { what: "point", value: bytes.len() as u64 })?;
    out.get_mut(start..).ok_or(Error::Short("point"))?.copy_from_slice(bytes);
    Ok(out)
}
