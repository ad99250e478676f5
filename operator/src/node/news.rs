//! What people are told of a node when its status changes, as Events. Pure.

use constellation_crds::{
    ConfidentialNodeStatus,
    condition::{find, kind, reason},
    node::{AttestationResult, Phase},
};

use crate::{
    collateral::plan::lacking,
    events::{self, Told},
};

/// The Events for a change of the status: one for each thing that a person waits for.
#[must_use]
pub fn news(before: &ConfidentialNodeStatus, after: &ConfidentialNodeStatus) -> Vec<Told> {
    let mut news = Vec::new();
    let phase = after.phase.filter(|_| before.phase != after.phase);
    if let Some(phase) = phase {
        let note = after.summary.clone().unwrap_or_default();
        // A failure is told by its cause: a refusal is no vanished machine.
        let cause = find(&after.conditions, kind::READY).map(|ready| ready.reason.clone());
        let why = cause.filter(|_| phase == Phase::Failed).unwrap_or_else(|| format!("{phase:?}"));
        news.push(Told { warning: phase == Phase::Failed, reason: why, note });
    }
    // How far it is doesn't change where its launch is refused, and it is tried again.
    let launched = |status: &ConfidentialNodeStatus| find(&status.conditions, kind::LAUNCHED).cloned();
    if let Some(launch) =
        launched(after).filter(|launch| launch.status == "False" && reason::needs_help(&launch.reason))
        && phase != Some(Phase::Failed)
        && events::is_news(launched(before).as_ref(), &launch)
    {
        news.push(Told { warning: true, reason: launch.reason, note: launch.message });
    }
    // A new node that is refused fails, and that was told; a member stays until it is replaced.
    let refused = refusal(after).filter(|id| Some(*id) != refusal(before) && phase != Some(Phase::Failed));
    if let Some(result) = after.attestation.as_ref().filter(|_| refused.is_some()) {
        let note = format!("its evidence was refused{}", events::first(result));
        news.push(Told { warning: true, reason: reason::ATTESTATION_REFUSED.to_owned(), note });
    }
    let whose = "somebody was refused in its name, which says nothing about the node itself";
    news.extend(events::refused(before.refusals.as_ref(), after.refusals.as_ref(), whose));
    news
}

fn refusal(status: &ConfidentialNodeStatus) -> Option<&str> {
    // One that only waits for what makers have to say is no refusal yet.
    let refused = |result: &&AttestationResult| result.verdict == "Refused" && lacking(result).is_empty();
    Some(status.attestation.as_ref().filter(refused)?.refusal_id.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use constellation_crds::{
        condition::{self, Status},
        node::{Mismatch, Refusals},
    };

    use super::*;

    fn result(verdict: &str, id: &str) -> AttestationResult {
        let mismatch = Mismatch { clause: "tpm.pcr.11".into(), message: "another image".into(), ..Mismatch::default() };
        AttestationResult {
            verdict: verdict.into(),
            refusal_id: Some(id.into()),
            mismatches: vec![mismatch],
            ..AttestationResult::default()
        }
    }

    fn given(phase: Phase, attestation: Option<AttestationResult>) -> ConfidentialNodeStatus {
        ConfidentialNodeStatus { phase: Some(phase), attestation, ..ConfidentialNodeStatus::default() }
    }

    fn reasons(before: &ConfidentialNodeStatus, after: &ConfidentialNodeStatus) -> Vec<(bool, String)> {
        news(before, after).into_iter().map(|told| (told.warning, told.reason)).collect()
    }

    #[test]
    fn a_launch_that_is_refused_is_told_once_for_each_reason_and_by_its_words() {
        let pending = |why: &str, message: &str| {
            let mut status = given(Phase::Pending, None);
            let (list, now) = (&mut status.conditions, jiff::Timestamp::UNIX_EPOCH);
            condition::set(list, kind::LAUNCHED, Status::False, why, message, Some(1), now);
            status
        };
        let waiting = pending(reason::PENDING, "waiting for the network");
        let unread = pending(reason::LAUNCH_FAILED, "the image cannot be read");
        let empty = pending(reason::LAUNCH_FAILED, "the image is empty");
        let told = [(true, reason::LAUNCH_FAILED.to_owned())];
        assert_eq!(reasons(&waiting, &unread), told);
        assert_eq!(reasons(&unread, &unread), []);
        assert_eq!(reasons(&unread, &empty), told);
        assert_eq!(reasons(&empty, &pending(reason::NO_CAPACITY, "none")), [(true, "NoCapacity".to_owned())]);
        assert_eq!(reasons(&empty, &waiting), []);
    }

    #[test]
    fn a_member_that_is_refused_is_told_once_for_each_reason() {
        let accepted = given(Phase::Ready, Some(result("Accepted", "")));
        let refused = given(Phase::Ready, Some(result("Refused", "1")));
        let again = given(Phase::Ready, Some(result("Refused", "2")));
        let told = [(true, reason::ATTESTATION_REFUSED.to_owned())];
        assert_eq!(reasons(&accepted, &refused), told);
        assert_eq!(reasons(&refused, &refused), []);
        assert_eq!(reasons(&refused, &again), told);
        assert_eq!(reasons(&again, &accepted), []);
    }

    #[test]
    fn a_new_node_that_is_refused_is_told_once() {
        let booting = given(Phase::Booting, None);
        let refused = given(Phase::Failed, Some(result("Refused", "1")));
        assert_eq!(reasons(&booting, &refused).len(), 1);
    }

    #[test]
    fn refusals_in_a_nodes_name_are_told_once_for_each_reason_whatever_their_number() {
        let with = |count, id: &str| ConfidentialNodeStatus {
            refusals: Some(Refusals { count, since: None, last: result("Refused", id), others: Vec::new() }),
            ..given(Phase::Ready, Some(result("Accepted", "")))
        };
        let calm = given(Phase::Ready, Some(result("Accepted", "")));
        let told = news(&calm, &with(3, "1"));
        assert_eq!((told.len(), told[0].warning, told[0].reason.as_str()), (1, true, reason::PEER_REFUSED));
        assert!(told[0].note.contains("3 times") && told[0].note.contains("tpm.pcr.11: another image"), "{told:?}");
        assert_eq!(news(&with(3, "1"), &with(10_000, "1")), []);
        assert_eq!(news(&with(3, "1"), &with(4, "2")).len(), 1);
        let mut both = with(5, "2");
        both.refusals.as_mut().unwrap().others = vec![result("Refused", "3"), result("Refused", "1")];
        let told: Vec<_> = news(&with(3, "1"), &both).into_iter().map(|told| told.note).collect();
        assert!(told.len() == 2 && told[0].contains("last: tpm") && told[1].contains("also: tpm"), "{told:?}");
    }
}
