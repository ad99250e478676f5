//! Intel's public key infrastructure for SGX and TDX: one root, CAs for PCK certificates, a signer of TCB data. All P-256.
//!
//! Sources: Intel SGX PCK Certificate and CRL Profile Specification 1.5; RFC 5280, 6.1 and 6.3.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use jiff::Timestamp;
use x509_parser::{
    asn1_rs::{BitString, FromDer},
    certificate::X509Certificate,
    extensions::X509Extension,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_KEY_USAGE, Oid,
    },
    pem::Pem,
    revocation_list::CertificateRevocationList,
    time::ASN1Time,
    x509::{AlgorithmIdentifier, AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name, X509Version},
};

/// Subject of the CA for platforms of several packages.
pub(super) const PCK_PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
/// Subject of the CA for platforms of one package.
pub(super) const PCK_PROCESSOR_CA: &str = "Intel SGX PCK Processor CA";
/// Subject of the certificate that signs TCB info and QE identity.
pub(super) const TCB_SIGNING: &str = "Intel SGX TCB Signing";
/// Subject of PCK certificates.
pub(super) const PCK: &str = "Intel SGX PCK Certificate";
/// Most certificates of a chain: PCK, its CA, root.
const MAX_CHAIN: usize = 3;

/// Why a chain or a revocation list isn't one of Intel's.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No anchor was given.
    #[error("no trust anchor")]
    Anchor,
    /// A chain of another length.
    #[error("chain of {0} certificates")]
    ChainLength(usize),
    /// It has an extension that must be understood and isn't.
    #[error("unknown critical extension {0}")]
    Critical(String),
    /// It is issued by somebody else.
    #[error("issued by {actual} instead of {expected}")]
    Issuer {
        /// Who it had to be.
        expected: String,
        /// Who it says.
        actual: String,
    },
    /// Not ECDSA with P-256 and SHA-256.
    #[error("key or signature isn't ECDSA with P-256 and SHA-256")]
    Algorithm,
    /// Not the wanted DER or PEM.
    #[error("{0} isn't well formed")]
    Malformed(&'static str),
    /// The root in the chain isn't the anchor.
    #[error("the root in the chain isn't the trust anchor")]
    Root,
    /// The issuer didn't sign it.
    #[error("signature doesn't hold")]
    Signature,
    /// It is for another purpose.
    #[error("{0} isn't for this purpose")]
    Usage(String),
}

/// The trust anchors: an argument of the verifier, never of the evidence or the collateral.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors {
    roots: Vec<Vec<u8>>,
}

/// Intel SGX Root CA, valid 2018-05-21 to 2049-12-31; SHA-256 of the certificate starts with `44a0196b`.
const INTEL: &[u8] = include_bytes!("intel_sgx_root_ca.der");

impl Anchors {
    /// The given root certificates, DER. Several are for the time of a rotation.
    ///
    /// # Errors
    /// When there is none, or one isn't a CA certificate with a P-256 key.
    pub fn new<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Error> {
        let roots: Vec<_> = roots.into_iter().map(<[u8]>::to_vec).collect();
        for root in &roots {
            let root = certificate(root)?;
            authority(&root)?;
            key(root.public_key())?;
        }
        if roots.is_empty() { Err(Error::Anchor) } else { Ok(Self { roots }) }
    }

    /// Intel's root for production platforms.
    #[must_use]
    pub fn intel() -> Self {
        Self { roots: vec![INTEL.to_vec()] }
    }

    /// The roots, parsed.
    pub(super) fn parsed(&self) -> Result<Vec<X509Certificate<'_>>, Error> {
        self.roots.iter().map(|root| certificate(root)).collect()
    }
}

/// A chain as it came: DER certificates, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain(Vec<Vec<u8>>);

impl Chain {
    /// Reads a chain of PEM certificates. What ends a C string (zero bytes) may follow.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut certificates = Vec::new();
        for pem in Pem::iter_from_buffer(text.get(..end).unwrap_or_default()) {
            let pem = pem.map_err(|_| Error::Malformed("PEM"))?;
            if certificates.len() == MAX_CHAIN || pem.label != "CERTIFICATE" {
                return Err(Error::ChainLength(certificates.len() + 1));
            }
            certificates.push(pem.contents);
        }
        Ok(Self(certificates))
    }

    /// The first certificate, of which nothing is verified.
    pub(super) fn leaf(&self) -> Result<X509Certificate<'_>, Error> {
        certificate(self.0.first().ok_or(Error::ChainLength(0))?)
    }

    /// Whether the first certificate is this one.
    pub(super) fn starts_with(&self, certificate: &X509Certificate<'_>) -> bool {
        self.0.first().is_some_and(|first| first == certificate.as_raw())
    }

    /// The certificates, parsed; `length` of them before the root. A root that comes with them must be the anchor:
    /// it is never trusted for coming.
    pub(super) fn below<'a>(
        &'a self,
        length: usize,
        anchor: &X509Certificate<'_>,
    ) -> Result<Vec<X509Certificate<'a>>, Error> {
        let mut below = self.0.as_slice();
        if let Some((root, rest)) = below.split_last()
            && rest.len() == length
        {
            if root != anchor.as_raw() && certificate(root)?.public_key().raw != anchor.public_key().raw {
                return Err(Error::Root);
            }
            below = rest;
        }
        if below.len() != length {
            return Err(Error::ChainLength(self.0.len()));
        }
        below.iter().map(|der| certificate(der)).collect()
    }
}

/// Parses one certificate, version 3, without trailing bytes or unknown critical extensions.
fn certificate(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Error::Malformed("certificate"))?;
    if !rest.is_empty() || certificate.version() != X509Version::V3 {
        return Err(Error::Malformed("certificate"));
    }
    no_unknown_critical(certificate.extensions(), &[OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE])?;
    Ok(certificate)
}

fn no_unknown_critical(extensions: &[X509Extension<'_>], known: &[Oid<'_>]) -> Result<(), Error> {
    match extensions.iter().find(|extension| extension.critical && !known.contains(&extension.oid)) {
        Some(extension) => Err(Error::Critical(extension.oid.to_id_string())),
        None => Ok(()),
    }
}

/// The key of a certificate, as an uncompressed point on P-256.
pub(super) fn key<'a>(info: &'a SubjectPublicKeyInfo<'_>) -> Result<&'a [u8], Error> {
    let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let point = info.subject_public_key.data.as_ref();
    if info.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) || point.len() != 65 {
        return Err(Error::Algorithm);
    }
    Ok(point)
}

/// Whether `signature`, `r || s`, is one over `message` by `key`, an uncompressed point.
pub(super) fn signed(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    verify(&ECDSA_P256_SHA256_FIXED, key, message, signature)
}

fn verify(algorithm: &'static EcdsaVerificationAlgorithm, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

/// Checks the signature of a certificate or a revocation list.
fn signed_by(
    issuer: &X509Certificate<'_>,
    name: &X509Name<'_>,
    [outer, inner]: [&AlgorithmIdentifier<'_>; 2],
    message: &[u8],
    signature: &BitString<'_>,
) -> Result<(), Error> {
    if name.as_raw() != issuer.subject().as_raw() {
        return Err(Error::Issuer { expected: issuer.subject().to_string(), actual: name.to_string() });
    }
    // The outer one and the unused bits aren't signed.
    if inner.algorithm != OID_SIG_ECDSA_WITH_SHA256 || outer != inner || signature.unused_bits != 0 {
        return Err(Error::Algorithm);
    }
    if verify(&ECDSA_P256_SHA256_ASN1, key(issuer.public_key())?, message, signature.data.as_ref()) {
        Ok(())
    } else {
        Err(Error::Signature)
    }
}

/// Whether `issuer`, a CA, issued a certificate.
pub(super) fn issued(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<(), Error> {
    authority(issuer)?;
    signed_by(
        issuer,
        certificate.issuer(),
        [&certificate.signature_algorithm, &certificate.tbs_certificate.signature],
        certificate.tbs_certificate.as_ref(),
        &certificate.signature_value,
    )
}

/// Whether a certificate is one of a CA: it may issue certificates and revocation lists.
fn authority(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|c| c.critical && c.value.ca);
    let usage = certificate.key_usage().ok().flatten();
    if is_ca && usage.is_some_and(|usage| usage.value.key_cert_sign() && usage.value.crl_sign()) {
        Ok(())
    } else {
        Err(Error::Usage(certificate.subject().to_string()))
    }
}

/// Whether a certificate is that of a CA with one of these names.
pub(super) fn is_authority(certificate: &X509Certificate<'_>, names: &[&str]) -> Result<(), Error> {
    authority(certificate)?;
    is_called(certificate.subject(), names)
}

/// Whether a certificate is that of a signer, and of no CA, with this name.
pub(super) fn is_signer(certificate: &X509Certificate<'_>, name: &str) -> Result<(), Error> {
    let signs = certificate.key_usage().ok().flatten().is_some_and(|usage| usage.value.digital_signature());
    let ca = certificate.basic_constraints().map_or(true, |c| c.is_some_and(|c| c.value.ca));
    if !signs || ca {
        return Err(Error::Usage(certificate.subject().to_string()));
    }
    is_called(certificate.subject(), &[name])
}

/// Whether a name has exactly one common name, one of these.
pub(super) fn is_called(name: &X509Name<'_>, names: &[&str]) -> Result<(), Error> {
    let mut common = name.iter_common_name();
    match (common.next().map(AttributeTypeAndValue::as_str), common.next()) {
        (Some(Ok(common)), None) if names.contains(&common) => Ok(()),
        _ => Err(Error::Usage(name.to_string())),
    }
}

/// Whether a certificate is in date, ends included.
pub(super) fn in_date(certificate: &X509Certificate<'_>, now: Timestamp) -> bool {
    let validity = certificate.validity();
    between(validity.not_before, validity.not_after, now)
}

/// Whose certificate it is and when it is in date, in words.
pub(super) fn dates(certificate: &X509Certificate<'_>) -> String {
    let validity = certificate.validity();
    format!("{} from {} to {}", certificate.subject(), validity.not_before, validity.not_after)
}

fn between(from: ASN1Time, to: ASN1Time, now: Timestamp) -> bool {
    (from.timestamp()..=to.timestamp()).contains(&now.as_second())
}

/// A revocation list that its issuer signed. It may be out of date.
#[derive(Clone, Debug)]
pub(super) struct RevocationList<'a>(CertificateRevocationList<'a>);

impl<'a> RevocationList<'a> {
    /// Parses a list, DER, and checks that `issuer` signed it for all its certificates.
    pub(super) fn verify(der: &'a [u8], issuer: &X509Certificate<'_>) -> Result<Self, Error> {
        let (rest, list) = CertificateRevocationList::from_der(der).map_err(|_| Error::Malformed("revocation list"))?;
        if !rest.is_empty() {
            return Err(Error::Malformed("revocation list"));
        }
        // A list for a part of the certificates, or of changes only, says so in a critical extension.
        no_unknown_critical(list.extensions(), &[])?;
        authority(issuer)?;
        signed_by(
            issuer,
            list.issuer(),
            [&list.signature_algorithm, &list.tbs_cert_list.signature],
            list.tbs_cert_list.as_ref(),
            &list.signature_value,
        )?;
        Ok(Self(list))
    }

    /// Whether it is in date. One that doesn't say when the next comes never is.
    pub(super) fn in_date(&self, now: Timestamp) -> bool {
        self.0.next_update().is_some_and(|next| between(self.0.last_update(), next, now))
    }

    /// When it was made and when the next comes.
    pub(super) fn dates(&self) -> String {
        let next = self.0.next_update().map_or_else(|| "never".to_owned(), |next| next.to_string());
        format!("{} to {next}", self.0.last_update())
    }

    /// Whether it names a certificate.
    pub(super) fn revokes(&self, certificate: &X509Certificate<'_>) -> bool {
        let serial = certificate.raw_serial();
        self.0.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == serial)
    }
}
