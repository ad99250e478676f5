//! Port 9000: Init, Recover and Leave for the owner alone, Reattest for the owner and the verifiers.

use std::{sync::Arc, time::Duration};

use constellation_attestation::{
    binding::VerifierRole,
    channel::{self, Channel, Trust},
    protocol::{Progress, Purpose, Request, Verdict},
    seats::Seats,
    session,
    told::chain,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    error::Error,
    machine::{Grant, Machine, State},
    plan,
    progress::Log,
};

/// Conversations at a time: the owner and a few verifiers; others of them wait.
const CONVERSATIONS: usize = 16;
/// Callers at a time that aren't anybody yet. Each costs a file and a handshake; a process may have 1024 files open unless
/// it asks for more (systemd, `DefaultLimitNOFILE`).
const STRANGERS: usize = 256;
/// A stranger gets this long to become someone.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Pause after a failed accept, so that a lack of file handles doesn't spin.
const AGAIN: Duration = Duration::from_millis(100);

/// Answers callers for ever.
pub async fn serve(machine: Arc<Machine>, listener: TcpListener) -> Result<(), Error> {
    let slots = Arc::new(Semaphore::new(CONVERSATIONS));
    let strangers = Seats::new(STRANGERS);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // A caller that is gone already, or no file handles for now: ending would lose the keys of this boot.
            Err(error) => {
                tracing::warn!(%error, "A connection can't be accepted");
                sleep(AGAIN).await;
                continue;
            }
        };
        let (machine, slots) = (Arc::clone(&machine), Arc::clone(&slots));
        let mut stranger = strangers.take(peer.ip());
        tokio::spawn(async move {
            let Some(greeted) = stranger.hold(greeted(&machine, stream)).await else { return };
            drop(stranger);
            let conversation = async {
                let (channel, purpose, role) = greeted?;
                let Ok(_slot) = slots.acquire().await else { return Ok(()) };
                converse(machine, channel, purpose, role).await
            };
            conversation.await.unwrap_or_else(|error| {
                // Here alone: the peer learns no more than that the connection is gone.
                tracing::warn!(%peer, error = %chain(&error), "Conversation ended");
            });
        });
    }
}

/// Makes a stranger somebody who may ask for something.
async fn greeted(machine: &Machine, stream: TcpStream) -> Result<(Channel<TcpStream>, Purpose, VerifierRole), Error> {
    let opening = async {
        let mut channel = channel::node_accept(stream, &machine.secrets.identity, &machine.owner_spki).await?;
        let request: Request = channel.receive().await?;
        Ok::<_, Error>((channel, request.purpose))
    };
    let (channel, purpose) = timeout(HANDSHAKE, opening)
        .await
        .map_err(|_| Error::Time("a caller's greeting".into(), HANDSHAKE.as_secs()))??;
    let role = allowed(purpose, channel.peer_trust(), machine.is_control_plane(), machine.state())?;
    Ok((channel, purpose, role))
}

async fn converse(
    machine: Arc<Machine>,
    mut channel: Channel<TcpStream>,
    purpose: Purpose,
    role: VerifierRole,
) -> Result<(), Error> {
    let hello = machine.hello(purpose)?;
    channel.send(&hello).await?;
    let (verdict, binding) = session::prove(&mut channel, &hello, role, &mut &machine.tpm).await?;
    match (purpose, &verdict) {
        (Purpose::Init, Verdict::Sealed { .. }) => {
            let grant = session::unseal(&verdict, &binding, &machine.secrets.opener)?;
            granted(&machine, Grant::Init(grant));
            follow(&mut channel, &machine.log()).await
        }
        // The owner lost sight of a node that is well, or its connection: there is nothing left to do.
        (Purpose::Recover, Verdict::Sealed { .. }) if machine.state() == State::Member => {
            Ok(channel.send(&Progress::Done { kubeconfig: String::new() }).await?)
        }
        (Purpose::Recover, Verdict::Sealed { .. }) => {
            let grant = session::unseal(&verdict, &binding, &machine.secrets.opener)?;
            granted(&machine, Grant::Recover(grant));
            follow(&mut channel, &machine.log()).await
        }
        (Purpose::Leave, Verdict::Accepted {}) => leave(&mut channel, &machine).await,
        (Purpose::Reattest, Verdict::Accepted {}) => Ok(()),
        _ => Err(Error::State("the verdict doesn't fit the purpose".into())),
    }
}

/// Who may ask for what, and when. A repeated Init follows the first one; Recover of a member changes nothing.
fn allowed(purpose: Purpose, trust: Option<Trust>, control_plane: bool, state: State) -> Result<VerifierRole, Error> {
    let refuse = |why: &str| Err(Error::State(format!("{} refused: {why}", purpose.as_str())));
    let role = match trust {
        Some(Trust::Owner) => VerifierRole::Owner,
        Some(Trust::Verifier) => VerifierRole::Cluster,
        _ => return refuse("the caller isn't known"),
    };
    match purpose {
        Purpose::Init | Purpose::Recover | Purpose::Leave if role != VerifierRole::Owner => {
            refuse("only the owner may")
        }
        Purpose::Init | Purpose::Leave if !control_plane => refuse("this isn't a control-plane node"),
        Purpose::Leave if state != State::Member => refuse("this node isn't a member"),
        // Its registers aren't a member's yet, which the verifier would hold against it.
        Purpose::Reattest if role == VerifierRole::Cluster && state != State::Member => {
            refuse("this node isn't a member yet")
        }
        Purpose::Init | Purpose::Leave | Purpose::Reattest | Purpose::Recover => Ok(role),
        Purpose::Join => refuse("a node asks for that itself"),
    }
}

/// Starts the work, once; it goes on when the caller goes away.
fn granted(machine: &Arc<Machine>, grant: Grant) {
    if machine.claim() {
        let machine = Arc::clone(machine);
        tokio::spawn(async move { machine.carry_out(grant).await });
    }
}

async fn leave(channel: &mut Channel<TcpStream>, machine: &Machine) -> Result<(), Error> {
    let log = Log::default();
    let work = async {
        let last = match machine.host.apply(&plan::leave(&machine.address), &zeroize::Zeroizing::default(), &log).await
        {
            Ok(()) => Progress::Done { kubeconfig: String::new() },
            Err(error) => Progress::Failed { message: error.to_string() },
        };
        log.end(last);
    };
    let ((), followed) = tokio::join!(work, follow(channel, &log));
    followed
}

/// Streams the progress from its start to its end.
async fn follow(channel: &mut Channel<TcpStream>, log: &Log) -> Result<(), Error> {
    for n in 0.. {
        let entry = log.entry(n).await;
        channel.send(&entry).await?;
        if matches!(entry, Progress::Done { .. } | Progress::Failed { .. }) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_starts_recovers_and_removes_and_a_verifier_only_asks() {
        let may = |purpose, trust, control_plane, state| allowed(purpose, trust, control_plane, state).is_ok();
        let (owner, verifier) = (Some(Trust::Owner), Some(Trust::Verifier));
        for (purpose, trust, control_plane, state, expected) in [
            (Purpose::Init, owner, true, State::Waiting, true),
            (Purpose::Init, verifier, true, State::Waiting, false),
            (Purpose::Init, None, true, State::Waiting, false),
            (Purpose::Init, owner, false, State::Waiting, false),
            (Purpose::Recover, owner, true, State::Waiting, true),
            (Purpose::Recover, owner, true, State::Member, true),
            (Purpose::Recover, verifier, true, State::Waiting, false),
            (Purpose::Recover, None, true, State::Waiting, false),
            (Purpose::Leave, owner, true, State::Member, true),
            (Purpose::Leave, owner, true, State::Waiting, false),
            (Purpose::Leave, owner, false, State::Member, false),
            (Purpose::Leave, verifier, true, State::Member, false),
            (Purpose::Reattest, verifier, false, State::Member, true),
            (Purpose::Reattest, owner, false, State::Member, true),
            (Purpose::Reattest, owner, false, State::Working, true),
            (Purpose::Reattest, verifier, false, State::Working, false),
            (Purpose::Reattest, verifier, false, State::Waiting, false),
            (Purpose::Reattest, None, false, State::Member, false),
            (Purpose::Join, owner, true, State::Waiting, false),
            (Purpose::Join, verifier, false, State::Waiting, false),
        ] {
            assert_eq!(may(purpose, trust, control_plane, state), expected, "{} of {state:?}", purpose.as_str());
        }
    }
}
