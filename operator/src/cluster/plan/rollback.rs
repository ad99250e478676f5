//! When a wanted version is given up, and for which one. Part of the plan: total and pure.
//!
//! A node that never was Ready says something about its version: one whose evidence is refused does so at once, for a
//! measurement is no bad luck; one that ended or was late, when the one before it in its place had failed as well; one that
//! the cloud lost never does. Nodes then go back to a version that has Ready nodes, as in any roll, until another one is wanted.

use constellation_crds::{
    cluster::{AcceptedVersion, RolledBack},
    condition::reason,
    node::Phase,
};

use super::{Blocked, Plan};
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
    let node = seen.nodes.iter().find(|node| node.digest == wanted.digest && is_proof_against(node))?;
    let proven = |version: &&AcceptedVersion| {
        let ready = |node: &NodeSeen| node.alive() && node.phase == Phase::Ready && node.digest == version.digest;
        version.digest != wanted.digest && version.image.is_some() && seen.nodes.iter().any(ready)
    };
    // The one that all nodes were of before; or, where a roll was overtaken by another one, the latest of which there are nodes.
    let before = seen.current.as_deref().and_then(known).filter(proven);
    let to = before.or_else(|| seen.accepted.iter().rev().find(proven))?;
    let (from, to) = (wanted.digest.clone(), to.digest.clone());
    Some(RolledBack { from, to, node: node.name.clone(), message: node.message.clone() })
}

/// Whether a node shows that its version is no good.
fn is_proof_against(node: &NodeSeen) -> bool {
    let failed = node.phase == Phase::Failed && !node.deleting && !node.was_ready;
    failed && (node.accepted == Some(false) || (node.failures > 0 && !node.vanished))
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
            stalled: plan.steps.is_empty(),
            message: format!(
                "{words}: correct the NodeVersion or name another one, or set `autoRollback: false` to try it again"
            ),
        },
    });
}

#[cfg(test)]
mod tests;
