//! The endorsement key's certificate: a chain to a CA that the owner named, valid now, for the key that is shown.

use jiff::Timestamp;
use x509_parser::{certificate::X509Certificate, public_key::PublicKey};

use crate::{
    tpm::public::{Key, Public},
    x509::{self, Algorithm},
};

/// Most CAs that a policy may name; a fleet has one or two for each maker of its TPMs.
const MAX_ROOTS: usize = 64;

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
    let ders = x509::from_pem(roots.join("\n").as_bytes(), MAX_ROOTS).map_err(|_| Error::Root)?;
    let anchors =
        ders.iter().map(|der| x509::certificate(der).map_err(|_| Error::Root)).collect::<Result<Vec<_>, _>>()?;
    if anchors.is_empty() {
        return Err(Error::NoRoots);
    }
    let leaf = x509::certificate(certificate).map_err(|_| Error::Certificate)?;
    if !x509::is_leaf(&leaf) || !is_for(&leaf, &ek.key) {
        return Err(Error::Key);
    }
    in_date(&leaf, now)?;
    let issuers: Vec<_> = anchors.iter().filter(|ca| x509::issued(&leaf, ca, &Algorithm::COMMON).is_ok()).collect();
    let first = issuers.first().ok_or_else(|| Error::Issuer(leaf.subject().to_string()))?;
    // A CA that was renewed stands beside its predecessor.
    if issuers.iter().any(|issuer| in_date(issuer, now).is_ok()) { Ok(()) } else { in_date(first, now) }
}

fn in_date(certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), Error> {
    x509::in_date(certificate, now).map_err(|_| Error::Time(certificate.subject().to_string()))
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
