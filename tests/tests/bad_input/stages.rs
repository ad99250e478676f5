//! A cluster that is deleted before or after any write of its creation, and the longest names of what it refers to.

use constellation_crds::{ConstellationCluster, NodeVersion, condition::reason};
use constellation_tests::faults::{
    call::Call,
    deleted,
    flow::{Flow, LONG, SMALL},
    plan::{Plan, Side},
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{change, end_without, lane, lane_with, manifest, secret, told};

/// Clusters at a time: each has an operator of its own, 30 MB, and waits most of the time.
const ABREAST: usize = 16;

/// Deletes a cluster on this side of the n-th write of its creation.
async fn deleted_at(side: Side, nth: usize) -> String {
    let lane = lane_with(&format!("stage-{side:?}-{nth}").to_lowercase(), Plan::deleted(side, nth, Call::writes)).await;
    deleted::run(&lane, Flow::Create).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_deleted_before_or_after_any_write_of_its_creation_leaves_nothing() {
    let whole = lane_with("stage-all", Plan::deleted(Side::After, usize::MAX, Call::writes)).await;
    let all = deleted::count(&whole, Flow::Create).await.unwrap();
    assert!(all > 30, "{all} different writes make a cluster");
    let stages = (1..=all).flat_map(|nth| [Side::Before, Side::After].map(|side| (side, nth)));
    let mut ends = stream::iter(stages).map(|(side, nth)| deleted_at(side, nth)).buffer_unordered(ABREAST);
    let mut reached = 0;
    while let Some(line) = ends.next().await {
        println!("{line}");
        reached += usize::from(line.contains("Delete"));
    }
    // Some are not met in every run: what is told together in one is told in two others.
    assert!(reached > all * 3 / 2, "{reached} of {all} writes on two sides were met");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_refers_to_may_have_the_longest_name_and_is_asked_for_by_it() {
    let lane = lane("longest").await;
    let long = format!("a.{}", "x".repeat(251));
    assert_eq!(long.len(), 253);
    lane.release("v1", true).await.unwrap();
    let cluster = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "ConstellationCluster", "metadata": {"name": lane.name},
        "spec": {
            "provider": {"simulated": {"bootSeconds": 0}}, "tee": "vtpm", "nodeVersion": lane.name,
            "masterSecret": {"existingSecret": {"name": long}},
            "controlPlane": {"replicas": 1, "instanceType": "any"},
            "nodeGroups": [{"name": "workers", "instanceType": "any", "replicas": 1}],
        },
    });
    let params = PatchParams::apply("tests").force();
    lane.api::<ConstellationCluster>().patch(&lane.name, &params, &Patch::Apply(cluster)).await.unwrap();
    told(&lane, reason::SECRET_NOT_FOUND, &long).await;
    secret(&lane, &long, "secret", &[7; 32]).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();

    let publisher = constellation_attestation::owner::SigningKey::generate().unwrap();
    let public_key = constellation_attestation::owner::spki_to_pem(&publisher.public_spki());
    let signed = json!({"configMap": long, "publicKey": public_key});
    change::<NodeVersion>(&lane, json!({"measurements": {"inline": null, "signed": signed}})).await;
    told(&lane, reason::NODE_VERSION_NOT_READY, &long).await;
    let envelope = constellation_attestation::dsse::sign(
        constellation_attestation::policy::MANIFEST_TYPE,
        &manifest(1, None),
        &publisher,
    );
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": long}, "data": {"manifest.dsse.json": envelope}});
    lane.api::<ConfigMap>().patch(&long, &params, &Patch::Apply(map)).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    end_without(&lane, &long).await;
}
