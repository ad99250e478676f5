//! Both halves of the conversation on an open channel, and the rule that a secret leaves only after the proof.
//!
//! ```text
//! verifier                                   node
//! ask (when it is the client)   -> Request
//!                                  Hello <-  channel.send
//! challenge                     -> Challenge
//!                               Evidence <-  prove: opens the credential, binds, quotes
//! (appraise, record)
//! grant | accept | refuse       -> Verdict   prove returns it; unseal opens the box
//! ```

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Handle, RuntimeFlavor},
};
use zeroize::Zeroizing;

use crate::{
    binding::{Binding, VerifierRole},
    channel::{self, Channel},
    credential,
    platform::Platform,
    protocol::{Challenge, Evidence, Hello, Purpose, Request, Verdict},
    seal,
};

/// How long a node may take for its evidence: a discrete or virtual TPM needs seconds for a quote, more when it also
/// has to create its keys.
pub const EVIDENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a verifier may take for its verdict: it writes the admission to the API server and waits for a
/// certificate before it answers.
pub const VERDICT_TIMEOUT: Duration = Duration::from_mins(1);

/// Greatest Hello, bytes: the parts below at their limits, in base64, with room for the words around them.
pub const HELLO_MAX: usize = 32 * 1024;

const NONCE_BYTES: usize = 32;
const CREDENTIAL_SECRET_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
/// A name or UID in Kubernetes is at most this long.
const UID_MAX: usize = 253;
/// `host:port` with the longest host name.
const ADDRESS_MAX: usize = 260;
const CSR_MAX: usize = 4096;
const CERTIFICATE_MAX: usize = 8192;
/// `TPM2B_PUBLIC` of an RSA-4096 key is below 700 bytes.
const PUBLIC_MAX: usize = 1024;

/// An error of an attester, whatever it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a conversation ended without what it was for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TPM didn't do its part.
    #[error("{0} failed")]
    Attester(&'static str, #[source] BoxError),
    /// The verifier's challenge has a wrong shape.
    #[error("the challenge has no proper nonce")]
    Challenge,
    /// The connection failed.
    #[error("the channel to the peer failed")]
    Channel(#[from] channel::Error),
    /// No credential can be made for the node's keys.
    #[error("making a credential for the node's TPM failed")]
    Credential(#[source] credential::Error),
    /// The node's Hello has a wrong shape.
    #[error("the hello's {0} is missing or has a wrong length")]
    Hello(&'static str),
    /// The verdict holds no sealed secret where one is needed.
    #[error("the verdict holds no secret")]
    NoSecret,
    /// The node speaks about something else than it was asked for.
    #[error("the node answered for purpose {0:?}")]
    Purpose(Purpose),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// The verifier said no; the owner finds the reasons under this id.
    #[error("refused; the owner finds the reasons under {id}")]
    Refused {
        /// The id.
        id: String,
    },
    /// Sealing or opening failed.
    #[error("the sealed secret failed")]
    Seal(#[from] seal::Error),
    /// A secret couldn't be written as JSON.
    #[error("the secret can't be written as JSON")]
    Serialize,
}

impl Error {
    /// The clause that doesn't hold of a node that gave its verifier nothing to appraise; nothing where that isn't the
    /// node's doing: a connection that broke, or what failed on our side.
    #[must_use]
    pub fn clause(&self) -> Option<&'static str> {
        match self {
            Self::Hello(_) => Some("hello.keys"),
            Self::Credential(_) => Some("hello.endorsement-key"),
            Self::Purpose(_) => Some("hello.purpose"),
            Self::Channel(channel::Error::Malformed { .. } | channel::Error::FrameTooLong(..)) => {
                Some("evidence.malformed")
            }
            Self::Channel(channel::Error::Timeout(_)) => Some("evidence.late"),
            Self::Attester(..)
            | Self::Challenge
            | Self::Channel(_)
            | Self::NoSecret
            | Self::Random
            | Self::Refused { .. }
            | Self::Seal(_)
            | Self::Serialize => None,
        }
    }
}

/// What a verifier answers to a Hello: it may say no before it has seen any evidence.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Opening {
    Challenge(Challenge),
    Verdict(Verdict),
}

/// What makes the evidence: a TPM. Calls block.
pub trait Attester: Send {
    /// Opens a credential: `TPM2_ActivateCredential`.
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError>;
    /// Evidence about `binding`, with what [`Attester::activate`] gave: empty where there was no credential.
    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError>;
}

/// One that several conversations share: each has it while it makes something, and not while it waits for its peer.
impl<A: Attester> Attester for &Mutex<A> {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).activate(credential, secret)
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).evidence(binding, activated)
    }
}

/// What a node has presented in one conversation, to be appraised. Not yet believed.
pub struct Proof {
    /// Who it says it is.
    pub hello: Hello,
    /// What it shows.
    pub evidence: Evidence,
    /// What the evidence must be about.
    pub binding: [u8; 32],
    /// What the TPM must have opened; empty where it has no endorsement key.
    pub credential_secret: Zeroizing<Vec<u8>>,
}

/// Verifier as the server: receives the Hello of a stranger, who shall not cost us more than one.
pub async fn greeting<S>(channel: &mut Channel<S>) -> Result<Hello, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(channel.receive_at_most(HELLO_MAX).await?)
}

/// Verifier as the client: says what it wants, receives the node's Hello for it.
pub async fn ask<S>(channel: &mut Channel<S>, purpose: Purpose) -> Result<Hello, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    channel.send(&Request { purpose }).await?;
    let hello: Hello = channel.receive().await?;
    if hello.purpose != purpose {
        return Err(Error::Purpose(hello.purpose));
    }
    Ok(hello)
}

/// Verifier: challenges the node that sent `hello` and receives its evidence. The platform is the verifier's: it says
/// whether there has to be an endorsement key, and then also a credential.
pub async fn challenge<S>(
    channel: &mut Channel<S>,
    hello: Hello,
    verifier_role: VerifierRole,
    policy_revision: u64,
    platform: Platform,
) -> Result<Proof, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    check(&hello, platform)?;
    let nonce = random::<NONCE_BYTES>()?;
    let mut secret = Zeroizing::new(Vec::new());
    let (mut credential, mut credential_secret) = (Vec::new(), Vec::new());
    if platform.has_endorsement_key() {
        secret.extend_from_slice(random::<CREDENTIAL_SECRET_BYTES>()?.as_slice());
        (credential, credential_secret) =
            credential::make_credential(&hello.ek_public, &hello.ak_public, &secret).map_err(Error::Credential)?;
    }
    let binding = Binding {
        purpose: hello.purpose,
        verifier_role,
        exporter: &channel.exporter(nonce.as_slice())?,
        nonce: nonce.as_slice(),
        node_spki: channel.peer_spki(),
        verifier_spki: channel.local_spki(),
        keys: &hello.keys,
        cluster_uid: &hello.cluster_uid,
        node_uid: &hello.node_uid,
        policy_revision,
    }
    .digest();
    channel.send(&Challenge { nonce: nonce.to_vec(), policy_revision, credential, credential_secret }).await?;
    let evidence = channel.receive_within(EVIDENCE_TIMEOUT).await?;
    Ok(Proof { hello, evidence, binding, credential_secret: secret })
}

/// Node: answers the challenge and waits for the verdict, which is `Accepted` or `Sealed`; also gives the binding.
///
/// # Errors
/// [`Error::Refused`] when the verifier says no.
pub async fn prove<S>(
    channel: &mut Channel<S>,
    hello: &Hello,
    verifier_role: VerifierRole,
    attester: &mut dyn Attester,
) -> Result<(Verdict, [u8; 32]), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let challenge = match channel.receive().await? {
        Opening::Challenge(challenge) => challenge,
        Opening::Verdict(Verdict::Refused { id }) => return Err(Error::Refused { id }),
        Opening::Verdict(_) => return Err(Error::Challenge),
    };
    if challenge.nonce.len() != NONCE_BYTES {
        return Err(Error::Challenge);
    }
    let binding = Binding {
        purpose: hello.purpose,
        verifier_role,
        exporter: &channel.exporter(&challenge.nonce)?,
        nonce: &challenge.nonce,
        node_spki: channel.local_spki(),
        verifier_spki: channel.peer_spki(),
        keys: &hello.keys,
        cluster_uid: &hello.cluster_uid,
        node_uid: &hello.node_uid,
        policy_revision: challenge.policy_revision,
    }
    .digest();
    let evidence = blocking(|| {
        // There is no credential for a node that names no endorsement key.
        let activated = if hello.ek_public.is_empty() && challenge.credential.is_empty() {
            Vec::new()
        } else {
            attester
                .activate(&challenge.credential, &challenge.credential_secret)
                .map_err(|error| Error::Attester("opening the credential", error))?
        };
        attester.evidence(&binding, activated).map_err(|error| Error::Attester("making the evidence", error))
    })?;
    channel.send(&evidence).await?;
    match channel.receive_within(VERDICT_TIMEOUT).await? {
        Verdict::Refused { id } => Err(Error::Refused { id }),
        verdict => Ok((verdict, binding)),
    }
}

/// Verifier: gives an appraised node its secret, sealed to the key inside the evidence.
///
/// The caller has appraised `proof`; nothing here does.
pub async fn grant<S, T>(channel: &mut Channel<S>, proof: &Proof, secret: &T) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Serialize,
{
    let json = Zeroizing::new(serde_json::to_vec(secret).map_err(|_| Error::Serialize)?);
    let (encapsulated, ciphertext) = seal::seal(&proof.hello.keys.encryption, &proof.binding, &json)?;
    Ok(channel.send(&Verdict::Sealed { encapsulated, ciphertext }).await?)
}

/// Verifier: yes, and nothing more.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(channel: &mut Channel<S>) -> Result<(), Error> {
    Ok(channel.send(&Verdict::Accepted {}).await?)
}

/// Verifier: no; the node learns nothing but the id.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(channel: &mut Channel<S>, id: &str) -> Result<(), Error> {
    Ok(channel.send(&Verdict::Refused { id: id.to_owned() }).await?)
}

/// Node: opens the secret in a verdict of this conversation.
///
/// # Errors
/// When the verdict holds none, or none for this key and binding, or it isn't a `T`.
pub fn unseal<T: DeserializeOwned>(verdict: &Verdict, binding: &[u8; 32], opener: &seal::Opener) -> Result<T, Error> {
    let Verdict::Sealed { encapsulated, ciphertext } = verdict else {
        return Err(Error::NoSecret);
    };
    let json = opener.open(encapsulated, ciphertext, binding)?;
    Ok(channel::parse(&json)?)
}

fn check(hello: &Hello, platform: Platform) -> Result<(), Error> {
    // Exactly where the platform's TPM is endorsed: what isn't looked at has no place.
    let endorsed = |most| if platform.has_endorsement_key() { (1, most) } else { (0, 0) };
    let (certificate, public) = (endorsed(CERTIFICATE_MAX), endorsed(PUBLIC_MAX));
    let shapes = [
        ("node uid", hello.node_uid.len(), 1, UID_MAX),
        ("cluster uid", hello.cluster_uid.len(), 1, UID_MAX),
        ("address", hello.address.len(), 0, ADDRESS_MAX),
        ("signing request", hello.keys.csr.len(), 1, CSR_MAX),
        ("encryption key", hello.keys.encryption.len(), KEY_BYTES, KEY_BYTES),
        ("WireGuard key", hello.keys.wireguard.len(), KEY_BYTES, KEY_BYTES),
        ("endorsement key certificate", hello.ek_certificate.len(), certificate.0, certificate.1),
        ("endorsement key", hello.ek_public.len(), public.0, public.1),
        ("attestation key", hello.ak_public.len(), 1, PUBLIC_MAX),
    ];
    match shapes.into_iter().find(|(_, length, least, most)| length < least || length > most) {
        Some((what, ..)) => Err(Error::Hello(what)),
        None => Ok(()),
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// Runs calls of a TPM, or waits for one, without holding up the runtime's other tasks, where the runtime has other threads.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests;
