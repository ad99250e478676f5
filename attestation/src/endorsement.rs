//! The endorsement key's certificate: a chain to a CA that the owner named, valid now, for the key that is shown.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use jiff::Timestamp;
use x509_parser::{prelude::*, public_key::PublicKey};

use crate::tpm::public::{Key, Public};

/// Why an endorsement key isn't believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The policy names no CA.
    #[error("the trust policy names no CA for endorsement keys")]
    NoRoots,
    /// A CA of the policy can't be parsed.
    #[error("a CA of the trust policy isn't a certificate")]
    Root,
    /// The certificate can't be parsed.
    #[error("the endorsement key's certificate can't be parsed")]
    Certificate,
    /// It isn't valid now.
    #[error("the certificate of {0} isn't valid at this time")]
    Time(String),
    /// No CA of the policy issued it.
    #[error("no CA of the trust policy issued the certificate of {0}")]
    Issuer(String),
    /// It is a CA's certificate, or for another key than the one shown.
    #[error("the certificate isn't for the endorsement key that was shown")]
    Key,
}

/// Verifies that `certificate` (DER) is for `ek` and was issued by a CA in `roots` (PEM), at `now`.
///
/// Every certificate in `roots` is an anchor, so the leaf's issuer itself must stand there: the evidence brings no
/// intermediates, and none would be believed.
///
/// # Errors
/// When anything is missing or doesn't hold.
pub fn verify(certificate: &[u8], ek: &Public, roots: &[String], now: Timestamp) -> Result<(), Error> {
    if roots.is_empty() {
        return Err(Error::NoRoots);
    }
    let pems = roots
        .iter()
        .flat_map(|pem| x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::Root)?;
    let anchors = pems.iter().map(|pem| pem.parse_x509().map_err(|_| Error::Root)).collect::<Result<Vec<_>, _>>()?;
    if anchors.is_empty() {
        return Err(Error::NoRoots);
    }
    let (rest, leaf) = X509Certificate::from_der(certificate).map_err(|_| Error::Certificate)?;
    if !rest.is_empty() {
        return Err(Error::Certificate);
    }
    if leaf.is_ca() || !is_for(&leaf, &ek.key) {
        return Err(Error::Key);
    }
    in_date(&leaf, now)?;
    let issuer = anchors
        .iter()
        .find(|ca| ca.is_ca() && ca.subject() == leaf.issuer() && is_signed_by(&leaf, ca))
        .ok_or_else(|| Error::Issuer(leaf.subject().to_string()))?;
    in_date(issuer, now)
}

fn in_date(certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), Error> {
    let validity = certificate.validity();
    let now = now.as_second();
    // swtpm_localca writes GeneralizedTime 9999-12-31 for "never".
    if validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp() {
        Ok(())
    } else {
        Err(Error::Time(certificate.subject().to_string()))
    }
}

fn is_for(certificate: &X509Certificate<'_>, key: &Key) -> bool {
    match (certificate.public_key().parsed(), key) {
        (Ok(PublicKey::RSA(rsa)), Key::Rsa { modulus }) => {
            let shown = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
            shown == modulus.as_slice() && rsa.exponent.iter().copied().skip_while(|b| *b == 0).eq([1, 0, 1])
        }
        (Ok(PublicKey::EC(point)), Key::P256 { x, y }) => point.data() == [&[4], x.as_slice(), y.as_slice()].concat(),
        _ => false,
    }
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let algorithm: &dyn VerificationAlgorithm = match certificate.signature_algorithm.algorithm.to_id_string().as_str()
    {
        "1.2.840.113549.1.1.11" => &RSA_PKCS1_2048_8192_SHA256,
        "1.2.840.113549.1.1.12" => &RSA_PKCS1_2048_8192_SHA384,
        "1.2.840.113549.1.1.13" => &RSA_PKCS1_2048_8192_SHA512,
        "1.2.840.10045.4.3.2" => &ECDSA_P256_SHA256_ASN1,
        "1.2.840.10045.4.3.3" => &ECDSA_P384_SHA384_ASN1,
        _ => return false,
    };
    // RFC 5280, 4.1.1.2: the algorithm stands twice, and only the inner one is signed. A signature is whole bytes.
    if certificate.signature_algorithm != certificate.tbs_certificate.signature
        || certificate.signature_value.unused_bits != 0
    {
        return false;
    }
    let key = issuer.public_key().subject_public_key.data.as_ref();
    UnparsedPublicKey::new(algorithm, key)
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .is_ok()
}
