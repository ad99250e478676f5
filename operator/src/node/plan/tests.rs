//! Seen → steps, one row per situation of a node's life.

use constellation_crds::{
    ConfidentialNodeSpec, FINALIZER_NODE,
    cluster::{LocalRef, OnFailure},
    node::{AttestationResult, Mismatch, Phase, Refusals, Role},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::{
    cloud::{Instance, InstanceId, NodeUid},
    node::{
        report::{Outcome, report},
        seen::{AdmissionSeen, ClusterSeen, KubeSeen, Others, TalkSeen},
    },
};

const NOW: i64 = 10_000;

fn given(role: Role) -> Observed {
    let spec = ConfidentialNodeSpec {
        cluster_ref: LocalRef { name: "c".into() },
        node_group: "g".into(),
        role,
        node_version: "v".into(),
        version_digest: "d".into(),
        image: "i".into(),
        instance_type: "2x2048".into(),
        zone: None,
        state_disk: None,
        index: 1,
        labels: std::collections::BTreeMap::new(),
        taints: vec![],
    };
    let mut node = constellation_crds::ConfidentialNode::new("n", spec);
    node.metadata.finalizers = Some(vec![FINALIZER_NODE.into()]);
    let cluster = ClusterSeen {
        deleting: false,
        orphan: false,
        paused: false,
        infrastructure: true,
        initialized: true,
        others: Others::default(),
        drain_seconds: 60,
        node_seconds: 900,
        on_failure: OnFailure::Report,
    };
    Observed {
        node,
        cluster: Some(cluster),
        instance: None,
        admission: None,
        kube: None,
        talk: None,
        launch_digest: Some("ab".into()),
        now: Timestamp::from_second(NOW).unwrap(),
    }
}

fn running(mut seen: Observed) -> Observed {
    seen.instance = Some(Instance {
        id: InstanceId("i".into()),
        node: NodeUid("u".into()),
        address: None,
        state: InstanceState::Running,
        message: None,
    });
    seen
}

fn member(role: Role) -> Observed {
    let mut seen = running(given(role));
    let appraisal = AttestationResult { verdict: "Accepted".into(), ..AttestationResult::default() };
    seen.admission = Some(AdmissionSeen { admitted: true, evicted: false, appraisal: Some(appraisal), refusals: None });
    seen.kube = Some(KubeSeen { ready: true, cordoned: false, labelled: true, unattested: false, pods: 0 });
    seen
}

fn going(mut seen: Observed, seconds_ago: i64) -> Observed {
    // The API server's clock is a day ahead.
    seen.node.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(NOW + 86_400).unwrap()));
    reached(seen, "Draining", seconds_ago)
}

fn reached(mut seen: Observed, phase: &str, seconds_ago: i64) -> Observed {
    let at = Timestamp::from_second(NOW - seconds_ago).unwrap().to_string();
    seen.node.status.get_or_insert_default().phase_times.insert(phase.into(), at);
    seen
}

fn steps(seen: &Observed) -> Vec<Step> {
    plan(seen).steps
}

#[test]
fn a_node_gets_its_finalizer_then_its_vm_then_its_admission_then_rest() {
    let mut seen = given(Role::Worker);
    seen.node.metadata.finalizers = None;
    assert_eq!(steps(&seen), [Step::AddFinalizer]);
    assert_eq!(steps(&given(Role::Worker)), [Step::Launch]);
    assert_eq!(steps(&running(given(Role::Worker))), [Step::Admit]);
    let seen = member(Role::Worker);
    assert_eq!(plan(&seen), Plan { steps: vec![], soon: false });
}

#[test]
fn a_node_is_labelled_once_its_evidence_was_accepted() {
    let mut seen = member(Role::Worker);
    seen.kube.as_mut().unwrap().labelled = false;
    assert_eq!(steps(&seen), [Step::Label]);
    seen.admission.as_mut().unwrap().appraisal.as_mut().unwrap().verdict = "Refused".into();
    assert_eq!(steps(&seen), []);
}

#[test]
fn nothing_is_launched_without_network_or_cluster_or_while_paused() {
    for change in [
        (|c: &mut ClusterSeen| c.infrastructure = false) as fn(&mut ClusterSeen),
        |c| c.paused = true,
        |c| c.deleting = true,
    ] {
        let mut seen = given(Role::Worker);
        change(seen.cluster.as_mut().unwrap());
        assert_eq!(steps(&seen), []);
    }
    let seen = Observed { cluster: None, ..given(Role::Worker) };
    assert_eq!(plan(&seen), Plan::default());
}

#[test]
fn a_vm_that_vanished_is_never_launched_again_under_the_same_name() {
    let seen = reached(given(Role::Worker), "Launched", 5);
    assert_eq!(steps(&seen), []);
    assert!(seen.failure().is_some());
    // Its kubelet was heard a moment ago: it isn't judged yet, and looked at again soon.
    let seen = Observed { instance: None, ..reached(member(Role::Worker), "Launched", 5) };
    assert_eq!(plan(&seen), Plan { steps: vec![], soon: true });
    assert_eq!(seen.failure(), None);
    let seen = Observed { kube: Some(KubeSeen { ready: false, ..seen.kube.unwrap() }), ..seen };
    assert_eq!(seen.failure().unwrap().0, constellation_crds::condition::reason::INSTANCE_VANISHED);
}

#[test]
fn a_refused_or_late_node_has_failed_and_a_member_has_not() {
    let mut seen = running(given(Role::Worker));
    let appraisal = AttestationResult { verdict: "Refused".into(), ..AttestationResult::default() };
    seen.admission = Some(AdmissionSeen { appraisal: Some(appraisal), ..AdmissionSeen::default() });
    assert!(seen.failure().is_some());
    let late = reached(running(given(Role::Worker)), "Launched", 901);
    assert!(late.failure().is_some());
    assert!(reached(member(Role::Worker), "Launched", 901).failure().is_none());
}

#[test]
fn a_worker_leaves_pods_first_and_its_object_last() {
    let mut seen = going(member(Role::Worker), 1);
    seen.kube.as_mut().unwrap().pods = 2;
    assert_eq!(steps(&seen), [Step::Cordon, Step::Drain]);
    seen.kube.as_mut().unwrap().cordoned = true;
    assert_eq!(steps(&seen), [Step::Drain]);
    let after = |seconds| Observed { now: Timestamp::from_second(NOW - 1 + seconds).unwrap(), ..seen.clone() };
    assert_eq!(steps(&after(59)), [Step::Drain]);
    assert_eq!(steps(&after(60)), [Step::Evict, Step::Terminate]);
    seen.admission.as_mut().unwrap().evicted = true;
    seen.instance = None;
    // What knows of it forgets it, whichever is left.
    assert_eq!(steps(&seen), [Step::Forget]);
    assert_eq!(steps(&Observed { admission: None, ..seen.clone() }), [Step::Forget]);
    seen.kube = None;
    assert_eq!(steps(&seen), [Step::Forget]);
    seen.admission = None;
    assert_eq!(steps(&seen), [Step::DropFinalizer]);
}

/// Beside so many other members, of which so many are Ready.
fn beside(mut seen: Observed, members: u32, ready: u32) -> Observed {
    seen.cluster.as_mut().unwrap().others = Others { members, ready, leaving: 0 };
    seen
}

#[test]
fn a_control_plane_node_leaves_etcd_before_its_vm_goes() {
    let mut seen = beside(going(member(Role::ControlPlane), 1), 1, 1);
    seen.kube.as_mut().unwrap().cordoned = true;
    assert_eq!(steps(&seen), [Step::Evict, Step::Leave]);
    let left = reached(seen.clone(), "Left", 1);
    assert_eq!(steps(&left), [Step::Evict, Step::Terminate]);
    assert_eq!(steps(&beside(left, 0, 0)), [Step::Evict, Step::Terminate], "it holds nothing any more");
    seen.now = Timestamp::from_second(NOW + 100_000).unwrap();
    assert_eq!(steps(&seen), [Step::Evict, Step::Leave], "etcd would end with it");
    assert_eq!(steps(&beside(seen.clone(), 2, 1)), [Step::Evict, Step::Leave], "one alone is no majority of three");
    seen = beside(seen, 2, 2);
    assert_eq!(steps(&seen), [Step::Evict, Step::Terminate], "it never answers, and two are a majority");
    // Its time is that of its drain and that of a node's making.
    for (seconds, step) in [(60 + 899, Step::Leave), (60 + 900, Step::Terminate)] {
        seen.now = Timestamp::from_second(NOW - 1 + seconds).unwrap();
        assert_eq!(steps(&seen), [Step::Evict, step]);
    }
}

#[test]
fn the_last_member_of_a_control_plane_stays_until_another_one_is_there_and_says_so() {
    let last = || reached(going(member(Role::ControlPlane), 1), "Ready", 5000);
    let with = |change: fn(&mut Observed)| {
        let mut seen = last();
        change(&mut seen);
        seen
    };
    let young = |leaving| {
        let mut seen = reached(going(member(Role::ControlPlane), 1), "Joined", 5);
        seen.cluster.as_mut().unwrap().others.leaving = leaving;
        seen
    };
    let table = vec![
        ("the last", last(), true),
        ("whatever its kubelet says", with(|seen| seen.kube.as_mut().unwrap().ready = false), true),
        ("while nobody can be asked", with(|seen| seen.cluster.as_mut().unwrap().initialized = false), true),
        ("however long", with(|seen| seen.now = Timestamp::from_second(NOW + 100_000).unwrap()), true),
        ("the first, that never was Ready", young(0), true),
        ("a young one beside an old one that goes too", young(1), false),
        ("an old one beside an old one that goes too", with(|s| s.cluster.as_mut().unwrap().others.leaving = 1), true),
        ("another one is there", beside(last(), 1, 1), false),
        ("its VM ended", with(|seen| seen.instance.as_mut().unwrap().state = InstanceState::Failed), false),
        ("its VM is gone", with(|seen| seen.instance = None), false),
        ("it left etcd", reached(last(), "Left", 1), false),
        ("it never joined", with(|seen| (seen.node.status, seen.kube) = (None, None)), false),
        ("the cluster goes", with(|seen| seen.cluster.as_mut().unwrap().deleting = true), false),
        ("the cluster is gone", with(|seen| seen.cluster = None), false),
        ("a worker", reached(going(member(Role::Worker), 1), "Ready", 5000), false),
    ];
    for (what, seen, stays) in table {
        let (planned, status) = (plan(&seen), report(&seen, &Outcome::default()));
        let (summary, phase) = (status.summary.unwrap(), status.phase.unwrap());
        let told =
            summary.contains("until another control-plane node is Ready") && summary.contains("delete the cluster");
        assert_eq!((planned.steps.is_empty() && planned.soon, told), (stays, stays), "{what}: {planned:?} {summary}");
        assert_eq!([Phase::Draining, Phase::Terminating].contains(&phase), !stays, "{what}: {phase:?}");
    }
    // Until then it lives on: its drain hasn't begun, and what others need of it is done.
    let status = report(&with(|seen| seen.node.status = None), &Outcome::default());
    assert!(!status.phase_times.contains_key("Draining"));
    assert_eq!(steps(&with(|seen| seen.admission = None)), [Step::Admit]);
    assert_eq!(steps(&with(|seen| seen.node.metadata.finalizers = None)), [], "it takes no new finalizer");
}

#[test]
fn a_node_that_is_paused_or_whose_cluster_is_stays_though_it_was_deleted_unless_the_cluster_goes() {
    let paused = |mut seen: Observed, deleting| {
        let cluster = seen.cluster.as_mut().unwrap();
        (cluster.paused, cluster.deleting) = (true, deleting);
        seen
    };
    for seen in [
        going(member(Role::Worker), 100),
        beside(going(member(Role::ControlPlane), 100), 2, 2),
        going(given(Role::Worker), 100),
        reached(going(member(Role::Worker), 100), "Ready", 500),
    ] {
        assert_ne!(steps(&seen), [], "accepted");
        let stays = paused(seen.clone(), false);
        assert_eq!(plan(&stays), Plan::default());
        let status = report(&stays, &Outcome::default());
        assert!(status.summary.unwrap().contains("it is to go, and stays as long as"));
        assert!(![Phase::Draining, Phase::Terminating].contains(&status.phase.unwrap()));
        let mut goes = seen.clone();
        goes.cluster.as_mut().unwrap().deleting = true;
        assert_eq!(plan(&paused(goes.clone(), true)), plan(&goes), "the cluster is deleted, paused or not");
    }
}

#[test]
fn when_the_cluster_goes_nothing_is_drained() {
    let mut seen = going(member(Role::ControlPlane), 1);
    seen.cluster.as_mut().unwrap().deleting = true;
    assert_eq!(steps(&seen), [Step::Terminate]);
    seen.instance = None;
    assert_eq!(steps(&seen), [Step::Forget]);
    assert_eq!(steps(&Observed { admission: None, ..seen.clone() }), [Step::Forget]);
    assert_eq!(steps(&Observed { kube: None, ..seen.clone() }), [Step::Forget]);
    (seen.admission, seen.kube) = (None, None);
    assert_eq!(steps(&seen), [Step::DropFinalizer]);
    let mut orphan = going(member(Role::Worker), 1);
    let cluster = orphan.cluster.as_mut().unwrap();
    (cluster.deleting, cluster.orphan) = (true, true);
    assert_eq!(steps(&orphan), [Step::DropFinalizer]);
}

#[test]
fn only_a_vm_that_was_launched_and_ended_is_lost() {
    assert!(!given(Role::Worker).is_lost() && !running(given(Role::Worker)).is_lost());
    assert!(reached(given(Role::Worker), "Launched", 5).is_lost());
    let mut seen = running(given(Role::Worker));
    seen.instance.as_mut().unwrap().state = InstanceState::Failed;
    assert!(seen.is_lost());
}

#[test]
fn a_launch_that_the_cloud_refused_says_why_in_its_condition() {
    let reason = |step, why| {
        let outcome = Outcome { failed: Some((step, why, "no room".into())), ..Outcome::default() };
        let status = report(&given(Role::Worker), &outcome);
        let launched = status.conditions.into_iter().find(|condition| condition.type_ == "Launched").unwrap();
        (launched.reason, launched.message.contains("no room"))
    };
    assert_eq!(reason(Step::Launch, "NoCapacity"), ("NoCapacity".to_owned(), true));
    assert_eq!(reason(Step::AddFinalizer, "CloudError"), ("Pending".to_owned(), true));
}

fn refusal(id: &str, time: &str) -> AttestationResult {
    let mismatch = Mismatch { clause: "tpm.pcr.11".into(), message: "another image".into(), ..Mismatch::default() };
    AttestationResult {
        verdict: "Refused".into(),
        time: Some(time.into()),
        refusal_id: Some(id.into()),
        mismatches: vec![mismatch],
        ..AttestationResult::default()
    }
}

#[test]
fn a_node_that_is_refused_while_it_leaves_is_told_with_its_reasons_and_again_only_for_others() {
    let mut seen = beside(going(member(Role::ControlPlane), 1), 1, 1);
    let mut told = |id: &str, time: &str| {
        let failed = Some((Step::Leave, "AttestationRefused", "refused: tpm.pcr.11: another image".to_owned()));
        let outcome = Outcome { failed, refused: Some(refusal(id, time)), ..Outcome::default() };
        let status = report(&seen, &outcome);
        seen.node.status = Some(status.clone());
        status
    };
    let status = told("a", "1");
    assert_eq!((status.phase, status.attestation), (Some(Phase::Draining), Some(refusal("a", "1"))));
    assert!(status.summary.is_some_and(|text| text.contains("Leave failed") && text.contains("tpm.pcr.11")));
    let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    assert_eq!(condition("Attested").reason, "AttestationRefused");
    assert!(condition("Draining").message.contains("tpm.pcr.11"));
    assert_eq!(told("a", "2").attestation, Some(refusal("a", "1")), "the same reasons are no news");
    assert_eq!(told("b", "3").attestation, Some(refusal("b", "3")));
}

#[test]
fn what_the_owner_refused_without_evidence_is_told_by_reason_and_at_each_doubling() {
    let mut seen = running(given(Role::ControlPlane));
    seen.cluster.as_mut().unwrap().initialized = false;
    let mut told = |count, id: &str| {
        let refusals = Some(Refusals { count, since: None, last: refusal(id, "1"), others: Vec::new() });
        seen.talk = Some(TalkSeen { refusals, ..TalkSeen::default() });
        let status = report(&seen, &Outcome::default());
        seen.node.status = Some(status.clone());
        assert_eq!((status.phase, status.attestation), (Some(Phase::Booting), None), "it says nothing about the node");
        assert!(status.summary.unwrap().contains("tpm.pcr.11"));
        status.refusals.unwrap().count
    };
    let counts = [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (7, "a"), (8, "a"), (9, "b"), (1, "b")];
    assert_eq!(counts.map(|(count, id)| told(count, id)), [1, 2, 2, 4, 4, 8, 9, 9]);
}

/// A member that verifiers refuse for this clause, and whether it has our taint already.
fn refused(on_failure: OnFailure, clause: &str, unattested: bool) -> Observed {
    let mut seen = reached(member(Role::Worker), "Joined", 500);
    let mismatch = Mismatch {
        clause: clause.into(),
        expected: Some("snp-crl.Milan".into()),
        message: "why".into(),
        ..Mismatch::default()
    };
    let appraisal =
        AttestationResult { verdict: "Refused".into(), mismatches: vec![mismatch], ..AttestationResult::default() };
    seen.admission.as_mut().unwrap().appraisal = Some(appraisal);
    seen.cluster.as_mut().unwrap().on_failure = on_failure;
    seen.kube.as_mut().unwrap().unattested = unattested;
    seen
}

#[test]
fn a_refused_member_is_tainted_where_that_is_wanted_and_as_long_as_it_is_refused() {
    use OnFailure::{Replace, Report, Taint};
    let accepted = |on_failure, unattested| {
        let appraisal = member(Role::Worker).admission.unwrap().appraisal;
        let mut seen = refused(on_failure, "", unattested);
        seen.admission.as_mut().unwrap().appraisal = appraisal;
        seen
    };
    let paused = |mut seen: Observed| {
        seen.cluster.as_mut().unwrap().paused = true;
        seen
    };
    let unheard = |mut seen: Observed| {
        seen.cluster.as_mut().unwrap().initialized = false;
        Observed { admission: None, kube: None, ..seen }
    };
    let (image, silence) = ("tpm.pcr.11", "evidence.absent");
    let table = vec![
        ("refused", refused(Taint, image, false), vec![Step::Taint]),
        ("silent", refused(Taint, silence, false), vec![Step::Taint]),
        ("tainted already", refused(Taint, image, true), vec![]),
        ("accepted", accepted(Taint, false), vec![]),
        ("accepted again", accepted(Taint, true), vec![Step::Untaint]),
        ("not wanted", refused(Report, image, false), vec![]),
        ("not wanted any more", refused(Report, image, true), vec![Step::Untaint]),
        ("to be replaced", refused(Replace, image, false), vec![]),
        ("to be replaced instead", refused(Replace, image, true), vec![Step::Untaint]),
        ("only collateral is wanting", refused(Taint, "evidence.collateral", false), vec![]),
        ("paused", paused(refused(Taint, image, false)), vec![]),
        ("nobody can be asked", unheard(refused(Taint, image, true)), vec![]),
    ];
    for (what, seen, expected) in table {
        assert_eq!(steps(&seen), expected, "{what}");
        assert_eq!(seen.failure(), None, "{what}: a member isn't ended for it");
    }
}

#[test]
fn who_is_no_member_yet_is_not_tainted_but_fails() {
    let mut seen = refused(OnFailure::Taint, "tpm.pcr.11", false);
    (seen.kube, seen.node.status) = (None, None);
    assert_eq!((steps(&seen), seen.refused_member()), (vec![], None));
    assert_eq!(seen.failure().unwrap().0, constellation_crds::condition::reason::ATTESTATION_REFUSED);
}

#[test]
fn a_node_is_ready_only_when_its_evidence_is_recorded() {
    use crate::node::report::{Outcome, report};
    let seen_ready = |seen: &Observed| {
        let status = report(seen, &Outcome::default());
        let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        (status.phase, ready.status == "True", ready.reason)
    };
    let mut seen = member(Role::Worker);
    assert_eq!(seen_ready(&seen), (Some(Phase::Ready), true, "KubeletReady".to_owned()));
    // Read a moment before the verifier wrote it, and the Node a moment after.
    seen.admission.as_mut().unwrap().appraisal = None;
    assert_eq!(seen_ready(&seen), (Some(Phase::Joined), false, "AttestationPending".to_owned()));
}

#[test]
fn a_refused_member_says_so_and_what_follows() {
    use crate::node::report::{Outcome, report};
    for (on_failure, words) in [
        (OnFailure::Report, "nothing else follows"),
        (OnFailure::Taint, "pods are sent away"),
        (OnFailure::Replace, "status.plan of the cluster"),
    ] {
        let status = report(&refused(on_failure, "tpm.pcr.11", false), &Outcome::default());
        let summary = status.summary.unwrap();
        assert!(summary.contains("tpm.pcr.11: why") && summary.contains(words), "{summary}");
        assert_eq!(status.phase, Some(constellation_crds::node::Phase::Ready));
    }
    assert_eq!(report(&member(Role::Worker), &Outcome::default()).summary.as_deref(), Some("ready"));
}
