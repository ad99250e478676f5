//! When a wanted version is given up, and for which one. Part of the plan: total and pure.
//!
//! A node that never was Ready says something about its version: one whose evidence is refused does so at once, for a
//! measurement is no bad luck; one that ended or was late, when the one before it in its place had failed as well; one that
//! the cloud lost never does, nor one that only lacks what makers have to say. Where the version has Ready nodes, a refusal
//! is first of all about its machine: a host that has one refused must not take the others back to what was to be left.
//! Nodes then go back to a version that has Ready nodes, as in any roll, until another one is wanted.

use constellation_crds::{
    cluster::{AcceptedVersion, RolledBack},
    condition::reason,
    node::Phase,
};

use super::{Blocked, Plan, Step};
use crate::cluster::seen::{NodeSeen, Observed};

/// The version that is given up from now on, if there is one, where this one is wanted.
pub fn decide(seen: &Observed, wanted: &AcceptedVersion) -> Option<RolledBack> {
    if !seen.auto_rollback {
        return None;
    }
    let known = |digest: &str| seen.accepted.iter().find(|known| known.digest == digest);
    if let Some(given_up) = &seen.rolled_back
        && given_up.from == wanted.digest
        && known(&given_up.to).is_some()
    {
        return Some(given_up.clone());
    }
    let has_ready = |version: &AcceptedVersion| {
        let ready = |node: &NodeSeen| node.alive() && node.phase == Phase::Ready && node.digest == version.digest;
        seen.nodes.iter().any(ready)
    };
    let shown = has_ready(wanted);
    let node = seen.nodes.iter().find(|node| node.digest == wanted.digest && is_proof_against(node, shown))?;
    let proven =
        |version: &&AcceptedVersion| version.digest != wanted.digest && version.image.is_some() && has_ready(version);
    // The one that all nodes were of before; or, where a roll was overtaken by another one, the latest of which there are nodes.
    let before = seen.current.as_deref().and_then(known).filter(proven);
    let to = before.or_else(|| seen.accepted.iter().rev().find(proven))?;
    let (from, to) = (wanted.digest.clone(), to.digest.clone());
    Some(RolledBack { from, to, node: node.name.clone(), message: node.message.clone() })
}

/// Whether a node shows that its version is no good, where others have `shown` that it can be.
fn is_proof_against(node: &NodeSeen, shown: bool) -> bool {
    let failed = node.phase == Phase::Failed && !node.deleting && !node.was_ready && !node.vanished && !node.lacks();
    failed && (node.failures > 0 || (node.disproved && !shown))
}

/// Whether all nodes have gone back, and nothing comes before somebody acts.
#[must_use]
pub fn rests(plan: &Plan) -> bool {
    plan.blocked.as_ref().is_some_and(|blocked| blocked.stalled && blocked.reason == reason::ROLLED_BACK)
}

/// For people: what was given up, and what to do.
pub fn words(given_up: &RolledBack) -> String {
    let RolledBack { node, message, .. } = given_up;
    format!("the nodes go back to the version before, for node {node} of the wanted one failed: {message}")
}

/// Says at the end of a plan that what is wanted is not what there is. What is done meanwhile comes first.
pub fn tell(plan: &mut Plan) {
    let Some(given_up) = &plan.rolled_back else { return };
    let (reason, words) = (reason::ROLLED_BACK, words(given_up));
    plan.blocked = Some(match plan.blocked.take() {
        Some(blocked) if blocked.stalled => blocked,
        Some(Blocked { message, .. }) => Blocked { reason, message: format!("{words}; {message}"), stalled: false },
        None => Blocked {
            reason,
            stalled: plan.steps.iter().all(Step::is_upkeep),
            message: format!(
                "{words}: correct the NodeVersion or name another one, or set `autoRollback: false` to try it again"
            ),
        },
    });
}

#[cfg(test)]
mod tests;
