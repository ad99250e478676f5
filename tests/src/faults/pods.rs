//! Pods on a node that has to go: one that a disruption budget holds, one that may leave, one that ends with its node.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::lane::{Lane, user};

/// What belongs to its node, and isn't asked to leave it.
pub const DAEMON: &str = "daemon";
/// What nothing holds.
pub const FREE: &str = "free";
/// What stays until its budget allows one disruption.
pub const HELD: &str = "held";

/// Starts the three on a node, as far as the API server knows: no kubelet runs there.
///
/// # Errors
/// When they are refused.
pub async fn place(lane: &Lane, node: &str) -> Result<()> {
    let daemon = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": DAEMON, "uid": DAEMON}]);
    for (name, owners) in [(HELD, json!([])), (FREE, json!([])), (DAEMON, daemon)] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"pod": name}, "ownerReferences": owners},
            // Without a kubelet nobody else would say that it has ended.
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": name, "image": "none"}]},
        });
        lane.api::<Pod>().patch(name, &user(), &Patch::Apply(pod)).await?;
        // A budget doesn't hold what isn't running.
        let runs = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        lane.api::<Pod>().patch_status(name, &PatchParams::default(), &Patch::Merge(runs)).await?;
    }
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": HELD},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"pod": HELD}}},
    });
    lane.api::<PodDisruptionBudget>().patch(HELD, &user(), &Patch::Apply(budget)).await?;
    allow(lane, 0).await
}

/// Says, as the disruption controller would, how many of the pods that the budget holds may leave.
///
/// # Errors
/// When it can't be written.
pub async fn allow(lane: &Lane, disruptions: u32) -> Result<()> {
    let budgets = lane.api::<PodDisruptionBudget>();
    let generation = budgets.get(HELD).await?.metadata.generation.context("a budget has a generation")?;
    let said = json!({"status": {
        "observedGeneration": generation, "disruptionsAllowed": disruptions,
        "currentHealthy": 1, "desiredHealthy": 1 - disruptions, "expectedPods": 1,
    }});
    budgets.patch_status(HELD, &PatchParams::default(), &Patch::Merge(said)).await?;
    Ok(())
}

/// Who is still there.
///
/// # Errors
/// When they can't be listed.
pub async fn there(lane: &Lane) -> Result<BTreeSet<String>> {
    let pods = lane.list::<Pod>().await?.into_iter();
    Ok(pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(|pod| pod.name_any()).collect())
}

/// Checks that who left was evicted, one by one, and that nobody else was touched.
///
/// # Errors
/// When a pod is gone that should be there, or was deleted without being asked whether it may leave.
pub async fn left_by_leave(lane: &Lane) -> Result<()> {
    let there = there(lane).await?;
    ensure!(there == BTreeSet::from([DAEMON.to_owned()]), "{}: still there: {there:?}", lane.name);
    let writes = lane.proxy.seen(|seen| seen.writes.clone());
    let of_pods: Vec<_> = writes.iter().filter(|write| write.contains(" pods")).collect();
    let evicts = |name: &str| format!("create pods/eviction {name}");
    let fine = of_pods.iter().all(|write| [evicts(HELD), evicts(FREE)].contains(write));
    ensure!(fine, "{}: pods were written otherwise than by eviction: {of_pods:?}", lane.name);
    Ok(())
}
