//! What Google and AWS say about a TPM, said by a test under roots of its own: SIMULATED.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair},
};
use constellation_attestation::tpm::public;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, SubjectPublicKeyInfo,
};
use sha2::{Digest as _, Sha256};

/// The extension of Google's certificates, as `gcp::instance` reads it; of instance 42.
fn instance() -> Vec<u8> {
    let text = |text: &str| [&[0x0c, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let body = [
        text("europe-west4-a"),
        vec![2, 1, 7],
        text("project"),
        vec![2, 1, 42],
        text("node-1"),
        vec![0xa0, 7, 0x30, 5, 0xa1, 3, 1, 1, 0xff],
    ]
    .concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

/// A root.
pub fn issuer(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()).unwrap()
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// A `SubjectPublicKeyInfo` of a point on P-256 (RFC 5480, 2).
fn spki(key: &public::Key) -> Vec<u8> {
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    [head, key.to_bytes()].concat()
}

/// Google's certificate for a TPM's key.
pub fn certificate(root: &CertifiedIssuer<'static, KeyPair>, key: &public::Key) -> Vec<u8> {
    let mut certified = leaf("node-1");
    let oid = [1, 3, 6, 1, 4, 1, 11129, 2, 1, 21];
    certified.custom_extensions.push(CustomExtension::from_oid_content(&oid, instance()));
    certified.signed_by(&SubjectPublicKeyInfo::from_der(&spki(key)).unwrap(), root).unwrap().der().to_vec()
}

/// A crypto-agile log in which the host says how it encrypts memory; the digests that PCR 0 is extended by come first.
pub fn log(technology: u8) -> (Vec<[u8; 32]>, Vec<u8>) {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let spec = [b"Spec ID Event03\0".as_slice(), &[0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]].concat();
    let mut log = [&0_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), &[0; 20], &size(&spec), &spec].concat();
    let mut said = [b"GCE NonHostInfo\0".as_slice(), &[0; 16]].concat();
    said[16] = technology;
    let events = [(0x11_u32, said), (4, vec![0; 4])];
    let digests = events.iter().map(|(_, data)| Sha256::digest(data).into()).collect();
    for (kind, data) in &events {
        let head = [&0_u32.to_le_bytes()[..], &kind.to_le_bytes(), &1_u32.to_le_bytes(), &[0x0b, 0]].concat();
        log.extend([&head[..], &Sha256::digest(data), &size(data), data].concat());
    }
    (digests, log)
}

/// An integer or length in CBOR (RFC 8949, 3), of this major type.
fn head(major: u8, number: usize) -> Vec<u8> {
    let bytes = u64::try_from(number).unwrap().to_be_bytes();
    match number {
        0..=23 => vec![major << 5 | bytes[7]],
        24..=255 => vec![major << 5 | 0x18, bytes[7]],
        256..=0xffff => [&[major << 5 | 0x19], &bytes[6..]].concat(),
        _ => [&[major << 5 | 0x1b], &bytes[..]].concat(),
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len()), bytes.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.into()].concat()
}

/// What AWS would sign about a TPM at a second.
pub fn document(
    root: &CertifiedIssuer<'static, KeyPair>,
    registers: &[u8],
    nonce: &[u8],
    key: &[u8],
    second: i64,
) -> Vec<u8> {
    let signer = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let module = "i-01cfb383223e42522-tpm0000000000000000";
    let certificate = leaf(&format!("{module}.us-east-1.aws")).signed_by(&signer, root).unwrap();
    let pcrs: Vec<_> =
        registers.chunks(48).enumerate().flat_map(|(pcr, value)| [head(0, pcr), string(value)]).collect();
    let members = [
        (text("module_id"), text(module)),
        (text("digest"), text("SHA384")),
        (text("timestamp"), head(0, usize::try_from(second * 1000).unwrap())),
        (text("nitrotpm_pcrs"), [head(5, registers.len() / 48), pcrs.concat()].concat()),
        (text("certificate"), string(certificate.der())),
        (text("cabundle"), [head(4, 1), string(root.der())].concat()),
        (text("public_key"), string(key)),
        (text("user_data"), vec![0xf6]),
        (text("nonce"), string(nonce)),
    ];
    let count = members.len();
    let payload =
        [head(5, count), members.into_iter().flat_map(|(name, value)| [name, value]).flatten().collect()].concat();
    let protected = [0xa1, 0x01, 0x38, 0x22];
    let message = [head(4, 4), text("Signature1"), string(&protected), string(&[]), string(&payload)].concat();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, signer.serialized_der()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), &message).unwrap();
    [head(4, 4), string(&protected), head(5, 0), string(&payload), string(signature.as_ref())].concat()
}
