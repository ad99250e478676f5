//! What belongs to nobody goes from the cloud, and nothing else: machines and networks are planted, and looked for.
//!
//! Needs the program: `cargo build -p constellation-operator`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use constellation_crds::ConstellationCluster;
use constellation_operator::cluster::sweep::LABEL_ORPHANED;
use constellation_tests::faults::{
    flow::{LONG, SMALL, at_rest},
    lane::Lane,
    management,
    plan::Plan,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

async fn plant(lane: &Lane, name: &str, labels: &Value, data: &Value) {
    let map = json!({"metadata": {"name": name, "labels": labels}, "data": data});
    lane.api::<ConfigMap>().create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
}

/// A machine in the cloud's books (`operator/src/cloud/simulated/store.rs`).
async fn machine(lane: &Lane, cluster: &str, node: &str) {
    let record = json!({
        "cluster": cluster, "node": node, "name": node, "image": "v1", "index": 7, "launchConfig": "{}",
        "launchedAt": Timestamp::now(), "bootSeconds": 0, "state": "Running",
    });
    let labels = json!({"constellation.dev/simulated": "instance", "constellation.dev/cluster-uid": cluster});
    plant(lane, &format!("simulated-{node}"), &labels, &json!({"record": record.to_string()})).await;
}

async fn network(lane: &Lane, cluster: &str) {
    let labels = json!({"constellation.dev/simulated": "network", "constellation.dev/cluster-uid": cluster});
    plant(lane, &format!("simulated-network-{cluster}"), &labels, &json!({"nodeCIDR": "10.77.0.0/16"})).await;
}

/// What is in the books, each with the version of its last change.
async fn books(lane: &Lane) -> BTreeMap<String, Option<String>> {
    lane.records().await.unwrap().iter().map(|map| (map.name_any(), map.resource_version())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_cluster_or_no_node_is_removed_and_nothing_else_is_touched() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sweep");
    let config = management(&dir.join("plane")).await.unwrap();
    let lane = Lane::start(config, &dir.join("lanes"), "sweep", Plan::calm(), &["--sweep-seconds", "1"]).await.unwrap();
    lane.create(SMALL).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    at_rest(&lane, SMALL).await.unwrap();
    let healthy = lane.cluster().await.unwrap().unwrap().uid().unwrap();

    // Left running by its user: planted first, so that each sweep that sees the others sees it as well.
    plant(&lane, "orphaned-left", &json!({LABEL_ORPHANED: "left"}), &json!({})).await;
    machine(&lane, "left", "left-machine").await;
    network(&lane, "left").await;
    let stays = books(&lane).await;
    let before = lane.proxy.seen(|seen| seen.writes.len());
    network(&lane, "stranger").await;
    machine(&lane, "stranger", "stranger-machine").await;
    machine(&lane, &healthy, "strays").await;

    let wanted = [
        "delete configmaps simulated-network-stranger",
        "delete configmaps simulated-stranger-machine",
        "delete configmaps simulated-strays",
        "patch configmaps simulated-stranger-machine Terminating",
        "patch configmaps simulated-strays Terminating",
    ];
    let only = async |what: &str, stays: &BTreeMap<_, _>| {
        // The proxy hears of a write a moment after it took effect.
        let told = |lane: &Lane| lane.proxy.seen(|seen| seen.writes.len()) >= before + wanted.len();
        lane.until(what, LONG, async |lane| Ok(books(lane).await == *stays && told(lane))).await.unwrap();
    };
    only("what belongs to somebody, unchanged, and nothing else", &stays).await;
    let writes: BTreeSet<_> = lane.proxy.seen(|seen| seen.writes[before..].iter().cloned().collect());
    assert_eq!(writes, wanted.map(str::to_owned).into(), "what the operator wrote");

    // What a paused cluster has too much stays until it goes on, though others' is removed meanwhile.
    let pause = async |paused: bool| {
        let body = Patch::Merge(json!({"spec": {"paused": paused}}));
        let clusters = lane.api::<ConstellationCluster>();
        clusters.patch(&lane.name, &PatchParams::default(), &body).await.unwrap();
    };
    pause(true).await;
    machine(&lane, &healthy, "spared").await;
    let spared = async |lane: &Lane| books(lane).await.contains_key("simulated-spared");
    for round in ["one", "another"] {
        network(&lane, round).await;
        let swept = async |lane: &Lane| Ok(!books(lane).await.contains_key(&format!("simulated-network-{round}")));
        lane.until("a sweep", LONG, swept).await.unwrap();
    }
    assert!(spared(&lane).await, "it was removed from a paused cluster");
    pause(false).await;
    lane.until("it goes on", LONG, async |lane| Ok(!spared(lane).await)).await.unwrap();

    // Nobody says any more that its user left it running.
    lane.api::<ConfigMap>().delete("orphaned-left", &DeleteParams::default()).await.unwrap();
    let stays = stays.into_iter().filter(|(name, _)| !name.contains("left")).collect();
    only("the healthy cluster's, unchanged, and nothing else", &stays).await;
    lane.settled(SMALL, LONG).await.unwrap();
    lane.delete().await.unwrap();
    lane.gone(LONG).await.unwrap();
}
