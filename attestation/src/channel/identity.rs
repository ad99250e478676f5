//! Who we are on a channel: a certificate chain and its key, made here and never stored (but for the verifier CA).

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Error, config, verify};
use crate::owner;

/// Guests take their clock from the host, which may lag: certificates are valid from a day ago.
const BACKDATED: Duration = Duration::from_hours(24);
/// The owner's leaf is made for each conversation; an Init streams for up to an hour, but only the handshake checks dates.
const OWNER_LEAF: Duration = Duration::from_hours(1);
/// A verifier's leaf lives in the same memory as the CA key that signs it, so a shorter life would protect nothing.
const VERIFIER_LEAF: Duration = Duration::from_hours(365 * 24);
/// The verifier CA lives as long as its cluster.
const VERIFIER_CA: Duration = Duration::from_hours(10 * 365 * 24);
/// A node's leaf is trusted for nothing but its key, and dies with the boot.
const NODE_LEAF: Duration = VERIFIER_CA;

const VERIFIER_CA_NAME: &str = "constellation verifier CA";

/// A certificate chain with its private key, which lies inside the crypto library and is zeroed there.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    spki: Vec<u8>,
}

impl Identity {
    /// A fresh P-256 key with a self-signed certificate: what a node presents.
    pub fn self_signed(name: &str) -> Result<Self, Error> {
        let key = Key::generate()?;
        let params = leaf(name, NODE_LEAF, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]);
        let certificate = params.self_signed(&key.0).map_err(Error::Certificate)?;
        Self::assemble(vec![certificate.der().clone()], &key)
    }

    /// A fresh leaf directly under the owner key, for a client, valid for an hour: what the operator presents.
    pub fn owner_client(owner: &owner::SigningKey) -> Result<Self, Error> {
        let key = Key::generate()?;
        let params = leaf("constellation owner's client", OWNER_LEAF, &[ExtendedKeyUsagePurpose::ClientAuth]);
        let certificate = params.signed_by(&key.0, &owner_issuer(owner)?).map_err(Error::Certificate)?;
        Self::assemble(vec![certificate.der().clone()], &key)
    }

    /// A new CA for verifiers, signed by the owner key: certificate and PKCS#8 key, both PEM.
    pub fn issue_verifier_ca(owner: &owner::SigningKey) -> Result<(String, Zeroizing<String>), Error> {
        let key = Key::generate()?;
        let certificate = verifier_ca().signed_by(&key.0, &owner_issuer(owner)?).map_err(Error::Certificate)?;
        Ok((certificate.pem(), Zeroizing::new(key.0.serialize_pem())))
    }

    /// Checks that a verifier CA, certificate and key in PEM, is whole, signed by this owner's key and meant for that: no
    /// node calls a verifier under another one. Its time is looked at when it is used.
    ///
    /// # Errors
    /// [`Error::VerifierCa`], [`Error::VerifierCaOwner`] or [`Error::VerifierCaPurpose`] when it isn't.
    pub fn check_verifier_ca(certificate_pem: &str, key_pem: &str, owner_spki: &[u8]) -> Result<(), Error> {
        let verifier = Self::verifier(certificate_pem, key_pem).map_err(|_| Error::VerifierCa)?;
        verify::verifier_ca(verifier.certified.cert.last().ok_or(Error::VerifierCa)?, owner_spki)
    }

    /// A fresh leaf under the verifier CA, for a server and a client: what a verifier presents.
    pub fn verifier(ca_certificate_pem: &str, ca_key_pem: &str) -> Result<Self, Error> {
        let ca = CertificateDer::from_pem_slice(ca_certificate_pem.as_bytes()).map_err(|_| Error::VerifierCa)?;
        let ca_key = Key(KeyPair::from_pem(ca_key_pem).map_err(Error::Certificate)?);
        if verify::spki(&ca)? != ca_key.0.subject_public_key_info() {
            return Err(Error::VerifierCa);
        }
        let issuer = Issuer::from_ca_cert_der(&ca, &ca_key.0).map_err(Error::Certificate)?;
        let key = Key::generate()?;
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = leaf("constellation verifier", VERIFIER_LEAF, &usages)
            .signed_by(&key.0, &issuer)
            .map_err(Error::Certificate)?;
        Self::assemble(vec![certificate.der().clone(), ca], &key)
    }

    /// SPKI (DER) of the leaf's key.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified.clone()))
    }

    /// Any chain with any key, to see it refused.
    #[cfg(test)]
    pub(super) fn from_parts(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Result<Self, Error> {
        Self::assemble(chain, &Key(KeyPair::from_pem(key_pem).map_err(Error::Certificate)?))
    }

    /// The same with one more certificate on top of the chain.
    #[cfg(test)]
    pub(super) fn with_extra(&self, certificate: CertificateDer<'static>) -> Self {
        let mut certified = CertifiedKey::clone(&self.certified);
        certified.cert.push(certificate);
        Self { certified: Arc::new(certified), spki: self.spki.clone() }
    }

    fn assemble(chain: Vec<CertificateDer<'static>>, key: &Key) -> Result<Self, Error> {
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.0.serialized_der()));
        let signer = config::load_key(&pkcs8)?;
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, signer)), spki: key.0.subject_public_key_info() })
    }
}

/// Zeroes the serialised key when dropped.
struct Key(KeyPair);

impl Key {
    fn generate() -> Result<Self, Error> {
        KeyPair::generate().map(Self).map_err(Error::Certificate)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The owner key as rcgen wants it.
struct OwnerKey<'a> {
    key: &'a owner::SigningKey,
    point: Vec<u8>,
}

impl PublicKeyData for OwnerKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for OwnerKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message))
    }
}

fn owner_issuer(owner: &owner::SigningKey) -> Result<Issuer<'static, OwnerKey<'_>>, Error> {
    let spki = owner.public_spki();
    let point = verify::p256_point(&spki)?.to_vec();
    let mut params = CertificateParams::default();
    params.distinguished_name = name(verify::OWNER_NAME);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(Issuer::new(params, OwnerKey { key: owner, point }))
}

fn verifier_ca() -> CertificateParams {
    let mut params = params(VERIFIER_CA_NAME, VERIFIER_CA);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // The usages a CA has are the most its leaves can have.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn leaf(name: &str, life: Duration, usages: &[ExtendedKeyUsagePurpose]) -> CertificateParams {
    let mut params = params(name, life);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params
}

fn params(common_name: &str, life: Duration) -> CertificateParams {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + life;
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut CertificateParams);

    #[test]
    fn a_verifier_ca_may_sign_servers_and_clients_and_is_no_other_certificate_of_the_owners() {
        let owner = owner::SigningKey::generate().unwrap();
        let cases: [(Change, bool); 6] = [
            (|_| {}, true),
            (|ca| ca.is_ca = IsCa::ExplicitNoCa, false),
            (|ca| ca.key_usages = vec![KeyUsagePurpose::DigitalSignature], false),
            (|ca| ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], false),
            (|ca| ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], false),
            (|ca| ca.extended_key_usages.clear(), false),
        ];
        for (number, (change, good)) in cases.into_iter().enumerate() {
            let (key, mut ca) = (KeyPair::generate().unwrap(), verifier_ca());
            change(&mut ca);
            let certificate = ca.signed_by(&key, &owner_issuer(&owner).unwrap()).unwrap();
            let checked = verify::verifier_ca(certificate.der(), &owner.public_spki());
            assert!(matches!((checked, good), (Ok(()), true) | (Err(Error::VerifierCaPurpose), false)), "{number}");
        }
    }

    #[test]
    fn a_certificate_of_ours_is_of_its_name_and_lasts_as_long_as_it_is_to() {
        for life in [Duration::from_mins(5), Duration::from_hours(24 * 365)] {
            let made = leaf("node", life, &[]).self_signed(&KeyPair::generate().unwrap()).unwrap();
            let made = crate::x509::certificate(made.der()).unwrap();
            assert_eq!(crate::x509::common_name(made.subject()), Some("node"));
            let [from, to] = [made.validity().not_before, made.validity().not_after].map(|time| time.timestamp());
            assert_eq!(to - from, i64::try_from((BACKDATED + life).as_secs()).unwrap());
            let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().checked_sub(BACKDATED).unwrap();
            assert!((0..60).contains(&(i64::try_from(begun.as_secs()).unwrap() - from)));
        }
    }
}
