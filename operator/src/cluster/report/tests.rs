//! Tables: seen and planned, and what people are told.

use constellation_crds::{
    ConstellationClusterStatus,
    cluster::RolledBack,
    condition::{is_true, kind, reason},
    node::{Phase, Role},
};
use jiff::Timestamp;

use super::{Facts, report};
use crate::cluster::{
    plan::{
        plan,
        tests::{empty, node, rolling, running, three},
    },
    seen::Observed,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn status(seen: &Observed, facts: &Facts) -> ConstellationClusterStatus {
    report(seen, &plan(seen), facts, &ConstellationClusterStatus::default(), at(1))
}

fn ready_reason(status: &ConstellationClusterStatus) -> &str {
    &status.conditions.iter().find(|c| c.type_ == kind::READY).unwrap().reason
}

#[test]
fn a_steady_cluster_is_ready_and_available() {
    let status = status(&running(), &Facts::default());
    let list = &status.conditions;
    for kind in [kind::READY, kind::AVAILABLE, kind::ATTESTATION_VERIFIED, kind::NODES_UP_TO_DATE, kind::ETCD_HEALTHY] {
        assert!(is_true(list, kind), "{kind}");
    }
    assert!(!list.iter().any(|c| [kind::RECONCILING, kind::STALLED, kind::DEGRADED].contains(&c.type_.as_str())));
    assert_eq!((status.desired_nodes, status.ready_nodes, status.attested_nodes), (Some(3), Some(3), Some(3)));
    assert_eq!((status.plan, status.summary.as_deref()), (vec![], Some("3 of 3 nodes are Ready")));
}

#[test]
fn a_cluster_is_ready_only_when_every_node_is_attested() {
    for (accepted, verified) in [(None, reason::ATTESTATION_PENDING), (Some(false), reason::ATTESTATION_REFUSED)] {
        let mut seen = running();
        seen.nodes[2].accepted = accepted;
        let status = status(&seen, &Facts::default());
        assert!(!is_true(&status.conditions, kind::READY), "{accepted:?}");
        let condition = status.conditions.iter().find(|c| c.type_ == kind::ATTESTATION_VERIFIED).unwrap();
        assert_eq!(condition.reason, verified);
        assert_eq!(ready_reason(&status) == reason::ATTESTATION_REFUSED, accepted == Some(false));
    }
}

#[test]
fn a_trust_bundle_that_is_signed_anew_is_no_news_and_ends_a_roll_only_when_written() {
    let (seen, conflict) =
        (Observed { trust_current: false, ..running() }, Facts { conflict: true, ..Facts::default() });
    let ready = status(&seen, &Facts::default());
    assert_eq!(ready, status(&running(), &Facts::default()));
    assert!(!is_true(&status(&seen, &conflict).conditions, kind::READY), "what it takes back is still trusted");
    assert_eq!(report(&seen, &plan(&seen), &conflict, &ready, at(99)), ready);
    let failed = Facts { error: Some("x".into()), ..Facts::default() };
    assert!(!is_true(&report(&seen, &plan(&seen), &failed, &ready, at(99)).conditions, kind::READY));
}

#[test]
fn a_report_of_the_same_is_the_same() {
    let seen = running();
    let first = status(&seen, &Facts::default());
    assert_eq!(report(&seen, &plan(&seen), &Facts::default(), &first, at(99)), first);
}

#[test]
fn who_sees_nothing_says_why_and_keeps_what_was_known() {
    let before = status(&running(), &Facts::default());
    let now = super::blind(&before, reason::SECRET_INVALID, "Secret x holds nothing", Some(2), at(99));
    assert_eq!(ready_reason(&now), reason::SECRET_INVALID);
    assert!(is_true(&now.conditions, kind::STALLED) && !is_true(&now.conditions, kind::RECONCILING));
    assert!(!is_true(&now.conditions, kind::READY) && is_true(&now.conditions, kind::CONTROL_PLANE_INITIALIZED));
    assert_eq!((now.ready_nodes, &now.accepted_versions), (before.ready_nodes, &before.accepted_versions));
    assert_eq!(super::blind(&now, reason::SECRET_INVALID, "Secret x holds nothing", Some(2), at(100)), now);
    let seen = running();
    assert!(!is_true(&report(&seen, &plan(&seen), &Facts::default(), &now, at(101)).conditions, kind::STALLED));
}

#[test]
fn a_new_cluster_says_what_comes_next() {
    let status = status(&empty(), &Facts::default());
    assert!(!is_true(&status.conditions, kind::READY) && is_true(&status.conditions, kind::RECONCILING));
    assert!(status.plan.iter().any(|line| line.contains("owner key")));
    assert_eq!(status.accepted_versions.len(), 1);
}

#[test]
fn a_roll_is_available_and_not_ready() {
    let mut seen = running();
    seen.nodes[1].digest = "old".into();
    let status = status(&seen, &Facts::default());
    assert!(is_true(&status.conditions, kind::AVAILABLE) && !is_true(&status.conditions, kind::NODES_UP_TO_DATE));
    assert_eq!(ready_reason(&status), reason::ROLLING_OUT);
}

#[test]
fn a_cluster_is_ready_only_when_no_other_version_is_accepted_any_more() {
    let mut seen = running();
    let mut old = seen.accepted[0].clone();
    old.digest = "old".into();
    seen.accepted.push(old);
    let status = status(&seen, &Facts::default());
    assert_eq!(status.accepted_versions.len(), 1);
    assert!(!is_true(&status.conditions, kind::READY), "the next look writes the bundle, and would take Ready back");
}

#[test]
fn a_refused_node_and_a_failed_one_are_named() {
    let mut seen = running();
    seen.nodes[2] = node(3, Role::Worker, "a", Phase::Failed);
    seen.nodes[2].accepted = Some(false);
    let status = status(&seen, &Facts::default());
    let of = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    assert!(of(kind::DEGRADED).message.contains("n3"));
    assert_eq!(
        (of(kind::ATTESTATION_VERIFIED).status.as_str(), of(kind::ATTESTATION_VERIFIED).reason.as_str()),
        ("False", reason::ATTESTATION_REFUSED)
    );
    assert_eq!(ready_reason(&status), reason::REPLACING_NODE);
}

#[test]
fn paused_stalled_and_blocked_deletion_say_so() {
    let paused = status(&Observed { paused: true, ..running() }, &Facts::default());
    assert!(is_true(&paused.conditions, kind::PAUSED) && !is_true(&paused.conditions, kind::RECONCILING));
    let refused = Observed { provider_refused: Some("start it with --allow-simulated".into()), ..empty() };
    let stalled = status(&refused, &Facts::default());
    assert!(is_true(&stalled.conditions, kind::STALLED));
    assert!(stalled.summary.unwrap().contains("--allow-simulated"));
    let facts = Facts { error: Some("denied: no rights".into()), ..Facts::default() };
    let blocked = status(&Observed { deleting: true, ..running() }, &facts);
    assert!(is_true(&blocked.conditions, kind::DELETION_BLOCKED));
}

#[test]
fn a_refusal_of_the_cloud_is_the_reason_why_a_cluster_is_not_ready() {
    let error = crate::error::Error::Cloud(crate::cloud::CloudError::Denied("grant compute.instances.create".into()));
    let facts = Facts { error: Some(error.to_string()), why: error.reason(), ..Facts::default() };
    let denied = status(&running(), &facts);
    let ready = denied.conditions.iter().find(|c| c.type_ == kind::READY).unwrap();
    assert_eq!(ready.reason, reason::ACCESS_DENIED);
    assert!(ready.message.contains("grant compute.instances.create"), "{}", ready.message);
    let passing = crate::error::Error::Cloud(crate::cloud::CloudError::Transient("reset".into()));
    assert_eq!((passing.reason(), passing.needs_help()), (None, false));
    // Whoever waits for somebody's help says so.
    assert!(error.needs_help());
    let stuck = status(&running(), &Facts { stuck: true, ..facts });
    assert!(is_true(&stuck.conditions, kind::STALLED) && !is_true(&stuck.conditions, kind::RECONCILING));
}

#[test]
fn what_was_written_once_stays() {
    let facts = Facts { cluster_id: Some("id".into()), endpoint: Some("e".into()), ..Facts::default() };
    let first = status(&running(), &facts);
    let seen = Observed { reachable: false, ..running() };
    let second = report(&seen, &plan(&seen), &Facts::default(), &first, at(50));
    assert_eq!((second.cluster_id, second.endpoint), (first.cluster_id, first.endpoint));
    assert_eq!(second.initialization, first.initialization);
    assert!(!is_true(&second.conditions, kind::AVAILABLE));
}

#[test]
fn the_revision_in_the_status_never_goes_back() {
    let before = ConstellationClusterStatus { trust_revision: Some(5), ..ConstellationClusterStatus::default() };
    let seen = running();
    for (live, expected) in [(None, 5), (Some(1), 5), (Some(5), 5), (Some(6), 6)] {
        let facts = Facts { trust_revision: live, ..Facts::default() };
        assert_eq!(report(&seen, &plan(&seen), &facts, &before, at(1)).trust_revision, Some(expected));
    }
}

#[test]
fn a_cluster_that_goes_with_its_credentials_says_what_stands_in_the_way() {
    let refused = || Some("Secret k with the credentials isn't there: create it".to_owned());
    let gone = |provider_refused| {
        let seen = Observed { deleting: true, finalizer: true, provider_refused, ..running() };
        status(&seen, &Facts::default())
    };
    let blocked = gone(refused());
    let condition = |kind: &str| blocked.conditions.iter().find(|c| c.type_ == kind && c.status == "True").unwrap();
    let message = &condition(kind::DELETION_BLOCKED).message;
    assert!(message.contains("create it") && message.contains("Orphan"), "{message}");
    assert!(condition(kind::STALLED).message.contains("create it"));
    assert!(!gone(None).conditions.iter().any(|c| [kind::DELETION_BLOCKED, kind::STALLED].contains(&c.type_.as_str())));
    // While it lives, another condition says so.
    let seen = Observed { provider_refused: refused(), ..running() };
    assert!(!is_true(&status(&seen, &Facts::default()).conditions, kind::DELETION_BLOCKED));
}

#[test]
fn nodes_with_settings_that_are_no_more_are_not_up_to_date() {
    let mut seen = running();
    seen.nodes[1].drifted = true;
    let status = status(&seen, &Facts::default());
    assert!(!is_true(&status.conditions, kind::READY) && !is_true(&status.conditions, kind::NODES_UP_TO_DATE));
    assert_eq!((status.up_to_date_nodes, ready_reason(&status)), (Some(2), reason::ROLLING_OUT));
}

#[test]
fn a_version_that_was_given_up_is_told_of_until_another_one_is_wanted() {
    let given_up = RolledBack { from: "b".into(), to: "a".into(), node: "n4".into(), message: "tpm.pcr.11".into() };
    let seen = Observed { rolled_back: Some(given_up.clone()), accepted: running().accepted, ..rolling() };
    let status = status(&seen, &Facts::default());
    let found = |kind| status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    for kind in [kind::READY, kind::NODES_UP_TO_DATE] {
        assert_eq!(
            (found(kind).status.as_str(), found(kind).reason.as_str()),
            ("False", reason::ROLLED_BACK),
            "{kind}"
        );
        assert!(found(kind).message.contains("n4") && found(kind).message.contains("tpm.pcr.11"), "{kind}");
    }
    assert!(is_true(&status.conditions, kind::AVAILABLE) && is_true(&status.conditions, kind::STALLED));
    // From the beginning to the end of the way back the reason is one, so that it is told once.
    for (seen, facts) in [
        (Observed { trust_current: false, ..seen.clone() }, Facts::default()),
        (seen.clone(), Facts { error: Some("timed out".into()), ..Facts::default() }),
    ] {
        assert_eq!(ready_reason(&self::status(&seen, &facts)), reason::ROLLED_BACK);
    }
    assert_eq!((status.rolled_back, status.target_version.as_deref()), (Some(given_up), Some("a")));
}

#[test]
fn etcd_is_called_unhealthy_only_when_its_majority_is_lost_for_good_and_unknown_with_the_reason() {
    let etcd = |seen: &Observed| {
        let status = status(seen, &Facts::default());
        let found = status.conditions.into_iter().find(|c| c.type_ == kind::ETCD_HEALTHY).unwrap();
        (found.status, found.reason, found.message)
    };
    let down = |mut seen: Observed, count: usize| {
        seen.nodes[..count].iter_mut().for_each(|node| node.phase = Phase::Joined);
        seen
    };
    let five = || {
        let nodes = (1..=5).map(|index| node(index, Role::ControlPlane, "a", Phase::Ready)).collect();
        Observed { control_plane_replicas: 5, nodes, ..three() }
    };
    let silent = |seen| Observed { reachable: false, unreachable_seconds: 300, ..seen };
    let gone = |mut seen: Observed, count: usize| {
        seen.nodes[..count].iter_mut().for_each(|node| (node.phase, node.vanished) = (Phase::Failed, true));
        seen
    };
    let going = |phase| {
        let mut seen = three();
        seen.nodes.truncate(2);
        (seen.nodes[0].deleting, seen.nodes[0].phase) = (true, phase);
        seen
    };
    for (seen, status, why, words) in [
        (three(), "True", reason::QUORUM_HEALTHY, ""),
        (down(three(), 1), "True", reason::QUORUM_AT_RISK, "2 of 3"),
        (down(three(), 2), "True", reason::QUORUM_AT_RISK, "1 of 3"),
        (down(five(), 1), "True", reason::QUORUM_HEALTHY, "4 of 5"),
        (down(five(), 2), "True", reason::QUORUM_AT_RISK, "3 of 5"),
        (going(Phase::Draining), "True", reason::QUORUM_HEALTHY, ""),
        (going(Phase::Ready), "True", reason::QUORUM_HEALTHY, ""),
        (going(Phase::Joined), "True", reason::QUORUM_AT_RISK, "1 of 2"),
        (gone(three(), 1), "True", reason::QUORUM_AT_RISK, "2 of 3"),
        (silent(three()), "Unknown", reason::UNKNOWN, "does not answer"),
        (silent(gone(three(), 1)), "Unknown", reason::UNKNOWN, "does not answer"),
        (silent(gone(three(), 2)), "False", reason::QUORUM_LOST, "2 of 3 control-plane nodes are gone for good"),
        (empty(), "Unknown", reason::UNKNOWN, "not initialised"),
        (Observed { simulated: true, ..running() }, "Unknown", reason::UNKNOWN, "simulated"),
    ] {
        let told = etcd(&seen);
        assert_eq!((told.0.as_str(), told.1.as_str()), (status, why), "{words}: {told:?}");
        assert!(told.2.contains(words) && told.2.is_empty() == words.is_empty(), "{told:?}");
    }
}

#[test]
fn a_cluster_is_degraded_for_what_is_wrong() {
    let degraded = |seen: &Observed| {
        let status = status(seen, &Facts::default());
        status.conditions.into_iter().find(|c| c.type_ == kind::DEGRADED).map(|found| (found.reason, found.message))
    };
    let failing = |mut seen: Observed| {
        seen.nodes[2] = node(3, Role::Worker, "a", Phase::Failed);
        seen
    };
    let mut down = running();
    down.nodes[0].phase = Phase::Joined;
    let silent = |seen| Observed { reachable: false, ..seen };
    for (seen, why, words) in [
        (failing(running()), reason::REPLACING_NODE, "failed: n3"),
        (silent(running()), reason::API_SERVER_UNREACHABLE, "the cluster's API server does not answer"),
        (silent(failing(running())), reason::API_SERVER_UNREACHABLE, "does not answer; failed: n3"),
        (down, reason::NODES_NOT_READY, "no control-plane node is Ready"),
    ] {
        let (reason, message) = degraded(&seen).unwrap();
        assert!(reason == why && message.contains(words), "{reason} {message}");
    }
    assert_eq!(degraded(&running()), None);
}

#[test]
fn figures_of_a_cluster_that_does_not_answer_are_said_to_be_old() {
    let summary = |seen: &Observed| status(seen, &Facts::default()).summary.unwrap();
    let silent = Observed { reachable: false, ..running() };
    let told = summary(&silent);
    assert!(told.starts_with("3 of 3 nodes were Ready when the cluster's API server answered last; "), "{told}");
    for now in [running(), empty(), Observed { deleting: true, ..silent }] {
        assert!(summary(&now).contains("nodes are Ready"), "{}", summary(&now));
    }
}

#[test]
fn a_control_plane_node_that_stays_though_it_is_to_go_keeps_its_cluster_available() {
    let mut seen = running();
    seen.nodes[0].deleting = true;
    assert!(is_true(&status(&seen, &Facts::default()).conditions, kind::AVAILABLE));
    seen.nodes[0].phase = Phase::Draining;
    assert!(!is_true(&status(&seen, &Facts::default()).conditions, kind::AVAILABLE));
}
