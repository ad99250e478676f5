//! P-256 signing keys: the owner's, and a publisher's of measurements.

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

/// `SubjectPublicKeyInfo` of a P-256 key (RFC 5480) up to the uncompressed point.
const P256_PREFIX: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const POINT_BYTES: usize = 65;
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";

/// Why a key can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The random source failed.
    #[error("making a key failed")]
    Generate,
    /// The PEM holds no P-256 private key in PKCS#8.
    #[error("the PEM holds no P-256 private key")]
    Private,
    /// The PEM or DER holds no P-256 public key.
    #[error("this isn't a P-256 public key")]
    Public,
}

/// A P-256 private key; zeroed when dropped, and without `Debug`.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl SigningKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate() -> Result<Self, Error> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| Error::Generate)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec())).map_err(|_| Error::Generate)
    }

    /// Reads a PKCS#8 key.
    ///
    /// # Errors
    /// When it isn't exactly one P-256 key.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, Error> {
        let contents = Zeroizing::new(from_pem(pem, PRIVATE_LABEL).ok_or(Error::Private)?);
        Self::from_pkcs8(contents)
    }

    /// Writes a PKCS#8 key.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(to_pem(&self.pkcs8, PRIVATE_LABEL))
    }

    /// The public half: SPKI, DER.
    #[must_use]
    pub fn public_spki(&self) -> Vec<u8> {
        [P256_PREFIX, self.pair.public_key().as_ref()].concat()
    }

    /// ECDSA with SHA-256, ASN.1.
    ///
    /// # Panics
    /// Never: signing with a checked P-256 key can't fail but for the random source, which aborts instead.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).expect("a checked P-256 key signs").as_ref().to_vec()
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).map_err(|_| Error::Private)?;
        Ok(Self { pair, pkcs8 })
    }
}

/// Reads a P-256 public key: SPKI, DER.
///
/// # Errors
/// When the PEM holds anything else.
pub fn spki_from_pem(pem: &str) -> Result<Vec<u8>, Error> {
    let spki = from_pem(pem, PUBLIC_LABEL).ok_or(Error::Public)?;
    match spki.strip_prefix(P256_PREFIX) {
        Some(point) if point.len() == POINT_BYTES => Ok(spki),
        _ => Err(Error::Public),
    }
}

/// Writes a public key as PEM.
#[must_use]
pub fn spki_to_pem(spki: &[u8]) -> String {
    to_pem(spki, PUBLIC_LABEL)
}

/// SHA-256 of a public key, hex: what people compare.
#[must_use]
pub fn fingerprint(spki: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, spki))
}

/// Exactly one PEM block with this label.
fn from_pem(pem: &str, label: &str) -> Option<Vec<u8>> {
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    let block = blocks.next()?.ok()?;
    (block.label == label && blocks.next().is_none()).then_some(block.contents)
}

fn to_pem(der: &[u8], label: &str) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (index, letter) in STANDARD.encode(der).char_indices() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem + &format!("\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};

    #[test]
    fn a_key_survives_its_pem_and_signs_for_its_public_half() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap();
        assert_eq!(again.public_spki(), key.public_spki());
        let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_spki()).unwrap();
        public.verify_sig(b"message", &again.sign(b"message")).unwrap();
        assert!(public.verify_sig(b"massage", &again.sign(b"message")).is_err());
    }

    #[test]
    fn a_public_key_survives_its_pem_and_a_private_one_is_not_taken_for_it() {
        let key = SigningKey::generate().unwrap();
        let pem = spki_to_pem(&key.public_spki());
        assert_eq!(spki_from_pem(&pem).unwrap(), key.public_spki());
        assert!(spki_from_pem(&key.to_pkcs8_pem()).is_err());
        assert!(SigningKey::from_pkcs8_pem(&pem).is_err());
        assert!(spki_from_pem(&format!("{pem}{pem}")).is_err());
        assert!(spki_from_pem("").is_err());
    }

    #[test]
    fn fingerprints_are_hex_and_differ() {
        let (one, two) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        assert_eq!(fingerprint(&one.public_spki()).len(), 64);
        assert_ne!(fingerprint(&one.public_spki()), fingerprint(&two.public_spki()));
    }

    #[test]
    fn pem_has_lines_of_64_letters_and_a_label() {
        for (bytes, lines) in
            [(1, &[4][..]), (45, &[60]), (48, &[64]), (49, &[64, 4]), (96, &[64, 64]), (97, &[64, 64, 4])]
        {
            let pem = to_pem(&vec![0; bytes], "X");
            let mut all = pem.lines();
            assert_eq!((all.next(), all.next_back()), (Some("-----BEGIN X-----"), Some("-----END X-----")));
            assert_eq!(all.map(str::len).collect::<Vec<_>>(), lines, "{bytes}");
        }
    }

    #[test]
    fn a_public_key_has_a_point_of_exactly_65_bytes() {
        let spki = SigningKey::generate().unwrap().public_spki();
        assert!(spki_from_pem(&spki_to_pem(&spki)).is_ok());
        for wrong in
            [&spki[..spki.len() - 1], &[spki.as_slice(), &[0]].concat(), &spki[..P256_PREFIX.len()], &spki[1..]]
        {
            assert!(spki_from_pem(&spki_to_pem(wrong)).is_err(), "{}", wrong.len());
        }
    }
}
