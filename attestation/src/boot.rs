//! The keys a node makes at each boot and never writes to a disk.

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DnType, KeyPair};
use zeroize::Zeroizing;

use crate::{channel, channel::Identity, protocol::BootKeys, seal};

/// Why the keys of this boot couldn't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key for sealed secrets.
    #[error("making the encryption key failed")]
    Encryption(#[source] seal::Error),
    /// The TLS identity.
    #[error("making the TLS identity failed")]
    Identity(#[source] channel::Error),
    /// The kubelet's key or its signing request.
    #[error("making the kubelet's key failed")]
    Kubelet(#[source] rcgen::Error),
    /// The `WireGuard` key.
    #[error("making the WireGuard key failed")]
    WireGuard,
}

/// Every private key of this boot; zeroed when dropped.
pub struct BootSecrets {
    /// TLS identity, self-signed.
    pub identity: Identity,
    /// Opens what is sealed to this boot.
    pub opener: seal::Opener,
    kubelet: Zeroizing<KeyPair>,
    csr: Vec<u8>,
    wireguard: Zeroizing<[u8; 32]>,
    wireguard_public: Vec<u8>,
}

impl BootSecrets {
    /// Makes fresh keys.
    ///
    /// # Errors
    /// When the random source fails.
    pub fn generate() -> Result<Self, Error> {
        Self::with_wireguard(wireguard()?)
    }

    /// Fresh keys but for `WireGuard`'s, base64: the device of a restarted process already has one, and others know it.
    ///
    /// # Errors
    /// When the random source fails, or the key isn't one.
    pub fn with_device_key(wireguard: &str) -> Result<Self, Error> {
        let bytes = Zeroizing::new(STANDARD.decode(wireguard.trim()).map_err(|_| Error::WireGuard)?);
        let private = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| Error::WireGuard)?);
        let public = wireguard_public(&private)?;
        Self::with_wireguard((private, public))
    }

    fn with_wireguard((wireguard, wireguard_public): WireGuard) -> Result<Self, Error> {
        let identity = Identity::self_signed("constellation node").map_err(Error::Identity)?;
        let opener = seal::Opener::generate().map_err(Error::Encryption)?;
        let kubelet = Zeroizing::new(KeyPair::generate().map_err(Error::Kubelet)?);
        let csr = signing_request(&kubelet).map_err(Error::Kubelet)?;
        Ok(Self { identity, opener, kubelet, csr, wireguard, wireguard_public })
    }

    /// The public halves, for the Hello and the binding.
    #[must_use]
    pub fn keys(&self) -> BootKeys {
        BootKeys { csr: self.csr.clone(), encryption: self.opener.public(), wireguard: self.wireguard_public.clone() }
    }

    /// The kubelet's private key, PKCS#8 PEM.
    #[must_use]
    pub fn kubelet_key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.kubelet.serialize_pem())
    }

    /// The `WireGuard` private key as `wg` wants it.
    #[must_use]
    pub fn wireguard_private_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.wireguard.as_slice()))
    }
}

/// The verifier takes only the key from it and chooses the name itself.
fn signing_request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "constellation node");
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Private and public half.
type WireGuard = (Zeroizing<[u8; 32]>, Vec<u8>);

fn wireguard() -> Result<WireGuard, Error> {
    let mut private = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(private.as_mut()).map_err(|_| Error::WireGuard)?;
    // RFC 7748, 5: WireGuard's tools clamp when they make a key, so `wg show` prints the same one.
    private[0] &= 0xf8;
    private[31] = (private[31] & 0x7f) | 0x40;
    let public = wireguard_public(&private)?;
    Ok((private, public))
}

fn wireguard_public(private: &[u8; 32]) -> Result<Vec<u8>, Error> {
    let key = PrivateKey::from_private_key(&X25519, private).map_err(|_| Error::WireGuard)?;
    let public = key.compute_public_key().map_err(|_| Error::WireGuard)?;
    Ok(public.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::FromDer as _;

    #[test]
    fn keys_have_their_shapes_and_differ_between_boots() {
        let (first, second) = (BootSecrets::generate().unwrap(), BootSecrets::generate().unwrap());
        let (one, two) = (first.keys(), second.keys());
        assert_eq!((one.encryption.len(), one.wireguard.len()), (32, 32));
        assert!(one.csr != two.csr && one.encryption != two.encryption && one.wireguard != two.wireguard);
        assert!(first.kubelet_key_pem().starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(STANDARD.decode(first.wireguard_private_base64().as_bytes()).unwrap().len(), 32);
    }

    #[test]
    fn a_restarted_process_keeps_the_devices_key_and_no_other() {
        let first = BootSecrets::generate().unwrap();
        let again = BootSecrets::with_device_key(&format!("{}\n", *first.wireguard_private_base64())).unwrap();
        assert_eq!(again.keys().wireguard, first.keys().wireguard);
        assert!(again.keys().encryption != first.keys().encryption && again.keys().csr != first.keys().csr);
        assert!(BootSecrets::with_device_key("").is_err() && BootSecrets::with_device_key("AAAA").is_err());
    }

    #[test]
    fn the_signing_request_is_signed_by_its_key() {
        let keys = BootSecrets::generate().unwrap().keys();
        let (rest, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(&keys.csr).unwrap();
        assert!(rest.is_empty());
        rcgen::CertificateSigningRequestParams::from_der(&keys.csr.clone().into()).unwrap();
        assert_eq!(csr.certification_request_info.subject_pki.raw.len(), 91);
    }
}
