//! What is done about an API server that doesn't answer. Part of the plan: total and pure.

use constellation_crds::{condition::reason, node::Phase};

use super::{Plan, Step, targets};
use crate::cluster::seen::{NodeSeen, Observed};

/// An API server that is silent for less is only busy; nobody is asked to recover for that.
const RECOVER_AFTER_SECONDS: i64 = 30;

/// An API server that is silent for less may come back whatever was seen of its nodes: a restart takes a minute or two.
const LOST_AFTER_SECONDS: i64 = 300;

/// Offers disk keys, and says what is waited for or what to do.
pub fn unreachable(seen: &Observed, mut plan: Plan) -> Plan {
    if let Some(refusal) = &seen.turned_away {
        // It is there: nobody lacks a disk key.
        targets(seen, &mut plan);
        if !seen.shut_out {
            let words = "the cluster's API server lets nobody in yet, as one does that starts";
            return plan.wait(reason::API_SERVER_UNREACHABLE, words);
        }
        return plan.stall(reason::ACCESS_DENIED, refusal);
    }
    // Also one that was never Ready: power may go between its last step and the first look. One that holds nothing yet says
    // so, and goes on. And one that is to go: it may hold what the others have no majority without.
    let gone = |node: &NodeSeen| matches!(node.phase, Phase::Failed | Phase::Terminating);
    for node in seen.control_plane().filter(|node| !gone(node) && node.address.is_some()) {
        if seen.unreachable_seconds >= RECOVER_AFTER_SECONDS && seen.init_of(&node.uid).is_none() {
            plan.steps.push(Step::StartRecover(node.name.clone()));
        }
    }
    targets(seen, &mut plan);
    if let Some(lost) = lost_majority(seen) {
        return plan.stall(reason::QUORUM_LOST, lost);
    }
    plan.wait(
        reason::API_SERVER_UNREACHABLE,
        "the cluster's API server does not answer; restarted control-plane nodes are offered their disk keys",
    )
}

/// What to do where the cloud has so many control-plane nodes no longer that etcd can't have a majority again. One that is
/// switched off, or too late, is there.
fn lost_majority(seen: &Observed) -> Option<String> {
    // The first one is a member before Kubernetes is seen to know it, and nobody can join before that. One whose VM is
    // being removed has left, or was given up; one that is to go and runs is there.
    let joined = seen.nodes.iter().any(|node| node.was_joined);
    let removed = |node: &NodeSeen| node.deleting && node.phase == Phase::Terminating;
    let members = seen.control_plane().filter(|node| (node.was_joined || !joined) && !removed(node));
    let (gone, there): (Vec<_>, Vec<_>) =
        members.partition(|node| node.phase == Phase::Failed && node.vanished && !node.deleting);
    if seen.unreachable_seconds < LOST_AFTER_SECONDS || gone.is_empty() || there.len() > gone.len() {
        return None;
    }
    let names: Vec<_> = gone.iter().map(|node| node.name.as_str()).collect();
    let (lost, all, names) = (gone.len(), gone.len() + there.len(), names.join(", "));
    let cure = if joined { "make it again and restore a backup of its objects" } else { "and make it again" };
    Some(format!(
        "{lost} of {all} control-plane nodes are gone for good ({names}), so that etcd can't have a majority again: delete \
         the cluster, {cure}"
    ))
}
