//! The inverse in software, and what a public area must be.

use aws_lc_rs::{
    agreement::{PrivateKey, agree},
    cipher::{DecryptingKey, DecryptionContext},
    rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};

use super::*;

/// An endorsement key whose private half we have, which opens credentials as a TPM does.
pub(crate) enum SoftEk {
    Ecc(PrivateKey),
    Rsa(PrivateDecryptingKey),
}

/// Attributes of EK templates L-1 and L-2 (TCG EK Credential Profile, B.3.3 and B.3.4): those demanded, and adminWithPolicy.
const TEMPLATE_ATTRIBUTES: u32 = 0x0003_00b2;

impl SoftEk {
    pub(crate) fn ecc() -> Self {
        Self::Ecc(PrivateKey::generate(&ECDH_P256).unwrap())
    }

    fn rsa() -> Self {
        Self::Rsa(PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        let (kind, rest) = match self {
            Self::Ecc(key) => {
                let point = key.compute_public_key().unwrap();
                let (x, y) = point.as_ref()[1..].split_at(32);
                (ALG_ECC, [&b"\x00\x03\x00\x10"[..], &sized(x), &sized(y)].concat())
            }
            Self::Rsa(key) => {
                let spki =
                    aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(&key.public_key())
                        .unwrap();
                let modulus = &spki.as_ref()[RSA_PREFIX.len()..][..RSA_BYTES];
                (ALG_RSA, [&b"\x08\x00\x00\x00\x00\x00"[..], &sized(modulus)].concat())
            }
        };
        let head = [
            &kind.to_be_bytes()[..],
            &ALG_SHA256.to_be_bytes(),
            &TEMPLATE_ATTRIBUTES.to_be_bytes(),
            &sized(&[0x83; 32]),
            b"\x00\x06\x00\x80\x00\x43\x00\x10",
        ]
        .concat();
        sized(&[head, rest].concat())
    }

    /// `TPM2_ActivateCredential`.
    pub(crate) fn activate(&self, ak_public: &[u8], credential: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
        let name = name(ak_public).ok()?;
        let secret = unsized_exact(secret)?;
        let seed = match self {
            Self::Ecc(key) => {
                let mut reader = Reader(secret);
                let (x, y) = (reader.sized()?, reader.sized()?);
                let own = key.compute_public_key().unwrap();
                let point = [&[4], x, y].concat();
                agree(key, UnparsedPublicKey::new(&ECDH_P256, &point), (), |shared| {
                    Ok(kdfe(shared, IDENTITY, x, &own.as_ref()[1..33]).to_vec())
                })
                .ok()?
            }
            Self::Rsa(key) => {
                let key = OaepPrivateDecryptingKey::new(key.clone()).unwrap();
                let mut seed = vec![0; key.min_output_size()];
                key.decrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut seed, Some(IDENTITY)).ok()?.to_vec()
            }
        };
        let mut object = Reader(unsized_exact(credential)?);
        let (mac, mut identity) = (object.sized()?, object.0.to_vec());
        let key = hmac::Key::new(hmac::HMAC_SHA256, kdfa(&seed, b"INTEGRITY", &[], 256).as_slice());
        hmac::verify(&key, &[identity.clone(), name.clone()].concat(), mac).ok()?;
        let key = kdfa(&seed, b"STORAGE", &name, 128);
        let cipher = DecryptingKey::cfb128(UnboundCipherKey::new(&AES_128, &key[..16]).unwrap()).unwrap();
        cipher.decrypt(&mut identity, DecryptionContext::Iv128(FixedLength::from([0; 16]))).unwrap();
        unsized_exact(&identity).map(<[u8]>::to_vec)
    }
}

/// Some attestation key; only its bytes matter here.
pub(crate) fn some_ak(salt: u8) -> Vec<u8> {
    sized(&[0, 0x23, 0, 0x0b, salt, salt])
}

#[test]
fn the_right_tpm_opens_the_credential_beside_the_right_key() {
    for ek in [SoftEk::ecc(), SoftEk::rsa()] {
        let (credential, secret) = make_credential(&ek.public(), &some_ak(1), &[5; 32]).unwrap();
        assert_eq!(ek.activate(&some_ak(1), &credential, &secret), Some(vec![5; 32]));
    }
}

#[test]
fn another_attestation_key_gets_nothing() {
    for ek in [SoftEk::ecc(), SoftEk::rsa()] {
        let (credential, secret) = make_credential(&ek.public(), &some_ak(1), &[5; 32]).unwrap();
        assert_eq!(ek.activate(&some_ak(2), &credential, &secret), None);
    }
}

#[test]
fn another_tpm_gets_nothing() {
    for (ek, other) in [(SoftEk::ecc(), SoftEk::ecc()), (SoftEk::rsa(), SoftEk::rsa())] {
        let (credential, secret) = make_credential(&ek.public(), &some_ak(1), &[5; 32]).unwrap();
        assert_eq!(other.activate(&some_ak(1), &credential, &secret), None);
    }
}

#[test]
fn each_credential_is_encrypted_anew() {
    let ek = SoftEk::ecc();
    let first = make_credential(&ek.public(), &some_ak(1), &[5; 32]).unwrap();
    let second = make_credential(&ek.public(), &some_ak(1), &[5; 32]).unwrap();
    assert!(first.0 != second.0 && first.1 != second.1);
}

#[test]
fn only_secrets_of_one_to_thirty_two_bytes_fit() {
    let ek = SoftEk::ecc().public();
    assert!(make_credential(&ek, &some_ak(1), &[5]).is_ok());
    assert!(matches!(make_credential(&ek, &some_ak(1), &[]), Err(Error::Secret)));
    assert!(matches!(make_credential(&ek, &some_ak(1), &[5; 33]), Err(Error::Secret)));
}

/// The endorsement key of a real (software) TPM, as tpm2-tools wrote it: `tpm2_createek` of the vectors.
const SWTPM_EK: &str = include_str!("ek_rsa.hex");

#[test]
fn the_public_area_of_a_software_tpms_endorsement_key_is_accepted() {
    let ek = hex::decode(SWTPM_EK.trim()).unwrap();
    assert!(matches!(EndorsementKey::parse(&ek), Ok(EndorsementKey::Rsa(_))));
    let (credential, secret) = make_credential(&ek, &some_ak(1), &[5; 32]).unwrap();
    // The sizes that tpm2_makecredential gives for the same key.
    assert_eq!((credential.len(), secret.len()), (2 + 34 + 34, 2 + 256));
}

#[test]
fn an_endorsement_key_cut_off_or_with_more_behind_is_refused() {
    for ek in [SoftEk::ecc().public(), SoftEk::rsa().public()] {
        for length in 0..ek.len() {
            assert!(EndorsementKey::parse(&ek[..length]).is_err());
            let inner = sized(&ek[2..length.max(2)]);
            assert!(EndorsementKey::parse(&inner).is_err());
        }
        assert!(EndorsementKey::parse(&[ek.as_slice(), &[0]].concat()).is_err());
        assert!(EndorsementKey::parse(&sized(&[&ek[2..], &[0]].concat())).is_err());
    }
}

#[test]
fn an_endorsement_key_with_one_wrong_field_is_refused() {
    let ek = SoftEk::ecc().public();
    let fields = [
        ("type", 3, 0x08),
        ("name algorithm", 5, 0x0c),
        ("restricted", 7, 0x02),
        ("decrypt", 7, 0x01),
        ("sign", 7, 0x07),
        ("fixedTPM", 9, 0xb0),
        ("fixedParent", 9, 0xa2),
        ("sensitiveDataOrigin", 9, 0x92),
        ("symmetric algorithm", 45, 0x10),
        ("key bits", 46, 0x01),
        ("mode", 49, 0x42),
        ("scheme", 51, 0x18),
        ("curve", 53, 0x04),
        ("kdf", 55, 0x20),
    ];
    for (field, offset, value) in fields {
        let mut wrong = ek.clone();
        assert_ne!(wrong[offset], value, "{field}");
        wrong[offset] = value;
        assert!(EndorsementKey::parse(&wrong).is_err(), "{field}");
    }
}

#[test]
fn an_rsa_endorsement_key_is_one_of_2048_bits_with_the_usual_exponent() {
    let ek = SoftEk::rsa().public();
    let with = |changes: &[(usize, u8)]| {
        let mut changed = ek.clone();
        for (offset, value) in changes {
            changed[*offset] = *value;
        }
        EndorsementKey::parse(&changed).is_ok()
    };
    assert!(with(&[]) && with(&[(55, 1), (57, 1)]), "0 and 65537");
    for (field, changes) in [
        ("bits", vec![(52, 0x04)]),
        ("exponent 3", vec![(57, 3)]),
        ("exponent 65539", vec![(55, 1), (57, 3)]),
        ("a modulus of 2047 bits", vec![(60, ek[60] & 0x7f)]),
    ] {
        assert!(!with(&changes), "{field}");
    }
}

#[test]
fn a_point_off_the_curve_is_refused() {
    let mut ek = SoftEk::ecc().public();
    let last = ek.len() - 1;
    ek[last] ^= 1;
    assert!(matches!(make_credential(&ek, &some_ak(1), &[5; 32]), Err(Error::Crypto)));
}

#[test]
fn an_attestation_key_that_cannot_be_named_is_refused() {
    let ek = SoftEk::ecc().public();
    for ak in [&[][..], &[0, 0], &[0, 1, 0], &sized(&[0, 0x23, 0, 0x0c]), &[0, 6, 0, 0x23, 0, 0x0b]] {
        assert!(matches!(make_credential(&ek, ak, &[5; 32]), Err(Error::Ak)));
    }
}
