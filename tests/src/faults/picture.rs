//! What there is of a cluster, without what differs from run to run: UIDs, times, revisions, numbers in names.

use anyhow::Result;
use constellation_crds::{ConfidentialNode, NodeAdmission, NodeGroup, NodeVersion, TrustBundle, condition::Condition};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt as _};
use serde_json::Value;

use super::lane::Lane;

/// The picture: one line an object, sorted.
///
/// # Errors
/// When something can't be read.
pub async fn of(lane: &Lane) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if let Some(cluster) = lane.cluster().await? {
        let s = cluster.status.clone().unwrap_or_default();
        lines.push(format!(
            "cluster {:?} desired {:?} current {:?} ready {:?} up to date {:?} attested {:?} same version {} accepted {} \
             plan {:?} summary {:?} finalizers {:?} {}",
            s.observed_generation == cluster.metadata.generation,
            s.desired_nodes,
            s.current_nodes,
            s.ready_nodes,
            s.up_to_date_nodes,
            s.attested_nodes,
            s.current_version == s.target_version,
            s.accepted_versions.len(),
            s.plan,
            s.summary,
            cluster.finalizers(),
            conditions(&s.conditions)
        ));
    }
    for node in lane.list::<ConfidentialNode>().await? {
        let s = node.status.clone().unwrap_or_default();
        let verdict = s.attestation.as_ref().map(|a| a.verdict.clone());
        lines.push(format!(
            "node {} {} going {} {:?} {verdict:?} provider {} {} {}",
            node.spec.node_group,
            node.spec.image,
            node.metadata.deletion_timestamp.is_some(),
            s.phase,
            s.provider_id.is_some(),
            s.summary.unwrap_or_default(),
            conditions(&s.conditions)
        ));
    }
    for group in lane.list::<NodeGroup>().await? {
        let s = group.status.clone().unwrap_or_default();
        let counts = (group.spec.replicas, s.replicas, s.ready_replicas);
        lines.push(format!("group {} {counts:?} {}", group.spec.group, conditions(&s.conditions)));
    }
    for version in lane.list::<NodeVersion>().await? {
        let s = version.status.clone().unwrap_or_default();
        lines.push(format!("version {:?} {}", version.spec.image.simulated, conditions(&s.conditions)));
    }
    for admission in lane.list::<NodeAdmission>().await? {
        let s = admission.status.clone().unwrap_or_default();
        let verdict = s.last_appraisal.map(|a| a.verdict);
        let (role, evicted) = (admission.spec.role.as_str(), admission.spec.evicted);
        lines.push(format!("admission {role} evicted {evicted:?} admitted {} {verdict:?}", s.admission.is_some()));
    }
    lines.extend(lane.list::<TrustBundle>().await?.iter().map(|bundle| format!("trust {}", bundle.name_any())));
    for record in lane.records().await? {
        let data = record.data.clone().unwrap_or_default();
        let machine: Value = data.get("record").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let targets = data.get("targets").map_or(0, |text| text.lines().count());
        lines.push(format!("record {} {} targets {targets}", machine["state"], machine["image"]));
    }
    for secret in lane.list::<Secret>().await? {
        let keys: Vec<_> = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.len() > 16)).collect();
        lines.push(format!("secret {} {keys:?}", secret.name_any()));
    }
    for node in lane.kube_nodes().await? {
        let spec = node.spec.clone().unwrap_or_default();
        let taints: Vec<_> = spec.taints.iter().flatten().map(|taint| taint.key.clone()).collect();
        let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.status == "True");
        let labels: Vec<_> = node.labels().keys().filter(|key| key.contains("constellation")).collect();
        lines.push(format!("kube node ready {ready} taints {taints:?} labels {labels:?}"));
    }
    lines.sort();
    Ok(lines)
}

fn conditions(list: &[Condition]) -> String {
    let mut words: Vec<_> = list.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect();
    words.sort();
    words.join(" ")
}

/// What is left of a cluster that is gone. Objects that it owns don't count: the garbage collector takes them.
///
/// # Errors
/// When something can't be read.
pub async fn left(lane: &Lane) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let mut add = |what: &str, meta: &ObjectMeta| {
        let owned = meta.owner_references.iter().flatten().any(|owner| owner.kind == "ConstellationCluster");
        if !owned || !meta.finalizers.iter().flatten().count().eq(&0) {
            left.push(format!("{what} {}", meta.name.clone().unwrap_or_default()));
        }
    };
    lane.list::<ConfidentialNode>().await?.iter().for_each(|o| add("node", o.meta()));
    lane.list::<NodeGroup>().await?.iter().for_each(|o| add("group", o.meta()));
    lane.list::<NodeAdmission>().await?.iter().for_each(|o| add("admission", o.meta()));
    lane.list::<TrustBundle>().await?.iter().for_each(|o| add("trust bundle", o.meta()));
    lane.list::<Secret>().await?.iter().for_each(|o| add("secret", o.meta()));
    let records: Vec<ConfigMap> = lane.records().await?;
    for record in &records {
        add("record", record.meta());
    }
    lane.kube_nodes().await?.iter().for_each(|o| add("kube node", o.meta()));
    Ok(left)
}
