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
fn a_silence_goes_on_when_the_operator_that_told_of_it_died() {
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let told = |kind: &str, status: condition::Status, why: &str, since: i64, made: i64| {
        let mut cluster = cluster(|_| ());
        let mut list = Vec::new();
        condition::set(&mut list, kind, status, why, "", None, at(since));
        cluster.status = serde_json::from_value(json!({
            "conditions": list, "initialization": {"controlPlaneInitializedAt": at(made)},
        }))
        .unwrap();
        cluster
    };
    let silent = told(kind::AVAILABLE, condition::Status::False, reason::API_SERVER_UNREACHABLE, 500, 100);
    let since =
        |cluster: &ConstellationCluster, ours: Option<u64>| silence(cluster, ours.map(Duration::from_secs), at(560));
    // By a new operator, by the one that told of it, and by one that knows of a longer one.
    assert_eq!([Some(1), Some(60), Some(90)].map(|ours| since(&silent, ours)), [60, 60, 90]);
    assert_eq!(since(&silent, None), i64::MAX);
    for other in [
        told(kind::READY, condition::Status::False, reason::API_SERVER_UNREACHABLE, 500, 100),
        told(kind::AVAILABLE, condition::Status::True, reason::API_SERVER_UNREACHABLE, 500, 100),
        told(kind::AVAILABLE, condition::Status::False, reason::NODES_NOT_READY, 500, 100),
        told(kind::AVAILABLE, condition::Status::False, reason::API_SERVER_UNREACHABLE, 500, 500),
        // A clock that was set back.
        told(kind::AVAILABLE, condition::Status::False, reason::API_SERVER_UNREACHABLE, 9000, 100),
        cluster(|_| ()),
    ] {
        assert_eq!(since(&other, Some(1)), 1);
    }
}

#[test]
fn an_api_server_that_turns_us_away_may_be_starting_for_a_minute() {
    let told = |why: &str| {
        let mut cluster = cluster(|_| ());
        let mut list = Vec::new();
        condition::set(&mut list, kind::READY, condition::Status::False, why, "", None, Timestamp::UNIX_EPOCH);
        cluster.status = serde_json::from_value(json!({"conditions": list})).unwrap();
        cluster
    };
    let after = |seconds: Option<u64>, why: &str| shut_out(&told(why), seconds.map(Duration::from_secs));
    let silent = reason::API_SERVER_UNREACHABLE;
    assert_eq!([None, Some(59), Some(60)].map(|seconds| after(seconds, silent)), [false, false, true]);
    assert!(after(None, reason::ACCESS_DENIED), "another operator told of it");
}

#[test]
fn a_node_has_drifted_when_its_group_says_something_else_of_it() {
    let drifts = |group: &str, change: fn(&mut Value)| node(&made(group), &cluster(change)).drifted;
    let same: [fn(&mut Value); 6] = [
        |_| (),
        |spec| spec["nodeGroups"][0]["taints"] = json!([{"key": "t", "value": "", "effect": "NoSchedule"}]),
        |spec| spec["nodeGroups"][0]["replicas"] = 9.into(),
        |spec| spec["nodeGroups"][0]["stateDisk"] = json!({"sizeGib": 8, "integrity": "None"}),
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
    let told = |kind: &str, status: condition::Status, why: &str| {
        let mut found = made("w");
        let mut told = ConfidentialNodeStatus::default();
        condition::set(&mut told.conditions, kind, status, why, "", None, Timestamp::UNIX_EPOCH);
        found.status = Some(told);
        let found = node(&found, &cluster(|_| ()));
        (found.short, found.vanished)
    };
    let no = condition::Status::False;
    for why in [reason::NO_CAPACITY, reason::QUOTA_EXCEEDED] {
        assert_eq!(told(kind::LAUNCHED, no, why), (Some(why), false));
    }
    for why in [reason::LAUNCH_FAILED, reason::PENDING, reason::INSTANCE_VANISHED] {
        assert_eq!(told(kind::LAUNCHED, no, why), (None, false));
    }
    assert_eq!(told(kind::LAUNCHED, condition::Status::True, reason::NO_CAPACITY), (None, false));
    assert_eq!(told(kind::READY, no, reason::INSTANCE_VANISHED), (None, true));
    assert_eq!(told(kind::READY, no, reason::INSTANCE_FAILED), (None, false));
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
    let on_a_host = |nodes: &str| {
        max_index(&cluster(|spec| {
            spec["provider"] = json!({"local": {}});
            spec["network"] = json!({"nodeCIDR": nodes});
        }))
    };
    assert_eq!([on_a_host("10.77.0.0/24"), on_a_host("10.77.0.0/27"), on_a_host("10.0.0.0/8")], [244, 20, 244]);
    assert_eq!(max_index(&cluster(|spec| spec["network"] = json!({"nodeCIDR": "10.77.0.0/27"}))), 244);
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
    let mut cluster = cluster(|_| ());
    let seen =
        |cluster: &ConstellationCluster, running| version_seen(cluster, Some(&version), Some("simulated"), running);
    let same = ["v1.36.3", "v1.36.3+build", "v1.36.3-1"].map(Running::Version);
    for running in [Running::Nothing].into_iter().chain(same) {
        assert!(matches!(seen(&cluster, running), VersionSeen::Ready(_)), "{running:?}");
    }
    for running in ["v1.36.2", "v1.35.3", "v1.36.30", ""] {
        let VersionSeen::Impossible(words) = seen(&cluster, Running::Version(running)) else { panic!("{running}") };
        assert!(words.contains("v1.36.3") && words.contains(running), "{words}");
    }
    // A cluster that is silent for a moment must not have it accepted.
    assert!(matches!(seen(&cluster, Running::Unsaid), VersionSeen::Awaited(_)));
    let known = AcceptedVersion { digest: "d".into(), name: "v".into(), sets: vec![], image: None };
    cluster.status = Some(constellation_crds::ConstellationClusterStatus {
        accepted_versions: vec![known],
        ..constellation_crds::ConstellationClusterStatus::default()
    });
    assert!(matches!(seen(&cluster, Running::Unsaid), VersionSeen::Ready(_)));
}

#[test]
fn a_group_that_no_kubelet_would_start_with_is_told_of() {
    let group = |labels: serde_json::Value, taints: serde_json::Value| {
        let group = json!({"name": "w", "instanceType": "a", "replicas": 1, "labels": labels, "taints": taints});
        unfit(&cluster(|spec| spec["nodeGroups"] = json!([group])))
    };
    assert_eq!(group(json!({"a.example/b": "c"}), json!([{"key": "a", "effect": "NoExecute"}])), None);
    for (labels, taints, word) in [
        (json!({"node-role.kubernetes.io/worker": ""}), json!([]), "node-role.kubernetes.io/worker"),
        (json!({"my label": ""}), json!([]), "my label"),
        (json!({}), json!([{"key": "k".repeat(64), "effect": "NoExecute"}]), "the taint"),
    ] {
        let told = group(labels, taints).unwrap();
        assert!(told.contains("group w") && told.contains(word), "{told}");
    }
}

#[test]
fn on_a_host_one_machine_boots_at_a_time_and_elsewhere_many() {
    for (provider, most) in [("local", 1), ("simulated", 16)] {
        assert_eq!(most_booting(&cluster(|spec| spec["provider"] = json!({provider: {}}))), most, "{provider}");
    }
}
