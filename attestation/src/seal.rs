//! Seals a secret to the encryption key inside the evidence.
//!
//! HPKE (RFC 9180), base mode: X25519, HKDF-SHA256, AES-256-GCM. The binding's digest is the associated data, so a
//! box opens only in the conversation it was made for.

use hpke::{
    Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256 as X25519, single_shot_open, single_shot_seal,
};
use zeroize::Zeroizing;

const INFO: &[u8] = b"constellation-seal-1";

/// Why sealing or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The box isn't for this key and this conversation, or was altered.
    #[error("opening the sealed secret failed")]
    Open,
    /// The recipient's public key isn't a usable X25519 key.
    #[error("the recipient's encryption key isn't usable")]
    Recipient,
    /// Encryption itself failed.
    #[error("sealing the secret failed")]
    Seal,
}

/// Encrypts to `recipient` (X25519, 32 bytes): the encapsulated key and the ciphertext.
///
/// # Errors
/// When `recipient` isn't a usable key.
pub fn seal(recipient: &[u8], binding: &[u8; 32], plaintext: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let recipient = <X25519 as hpke::Kem>::PublicKey::from_bytes(recipient).map_err(|_| Error::Recipient)?;
    let (encapsulated, ciphertext) =
        single_shot_seal::<AesGcm256, HkdfSha256, X25519>(&OpModeS::Base, &recipient, INFO, plaintext, binding)
            .map_err(|error| match error {
                hpke::HpkeError::EncapError => Error::Recipient,
                _ => Error::Seal,
            })?;
    Ok((encapsulated.to_bytes().to_vec(), ciphertext))
}

/// The private half of a boot's encryption key; zeroed when dropped.
pub struct Opener {
    private: <X25519 as hpke::Kem>::PrivateKey,
    public: Vec<u8>,
}

impl Opener {
    /// Makes a key.
    ///
    /// # Errors
    /// Never today; the signature leaves room for a failing random source.
    pub fn generate() -> Result<Self, Error> {
        let (private, public) = X25519::gen_keypair();
        Ok(Self { private, public: public.to_bytes().to_vec() })
    }

    /// The public half, 32 bytes: [`crate::protocol::BootKeys::encryption`].
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        self.public.clone()
    }

    /// Decrypts a box made by [`seal`] for this key and this binding.
    ///
    /// # Errors
    /// When it isn't one.
    pub fn open(
        &self,
        encapsulated: &[u8],
        ciphertext: &[u8],
        binding: &[u8; 32],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let encapsulated = <X25519 as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| Error::Open)?;
        single_shot_open::<AesGcm256, HkdfSha256, X25519>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            INFO,
            ciphertext,
            binding,
        )
        .map(Zeroizing::new)
        .map_err(|_| Error::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: [u8; 32] = [1; 32];

    #[test]
    fn the_recipient_opens_the_box() {
        let opener = Opener::generate().unwrap();
        let (encapsulated, ciphertext) = seal(&opener.public(), &BINDING, b"secret").unwrap();
        assert_eq!(encapsulated.len(), 32);
        assert_eq!(opener.open(&encapsulated, &ciphertext, &BINDING).unwrap().as_slice(), b"secret");
    }

    #[test]
    fn another_key_cannot_open_the_box() {
        let (encapsulated, ciphertext) = seal(&Opener::generate().unwrap().public(), &BINDING, b"secret").unwrap();
        assert!(Opener::generate().unwrap().open(&encapsulated, &ciphertext, &BINDING).is_err());
    }

    #[test]
    fn a_box_of_another_conversation_does_not_open() {
        let opener = Opener::generate().unwrap();
        let (encapsulated, ciphertext) = seal(&opener.public(), &BINDING, b"secret").unwrap();
        assert!(opener.open(&encapsulated, &ciphertext, &[2; 32]).is_err());
    }

    #[test]
    fn an_altered_box_does_not_open() {
        let opener = Opener::generate().unwrap();
        let (encapsulated, ciphertext) = seal(&opener.public(), &BINDING, b"secret").unwrap();
        for index in 0..ciphertext.len() {
            let mut altered = ciphertext.clone();
            altered[index] ^= 1;
            assert!(opener.open(&encapsulated, &altered, &BINDING).is_err());
        }
        assert!(opener.open(&[9; 32], &ciphertext, &BINDING).is_err());
        assert!(opener.open(&encapsulated[..31], &ciphertext, &BINDING).is_err());
        assert!(opener.open(&encapsulated, &[], &BINDING).is_err());
    }

    #[test]
    fn a_weak_or_short_recipient_is_refused() {
        for weak in [&[0; 32][..], &[9; 31], &[]] {
            assert!(matches!(seal(weak, &BINDING, b"secret"), Err(Error::Recipient)), "{weak:?}");
        }
    }
}
