//! Corners of replacing, scaling and rolling: each row is one that a changed operator in the code once passed unseen.

use constellation_crds::node::Role;

use super::*;
use crate::cluster::plan::{
    plan,
    tests::{create, deleted, node, refusing, rolling, running, three, version},
};

fn failed(index: u32) -> NodeSeen {
    node(index, Role::Worker, "a", Phase::Failed)
}

#[test]
fn only_nodes_of_its_own_group_stand_in_for_a_failed_one() {
    let mut seen = Observed { control_plane_replicas: 3, ..three() };
    seen.groups = running().groups;
    seen.nodes.extend([node(4, Role::Worker, "a", Phase::Ready), failed(5)]);
    assert_eq!(plan(&seen).steps[0], create("w", Role::Worker, 6, 1));
}

#[test]
fn a_failed_node_too_many_is_not_replaced_also_while_another_group_rolls() {
    let mut seen = running();
    seen.groups[0].current = Some(1);
    seen.nodes[2] = failed(3);
    for digest in ["a", "z"] {
        seen.nodes[0].digest = digest.into();
        seen.accepted = vec![version("z"), version("a")];
        assert!(matches!(&plan(&seen).steps[..], [Step::DeleteNode { name, .. }] if name == "n3"), "{digest}");
    }
}

#[test]
fn of_two_failed_nodes_one_is_replaced_at_a_time() {
    let mut seen = running();
    (seen.nodes[1], seen.nodes[2]) = (failed(2), failed(3));
    let steps = plan(&seen).steps;
    assert_eq!(steps[0], create("w", Role::Worker, 4, 1));
    assert!(matches!(&steps[1..], [Step::DeleteNode { name, .. }] if name == "n2"), "{steps:?}");
}

#[test]
fn a_failed_node_waits_where_the_cloud_has_no_room() {
    let mut seen = running();
    seen.nodes[1] = NodeSeen { short: Some(reason::NO_CAPACITY), ..node(2, Role::Worker, "a", Phase::Pending) };
    seen.nodes[2] = failed(3);
    assert_eq!(plan(&seen).steps, []);
}

#[test]
fn failures_before_ten_good_minutes_are_forgotten() {
    let mut seen = running();
    for (lasted, forgotten) in [(600, true), (599, false)] {
        let ready_at = Some(9_900 - lasted);
        seen.nodes[2] = NodeSeen { failures: 5, ready_at, failed_at: Some(9_900), ..failed(3) };
        assert_eq!(plan(&seen).steps.first() == Some(&create("w", Role::Worker, 4, 1)), forgotten, "{lasted}");
    }
}

#[test]
fn a_refused_control_plane_node_stays_while_the_others_have_no_majority() {
    let mut down = refusing(three(), &["n1"]);
    down.nodes[2].phase = Phase::Joined;
    assert_eq!(plan(&down).steps, []);
    let two = refusing(Observed { nodes: three().nodes[..2].to_vec(), control_plane_replicas: 2, ..three() }, &["n1"]);
    let two = Observed { targets: Some(vec!["id1".into(), "id2".into()]), ..two };
    assert_eq!(plan(&two).steps, []);
}

#[test]
fn what_is_still_to_be_made_is_counted() {
    let mut seen = running();
    seen.groups[0].current = Some(5);
    assert!(plan(&seen).next.iter().any(|words| words.contains("Make 2 more nodes of group w")));
}

#[test]
fn no_node_is_made_for_a_roll_while_one_boots() {
    let mut seen = rolling();
    seen.nodes[2] = node(3, Role::Worker, "a", Phase::Booting);
    assert_eq!(plan(&seen).steps, []);
}

#[test]
fn a_node_that_goes_holds_up_its_own_kind_only() {
    let mut seen = Observed { max_surge: 2, ..rolling() };
    seen.nodes.extend([4, 5].map(|index| node(index, Role::Worker, "b", Phase::Ready)));
    seen.nodes[2].deleting = true;
    assert_eq!(deleted(&seen), Vec::<String>::new());
    seen.nodes.remove(2);
    seen.nodes.push(NodeSeen { deleting: true, ..node(6, Role::ControlPlane, "a", Phase::Ready) });
    assert_eq!(deleted(&seen), ["n2"]);
}

#[test]
fn workers_that_are_not_ready_go_first_and_wait_for_nobody() {
    let mut seen = running();
    seen.groups[0].current = Some(1);
    seen.nodes[2].phase = Phase::Joined;
    seen.nodes.push(node(4, Role::Worker, "a", Phase::Joined));
    assert_eq!(deleted(&seen), ["n4", "n3"]);
}

#[test]
fn a_smaller_control_plane_loses_one_that_is_down_if_it_is_the_only_one() {
    let mut seen = Observed { control_plane_replicas: 1, ..three() };
    seen.nodes[1].phase = Phase::Joined;
    assert_eq!(deleted(&seen), ["n2"]);
    seen.nodes[2].phase = Phase::Joined;
    assert_eq!(deleted(&seen), Vec::<String>::new());
    assert!(plan(&seen).next.iter().any(|words| words.contains("when all other control-plane nodes are Ready")));
}

#[test]
fn a_surge_of_two_makes_the_next_before_the_first_is_ready_and_for_refused_ones_there_is_none() {
    let next = |seen: &Observed| plan(seen).steps;
    for (max_surge, steps) in [(1, vec![]), (2, vec![create("w", Role::Worker, 5, 0)])] {
        let mut seen = Observed { max_surge, ..rolling() };
        seen.nodes.push(node(4, Role::Worker, "b", Phase::Attested));
        assert_eq!(next(&seen), steps, "{max_surge}");
        seen.nodes[3].phase = Phase::Booting;
        assert_eq!(next(&seen), [], "one boots at a time");
        seen.nodes[3].phase = Phase::Attested;
        seen.nodes[1] = node(2, Role::Worker, "b", Phase::Ready);
        assert_eq!(next(&seen), [], "no more than are to be replaced");
    }
    let mut seen = Observed { max_surge: 2, ..refusing(running(), &["n2", "n3"]) };
    seen.nodes.push(node(4, Role::Worker, "a", Phase::Attested));
    assert_eq!(next(&seen), []);
}

#[test]
fn of_two_nodes_too_many_the_one_that_fails_leaves_its_count_to_the_next() {
    for (outdated, max_surge, steps) in [(2, 2, 2), (2, 1, 1), (1, 2, 1)] {
        let mut seen = Observed { max_surge, auto_rollback: false, ..rolling() };
        for new in &mut seen.nodes[1..3 - outdated] {
            new.digest = "b".into();
        }
        seen.nodes.push(NodeSeen { index: 4, digest: "b".into(), ..failed(4) });
        seen.nodes.push(node(5, Role::Worker, "b", Phase::Joined));
        let planned = plan(&seen).steps;
        assert_eq!(planned.len(), steps, "{outdated} {max_surge}");
        assert_eq!(planned[0] == create("w", Role::Worker, 6, 1), steps == 2, "{outdated} {max_surge}");
    }
}

#[test]
fn a_control_plane_has_one_node_too_many_at_most() {
    let mut seen = Observed { version: rolling().version, accepted: rolling().accepted, ..three() };
    seen.nodes.push(node(4, Role::ControlPlane, "b", Phase::Ready));
    for old in &mut seen.nodes[1..3] {
        old.phase = Phase::Joined;
    }
    seen.targets = Some(["id1", "id2", "id3", "id4"].map(String::from).into());
    assert_eq!(plan(&seen).steps, []);
}

#[test]
fn only_those_that_are_refused_and_stay_are_announced() {
    let mut seen = refusing(running(), &["n2", "n3"]);
    seen.nodes[2].deleting = true;
    let said: Vec<_> = plan(&seen).next.into_iter().filter(|words| words.contains("is refused")).collect();
    assert!(said.len() == 1 && said[0].contains("n2"), "{said:?}");
}

#[test]
fn a_member_that_is_down_is_to_be_deleted_only_where_the_cluster_goes_on_without_it() {
    let told = |seen: &Observed| plan(seen).blocked.unwrap().message;
    let mut only = running();
    only.nodes[0].phase = Phase::Joined;
    let message = told(&only);
    for words in ["n1", "only control-plane node", "kubelet", "restart its machine", "controlPlane.replicas: 3"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(!message.contains("delete"), "{message}");
    let mut seen = three();
    seen.nodes[1].phase = Phase::Joined;
    assert!(told(&seen).contains("delete ConfidentialNode n2"));
    seen.nodes[2].phase = Phase::Joined;
    let message = told(&seen);
    assert!(message.contains("have no majority") && !message.contains("delete"), "{message}");
}

/// A cluster of fifty workers in a cloud, of which these are there; how many are made next.
fn next(nodes: Vec<NodeSeen>) -> usize {
    let mut seen = Observed { most_booting: 16, nodes, ..running() };
    seen.groups[0].current = Some(50);
    plan(&seen).steps.iter().filter(|step| matches!(step, Step::CreateNode { role: Role::Worker, .. })).count()
}

#[test]
fn in_a_cloud_many_boot_at_a_time_once_one_has_shown_that_it_can() {
    let control_plane = |phase| node(1, Role::ControlPlane, "a", phase);
    let with = |first, booting: u32, phase| {
        let workers = (2..2 + booting).map(|index| node(index, Role::Worker, "a", phase));
        next(std::iter::once(control_plane(first)).chain(workers).collect())
    };
    for (first, booting, phase, made) in [
        (Phase::Joined, 0, Phase::Booting, 1),
        (Phase::Joined, 1, Phase::Booting, 0),
        (Phase::Joined, 1, Phase::Attested, 1),
        (Phase::Ready, 0, Phase::Booting, 16),
        // One that is silent takes one place, and holds nobody else up.
        (Phase::Ready, 1, Phase::Booting, 15),
        (Phase::Ready, 16, Phase::Booting, 0),
        (Phase::Ready, 16, Phase::Joined, 16),
        (Phase::Ready, 45, Phase::Ready, 5),
    ] {
        assert_eq!(with(first, booting, phase), made, "{first:?} {booting} {phase:?}");
    }
    let old = node(1, Role::ControlPlane, "z", Phase::Ready);
    assert_eq!(next(vec![old]), 1, "nobody has shown what is wanted now");
    let drifted = NodeSeen { drifted: true, ..control_plane(Phase::Ready) };
    assert_eq!(next(vec![drifted]), 1);
    // All have numbers of their own.
    let mut seen = Observed { most_booting: 16, ..running() };
    seen.groups[0].current = Some(5);
    assert_eq!(plan(&seen).steps, [4, 5, 6].map(|index| create("w", Role::Worker, index, 0)));
}

#[test]
fn the_control_plane_gets_one_node_at_a_time_beside_the_workers() {
    let mut seen = Observed { most_booting: 16, control_plane_replicas: 3, ..running() };
    seen.nodes.truncate(1);
    let (second, worker) = (create("control-plane", Role::ControlPlane, 2, 0), |n| create("w", Role::Worker, n, 0));
    assert_eq!(plan(&seen).steps, [second, worker(3), worker(4)]);
    seen.nodes.push(node(2, Role::ControlPlane, "a", Phase::Booting));
    assert_eq!(plan(&seen).steps, [worker(3), worker(4)]);
}

#[test]
fn a_roll_in_a_cloud_begins_with_one_and_has_no_more_than_its_surge() {
    let base = || {
        let mut seen = Observed { most_booting: 16, max_surge: 3, ..rolling() };
        seen.groups[0].current = Some(4);
        seen.nodes.extend([4, 5].map(|index| node(index, Role::Worker, "a", Phase::Ready)));
        seen
    };
    let with = |newcomers: &[Phase]| {
        let mut seen = base();
        seen.nodes.extend((6..).zip(newcomers).map(|(index, phase)| node(index, Role::Worker, "b", *phase)));
        plan(&seen).steps.iter().filter(|step| matches!(step, Step::CreateNode { .. })).count()
    };
    let (booting, attested, ready) = (Phase::Booting, Phase::Attested, Phase::Ready);
    for (newcomers, made) in [
        (&[][..], 1),
        (&[booting], 0),
        (&[attested], 1),
        (&[attested, booting], 0),
        (&[attested, attested], 1),
        (&[attested, attested, attested], 0),
        // The one that it replaces is told to go, and the others wait for that.
        (&[ready], 0),
        (&[ready, booting], 1),
        (&[ready, booting, booting], 0),
    ] {
        assert_eq!(with(newcomers), made, "{newcomers:?}");
    }
    let mut shown = base();
    shown.nodes[1] = node(2, Role::Worker, "b", Phase::Ready);
    shown.nodes.push(node(6, Role::Worker, "b", booting));
    assert_eq!(plan(&shown).steps, [create("w", Role::Worker, 7, 0)], "beside one that boots");
    shown.nodes.push(node(7, Role::Worker, "b", booting));
    assert_eq!(plan(&shown).steps, [create("w", Role::Worker, 8, 0)]);
    shown.nodes.push(node(8, Role::Worker, "b", booting));
    assert_eq!(plan(&shown).steps, [], "no more than its surge");
    shown.nodes.truncate(6);
    for fresh in &mut shown.nodes[1..] {
        fresh.digest = if fresh.index == 6 { "b" } else { "a" }.into();
    }
    shown.nodes[0].digest = "b".into();
    assert_eq!(plan(&shown).steps, [], "the control plane has shown the version, and not what this group adds to it");
}

#[test]
fn of_failed_nodes_as_many_are_replaced_at_a_time_as_may_boot() {
    let mut seen = Observed { most_booting: 16, ..running() };
    (seen.nodes[1], seen.nodes[2]) = (failed(2), failed(3));
    let made = |seen: &Observed| {
        plan(seen).steps.into_iter().filter(|step| matches!(step, Step::CreateNode { .. })).collect::<Vec<_>>()
    };
    assert_eq!(made(&seen), [create("w", Role::Worker, 4, 1), create("w", Role::Worker, 5, 1)]);
    assert_eq!(deleted(&seen), ["n2", "n3"]);
    seen.nodes[0].digest = "z".into();
    assert_eq!(made(&seen).len(), 1, "nobody has shown what is wanted now");
}
