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

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(digits: &[u8]) -> Vec<u8> {
        [&[2, u8::try_from(digits.len()).unwrap()], digits].concat()
    }

    fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
        let content = parts.concat();
        [&[0x30, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
    }

    #[test]
    fn halves_of_a_signature_are_positive_and_padded_in_front() {
        let high = [&[0, 0x80], [7; 31].as_slice()].concat();
        for (r, s, first, last) in [
            (&[1][..], &[0x7f; 32][..], [0, 1], [0x7f, 0x7f]),
            (&[0x7f; 32], &[1], [0x7f, 0x7f], [0, 1]),
            (&high, &[0], [0x80, 7], [0, 0]),
            (&[0], &high, [0, 0], [0x80, 7]),
        ] {
            let Signature::Ecdsa(both) = Signature::parse_ecdsa_der(&sequence(&[integer(r), integer(s)])).unwrap()
            else {
                panic!("another scheme")
            };
            let end = |half: &[u8]| if half[0] == 0 { [half[30], half[31]] } else { [half[0], half[1]] };
            assert_eq!((end(&both[..32]), end(&both[32..])), (first, last), "{r:?} {s:?}");
        }
        for wrong in [&[0x80][..], &[0xff; 32], &[], &[1; 33], &[0, 1]] {
            for both in [[wrong, &[1]], [&[1], wrong]] {
                let der = sequence(&both.map(integer));
                assert!(Signature::parse_ecdsa_der(&der).is_err(), "{wrong:?}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_signature_or_its_halves() {
        let one = || integer(&[1]);
        let whole = sequence(&[one(), one()]);
        let behind = [whole.as_slice(), &[0]].concat();
        assert_eq!(Signature::parse_ecdsa_der(&behind), Err(Error::Trailing(1)));
        let inside = sequence(&[one(), one(), vec![5, 0]]);
        assert_eq!(Signature::parse_ecdsa_der(&inside), Err(Error::Trailing(2)));
        assert_eq!(Signature::parse_ecdsa_der(&[inside, vec![0]].concat()), Err(Error::Trailing(3)));
        for end in 0..whole.len() {
            assert!(Signature::parse_ecdsa_der(&whole[..end]).is_err(), "{end}");
        }
    }
}
