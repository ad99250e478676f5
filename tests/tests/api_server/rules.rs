//! Every CEL rule of every kind: refused by exactly its message, beside a twin that is accepted. A rule without a case
//! here fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{admission, change, cluster, create, definitions, dry_run, example, given, group, node, version, with};

/// An object that breaks one rule, and one that differs from it in that alone.
enum Case {
    /// Judged when it is made.
    Made { bad: Value, good: Value },
    /// Judged when the object that is there is changed, by merge patches: each of the bad ones is refused.
    Changed { there: Value, bad: Vec<Value>, good: Value },
}

/// All rules in the definitions, as (kind, message).
fn rules() -> BTreeSet<(String, String)> {
    fn walk(kind: &str, schema: &Value, found: &mut Vec<(String, String)>) {
        for (key, value) in schema.as_object().into_iter().flatten() {
            if key == "x-kubernetes-validations" {
                for rule in value.as_array().unwrap() {
                    let message = rule["message"].as_str().unwrap_or_else(|| panic!("{kind}: no message: {rule}"));
                    found.push((kind.to_owned(), message.to_owned()));
                }
            } else {
                walk(kind, value, found);
            }
        }
        schema.as_array().into_iter().flatten().for_each(|value| walk(kind, value, found));
    }
    let mut found = Vec::new();
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        for served in definition["spec"]["versions"].as_array().unwrap() {
            walk(kind, &served["schema"]["openAPIV3Schema"], &mut found);
        }
    }
    let all: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(all.len(), found.len(), "two rules of a kind have the same message");
    all
}

fn made(base: Value, pointer: &str, bad: Value, good: Value) -> Case {
    Case::Made { bad: with(base.clone(), pointer, bad), good: with(base, pointer, good) }
}

fn changed(there: Value, bad: Value, good: Value) -> Case {
    Case::Changed { there, bad: vec![bad], good }
}

/// A rule about several fields, each of which is changed alone.
fn each_changed(there: Value, field: &str, bad: &[Value], good: &Value) -> Case {
    let bad = bad.iter().map(|value| json!({"spec": {field: value}})).collect();
    Case::Changed { there, bad, good: json!({"spec": good}) }
}

fn named(base: Value, name: &str) -> Value {
    with(base, "/metadata/name", json!(name))
}

fn of_cluster() -> Vec<(&'static str, Case)> {
    let aws = || example("aws/cluster.yaml");
    let wrapped = |host: &str| json!({"kms": {"vault": {"address": format!("https://{host}"), "key": "a", "credentialsRef": {"name": "t"}}}});
    let hsm = |vault: &str| json!({"vaultUrl": format!("https://{vault}.managedhsm.azure.net"), "key": "a"});
    let (first, replicas) = ("/spec/nodeGroups/0", "/spec/nodeGroups/0/replicas");
    let (thirty, fourteen) = ("a".repeat(40), "b".repeat(14));
    let scaled = || with(cluster(), replicas, Value::Null);
    vec![
        (
            "the name of a cluster is a DNS label of at most 40 characters that begins with a letter: it is part of its \
             nodes' host names",
            made(cluster(), "/metadata/name", json!("a.b"), json!("a-b")),
        ),
        (
            "a cluster's name and a group's name have at most 54 characters together: a node is called \
             <cluster>-<group>-<suffix>",
            made(named(cluster(), &thirty), &format!("{first}/name"), json!(format!("{fourteen}b")), json!(fourteen)),
        ),
        (
            "provider can't be changed: create another cluster",
            changed(
                named(aws(), "provider"),
                json!({"spec": {"provider": {"aws": {"region": "us-east-1"}}}}),
                json!({"spec": {"provider": {"aws": {"region": "us-east-2"}}}}),
            ),
        ),
        (
            "tee can't be changed: create another cluster",
            changed(named(aws(), "tee"), json!({"spec": {"tee": "vtpm"}}), json!({"spec": {"tee": "snp"}})),
        ),
        (
            "network can't be changed: create another cluster",
            each_changed(
                with(named(cluster(), "network"), "/spec/network", json!({"podCIDR": "10.244.0.0/16"})),
                "network",
                &[
                    json!({"podCIDR": "10.0.0.0/16"}),
                    json!({"serviceCIDR": "10.98.0.0/16"}),
                    json!({"nodeCIDR": "10.78.0.0/24"}),
                    json!({"cni": "none"}),
                    json!({"apiServerCertSANs": ["api.example.org"]}),
                    Value::Null,
                ],
                &json!({"paused": true}),
            ),
        ),
        (
            "masterSecret can't be changed: the disks are encrypted under it; only the key of a kms may be another",
            each_changed(
                with(named(cluster(), "secret"), "/spec/masterSecret", wrapped("v")),
                "masterSecret",
                &[json!({"kms": null, "existingSecret": {"name": "a"}}), Value::Null],
                &json!({"masterSecret": {"kms": {"vault": {"key": "b"}}}}),
            ),
        ),
        (
            "the key service can't be another: only one that opens the wrapped secret can wrap it again; another key of \
             it can be named",
            each_changed(
                with(named(cluster(), "service"), "/spec/masterSecret", wrapped("v")),
                "masterSecret",
                &[
                    wrapped("w"),
                    json!({"kms": {"vault": null, "aws": {"keyArn": "arn:aws:kms:us-east-2:123456789012:key/a"}}}),
                    json!({"kms": {"vault": null, "azure": hsm("a")}}),
                    json!({"kms": {"vault": null, "gcp": {"key": "projects/a/locations/b/keyRings/c/cryptoKeys/d"}}}),
                ],
                &json!({"masterSecret": wrapped("v")}),
            ),
        ),
        (
            "a control plane has 1, 3 or 5 nodes: etcd needs a majority, and an even number adds no safety",
            made(cluster(), "/spec/controlPlane/replicas", json!(2), json!(3)),
        ),
        (
            "a master secret comes either from existingSecret or from a kms; leave masterSecret out to have it generated \
             and kept in a Secret",
            made(cluster(), "/spec/masterSecret", json!({}), json!({"existingSecret": {"name": "a"}})),
        ),
        (
            "exactly one key service is needed: aws, azure, gcp or vault",
            made(cluster(), "/spec/masterSecret", json!({"kms": {}}), wrapped("v")),
        ),
        (
            "control-plane and cp are the control plane's own: its nodes are called <cluster>-cp-<index>",
            made(cluster(), &format!("{first}/name"), json!("cp"), json!("cp-1")),
        ),
        ("a group has either replicas or autoscaling", made(cluster(), replicas, Value::Null, json!(2))),
        (
            "min must not be greater than max",
            made(scaled(), &format!("{first}/autoscaling"), json!({"min": 3, "max": 2}), json!({"min": 2, "max": 2})),
        ),
    ]
}

fn of_networks() -> Vec<(&'static str, Case)> {
    vec![
        (
            "must be an IPv4 network of at least a /28, for example 10.77.0.0/24",
            made(cluster(), "/spec/network", json!({"nodeCIDR": "10.77.0.0/29"}), json!({"nodeCIDR": "10.77.0.0/28"})),
        ),
        (
            "must be an IPv4 network of at least two /24, for example 10.244.0.0/16",
            made(cluster(), "/spec/network", json!({"podCIDR": "10.244.0.0/24"}), json!({"podCIDR": "10.244.0.0/23"})),
        ),
        (
            "must be an IPv4 network from /12 to /24, for example 10.96.0.0/16",
            made(
                cluster(),
                "/spec/network",
                json!({"serviceCIDR": "10.96.0.0/25"}),
                json!({"serviceCIDR": "10.96.0.0/24"}),
            ),
        ),
        (
            "podCIDR and serviceCIDR must not overlap: an address would lead to two places",
            made(
                cluster(),
                "/spec/network",
                json!({"podCIDR": "10.96.128.0/17"}),
                json!({"podCIDR": "10.96.128.0/17", "serviceCIDR": "10.97.0.0/16"}),
            ),
        ),
        (
            "podCIDR and nodeCIDR must not overlap: an address would lead to two places",
            made(
                cluster(),
                "/spec/network",
                json!({"podCIDR": "10.72.0.0/13"}),
                json!({"podCIDR": "10.72.0.0/13", "nodeCIDR": "192.168.7.0/24"}),
            ),
        ),
        (
            "serviceCIDR and nodeCIDR must not overlap: an address would lead to two places",
            made(
                cluster(),
                "/spec/network",
                json!({"serviceCIDR": "10.77.3.0/24", "nodeCIDR": "10.77.0.0/16"}),
                json!({"serviceCIDR": "10.78.3.0/24", "nodeCIDR": "10.77.0.0/16"}),
            ),
        ),
    ]
}

fn of_providers() -> Vec<(&'static str, Case)> {
    let aws = || example("aws/cluster.yaml");
    vec![
        (
            "provider local has software TPMs only: tee must be vtpm",
            made(with(cluster(), "/spec/provider", json!({"local": {}})), "/spec/tee", json!("tdx"), json!("vtpm")),
        ),
        (
            "provider simulated proves nothing, so it can't claim hardware: tee must be vtpm",
            made(cluster(), "/spec/tee", json!("snp"), json!("vtpm")),
        ),
        (
            "AWS has no TDX: tee must be snp, or vtpm for a NitroTPM without memory encryption",
            made(aws(), "/spec/tee", json!("tdx"), json!("snp")),
        ),
        (
            "exactly one provider is needed: aws, azure, gcp, local or simulated",
            made(cluster(), "/spec/provider", json!({}), json!({"simulated": {}})),
        ),
        (
            "give either zones, in which a VPC with subnets is made, or existing subnets",
            made(aws(), "/spec/provider/aws/subnets", json!(["subnet-0123456789abcdef0"]), Value::Null),
        ),
        (
            "nodes without public addresses need a way out that you keep: give existing subnets with a NAT gateway",
            made(aws(), "/spec/provider/aws/reach", json!("Internal"), json!("External")),
        ),
    ]
}

fn of_others() -> Vec<(&'static str, Case)> {
    let set = "/spec/measurements/inline/0";
    let tpm = || with(version(), &format!("{set}/platform"), json!("qemu-vtpm"));
    let value = json!(["0".repeat(64)]);
    vec![
        (
            "a node is one VM and one launch, its spec can't be changed: delete it and another takes its place",
            changed(
                node(),
                json!({"spec": {"image": "v2"}}),
                json!({"metadata": {"annotations": {"constellation.dev/retire": "rolling"}}}),
            ),
        ),
        (
            "clusterRef can't be changed: the group belongs to its cluster",
            changed(
                named(group(), "ref"),
                json!({"spec": {"clusterRef": {"name": "b"}}}),
                json!({"spec": {"clusterRef": {"name": "a"}}}),
            ),
        ),
        (
            "group can't be changed: it is the group's name in the cluster's spec",
            changed(group(), json!({"spec": {"group": "others"}}), json!({"spec": {"replicas": 7}})),
        ),
        (
            "an image is needed for at least one provider: aws, azure, gcp, local or simulated",
            made(version(), "/spec/image", json!({}), json!({"local": "/v1"})),
        ),
        (
            "measurements are either inline or signed",
            made(
                version(),
                "/spec/measurements",
                json!({}),
                json!({"signed": {"configMap": "a", "publicKey": "-----BEGIN PUBLIC KEY-----"}}),
            ),
        ),
        (
            "a register is one of 0 to 14: PCR 15 can't be given, its value is known for each node; higher ones aren't \
             quoted",
            Case::Made {
                bad: with(version(), &format!("{set}/pcrs/15"), value.clone()),
                good: with(version(), &format!("{set}/pcrs/14"), value.clone()),
            },
        ),
        (
            "a TPM platform needs PCR 4 (boot loader), 11 (kernel), 12 (command line) and 13 (extensions)",
            Case::Made { bad: with(tpm(), &format!("{set}/pcrs/11"), Value::Null), good: tpm() },
        ),
        (
            "events are for registers whose value is given",
            made(version(), &format!("{set}/events"), json!({"9": value}), json!({"11": value})),
        ),
        (
            "floors gives reportedTcb, committedTcb, launchTcb and provisional: give one of both",
            made(
                version(),
                &format!("{set}/hardware"),
                json!({"snp": {"floors": "2026-11-27", "launchTcb": {"Milan": {"waived": {"reason": "x"}}}}}),
                json!({"snp": {"floors": "2026-11-27", "vmpl": {"exact": 0}}}),
            ),
        ),
        (
            "an admission is named after the uid of its node",
            made(admission(), "/metadata/name", json!("u-2"), json!("u-1")),
        ),
        (
            "role, nodeName and podCIDR of an admission can't be changed",
            Case::Changed {
                there: admission(),
                bad: [("role", "control-plane"), ("nodeName", "a-workers-2"), ("podCIDR", "10.244.2.0/24")]
                    .map(|(field, value)| json!({"spec": {field: value}}))
                    .to_vec(),
                good: json!({"spec": {"role": "worker"}}),
            },
        ),
        (
            "an eviction can't be taken back",
            changed(
                with(with(named(admission(), "u-3"), "/spec/nodeUid", json!("u-3")), "/spec/evicted", json!(true)),
                json!({"spec": {"evicted": false}}),
                json!({"spec": {"evicted": true}}),
            ),
        ),
    ]
}

#[tokio::test]
async fn each_rule_refuses_by_its_own_message_and_accepts_the_twin() {
    let client = given("rules").await;
    let lists = [of_cluster(), of_networks(), of_providers(), of_others()];
    let cases: Vec<_> = lists.into_iter().flatten().collect();
    let kind = |case: &Case| {
        let (Case::Made { bad: object, .. } | Case::Changed { there: object, .. }) = case;
        object["kind"].as_str().unwrap().to_owned()
    };
    let covered: Vec<_> = cases.iter().map(|(message, case)| (kind(case), (*message).to_owned())).collect();
    let rules = rules();
    assert_eq!(covered.iter().cloned().collect::<BTreeSet<_>>(), rules, "rules and cases differ");
    assert_eq!(covered.len(), rules.len(), "a rule has two cases");
    for (message, case) in cases {
        let (refused, accepted) = match case {
            Case::Made { bad, good } => (vec![dry_run(&client, &bad).await], dry_run(&client, &good).await),
            Case::Changed { there, bad, good } => {
                create(&client, &there).await.unwrap_or_else(|error| panic!("{message}: {error}"));
                let mut refused = Vec::new();
                for bad in bad {
                    refused.push(change(&client, &there, bad).await);
                }
                (refused, change(&client, &there, good).await)
            }
        };
        for refused in refused {
            let refusal = refused.expect_err(message);
            let said: Vec<_> =
                rules.iter().map(|(_, rule)| rule.as_str()).filter(|rule| refusal.contains(rule)).collect();
            assert_eq!(said, [message], "{refusal}");
        }
        accepted.unwrap_or_else(|error| panic!("the twin for {message:?}: {error}"));
    }
}
