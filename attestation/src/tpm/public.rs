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

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};

    use super::*;

    /// What attestation keys have: [`AK_REQUIRED`] and `userWithAuth`.
    const ATTRIBUTES: u32 = 0x0005_0072;
    const EXPONENT: [u8; 3] = [1, 0, 1];

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [u16::try_from(bytes.len()).unwrap().to_be_bytes().as_slice(), bytes].concat()
    }

    /// A public area of an RSA key that signs by RSASSA with SHA-256.
    fn area(attributes: u32, bits: u16, exponent: u32, modulus: &[u8]) -> Vec<u8> {
        let members = [
            &[0, 1, 0, 0x0b][..],
            &attributes.to_be_bytes(),
            &[0, 0, 0, 0x10, 0, 0x14, 0, 0x0b],
            &bits.to_be_bytes(),
            &exponent.to_be_bytes(),
            &sized(modulus),
        ];
        sized(&members.concat())
    }

    #[test]
    fn an_rsa_key_has_the_usual_exponent_and_a_modulus_of_exactly_2048_3072_or_4096_bits() {
        let modulus = |length: usize, first: u8| [vec![first], vec![7; length - 1]].concat();
        for length in [256, 384, 512] {
            for first in [0x80, 0xff] {
                let bytes = modulus(length, first);
                let wanted = Ok(Key::Rsa { modulus: bytes.clone() });
                assert_eq!(Key::rsa(&bytes, &EXPONENT), wanted, "{length}");
                assert_eq!(Key::rsa(&[&[0], bytes.as_slice()].concat(), &[0, 0, 1, 0, 1]), wanted, "{length}");
                let bits = u16::try_from(length * 8).unwrap();
                for exponent in [0, 65_537] {
                    let public = Public::parse(&area(ATTRIBUTES, bits, exponent, &bytes)).unwrap();
                    assert_eq!(Ok(public.key), wanted, "{length}");
                }
                assert!(Public::parse(&area(ATTRIBUTES, bits, 3, &bytes)).is_err());
            }
        }
        for (length, first) in [(128, 0x80), (255, 0x80), (257, 0x80), (320, 0x80), (256, 0x7f), (512, 0x40)] {
            let bytes = modulus(length, first);
            let wrong = Error::Value { what: "bytes of the modulus", value: length as u64 };
            assert_eq!(Key::rsa(&bytes, &EXPONENT), Err(wrong), "{length} {first}");
            let bits = u16::try_from(length * 8).unwrap();
            let wrong = Error::Value { what: "keyBits", value: bits.into() };
            assert_eq!(Public::parse(&area(ATTRIBUTES, bits, 0, &bytes)), Err(wrong), "{length} {first}");
        }
        assert!(Public::parse(&area(ATTRIBUTES, 2048, 0, &modulus(384, 0x80))).is_err());
        assert!(Public::parse(&area(ATTRIBUTES, 3072, 0, &modulus(256, 0x80))).is_err());
        for exponent in [&[3][..], &[], &[1, 0, 0, 1]] {
            let wrong = Error::Value { what: "exponent", value: exponent.len() as u64 };
            assert_eq!(Key::rsa(&modulus(256, 0x80), exponent), Err(wrong), "{exponent:?}");
        }
        assert!(Key::rsa(&[0; 256], &EXPONENT).is_err());
    }

    #[test]
    fn an_attestation_key_has_all_that_makes_it_one_and_does_not_decrypt() {
        let of = |attributes| Public::parse(&area(attributes, 2048, 0, &[0x80; 256])).unwrap().is_attestation_key();
        assert!(of(ATTRIBUTES));
        for bit in [1, 4, 5, 16, 18] {
            assert!(!of(ATTRIBUTES & !(1 << bit)), "{bit}");
        }
        assert!(!of(ATTRIBUTES | 1 << 17));
        assert!(!of(0) && !of(1 << 17));
    }

    #[test]
    fn a_point_is_one_of_p_256_in_the_uncompressed_form() {
        let point = [&[4], [1; 32].as_slice(), &[2; 32]].concat();
        let key = Key::P256 { x: [1; 32], y: [2; 32] };
        assert_eq!(Key::point(&point), Ok(key.clone()));
        assert_eq!(key.to_bytes(), point);
        assert_eq!(Key::Rsa { modulus: vec![0x80; 256] }.to_bytes(), [0x80; 256]);
        for wrong in [&point[..64], &[&point[..], &[0]].concat(), &[&[2], &point[1..33]].concat(), &[4], &[]] {
            assert!(Key::point(wrong).is_err(), "{wrong:?}");
        }
        assert!(Key::point(&[&[6], &point[1..]].concat()).is_err());
    }

    #[test]
    fn a_certificates_key_is_rsa_or_p_256_and_nothing_follows_it() {
        let point = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = Key::point(point.public_key_raw()).unwrap();
        let der = point.subject_public_key_info();
        assert_eq!(Key::from_spki_der(&der), Ok(key));
        assert_eq!(Key::from_spki_der(&[der, vec![0]].concat()), Err(Error::Trailing(1)));
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let Ok(Key::Rsa { modulus }) = Key::from_spki_der(&rsa.subject_public_key_info()) else { panic!("no RSA key") };
        assert!(modulus.len() == 256 && rsa.public_key_raw().windows(256).any(|part| part == modulus));
        let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(Key::from_spki_der(&other.subject_public_key_info()).is_err());
        assert!(Key::from_spki_der(&[]).is_err());
    }
}
