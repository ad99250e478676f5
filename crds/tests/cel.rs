//! The CEL rules, evaluated in this process: `cargo test -p constellation-crds --features cel`.
//!
//! Bounds and patterns are the API server's business and are judged there (`tests/tests/api_server.rs`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]
#![cfg(feature = "cel")]

use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeAdmission, NodeGroup, NodeVersion, definition};
use kube::{CustomResourceExt, core::cel::Validator};
use serde::Serialize;
use serde_json::{Value, json};

/// What the rules of `object`'s kind say, as the definition in the chart has them.
fn judge<T: CustomResourceExt + Serialize>(object: &Value, old: Option<&Value>) -> Result<(), String> {
    let name = T::crd_name();
    let crd = definition::management()
        .into_iter()
        .chain(definition::workload())
        .find(|crd| crd.metadata.name.as_deref() == Some(name))
        .unwrap();
    let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    let schema = serde_json::to_value(schema).unwrap();
    Validator::new().validate(&schema, object, old).map_err(|errors| errors.to_string())
}

fn cluster() -> Value {
    json!({
        "metadata": {"name": "a"},
        "spec": {
            "provider": {"simulated": {}}, "tee": "vtpm", "nodeVersion": "v1",
            "controlPlane": {"replicas": 3, "instanceType": "any"},
            "nodeGroups": [
                {"name": "workers", "instanceType": "any", "replicas": 2},
                {"name": "more", "instanceType": "any", "autoscaling": {"min": 1, "max": 4}}
            ]
        }
    })
}

fn version() -> Value {
    let value = json!(["0".repeat(64)]);
    json!({
        "metadata": {"name": "v1"},
        "spec": {
            "image": {"local": "/v1"}, "kubernetesVersion": "v1.36.3",
            "measurements": {"inline": [{
                "name": "a", "platform": "qemu-vtpm", "pcrs": {"4": value, "9": value, "11": value, "12": value, "13": value}
            }]}
        }
    })
}

fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = base.pointer_mut(parent).unwrap();
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(last);
    } else {
        parent[last] = value;
    }
    base
}

fn refused<T: CustomResourceExt + Serialize>(cases: &[(Value, &str)]) {
    for (object, words) in cases {
        let refusal = judge::<T>(object, None).expect_err(words);
        assert!(refusal.contains(words), "wanted {words:?} in {refusal:?}");
    }
}

#[test]
fn good_objects_are_accepted() {
    judge::<ConstellationCluster>(&cluster(), None).unwrap();
    judge::<NodeVersion>(&version(), None).unwrap();
    for replicas in [1, 3, 5] {
        judge::<ConstellationCluster>(&with(cluster(), "/spec/controlPlane/replicas", json!(replicas)), None).unwrap();
    }
    let signed = json!({"signed": {"configMap": "a", "publicKey": "-----BEGIN PUBLIC KEY-----"}});
    judge::<NodeVersion>(&with(version(), "/spec/measurements", signed), None).unwrap();
}

#[test]
fn a_cluster_with_one_thing_wrong_is_refused() {
    let group = "/spec/nodeGroups/0";
    refused::<ConstellationCluster>(&[
        (with(cluster(), "/spec/provider", json!({})), "exactly one provider"),
        (with(cluster(), "/spec/provider", json!({"local": {}, "simulated": {}})), "exactly one provider"),
        (with(cluster(), "/spec/tee", json!("snp")), "can't claim hardware"),
        (
            with(with(cluster(), "/spec/provider", json!({"local": {}})), "/spec/tee", json!("tdx")),
            "software TPMs only",
        ),
        (with(cluster(), "/spec/controlPlane/replicas", json!(4)), "1, 3 or 5"),
        (with(cluster(), &format!("{group}/name"), json!("control-plane")), "control plane's own"),
        (with(cluster(), &format!("{group}/replicas"), Value::Null), "either replicas or autoscaling"),
        (
            with(cluster(), &format!("{group}/autoscaling"), json!({"min": 1, "max": 1})),
            "either replicas or autoscaling",
        ),
        (with(cluster(), "/spec/nodeGroups/1/autoscaling/min", json!(5)), "min must not be greater"),
        (with(cluster(), "/metadata/name", json!("a.b")), "DNS label"),
        (
            with(
                with(cluster(), "/metadata/name", json!("a".repeat(30))),
                &format!("{group}/name"),
                json!("b".repeat(30)),
            ),
            "54 characters",
        ),
    ]);
}

#[test]
fn a_version_with_one_thing_wrong_is_refused() {
    let pcrs = "/spec/measurements/inline/0/pcrs";
    let mut cases = vec![
        (with(version(), "/spec/image", json!({})), "an image is needed"),
        (with(version(), "/spec/measurements", json!({})), "either inline or signed"),
        (
            with(version(), "/spec/measurements/signed", json!({"configMap": "a", "publicKey": "b"})),
            "either inline or signed",
        ),
        (with(version(), &format!("{pcrs}/15"), json!(["0".repeat(64)])), "PCR 15 can't be given"),
        (with(version(), &format!("{pcrs}/16"), json!(["0".repeat(64)])), "0 to 14"),
        (with(version(), &format!("{pcrs}/x"), json!(["0".repeat(64)])), "0 to 14"),
    ];
    for register in [4, 11, 12, 13] {
        cases.push((with(version(), &format!("{pcrs}/{register}"), Value::Null), "needs PCR 4"));
    }
    refused::<NodeVersion>(&cases);
    judge::<NodeVersion>(&with(version(), &format!("{pcrs}/9"), Value::Null), None).unwrap();
}

#[test]
fn what_is_set_once_stays_and_the_rest_may_change() {
    let old = cluster();
    let changes = [
        (with(cluster(), "/spec/provider", json!({"local": {}})), Some("provider can't be changed")),
        (with(cluster(), "/spec/network", json!({"cni": "none"})), Some("network can't be changed")),
        (
            with(cluster(), "/spec/masterSecret", json!({"existingSecret": {"name": "x"}})),
            Some("masterSecret can't be changed"),
        ),
        (with(cluster(), "/spec/nodeVersion", json!("v2")), None),
        (with(cluster(), "/spec/controlPlane/replicas", json!(5)), None),
        (with(cluster(), "/spec/paused", json!(true)), None),
    ];
    for (new, words) in changes {
        let answer = judge::<ConstellationCluster>(&new, Some(&old));
        match words {
            None => answer.unwrap(),
            Some(words) => assert!(answer.expect_err(words).contains(words)),
        }
    }
}

#[test]
fn a_kms_may_get_another_key_and_nothing_else() {
    let aws = |id: &str| json!({"aws": {"keyArn": format!("arn:aws:kms:us-east-2:123456789012:key/{id}")}});
    let vault = |host: &str, key: &str| json!({"vault": {"address": format!("https://{host}"), "key": key, "credentialsRef": {"name": "t"}}});
    let azure = |hsm: &str, key: &str| json!({"azure": {"vaultUrl": format!("https://{hsm}.managedhsm.azure.net"), "key": key}});
    let of = |kms: Value| with(cluster(), "/spec/masterSecret", json!({"kms": kms}));
    for (old, new, words) in [
        (of(aws("a")), of(aws("b")), None),
        (of(vault("v", "a")), of(vault("v", "b")), None),
        (of(vault("v", "a")), of(vault("w", "a")), Some("key service can't be another")),
        (of(vault("v", "a")), of(aws("a")), Some("key service can't be another")),
        (of(azure("v", "a")), of(azure("v", "b")), None),
        (of(azure("v", "a")), of(azure("w", "a")), Some("key service can't be another")),
        (of(aws("a")), cluster(), Some("masterSecret can't be changed")),
        (cluster(), of(aws("a")), Some("masterSecret can't be changed")),
    ] {
        judge::<ConstellationCluster>(&new, None).unwrap();
        let answer = judge::<ConstellationCluster>(&new, Some(&old));
        match words {
            None => answer.unwrap(),
            Some(words) => assert!(answer.expect_err(words).contains(words)),
        }
    }
    let both = json!({"kms": aws("a"), "existingSecret": {"name": "x"}});
    let two = json!({"kms": {"aws": aws("a")["aws"], "vault": vault("v", "a")["vault"]}});
    refused::<ConstellationCluster>(&[
        (with(cluster(), "/spec/masterSecret", both), "either from existingSecret or from a kms"),
        (with(cluster(), "/spec/masterSecret", json!({})), "either from existingSecret or from a kms"),
        (with(cluster(), "/spec/masterSecret", two), "exactly one key service"),
        (of(json!({})), "exactly one key service"),
    ]);
}

#[test]
fn children_belong_to_their_parent_for_good() {
    let group = json!({"metadata": {"name": "g"}, "spec": {"clusterRef": {"name": "a"}, "group": "w", "replicas": 1}});
    judge::<NodeGroup>(&with(group.clone(), "/spec/replicas", json!(2)), Some(&group)).unwrap();
    judge::<NodeGroup>(&with(group.clone(), "/spec/group", json!("v")), Some(&group)).unwrap_err();
    judge::<NodeGroup>(&with(group.clone(), "/spec/clusterRef/name", json!("b")), Some(&group)).unwrap_err();

    let node = json!({"metadata": {"name": "n"}, "spec": {"clusterRef": {"name": "a"}, "image": "v1", "index": 1}});
    judge::<ConfidentialNode>(&with(node.clone(), "/metadata/labels", json!({"a": "b"})), Some(&node)).unwrap();
    judge::<ConfidentialNode>(&with(node.clone(), "/spec/image", json!("v2")), Some(&node)).unwrap_err();

    let admission = json!({"metadata": {"name": "u"}, "spec": {"nodeUid": "u", "nodeName": "n", "role": "worker", "podCIDR": "10.0.0.0/24"}});
    let evicted = with(admission.clone(), "/spec/evicted", json!(true));
    judge::<NodeAdmission>(&evicted, Some(&admission)).unwrap();
    judge::<NodeAdmission>(&admission, Some(&evicted)).unwrap_err();
    judge::<NodeAdmission>(&with(admission.clone(), "/spec/role", json!("control-plane")), Some(&admission))
        .unwrap_err();
    judge::<NodeAdmission>(&with(admission, "/metadata/name", json!("v")), None).unwrap_err();
}
