//! A TPM whose maker we are: an endorsement key and an attestation key in software, with any attributes.
//!
//! It opens credentials as `TPM2_ActivateCredential` does (TPM 2.0 Library, Part 1, 24 and annex C.6), so that nothing
//! is wrong with it but what a test changes. Its quotes are a genuine TPM's, signed again.

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree},
    cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey},
    digest, hmac,
    iv::FixedLength,
    signature::EcdsaKeyPair,
};
use constellation_attestation::{
    collect::Tpm,
    protocol::Evidence,
    session::{Attester, BoxError},
};

use crate::hostile::Forger;

/// `TPMT_PUBLIC` of EK template L-2 (TCG EK Credential Profile, B.3.4) up to the point: ECC, SHA-256; fixedTPM,
/// fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
const TEMPLATE: &[u8] = b"\x00\x23\x00\x0b\x00\x03\x00\xb2";
/// AES-128-CFB, no scheme, P-256, no key derivation.
const PARAMETERS: &[u8] = b"\x00\x06\x00\x80\x00\x43\x00\x10\x00\x03\x00\x10";
/// `SubjectPublicKeyInfo` of a P-256 key (RFC 5480) up to the uncompressed point.
const SPKI: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
/// `TPM_ALG_SHA256`.
const SHA256: [u8; 2] = [0x00, 0x0b];

/// An endorsement key whose private half we have.
pub struct Endorsement(PrivateKey);

impl Endorsement {
    pub fn generate() -> Self {
        Self(PrivateKey::generate(&ECDH_P256).unwrap())
    }

    fn point(&self) -> Vec<u8> {
        self.0.compute_public_key().unwrap().as_ref().to_vec()
    }

    /// `SubjectPublicKeyInfo`, for its certificate.
    pub fn spki(&self) -> Vec<u8> {
        [SPKI, &self.point()].concat()
    }

    /// `TPM2B_PUBLIC`.
    pub fn public(&self) -> Vec<u8> {
        let point = self.point();
        let (x, y) = point[1..].split_at(32);
        sized(&[TEMPLATE, &sized(&[0x83; 32]), PARAMETERS, &sized(x), &sized(y)].concat())
    }

    /// What a credential for the key with this public area holds.
    fn open(&self, ak_public: &[u8], credential: &[u8], secret: &[u8]) -> Vec<u8> {
        let name = [SHA256.as_slice(), digest::digest(&digest::SHA256, unsized_(ak_public).0).as_ref()].concat();
        let (x, rest) = unsized_(unsized_(secret).0);
        let point = [&[4], x, unsized_(rest).0].concat();
        let own = self.point();
        let seed = agree(&self.0, UnparsedPublicKey::new(&ECDH_P256, &point), (), |shared| {
            let parts = [&1u32.to_be_bytes(), shared, b"IDENTITY\0", x, &own[1..33]].concat();
            Ok(digest::digest(&digest::SHA256, &parts).as_ref().to_vec())
        })
        .unwrap();
        // The MAC before it is for the TPM's own protection.
        let mut identity = unsized_(unsized_(credential).0).1.to_vec();
        let label = [&1u32.to_be_bytes(), b"STORAGE\0".as_slice(), &name, &128u32.to_be_bytes()].concat();
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &seed), &label);
        let cipher = DecryptingKey::cfb128(UnboundCipherKey::new(&AES_128, &key.as_ref()[..16]).unwrap()).unwrap();
        cipher.decrypt(&mut identity, DecryptionContext::Iv128(FixedLength::from([0; 16]))).unwrap();
        unsized_(&identity).0.to_vec()
    }
}

/// The TPM: quotes what `tpm` says, with its own keys.
pub struct SoftTpm<'a> {
    pub endorsement: &'a Endorsement,
    pub pair: &'a EcdsaKeyPair,
    /// The attestation key's public area, as the Hello shows it.
    pub ak_public: &'a [u8],
    /// Whose registers it quotes.
    pub tpm: &'a mut Tpm,
}

impl Attester for SoftTpm<'_> {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.endorsement.open(self.ak_public, credential, secret))
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        let unchanged = |_: &mut Vec<u8>| {};
        Forger { pair: self.pair, tpm: self.tpm, change: unchanged, hash: SHA256 }.evidence(binding, activated)
    }
}

/// `TPM2B`: length (u16) and bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [u16::try_from(bytes.len()).unwrap().to_be_bytes().as_slice(), bytes].concat()
}

/// What the first `TPM2B` holds, and what follows it.
fn unsized_(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk::<2>().unwrap();
    rest.split_at(usize::from(u16::from_be_bytes(*length)))
}
