//! The owner's conversations with nodes: Init, Recover, Leave, and what is installed and signed afterwards.

#[path = "init.rs"]
pub mod begin;
pub mod install;
pub mod leave;
pub mod recover;
pub mod talk;
pub mod trust;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_attestation::{protocol::Purpose, told};
use constellation_crds::node::{AttestationResult, Refusals};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::{
    collateral::plan::{lacking, names},
    error::chain,
    events,
};
pub use talk::{Error, Peer};

/// How many lines of a node's output are kept for its status.
const LINES: usize = 20;
/// How long a node may take until it answers and is done, over all attempts: kubeadm in a VM without hardware
/// virtualisation needs minutes.
const LIMIT: Duration = Duration::from_mins(20);

/// How a conversation ended.
#[derive(Clone)]
pub enum Outcome {
    /// The node is done; an administrator's kubeconfig after Init, empty after Recover.
    Done(Zeroizing<String>),
    /// It failed for good; says why.
    Failed(String),
    /// Its evidence was refused; [`InitState::attestation`] has the reasons.
    Refused,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("Done"),
            Self::Failed(why) => f.debug_tuple("Failed").field(why).finish(),
            Self::Refused => f.write_str("Refused"),
        }
    }
}

/// A conversation as it stands.
#[derive(Clone, Debug, Default)]
pub struct InitState {
    /// Result of the appraisal, once there was one.
    pub attestation: Option<AttestationResult>,
    /// Refusals of whoever answered, that say nothing about the node.
    pub refusals: Option<Refusals>,
    /// The last lines that the node streamed.
    pub progress: Vec<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When.
    pub ended: Option<Instant>,
}

#[derive(Default)]
struct Entry {
    attestation: Option<AttestationResult>,
    refusals: Option<Refusals>,
    progress: VecDeque<String>,
    outcome: Option<Outcome>,
    ended: Option<Instant>,
}

/// Conversations that run or ended, by UID of the node. A restarted operator has none and begins them anew: the node
/// answers the same request again.
#[derive(Default)]
pub struct Registry(Mutex<BTreeMap<String, Talk>>);

/// A conversation and its task.
struct Talk {
    entry: Arc<Mutex<Entry>>,
    task: Option<AbortHandle>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").finish()
    }
}

/// Where a conversation writes what it learns.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Entry>>);

impl Journal {
    /// One more line, of the node or about it; it is cut and cleaned.
    pub fn line(&self, text: &str) {
        let text = told::text(text);
        self.with(|entry| {
            if entry.progress.len() == LINES {
                entry.progress.pop_front();
            }
            entry.progress.push_back(text);
        });
    }

    /// The result of the appraisal.
    pub fn attestation(&self, result: AttestationResult) {
        self.with(|entry| entry.attestation = Some(result));
    }

    /// A refusal that says nothing about the node.
    pub fn refused(&self, result: AttestationResult) {
        self.with(|entry| {
            let before = entry.refusals.take();
            let count = before.as_ref().map_or(0, |before| before.count).saturating_add(1);
            let since = before.as_ref().and_then(|before| before.since.clone()).or_else(|| result.time.clone());
            // Of the same reasons only the time differs, which must not make the status change each time.
            let known = before.map(|before| before.last).filter(|last| last.refusal_id == result.refusal_id);
            entry.refusals = Some(Refusals { count, since, last: known.unwrap_or(result), others: Vec::new() });
        });
    }

    /// Why the last one was refused, for the end of a sentence.
    fn last_refusal(&self) -> String {
        let last = self.with(|entry| entry.refusals.as_ref().map(|refusals| events::first(&refusals.last)));
        last.map_or_else(String::new, |first| format!("; last refused{first}"))
    }

    fn end(&self, outcome: Outcome) {
        self.with(|entry| {
            entry.outcome = Some(outcome);
            entry.ended = Some(Instant::now());
        });
    }

    fn with<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Registry {
    /// The conversation with a node, if there is one.
    #[must_use]
    pub fn state(&self, node_uid: &str) -> Option<InitState> {
        let entry = self.all(|all| all.get(node_uid).map(|talk| Arc::clone(&talk.entry)))?;
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        Some(InitState {
            attestation: entry.attestation.clone(),
            refusals: entry.refusals.clone(),
            progress: entry.progress.iter().cloned().collect(),
            outcome: entry.outcome.clone(),
            ended: entry.ended,
        })
    }

    /// Begins a conversation unless one with this node runs.
    pub fn start<S>(&self, peer: Peer, secret: S)
    where
        S: talk::Secret,
    {
        let uid = peer.node_uid.clone();
        self.all(|all| {
            let runs = |talk: &Talk| talk.entry.lock().unwrap_or_else(PoisonError::into_inner).outcome.is_none();
            if all.get(&uid).is_some_and(runs) {
                return;
            }
            let journal = Journal(Arc::default());
            let entry = Arc::clone(&journal.0);
            let task = tokio::spawn(run(peer, secret, journal)).abort_handle();
            all.insert(uid, Talk { entry, task: Some(task) });
        });
    }

    /// Ends the conversation with a node and forgets it.
    pub fn forget(&self, node_uid: &str) {
        if let Some(task) = self.all(|all| all.remove(node_uid)).and_then(|talk| talk.task) {
            task.abort();
        }
    }

    fn all<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Talk>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Talks until the node is done, refused, failed for good, or out of time.
async fn run<S: talk::Secret>(peer: Peer, secret: S, journal: Journal) {
    let attempts = async {
        let mut pause = talk::FIRST_PAUSE;
        loop {
            match talk::give(&peer, &secret, &journal).await {
                Ok(kubeconfig) => return Outcome::Done(kubeconfig),
                // For want of what others have to have said nobody is refused for good: it is being fetched.
                Err(Error::Refused(result)) if !lacking(&result).is_empty() => {
                    journal.line(&format!("trying again when there is {}", names(&lacking(&result))));
                    journal.attestation(*result);
                }
                Err(Error::Refused(result)) => {
                    journal.attestation(*result);
                    return Outcome::Refused;
                }
                // A node that can't be recovered now keeps its disk: it is asked again, never replaced for this.
                Err(Error::Node(message)) if S::PURPOSE == Purpose::Init => return Outcome::Failed(message),
                Err(error) => {
                    let why = chain(&error);
                    tracing::info!(node = peer.node_uid, error = why, "a conversation broke off and is begun again");
                    let advice = if error.is_out_of_time() { ": set the operator's clock, or the node's" } else { "" };
                    journal.line(&format!("trying again: {why}{advice}"));
                    if let Error::Unproven(result) = error {
                        journal.refused(*result);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(talk::GREATEST_PAUSE);
        }
    };
    let outcome = if S::PURPOSE == Purpose::Init {
        tokio::time::timeout(LIMIT, attempts).await.unwrap_or_else(|_| {
            let minutes = LIMIT.as_secs() / 60;
            Outcome::Failed(format!("the node was not done in {minutes} minutes{}", journal.last_refusal()))
        })
    } else {
        attempts.await
    };
    tracing::info!(node = peer.node_uid, ?outcome, "the conversation ended");
    journal.end(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_keeps_the_last_lines_only() {
        let journal = Journal(Arc::default());
        (0..50).for_each(|n| journal.line(&n.to_string()));
        let registry = Registry::default();
        registry.all(|all| all.insert("a".into(), Talk { entry: Arc::clone(&journal.0), task: None }));
        let state = registry.state("a").unwrap();
        assert_eq!((state.progress.len(), state.progress[0].as_str()), (LINES, "30"));
        assert!(state.outcome.is_none() && state.ended.is_none() && registry.state("b").is_none());
        journal.end(Outcome::Refused);
        assert!(registry.state("a").unwrap().ended.is_some());
        registry.forget("a");
        assert!(registry.state("a").is_none());
    }

    #[test]
    fn a_line_of_a_node_is_cut_and_cleaned() {
        let journal = Journal(Arc::default());
        journal.line(&("\u{1b}[2J".to_owned() + &"x".repeat(1 << 20)));
        let line = journal.with(|entry| entry.progress[0].clone());
        assert!(line.starts_with(" [2Jx") && line.len() == told::TEXT_MAX, "{line}");
    }

    #[test]
    fn refusals_are_counted_and_one_for_the_same_reason_stays_as_it_was() {
        let journal = Journal(Arc::default());
        for (id, time) in [("a", "1"), ("a", "2"), ("b", "3")] {
            let (refusal_id, time) = (Some(id.to_owned()), Some(time.to_owned()));
            journal.refused(AttestationResult { refusal_id, time, ..AttestationResult::default() });
            let told = journal.with(|entry| entry.refusals.clone()).unwrap();
            let last = told.last.time.as_deref();
            assert_eq!((told.since.as_deref(), last), (Some("1"), if id == "a" { Some("1") } else { Some("3") }));
        }
        assert_eq!(journal.with(|entry| entry.refusals.as_ref().unwrap().count), 3);
    }

    #[test]
    fn an_outcome_does_not_show_the_kubeconfig() {
        let outcome = Outcome::Done(Zeroizing::new("secret-kubeconfig".into()));
        assert_eq!(format!("{outcome:?}"), "Done");
    }
}
