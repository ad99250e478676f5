//! A cluster that is deleted after any write of its creation, and the longest names of what it refers to.

use constellation_crds::{ConstellationCluster, NodeVersion, condition::reason};
use constellation_tests::faults::flow::{LONG, SMALL};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{change, end, end_without, lane, manifest, secret, told};

/// Clusters at a time: each has an operator of its own, 30 MB, and waits most of the time.
const ABREAST: usize = 16;

/// Asks for a small cluster, deletes it when that many writes were seen, and gives the number of writes until then.
async fn deleted_after(writes: usize) -> usize {
    let lane = lane(&format!("stage-{writes}")).await;
    lane.create(SMALL).await.unwrap();
    let seen = |lane: &constellation_tests::faults::lane::Lane| lane.proxy.seen(|seen| seen.writes.len());
    lane.until("the moment", LONG, async |lane| Ok(seen(lane) >= writes || lane.is(SMALL).await?)).await.unwrap();
    let made = seen(&lane);
    end(&lane).await;
    lane.one_machine_per_node().unwrap();
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_deleted_at_any_stage_of_its_creation_leaves_nothing() {
    let all = deleted_after(usize::MAX).await;
    assert!(all > 15, "{all} writes make a cluster");
    // Each look takes half a second, so some stages are seen together.
    let made: Vec<_> = stream::iter(1..all).map(deleted_after).buffer_unordered(ABREAST).collect().await;
    assert!(made.iter().any(|made| *made < all / 3) && made.iter().any(|made| *made > all / 2), "{made:?}");
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
