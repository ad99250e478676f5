//! X.509 certificates and revocation lists: who signed them, with what, for what use, and when they are in date.
//!
//! Each platform has its own shape of chain, so there is no general path builder here but the steps of one, strict:
//! [`certificate`] parses, [`issued`] follows one link, [`in_date`] and [`RevocationList`] say whether it still holds.
//! Trust anchors and the algorithms a chain may use are arguments. Source: RFC 5280, sections 4, 5, 6.1 and 6.3.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey,
    VerificationAlgorithm,
};
use jiff::Timestamp;
use x509_parser::{
    asn1_rs::{Any, BitString, FromDer},
    certificate::X509Certificate,
    extensions::X509Extension,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384,
        OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
    },
    pem::Pem,
    public_key::PublicKey,
    revocation_list::CertificateRevocationList,
    signature_algorithm::SignatureAlgorithm,
    time::ASN1Time,
    x509::{AlgorithmIdentifier, AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name, X509Version},
};

pub mod chain;

/// MGF1, RFC 8017 appendix B.2.1.
const OID_MGF1: &str = "1.2.840.113549.1.1.8";

/// Why a certificate or a revocation list isn't believed.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Signed with another algorithm, other parameters or another kind of key than the chain may use.
    #[error("key or signature isn't of an algorithm that is allowed here")]
    Algorithm,
    /// It has an extension that must be understood and isn't.
    #[error("unknown critical extension {0}")]
    Critical(String),
    /// It names somebody else as its issuer.
    #[error("issued by {actual} instead of {expected}")]
    Issuer {
        /// Who it had to be.
        expected: String,
        /// Who it says.
        actual: String,
    },
    /// Not the wanted DER or PEM.
    #[error("{0} isn't well formed")]
    Malformed(&'static str),
    /// The issuer didn't sign it.
    #[error("signature doesn't hold")]
    Signature,
    /// Not in date.
    #[error("{0}, which isn't now")]
    Time(String),
    /// The certificate isn't for this purpose.
    #[error("the certificate of {0} isn't for this purpose")]
    Usage(String),
}

/// A signature algorithm with all its parameters. A chain names those it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
    /// RSA PKCS #1 v1.5 with SHA-256, 2048 to 8192 bits.
    RsaPkcs1Sha256,
    /// RSA PKCS #1 v1.5 with SHA-384, 2048 to 8192 bits.
    RsaPkcs1Sha384,
    /// RSA PKCS #1 v1.5 with SHA-512, 2048 to 8192 bits.
    RsaPkcs1Sha512,
    /// RSA-PSS with SHA-256, MGF1 with SHA-256 and 32 bytes of salt.
    RsaPssSha256,
    /// RSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt, 4096 bits: AMD's (document 57230, chapter 2).
    RsaPssSha384,
}

impl Algorithm {
    /// All but RSA-PSS: what general-purpose CAs sign with.
    pub const COMMON: [Self; 5] =
        [Self::EcdsaP256, Self::EcdsaP384, Self::RsaPkcs1Sha256, Self::RsaPkcs1Sha384, Self::RsaPkcs1Sha512];

    /// Reads an algorithm identifier; parameters other than those listed are no algorithm of ours.
    fn of(identifier: &AlgorithmIdentifier<'_>) -> Option<Self> {
        let oid = &identifier.algorithm;
        [
            (OID_SIG_ECDSA_WITH_SHA256, Self::EcdsaP256),
            (OID_SIG_ECDSA_WITH_SHA384, Self::EcdsaP384),
            (OID_PKCS1_SHA256WITHRSA, Self::RsaPkcs1Sha256),
            (OID_PKCS1_SHA384WITHRSA, Self::RsaPkcs1Sha384),
            (OID_PKCS1_SHA512WITHRSA, Self::RsaPkcs1Sha512),
        ]
        .into_iter()
        .find_map(|(known, algorithm)| (known == *oid).then_some(algorithm))
        .or_else(|| (*oid == OID_PKCS1_RSASSAPSS).then(|| Self::of_pss(identifier)).flatten())
    }

    fn of_pss(identifier: &AlgorithmIdentifier<'_>) -> Option<Self> {
        let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(identifier) else {
            return None;
        };
        let hash = parameters.hash_algorithm_oid();
        // Absent parameters mean SHA-1, which isn't among those below.
        let mask = parameters.mask_gen_algorithm().ok()?;
        if mask.mgf.to_id_string() != OID_MGF1 || parameters.trailer_field() != 1 {
            return None;
        }
        [(OID_NIST_HASH_SHA256, 32, Self::RsaPssSha256), (OID_NIST_HASH_SHA384, 48, Self::RsaPssSha384)]
            .into_iter()
            .find_map(|(oid, salt, algorithm)| {
                (*hash == oid && mask.hash == oid && parameters.salt_length() == salt).then_some(algorithm)
            })
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            Self::EcdsaP384 => &ECDSA_P384_SHA384_ASN1,
            Self::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::RsaPkcs1Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::RsaPkcs1Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
            Self::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
        }
    }

    /// The key of a certificate, when it is one for this algorithm.
    fn key<'a>(self, info: &'a SubjectPublicKeyInfo<'_>) -> Result<&'a [u8], Error> {
        match self {
            Self::EcdsaP256 => ec_key(info, Curve::P256),
            Self::EcdsaP384 => ec_key(info, Curve::P384),
            Self::RsaPssSha384 if rsa_bits(info) != Some(4096) => Err(Error::Algorithm),
            _ if info.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION => Ok(&info.subject_public_key.data),
            _ => Err(Error::Algorithm),
        }
    }
}

fn rsa_bits(info: &SubjectPublicKeyInfo<'_>) -> Option<usize> {
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

/// A curve that keys may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

/// The key of a certificate, as an uncompressed point on a curve.
///
/// # Errors
/// When it is another kind of key.
pub fn ec_key<'a>(info: &'a SubjectPublicKeyInfo<'_>, curve: Curve) -> Result<&'a [u8], Error> {
    let (oid, bytes) = match curve {
        Curve::P256 => (OID_EC_P256, 65),
        Curve::P384 => (OID_NIST_EC_P384, 97),
    };
    let on = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let point = info.subject_public_key.data.as_ref();
    // Others are compressed, or say twice which of two points it is.
    let whole = point.len() == bytes && point.first() == Some(&4);
    if info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && on == Some(oid) && whole {
        Ok(point)
    } else {
        Err(Error::Algorithm)
    }
}

/// Parses one certificate, DER, version 3, without trailing bytes or critical extensions that we don't know.
///
/// # Errors
/// When it isn't such a certificate. Nothing about it is verified.
pub fn certificate(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Malformed("certificate"))?;
    if !rest.is_empty() || certificate.version() != X509Version::V3 || !is_framed(der, 2) {
        return Err(Error::Malformed("certificate"));
    }
    // Who relies on the use or the names of a certificate looks at them, so these are known.
    no_unknown_critical(
        certificate.extensions(),
        &[
            OID_X509_EXT_BASIC_CONSTRAINTS,
            OID_X509_EXT_EXTENDED_KEY_USAGE,
            OID_X509_EXT_KEY_USAGE,
            OID_X509_EXT_SUBJECT_ALT_NAME,
        ],
    )?;
    Ok(certificate)
}

/// A certificate without the zeros of the storage that it was read from: a TPM's may be longer than it.
#[must_use]
pub fn unpadded(der: &[u8]) -> &[u8] {
    match element(der) {
        Some((whole, _, rest)) if rest.iter().all(|byte| *byte == 0) => whole,
        _ => der,
    }
}

/// Whether a revocation list names a certificate. Nothing about either is verified.
#[must_use]
pub fn is_listed(list: &[u8], certificate: &[u8]) -> bool {
    let Ok((_, list)) = CertificateRevocationList::from_der(list) else { return false };
    self::certificate(certificate).is_ok_and(|certificate| RevocationList(list).revokes(&certificate))
}

/// Whether what stands around the signed bytes is as RFC 5280, 4.1 and 5.1 have it: nothing else looks at those bytes, and
/// two texts of one certificate would be two names of it. The algorithm that the issuer signed is the one with so many
/// elements `before` it.
fn is_framed(der: &[u8], before: usize) -> bool {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let framed = || {
        let signed = element(element(der)?.1)?;
        let algorithm = element(signed.2)?;
        let signature = element(algorithm.2)?;
        let rest = (0..before).try_fold(signed.1, |rest, _| Some(element(rest)?.2))?;
        let tags = [der, signed.0, algorithm.0, signature.0].map(|part| part.first().copied());
        let wanted = [SEQUENCE, SEQUENCE, SEQUENCE, BIT_STRING].map(Some);
        Some(tags == wanted && signature.2.is_empty() && element(rest)?.0 == algorithm.0)
    };
    framed().unwrap_or(false)
}

/// The first element of some DER: all of it, its content, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    let whole = der.get(..der.len().checked_sub(rest.len())?)?;
    Some((whole, any.data, rest))
}

/// Reads the DER of all certificates in PEM text, at most `most`.
///
/// # Errors
/// When something in it isn't PEM or isn't a certificate, or there are too many.
pub fn from_pem(text: &[u8], most: usize) -> Result<Vec<Vec<u8>>, Error> {
    let mut certificates = Vec::new();
    for pem in Pem::iter_from_buffer(text) {
        let pem = pem.map_err(|_| Error::Malformed("PEM"))?;
        if certificates.len() == most || pem.label != "CERTIFICATE" {
            return Err(Error::Malformed("list of certificates"));
        }
        certificates.push(pem.contents);
    }
    Ok(certificates)
}

fn no_unknown_critical(extensions: &[X509Extension<'_>], known: &[Oid<'_>]) -> Result<(), Error> {
    match extensions.iter().find(|extension| extension.critical && !known.contains(&extension.oid)) {
        Some(extension) => Err(Error::Critical(extension.oid.to_id_string())),
        None => Ok(()),
    }
}

/// Checks one link of a chain: `issuer` is a CA, is who the certificate names, and signed it with an allowed algorithm.
/// A CA that may have no CA below it (path length 0) issued none.
///
/// # Errors
/// What of it doesn't hold. Dates and revocation are looked at elsewhere.
pub fn issued(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    allowed: &[Algorithm],
) -> Result<(), Error> {
    authority(issuer)?;
    let below = issuer.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
    if below == Some(0) && !is_leaf(certificate) {
        return Err(Error::Usage(issuer.subject().to_string()));
    }
    signed(
        issuer,
        certificate.issuer(),
        [&certificate.signature_algorithm, &certificate.tbs_certificate.signature],
        certificate.tbs_certificate.as_ref(),
        &certificate.signature_value,
        allowed,
    )
}

fn signed(
    issuer: &X509Certificate<'_>,
    name: &X509Name<'_>,
    [outer, inner]: [&AlgorithmIdentifier<'_>; 2],
    message: &[u8],
    signature: &BitString<'_>,
    allowed: &[Algorithm],
) -> Result<(), Error> {
    if name.as_raw() != issuer.subject().as_raw() {
        return Err(Error::Issuer { expected: issuer.subject().to_string(), actual: name.to_string() });
    }
    // The outer identifier and the unused bits aren't signed.
    if outer != inner || signature.unused_bits != 0 {
        return Err(Error::Algorithm);
    }
    let algorithm = Algorithm::of(inner).filter(|algorithm| allowed.contains(algorithm)).ok_or(Error::Algorithm)?;
    UnparsedPublicKey::new(algorithm.verification(), algorithm.key(issuer.public_key())?)
        .verify(message, &signature.data)
        .map_err(|_| Error::Signature)
}

/// Checks that a certificate is one of a CA, and that its key, if it is limited in use, may sign certificates.
///
/// # Errors
/// [`Error::Usage`] when it isn't, or one of these extensions is malformed or there twice.
pub fn authority(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let is_ca = certificate.basic_constraints().is_ok_and(|constraints| constraints.is_some_and(|c| c.value.ca));
    let may_sign = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    if is_ca && may_sign { Ok(()) } else { Err(Error::Usage(certificate.subject().to_string())) }
}

/// Whether a certificate is nobody's issuer. One whose word on that is malformed or there twice may be one.
#[must_use]
pub fn is_leaf(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().is_ok_and(|found| found.is_none_or(|constraints| !constraints.value.ca))
}

/// Whether a certificate is one of a key that signs and does nothing else: bit 0 alone (RFC 5280, 4.2.1.3). Endorsement
/// keys encipher or agree, CAs sign certificates.
#[must_use]
pub fn signs_only(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(usage)) = certificate.key_usage() else { return false };
    usage.value.flags == 1 && is_leaf(certificate)
}

/// The common name of a subject or an issuer; `None` unless there is exactly one.
#[must_use]
pub fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    let mut names = name.iter_common_name().map(AttributeTypeAndValue::as_str);
    match (names.next(), names.next()) {
        (Some(Ok(name)), None) => Some(name),
        _ => None,
    }
}

/// Checks that a certificate is in date, ends included.
///
/// # Errors
/// [`Error::Time`].
pub fn in_date(certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), Error> {
    let validity = certificate.validity();
    // swtpm_localca writes GeneralizedTime 9999-12-31 for "never", so seconds are compared and not dates.
    if between(validity.not_before, validity.not_after, now) { Ok(()) } else { Err(Error::Time(dates(certificate))) }
}

/// When a certificate ends; "never" is the last moment that there is.
#[must_use]
pub fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX)
}

/// Whose certificate it is and when it is in date, in words.
#[must_use]
pub fn dates(certificate: &X509Certificate<'_>) -> String {
    let validity = certificate.validity();
    format!("{} is valid from {} to {}", certificate.subject(), validity.not_before, validity.not_after)
}

fn between(from: ASN1Time, to: ASN1Time, now: Timestamp) -> bool {
    (from.timestamp()..=to.timestamp()).contains(&now.as_second())
}

/// What is known about revocation at the time of verification. A certificate that a list revokes is never accepted.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub enum Revocation {
    /// There is what isn't a list that the issuer signed.
    Unbelieved,
    /// There is no list.
    Unknown,
    /// There is a list, out of date.
    OutOfDate,
    /// There is a list in date.
    Current,
}

/// A revocation list that its issuer signed for all its certificates. It may be out of date.
#[derive(Clone, Debug)]
pub struct RevocationList<'a>(CertificateRevocationList<'a>);

impl<'a> RevocationList<'a> {
    /// Parses a list, DER, and checks that `issuer`, a CA whose key may sign such lists, signed it.
    ///
    /// # Errors
    /// What of it doesn't hold. A list of some certificates only, or of changes only, is none.
    pub fn verify(der: &'a [u8], issuer: &X509Certificate<'_>, allowed: &[Algorithm]) -> Result<Self, Error> {
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|_| Error::Malformed("revocation list"))?;
        // A list of version 1 says none.
        if !rest.is_empty() || !is_framed(der, usize::from(list.version().is_some())) {
            return Err(Error::Malformed("revocation list"));
        }
        // Partial, indirect and delta lists say so in a critical extension (RFC 5280, 5.2.4 and 5.2.5).
        no_unknown_critical(list.extensions(), &[])?;
        authority(issuer)?;
        if issuer.key_usage().ok().flatten().is_some_and(|usage| !usage.value.crl_sign()) {
            return Err(Error::Usage(issuer.subject().to_string()));
        }
        signed(
            issuer,
            list.issuer(),
            [&list.signature_algorithm, &list.tbs_cert_list.signature],
            list.tbs_cert_list.as_ref(),
            &list.signature_value,
            allowed,
        )?;
        Ok(Self(list))
    }

    /// Checks that it is in date, ends included. A list that doesn't say when the next one comes never is.
    ///
    /// # Errors
    /// [`Error::Time`].
    pub fn in_date(&self, now: Timestamp) -> Result<(), Error> {
        match self.0.next_update() {
            Some(next) if between(self.0.last_update(), next, now) => Ok(()),
            _ => Err(Error::Time(self.dates())),
        }
    }

    /// When the next one comes, if it says so.
    #[must_use]
    pub fn next_update(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.0.next_update()?.timestamp()).ok()
    }

    /// When it was made and when the next one comes, in words.
    #[must_use]
    pub fn dates(&self) -> String {
        let next = self.0.next_update().map_or_else(|| "an unknown time".to_owned(), |next| next.to_string());
        format!("the revocation list is of {} and the next comes at {next}", self.0.last_update())
    }

    /// Whether it names a certificate of its issuer.
    #[must_use]
    pub fn revokes(&self, certificate: &X509Certificate<'_>) -> bool {
        let serial = certificate.raw_serial();
        self.0.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == serial)
    }
}

#[cfg(test)]
mod tests;
