//! Peers that don't keep to the protocol: a middle man, keys in software, and a caller that speaks TLS and nothing else.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use constellation_attestation::{
    channel::{self, Channel, Identity},
    collect::Tpm,
    protocol::{ALPN, Evidence, Verdict},
    session::{self, Attester, BoxError},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Bytes of x or y at the end of a P-256 `TPM2B_PUBLIC`, with their length.
const COORDINATE: usize = 2 + 32;
/// `TPM_ALG_ECDSA` (TPM 2.0 Library, Part 2, 6.3).
const ECDSA: [u8; 2] = [0x00, 0x18];

/// Passes evidence of a genuine TPM on with whatever is changed in it, signed by a key in software.
pub struct Forger<'a, F> {
    pub pair: &'a EcdsaKeyPair,
    pub tpm: &'a mut Tpm,
    /// Changes the quote before it is signed.
    pub change: F,
    /// Hash algorithm that the signature names.
    pub hash: [u8; 2],
}

/// A P-256 key in software.
pub fn software_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("the random source works")
}

/// A genuine attestation key's public area with the key itself replaced.
pub fn dressed_up(ak_public: &[u8], pair: &EcdsaKeyPair) -> Vec<u8> {
    let mut area = ak_public[..ak_public.len() - 2 * COORDINATE].to_vec();
    let point = pair.public_key().as_ref();
    for coordinate in [&point[1..33], &point[33..65]] {
        area.extend_from_slice(&[0, 32]);
        area.extend_from_slice(coordinate);
    }
    area
}

impl<F: Fn(&mut Vec<u8>) + Send> Attester for Forger<'_, F> {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        // The credential names the key in software, so the TPM doesn't open it; all that is left is a guess.
        Ok(self.tpm.activate(credential, secret).unwrap_or_else(|_| vec![0; 32]))
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        let mut evidence = self.tpm.evidence(binding, activated)?;
        (self.change)(&mut evidence.quote);
        let both = self.pair.sign(&SystemRandom::new(), &evidence.quote)?;
        evidence.signature = [ECDSA, self.hash].concat();
        for half in both.as_ref().chunks_exact(32) {
            evidence.signature.extend_from_slice(&[0, 32]);
            evidence.signature.extend_from_slice(half);
        }
        Ok(evidence)
    }
}

/// Somebody between the two ends of a conversation: shows `server` to whoever calls and `client` to whoever is called, reads
/// and forwards.
pub struct MiddleMan<'a> {
    pub server: &'a Identity,
    pub client: &'a Identity,
    pub owner_spki: Vec<u8>,
}

impl MiddleMan<'_> {
    /// Forwards one join; gives what the verifier said.
    pub async fn relay(&self, listener: &TcpListener, verifier: SocketAddr) -> Result<Verdict> {
        let (stream, _) = listener.accept().await?;
        let mut node = channel::verifier_accept(stream, self.server).await?;
        let stream = TcpStream::connect(verifier).await?;
        let mut upstream = channel::node_connect(stream, self.client, &self.owner_spki).await?;
        examination(&mut node, &mut upstream).await
    }

    /// Forwards one conversation that an owner begins with a node; gives what the owner said in the end.
    pub async fn relay_of_owner(&self, listener: &TcpListener, node: SocketAddr) -> Result<Verdict> {
        let (stream, _) = listener.accept().await?;
        let mut owner = channel::node_accept(stream, self.server, &self.owner_spki).await?;
        let stream = TcpStream::connect(node).await?;
        let mut node = channel::verifier_connect(stream, self.client).await?;
        pass(&mut owner, &mut node).await?;
        examination(&mut node, &mut owner).await
    }
}

type Line = Channel<TcpStream>;

/// Forwards Hello, challenge, evidence and verdict.
async fn examination(node: &mut Line, verifier: &mut Line) -> Result<Verdict> {
    pass(node, verifier).await?;
    pass(verifier, node).await?;
    pass(node, verifier).await?;
    Ok(serde_json::from_value(pass(verifier, node).await?)?)
}

async fn pass(from: &mut Line, to: &mut Line) -> Result<Value> {
    let message = from.receive_within(session::VERDICT_TIMEOUT).await?;
    to.send(&message).await?;
    Ok(message)
}

/// A TLS connection to a verifier, by a client that checks nothing and keeps to nothing.
pub async fn bare(verifier: SocketAddr) -> Result<TlsStream<TcpStream>> {
    bare_on(TcpStream::connect(verifier).await?).await
}

/// A connection from the next address of this machine: somebody else's, for who counts by addresses.
pub async fn from_elsewhere(verifier: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())?;
    Ok(socket.connect(verifier).await?)
}

/// The same over a connection.
pub async fn bare_on(stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::default().self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_client_auth_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from("peer.constellation.invalid")?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("the handshake")
}

/// Whether the other end closed, however it did that.
pub fn closed(read: &io::Result<usize>) -> bool {
    !matches!(read, Ok(1..))
}

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
