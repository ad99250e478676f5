//! `TPMT_SIGNATURE` (TPM 2.0 Library, Part 2, 11.3.4) and its check, with an allow-list of schemes.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RsaPublicKeyComponents, UnparsedPublicKey,
};
use x509_parser::der_parser::{asn1_rs::FromDer as _, asn1_rs::Integer, asn1_rs::Sequence};

use super::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, Error, Hash, Reader, public::Key};

/// A signature by one of the accepted schemes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// ECDSA over P-256 with SHA-256: r and s, 32 bytes each.
    Ecdsa([u8; 64]),
    /// RSASSA-PSS, salt as long as the hash.
    Rsapss(Hash, Vec<u8>),
    /// PKCS#1 v1.5.
    Rsassa(Hash, Vec<u8>),
}

impl Signature {
    /// Parses a `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// When the scheme or the hash isn't on the list, or the bytes aren't exactly one signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(bytes);
        let scheme = reader.u16("sigAlg")?;
        let hash = Hash::from_id(reader.u16("hash")?)?;
        let signature = match (scheme, hash) {
            (ALG_ECDSA, Hash::Sha256) => Self::ecdsa(reader.sized("signature")?, reader.sized("signature")?)?,
            (ALG_RSASSA, hash) => Self::Rsassa(hash, reader.sized("signature")?.to_vec()),
            (ALG_RSAPSS, hash) => Self::Rsapss(hash, reader.sized("signature")?.to_vec()),
            (value, _) => return Err(Error::Value { what: "sigAlg", value: value.into() }),
        };
        reader.end()?;
        Ok(signature)
    }

    /// Parses an ECDSA signature with SHA-256 in the DER form of X.509 (RFC 3279, 2.2.3).
    ///
    /// # Errors
    /// When the bytes aren't exactly one such signature over P-256.
    pub fn parse_ecdsa_der(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "signature";
        let (rest, sequence) = Sequence::from_der(bytes).map_err(|_| Error::Short(WHAT))?;
        let (tail, r) = Integer::from_der(&sequence.content).map_err(|_| Error::Short(WHAT))?;
        let (more, s) = Integer::from_der(tail).map_err(|_| Error::Short(WHAT))?;
        if !rest.is_empty() || !more.is_empty() {
            return Err(Error::Trailing(rest.len() + more.len()));
        }
        let positive = |half: &Integer<'_>| {
            let bytes = half.as_ref();
            match bytes {
                [0, rest @ ..] => Ok(rest.to_vec()),
                [first, ..] if first & 0x80 == 0 => Ok(bytes.to_vec()),
                _ => Err(Error::Short(WHAT)),
            }
        };
        Self::ecdsa(&positive(&r)?, &positive(&s)?)
    }

    /// r and s, padded in front: TPMs drop leading zeros.
    fn ecdsa(r: &[u8], s: &[u8]) -> Result<Self, Error> {
        let mut both = [0; 64];
        let (left, right) = both.split_at_mut(32);
        for (half, bytes) in [(left, r), (right, s)] {
            let wrong = Error::Value { what: "signature", value: bytes.len() as u64 };
            let start = 32_usize.checked_sub(bytes.len()).ok_or(wrong)?;
            half.get_mut(start..).ok_or(Error::Short("signature"))?.copy_from_slice(bytes);
        }
        Ok(Self::Ecdsa(both))
    }

    /// The hash of the scheme; a quote's digest over its registers is made with it (Part 3, 18.4).
    #[must_use]
    pub const fn hash(&self) -> Hash {
        match self {
            Self::Ecdsa(_) => Hash::Sha256,
            Self::Rsapss(hash, _) | Self::Rsassa(hash, _) => *hash,
        }
    }

    /// Whether it is `key`'s signature of `message`.
    #[must_use]
    pub fn is_valid(&self, key: &Key, message: &[u8]) -> bool {
        match (self, key) {
            (Self::Ecdsa(bytes), Key::P256 { x, y }) => {
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, bytes).is_ok()
            }
            (Self::Rsassa(hash, bytes) | Self::Rsapss(hash, bytes), Key::Rsa { modulus }) => {
                let parameters = match (self, hash) {
                    (Self::Rsapss(..), Hash::Sha256) => &RSA_PSS_2048_8192_SHA256,
                    (Self::Rsapss(..), Hash::Sha384) => &RSA_PSS_2048_8192_SHA384,
                    (_, Hash::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
                    (_, Hash::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
                };
                let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: [1, 0, 1].as_slice() };
                key.verify(parameters, message, bytes).is_ok()
            }
            _ => false,
        }
    }
}
