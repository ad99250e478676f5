//! Tables: seen, and what follows.

use constellation_crds::{
    cluster::{AcceptedVersion, DeletionPolicy, OnFailure},
    condition::reason,
    node::{Phase, Role},
};

use super::{Step, plan};
use crate::cluster::seen::{GroupSeen, Init, NodeSeen, Observed, SecretSeen, VersionSeen};

pub(crate) fn version(digest: &str) -> AcceptedVersion {
    AcceptedVersion { digest: digest.into(), name: "v".into(), sets: vec![], image: Some(format!("image-{digest}")) }
}

pub(crate) fn empty() -> Observed {
    Observed {
        name: "c".into(),
        now: 10_000,
        created: 0,
        deleting: false,
        deletion_policy: DeletionPolicy::Delete,
        finalizer: false,
        paused: false,
        simulated: false,
        provider_refused: None,
        owner_key: SecretSeen::Missing("c-owner-key".into()),
        owner_key_known: false,
        master_secret: SecretSeen::Missing("c-master-secret".into()),
        master_secret_stale: false,
        master_secret_named: false,
        cluster_id_known: false,
        network: false,
        version: VersionSeen::Ready(version("a")),
        accepted: vec![],
        current: None,
        auto_rollback: true,
        rolled_back: None,
        initialized: false,
        kubeconfig_lost: None,
        reachable: false,
        turned_away: None,
        shut_out: false,
        unreachable_seconds: 0,
        installed: false,
        trust_current: false,
        max_index: 244,
        control_plane_replicas: 1,
        on_failure: OnFailure::Report,
        most_booting: 1,
        max_surge: 1,
        groups: vec![GroupSeen {
            name: "w".into(),
            wanted: 2,
            spec: "2".into(),
            remembered: Some("2".into()),
            current: Some(2),
            min: 0,
            max: 240,
            autoscaled: false,
        }],
        stale_groups: vec![],
        nodes: vec![],
        talks: vec![],
        targets: None,
    }
}

pub(crate) fn node(index: u32, role: Role, digest: &str, phase: Phase) -> NodeSeen {
    let ready = phase == Phase::Ready;
    let group = if role == Role::Worker { "w" } else { "control-plane" };
    NodeSeen {
        name: format!("n{index}"),
        uid: format!("u{index}"),
        group: group.into(),
        role,
        index,
        digest: digest.into(),
        drifted: false,
        phase,
        deleting: false,
        delete_first: false,
        accepted: ready.then_some(true),
        disproved: false,
        created: 1000 + i64::from(index),
        failed_at: (phase == Phase::Failed).then_some(9_990),
        short: None,
        vanished: phase == Phase::Failed,
        was_joined: ready,
        was_ready: ready,
        ready_at: ready.then_some(2000),
        failures: 0,
        provider_id: Some(format!("id{index}")),
        address: Some("10.77.0.11".into()),
        message: "it broke".into(),
    }
}

pub(crate) fn prepared() -> Observed {
    Observed {
        finalizer: true,
        owner_key: SecretSeen::Present,
        master_secret: SecretSeen::Present,
        network: true,
        accepted: vec![version("a")],
        ..empty()
    }
}

/// One control-plane node and two workers, all well.
pub(crate) fn running() -> Observed {
    Observed {
        initialized: true,
        reachable: true,
        installed: true,
        trust_current: true,
        nodes: vec![
            node(1, Role::ControlPlane, "a", Phase::Ready),
            node(2, Role::Worker, "a", Phase::Ready),
            node(3, Role::Worker, "a", Phase::Ready),
        ],
        targets: Some(vec!["id1".into()]),
        ..prepared()
    }
}

pub(crate) fn rolling() -> Observed {
    let accepted = vec![version("a"), version("b")];
    Observed { version: VersionSeen::Ready(version("b")), accepted, current: Some("a".into()), ..running() }
}

pub(crate) fn create(group: &str, role: Role, index: u32, failures: u32) -> Step {
    Step::CreateNode { group: group.into(), role, index, failures }
}

pub(crate) fn deleted(seen: &Observed) -> Vec<String> {
    let name = |step| if let Step::DeleteNode { name, .. } = step { Some(name) } else { None };
    plan(seen).steps.into_iter().filter_map(name).collect()
}

#[test]
fn nothing_yet_keys_and_network_come_before_any_node() {
    let plan = plan(&empty());
    let first = [Step::AddFinalizer, Step::CreateOwnerKey, Step::CreateMasterSecret, Step::EnsureNetwork];
    assert_eq!(plan.steps, first);
    assert_eq!(plan.accepted, [version("a")]);
    assert!(plan.words().len() > first.len());
}

#[test]
fn a_version_is_accepted_and_recorded_before_its_first_node() {
    let seen = Observed { accepted: vec![], ..prepared() };
    assert_eq!((plan(&seen).steps, plan(&seen).accepted), (vec![], vec![version("a")]));
    assert_eq!(plan(&prepared()).steps, [create("control-plane", Role::ControlPlane, 1, 0)]);
}

#[test]
fn the_first_node_is_initialised_step_by_step() {
    let first = node(1, Role::ControlPlane, "a", Phase::Booting);
    let mut seen = Observed { nodes: vec![NodeSeen { address: None, ..first.clone() }], ..prepared() };
    assert_eq!(plan(&seen).steps, []);
    seen.nodes = vec![first];
    assert_eq!(plan(&seen).steps, [Step::SetTargets(vec!["id1".into()]), Step::StartInit("n1".into())]);
    seen.targets = Some(vec!["id1".into()]);
    seen.talks = vec![("u1".into(), Init::Running("phase etcd".into()))];
    assert_eq!(plan(&seen).steps, []);
    assert!(plan(&seen).blocked.unwrap().message.contains("phase etcd"));
    seen.talks = vec![("u1".into(), Init::Done)];
    assert_eq!(plan(&seen).steps, [Step::SaveKubeconfig("n1".into())]);
    seen.initialized = true;
    seen.reachable = true;
    assert_eq!(plan(&seen).steps, [Step::Install, Step::WriteTrust]);
}

#[test]
fn a_refused_first_node_is_not_initialised() {
    let seen = Observed {
        nodes: vec![node(1, Role::ControlPlane, "a", Phase::Booting)],
        talks: vec![("u1".into(), Init::Refused("tpm.pcr.11".into()))],
        targets: Some(vec!["id1".into()]),
        ..prepared()
    };
    assert_eq!(plan(&seen).steps, []);
    assert!(plan(&seen).blocked.unwrap().message.contains("refused: tpm.pcr.11"));
}

#[test]
fn one_vm_boots_at_a_time() {
    let mut seen = Observed { nodes: vec![node(1, Role::ControlPlane, "a", Phase::Ready)], ..running() };
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 2, 0)]);
    seen.nodes.push(node(2, Role::Worker, "a", Phase::Booting));
    assert_eq!(plan(&seen).steps, []);
    seen.nodes[1].phase = Phase::Attested;
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 3, 0)]);
}

#[test]
fn a_steady_cluster_needs_nothing() {
    let plan = plan(&running());
    assert_eq!((plan.steps, plan.next, plan.blocked), (vec![], vec![], None));
}

#[test]
fn nothing_is_made_before_the_trust_bundle_is_new_or_while_the_api_server_is_silent() {
    let nodes = vec![node(1, Role::ControlPlane, "a", Phase::Ready)];
    let seen = Observed { trust_current: false, nodes: nodes.clone(), ..running() };
    assert_eq!(plan(&seen).steps[..2], [Step::WriteTrust, create("w", Role::Worker, 2, 0)]);
    let bare = plan(&Observed { installed: false, ..seen });
    assert_eq!(bare.steps, [Step::Install, Step::WriteTrust]);
    assert_eq!(bare.blocked.unwrap().reason, reason::WAITING_FOR_CONTROL_PLANE);
    let mut seen = Observed { reachable: false, nodes, ..running() };
    assert_eq!(plan(&seen).steps, []);
    seen.unreachable_seconds = 30;
    assert_eq!(plan(&seen).steps, [Step::StartRecover("n1".into())]);
    // Who lost the key to the door doesn't find the house empty.
    let lost = Observed { kubeconfig_lost: Some("x-kubeconfig".into()), ..seen.clone() };
    let blocked = plan(&lost).blocked.unwrap();
    assert_eq!((plan(&lost).steps, blocked.reason, blocked.stalled), (vec![], reason::SECRET_NOT_FOUND, true));
    assert!(blocked.message.contains("x-kubeconfig"));
    // Its power may have gone before anybody saw it Ready.
    seen.nodes = vec![node(1, Role::ControlPlane, "a", Phase::Attested)];
    assert_eq!(plan(&seen).steps, [Step::StartRecover("n1".into())]);
    seen.nodes[0].address = None;
    assert_eq!(plan(&seen).steps, []);
}

#[test]
fn a_failed_node_is_replaced_at_once_the_first_time_and_later_after_a_hold() {
    let mut seen = running();
    seen.nodes[2] = node(3, Role::Worker, "a", Phase::Failed);
    assert_eq!(plan(&seen).steps[0], create("w", Role::Worker, 4, 1));
    assert_eq!(deleted(&seen), ["n3"]);
    seen.nodes[2].failures = 1;
    assert_eq!(plan(&seen).steps, []);
    seen.now = 9_990 + 60;
    assert_eq!(plan(&seen).steps[0], create("w", Role::Worker, 4, 2));
    seen.nodes[2].failures = 3;
    assert_eq!(plan(&seen).steps, []);
}

#[test]
fn a_refused_node_stays_for_a_minute_so_that_a_person_can_read_why() {
    let mut seen = running();
    seen.nodes[2] = NodeSeen { accepted: Some(false), disproved: true, ..node(3, Role::Worker, "a", Phase::Failed) };
    assert_eq!(plan(&seen).steps, []);
    assert_eq!(plan(&seen).blocked.unwrap().reason, reason::REPLACING_NODE);
    seen.now = 9_990 + 60;
    assert_eq!(deleted(&seen), ["n3"]);
}

#[test]
fn groups_scale_up_and_down_and_the_wish_to_go_first_counts() {
    let mut seen = running();
    seen.groups[0].current = Some(3);
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
    seen.groups[0].current = Some(1);
    assert_eq!(deleted(&seen), ["n3"]);
    seen.nodes[1].delete_first = true;
    assert_eq!(deleted(&seen), ["n2"]);
    seen.groups[0].current = Some(0);
    assert_eq!(deleted(&seen).len(), 2);
}

#[test]
fn a_size_of_the_spec_is_taken_over_once_and_kubectl_scale_stays() {
    let mut seen = running();
    seen.groups[0].current = Some(5);
    assert!(!plan(&seen).steps.iter().any(|step| matches!(step, Step::ApplyGroup { .. })));
    seen.groups[0].wanted = 4;
    seen.groups[0].spec = "4".into();
    assert_eq!(plan(&seen).steps[0], Step::ApplyGroup { group: "w".into(), replicas: 4, spec: "4".into() });
}

#[test]
fn a_roll_makes_one_more_worker_before_it_deletes_one_and_the_control_plane_is_last() {
    let mut seen = rolling();
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
    seen.nodes.push(node(4, Role::Worker, "b", Phase::Joined));
    assert_eq!(plan(&seen).steps, []);
    seen.nodes[3].phase = Phase::Ready;
    assert_eq!(deleted(&seen), ["n3"]);
    seen.nodes[2].deleting = true;
    assert_eq!(plan(&seen).steps, []);
    seen.nodes.remove(2);
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 3, 0)]);
    seen.nodes[1] = node(2, Role::Worker, "b", Phase::Ready);
    assert_eq!(plan(&seen).steps, [create("control-plane", Role::ControlPlane, 3, 0)]);
    seen.nodes.push(node(3, Role::ControlPlane, "b", Phase::Joined));
    assert_eq!(plan(&seen).steps, [], "a node that joins has no API server yet");
    seen.nodes[3].phase = Phase::Ready;
    assert_eq!(plan(&seen).steps[0], Step::SetTargets(vec!["id3".into()]));
    assert_eq!(deleted(&seen), ["n1"]);
}

#[test]
fn the_old_version_is_retired_after_its_last_node() {
    let mut seen = rolling();
    assert_eq!(plan(&seen).accepted.len(), 2);
    for node in &mut seen.nodes {
        node.digest = "b".into();
    }
    assert_eq!(plan(&seen).accepted, [version("b")]);
}

#[test]
fn a_second_edit_changes_only_the_target() {
    let mut seen = rolling();
    seen.nodes[1].digest = "b".into();
    seen.version = VersionSeen::Ready(version("c"));
    assert_eq!(plan(&seen).steps, []);
    assert_eq!(plan(&seen).accepted.len(), 3);
    seen.accepted.push(version("c"));
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
}

#[test]
fn the_last_ready_control_plane_node_is_never_deleted() {
    let mut seen = rolling();
    for worker in &mut seen.nodes[1..] {
        worker.digest = "b".into();
    }
    seen.nodes.push(node(4, Role::ControlPlane, "b", Phase::Joined));
    assert_eq!(deleted(&seen), Vec::<String>::new());
}

#[test]
fn by_a_clock_that_is_behind_nothing_is_changed_but_a_deletion_goes_on() {
    let at = |created| Observed { created, ..prepared() };
    let behind = plan(&at(10_301));
    let blocked = behind.blocked.unwrap();
    assert_eq!((behind.steps, blocked.reason, blocked.stalled), (vec![], reason::CLOCK_WRONG, true));
    assert_eq!(plan(&at(10_300)), plan(&prepared()));
    let deleting = Observed { deleting: true, finalizer: true, ..at(10_301) };
    assert_eq!(plan(&deleting), plan(&Observed { created: 0, ..deleting.clone() }));
}

#[test]
fn a_version_that_is_not_verified_or_has_nothing_for_the_provider_makes_nothing() {
    for (version, why, stalled) in [
        (VersionSeen::Missing("v".into()), reason::NODE_VERSION_NOT_FOUND, false),
        (VersionSeen::NotReady("x".into()), reason::NODE_VERSION_NOT_READY, false),
        (VersionSeen::Awaited("x".into()), reason::IN_PROGRESS, false),
        (VersionSeen::NoImage("v".into()), reason::IMAGE_NOT_FOUND, true),
        (VersionSeen::NoSet("v".into()), reason::NO_MEASUREMENTS, true),
    ] {
        let plan = plan(&Observed { version, ..prepared() });
        let blocked = plan.blocked.unwrap();
        assert_eq!((plan.steps, blocked.reason, blocked.stalled), (vec![], why, stalled));
    }
}

#[test]
fn without_a_usable_version_a_cluster_that_runs_is_recovered_and_keeps_its_trust() {
    let version = VersionSeen::NotReady("the manifest has ended".into());
    let silent = Observed { reachable: false, unreachable_seconds: 30, version: version.clone(), ..running() };
    assert_eq!(plan(&silent).steps, [Step::StartRecover("n1".into())]);
    let old = Observed { trust_current: false, targets: None, version: version.clone(), ..running() };
    assert_eq!(plan(&old).steps, [Step::SetTargets(vec!["id1".into()]), Step::WriteTrust]);
    assert_eq!(plan(&old).blocked.unwrap().reason, reason::NODE_VERSION_NOT_READY);
    let homeless = Observed { network: false, targets: None, version: version.clone(), ..running() };
    assert_eq!(plan(&homeless).steps, [Step::EnsureNetwork], "what has to lie in it waits");
    let mut smaller = Observed { version, ..running() };
    smaller.groups[0].current = Some(3);
    assert_eq!(plan(&smaller).steps, [], "nothing is made");
    assert_eq!(plan(&smaller).accepted, smaller.accepted, "and nothing retired");
}

#[test]
fn a_lost_key_is_never_replaced_by_a_new_one() {
    let lost = SecretSeen::Missing("s".into());
    for seen in [
        Observed { owner_key: lost.clone(), owner_key_known: true, ..running() },
        Observed { master_secret: lost.clone(), cluster_id_known: true, ..running() },
        Observed { master_secret: lost, master_secret_named: true, ..prepared() },
    ] {
        let plan = plan(&seen);
        assert_eq!((plan.steps, plan.blocked.unwrap().reason), (vec![], reason::SECRET_NOT_FOUND));
    }
}

#[test]
fn who_lost_the_master_secret_is_asked_for_a_backup_and_only_a_new_cluster_for_new_bytes() {
    let missing = |known, named| {
        let master_secret = SecretSeen::Missing("c-master-secret".into());
        plan(&Observed { master_secret, cluster_id_known: known, master_secret_named: named, ..prepared() })
    };
    for (known, named, words) in [
        (true, false, "restore it from a backup"),
        (true, true, "restore it from a backup"),
        (false, true, "provide 32 bytes under key `secret`"),
    ] {
        let blocked = missing(known, named).blocked.unwrap();
        assert!(blocked.stalled && blocked.reason == reason::SECRET_NOT_FOUND, "{blocked:?}");
        assert!(blocked.message.contains("c-master-secret") && blocked.message.contains(words), "{blocked:?}");
        assert_eq!(blocked.message.contains("32 bytes"), !known, "{blocked:?}");
    }
    assert_eq!(missing(false, false).steps, [Step::CreateMasterSecret]);
}

#[test]
fn a_master_secret_is_wrapped_again_and_nothing_else_waits_for_it() {
    let seen = Observed { master_secret_stale: true, ..running() };
    assert_eq!(plan(&seen).steps, [Step::RewrapMasterSecret]);
    let waits = plan(&Observed { master_secret_stale: true, ..rolling() });
    assert_eq!(waits.steps, [create("w", Role::Worker, 4, 0), Step::RewrapMasterSecret]);
}

#[test]
fn a_paused_cluster_changes_nothing_but_may_be_deleted() {
    let seen = Observed { paused: true, ..rolling() };
    assert_eq!(plan(&seen).steps, []);
    assert_eq!(deleted(&Observed { deleting: true, ..seen }), ["n2", "n3"]);
}

#[test]
fn deletion_takes_workers_then_the_control_plane_then_the_network() {
    let mut seen = Observed { deleting: true, ..running() };
    assert_eq!(deleted(&seen), ["n2", "n3"]);
    seen.nodes[1].deleting = true;
    assert_eq!(deleted(&seen), ["n3"]);
    seen.nodes.truncate(1);
    assert_eq!(deleted(&seen), ["n1"]);
    seen.nodes.clear();
    assert_eq!(plan(&seen).steps, [Step::RemoveNetwork]);
}

#[test]
fn an_orphaned_cluster_leaves_its_vms_running() {
    let seen = Observed { deleting: true, deletion_policy: DeletionPolicy::Orphan, ..running() };
    let steps = plan(&seen).steps;
    assert_eq!((steps.first(), steps.last()), (Some(&Step::Disown), Some(&Step::RemoveFinalizer)));
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::OrphanNode(_))).count(), 3);
    assert_eq!(deleted(&seen), Vec::<String>::new());
}

#[test]
fn a_simulated_cluster_gets_its_trust_bundle_first_and_is_never_talked_to() {
    let mut seen = Observed { simulated: true, reachable: true, ..prepared() };
    assert_eq!(plan(&seen).steps, [Step::Install, Step::WriteTrust]);
    seen.installed = true;
    assert_eq!(plan(&seen).steps, [Step::WriteTrust, create("control-plane", Role::ControlPlane, 1, 0)]);
    seen.trust_current = true;
    seen.nodes = vec![node(1, Role::ControlPlane, "a", Phase::Booting)];
    assert_eq!(plan(&seen).steps, []);
    let refused = Observed { provider_refused: Some("--allow-simulated".into()), ..seen };
    assert!(plan(&refused).blocked.unwrap().stalled);
}

/// All well but for these members, which are refused and shall be replaced.
pub(crate) fn refusing(mut seen: Observed, names: &[&str]) -> Observed {
    seen.on_failure = OnFailure::Replace;
    for node in seen.nodes.iter_mut().filter(|node| names.contains(&node.name.as_str())) {
        (node.accepted, node.disproved) = (Some(false), true);
    }
    seen
}

/// Three control-plane nodes and no workers.
pub(crate) fn three() -> Observed {
    let nodes = (1..=3).map(|index| node(index, Role::ControlPlane, "a", Phase::Ready)).collect();
    let targets = Some(["id1", "id2", "id3"].map(String::from).into());
    Observed { control_plane_replicas: 3, groups: vec![], nodes, targets, ..running() }
}

#[test]
fn a_refused_worker_goes_when_another_one_proved_itself_and_only_where_that_is_wanted() {
    for on_failure in [OnFailure::Report, OnFailure::Taint] {
        let seen = Observed { on_failure, ..refusing(running(), &["n2"]) };
        assert_eq!((plan(&seen).steps, plan(&seen).blocked.unwrap().reason), (vec![], reason::ATTESTATION_REFUSED));
    }
    let mut seen = refusing(running(), &["n2"]);
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
    for phase in [Phase::Booting, Phase::Attested, Phase::Joined] {
        seen.nodes.truncate(3);
        seen.nodes.push(node(4, Role::Worker, "a", phase));
        assert_eq!(plan(&seen).steps, [], "{phase:?}");
    }
    seen.nodes[3] = node(4, Role::Worker, "a", Phase::Ready);
    assert_eq!(deleted(&seen), ["n2"]);
    seen.nodes[1].deleting = true;
    assert_eq!(plan(&seen).steps, []);
    seen.nodes.remove(1);
    assert_eq!((plan(&seen).steps, plan(&seen).blocked), (vec![], None));
}

#[test]
fn a_refused_worker_that_is_accepted_again_or_not_to_be_replaced_any_more_stays() {
    let mut seen = refusing(running(), &["n2"]);
    seen.nodes.push(node(4, Role::Worker, "a", Phase::Ready));
    assert_eq!(deleted(&seen), ["n2"]);
    assert_eq!(deleted(&Observed { on_failure: OnFailure::Report, ..seen.clone() }), ["n4"]);
    (seen.nodes[1].accepted, seen.nodes[1].disproved) = (Some(true), false);
    assert_eq!(deleted(&seen), ["n4"]);
}

#[test]
fn of_two_refused_workers_one_is_replaced_at_a_time_also_when_one_is_down() {
    let mut seen = Observed { max_surge: 2, ..refusing(running(), &["n2", "n3"]) };
    seen.nodes[1].phase = Phase::Joined;
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
    seen.nodes.push(node(4, Role::Worker, "a", Phase::Ready));
    assert_eq!(deleted(&seen), ["n2"]);
    seen.nodes.remove(1);
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 2, 0)]);
}

#[test]
fn a_bundle_that_refuses_everybody_ends_nobody() {
    let mut seen = refusing(three(), &["n1", "n2", "n3"]);
    assert_eq!(plan(&seen).steps, [create("control-plane", Role::ControlPlane, 4, 0)]);
    // The new one is refused as well, stays for people to read why, and is tried again after growing holds.
    seen.nodes.push(NodeSeen {
        accepted: Some(false),
        disproved: true,
        ..node(4, Role::ControlPlane, "a", Phase::Failed)
    });
    assert_eq!(plan(&seen).steps, []);
    seen.now = 9_990 + 60;
    assert_eq!(
        plan(&seen).steps,
        [
            create("control-plane", Role::ControlPlane, 5, 1),
            Step::DeleteNode { name: "n4".into(), why: "it failed: it broke".into() },
        ]
    );
    seen.nodes[3].failures = 1;
    assert_eq!(plan(&seen).steps, []);
}

#[test]
fn a_refused_control_plane_node_goes_only_while_the_others_have_a_majority_and_the_only_one_never() {
    let only = refusing(running(), &["n1"]);
    assert_eq!(plan(&only).steps, []);
    assert!(plan(&only).next.iter().any(|words| words.contains("controlPlane.replicas: 3")), "{:?}", plan(&only).next);
    let mut seen = refusing(three(), &["n1"]);
    assert_eq!(plan(&seen).steps, [create("control-plane", Role::ControlPlane, 4, 0)]);
    seen.nodes[1].phase = Phase::Joined;
    assert_eq!(plan(&seen).steps, [], "one of the other two is down");
    seen.nodes[1].phase = Phase::Ready;
    seen.nodes.push(node(4, Role::ControlPlane, "a", Phase::Joined));
    assert_eq!(deleted(&seen), Vec::<String>::new(), "it has no etcd yet");
    seen.nodes[3] = node(4, Role::ControlPlane, "a", Phase::Ready);
    assert_eq!(deleted(&seen), ["n1"]);
    seen.nodes[2].phase = Phase::Joined;
    assert_eq!(deleted(&seen), Vec::<String>::new(), "another one is down");
}

#[test]
fn a_refused_node_is_not_replaced_while_there_is_no_version_that_can_be_used() {
    let seen = Observed { version: VersionSeen::NotReady("x".into()), ..refusing(running(), &["n2"]) };
    assert_eq!(plan(&seen).steps, []);
}

/// A control-plane node and a worker that were made from settings that the spec no longer has.
fn drifting() -> Observed {
    let mut seen = running();
    seen.nodes.iter_mut().for_each(|node| node.drifted = true);
    seen
}

#[test]
fn other_settings_of_a_group_replace_its_nodes_as_another_version_does() {
    let seen = drifting();
    let first = plan(&seen);
    assert_eq!(first.steps, [create("w", Role::Worker, 4, 0)]);
    assert!(first.next.iter().any(|line| line.contains("3 nodes that are not what is wanted")), "{:?}", first.next);
    assert!(!super::super::report::converged(&seen, &first));
    let mut seen = drifting();
    seen.nodes.push(node(4, Role::Worker, "a", Phase::Ready));
    let step = plan(&seen).steps.into_iter().find(|step| matches!(step, Step::DeleteNode { .. })).unwrap();
    assert!(step.words().contains("settings that group w has now"), "{}", step.words());
    seen.nodes.retain(|node| !node.drifted || node.role == Role::ControlPlane);
    seen.nodes.push(node(5, Role::Worker, "a", Phase::Ready));
    assert_eq!(plan(&seen).steps, [create("control-plane", Role::ControlPlane, 2, 0)]);
}

#[test]
fn what_was_never_launched_is_made_anew_at_once_when_something_else_is_wanted() {
    let mut seen = running();
    seen.nodes[2] = NodeSeen { provider_id: None, drifted: true, ..node(3, Role::Worker, "a", Phase::Pending) };
    assert_eq!(deleted(&seen), ["n3"]);
    seen.nodes[2].deleting = true;
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
    // One that has its VM waits for another one, as in every roll.
    seen.nodes[2] = NodeSeen { drifted: true, ..node(3, Role::Worker, "a", Phase::Booting) };
    assert!(deleted(&seen).is_empty());
    seen.nodes[2] = NodeSeen { provider_id: None, ..node(3, Role::Worker, "a", Phase::Pending) };
    assert!(deleted(&seen).is_empty());
}

fn short(index: u32, group: &str) -> NodeSeen {
    let pending = node(index, Role::Worker, "a", Phase::Pending);
    NodeSeen { group: group.into(), short: Some(reason::QUOTA_EXCEEDED), provider_id: None, ..pending }
}

/// A second group, `v`, of one node.
fn grouped(mut seen: Observed) -> Observed {
    seen.groups.push(GroupSeen { name: "v".into(), wanted: 1, current: Some(1), ..seen.groups[0].clone() });
    seen
}

#[test]
fn a_node_that_the_cloud_has_no_room_for_holds_no_other_group_up() {
    let mut seen = grouped(running());
    seen.groups[0].current = Some(4);
    seen.nodes[2] = NodeSeen { short: None, ..short(3, "w") };
    assert!(plan(&seen).steps.is_empty());
    // Not all of its own group wait: they would come at once.
    seen.nodes[2] = short(3, "w");
    let given = plan(&seen);
    assert_eq!(given.steps, [create("v", Role::Worker, 4, 0)]);
    let blocked = given.blocked.unwrap();
    assert_eq!((blocked.reason, blocked.message.as_str()), (reason::QUOTA_EXCEEDED, "node n3: it broke"));
    // A roll goes on beside it, and not in its own group.
    let mut seen = grouped(rolling());
    seen.nodes.push(NodeSeen { group: "v".into(), ..node(4, Role::Worker, "a", Phase::Ready) });
    seen.nodes.push(NodeSeen { digest: "b".into(), ..short(5, "w") });
    assert_eq!(plan(&seen).steps, [create("v", Role::Worker, 6, 0)]);
}

#[test]
fn what_waits_for_room_goes_first_when_fewer_are_wanted() {
    let mut seen = running();
    for index in [4, 5] {
        let pending = node(index, Role::ControlPlane, "a", Phase::Pending);
        seen.nodes.push(NodeSeen { short: Some(reason::NO_CAPACITY), provider_id: None, ..pending });
    }
    assert_eq!(deleted(&seen), ["n4", "n5"]);
    seen.control_plane_replicas = 3;
    assert!(deleted(&seen).is_empty());
    seen.nodes.truncate(3);
    seen.nodes.push(short(6, "w"));
    assert_eq!(deleted(&seen), ["n6"]);
    // A roll's own is wanted.
    let mut seen = rolling();
    seen.nodes.push(NodeSeen { digest: "b".into(), ..short(5, "w") });
    assert!(deleted(&seen).is_empty());
}

#[test]
fn a_first_node_without_room_says_so() {
    let waiting = NodeSeen { provider_id: None, address: None, ..node(1, Role::ControlPlane, "a", Phase::Pending) };
    let mut seen = Observed { nodes: vec![waiting], ..prepared() };
    assert_eq!(plan(&seen).blocked.unwrap().reason, reason::INITIALIZING_CONTROL_PLANE);
    seen.nodes[0].short = Some(reason::NO_CAPACITY);
    let blocked = plan(&seen).blocked.unwrap();
    assert!(blocked.reason == reason::NO_CAPACITY && blocked.message.contains("it broke"), "{blocked:?}");
}

#[test]
fn a_failed_node_is_replaced_at_once_when_something_else_is_wanted_than_what_it_was() {
    let mut seen = running();
    let failed = node(3, Role::Worker, "a", Phase::Failed);
    seen.nodes[2] = NodeSeen { failures: 5, accepted: Some(false), disproved: true, ..failed };
    assert!(plan(&seen).steps.is_empty());
    seen.nodes[2].drifted = true;
    assert_eq!(plan(&seen).steps[0], create("w", Role::Worker, 4, 0));
    assert_eq!(deleted(&seen), ["n3"]);
}

#[test]
fn nodes_have_numbers_that_the_pod_network_has_room_for() {
    let mut seen = running();
    (seen.max_index, seen.groups[0].current) = (3, Some(3));
    let given = plan(&seen);
    assert!(given.steps.is_empty());
    let blocked = given.blocked.unwrap();
    assert!(blocked.stalled && blocked.reason == reason::INVALID_SPEC && blocked.message.contains("which has 3"));
    // One that leaves gives its number back.
    seen.nodes[2].deleting = true;
    let given = plan(&seen);
    assert!(
        given.blocked.is_none_or(|blocked| !blocked.stalled) && given.next.iter().any(|line| line.contains("has left"))
    );
    seen.nodes[2].deleting = false;
    seen.max_index = 4;
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
}

#[test]
fn a_version_of_another_kubernetes_rolls_nobody_and_says_so() {
    let version = VersionSeen::Impossible("NodeVersion v is for another Kubernetes".into());
    let given = plan(&Observed { version, ..running() });
    assert!(given.steps.is_empty() && given.accepted == [self::version("a")]);
    let blocked = given.blocked.unwrap();
    assert_eq!((blocked.stalled, blocked.reason), (true, reason::INVALID_SPEC));
}

#[test]
fn a_control_plane_that_lost_its_majority_for_good_says_what_to_do() {
    let silent = |phases: &[(Phase, bool)], seconds: i64, vanished: bool| {
        let mut seen =
            Observed { reachable: false, unreachable_seconds: seconds, control_plane_replicas: 3, ..running() };
        seen.nodes.retain(|node| node.role == Role::Worker);
        for (index, (phase, joined)) in (11..).zip(phases) {
            let node = node(index, Role::ControlPlane, "a", *phase);
            seen.nodes.push(NodeSeen { was_joined: *joined, vanished, ..node });
        }
        plan(&seen).blocked.unwrap()
    };
    let (booting, failed, ready) = (Phase::Booting, Phase::Failed, Phase::Ready);
    for lost in [
        &[(failed, true)][..],
        &[(failed, true), (ready, true)],
        &[(failed, true), (failed, true), (ready, true)],
        &[(failed, true), (booting, false)],
    ] {
        let blocked = silent(lost, 300, true);
        assert!(blocked.stalled && blocked.reason == reason::QUORUM_LOST, "{lost:?}: {blocked:?}");
        assert!(blocked.message.contains("n11") && blocked.message.contains("restore a backup"), "{}", blocked.message);
        // A restart, or machines that are switched off or late.
        for other in [silent(lost, 299, true), silent(lost, 300, false)] {
            assert_eq!(other.reason, reason::API_SERVER_UNREACHABLE, "{lost:?}");
        }
    }
    for there in [
        &[(ready, true)][..],
        &[(failed, true), (ready, true), (ready, true)],
        &[(failed, false), (ready, true)],
        &[(ready, true), (failed, false), (failed, false)],
    ] {
        assert_eq!(silent(there, 300, true).reason, reason::API_SERVER_UNREACHABLE, "{there:?}");
    }
}

#[test]
fn a_first_node_that_is_lost_before_it_was_ever_seen_to_join_is_told_of() {
    let first = NodeSeen { was_joined: false, ..node(1, Role::ControlPlane, "a", Phase::Failed) };
    let mut seen = Observed { reachable: false, unreachable_seconds: 300, nodes: vec![first], ..running() };
    let blocked = plan(&seen).blocked.unwrap();
    assert!(blocked.stalled && blocked.reason == reason::QUORUM_LOST && !blocked.message.contains("backup"));
    seen.nodes[0].phase = Phase::Booting;
    assert_eq!(plan(&seen).blocked.unwrap().reason, reason::API_SERVER_UNREACHABLE);
}

#[test]
fn an_api_server_that_turns_us_away_is_not_recovered_but_told_of() {
    let away = Observed { reachable: false, unreachable_seconds: 999, ..running() };
    assert_eq!(plan(&away).steps, [Step::StartRecover("n1".into())]);
    let starts = Observed { turned_away: Some("Unauthorized".into()), ..away };
    let blocked = plan(&starts).blocked.unwrap();
    let expected = (vec![], reason::API_SERVER_UNREACHABLE, false);
    assert_eq!((plan(&starts).steps, blocked.reason, blocked.stalled), expected);
    let turned_away = Observed { shut_out: true, ..starts };
    let blocked = plan(&turned_away).blocked.unwrap();
    assert_eq!((plan(&turned_away).steps, blocked.reason, blocked.stalled), (vec![], reason::ACCESS_DENIED, true));
    assert!(blocked.message.contains("Unauthorized"));
}

#[test]
fn a_member_that_is_down_does_not_keep_a_refused_one_in_its_place() {
    let mut seen = refusing(running(), &["n2"]);
    seen.nodes[2].phase = Phase::Joined;
    assert_eq!(plan(&seen).steps, [create("w", Role::Worker, 4, 0)]);
    let told = Observed { on_failure: OnFailure::Report, ..seen.clone() };
    assert!(plan(&told).blocked.unwrap().message.contains("delete ConfidentialNode n3"));
    seen.nodes[2].was_ready = false;
    assert_eq!(plan(&seen).steps, [], "one that is new is awaited");
    let mut rolls = rolling();
    rolls.nodes[1] = node(2, Role::Worker, "b", Phase::Ready);
    rolls.nodes[1].phase = Phase::Joined;
    assert_eq!(plan(&rolls).steps, [], "and a roll waits for everybody");
}

#[test]
fn the_first_node_is_made_when_none_stands_and_anew_when_something_else_is_wanted() {
    let with = |node: NodeSeen| Observed { nodes: vec![node], ..prepared() };
    let first = || node(1, Role::ControlPlane, "a", Phase::Booting);
    let made = [create("control-plane", Role::ControlPlane, 2, 0)];
    assert_eq!(plan(&with(NodeSeen { deleting: true, ..first() })).steps, made);
    let failed = NodeSeen { accepted: Some(false), disproved: true, ..node(1, Role::ControlPlane, "a", Phase::Failed) };
    assert_eq!(plan(&with(failed.clone())).steps, [], "it can be read for a minute");
    assert!(plan(&with(failed)).blocked.unwrap().message.contains("n1 failed and will be replaced: it broke"));
    assert!(plan(&prepared()).blocked.unwrap().message.contains("is being made"));

    let old =
        Observed { accepted: vec![version("z"), version("a")], ..with(NodeSeen { digest: "z".into(), ..first() }) };
    assert_eq!(deleted(&old), ["n1"]);
    let talks = vec![("u1".into(), Init::Running("x".into()))];
    assert_eq!(deleted(&Observed { talks, ..old.clone() }), Vec::<String>::new(), "it is being initialised");
    let mut ready = old;
    ready.nodes[0].phase = Phase::Ready;
    assert_eq!(deleted(&ready), Vec::<String>::new());
}

#[test]
fn the_only_control_plane_node_that_is_to_go_gets_a_successor_and_serves_until_then() {
    let mut seen = running();
    seen.nodes[0].deleting = true;
    assert_eq!(plan(&seen).steps, [create("control-plane", Role::ControlPlane, 4, 0)]);
    assert!(plan(&seen).blocked.unwrap().message.contains("n1 is to go: it broke"));
    seen.nodes.push(node(4, Role::ControlPlane, "a", Phase::Booting));
    seen.targets = None;
    assert_eq!(plan(&seen).steps, [Step::SetTargets(vec!["id1".into()])], "nobody else has an API server");
    seen.nodes[3] = node(4, Role::ControlPlane, "a", Phase::Ready);
    assert_eq!(plan(&seen).steps, [Step::SetTargets(vec!["id4".into()])]);
    seen.nodes.truncate(3);
    seen.nodes[0].phase = Phase::Terminating;
    assert_eq!(plan(&seen).steps, [create("control-plane", Role::ControlPlane, 4, 0)], "it serves no more");
    // Its power went meanwhile: nobody joins before it has its disk key.
    for (phase, steps) in [(Phase::Ready, vec![Step::StartRecover("n1".into())]), (Phase::Terminating, vec![])] {
        seen.nodes[0].phase = phase;
        let silent =
            Observed { reachable: false, unreachable_seconds: 30, targets: Some(vec!["id1".into()]), ..seen.clone() };
        assert_eq!(plan(&silent).steps, steps);
    }
}

#[test]
fn in_a_lost_majority_one_that_is_to_go_counts_while_it_runs() {
    let mut seen = Observed { reachable: false, unreachable_seconds: 300, ..three() };
    (seen.nodes[0].phase, seen.nodes[0].vanished) = (Phase::Failed, true);
    seen.nodes[1].deleting = true;
    for (phase, why) in [(Phase::Draining, reason::API_SERVER_UNREACHABLE), (Phase::Terminating, reason::QUORUM_LOST)] {
        seen.nodes[1].phase = phase;
        assert_eq!(plan(&seen).blocked.unwrap().reason, why, "{phase:?}");
    }
}

#[test]
fn a_lost_majority_is_counted() {
    let mut seen = Observed { reachable: false, unreachable_seconds: 300, ..three() };
    for gone in &mut seen.nodes[..2] {
        (gone.phase, gone.vanished) = (Phase::Failed, true);
    }
    let message = plan(&seen).blocked.unwrap().message;
    assert!(message.starts_with("2 of 3 control-plane nodes are gone for good (n1, n2)"), "{message}");
}

#[test]
fn of_a_group_that_others_set_the_size_of_the_spec_says_the_bounds() {
    let group = |current, remembered: Option<&str>| {
        let mut seen = running();
        let group = &mut seen.groups[0];
        (group.wanted, group.min, group.max, group.autoscaled) = (2, 2, 5, true);
        (group.spec, group.remembered, group.current) = ("2-5".into(), remembered.map(str::to_owned), current);
        plan(&seen).steps.into_iter().find(|step| matches!(step, Step::ApplyGroup { .. }))
    };
    let applied = |replicas| Some(Step::ApplyGroup { group: "w".into(), replicas, spec: "2-5".into() });
    assert_eq!(group(None, None), applied(2), "a new one is as small as it may be");
    assert_eq!(group(Some(4), Some("1-5")), applied(4), "new bounds leave a size that fits");
    assert_eq!(group(Some(7), Some("2-9")), applied(5));
    assert_eq!(group(Some(7), Some("2-5")), applied(5), "whoever set it");
    assert_eq!(group(Some(4), Some("2-5")), None);
}

#[test]
fn what_is_waited_for_is_said() {
    let mut seen = running();
    for (phase, words) in
        [(Phase::Attested, "n3 is attested and joining"), (Phase::Joined, "n3 is joined and not Ready yet")]
    {
        seen.nodes[2] = node(3, Role::Worker, "a", phase);
        assert!(plan(&seen).blocked.unwrap().message.contains(words), "{phase:?}");
    }
}
