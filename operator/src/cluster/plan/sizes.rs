//! How many nodes, and which: replace, scale, roll. Part of the plan: total and pure.
//!
//! A member whose evidence is refused is replaced, where that is wanted, as one of another version is: a new node has to
//! prove itself and be Ready before the old one goes, one at a time. It isn't taken for failed: a trust bundle that refuses
//! everybody would end everybody. As it is, the one new node is refused too, and nothing else happens.

use std::cmp::Reverse;

use constellation_crds::{
    cluster::OnFailure,
    condition::reason,
    node::{Phase, Role},
};

use super::{Plan, Step};
use crate::cluster::seen::{NodeSeen, Observed};

/// Seconds a place stays empty after its node was refused or failed again; doubled with each further failure.
const HOLD_SECONDS: i64 = 60;
/// Greatest hold: half an hour keeps a broken image from filling a cloud's bill, and still heals by itself.
const HOLD_MAX_SECONDS: i64 = 1800;
/// A node that was Ready for so long was a good one: its failures before are forgotten.
const FORGET_SECONDS: i64 = 600;

/// Replaces failed nodes whose hold is over. The failed object stays until then, so that a person can read why.
pub fn failed(seen: &Observed, plan: &mut Plan) {
    let held = |node: &&NodeSeen| node.phase == Phase::Failed && !node.deleting;
    for node in seen.nodes.iter().filter(held) {
        // What is wanted now may be the cure; what shows why a version was given up stays to be read.
        let cured = seen.is_outdated(node);
        let failures = if cured { 0 } else { failures(node) };
        if (!cured || seen.has_given_up(node))
            && seen.now < node.failed_at.unwrap_or(node.created) + hold(node, failures)
        {
            plan.next.push(format!("Replace node {}, which failed: {}", node.name, node.message));
            continue;
        }
        // During a roll the failed one may be a surplus node: its place is kept, with its count of failures.
        let others = || seen.nodes.iter().filter(|other| other.alive() && other.group == node.group);
        let leaving = others().filter(|other| seen.is_outdated(other) || replaced(seen, other)).count();
        let rolls = others().any(|other| seen.is_outdated(other));
        let wanted = size(seen, &node.group) + surge(seen, node.role, rolls).min(leaving);
        if others().count() < wanted {
            if room(seen, plan, node.role) == 0 || is_short(seen, &node.group) {
                plan.next.push(format!("Replace node {}, which failed: {}", node.name, node.message));
                continue;
            }
            create(seen, plan, &node.group, node.role, if cured { 0 } else { failures + 1 });
        }
        let why = format!("it failed: {}", node.message);
        plan.steps.push(Step::DeleteNode { name: node.name.clone(), why });
    }
}

/// Failures in a row in this place.
fn failures(node: &NodeSeen) -> u32 {
    let lasted = node.ready_at.zip(node.failed_at).is_some_and(|(ready, failed)| failed - ready >= FORGET_SECONDS);
    if lasted { 0 } else { node.failures }
}

fn hold(node: &NodeSeen, failures: u32) -> i64 {
    // The first time a VM merely vanished or broke, another may be luckier at once. A refusal is no bad luck.
    let doublings = if node.disproved { Some(failures) } else { failures.checked_sub(1) };
    doublings.map_or(0, |n| HOLD_SECONDS.saturating_mul(1_i64 << n.min(20)).min(HOLD_MAX_SECONDS))
}

fn size(seen: &Observed, group: &str) -> usize {
    let count = if group == "control-plane" {
        seen.control_plane_replicas
    } else {
        seen.groups.iter().find(|g| g.name == group).map_or(0, |g| g.current.unwrap_or(g.wanted))
    };
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// How many more nodes of a role may begin to boot. One at a time while none of what is wanted now is Ready: the first shows
/// whether the others can be. And one of the control plane, for etcd takes one new member at a time.
fn room(seen: &Observed, plan: &Plan, role: Role) -> usize {
    let booting = |counts: &dyn Fn(Role) -> bool| {
        let making = |step: &&Step| matches!(step, Step::CreateNode { role, .. } if counts(*role));
        let booting = seen.nodes.iter().filter(|node| node.booting() && counts(node.role)).count();
        booting + plan.steps.iter().filter(making).count()
    };
    let shown = seen.nodes.iter().any(|node| node.alive() && node.phase == Phase::Ready && !seen.is_outdated(node));
    let most = if shown { seen.most_booting } else { 1 };
    let room = most.saturating_sub(booting(&|_| true));
    match role {
        Role::Worker => room,
        Role::ControlPlane => room.min(1_usize.saturating_sub(booting(&|role| role == Role::ControlPlane))),
    }
}

/// Whether the cloud has no room for a node of a group: another one waits until it has, so that not all of them come at
/// once.
fn is_short(seen: &Observed, group: &str) -> bool {
    seen.nodes.iter().any(|node| node.alive() && node.group == group && node.short.is_some())
}

/// Makes a node under the smallest number that no node of the cluster has, if there is one.
pub fn create(seen: &Observed, plan: &mut Plan, group: &str, role: Role, failures: u32) {
    let taken = |index: u32| {
        seen.nodes.iter().any(|node| node.index == index)
            || plan.steps.iter().any(|step| matches!(step, Step::CreateNode { index: i, .. } if *i == index))
    };
    match (1..=seen.max_index).find(|index| !taken(*index)) {
        Some(index) => plan.steps.push(Step::CreateNode { group: group.to_owned(), role, index, failures }),
        // Who leaves gives a number back.
        None if seen.nodes.iter().any(|node| node.deleting || node.phase == Phase::Failed) => {
            plan.next.push("Make another node when one has left: the pod network has no part for more".to_owned());
        }
        None => {
            plan.blocked = Some(super::Blocked { reason: reason::INVALID_SPEC, message: full(seen), stalled: true });
        }
    }
}

fn full(seen: &Observed) -> String {
    let most = seen.max_index;
    format!("every node has a /24 of the pod network, which has {most}: ask for fewer nodes, those of a roll included")
}

/// One group, or the control plane.
struct Place<'a> {
    group: &'a str,
    role: Role,
    wanted: usize,
    live: Vec<&'a NodeSeen>,
    held: usize,
}

impl Place<'_> {
    /// How many are not what is wanted now.
    fn outdated(&self, target: &str) -> usize {
        self.live.iter().filter(|node| node.outdated(target)).count()
    }

    /// How many others shall take the place of: those, and members that are refused.
    fn leaving(&self, seen: &Observed, target: &str) -> usize {
        self.live.iter().filter(|node| leaves(seen, node, target)).count()
    }
}

/// Whether another node shall take this one's place.
fn leaves(seen: &Observed, node: &NodeSeen, target: &str) -> bool {
    node.outdated(target) || replaced(seen, node)
}

/// Whether a member is replaced for being refused. One of the control plane only while the others have a majority: etcd
/// goes on whatever the refused one does, and a node that won't leave is ended. The only one stays, and is told of.
fn replaced(seen: &Observed, node: &NodeSeen) -> bool {
    seen.on_failure == OnFailure::Replace && node.refused() && is_spare(seen, node)
}

/// Whether the cluster goes on without this node: it is a worker, or the rest of the control plane has a majority.
fn is_spare(seen: &Observed, node: &NodeSeen) -> bool {
    let others = |other: &&NodeSeen| other.alive() && other.phase == Phase::Ready && other.name != node.name;
    let members = seen.control_plane().filter(|other| other.was_joined).count();
    node.role == Role::Worker || seen.control_plane().filter(others).count() * 2 > members
}

/// What to do about a node that was Ready and isn't.
fn cure(seen: &Observed, node: &NodeSeen) -> String {
    let name = &node.name;
    if is_spare(seen, node) {
        return format!("see its kubelet, or delete ConfidentialNode {name} to have it replaced");
    }
    let first = "see its kubelet, or restart its machine";
    if seen.control_plane().any(|other| other.alive() && other.was_joined && other.name != *name) {
        return format!("{first}: without it the other control-plane nodes have no majority");
    }
    format!("it is the only control-plane node: {first}; to replace it set `controlPlane.replicas: 3` first")
}

/// Brings every group to its size and version, workers first.
pub fn sizes(seen: &Observed, target: &str, plan: &mut Plan) {
    failed(seen, plan);
    for node in seen.nodes.iter().filter(|node| node.role == Role::Worker && node.alive()) {
        if !seen.groups.iter().any(|group| group.name == node.group) {
            let why = format!("the spec has no group {}", node.group);
            plan.steps.push(Step::DeleteNode { name: node.name.clone(), why });
        }
    }
    // Where no VM was made yet, nothing is lost: what is wanted now needn't wait for what can't be launched.
    for node in seen.nodes.iter().filter(|node| is_vain(node, target)) {
        let why = "something else is wanted before it had a VM".to_owned();
        plan.steps.push(Step::DeleteNode { name: node.name.clone(), why });
    }
    let mut places = vec![place(seen, target, "control-plane", Role::ControlPlane)];
    places.extend(seen.groups.iter().map(|group| place(seen, target, &group.name, Role::Worker)));
    for place in &places {
        shrink(seen, place, target, plan);
    }
    for place in &places {
        for missing in (place.live.len() + place.held)..place.wanted {
            if room(seen, plan, place.role) == 0 || is_short(seen, place.group) {
                let (group, more) = (place.group, place.wanted - missing);
                plan.next.push(format!("Make {more} more nodes of group {group} when those before them have booted"));
                break;
            }
            create(seen, plan, place.group, place.role, 0);
        }
    }
    let whole = places.iter().all(|place| place.live.len() >= place.wanted && place.held == 0);
    roll(seen, &places, target, whole, plan);
    waits(seen, plan);
}

/// Whether a node that isn't wanted any more has no VM yet.
fn is_vain(node: &NodeSeen, target: &str) -> bool {
    node.unlaunched() && node.outdated(target)
}

fn place<'a>(seen: &'a Observed, target: &str, group: &'a str, role: Role) -> Place<'a> {
    let of: Vec<_> =
        seen.nodes.iter().filter(|node| node.group == group && !node.deleting && !is_vain(node, target)).collect();
    let held = of.iter().filter(|node| node.phase == Phase::Failed).count();
    Place { group, role, wanted: size(seen, group), live: of.into_iter().filter(|node| node.alive()).collect(), held }
}

/// Too many: the one that is asked to go first, then refused and outdated ones, then those not Ready, then the newest.
fn shrink(seen: &Observed, place: &Place<'_>, target: &str, plan: &mut Plan) {
    let mut surplus = place.live.len().saturating_sub(place.wanted);
    if surplus == 0 {
        return;
    }
    // One that waits for room and isn't wanted any more needn't have it first.
    if place.leaving(seen, target) == 0 {
        for node in place.live.iter().filter(|node| node.unlaunched()).take(surplus) {
            let why = format!("group {} has more nodes than the {} it wants", place.group, place.wanted);
            plan.steps.push(Step::DeleteNode { name: node.name.clone(), why });
        }
        if place.live.iter().any(|node| node.unlaunched()) {
            return;
        }
    }
    let careful = place.role == Role::ControlPlane || place.leaving(seen, target) > 0;
    if careful {
        let newcomers_ready = place.live.iter().all(|node| leaves(seen, node, target) || node.phase == Phase::Ready);
        let going = seen.nodes.iter().any(|node| node.deleting && node.role == place.role);
        // More than the roll's own surplus goes at once: the user asked for fewer.
        if going || (!newcomers_ready && surplus <= usize::try_from(seen.max_surge).unwrap_or(1)) {
            return;
        }
        surplus = 1;
    }
    let mut candidates = place.live.clone();
    candidates.sort_by_key(|node| {
        let stays = (!node.delete_first, !replaced(seen, node), !node.outdated(target), node.phase == Phase::Ready);
        (stays, Reverse((node.created, node.index)))
    });
    for node in candidates.into_iter().take(surplus) {
        if place.role == Role::ControlPlane {
            let others = place.live.iter().filter(|other| other.name != node.name);
            if others.clone().any(|other| other.phase != Phase::Ready) || others.count() == 0 {
                plan.next.push(format!("Delete node {} when all other control-plane nodes are Ready", node.name));
                return;
            }
        }
        let why = if replaced(seen, node) {
            "its evidence is refused, and its replacement is Ready".to_owned()
        } else if node.digest != target {
            "it runs another version than the wanted one, and its replacement is Ready".to_owned()
        } else if node.drifted {
            format!("it has not the settings that group {} has now, and its replacement is Ready", place.group)
        } else {
            format!("group {} has more nodes than the {} it wants", place.group, place.wanted)
        };
        plan.steps.push(Step::DeleteNode { name: node.name.clone(), why });
    }
}

/// One place at a time gets one more node of the wanted version than it wants; [`shrink`] then takes an outdated one, or
/// a refused one.
fn roll(seen: &Observed, places: &[Place<'_>], target: &str, whole: bool, plan: &mut Plan) {
    announce(seen, places, target, plan);
    // A group that the cloud has no room for must not keep the others from what may be a cure of all.
    let mut old = places.iter().filter(|place| place.leaving(seen, target) > 0 && !is_short(seen, place.group));
    let workers_first = old.clone().find(|place| place.role == Role::Worker);
    let Some(place) = workers_first.or_else(|| old.next()) else { return };
    // A roll waits for everybody. Who is refused doesn't keep its place for another member that is down: it may be both's.
    let rolls = place.outdated(target) > 0;
    let awaited = |node: &&NodeSeen| node.alive() && node.short.is_none() && (rolls || !node.was_ready);
    let unready =
        seen.nodes.iter().filter(awaited).filter(|node| !leaves(seen, node, target) && node.phase != Phase::Ready);
    let going = seen.nodes.iter().any(|node| node.deleting)
        || plan.steps.iter().any(|step| matches!(step, Step::DeleteNode { .. }));
    let surge = surge(seen, place.role, rolls);
    let extra = place.live.len().saturating_sub(place.wanted);
    // Also where other groups have shown the version: of this one's settings the first is the proof.
    let shown = place.live.iter().any(|node| !node.outdated(target) && node.phase == Phase::Ready);
    let may = whole && room(seen, plan, place.role) > 0 && (shown || !seen.nodes.iter().any(NodeSeen::booting));
    if may && unready.count() < surge && !going && extra < surge && extra < place.leaving(seen, target) {
        create(seen, plan, place.group, place.role, 0);
    }
}

/// How many nodes more than it wants a place may have while nodes of it are replaced: for another version or other
/// settings, or because they are refused.
fn surge(seen: &Observed, role: Role, rolls: bool) -> usize {
    match role {
        Role::Worker if rolls => usize::try_from(seen.max_surge.max(1)).unwrap_or(1),
        // One more etcd member at a time. And one for refused ones: who is refused next may be its replacement.
        Role::ControlPlane | Role::Worker => 1,
    }
}

/// Says what of that is to come.
fn announce(seen: &Observed, places: &[Place<'_>], target: &str, plan: &mut Plan) {
    let outdated: usize = places.iter().map(|place| place.outdated(target)).sum();
    if outdated > 0 {
        plan.next.push(format!("Replace {outdated} nodes that are not what is wanted now, workers first"));
    }
    if seen.on_failure != OnFailure::Replace {
        return;
    }
    for node in seen.nodes.iter().filter(|node| node.refused() && node.alive()) {
        plan.next.push(if replaced(seen, node) {
            format!("Replace node {}, whose evidence is refused, once another is Ready", node.name)
        } else {
            let name = &node.name;
            format!(
                "Replace node {name}, whose evidence is refused, when the other control-plane nodes have a majority: a \
                 single one needs `controlPlane.replicas: 3` before"
            )
        });
    }
}

/// Says what is waited for when nothing can be done.
fn waits(seen: &Observed, plan: &mut Plan) {
    if plan.blocked.is_some() {
        // What can't be carried out is said before what takes its time.
    } else if let Some(node) = seen.nodes.iter().find(|node| node.phase == Phase::Failed && !node.deleting) {
        let message = format!("node {} failed and will be replaced: {}", node.name, node.message);
        plan.blocked = Some(super::Blocked { reason: reason::REPLACING_NODE, message, stalled: false });
    } else if let Some((node, reason)) =
        seen.nodes.iter().find_map(|node| Some((node, node.short.filter(|_| node.alive())?)))
    {
        let message = format!("node {}: {}", node.name, node.message);
        plan.blocked = Some(super::Blocked { reason, message, stalled: false });
    } else if let Some(node) = seen.nodes.iter().find(|node| node.alive() && node.phase != Phase::Ready) {
        let (name, phase) = (&node.name, super::phase(node.phase));
        let message = if node.was_ready {
            format!("node {name} was Ready and is {phase}: {}", cure(seen, node))
        } else {
            let why = if node.unlaunched() && !node.message.is_empty() { &node.message } else { phase };
            format!("node {name} is {why}")
        };
        plan.blocked = Some(super::Blocked { reason: reason::NODES_NOT_READY, message, stalled: false });
    } else if let Some(node) = seen.nodes.iter().find(|node| node.deleting) {
        let message = match node.phase {
            Phase::Draining | Phase::Terminating => format!("node {} is leaving", node.name),
            _ => format!("node {} is to go: {}", node.name, node.message),
        };
        plan.blocked = Some(super::Blocked { reason: reason::TERMINATING, message, stalled: false });
    } else if let Some(node) = seen.nodes.iter().find(|node| node.refused()) {
        let message = format!("the evidence of node {} is refused: its status.attestation says why", node.name);
        plan.blocked = Some(super::Blocked { reason: reason::ATTESTATION_REFUSED, message, stalled: false });
    }
}

#[cfg(test)]
mod tests;
