//! One Join, from the first byte to the ticket.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_attestation::{
    channel::{self, Channel},
    protocol::{Hello, Purpose},
    seats::Seat,
    session,
};
use constellation_crds::{NodeAdmission, NodeAdmissionSpec};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    admit::{self, Door, reason},
    store::{self, Store},
    ticket,
    verifier::{Error, Examined, Settled, Verifier, introduction},
    watched::{AtHand, Bundle},
};

/// How a join ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node has its ticket.
    Admitted {
        /// The node's uid.
        uid: String,
    },
    /// It was refused.
    Refused {
        /// Id under which the reasons are found.
        id: String,
    },
}

/// A node that took its ticket closes the connection; we don't wait longer than this for it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Between two reads of the kubelets' configuration, which also keep a connection to the API server open: kube's client closes
/// one after 90 s of silence.
const READY: Duration = Duration::from_secs(30);
/// The same while there is no answer: the API server comes right after us.
const READY_SOON: Duration = Duration::from_secs(2);
/// A configuration that was read longer ago is read again.
const READ_LATELY: Duration = Duration::from_mins(1);

/// Keeps at hand what a join would have to wait for: the kubelets' configuration, and a connection to the API server, which takes
/// longer to open than all calls of a join. What is wrong is told by the next join.
pub async fn keep_ready<A: Store>(verifier: &Verifier<A>) {
    loop {
        let pause = match verifier.store.kubelet_config().await {
            Ok(config) => {
                verifier.kubelet_config.set(config, Instant::now());
                READY
            }
            Err(_) => READY_SOON,
        };
        tokio::time::sleep(pause).await;
    }
}

/// The kubelets' configuration as it was read last.
#[derive(Debug, Default)]
pub struct KubeletConfig(Mutex<Option<(String, Instant)>>);

impl KubeletConfig {
    fn set(&self, config: String, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((config, now));
    }

    /// If it was read lately.
    fn get(&self, now: Instant) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (config, read) = known.as_ref()?;
        (now.saturating_duration_since(*read) <= READ_LATELY).then(|| config.clone())
    }
}

async fn kubelet_config<A: Store>(verifier: &Verifier<A>) -> Result<String, store::Error> {
    match verifier.kubelet_config.get(Instant::now()) {
        Some(config) => Ok(config),
        None => verifier.store.kubelet_config().await,
    }
}

/// Serves one connection, from a caller of this address that has a seat among the strangers.
///
/// # Errors
/// When there is no verdict: the node finds its connection closed and tries again.
pub async fn serve<S, A>(verifier: &Verifier<A>, stream: S, address: IpAddr, stranger: Seat) -> Result<Outcome, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Store,
{
    let outcome = converse(verifier, stream, address, stranger).await;
    if let Err(error) = &outcome {
        verifier.own_fault(error);
    }
    outcome
}

async fn converse<S, A>(
    verifier: &Verifier<A>,
    stream: S,
    address: IpAddr,
    mut stranger: Seat,
) -> Result<Outcome, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Store,
{
    let meeting = async {
        let identity = verifier.home.identity()?;
        let mut channel = channel::verifier_accept(stream, &identity).await?;
        let hello: Hello = session::greeting(&mut channel).await?;
        // Nobody closes the semaphore.
        let place = verifier.places.acquire().await.map_err(|_| channel::Error::Closed)?;
        let met = meet(verifier, &hello).await?;
        Ok::<_, Error>((channel, hello, place, met))
    };
    let (mut channel, hello, _place, met) = stranger.hold(Box::pin(meeting)).await.ok_or(Error::Displaced)??;
    let uid = hello.node_uid.clone();
    let refused = match met {
        Met::Known(known) => {
            let turn = verifier.turns.take(&uid, address);
            drop(stranger);
            conversation(verifier, &mut channel, hello, known, turn).await?
        }
        Met::Refused(id) => Some(id),
    };
    let outcome = if let Some(id) = refused {
        // Who sent too much or too late has lost its channel; the refusal stands.
        let _ = session::refuse(&mut channel, &id).await;
        Outcome::Refused { id }
    } else {
        Outcome::Admitted { uid }
    };
    let _ = tokio::time::timeout(FAREWELL, channel.close()).await;
    Ok(outcome)
}

/// Who said Hello.
enum Met {
    /// Somebody who names a node of ours.
    Known(Box<Known>),
    /// Nobody of ours, refused under this id.
    Refused(String),
}

/// What is there to appraise a node with.
struct Known {
    node: NodeAdmission,
    bundle: Bundle,
    /// When its Hello had its place.
    begun: Instant,
    /// How long the reads took.
    looked: Duration,
}

/// Looks up whom a Hello names, where it isn't at hand.
async fn meet<A: Store>(verifier: &Verifier<A>, hello: &Hello) -> Result<Met, Error> {
    let begun = Instant::now();
    let uid = hello.node_uid.as_str();
    let introduced = introduction(hello, &verifier.home.launch, Purpose::Join);
    let at_hand = if introduced.is_ok() { verifier.store.at_hand(uid) } else { None };
    // One that isn't believed is read before it is told of: a watch may be late.
    if let Some(AtHand { node, bundle }) = at_hand
        && verifier.trust.accept(&bundle.spec.envelope).is_ok()
    {
        return Ok(Met::Known(Box::new(Known { node, bundle, begun, looked: begun.elapsed() })));
    }
    // Whoever knows our cluster doesn't wait for one after the other; who doesn't costs us one call.
    let knows = introduced.is_ok();
    let node = async { if admit::is_uid(uid) { verifier.store.node(uid).await } else { Ok(None) } };
    let bundle = async { if knows { verifier.store.bundle().await.map(Some) } else { Ok(None) } };
    let (node, bundle) = tokio::join!(node, bundle);
    let node = match (introduced, node?) {
        (Ok(()), Some(node)) => node,
        (Ok(()), None) => return unknown(verifier, uid).map(Met::Refused),
        (Err(reason), Some(_)) => return verifier.refuse_unproven(uid, reason).map(Met::Refused),
        (Err(reason), None) => return verifier.refuse_stranger(uid, reason).map(Met::Refused),
    };
    let bundle = bundle?.ok_or(store::Error::Missing(store::TRUST))?;
    Ok(Met::Known(Box::new(Known { node, bundle: bundle.into(), begun, looked: begun.elapsed() })))
}

fn unknown<A: Store>(verifier: &Verifier<A>, uid: &str) -> Result<String, Error> {
    verifier.refuse_stranger(uid, reason("admission.unknown", None, None, "no NodeAdmission has this uid"))
}

/// Everything after the introduction; gives the refusal's id, or nothing when the ticket has left. The turn can be lost
/// until there is evidence, and is kept until the ticket has left.
async fn conversation<S, A>(
    verifier: &Verifier<A>,
    channel: &mut Channel<S>,
    hello: Hello,
    known: Box<Known>,
    mut turn: Seat,
) -> Result<Option<String>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Store,
{
    let Known { node, bundle, begun, looked } = *known;
    // Both take a while, the one at the node, the other at the API server; a node of ours waits for the longer one.
    let examined = verifier.examine(channel, hello, &node, bundle, Door::Join);
    let both = async { tokio::join!(examined, kubelet_config(verifier)) };
    let Some((examined, kubelet_config)) = turn.hold(Box::pin(both)).await else {
        // Whoever it was, the owner is told: a crowd in a node's name may keep the node out.
        let words = "it made room for another conversation in the node's name, before it had shown its evidence";
        verifier.refuse_unproven(&node.spec.node_uid, reason("evidence.late", None, None, words))?;
        return Err(Error::Displaced);
    };
    let case = match examined? {
        Examined::Appraised(case) => case,
        Examined::Distrusted(id) | Examined::Refused(id) => return Ok(Some(id)),
    };
    let kubelet_config = if case.appraisal.accepted { kubelet_config? } else { String::new() };
    let examined = begun.elapsed();
    let csr = &case.proof.hello.keys.csr;
    let prepare = |spec: &NodeAdmissionSpec| {
        let revision = verifier.trust.revision();
        ticket::prepare(&verifier.home, spec, csr, &kubelet_config, revision, Timestamp::now())
    };
    let settled = match verifier.settle(node, &case, prepare).await {
        // The watch was late, or somebody was quick.
        Err(Error::Gone) => return unknown(verifier, &case.proof.hello.node_uid).map(Some),
        settled => settled?,
    };
    match settled {
        Settled::Granted(ticket) => {
            session::grant(channel, &case.proof, &ticket).await?;
            let took = begun.elapsed();
            verifier.metrics.ticket_seconds.observe(took);
            // When what is known of the node had been read, and when its evidence had been appraised.
            let [looked, examined, microseconds] = [looked, examined, took].map(|part| part.as_micros());
            tracing::info!(node_uid = case.proof.hello.node_uid, looked, examined, microseconds, "Admitted a node");
            Ok(None)
        }
        Settled::Refused(id) => Ok(Some(id)),
    }
}
