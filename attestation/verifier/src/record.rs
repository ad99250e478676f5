//! What is written about an appraisal, and when writing it is worth it. Pure, but for the memory of recent writes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_attestation::{
    appraise::{Appraisal, Origin, clause},
    platform::Platform,
    policy::LAUNCH_PCR,
};
use constellation_crds::{
    NodeAdmissionStatus,
    node::{AttestationResult, Mismatch},
    trust::Admission,
};
use jiff::Timestamp;

use crate::admit::Door;

/// Verdict of a good appraisal.
pub const ACCEPTED: &str = "Accepted";
/// Verdict of a refusal.
pub const REFUSED: &str = "Refused";

/// Time between two recorded refusals of one node: whoever knocks can't make the API server write more often.
const QUIET: Duration = Duration::from_secs(5);

/// The appraisal's reasons, as they go into a status.
#[must_use]
pub fn mismatches(appraisal: &Appraisal) -> Vec<Mismatch> {
    if appraisal.accepted {
        return Vec::new();
    }
    let reasons = constellation_attestation::told::reasons(appraisal.reasons());
    reasons
        .into_iter()
        .map(|reason| Mismatch {
            clause: reason.clause,
            expected: reason.expected,
            actual: reason.actual,
            message: reason.message,
        })
        .collect()
}

/// What the status says about a good appraisal.
#[must_use]
pub fn accepted(appraisal: &Appraisal, platform: Platform, revision: u64, now: Timestamp) -> AttestationResult {
    AttestationResult {
        verdict: ACCEPTED.to_owned(),
        platform: platform.to_string(),
        measurement_set: appraisal.set.clone(),
        trust_revision: Some(revision),
        time: Some(now.to_string()),
        evidence_digest: Some(appraisal.evidence_digest.clone()),
        refusal_id: None,
        mismatches: Vec::new(),
    }
}

/// What the status says about a refusal.
#[must_use]
pub fn refused(
    reasons: Vec<Mismatch>,
    evidence_digest: Option<String>,
    platform: Platform,
    revision: Option<u64>,
    id: &str,
    now: Timestamp,
) -> AttestationResult {
    AttestationResult {
        verdict: REFUSED.to_owned(),
        platform: platform.to_string(),
        measurement_set: None,
        trust_revision: revision,
        time: Some(now.to_string()),
        evidence_digest,
        refusal_id: Some(id.to_owned()),
        mismatches: reasons,
    }
}

/// Whether both say the same but for time, evidence digest and id, which differ each time and mean nothing.
#[must_use]
pub fn same(one: &AttestationResult, other: &AttestationResult) -> bool {
    let essence = |result: &AttestationResult| AttestationResult {
        time: None,
        evidence_digest: None,
        refusal_id: None,
        ..result.clone()
    };
    essence(one) == essence(other)
}

/// The status after an appraisal, or nothing when the recorded one already says it.
#[must_use]
pub fn next(
    status: Option<&NodeAdmissionStatus>,
    admission: Option<Admission>,
    result: AttestationResult,
) -> Option<NodeAdmissionStatus> {
    let before = status.cloned().unwrap_or_default();
    let admission = admission.or_else(|| before.admission.clone());
    let unchanged = before.last_appraisal.as_ref().is_some_and(|last| same(last, &result));
    if unchanged && admission == before.admission {
        return None;
    }
    let last_appraisal = if unchanged { before.last_appraisal.clone() } else { Some(result) };
    Some(NodeAdmissionStatus { admission, last_appraisal, ..before })
}

/// Whether a refusal is the node's own: its last appraisal. Others are counted beside it, see [`crate::refusals`].
///
/// Anybody can knock with a node's uid and nonsense for evidence; that must not make a good node look bad, which would
/// be replaced for it. Of a node that was admitted only refusals are its own of what its recorded key signed, or of good
/// evidence, such as of a second machine that claims to be it. Of one that wasn't, only those of a machine that
/// is genuine and measured the node's launch configuration, but isn't what it should be; or that nothing stands against
/// but what is still to be fetched. Our own node we ask while it may still be becoming a member; once it is one, the
/// rounds for members watch it.
#[must_use]
pub fn attributable(status: Option<&NodeAdmissionStatus>, door: Door, appraisal: &Appraisal) -> bool {
    let Some(admission) = status.and_then(|status| status.admission.as_ref()) else {
        return appraisal.accepted || !appraisal.lacking.is_empty() || is_wrongly_booted(appraisal);
    };
    let signed = appraisal.origin >= Origin::Key && appraisal.ak_name == admission.ak_name;
    door != Door::Own && (appraisal.accepted || signed)
}

/// Whether a genuine machine measured the node's launch configuration and booted something else, or on hardware that
/// isn't good enough.
fn is_wrongly_booted(appraisal: &Appraisal) -> bool {
    let launch = format!("{}{LAUNCH_PCR}", clause::PCR);
    let of_machine = |name: &str| [clause::PCR, "snp.", "tdx."].iter().any(|prefix| name.starts_with(prefix));
    appraisal.origin == Origin::Machine
        && !appraisal.mismatches.is_empty()
        && appraisal.mismatches.iter().all(|mismatch| of_machine(&mismatch.clause) && mismatch.clause != launch)
}

/// Remembers which nodes' refusals were just recorded.
#[derive(Debug, Default)]
pub struct Quiet {
    recent: Mutex<HashMap<String, Instant>>,
}

impl Quiet {
    /// Whether a refusal of this node may be recorded now; if so, the next ones have to wait.
    ///
    /// Only uids that exist as objects get here, and old entries go, so the memory stays small.
    pub fn allows(&self, uid: &str, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, last| now.saturating_duration_since(*last) < QUIET);
        if recent.contains_key(uid) {
            return false;
        }
        recent.insert(uid.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(verdict: &str, time: &str) -> AttestationResult {
        AttestationResult {
            verdict: verdict.to_owned(),
            platform: "qemu-vtpm".to_owned(),
            trust_revision: Some(3),
            time: Some(time.to_owned()),
            evidence_digest: Some(time.to_owned()),
            ..AttestationResult::default()
        }
    }

    #[test]
    fn nothing_is_written_while_nothing_changes() {
        let admission = Admission { ak_name: "000b".to_owned(), ..Admission::default() };
        let first = next(None, Some(admission.clone()), result(ACCEPTED, "1")).unwrap();
        assert_eq!(next(Some(&first), Some(admission.clone()), result(ACCEPTED, "2")), None);
        assert_eq!(next(Some(&first), None, result(ACCEPTED, "2")), None);
    }

    #[test]
    fn a_changed_verdict_set_revision_or_key_is_written() {
        let first = next(None, Some(Admission::default()), result(ACCEPTED, "1")).unwrap();
        assert!(next(Some(&first), None, result(REFUSED, "2")).is_some());
        let set = AttestationResult { measurement_set: Some("new".to_owned()), ..result(ACCEPTED, "2") };
        assert!(next(Some(&first), None, set).is_some());
        let revision = AttestationResult { trust_revision: Some(4), ..result(ACCEPTED, "2") };
        assert!(next(Some(&first), None, revision).is_some());
        let key = Admission { wireguard_key: "new".to_owned(), ..Admission::default() };
        let after = next(Some(&first), Some(key.clone()), result(ACCEPTED, "2")).unwrap();
        assert_eq!((after.admission, after.last_appraisal), (Some(key), first.last_appraisal));
    }

    #[test]
    fn a_refusal_keeps_the_admission() {
        let first = next(None, Some(Admission::default()), result(ACCEPTED, "1")).unwrap();
        let after = next(Some(&first), None, result(REFUSED, "2")).unwrap();
        assert_eq!(after.admission, first.admission);
        assert_eq!(after.last_appraisal.unwrap().verdict, REFUSED);
    }

    #[test]
    fn refusals_of_one_node_are_recorded_seconds_apart() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        assert!(quiet.allows("a", start));
        assert!(!quiet.allows("a", start + QUIET / 2));
        assert!(quiet.allows("b", start));
        assert!(quiet.allows("a", start + QUIET));
    }

    #[test]
    fn only_genuine_evidence_makes_a_node_look_bad() {
        let mismatch = |clause: &str| constellation_attestation::appraise::Mismatch {
            clause: clause.to_owned(),
            expected: None,
            actual: None,
            message: String::new(),
        };
        let appraisal = |origin, ak_name: &str, clauses: &[&str]| Appraisal {
            accepted: clauses.is_empty(),
            origin,
            set: None,
            mismatches: clauses.iter().map(|clause| mismatch(clause)).collect(),
            lacking: Vec::new(),
            ak_name: ak_name.to_owned(),
            ek_certificate_digest: String::new(),
            reset_count: 0,
            restart_count: 0,
            clock: 0,
            evidence_digest: String::new(),
        };
        let admission = Admission { ak_name: "a".to_owned(), ..Admission::default() };
        let member = NodeAdmissionStatus { admission: Some(admission), ..NodeAdmissionStatus::default() };
        let new = NodeAdmissionStatus::default();
        // Of a member, and of a node that was never admitted.
        let table = [
            (appraisal(Origin::Machine, "a", &["tpm.pcr.11"]), [true, true]),
            (appraisal(Origin::Machine, "b", &["tpm.pcr.11"]), [false, true]),
            (appraisal(Origin::Machine, "b", &["tpm.pcr.11", "tpm.pcr.15"]), [false, false]),
            (appraisal(Origin::Machine, "b", &["snp.tcb.snp"]), [false, true]),
            (appraisal(Origin::Machine, "b", &["evidence.machine.key", "tpm.pcr.11"]), [false, false]),
            // A recorded key needs nobody who speaks for it: its own, or the one that did, may be trusted no longer.
            (appraisal(Origin::Key, "a", &["tpm.ek.certificate"]), [true, false]),
            (appraisal(Origin::Key, "b", &["tpm.ek.certificate"]), [false, false]),
            (appraisal(Origin::Key, "a", &["tpm.pcr.11"]), [true, false]),
            (appraisal(Origin::Unknown, "a", &["tpm.pcr.11", "tpm.signature"]), [false, false]),
            (appraisal(Origin::Unknown, "a", &["tpm.pcr.11"]), [false, false]),
            (appraisal(Origin::Machine, "b", &[]), [true, true]),
        ];
        for (appraisal, [of_member, of_new]) in table {
            for door in [Door::Join, Door::Member] {
                assert_eq!(attributable(Some(&member), door, &appraisal), of_member, "{appraisal:?}");
                assert_eq!(attributable(Some(&new), door, &appraisal), of_new, "{appraisal:?}");
                assert_eq!(attributable(None, door, &appraisal), of_new, "{appraisal:?}");
            }
            assert!(!attributable(Some(&member), Door::Own, &appraisal), "{appraisal:?}");
        }
    }
}
