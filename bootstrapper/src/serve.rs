//! Port 9000: Init, Recover and Leave for the owner alone, Reattest for the owner and the verifiers.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use constellation_attestation::{
    binding::VerifierRole,
    channel::{self, Channel, Trust},
    protocol::{Progress, Purpose, Request, Verdict},
    session,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
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
/// Callers at a time that aren't anybody yet. One more, and the oldest is left: who is honest needs some round trips, and
/// would be the oldest only if so many came meanwhile. Each costs a file and a handshake; a process may have 1024 files
/// open unless it asks for more (systemd, `DefaultLimitNOFILE`).
const STRANGERS: usize = 256;
/// A stranger gets this long to become someone.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Pause after a failed accept, so that a lack of file handles doesn't spin.
const AGAIN: Duration = Duration::from_millis(100);

/// Answers callers for ever.
pub async fn serve(machine: Arc<Machine>, listener: TcpListener) -> Result<(), Error> {
    let slots = Arc::new(Semaphore::new(CONVERSATIONS));
    let mut strangers = Strangers::default();
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
        let ended = move |error: Error| tracing::warn!(%peer, %error, "Conversation ended");
        let greeting = async move {
            match greeted(&machine, stream).await {
                // A task of its own, so that who has become somebody isn't left with the strangers.
                Ok((channel, purpose, role)) => drop(tokio::spawn(async move {
                    let Ok(_slot) = slots.acquire().await else { return };
                    converse(machine, channel, purpose, role).await.unwrap_or_else(ended);
                })),
                Err(error) => ended(error),
            }
        };
        strangers.add(tokio::spawn(greeting).abort_handle());
    }
}

/// Callers that aren't anybody yet, the oldest first.
#[derive(Default)]
struct Strangers(VecDeque<AbortHandle>);

impl Strangers {
    fn add(&mut self, stranger: AbortHandle) {
        self.0.retain(|stranger| !stranger.is_finished());
        if self.0.len() >= STRANGERS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(stranger);
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
    let hello = machine.hello(purpose).await?;
    channel.send(&hello).await?;
    let (verdict, binding) = {
        let mut tpm = machine.tpm.lock().await;
        session::prove(&mut channel, &hello, role, &mut *tpm).await?
    };
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
    #[tokio::test]
    async fn the_oldest_stranger_makes_room_for_the_next() {
        let mut strangers = Strangers::default();
        let tasks: Vec<_> = (0..=STRANGERS).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
        for task in &tasks {
            strangers.add(task.abort_handle());
        }
        let mut tasks = tasks.into_iter();
        assert!(tasks.next().unwrap().await.unwrap_err().is_cancelled());
        assert!(tasks.all(|task| !task.is_finished()));
        assert_eq!(strangers.0.len(), STRANGERS);
        strangers.0.iter().for_each(AbortHandle::abort);
    }
}
