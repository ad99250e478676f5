//! The definitions in `charts/` and the objects in `examples/`, judged by a real API server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

#[path = "api_server/bounds.rs"]
mod bounds;
#[path = "api_server/rules.rs"]
mod rules;

use std::{fs, path::Path};

use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeGroup, NodeVersion};
use constellation_operator::events::Events;
use constellation_tests::controlplane::{config, shared::shared};
use k8s_openapi::{
    api::events::v1::Event, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::ApiResource,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All of our definitions.
fn definitions() -> Vec<Value> {
    let folders = ["crds", "workload"].map(|folder| root().join("charts/constellation-crds").join(folder));
    let files = folders.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    files.map(|file| serde_yaml::from_str(&fs::read_to_string(file.unwrap().path()).unwrap()).unwrap()).collect()
}

/// A client of the shared control plane, in a namespace of the test's own, with our kinds known.
async fn given(namespace: &str) -> Client {
    let kubeconfig = shared(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("api-server")).unwrap();
    let mut config = config(kubeconfig).await.unwrap();
    config.default_namespace = namespace.to_owned();
    let client = Client::try_from(config).unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        crds.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(&definition)).await.unwrap();
        await_condition(crds.clone(), name, is_crd_established()).await.unwrap();
    }
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
    namespaces.create(&PostParams::default(), &object).await.unwrap();
    client
}

fn example(path: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(root().join("examples").join(path)).unwrap()).unwrap()
}

fn cluster() -> Value {
    example("simulated/cluster.yaml")
}

fn version() -> Value {
    example("simulated/nodeversion.yaml")
}

fn node() -> Value {
    json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "ConfidentialNode", "metadata": {"name": "a-workers-1"},
        "spec": {
            "clusterRef": {"name": "a"}, "nodeGroup": "workers", "role": "worker", "nodeVersion": "v1",
            "versionDigest": "0".repeat(64), "image": "v1", "instanceType": "any", "index": 1
        }
    })
}

fn group() -> Value {
    json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeGroup", "metadata": {"name": "a-workers"},
        "spec": {"clusterRef": {"name": "a"}, "group": "workers", "replicas": 2}
    })
}

fn admission() -> Value {
    json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeAdmission", "metadata": {"name": "u-1"},
        "spec": {
            "nodeUid": "u-1", "nodeName": "a-workers-1", "role": "worker", "launchConfigDigest": "0".repeat(64),
            "podCIDR": "10.244.1.0/24", "providerID": "simulated://u-1", "diskIntegrity": "None"
        }
    })
}

/// `base` with the value at `pointer` replaced; `null` removes it.
fn with(mut base: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let holder = base.pointer_mut(parent).unwrap();
    if value.is_null() {
        holder.as_object_mut().unwrap().remove(last);
    } else {
        holder[last] = value;
    }
    base
}

fn api(client: &Client, object: &Value) -> Api<DynamicObject> {
    let kind = object["kind"].as_str().unwrap();
    let gvk = GroupVersionKind::gvk("constellation.dev", "v1alpha1", kind);
    Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk(&gvk))
}

async fn create(client: &Client, object: &Value) -> Result<DynamicObject, String> {
    let parsed = serde_json::from_value(object.clone()).unwrap();
    api(client, object).create(&PostParams::default(), &parsed).await.map_err(|error| error.to_string())
}

async fn dry_run(client: &Client, object: &Value) -> Result<DynamicObject, String> {
    let parsed = serde_json::from_value(object.clone()).unwrap();
    let params = PostParams { dry_run: true, ..PostParams::default() };
    api(client, object).create(&params, &parsed).await.map_err(|error| error.to_string())
}

/// Merges `change` into the stored object, as a dry run.
async fn change(client: &Client, object: &Value, change: Value) -> Result<DynamicObject, String> {
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    api(client, object).patch(name, &params, &Patch::Merge(change)).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn every_example_is_accepted() {
    let client = given("examples").await;
    let mut seen = 0;
    for folder in ["aws", "azure", "gcp", "local", "simulated"] {
        for entry in fs::read_dir(root().join("examples").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let object: Value = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            dry_run(&client, &object).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 11);
}

#[tokio::test]
async fn one_thing_wrong_is_refused_with_words_that_help() {
    let client = given("refusals").await;
    for good in [cluster(), version(), node(), group(), admission()] {
        dry_run(&client, &good).await.unwrap();
    }
    let long = "a".repeat(41);
    let set = "/spec/measurements/inline/0";
    let cases = [
        (with(cluster(), "/spec/provider", json!({})), "exactly one provider"),
        (with(cluster(), "/spec/provider/local", json!({})), "exactly one provider"),
        (with(cluster(), "/spec/tee", json!("snp")), "can't claim hardware"),
        (with(with(cluster(), "/spec/provider", json!({"local": {}})), "/spec/tee", json!("tdx")), "tee must be vtpm"),
        (with(cluster(), "/spec/tee", Value::Null), "spec.tee: Required"),
        (with(cluster(), "/spec/controlPlane/replicas", json!(2)), "1, 3 or 5"),
        (with(cluster(), "/spec/nodeGroups/0/name", json!("control-plane")), "control plane's own"),
        (with(cluster(), "/spec/nodeGroups/0/name", json!("Workers")), "should match"),
        (with(cluster(), "/spec/nodeGroups/0/name", json!(long)), "may not be more than 40"),
        (
            with(cluster(), "/spec/nodeGroups/0/autoscaling", json!({"min": 1, "max": 2})),
            "either replicas or autoscaling",
        ),
        (with(cluster(), "/spec/nodeGroups/0/replicas", Value::Null), "either replicas or autoscaling"),
        (
            with(
                with(cluster(), "/spec/nodeGroups/0/replicas", Value::Null),
                "/spec/nodeGroups/0/autoscaling",
                json!({"min": 3, "max": 2}),
            ),
            "min must not be greater",
        ),
        (
            with(
                cluster(),
                "/spec/nodeGroups",
                json!([cluster()["spec"]["nodeGroups"][0], cluster()["spec"]["nodeGroups"][0]]),
            ),
            "Duplicate value",
        ),
        (with(cluster(), "/spec/network", json!({"podCIDR": "10.244.0.0"})), "should match"),
        (with(cluster(), "/spec/network", json!({"podCIDR": "10.999.0.0/16"})), "IPv4 network"),
        (with(cluster(), "/spec/network", json!({"podCIDR": "10.244.0.0/24"})), "two /24"),
        (with(cluster(), "/spec/network", json!({"serviceCIDR": "10.96.0.0/8"})), "/12 to /24"),
        (with(cluster(), "/spec/network", json!({"podCIDR": "10.244.7.0/16"})), "two /24"),
        (with(cluster(), "/spec/network", json!({"podCIDR": "10.96.128.0/17"})), "must not overlap"),
        (with(cluster(), "/spec/network", json!({"serviceCIDR": "10.77.3.0/24"})), "must not overlap"),
        (with(cluster(), "/spec/network", json!({"nodeCIDR": "10.244.9.0/24"})), "must not overlap"),
        (with(cluster(), "/spec/network", json!({"nodeCIDR": "10.77.0.0/30"})), "at least a /28"),
        (with(cluster(), "/metadata/name", json!("a.b")), "DNS label"),
        (with(cluster(), "/metadata/name", json!(long)), "DNS label"),
        (
            with(
                with(cluster(), "/metadata/name", json!("a".repeat(30))),
                "/spec/nodeGroups/0/name",
                json!("b".repeat(30)),
            ),
            "54 characters together",
        ),
        (with(version(), "/spec/measurements", json!({})), "either inline or signed"),
        (
            with(
                version(),
                "/spec/measurements/signed",
                json!({"configMap": "a", "publicKey": "-----BEGIN PUBLIC KEY-----"}),
            ),
            "either inline or signed",
        ),
        (with(version(), "/spec/measurements/inline", json!([])), "at least 1 items"),
        (with(version(), &format!("{set}/platform"), json!("hope")), "Unsupported value"),
        (
            with(
                with(version(), &format!("{set}/platform"), json!("qemu-vtpm")),
                &format!("{set}/pcrs/11"),
                Value::Null,
            ),
            "needs PCR 4",
        ),
        (with(version(), &format!("{set}/pcrs/15"), json!(["0".repeat(64)])), "PCR 15 can't be given"),
        (with(version(), &format!("{set}/pcrs/4"), json!(["0".repeat(63)])), "should match"),
        (with(version(), &format!("{set}/pcrs/4"), json!(["Z".repeat(64)])), "should match"),
        (with(version(), &format!("{set}/pcrs/4"), json!([])), "at least 1 items"),
        (with(version(), "/spec/image", json!({})), "an image is needed"),
        (with(version(), "/spec/kubernetesVersion", json!("latest")), "should match"),
        (with(node(), "/spec/versionDigest", json!("abc")), "should match"),
        (with(node(), "/spec/role", json!("king")), "Unsupported value"),
        (with(admission(), "/metadata/name", json!("u-2")), "named after the uid"),
    ];
    for (object, words) in cases {
        let refusal = dry_run(&client, &object).await.expect_err(words);
        assert!(refusal.contains(words), "wanted {words:?} in: {refusal}");
    }
}

#[tokio::test]
async fn what_is_told_again_counts_on_and_is_told_anew_where_it_was_removed() {
    let client = given("events").await;
    create(&client, &cluster()).await.unwrap();
    let clusters: Api<ConstellationCluster> = Api::default_namespaced(client.clone());
    let cluster = clusters.list(&ListParams::default()).await.unwrap().items.remove(0);
    let (events, all) = (Events::new(client.clone(), "tests".to_owned()), Api::<Event>::default_namespaced(client));
    let tell = async || {
        events.warning(&cluster, "Trying", "once more".to_owned()).await;
        let told = all.list(&ListParams::default()).await.unwrap().items;
        let counts = told.iter().map(|event| event.series.as_ref().map_or(1, |series| series.count));
        counts.collect::<Vec<_>>()
    };
    assert_eq!([tell().await, tell().await, tell().await], [[1], [2], [3]]);
    all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert_eq!([tell().await, tell().await], [[1], [2]]);
}

#[tokio::test]
async fn what_is_set_once_stays() {
    let client = given("set-once").await;
    let with_secret =
        |name: &str, secret: Value| with(with(cluster(), "/metadata/name", json!(name)), "/spec/masterSecret", secret);
    let hsm = |vault: &str| json!({"kms": {"azure": {"vaultUrl": format!("https://{vault}.managedhsm.azure.net"), "key": "a"}}});
    let own = with_secret("own-secret", json!({"existingSecret": {"name": "a"}}));
    let wrapped = with_secret("wrapped-secret", hsm("a"));
    for object in [cluster(), node(), group(), admission(), own.clone(), wrapped.clone()] {
        create(&client, &object).await.unwrap();
    }
    let refused = [
        (cluster(), json!({"spec": {"provider": {"simulated": null, "local": {}}}}), "provider can't be changed"),
        (cluster(), json!({"spec": {"tee": "snp"}}), "tee can't be changed"),
        (cluster(), json!({"spec": {"network": {"podCIDR": "10.0.0.0/16"}}}), "network can't be changed"),
        (
            cluster(),
            json!({"spec": {"masterSecret": {"existingSecret": {"name": "a"}}}}),
            "masterSecret can't be changed",
        ),
        (own, json!({"spec": {"masterSecret": {"existingSecret": {"name": "b"}}}}), "masterSecret can't be changed"),
        (wrapped, json!({"spec": {"masterSecret": hsm("b")}}), "key service can't be another"),
        (node(), json!({"spec": {"image": "v2"}}), "one VM and one launch"),
        (group(), json!({"spec": {"group": "others"}}), "group can't be changed"),
        (group(), json!({"spec": {"clusterRef": {"name": "b"}}}), "clusterRef can't be changed"),
        (admission(), json!({"spec": {"role": "control-plane"}}), "of an admission can't be changed"),
    ];
    for (object, patch, words) in refused {
        let refusal = change(&client, &object, patch).await.expect_err(words);
        assert!(refusal.contains(words), "wanted {words:?} in: {refusal}");
    }
    let accepted = [
        (cluster(), json!({"spec": {"nodeVersion": "other", "paused": true, "controlPlane": {"replicas": 3}}})),
        (node(), json!({"metadata": {"annotations": {"constellation.dev/retire": "rolling"}}})),
        (group(), json!({"spec": {"replicas": 7}})),
        (admission(), json!({"spec": {"evicted": true}})),
    ];
    for (object, patch) in accepted {
        change(&client, &object, patch).await.unwrap();
    }
}

#[tokio::test]
async fn status_is_written_through_its_subresource_only() {
    let client = given("status").await;
    for object in [cluster(), version(), node(), group(), admission()] {
        let api = api(&client, &object);
        let with_status = with(object.clone(), "/status", json!({"summary": "mine", "phase": "Ready"}));
        let made = create(&client, &with_status).await.unwrap();
        assert_eq!(made.data.get("status"), None, "{}", object["kind"]);
        let name = object["metadata"]["name"].as_str().unwrap();
        let conditions = json!([{"type": "Ready", "status": "True", "reason": "Reconciled", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let status = match object["kind"].as_str() {
            Some("NodeAdmission") => json!({"lastAppraisal": {"verdict": "Refused", "platform": "simulated"}}),
            _ => json!({"observedGeneration": 1, "conditions": conditions}),
        };
        let written =
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap();
        assert_eq!(written.data["status"], status);
    }
}

#[tokio::test]
async fn groups_scale_and_nodes_are_selected_by_field() {
    let client = given("scale").await;
    create(&client, &group()).await.unwrap();
    let groups: Api<NodeGroup> = Api::default_namespaced(client.clone());
    let status = json!({"status": {"replicas": 2, "selector": "constellation.dev/node-group=workers"}});
    groups.patch_status("a-workers", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let scale = groups.get_scale("a-workers").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(2));
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("constellation.dev/node-group=workers"));
    groups
        .patch_scale("a-workers", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 5}})))
        .await
        .unwrap();
    assert_eq!(groups.get("a-workers").await.unwrap().spec.replicas, 5);

    create(&client, &node()).await.unwrap();
    create(&client, &with(with(node(), "/metadata/name", json!("b-1")), "/spec/clusterRef/name", json!("b")))
        .await
        .unwrap();
    let nodes: Api<ConfidentialNode> = Api::default_namespaced(client);
    nodes
        .patch_status("b-1", &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Booting"}})))
        .await
        .unwrap();
    for (selector, name) in [
        ("spec.clusterRef.name=a", "a-workers-1"),
        ("status.phase=Booting", "b-1"),
        ("spec.nodeGroup=workers,spec.clusterRef.name=b", "b-1"),
    ] {
        let found = nodes.list(&ListParams::default().fields(selector)).await.unwrap();
        let names: Vec<_> = found.items.iter().map(|n| n.meta().name.clone().unwrap()).collect();
        assert_eq!(names, [name], "{selector}");
    }
}

#[tokio::test]
async fn tables_have_the_columns_of_the_conventions() {
    let client = given("tables").await;
    let common = ["Name", "Ready"];
    for (plural, expected) in [
        ("constellationclusters", vec!["Reason", "Version", "Desired", "Current", "UpToDate", "Attested", "Age"]),
        ("nodeversions", vec!["Reason", "Version", "Age"]),
        ("nodegroups", vec!["Reason", "Cluster", "Desired", "Current", "ReadyNodes", "Age"]),
        ("confidentialnodes", vec!["Phase", "Version", "Group", "Attested", "Platform", "Age"]),
    ] {
        let request = http::Request::get(format!("/apis/constellation.dev/v1alpha1/namespaces/tables/{plural}"))
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .unwrap();
        let table: Value = client.request(request).await.unwrap();
        let columns: Vec<_> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["priority"] == 0)
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect();
        let wanted: Vec<_> = common.iter().chain(&expected).map(ToString::to_string).collect();
        assert_eq!(columns, wanted, "{plural}");
    }
}

#[tokio::test]
async fn a_protected_cluster_is_not_deleted() {
    let client = given("protection").await;
    let text = fs::read_to_string(root().join("charts/constellation-crds/templates/deletion-protection.yaml")).unwrap();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let object: DynamicObject = serde::Deserialize::deserialize(document).unwrap();
        let gvk = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let plural = if gvk.kind.ends_with("Policy") {
            "validatingadmissionpolicies"
        } else {
            "validatingadmissionpolicybindings"
        };
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural));
        let name = object.metadata.name.clone().unwrap();
        api.patch(&name, &PatchParams::apply("tests"), &Patch::Apply(&object)).await.unwrap();
    }
    let clusters: Api<ConstellationCluster> = Api::default_namespaced(client.clone());
    create(&client, &with(cluster(), "/spec/deletionProtection", json!(true))).await.unwrap();
    let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
    let mut refusal = None;
    // The API server learns of a policy a moment after it stored it.
    for _ in 0..300 {
        match clusters.delete("quickstart", &dry).await {
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Err(error) => {
                refusal = Some(error.to_string());
                break;
            }
        }
    }
    let refusal = refusal.expect("the policy took no effect in 30 s");
    assert!(refusal.contains("set spec.deletionProtection to false first"), "{refusal}");
    change(&client, &cluster(), json!({"spec": {"deletionProtection": false}})).await.unwrap();
    let off = Patch::Merge(json!({"spec": {"deletionProtection": false}}));
    clusters.patch("quickstart", &PatchParams::default(), &off).await.unwrap();
    clusters.delete("quickstart", &DeleteParams::default()).await.unwrap();
    let versions: Api<NodeVersion> = Api::default_namespaced(client);
    assert!(versions.list(&ListParams::default()).await.unwrap().items.is_empty());
}
