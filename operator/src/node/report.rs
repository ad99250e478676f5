//! From what was seen and done to the node's status. Pure; the only author of its conditions.

use std::time::Duration;

use constellation_crds::{
    ConfidentialNodeStatus,
    cluster::OnFailure,
    condition::{self, Status, kind, reason},
    node::{AttestationResult, Phase},
};

use super::{plan::Step, seen::Observed};
use crate::{
    cloud::InstanceState,
    collateral::plan::{lacking, names},
    events,
};

/// A step that failed, the condition reason, and why.
pub type Failed = (Step, &'static str, String);

/// What was done of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Steps that were carried out.
    pub done: Vec<Step>,
    /// The step that failed.
    pub failed: Option<Failed>,
    /// When it is worth trying that again.
    pub again: Option<Duration>,
    /// The appraisal by which the owner refused the node in that step.
    pub refused: Option<AttestationResult>,
}

/// The status.
#[must_use]
pub fn report(seen: &Observed, outcome: &Outcome) -> ConfidentialNodeStatus {
    let before = seen.before();
    let attestation = attestation(seen, outcome);
    let failure = seen.failure();
    let leaves = seen.deleting() && seen.stays().is_none();
    let (phase, summary) = phase(seen, outcome, failure.as_ref());
    let summary = seen.stays().map_or_else(|| summary.clone(), |why| format!("{summary}; {why}"));
    let mut status = ConfidentialNodeStatus {
        observed_generation: seen.node.metadata.generation,
        phase: Some(phase),
        summary: Some(summary.clone()),
        provider_id: seen.instance.as_ref().map(|i| i.id.0.clone()).or(before.provider_id),
        address: seen.instance.as_ref().and_then(|i| i.address).map(|a| a.to_string()).or(before.address),
        kubernetes_node: seen
            .kube
            .map(|_| seen.node.metadata.name.clone().unwrap_or_default())
            .or(before.kubernetes_node),
        launch_config_digest: seen.launch_digest.clone().or(before.launch_config_digest),
        attestation: attestation.clone(),
        refusals: seen.refusals(),
        conditions: before.conditions,
        phase_times: before.phase_times,
        progress: seen
            .talk
            .as_ref()
            .map(|talk| talk.progress.clone())
            .filter(|p| !p.is_empty())
            .unwrap_or(before.progress),
    };
    let accepted = attestation.as_ref().map(|result| result.verdict == "Accepted");
    let kubelet_ready = seen.kube.is_some_and(|kube| kube.ready);
    let not_ready = if kubelet_ready { reason::ATTESTATION_PENDING } else { reason::KUBELET_NOT_READY };
    let facts = [
        (kind::LAUNCHED, seen.instance.is_some(), reason::LAUNCHED, reason::PENDING),
        (kind::BOOTED, attestation.is_some() || seen.talk.is_some(), reason::BOOTED, reason::BOOTING),
        (kind::ATTESTED, accepted == Some(true), reason::ATTESTATION_ACCEPTED, reason::ATTESTATION_PENDING),
        (kind::JOINED, seen.kube.is_some(), reason::JOINED, reason::JOINING),
        (kind::READY, failure.is_none() && kubelet_ready && attestation.is_some(), reason::KUBELET_READY, not_ready),
    ];
    for (what, holds, yes, no) in facts {
        if holds {
            status.phase_times.entry(what.into()).or_insert_with(|| second(seen));
        }
        let refused = what == kind::ATTESTED && accepted == Some(false);
        let why = match (&failure, holds) {
            (_, true) => yes,
            (_, false) if refused => reason::ATTESTATION_REFUSED,
            (Some((why, _)), false) if what == kind::READY => why,
            (None, false) if what == kind::LAUNCHED => match &outcome.failed {
                Some((Step::Launch, why, _)) => why,
                _ => no,
            },
            (_, false) => no,
        };
        let message = if holds { String::new() } else { summary.clone() };
        let state = if holds { Status::True } else { Status::False };
        condition::set(&mut status.conditions, what, state, why, message, status.observed_generation, seen.now);
    }
    let (state, why) = if leaves { (Status::True, reason::DRAINING) } else { (Status::False, reason::NOT_DRAINING) };
    let message = if leaves && outcome.failed.is_some() { summary } else { String::new() };
    condition::set(&mut status.conditions, kind::DRAINING, state, why, message, status.observed_generation, seen.now);
    if leaves {
        status.phase_times.entry(kind::DRAINING.into()).or_insert_with(|| second(seen));
    }
    if phase == Phase::Failed {
        status.phase_times.entry("Failed".into()).or_insert_with(|| second(seen));
    }
    if outcome.done.contains(&Step::Leave) {
        status.phase_times.insert("Left".into(), second(seen));
    }
    status
}

/// The last appraisal; the owner's, just now, before a verifier's earlier one. A refusal for the reasons that are told
/// already is no news.
fn attestation(seen: &Observed, outcome: &Outcome) -> Option<AttestationResult> {
    let Some(refused) = &outcome.refused else { return seen.attestation() };
    let known = seen.before().attestation.filter(|known| known.refusal_id == refused.refusal_id);
    known.or_else(|| Some(refused.clone()))
}

fn phase(seen: &Observed, outcome: &Outcome, failure: Option<&(&'static str, String)>) -> (Phase, String) {
    let going = seen.instance.as_ref().is_none_or(|instance| instance.state == InstanceState::Terminating);
    if seen.deleting() && seen.stays().is_none() {
        let (phase, summary) = match (going, seen.kube) {
            (false, Some(kube)) if kube.pods > 0 => (Phase::Draining, format!("{} pod(s) are leaving", kube.pods)),
            (false, Some(_)) => (Phase::Draining, "leaving the cluster".into()),
            _ => (Phase::Terminating, "the VM is being removed".into()),
        };
        return (phase, failed_words(outcome).unwrap_or(summary));
    }
    if let Some((_, why)) = failure {
        // What follows is the cluster's to say.
        return (Phase::Failed, why.clone());
    }
    let recorded = seen.attestation();
    let accepted = recorded.as_ref().is_some_and(|result| result.verdict == "Accepted");
    let wanting = recorded.as_ref().map(lacking).filter(|wanting| !wanting.is_empty());
    let (phase, summary) = match (&seen.instance, seen.kube) {
        (None, _) if seen.cluster.is_none() => (Phase::Pending, "the cluster it names doesn't exist".into()),
        (None, _) => (Phase::Pending, "waiting for the network, then for the VM".into()),
        (Some(_), Some(kube)) if kube.ready && recorded.is_some() => (Phase::Ready, member(seen, "ready")),
        // Read before a verifier had recorded it; nothing is said to be Ready on no evidence.
        (Some(_), Some(kube)) if kube.ready => (Phase::Joined, "waiting for the record of its evidence".into()),
        (Some(_), Some(_)) => (Phase::Joined, member(seen, "waiting until the kubelet says it is ready")),
        (Some(_), None) if accepted => {
            let last = seen.talk.as_ref().and_then(|talk| talk.progress.last().cloned());
            (Phase::Attested, last.unwrap_or_else(|| "its evidence was accepted; waiting until it joins".into()))
        }
        (Some(_), None) if let Some(wanting) = &wanting => {
            (Phase::Booting, format!("its evidence waits for {}", names(wanting)))
        }
        (Some(_), None) => (Phase::Booting, format!("the VM boots; waiting for its evidence{}", seen.last_refusal())),
    };
    // A step that failed changes what is said, not how far the node is.
    match failed_words(outcome) {
        Some(words) if phase != Phase::Ready => (phase, words),
        _ => (phase, summary),
    }
}

fn failed_words(outcome: &Outcome) -> Option<String> {
    outcome.failed.as_ref().map(|(step, _, why)| format!("{step:?} failed: {why}"))
}

/// What is said of a member: also that it is refused, and what follows from that.
fn member(seen: &Observed, words: &str) -> String {
    let Some(refused) = seen.refused_member() else { return words.to_owned() };
    let follows = match seen.cluster.map(|cluster| cluster.on_failure) {
        Some(OnFailure::Replace) => "; status.plan of the cluster says when it is replaced",
        Some(OnFailure::Taint) => "; pods are sent away until it is accepted",
        Some(OnFailure::Report) | None => "; spec.attestation.onFailure says that nothing else follows",
    };
    format!("{words}, but its evidence is refused{}{follows}", events::first(refused))
}

fn second(seen: &Observed) -> String {
    jiff::Timestamp::from_second(seen.now.as_second()).unwrap_or_default().to_string()
}
