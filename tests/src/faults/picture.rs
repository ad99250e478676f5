//! What there is of a cluster, without what differs from run to run: UIDs, times, revisions, numbers in names.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::policy::TrustPolicy;
use constellation_crds::{ConfidentialNode, NodeAdmission, NodeGroup, NodeVersion, TrustBundle, condition::Condition};
use constellation_operator::cluster::sweep::LABEL_ORPHANED;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Node, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt as _, api::ListParams};
use serde::Serialize;
use serde_json::Value;

use super::lane::{Lane, USERS};

/// The picture: one line an object, sorted.
///
/// # Errors
/// When something can't be read.
pub async fn of(lane: &Lane) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if let Some(cluster) = lane.cluster().await? {
        let s = cluster.status.clone().unwrap_or_default();
        // The node that a release was given up for has another number in another run.
        let summary =
            s.summary.map(|text| s.rolled_back.iter().fold(text, |text, up| text.replace(&up.node, "<node>")));
        lines.push(format!(
            "cluster {:?} desired {:?} current {:?} ready {:?} up to date {:?} attested {:?} same version {} accepted {} given up {:?} \
             plan {:?} summary {:?} finalizers {:?} {}",
            s.observed_generation == cluster.metadata.generation,
            s.desired_nodes,
            s.current_nodes,
            s.ready_nodes,
            s.up_to_date_nodes,
            s.attested_nodes,
            s.current_version == s.target_version,
            s.accepted_versions.len(),
            s.rolled_back.map(|given_up| given_up.message),
            s.plan,
            summary,
            cluster.finalizers(),
            conditions(&s.conditions)
        ));
    } else {
        let orphaned = ListParams::default().labels(LABEL_ORPHANED);
        let records = lane.api::<ConfigMap>().list(&orphaned).await?.items;
        lines.push(format!("clusters whose machines were left running: {}", records.len()));
    }
    for node in lane.list::<ConfidentialNode>().await? {
        let s = node.status.clone().unwrap_or_default();
        let verdict = s.attestation.as_ref().map(|a| a.verdict.clone());
        lines.push(format!(
            "node {} going {} {:?} {verdict:?} provider {} {} {}",
            spec(&node.spec, &["index"])?,
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
    lines.extend(inside(&lane.list().await?, &lane.list().await?, &lane.kube_nodes().await?)?);
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
    lines.sort();
    Ok(lines)
}

/// What lies in a cluster that was made: its admissions, its trust and its nodes.
///
/// # Errors
/// When a trust bundle is none.
pub fn inside(admissions: &[NodeAdmission], bundles: &[TrustBundle], nodes: &[Node]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for admission in admissions {
        let s = admission.status.clone().unwrap_or_default();
        let verdict = s.last_appraisal.map(|a| a.verdict);
        let of_the_run = ["nodeUid", "nodeName", "launchConfigDigest", "podCIDR", "providerID"];
        let spec = spec(&admission.spec, &of_the_run)?;
        lines.push(format!("admission {spec} admitted {} {verdict:?}", s.admission.is_some()));
    }
    for bundle in bundles {
        lines.push(format!("trust {} {}", bundle.name_any(), accepted(&bundle.spec.envelope)?));
    }
    for node in nodes {
        let spec = node.spec.clone().unwrap_or_default();
        let taints: Vec<_> = spec.taints.iter().flatten().map(|taint| taint.key.clone()).collect();
        let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.status == "True");
        let labels: Vec<_> = node.labels().keys().filter(|key| key.contains("constellation")).collect();
        lines.push(format!("kube node ready {ready} taints {taints:?} labels {labels:?}"));
    }
    Ok(lines)
}

/// A spec without what differs from run to run.
fn spec(spec: &impl Serialize, of_the_run: &[&str]) -> Result<Value> {
    let mut spec = serde_json::to_value(spec)?;
    spec.as_object_mut().context("a spec has members")?.retain(|member, _| !of_the_run.contains(&member.as_str()));
    Ok(spec)
}

/// The sets that a trust policy accepts; who signed it is for those to check who are to believe it.
fn accepted(envelope: &str) -> Result<Value> {
    let envelope: Value = serde_json::from_str(envelope)?;
    let payload = STANDARD.decode(envelope["payload"].as_str().context("an envelope has a payload")?)?;
    let policy: TrustPolicy = serde_json::from_slice(&payload)?;
    Ok(serde_json::to_value(policy.sets)?)
}

/// What Secrets hold, by name and key.
pub type Secrets = BTreeMap<String, BTreeMap<String, ByteString>>;

/// What the Secrets hold.
///
/// # Errors
/// When they can't be read.
pub async fn secrets(lane: &Lane) -> Result<Secrets> {
    let secrets = lane.list::<Secret>().await?.into_iter();
    Ok(secrets.map(|secret| (secret.name_any(), secret.data.unwrap_or_default())).collect())
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
        if meta.labels.iter().flatten().any(|(label, _)| label == USERS) {
            return;
        }
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
