//! `TPMT_SIGNATURE` (TPM 2.0 Library, Part 2, 11.3.4) and its check, with an allow-list of schemes.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::{ALG_ECDSA, ALG_RSASSA, ALG_SHA256, Error, Reader, public::Key};

/// A signature: ECDSA over P-256 or RSASSA, both with SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// r and s, 32 bytes each.
    Ecdsa([u8; 64]),
    /// PKCS#1 v1.5.
    Rsassa(Vec<u8>),
}

impl Signature {
    /// Parses a signature.
    ///
    /// # Errors
    /// When the scheme or the hash isn't on the list, or the bytes aren't exactly one signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(bytes);
        let scheme = reader.u16("sigAlg")?;
        let hash = reader.u16("hash")?;
        if hash != ALG_SHA256 {
            return Err(Error::Value { what: "hash", value: hash.into() });
        }
        let signature = match scheme {
            ALG_ECDSA => {
                let mut both = [0; 64];
                let (r, s) = both.split_at_mut(32);
                for half in [r, s] {
                    let bytes = reader.sized("signature")?;
                    let wrong = Error::Value { what: "signature", value: bytes.len() as u64 };
                    let start = 32_usize.checked_sub(bytes.len()).ok_or(wrong)?;
                    half.get_mut(start..).ok_or(Error::Short("signature"))?.copy_from_slice(bytes);
                }
                Self::Ecdsa(both)
            }
            ALG_RSASSA => Self::Rsassa(reader.sized("signature")?.to_vec()),
            value => return Err(Error::Value { what: "sigAlg", value: value.into() }),
        };
        reader.end()?;
        Ok(signature)
    }

    /// Whether it is `key`'s signature of `message`.
    #[must_use]
    pub fn is_valid(&self, key: &Key, message: &[u8]) -> bool {
        match (self, key) {
            (Self::Ecdsa(bytes), Key::P256 { x, y }) => {
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, bytes).is_ok()
            }
            (Self::Rsassa(bytes), Key::Rsa { modulus }) => {
                let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: [1, 0, 1].as_slice() };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, bytes).is_ok()
            }
            _ => false,
        }
    }
}
