//! What people are told about a cluster: conditions, counts, one line. A total function of what was seen and planned.

#[cfg(test)]
mod tests;

use constellation_crds::{
    cluster::{AcceptedVersion, ConstellationClusterStatus, Initialization},
    condition::{self, Status, kind, reason},
    node::{Phase, Refusals},
};
use jiff::Timestamp;

use super::{
    plan::{Blocked, Plan, Step, rollback},
    seen::{NodeSeen, Observed},
};

/// Facts for the status that need no decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// Identity of the cluster, hex.
    pub cluster_id: Option<String>,
    /// Fingerprint of the owner key.
    pub owner_key: Option<String>,
    /// Endpoint.
    pub endpoint: Option<String>,
    /// Name of the Secret with the kubeconfig, once it is there.
    pub kubeconfig: Option<String>,
    /// Revision of the trust bundle that lies in the made cluster.
    pub trust_revision: Option<u64>,
    /// What of makers' and clouds' words can't be had: reason and message.
    pub collateral: Option<(&'static str, String)>,
    /// Refusals of peers that named no node.
    pub refusals: Option<Refusals>,
    /// Cloud objects.
    pub resources: Vec<constellation_crds::cluster::CloudResource>,
    /// A step failed; for people.
    pub error: Option<String>,
    /// A step met a change by somebody else: it is done after another look.
    pub conflict: bool,
    /// Nothing will come of that step without somebody's help.
    pub stuck: bool,
    /// The reason for it, where there is a better one than that it goes on.
    pub why: Option<&'static str>,
}

/// The status. `before` is what is there now; times of conditions that did not change are kept.
#[must_use]
pub fn report(
    seen: &Observed,
    plan: &Plan,
    facts: &Facts,
    before: &ConstellationClusterStatus,
    now: Timestamp,
) -> ConstellationClusterStatus {
    let target = seen.target();
    let nodes: Vec<_> = seen.nodes.iter().filter(|node| !node.deleting).collect();
    let count =
        |test: &dyn Fn(&&&NodeSeen) -> bool| u32::try_from(nodes.iter().filter(test).count()).unwrap_or(u32::MAX);
    let all_target = !nodes.is_empty() && nodes.iter().all(|node| Some(node.digest.as_str()) == target);
    let initialized_at = before
        .initialization
        .as_ref()
        .and_then(|facts| facts.control_plane_initialized_at.clone())
        .or_else(|| seen.initialized.then(|| now.to_string()));
    let mut status = ConstellationClusterStatus {
        observed_generation: facts.generation,
        conditions: before.conditions.clone(),
        summary: None,
        plan: plan.words(),
        cluster_id: facts.cluster_id.clone().or_else(|| before.cluster_id.clone()),
        owner_key: facts.owner_key.clone().or_else(|| before.owner_key.clone()),
        endpoint: facts.endpoint.clone().or_else(|| before.endpoint.clone()),
        kubeconfig_ref: facts
            .kubeconfig
            .clone()
            .map(|name| constellation_crds::cluster::LocalRef { name })
            .or_else(|| before.kubeconfig_ref.clone()),
        desired_nodes: Some(seen.desired()),
        current_nodes: Some(u32::try_from(seen.nodes.len()).unwrap_or(u32::MAX)),
        ready_nodes: Some(count(&|node| node.phase == Phase::Ready)),
        up_to_date_nodes: Some(count(&|node| target.is_some_and(|target| !node.outdated(target)))),
        attested_nodes: Some(count(&|node| node.accepted == Some(true))),
        current_version: if all_target { target.map(str::to_owned) } else { before.current_version.clone() },
        target_version: target.map(str::to_owned).or_else(|| before.target_version.clone()),
        accepted_versions: if seen.deleting { before.accepted_versions.clone() } else { accepted(plan) },
        rolled_back: plan.rolled_back.clone(),
        trust_revision: facts.trust_revision.max(before.trust_revision),
        refusals: facts.refusals.clone().or_else(|| before.refusals.clone()),
        resources: if facts.resources.is_empty() { before.resources.clone() } else { facts.resources.clone() },
        initialization: initialized_at.map(|at| Initialization { control_plane_initialized_at: Some(at) }),
    };
    conditions(seen, plan, facts, &mut status, now);
    status
}

/// The status when nothing can be seen before somebody helps: what was known stays.
#[must_use]
pub fn blind(
    before: &ConstellationClusterStatus,
    why: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> ConstellationClusterStatus {
    let mut status = before.clone();
    status.summary = Some(message.to_owned());
    let mut board = Board { status: &mut status, generation, now };
    board.set(kind::READY, Status::Unknown, why, message);
    board.only(kind::STALLED, true, why, message);
    board.only(kind::RECONCILING, false, why, message);
    status
}

fn accepted(plan: &Plan) -> Vec<AcceptedVersion> {
    plan.accepted.clone()
}

/// Whether everything is as the spec asks.
#[must_use]
pub fn converged(seen: &Observed, plan: &Plan) -> bool {
    let target = seen.target();
    let desired = usize::try_from(seen.desired()).unwrap_or(usize::MAX);
    // What is signed anew says the same: were it other versions, these would differ.
    plan.steps.iter().all(Step::is_upkeep)
        && plan.blocked.is_none()
        // A roll ends when the old version is no longer accepted, and the signed trust bundle says so.
        && plan.accepted == seen.accepted
        && seen.initialized
        && seen.nodes.len() == desired
        && seen.nodes.iter().all(|node| {
            node.alive()
                && node.phase == Phase::Ready
                && target.is_some_and(|target| !node.outdated(target))
                && node.accepted == Some(true)
        })
}

struct Board<'a> {
    status: &'a mut ConstellationClusterStatus,
    generation: Option<i64>,
    now: Timestamp,
}

impl Board<'_> {
    fn set(&mut self, kind: &str, holds: Status, reason: &str, message: impl Into<String>) {
        condition::set(&mut self.status.conditions, kind, holds, reason, message, self.generation, self.now);
    }

    fn say(&mut self, kind: &str, holds: bool, reasons: (&str, &str), message: impl Into<String>) {
        let (status, reason) = if holds { (Status::True, reasons.0) } else { (Status::False, reasons.1) };
        self.set(kind, status, reason, message);
    }

    fn only(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        if holds {
            self.set(kind, Status::True, reason, message);
        } else {
            condition::clear(&mut self.status.conditions, kind);
        }
    }
}

fn conditions(seen: &Observed, plan: &Plan, facts: &Facts, status: &mut ConstellationClusterStatus, now: Timestamp) {
    let was_ready = condition::is_true(&status.conditions, kind::READY);
    let ready = converged(seen, plan) && facts.error.is_none() && (was_ready || !facts.conflict);
    let desired = seen.desired();
    let ready_nodes = status.ready_nodes.unwrap_or(0);
    let rolling = seen.initialized && seen.nodes.iter().any(|node| node.alive() && seen.is_outdated(node));
    let (why, message) = why_not_ready(seen, plan, facts, rolling);
    // Also one that is to go: it says so only while it stays.
    let control_plane_ready = seen.control_plane().any(|node| node.phase == Phase::Ready);
    let available = seen.initialized && seen.reachable && control_plane_ready;
    let mut board = Board { status, generation: facts.generation, now };
    if ready {
        board.set(kind::READY, Status::True, reason::RECONCILED, format!("all {desired} nodes are attested and Ready"));
    } else {
        board.set(kind::READY, Status::False, why, message.clone());
    }
    let in_the_way = facts.error.as_ref().or(seen.provider_refused.as_ref()).filter(|_| seen.deleting);
    let refused = seen.deleting && seen.provider_refused.is_some();
    let stalled = facts.stuck || refused || plan.blocked.as_ref().is_some_and(|blocked| blocked.stalled);
    board.only(kind::STALLED, stalled, why, message.clone());
    board.only(kind::RECONCILING, !ready && !stalled && !seen.paused, reason::IN_PROGRESS, message.clone());
    board.say(kind::PAUSED, seen.paused, (reason::PAUSED, reason::NOT_PAUSED), "");
    board.say(
        kind::INFRASTRUCTURE_READY,
        seen.network && !seen.deleting,
        (reason::INFRASTRUCTURE_READY, if seen.deleting { reason::DELETING } else { reason::CREATING_INFRASTRUCTURE }),
        "",
    );
    board.say(
        kind::CONTROL_PLANE_INITIALIZED,
        seen.initialized,
        (reason::CONTROL_PLANE_INITIALIZED, reason::INITIALIZING_CONTROL_PLANE),
        "",
    );
    let unavailable = if !seen.initialized {
        (reason::INITIALIZING_CONTROL_PLANE, "Kubernetes is not initialised yet")
    } else if seen.reachable {
        (reason::NODES_NOT_READY, "no control-plane node is Ready")
    } else {
        (reason::API_SERVER_UNREACHABLE, "the cluster's API server does not answer")
    };
    board.say(
        kind::AVAILABLE,
        available,
        (reason::API_SERVER_REACHABLE, unavailable.0),
        if available { "" } else { unavailable.1 },
    );
    attestation(seen, &mut board);
    let (missing, cure) = facts.collateral.clone().unwrap_or_default();
    board.only(kind::COLLATERAL_UNAVAILABLE, facts.collateral.is_some(), missing, cure);
    etcd(seen, plan, &mut board);
    let old = seen.nodes.iter().filter(|node| seen.is_outdated(node)).count();
    let (why_old, old_words) = match &plan.rolled_back {
        Some(given_up) => (reason::ROLLED_BACK, rollback::words(given_up)),
        None if old == 0 => (reason::CREATING_NODES, String::new()),
        None => {
            let why = if rolling { reason::ROLLING_OUT } else { reason::CREATING_NODES };
            (why, format!("{old} nodes run another version, or have other settings"))
        }
    };
    let up_to_date = old == 0 && plan.rolled_back.is_none() && seen.target().is_some() && !seen.nodes.is_empty();
    board.say(kind::NODES_UP_TO_DATE, up_to_date, (reason::UP_TO_DATE, why_old), old_words);
    let failed: Vec<_> =
        seen.nodes.iter().filter(|node| node.phase == Phase::Failed).map(|n| n.name.as_str()).collect();
    let failed = (!failed.is_empty()).then(|| format!("failed: {}", failed.join(", ")));
    // Nobody is replaced while nobody can be asked.
    let (why_degraded, first) =
        if available { (reason::REPLACING_NODE, None) } else { (unavailable.0, Some(unavailable.1.to_owned())) };
    board.only(
        kind::DEGRADED,
        seen.initialized && (failed.is_some() || !available) && !seen.deleting,
        why_degraded,
        first.into_iter().chain(failed).collect::<Vec<_>>().join("; "),
    );
    board.only(
        kind::DELETION_BLOCKED,
        in_the_way.is_some(),
        reason::DELETION_BLOCKED,
        format!("{}; `deletionPolicy: Orphan` lets the object go", in_the_way.map_or("", String::as_str)),
    );
    // What nodes say is as old as the last answer of their API server.
    let counts = if seen.initialized && !seen.reachable && !seen.deleting {
        format!("{ready_nodes} of {desired} nodes were Ready when the cluster's API server answered last")
    } else {
        format!("{ready_nodes} of {desired} nodes are Ready")
    };
    board.status.summary = Some(if ready { counts } else { format!("{counts}; {message}") });
}

fn why_not_ready(seen: &Observed, plan: &Plan, facts: &Facts, rolling: bool) -> (&'static str, String) {
    if seen.deleting {
        let told = facts.error.as_ref().or(seen.provider_refused.as_ref()).cloned();
        let detail = told.or_else(|| plan.blocked.as_ref().map(|b| b.message.clone()));
        return (reason::DELETING, detail.unwrap_or_else(|| "the cluster is being deleted".to_owned()));
    }
    if let Some(error) = &facts.error {
        let message = format!("a step failed and is tried again: {error}");
        // What passes by itself is no news of a cluster whose nodes go back.
        let back = plan.rolled_back.is_some() && !facts.stuck;
        let goes_on = if back { reason::ROLLED_BACK } else { reason::IN_PROGRESS };
        return (facts.why.unwrap_or(goes_on), message);
    }
    match (&plan.blocked, rolling) {
        (Some(Blocked { reason: why, message, .. }), true) if *why == reason::NODES_NOT_READY => {
            (reason::ROLLING_OUT, format!("nodes are being replaced by nodes of the wanted version; {message}"))
        }
        (_, true) if plan.blocked.is_none() => {
            (reason::ROLLING_OUT, "nodes are being replaced by nodes of the wanted version".to_owned())
        }
        (Some(blocked), _) => (blocked.reason, blocked.message.clone()),
        (None, _) => match (plan.words().into_iter().next(), refused(seen)) {
            (None, names) if !names.is_empty() => (reason::ATTESTATION_REFUSED, refused_words(&names)),
            (words, _) => (reason::CREATING_NODES, words.unwrap_or_else(|| "nodes are being made".to_owned())),
        },
    }
}

/// Nodes whose evidence was refused.
fn refused(seen: &Observed) -> Vec<&str> {
    let refused = seen.nodes.iter().filter(|node| !node.deleting && node.accepted == Some(false));
    refused.map(|node| node.name.as_str()).collect()
}

fn refused_words(names: &[&str]) -> String {
    format!("the evidence of {} was refused: see status.attestation of the node", names.join(", "))
}

fn attestation(seen: &Observed, board: &mut Board<'_>) {
    let refused = refused(seen);
    let pending = seen.nodes.iter().filter(|node| !node.deleting && node.accepted.is_none()).count();
    if !refused.is_empty() {
        board.set(kind::ATTESTATION_VERIFIED, Status::False, reason::ATTESTATION_REFUSED, refused_words(&refused));
    } else if pending > 0 || seen.nodes.is_empty() {
        let message = format!("{pending} nodes have shown no evidence yet");
        board.set(kind::ATTESTATION_VERIFIED, Status::Unknown, reason::ATTESTATION_PENDING, message);
    } else {
        board.set(kind::ATTESTATION_VERIFIED, Status::True, reason::ALL_ATTESTED, "");
    }
}

/// A member runs on every control-plane node; a Ready node's static pods run. An API server that answers has read from a
/// quorum, whatever kubelets say; of one that doesn't nothing is known, unless too many machines are gone for good.
fn etcd(seen: &Observed, plan: &Plan, board: &mut Board<'_>) {
    let goes = |node: &NodeSeen| node.deleting && matches!(node.phase, Phase::Draining | Phase::Terminating);
    let members: Vec<_> = seen.control_plane().filter(|node| node.was_joined && !goes(node)).collect();
    let healthy = members.iter().filter(|node| node.phase == Phase::Ready).count();
    let members = members.len();
    let lost = plan.blocked.as_ref().filter(|blocked| blocked.reason == reason::QUORUM_LOST);
    let unknown = |why: &str| (Status::Unknown, reason::UNKNOWN, why.to_owned());
    let (status, why, message) = if seen.simulated {
        unknown("a simulated cluster has no etcd")
    } else if !seen.initialized {
        unknown("Kubernetes is not initialised yet")
    } else if let Some(lost) = lost {
        (Status::False, reason::QUORUM_LOST, lost.message.clone())
    } else if !seen.reachable {
        unknown("it can't be told while the cluster's API server does not answer us")
    } else if members == 0 {
        unknown("no control-plane node that stays has joined yet")
    } else if healthy == members {
        (Status::True, reason::QUORUM_HEALTHY, String::new())
    } else {
        // With one less there is no majority of all.
        let at_risk = healthy.saturating_sub(1) * 2 <= members;
        let why = if at_risk { reason::QUORUM_AT_RISK } else { reason::QUORUM_HEALTHY };
        (Status::True, why, format!("{healthy} of {members} control-plane nodes are Ready"))
    };
    board.set(kind::ETCD_HEALTHY, status, why, message);
}
