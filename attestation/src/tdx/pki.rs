//! Intel's public key infrastructure for SGX and TDX: one root, CAs for PCK certificates, a signer of TCB data. All P-256.
//!
//! Source: Intel SGX PCK Certificate and CRL Profile Specification 1.5.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use x509_parser::{certificate::X509Certificate, x509::X509Name};

use crate::x509::{self, Algorithm, Curve, RevocationList, certificate, common_name};

/// Subject of the CA for platforms of several packages.
pub(super) const PCK_PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
/// Subject of the CA for platforms of one package.
pub(super) const PCK_PROCESSOR_CA: &str = "Intel SGX PCK Processor CA";
/// Subject of the certificate that signs TCB info and QE identity.
pub(super) const TCB_SIGNING: &str = "Intel SGX TCB Signing";
/// Subject of PCK certificates.
pub(super) const PCK: &str = "Intel SGX PCK Certificate";
/// What Intel signs with.
const ALLOWED: &[Algorithm] = &[Algorithm::EcdsaP256];
/// Most certificates of a chain: PCK, its CA, root.
const MAX_CHAIN: usize = 3;

/// Why a chain isn't one of Intel's.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No anchor was given.
    #[error("no trust anchor")]
    Anchor,
    /// A chain of another length.
    #[error("chain of {0} certificates")]
    ChainLength(usize),
    /// A certificate or a revocation list isn't believed.
    #[error(transparent)]
    Certificate(#[from] x509::Error),
    /// It is for another purpose.
    #[error("{0} isn't for this purpose")]
    Purpose(String),
    /// The root in the chain isn't the anchor.
    #[error("the root in the chain isn't the trust anchor")]
    Root,
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
            x509::authority(&root)?;
            key(&root)?;
        }
        if roots.is_empty() { Err(Error::Anchor) } else { Ok(Self { roots }) }
    }

    /// Intel's root for production platforms.
    #[must_use]
    pub fn intel() -> Self {
        Self { roots: vec![INTEL.to_vec()] }
    }

    /// The roots, parsed.
    pub(super) fn parsed(&self) -> Result<Vec<X509Certificate<'_>>, x509::Error> {
        self.roots.iter().map(|root| certificate(root)).collect()
    }
}

/// A chain as it came: DER certificates, leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain(Vec<Vec<u8>>);

impl Chain {
    /// Reads a chain of PEM certificates. What ends a C string (zero bytes) may follow.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let last = text.iter().rposition(|byte| *byte != 0);
        let text = last.and_then(|last| text.get(..=last)).unwrap_or_default();
        Ok(Self(x509::from_pem(text, MAX_CHAIN)?))
    }

    /// Whether there is no certificate.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first certificate, of which nothing is verified.
    pub(super) fn leaf(&self) -> Result<X509Certificate<'_>, Error> {
        Ok(certificate(self.0.first().ok_or(Error::ChainLength(0))?)?)
    }

    /// The certificates, parsed; `length` of them before the root. A root that comes with them must be the anchor, or one
    /// that the anchor's key signed anew: it is never trusted for coming.
    pub(super) fn below<'a>(
        &'a self,
        length: usize,
        anchor: &X509Certificate<'_>,
    ) -> Result<Vec<X509Certificate<'a>>, Error> {
        let mut below = self.0.as_slice();
        if let Some((root, rest)) = below.split_last()
            && rest.len() == length
        {
            if root != anchor.as_raw() {
                let root = certificate(root)?;
                if root.public_key().raw != anchor.public_key().raw {
                    return Err(Error::Root);
                }
                issued(&root, anchor)?;
            }
            below = rest;
        }
        if below.len() != length {
            return Err(Error::ChainLength(self.0.len()));
        }
        Ok(below.iter().map(|der| certificate(der)).collect::<Result<_, _>>()?)
    }
}

/// The key of a certificate, as an uncompressed point on P-256.
pub(super) fn key<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a [u8], x509::Error> {
    x509::ec_key(certificate.public_key(), Curve::P256)
}

/// Whether `signature`, `r || s`, is one over `message` by `key`, an uncompressed point.
pub(super) fn signed(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
}

/// Whether `issuer`, a CA, issued a certificate.
pub(super) fn issued(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<(), x509::Error> {
    x509::issued(certificate, issuer, ALLOWED)
}

/// Parses a revocation list that `issuer` signed.
pub(super) fn revocation_list<'a>(
    der: &'a [u8],
    issuer: &X509Certificate<'_>,
) -> Result<RevocationList<'a>, x509::Error> {
    RevocationList::verify(der, issuer, ALLOWED)
}

/// Whether a certificate is that of a CA with one of these names.
pub(super) fn is_authority(certificate: &X509Certificate<'_>, names: &[&str]) -> Result<(), Error> {
    x509::authority(certificate)?;
    is_called(certificate.subject(), names)
}

/// Whether a certificate is that of a signer, and of no CA, with this name.
pub(super) fn is_signer(certificate: &X509Certificate<'_>, name: &str) -> Result<(), Error> {
    let signs = certificate.key_usage().ok().flatten().is_some_and(|usage| usage.value.digital_signature());
    if !signs || !x509::is_leaf(certificate) {
        return Err(Error::Purpose(certificate.subject().to_string()));
    }
    is_called(certificate.subject(), &[name])
}

/// Whether a name has exactly one common name, one of these.
pub(super) fn is_called(name: &X509Name<'_>, names: &[&str]) -> Result<(), Error> {
    match common_name(name) {
        Some(common) if names.contains(&common) => Ok(()),
        _ => Err(Error::Purpose(name.to_string())),
    }
}
