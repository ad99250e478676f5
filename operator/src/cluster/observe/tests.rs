//! What objects come to, as plain values.

use constellation_crds::{cluster::ConstellationClusterSpec, condition, node::ConfidentialNodeStatus};
use serde_json::{Value, json};

use super::*;

fn cluster(change: impl FnOnce(&mut Value)) -> ConstellationCluster {
    let mut spec = json!({
        "provider": {"simulated": {}}, "tee": "vtpm", "nodeVersion": "v",
        "controlPlane": {"replicas": 1, "instanceType": "2x2048"},
        "nodeGroups": [{"name": "w", "replicas": 1, "instanceType": "1x1024", "zones": ["a", "b"], "labels": {"k": "v"},
            "taints": [{"key": "t", "effect": "NoSchedule"}]}],
    });
    change(&mut spec);
    ConstellationCluster::new("c", serde_json::from_value::<ConstellationClusterSpec>(spec).unwrap())
}

/// A node of the unchanged cluster.
fn made(group: &str) -> ConfidentialNode {
    let mut spec = json!({
        "clusterRef": {"name": "c"}, "nodeGroup": group, "role": "control-plane", "nodeVersion": "v",
        "versionDigest": "d", "image": "i", "instanceType": "2x2048", "index": 1,
    });
    if group != "control-plane" {
        spec["role"] = "worker".into();
        spec["instanceType"] = "1x1024".into();
        spec["zone"] = "b".into();
        spec["labels"] = json!({"k": "v"});
        spec["taints"] = json!([{"key": "t", "effect": "NoSchedule"}]);
    }
    ConfidentialNode::new("n", serde_json::from_value(spec).unwrap())
}

#[test]
fn a_node_has_drifted_when_its_group_says_something_else_of_it() {
    let drifts = |group: &str, change: fn(&mut Value)| node(&made(group), &cluster(change)).drifted;
    let same: [fn(&mut Value); 5] = [
        |_| (),
        |spec| spec["nodeGroups"][0]["replicas"] = 9.into(),
        |spec| spec["nodeGroups"][0]["stateDisk"] = json!({}),
        |spec| spec["nodeGroups"][0]["zones"] = json!(["b"]),
        |spec| spec["nodeGroups"][0]["zones"] = json!([]),
    ];
    for change in same {
        assert!(!drifts("w", change) && !drifts("control-plane", change));
    }
    let others: [fn(&mut Value); 6] = [
        |spec| spec["nodeGroups"][0]["instanceType"] = "2x1024".into(),
        |spec| spec["nodeGroups"][0]["stateDisk"] = json!({"sizeGib": 20}),
        |spec| spec["nodeGroups"][0]["stateDisk"] = json!({"integrity": "Hmac"}),
        |spec| spec["nodeGroups"][0]["zones"] = json!(["a", "c"]),
        |spec| spec["nodeGroups"][0]["labels"] = json!({"k": "w"}),
        |spec| spec["nodeGroups"][0]["taints"] = json!([]),
    ];
    for (number, change) in others.into_iter().enumerate() {
        assert!(drifts("w", change), "{number}");
        assert!(!drifts("control-plane", change), "{number}: another group");
    }
    let first: [fn(&mut Value); 2] = [
        |spec| spec["controlPlane"]["instanceType"] = "4x4096".into(),
        |spec| spec["controlPlane"]["stateDisk"] = json!({"sizeGib": 20}),
    ];
    for change in first {
        assert!(drifts("control-plane", change) && !drifts("w", change));
    }
    assert!(!drifts("w", |spec| spec["nodeGroups"] = json!([])), "a group that is gone goes as a whole");
}

#[test]
fn a_launch_that_waits_for_room_is_told_from_one_that_failed() {
    let short = |status: condition::Status, why: &str| {
        let mut found = made("w");
        let mut told = ConfidentialNodeStatus::default();
        condition::set(&mut told.conditions, kind::LAUNCHED, status, why, "", None, Timestamp::UNIX_EPOCH);
        found.status = Some(told);
        node(&found, &cluster(|_| ())).short
    };
    use condition::Status::{False, True};
    assert!(short(False, reason::NO_CAPACITY) && short(False, reason::QUOTA_EXCEEDED));
    assert!(!short(False, reason::LAUNCH_FAILED) && !short(False, reason::PENDING));
    assert!(!short(True, reason::NO_CAPACITY) && !node(&made("w"), &cluster(|_| ())).short);
}

#[test]
fn nodes_have_as_many_numbers_as_the_pod_network_has_parts() {
    let most = |pods: Value| max_index(&cluster(|spec| spec["network"] = json!({"podCIDR": pods})));
    assert_eq!(max_index(&cluster(|_| ())), 244);
    for (pods, wanted) in [("10.0.0.0/8", 244), ("10.0.0.0/16", 244), ("10.0.0.0/17", 127), ("10.0.0.0/21", 7)] {
        assert_eq!(most(pods.into()), wanted, "{pods}");
    }
    assert_eq!(most("10.0.0.0/23".into()), 1);
    for nothing in ["10.0.0.0/24", "10.0.0.0/25", "10.0.0.0"] {
        assert_eq!(most(nothing.into()), 0, "{nothing}");
    }
}

#[test]
fn only_images_of_the_kubernetes_that_runs_can_be_rolled_to() {
    let version: NodeVersion = serde_json::from_value(json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeVersion", "metadata": {"name": "v", "generation": 1},
        "spec": {"image": {"simulated": "i"}, "kubernetesVersion": "v1.36.3", "measurements": {"inline": []}},
        "status": {"observedGeneration": 1, "digest": "d", "sets": [{"name": "s", "platform": "simulated", "pcrs": {}}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Inline", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }))
    .unwrap();
    let seen = |running| version_seen(&cluster(|_| ()), Some(&version), Some("simulated"), running);
    for running in [None, Some("v1.36.3"), Some("v1.36.3+build"), Some("v1.36.3-1")] {
        assert!(matches!(seen(running), VersionSeen::Ready(_)), "{running:?}: {:?}", seen(running));
    }
    for running in ["v1.36.2", "v1.35.3", "v1.36.30", ""] {
        let VersionSeen::OtherKubernetes(words) = seen(Some(running)) else { panic!("{running}") };
        assert!(words.contains("v1.36.3") && words.contains(running), "{words}");
    }
}
