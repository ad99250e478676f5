//! Tables: when a version is given up, what follows, and what ends it.

use constellation_crds::node::Role;

use super::*;
use crate::cluster::{
    plan::{
        Step, plan,
        tests::{node, rolling, version},
    },
    seen::VersionSeen,
};

/// A roll whose first new worker is this one.
fn with(newcomer: NodeSeen) -> Observed {
    let mut seen = rolling();
    seen.nodes.push(newcomer);
    seen
}

/// A new worker whose evidence is refused.
fn refused() -> NodeSeen {
    let message = "tpm.pcr.11".into();
    let failed = node(4, Role::Worker, "b", Phase::Failed);
    NodeSeen { accepted: Some(false), disproved: true, vanished: false, message, ..failed }
}

/// The same, once its plan was remembered.
fn remembered(seen: Observed) -> Observed {
    let rolled_back = plan(&seen).rolled_back;
    assert!(rolled_back.is_some());
    Observed { rolled_back, ..seen }
}

#[test]
fn a_version_is_given_up_for_a_refusal_or_two_failures_in_a_row_and_for_nothing_less() {
    let failed = || NodeSeen { vanished: false, ..node(4, Role::Worker, "b", Phase::Failed) };
    let table = [
        ("refused", refused(), true),
        ("failed once", failed(), false),
        ("failed again", NodeSeen { failures: 1, ..failed() }, true),
        ("vanished again", NodeSeen { failures: 1, vanished: true, ..failed() }, false),
        ("was Ready before", NodeSeen { failures: 1, was_ready: true, ..failed() }, false),
        ("is on its way out", NodeSeen { deleting: true, ..refused() }, false),
        ("lacks what is being fetched", NodeSeen { phase: Phase::Booting, disproved: false, ..refused() }, false),
        ("lacked it until it was late", NodeSeen { disproved: false, ..refused() }, false),
        ("lacked it again", NodeSeen { disproved: false, failures: 1, ..refused() }, false),
        ("is refused and gone", NodeSeen { vanished: true, ..refused() }, false),
        ("is of the version before", NodeSeen { digest: "a".into(), ..refused() }, false),
    ];
    for (what, newcomer, given_up) in table {
        let plan = plan(&with(newcomer));
        assert_eq!(plan.rolled_back.is_some(), given_up, "{what}");
        if let Some(rolled_back) = plan.rolled_back {
            assert_eq!((rolled_back.from.as_str(), rolled_back.to.as_str(), &*rolled_back.node), ("b", "a", "n4"));
            assert_eq!((plan.steps, plan.accepted.len()), (vec![], 2), "{what}: it is remembered first");
            assert_eq!(plan.blocked.unwrap().reason, reason::ROLLED_BACK);
        }
    }
}

#[test]
fn one_refused_machine_takes_no_fleet_back_whose_version_others_have_shown() {
    for (ready, failures, given_up) in [("a", 0, true), ("b", 0, false), ("b", 1, true)] {
        let mut seen = with(NodeSeen { failures, ..refused() });
        seen.nodes[1].digest = ready.into();
        assert_eq!(plan(&seen).rolled_back.is_some(), given_up, "{ready} {failures}");
    }
}

#[test]
fn nodes_go_back_to_the_one_that_all_were_of_or_to_the_latest_that_has_a_ready_node() {
    let to = |seen: &Observed| plan(seen).rolled_back.map(|given_up| given_up.to);
    let mut seen = with(refused());
    seen.accepted = vec![version("a"), version("x"), version("b")];
    seen.nodes[1].digest = "x".into();
    assert_eq!(to(&seen).as_deref(), Some("a"), "all were of it");
    seen.current = None;
    assert_eq!(to(&seen).as_deref(), Some("x"), "a roll was overtaken");
    seen.nodes[1].phase = Phase::Joined;
    assert_eq!(to(&seen).as_deref(), Some("a"), "only what has proved itself");
    seen.accepted[0].image = None;
    assert_eq!(to(&seen), None, "nobody knows its image any more");
    seen.accepted[0].image = Some("i".into());
    for old in &mut seen.nodes[..3] {
        old.phase = Phase::Joined;
    }
    assert_eq!(to(&seen), None, "there is nothing to go back to");
}

#[test]
fn the_node_that_showed_it_stays_to_be_read_and_the_others_go_back_one_by_one() {
    let mut seen = remembered(with(refused()));
    seen.nodes[1] = node(2, Role::Worker, "b", Phase::Ready);
    assert_eq!(plan(&seen).steps, [], "a minute");
    seen.now = 9_990 + 60;
    let gone = Step::DeleteNode { name: "n4".into(), why: "it failed: tpm.pcr.11".into() };
    assert_eq!(plan(&seen).steps[1..], [gone]);
    assert!(matches!(&plan(&seen).steps[0], Step::CreateNode { failures: 0, .. }), "of the version before");
    seen.nodes[3] = node(5, Role::Worker, "a", Phase::Booting);
    assert_eq!(plan(&seen).steps, []);
    seen.nodes[3].phase = Phase::Ready;
    let deleted: Vec<_> = plan(&seen).steps;
    assert!(matches!(&deleted[..], [Step::DeleteNode { name, .. }] if name == "n2"), "{deleted:?}");
    assert_eq!(plan(&seen).accepted.len(), 2, "accepted until its last node is gone");
    seen.nodes.remove(1);
    assert_eq!(plan(&seen).accepted, [version("a")]);
    seen.accepted = vec![version("a")];
    let end = plan(&seen);
    assert_eq!((&end.steps, &end.accepted), (&vec![], &vec![version("a")]));
    // The endpoint's targets are set again now and then, and after a restart: nobody waits for that.
    let again = plan(&Observed { targets: None, ..seen });
    assert!(matches!(&again.steps[..], [Step::SetTargets(_)]) && again.words().is_empty());
    assert!(rests(&end) && again.blocked == end.blocked);
    let blocked = end.blocked.unwrap();
    assert_eq!((blocked.reason, blocked.stalled), (reason::ROLLED_BACK, true));
    for word in ["n4", "tpm.pcr.11", "autoRollback"] {
        assert!(blocked.message.contains(word), "{}", blocked.message);
    }
}

#[test]
fn what_is_made_meanwhile_is_of_the_version_before() {
    let mut seen = remembered(with(refused()));
    seen.nodes.remove(3);
    seen.accepted.truncate(1);
    assert_eq!(seen.target(), Some("a"));
    seen.groups[0].current = Some(3);
    assert!(matches!(&plan(&seen).steps[..], [Step::CreateNode { .. }]));
    assert_eq!(seen.goal().unwrap().image.as_deref(), Some("image-a"));
}

#[test]
fn another_wish_or_no_automatism_ends_it() {
    let settled = Observed { accepted: vec![version("a")], ..remembered(with(refused())) };
    let settled = Observed { nodes: settled.nodes[..3].to_vec(), ..settled };
    assert_eq!(plan(&settled).rolled_back, settled.rolled_back, "it stays given up");
    for (what, seen) in [
        ("another version", Observed { version: VersionSeen::Ready(version("c")), ..settled.clone() }),
        ("the one before", Observed { version: VersionSeen::Ready(version("a")), ..settled.clone() }),
        ("try again", Observed { auto_rollback: false, ..settled.clone() }),
    ] {
        let first = plan(&seen);
        assert_eq!((first.rolled_back, first.steps), (None, vec![]), "{what}");
        let next = plan(&Observed { rolled_back: None, ..seen.clone() });
        let VersionSeen::Ready(wanted) = &seen.version else { unreachable!() };
        assert!(next.accepted.contains(wanted), "{what}");
    }
    let unread = Observed { version: VersionSeen::NotReady("x".into()), ..settled.clone() };
    assert_eq!(plan(&unread).rolled_back, settled.rolled_back, "nothing else is wanted yet");
}

#[test]
fn without_the_automatism_a_refused_node_is_tried_again_and_again() {
    let mut seen = Observed { auto_rollback: false, ..with(refused()) };
    seen.now = 9_990 + 60;
    let next = plan(&seen);
    assert_eq!(next.rolled_back, None);
    assert!(matches!(&next.steps[..], [Step::CreateNode { failures: 1, .. }, Step::DeleteNode { .. }]));
}

#[test]
fn a_record_that_leads_nowhere_is_made_anew() {
    let nowhere = RolledBack { from: "b".into(), to: "z".into(), ..RolledBack::default() };
    let seen = Observed { rolled_back: Some(nowhere), ..with(refused()) };
    assert_eq!(plan(&seen).rolled_back.unwrap().to, "a");
}
