//! Names that come to the same: the one who has it keeps it, and the other is told whose it is and what to do.

use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeGroup, condition::reason};
use constellation_tests::faults::{
    flow::{LONG, SMALL},
    lane::Lane,
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{end, lane, told, told_of};

#[tokio::test(flavor = "multi_thread")]
async fn names_that_collide_are_told_and_nothing_of_the_other_cluster_is_touched() {
    let lane = lane("collide").await;
    let others = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeGroup", "metadata": {"name": "collide-workers"},
        "spec": {"clusterRef": {"name": "other"}, "group": "workers", "replicas": 9},
    });
    let node = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "ConfidentialNode", "metadata": {"name": "collide-cp-1"},
        "spec": {
            "clusterRef": {"name": "other"}, "nodeGroup": "control-plane", "role": "control-plane", "index": 7,
            "nodeVersion": "v", "versionDigest": "0".repeat(64), "image": "v1", "instanceType": "any",
        },
    });
    let params = PatchParams::apply("tests").force();
    let (groups, nodes) = (lane.api::<NodeGroup>(), lane.api::<ConfidentialNode>());
    groups.patch("collide-workers", &params, &Patch::Apply(others)).await.unwrap();
    nodes.patch("collide-cp-1", &params, &Patch::Apply(node)).await.unwrap();
    lane.create(SMALL).await.unwrap();
    told(&lane, reason::NAME_TAKEN, "NodeGroup collide-workers belongs to cluster other already").await;
    assert_eq!(groups.get("collide-workers").await.unwrap().spec.replicas, 9);
    groups.delete("collide-workers", &DeleteParams::default()).await.unwrap();
    told(&lane, reason::NAME_TAKEN, "ConfidentialNode collide-cp-1 belongs to cluster other already").await;
    assert_eq!(nodes.get("collide-cp-1").await.unwrap().spec.index, 7);
    nodes.delete("collide-cp-1", &DeleteParams::default()).await.unwrap();
    lane.settled(SMALL, LONG).await.unwrap();
    end(&lane).await;
}

/// Asks for a cluster of one node and an empty group.
async fn ask(lane: &Lane, cluster: &str, group: &str) {
    let spec: Value = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "ConstellationCluster", "metadata": {"name": cluster},
        "spec": {
            "provider": {"simulated": {"bootSeconds": 0}}, "tee": "vtpm", "nodeVersion": lane.name,
            "controlPlane": {"replicas": 1, "instanceType": "any"},
            "nodeGroups": [{"name": group, "instanceType": "any", "replicas": 0}],
        },
    });
    let params = PatchParams::apply("tests").force();
    lane.api::<ConstellationCluster>().patch(cluster, &params, &Patch::Apply(spec)).await.unwrap();
}

async fn ready(lane: &Lane, cluster: &str) {
    lane.until(&format!("{cluster} Ready"), LONG, async |lane| {
        let cluster = lane.api::<ConstellationCluster>().get(cluster).await?;
        let status = cluster.status.unwrap_or_default();
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        Ok(ready && status.observed_generation == cluster.metadata.generation)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_whose_groups_come_to_one_name_are_both_well_once_one_is_called_otherwise() {
    let lane = lane("pair").await;
    lane.release("v1", true).await.unwrap();
    ask(&lane, "a-b", "c").await;
    ready(&lane, "a-b").await;
    let first = lane.api::<NodeGroup>().get("a-b-c").await.unwrap();
    ask(&lane, "a", "b-c").await;
    let words = "NodeGroup a-b-c belongs to cluster a-b already: give this cluster or its group another name";
    told_of::<ConstellationCluster>(&lane, "a", reason::NAME_TAKEN, words).await;
    ask(&lane, "a", "d").await;
    ready(&lane, "a").await;
    let clusters = lane.api::<ConstellationCluster>();
    let gone = async |cluster: &str| {
        clusters.delete(cluster, &DeleteParams::default()).await.unwrap();
        lane.until(&format!("no {cluster}"), LONG, async |_| Ok(clusters.get_opt(cluster).await?.is_none()))
            .await
            .unwrap();
    };
    gone("a").await;
    assert_eq!(lane.api::<NodeGroup>().get("a-b-c").await.unwrap().metadata.uid, first.metadata.uid);
    ready(&lane, "a-b").await;
    gone("a-b").await;
}
