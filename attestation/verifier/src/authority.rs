//! The cluster's CA: signs client certificates for names that we choose.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use x509_parser::pem::parse_x509_pem;
use zeroize::Zeroize as _;

/// Life of a verifier's own certificate, which is made anew at each start and never leaves its memory.
pub const LIFE: Duration = Duration::from_hours(365 * 24);
/// Guests take their clocks from their hosts, which may lag.
const BACKDATED: Duration = Duration::from_mins(5);
/// Bytes of a serial number. RFC 5280, 4.1.2.2 allows 20; 16 random ones never collide.
const SERIAL_BYTES: usize = 16;

/// Why the CA signs nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate can't be parsed or isn't a CA's.
    #[error("the cluster's CA has no usable certificate")]
    Certificate,
    /// Its validity hasn't begun or has ended.
    #[error("the cluster's CA isn't valid now")]
    Expired,
    /// The key isn't a private key, or another certificate's.
    #[error("the cluster's CA has no key that fits its certificate")]
    Key,
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// Signing failed.
    #[error("signing a certificate failed")]
    Sign(#[source] rcgen::Error),
}

/// Whom a certificate is for, as Kubernetes reads it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Group.
    pub organization: Option<&'a str>,
    /// User.
    pub common_name: &'a str,
}

/// A client certificate (PEM) for this key and name, valid for `life` but never longer than the CA.
pub fn client_certificate(
    ca_certificate: &str,
    ca_key: &str,
    key: &impl PublicKeyData,
    subject: Subject<'_>,
    (now, life): (Timestamp, Duration),
) -> Result<String, Error> {
    let ca_key = Key(KeyPair::from_pem(ca_key).map_err(|_| Error::Key)?);
    let (from, until) = validity(ca_certificate, &ca_key.0, (now, life))?;
    let issuer = Issuer::from_ca_cert_pem(ca_certificate, &ca_key.0).map_err(|_| Error::Certificate)?;

    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = subject.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, subject.common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(until);
    Ok(params.signed_by(key, &issuer).map_err(Error::Sign)?.pem())
}

/// Returns when a certificate of our own that was made at the call has lived for half of its time: long enough before its end for
/// whoever has to make another one.
pub async fn renewal() {
    tokio::time::sleep(LIFE / 2).await;
}

/// Seconds since 1970 between which a certificate under this CA can be valid.
fn validity(ca_certificate: &str, key: &KeyPair, (now, life): (Timestamp, Duration)) -> Result<(u64, u64), Error> {
    let (_, pem) = parse_x509_pem(ca_certificate.as_bytes()).map_err(|_| Error::Certificate)?;
    let ca = pem.parse_x509().ok().filter(|ca| ca.is_ca()).ok_or(Error::Certificate)?;
    if ca.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(Error::Key);
    }
    let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
    let now = seconds(now.as_second());
    let from = now.saturating_sub(BACKDATED.as_secs()).max(seconds(ca.validity().not_before.timestamp()));
    let until = (now + life.as_secs()).min(seconds(ca.validity().not_after.timestamp()));
    if until <= now || from > now { Err(Error::Expired) } else { Ok((from, until)) }
}

fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    // Positive and without leading zeros, as DER wants it.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Zeroes the serialised key when dropped.
pub(crate) struct Key(pub(crate) KeyPair);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
