//! Members that give no evidence of their own when they are asked: how long each is silent, and when the owner is told.
//!
//! Not answering must be worth no more than a bad answer, or a member whose image is no longer trusted would only have to
//! keep still. So silence becomes a refusal, in `lastAppraisal` and with a clause of its own, and what the owner wants
//! done about refused members is done about silent ones.
//!
//! What Kubernetes says of the node isn't asked: its kubelet says that, on the same machine, so a member could hide
//! behind being not Ready. A machine that is off is one write and one Event, and `Accepted` when it comes back.
//!
//! The count is in memory, one for each verifier. Whoever starts anew counts anew.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_attestation::{appraise::clause, channel, session};
use constellation_crds::{NodeAdmission, node::AttestationResult, trust::Admission};
use jiff::Timestamp;

use crate::{
    admit::reason,
    record,
    store::Store,
    verifier::{Error, Verifier, fresh_id},
};

/// The clause that a silent member doesn't hold.
pub const CLAUSE: &str = "evidence.absent";
/// Rounds in a row without evidence: one may fall into a reboot and the next into a busy hour of the network. At twice
/// this, with a round each hour, a member that isn't trusted any more would have its pods for another three hours.
pub const ROUNDS: u32 = 3;
/// Rounds may be a minute apart, and a member that reboots answers nobody until it has joined again. That takes up to
/// 6 minutes without hardware virtualisation, and no node is given more than 15 (`nodeTimeoutSeconds`, where absent).
pub const AT_LEAST: Duration = Duration::from_mins(15);

/// Who is silent.
#[derive(Debug, Default)]
pub struct Silence(Mutex<HashMap<String, Missed>>);

#[derive(Debug)]
struct Missed {
    /// A member that joined again was heard, whoever heard it.
    admission: Admission,
    rounds: u32,
    first: Instant,
    since: Timestamp,
    /// Told from this round on. Doubles: of two verifiers that hear different things each overrules the other, and they
    /// shall do so less and less often.
    tell_at: u32,
}

/// How long a member has been silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Rounds in a row.
    pub rounds: u32,
    /// When the first of them was.
    pub since: Timestamp,
}

impl Silence {
    /// Forgets those who are no members any more, so that the memory stays small.
    pub fn keep(&self, members: &BTreeSet<String>) {
        self.lock().retain(|uid, _| members.contains(uid));
    }

    /// Forgets the silence of a member that gave evidence of its own, good or bad.
    pub fn heard(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Counts a round in which this member gave none; says for how long, once it is time to tell.
    pub fn missed(&self, uid: &str, admission: &Admission, now: Instant, time: Timestamp) -> Option<Absence> {
        let admission = joined(admission);
        let begin = || Missed { admission: admission.clone(), rounds: 0, first: now, since: time, tell_at: ROUNDS };
        let mut all = self.lock();
        let missed = all.entry(uid.to_owned()).or_insert_with(begin);
        if missed.admission != admission {
            *missed = begin();
        }
        missed.rounds = missed.rounds.saturating_add(1);
        let long = now.saturating_duration_since(missed.first) >= AT_LEAST;
        let absence = Absence { rounds: missed.rounds, since: missed.since };
        (long && missed.rounds >= missed.tell_at).then_some(absence)
    }

    /// Remembers that the owner was told.
    fn told(&self, uid: &str) {
        if let Some(missed) = self.lock().get_mut(uid) {
            missed.tell_at = missed.rounds.saturating_mul(2);
        }
    }

    /// Rounds in a row that a member has missed.
    #[cfg(test)]
    pub(crate) fn rounds(&self, uid: &str) -> u32 {
        self.lock().get(uid).map_or(0, |missed| missed.rounds)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Missed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a round in which a member gave no evidence, and records it when it is time and nothing bad is recorded yet.
///
/// # Errors
/// When the API doesn't answer, or somebody else wrote at the same moment: the next round tries again.
pub async fn missed<A: Store>(
    verifier: &Verifier<A>,
    asked: &NodeAdmission,
    why: &str,
    (now, time): (Instant, Timestamp),
) -> Result<(), Error> {
    let uid = asked.spec.node_uid.as_str();
    let Some(admission) = admission_of(asked) else { return Ok(()) };
    let Some(absence) = verifier.silence.missed(uid, admission, now, time) else { return Ok(()) };
    // Read anew: others may have heard it, refused it or sent it away since the round began.
    let Some(node) = verifier.store.node(uid).await? else { return Ok(()) };
    if admission_of(&node).map(joined) != Some(joined(admission)) {
        verifier.silence.heard(uid);
        return Ok(());
    }
    if node.spec.evicted == Some(true) {
        return Ok(());
    }
    let last = node.status.as_ref().and_then(|status| status.last_appraisal.as_ref());
    if !last.is_some_and(is_bad) {
        let id = fresh_id()?;
        let Absence { rounds, since } = absence;
        let words = format!("it gave no evidence of its own in {rounds} rounds since {since:.0}; the last time: {why}");
        // The revision stays: it is the least that others may appraise it against.
        let revision = last.and_then(|last| last.trust_revision);
        let reasons = vec![reason(CLAUSE, None, None, &words)];
        let result = record::refused(reasons, None, verifier.platform, revision, &id, time);
        let Some(status) = record::next(node.status.as_ref(), None, result) else { return Ok(()) };
        verifier.store.record(&NodeAdmission { status: Some(status), ..node.clone() }).await?;
        tracing::warn!(refusal = id, node_uid = uid, rounds, clause = CLAUSE, "Refused a silent member");
    }
    verifier.silence.told(uid);
    Ok(())
}

/// Whether a conversation failed because of the member, or of what lies between us: our own files and the API aren't
/// its fault.
#[must_use]
pub fn is_silence(error: &Error) -> bool {
    match error {
        Error::Channel(error) | Error::Session(session::Error::Channel(error)) => !is_ours(error),
        _ => false,
    }
}

fn is_ours(error: &channel::Error) -> bool {
    use channel::Error as E;
    matches!(error, E::Certificate(_) | E::Config(_) | E::OwnerKey | E::Serialize | E::VerifierCa)
}

/// Whether something stands against the member already; what is only wanting doesn't.
fn is_bad(last: &AttestationResult) -> bool {
    last.verdict == record::REFUSED && last.mismatches.iter().all(|mismatch| mismatch.clause != clause::COLLATERAL)
}

/// What changes when a member joins again. That its kubelet renewed its certificate proves nothing: a member could renew to be
/// taken for one that was heard.
fn joined(admission: &Admission) -> Admission {
    Admission { kubelet_certificate: None, ..admission.clone() }
}

fn admission_of(node: &NodeAdmission) -> Option<&Admission> {
    node.status.as_ref()?.admission.as_ref()
}

#[cfg(test)]
mod tests {
    use constellation_crds::trust::KubeletCertificate;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn missed(silence: &Silence, admission: &Admission, at: Instant) -> Option<u32> {
        silence.missed("a", admission, at, Timestamp::UNIX_EPOCH).map(|absence| absence.rounds)
    }

    #[test]
    fn who_is_silent_is_told_of_at_the_third_round_and_then_at_doubling_ones() {
        let (silence, start, admission) = (Silence::default(), Instant::now(), Admission::default());
        let told: Vec<u32> = (0..24)
            .filter_map(|round| {
                let rounds = missed(&silence, &admission, start + HOUR * round)?;
                silence.told("a");
                Some(rounds)
            })
            .collect();
        assert_eq!(told, [3, 6, 12, 24]);
    }

    #[test]
    fn what_could_not_be_told_is_told_the_next_time() {
        let (silence, start, admission) = (Silence::default(), Instant::now(), Admission::default());
        let told: Vec<_> = (0..4).map(|round| missed(&silence, &admission, start + HOUR * round)).collect();
        assert_eq!(told, [None, None, Some(3), Some(4)]);
    }

    #[test]
    fn a_reboot_is_no_silence_however_often_members_are_asked() {
        let (silence, start, admission) = (Silence::default(), Instant::now(), Admission::default());
        for second in 0..AT_LEAST.as_secs() {
            assert_eq!(missed(&silence, &admission, start + Duration::from_secs(second)), None);
        }
        assert!(missed(&silence, &admission, start + AT_LEAST).is_some());
    }

    #[test]
    fn who_was_heard_joined_again_or_was_no_member_begins_anew() {
        let (start, admission) = (Instant::now(), Admission::default());
        let again = Admission { wireguard_key: "of another boot".into(), ..Admission::default() };
        for (what, between, admission_after) in [
            ("heard", (|silence: &Silence| silence.heard("a")) as fn(&Silence), &admission),
            ("no member", |silence| silence.keep(&BTreeSet::from(["b".to_owned()])), &admission),
            ("joined again", |_| {}, &again),
        ] {
            let silence = Silence::default();
            for round in 0..2 {
                assert_eq!(missed(&silence, &admission, start + HOUR * round), None);
            }
            between(&silence);
            let after = (2..5).map(|round| missed(&silence, admission_after, start + HOUR * round));
            assert_eq!(after.collect::<Vec<_>>(), [None, None, Some(3)], "{what}");
        }
        let silence = Silence::default();
        silence.keep(&BTreeSet::from(["a".to_owned()]));
        let kept = (0..3).map(|round| {
            silence.keep(&BTreeSet::from(["a".to_owned()]));
            missed(&silence, &admission, start + HOUR * round)
        });
        assert_eq!(kept.collect::<Vec<_>>(), [None, None, Some(3)]);
    }

    #[test]
    fn who_only_renews_its_certificate_was_not_heard() {
        let (silence, start) = (Silence::default(), Instant::now());
        let renewed = |round: u32| Admission {
            kubelet_certificate: Some(KubeletCertificate {
                current: round.to_string(),
                ..KubeletCertificate::default()
            }),
            ..Admission::default()
        };
        let told = (0..3).map(|round| missed(&silence, &renewed(round), start + HOUR * round));
        assert_eq!(told.collect::<Vec<_>>(), [None, None, Some(3)]);
    }

    #[test]
    fn only_what_lies_with_the_member_or_on_the_way_is_silence() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (error, expected) in [
            (Error::Channel(channel::Error::Io(refused())), true),
            (Error::Channel(channel::Error::Timeout("connecting")), true),
            (Error::Channel(channel::Error::Handshake(refused())), true),
            (Error::Session(session::Error::Channel(channel::Error::Closed)), true),
            (Error::Session(session::Error::Random), false),
            (Error::Channel(channel::Error::VerifierCa), false),
            (Error::Contended, false),
            (Error::Gone, false),
            (Error::Random, false),
            (Error::Store(crate::store::Error::Conflict), false),
        ] {
            assert_eq!(is_silence(&error), expected, "{error:?}");
        }
    }
}
