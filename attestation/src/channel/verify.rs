//! Whether the peer's certificate is one we accept. Every refusal looks the same to the peer, but for one out of its time:
//! a verifier whose clock runs ahead can't know it otherwise.
//!
//! A node trusts one key, its owner's, and no name: a chain is good when it ends in a signature by that key. Whether
//! the leaf was signed by the owner directly or by a verifier CA decides what its holder may ask for ([`Trust`]).
//! Owners and verifiers accept any node certificate here and believe nothing before the evidence binds its key.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs::ECDSA_P256_SHA256};

use super::{Error, Trust};

/// Common name of the owner as an issuer. The key is what is trusted; a fixed name only lets chains be built.
pub(super) const OWNER_NAME: &str = "constellation owner";

/// `Name` (RFC 5280, 4.1.2.4) with the common name [`OWNER_NAME`], without the outer tag and length.
const OWNER_NAME_DER: &[u8] = b"\x31\x1c\x30\x1a\x06\x03\x55\x04\x03\x0c\x13constellation owner";
/// `SubjectPublicKeyInfo` of a P-256 key (RFC 5480) up to the uncompressed point.
const P256_PREFIX: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const SEQUENCE_HEADER: usize = 2;
const SERVER_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x01";
const CLIENT_AUTH: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x02";

/// Every key of ours is P-256, so nothing else is offered or accepted.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256])],
};

/// Why a certificate is refused; for our log, never for the peer.
#[derive(thiserror::Error)]
enum Refusal {
    #[error("the certificate doesn't chain to the owner's key: {0}")]
    Chain(webpki::Error),
    #[error("the chain has {0} certificates above the leaf")]
    Length(usize),
    #[error("the leaf isn't under the authority that it shows")]
    Path,
    #[error("the certificate can't be parsed: {0}")]
    Parse(webpki::Error),
    #[error("the leaf's authority may not do this here")]
    Trust,
    #[error("TLS 1.2 isn't spoken here")]
    Version,
}

/// In the same words: rustls shows a reason that isn't its own by `Debug`.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(match refusal {
            Refusal::Chain(webpki::Error::CertExpired { .. }) => CertificateError::Expired,
            Refusal::Chain(webpki::Error::CertNotValidYet { .. }) => CertificateError::NotValidYet,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// The 65 bytes of the uncompressed point of a P-256 SPKI.
pub(super) fn p256_point(spki: &[u8]) -> Result<&[u8], Error> {
    match spki.strip_prefix(P256_PREFIX) {
        Some(point) if point.len() == 65 && point.first() == Some(&4) => Ok(point),
        _ => Err(Error::OwnerKey),
    }
}

/// SPKI (DER) of a certificate.
///
/// # Errors
/// When it is anything else, or something follows it.
pub fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed.tbs_certificate.subject_pki.raw.to_vec()),
        _ => Err(Error::PeerCertificate),
    }
}

/// Checks that a certificate makes its key a verifier CA of this owner's, whatever its time.
pub(super) fn verifier_ca(certificate: &CertificateDer<'_>, owner_spki: &[u8]) -> Result<(), Error> {
    let Ok(([], parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Err(Error::VerifierCa) };
    let (message, signature) = (parsed.tbs_certificate.as_ref(), parsed.signature_value.as_ref());
    ECDSA_P256_SHA256
        .verify_signature(p256_point(owner_spki)?, message, signature)
        .map_err(|_| Error::VerifierCaOwner)?;
    let signs = matches!(parsed.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign());
    // The usages a CA has are the most its leaves can have.
    let both =
        matches!(parsed.extended_key_usage(), Ok(Some(usage)) if usage.value.server_auth && usage.value.client_auth);
    if parsed.is_ca() && signs && both { Ok(()) } else { Err(Error::VerifierCaPurpose) }
}

/// Which certificates a verifier accepts.
#[derive(Debug)]
enum Accepts {
    /// Any node's self-signed certificate: its key is believed only once the evidence binds it.
    AnyNode,
    /// Chains under the owner's key, with the leaf under this authority.
    UnderOwner(TrustAnchor<'static>, Trust),
}

/// Accepts or refuses the peer of one connection, and remembers under which authority its leaf was.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    accepts: Accepts,
    seen: OnceLock<Trust>,
}

impl PeerVerifier {
    pub(super) fn any_node() -> Self {
        Self { accepts: Accepts::AnyNode, seen: OnceLock::new() }
    }

    pub(super) fn under_owner(owner_spki: &[u8], trust: Trust) -> Result<Self, Error> {
        p256_point(owner_spki)?;
        let anchor = TrustAnchor {
            subject: OWNER_NAME_DER.into(),
            subject_public_key_info: owner_spki.get(SEQUENCE_HEADER..).ok_or(Error::OwnerKey)?.to_vec().into(),
            name_constraints: None,
        };
        Ok(Self { accepts: Accepts::UnderOwner(anchor, trust), seen: OnceLock::new() })
    }

    /// The authority of the leaf that was accepted; nothing before the handshake is done, and nothing for a node.
    pub(super) fn trust(&self) -> Option<Trust> {
        self.seen.get().copied()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
        usage: &'static [u8],
    ) -> Result<(), Refusal> {
        let leaf = EndEntityCert::try_from(leaf).map_err(Refusal::Parse)?;
        let trust = match (&self.accepts, above.len()) {
            (Accepts::AnyNode, 0) => return Ok(()),
            (Accepts::UnderOwner(..), 0) => Trust::Owner,
            (Accepts::UnderOwner(..), 1) => Trust::Verifier,
            (_, length) => return Err(Refusal::Length(length)),
        };
        let Accepts::UnderOwner(anchor, accepted) = &self.accepts else {
            return Err(Refusal::Trust);
        };
        let anchors = [anchor.clone()];
        let path = leaf
            .verify_for_usage(ALGORITHMS.all, &anchors, above, now, KeyUsage::required(usage), None, None)
            .map_err(Refusal::Chain)?;
        if path.intermediate_certificates().count() != above.len() {
            return Err(Refusal::Path);
        }
        if *accepted != Trust::OwnerOrVerifier && *accepted != trust {
            return Err(Refusal::Trust);
        }
        if *self.seen.get_or_init(|| trust) != trust {
            return Err(Refusal::Trust);
        }
        Ok(())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, SERVER_AUTH)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Refusal::Version.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, CLIENT_AUTH)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Refusal::Version.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
