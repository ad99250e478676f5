//! Attested TLS: one TLS 1.3 connection that carries one conversation, one JSON message per frame.
//!
//! The handshake says who holds which key, and no more: a node accepts only chains under its owner's key, while
//! owners and verifiers accept any node. What runs behind the node's key is shown afterwards, by evidence that is
//! bound to this connection's exporter and to both keys ([`crate::session`]).
//!
//! Any error closes the connection: there is no state to go on from, and the peer learns nothing from what follows.

mod config;
mod identity;
mod verify;

use std::{future::Future, io, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use zeroize::Zeroizing;

use verify::PeerVerifier;
pub use {identity::Identity, verify::spki};

use crate::protocol::{ALPN, EXPORTER_LABEL, MAX_FRAME};

/// How long a handshake, or sending or receiving one message, may take. Generous for a loaded two-core VM across
/// continents; a peer that holds connections open costs us no more than this.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// A name is needed to start TLS; no certificate is checked against it, for only keys are trusted.
const PEER_NAME: &str = "peer.constellation.invalid";
const LENGTH_BYTES: usize = 4;

/// Why a channel couldn't be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer speaks another protocol, or none.
    #[error("the peer doesn't speak this version of the protocol")]
    Alpn,
    /// A certificate couldn't be made.
    #[error("making a certificate failed")]
    Certificate(#[source] rcgen::Error),
    /// The channel was closed after an earlier error.
    #[error("the channel is closed")]
    Closed,
    /// TLS couldn't be set up.
    #[error("setting up TLS failed")]
    Config(#[source] rustls::Error),
    /// The exporter isn't available.
    #[error("exporting keying material failed")]
    Exporter(#[source] rustls::Error),
    /// A message is longer than it may be: [`MAX_FRAME`], less for a stranger's first.
    #[error("a message of {0} bytes is longer than {1}")]
    FrameTooLong(usize, usize),
    /// The TLS handshake failed; the source says why, the peer wasn't told.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The message isn't the expected one. Its contents aren't repeated here, as they may be secret.
    #[error("the message isn't a {expected} (column {column})")]
    Malformed {
        /// The type that was expected.
        expected: &'static str,
        /// Where in the JSON.
        column: usize,
    },
    /// The owner's public key isn't a P-256 key.
    #[error("the owner's public key isn't a P-256 key")]
    OwnerKey,
    /// The peer showed no certificate, or one that can't be parsed.
    #[error("the peer's certificate can't be parsed")]
    PeerCertificate,
    /// A message couldn't be written as JSON.
    #[error("the message can't be written as JSON")]
    Serialize,
    /// The peer took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
    /// The verifier CA's certificate and key can't be read, or don't belong together.
    #[error("the verifier CA's certificate and key don't belong together")]
    VerifierCa,
    /// The verifier CA is another owner's.
    #[error("the verifier CA isn't signed by the owner's key")]
    VerifierCaOwner,
    /// The verifier CA is a certificate for something else.
    #[error("the verifier CA may not sign certificates of verifiers")]
    VerifierCaPurpose,
}

impl Error {
    /// Whether the peer broke off because it found a certificate of ours out of its time (TLS alert 45, RFC 8446, 6.2).
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        // A client has finished before the server looks at its certificate: it reads the alert afterwards.
        let (Self::Handshake(error) | Self::Io(error)) = self else { return false };
        let source = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        matches!(source, Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired)))
    }
}

/// The authority under which a peer's certificate was signed, which decides what the peer may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The owner key directly: may Init and Recover.
    Owner,
    /// A verifier CA under the owner key: may Reattest, and may serve Join.
    Verifier,
    /// Either; only ever a demand, never what a peer has.
    OwnerOrVerifier,
}

/// A TLS connection with its peer's key, carrying messages.
#[derive(Debug)]
pub struct Channel<S> {
    stream: Option<TlsStream<S>>,
    local_spki: Vec<u8>,
    peer_spki: Vec<u8>,
    peer_trust: Option<Trust>,
}

/// A node serves its owner, or a verifier; [`Channel::peer_trust`] says which.
pub async fn node_accept<S>(stream: S, identity: &Identity, owner_spki: &[u8]) -> Result<Channel<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept(stream, identity, PeerVerifier::under_owner(owner_spki, Trust::OwnerOrVerifier)?).await
}

/// A node calls a verifier of its owner's.
pub async fn node_connect<S>(stream: S, identity: &Identity, owner_spki: &[u8]) -> Result<Channel<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect(stream, identity, PeerVerifier::under_owner(owner_spki, Trust::Verifier)?).await
}

/// A verifier serves any node; the node must show a certificate.
pub async fn verifier_accept<S>(stream: S, identity: &Identity) -> Result<Channel<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept(stream, identity, PeerVerifier::any_node()).await
}

/// An owner or a verifier calls a node.
pub async fn verifier_connect<S>(stream: S, identity: &Identity) -> Result<Channel<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect(stream, identity, PeerVerifier::any_node()).await
}

async fn accept<S>(stream: S, identity: &Identity, verifier: PeerVerifier) -> Result<Channel<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let verifier = Arc::new(verifier);
    let acceptor = TlsAcceptor::from(config::server(identity, verifier.clone())?);
    let stream = within(STEP_TIMEOUT, "the TLS handshake", acceptor.accept(stream)).await?.map_err(Error::Handshake)?;
    Channel::open(TlsStream::from(stream), identity, &verifier).await
}

async fn connect<S>(stream: S, identity: &Identity, verifier: PeerVerifier) -> Result<Channel<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let verifier = Arc::new(verifier);
    let connector = TlsConnector::from(config::client(identity, verifier.clone())?);
    let name = ServerName::try_from(PEER_NAME).expect("the name is a valid DNS name");
    let handshake = connector.connect(name, stream);
    let stream = within(STEP_TIMEOUT, "the TLS handshake", handshake).await?.map_err(Error::Handshake)?;
    Channel::open(TlsStream::from(stream), identity, &verifier).await
}

async fn within<F: Future>(limit: Duration, what: &'static str, step: F) -> Result<F::Output, Error> {
    timeout(limit, step).await.map_err(|_| Error::Timeout(what))
}

impl<S> Channel<S> {
    /// 32 bytes of the TLS exporter for this nonce, the same on both sides and on no other connection.
    ///
    /// # Errors
    /// When the channel is closed.
    pub fn exporter(&self, nonce: &[u8]) -> Result<[u8; 32], Error> {
        let stream = self.stream.as_ref().ok_or(Error::Closed)?;
        match stream {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, Some(nonce))
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, Some(nonce))
            }
        }
        .map_err(Error::Exporter)
    }

    /// SPKI (DER) of our leaf.
    #[must_use]
    pub fn local_spki(&self) -> &[u8] {
        &self.local_spki
    }

    /// SPKI (DER) of the peer's leaf, whose private key the peer has proved to hold.
    #[must_use]
    pub fn peer_spki(&self) -> &[u8] {
        &self.peer_spki
    }

    /// On a node: whether the peer is the owner or a verifier. Nothing where the peer is a node.
    #[must_use]
    pub fn peer_trust(&self) -> Option<Trust> {
        self.peer_trust
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    async fn open(mut stream: TlsStream<S>, identity: &Identity, verifier: &PeerVerifier) -> Result<Self, Error> {
        match Self::peer(&stream) {
            Ok(peer_spki) => Ok(Self {
                stream: Some(stream),
                local_spki: identity.spki().to_vec(),
                peer_spki,
                peer_trust: verifier.trust(),
            }),
            Err(error) => {
                let _ = timeout(STEP_TIMEOUT, stream.shutdown()).await;
                Err(error)
            }
        }
    }

    fn peer(stream: &TlsStream<S>) -> Result<Vec<u8>, Error> {
        let (_, state) = stream.get_ref();
        if state.alpn_protocol() != Some(ALPN) {
            return Err(Error::Alpn);
        }
        let leaf = state.peer_certificates().and_then(<[_]>::first).ok_or(Error::PeerCertificate)?;
        verify::spki(leaf)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the peer doesn't take it in time; the channel is closed then.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        let frame = match frame(message) {
            Ok(frame) => frame,
            Err(error) => {
                self.stream = None;
                return Err(error);
            }
        };
        let mut stream = self.stream.take().ok_or(Error::Closed)?;
        let write = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        within(STEP_TIMEOUT, "sending a message", write).await?.map_err(Error::Io)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Receives one message.
    ///
    /// # Errors
    /// When none arrives in time, or it isn't a `T`; the channel is closed then.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        self.receive_within(STEP_TIMEOUT).await
    }

    /// Receives one message from a peer that may have to work before it answers.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub async fn receive_within<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, Error> {
        self.receive_bounded(limit, MAX_FRAME).await
    }

    /// Receives one message of at most `bytes`, from a peer that isn't known yet.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub async fn receive_at_most<T: DeserializeOwned>(&mut self, bytes: usize) -> Result<T, Error> {
        self.receive_bounded(STEP_TIMEOUT, bytes).await
    }

    async fn receive_bounded<T: DeserializeOwned>(&mut self, limit: Duration, bytes: usize) -> Result<T, Error> {
        // Taken, and put back only after success: an error, and a caller who stops waiting, close the connection.
        let mut stream = self.stream.take().ok_or(Error::Closed)?;
        let frame = within(limit, "receiving a message", read_frame(&mut stream, bytes)).await??;
        let message = parse(&frame)?;
        self.stream = Some(stream);
        Ok(message)
    }

    /// Ends the connection properly, so that the peer knows that nothing was cut off.
    pub async fn close(mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = timeout(STEP_TIMEOUT, stream.shutdown()).await;
        }
    }
}

/// Length and JSON in one buffer, zeroed when dropped: a message may hold a kubeconfig.
fn frame<T: Serialize>(message: &T) -> Result<Zeroizing<Vec<u8>>, Error> {
    let json = Zeroizing::new(serde_json::to_vec(message).map_err(|_| Error::Serialize)?);
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_FRAME);
    let length = length.ok_or(Error::FrameTooLong(json.len(), MAX_FRAME))?;
    let mut frame = Zeroizing::new(Vec::with_capacity(LENGTH_BYTES + json.len()));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&json);
    Ok(frame)
}

/// Reads one frame, whose length may be a lie.
///
/// # Errors
/// When it says to have more than `most` bytes, or the stream ends within it.
pub async fn read_frame<R: AsyncRead + Unpin>(stream: &mut R, most: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let length = stream.read_u32().await.map_err(Error::Io)? as usize;
    if length > most {
        return Err(Error::FrameTooLong(length, most));
    }
    let mut frame = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut frame).await.map_err(Error::Io)?;
    Ok(frame)
}

/// Parses JSON that may be secret: the error says where, never what.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json)
        .map_err(|error| Error::Malformed { expected: std::any::type_name::<T>(), column: error.column() })
}

#[cfg(test)]
mod tests;
