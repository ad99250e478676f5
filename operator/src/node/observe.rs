//! Looks at one node: its cluster, its VM, its admission, its Kubernetes node, its owner's conversation with it.

use std::time::Duration;

use constellation_crds::{
    ConfidentialNode, ConstellationCluster, NodeAdmission, NodeVersion,
    cluster::DeletionPolicy,
    condition::{is_true, kind},
    node::{Phase, Role},
    version::Rollout,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use sha2::{Digest, Sha256};

use super::seen::{AdmissionSeen, ClusterSeen, KubeSeen, Observed, Others, TalkSeen};
use crate::{
    cloud::{ClusterUid, offer::is_simulated},
    cluster::{
        observe::{is_annotated_paused, is_paused},
        secrets,
    },
    context::Context,
    error::{Error, chain},
    init::{self, Outcome},
    workload::Workload,
};

/// Label on a Kubernetes node whose machine was attested.
pub const LABEL_ATTESTED: &str = "constellation.dev/attested";
/// Label that kubeadm sets when everything else of a control-plane node is done: its kubelet is Ready long before its
/// etcd has caught up, and then its predecessor must not go yet.
const LABEL_CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Absent: two minutes for pods to leave.
const DRAIN_SECONDS: u32 = 120;
/// Absent: a quarter of an hour from launch to Ready; without KVM a control-plane node needs up to 6 minutes.
const NODE_SECONDS: u32 = 900;

/// What was seen, and the ways to act on it.
pub struct Look {
    /// Plain values.
    pub seen: Observed,
    /// The cluster's object.
    pub cluster: Option<ConstellationCluster>,
    /// The made cluster, if it can be asked.
    pub workload: Option<Workload>,
    /// The launch configuration.
    pub launch_config: Option<Vec<u8>>,
}

/// Looks.
pub async fn observe(context: &Context, node: &ConfidentialNode) -> Result<Look, Error> {
    let namespace = node.namespace().unwrap_or_default();
    let clusters: Api<ConstellationCluster> = Api::namespaced(context.client.clone(), &namespace);
    let name = &node.spec.cluster_ref.name;
    let cluster = clusters.get_opt(name).await.map_err(Error::kube(format!("reading cluster {name}")))?;
    let mut seen = Observed {
        node: node.clone(),
        cluster: None,
        instance: None,
        admission: None,
        kube: None,
        talk: talk(context, node),
        launch_digest: None,
        now: jiff::Timestamp::now(),
    };
    let Some(cluster) = cluster else {
        return Ok(Look { seen, cluster: None, workload: None, launch_config: None });
    };
    let cloud = context.cloud(&cluster).await?;
    let uid = ClusterUid(cluster.uid().unwrap_or_default());
    let node_uid = node.uid().unwrap_or_default();
    // A Ready node is looked at again when another node of its cluster was, so that all share one listing.
    let steady = !seen.deleting() && seen.before().phase == Some(Phase::Ready);
    let age = if steady { super::LATER / 2 } else { Duration::ZERO };
    let found = context.listings.of(cloud.as_ref(), &uid, age).await?;
    seen.instance = found.into_iter().find(|instance| instance.node.0 == node_uid);
    let ending = cluster.metadata.deletion_timestamp.is_some();
    // A cluster that goes needs no launch: a broken owner key must not keep its VMs running.
    let launch_config = if ending { None } else { launch_config(context, &cluster, node).await? };
    seen.launch_digest = launch_config.as_ref().map(|bytes| hex::encode(Sha256::digest(bytes)));
    let status = cluster.status.clone().unwrap_or_default();
    // A simulated cluster's API is there from the start, but our kinds are in it only with the trust bundle.
    let simulated = is_simulated(&cluster) && status.trust_revision.is_some();
    let initialized = simulated || is_true(&status.conditions, kind::CONTROL_PLANE_INITIALIZED);
    let mut workload = None;
    if !ending || is_simulated(&cluster) {
        match inside(context, &cluster, node).await {
            Ok(found) => (workload, seen.admission, seen.kube) = found,
            // A dead VM may be why nobody answers: that it is dead is told all the same. A node that leaves waits, as
            // its admission must be taken back first.
            Err(error) if !seen.deleting() && seen.is_lost() => {
                tracing::info!(node = node.name_any(), error = chain(&error), "The cluster can't be asked");
            }
            Err(error) => return Err(error),
        }
    }
    let others = if seen.deleting() && seen.is_control_plane() {
        let nodes: Api<ConfidentialNode> = Api::namespaced(context.client.clone(), &namespace);
        let all = nodes.list(&ListParams::default()).await.map_err(Error::kube("listing nodes"))?;
        others(node, &all.items)
    } else {
        Others::default()
    };
    let rollout = cluster.spec.rollout.clone().unwrap_or_default();
    let of_version = rollout_of_version(context, &seen).await?;
    seen.cluster = Some(ClusterSeen {
        deleting: ending,
        orphan: cluster.spec.deletion_policy == Some(DeletionPolicy::Orphan),
        paused: is_paused(&cluster) || is_annotated_paused(node),
        infrastructure: is_true(&status.conditions, kind::INFRASTRUCTURE_READY) && launch_config.is_some(),
        initialized: initialized && workload.is_some(),
        others,
        drain_seconds: of_version
            .drain_timeout_seconds
            .or(rollout.drain_timeout_seconds)
            .unwrap_or(DRAIN_SECONDS)
            .into(),
        node_seconds: of_version.node_timeout_seconds.or(rollout.node_timeout_seconds).unwrap_or(NODE_SECONDS).into(),
        on_failure: cluster.spec.on_failure(),
    });
    Ok(Look { seen, cluster: Some(cluster), workload, launch_config })
}

/// The other control-plane nodes of its cluster. Who was Ready once is a member of etcd: Kubernetes knows a node before it is
/// one.
fn others(node: &ConfidentialNode, all: &[ConfidentialNode]) -> Others {
    let mut others = Others::default();
    for other in all {
        let same = other.spec.cluster_ref == node.spec.cluster_ref && other.spec.role == Role::ControlPlane;
        let Some(status) = other.status.as_ref().filter(|_| same && other.uid() != node.uid()) else { continue };
        if !status.phase_times.contains_key(kind::READY) {
            continue;
        }
        match (other.metadata.deletion_timestamp.is_some(), status.phase) {
            (true, _) => others.leaving += 1,
            (false, Some(Phase::Ready)) => (others.members, others.ready) = (others.members + 1, others.ready + 1),
            (false, Some(Phase::Joined)) => others.members += 1,
            (false, _) => {}
        }
    }
    others
}

/// What the node's version says of rolls; only a node that comes or goes is timed, so only then it is read.
async fn rollout_of_version(context: &Context, seen: &Observed) -> Result<Rollout, Error> {
    if !seen.deleting() && seen.since("Ready").is_some() {
        return Ok(Rollout::default());
    }
    let node = &seen.node;
    let versions: Api<NodeVersion> = Api::namespaced(context.client.clone(), &node.namespace().unwrap_or_default());
    let name = &node.spec.node_version;
    let version = versions.get_opt(name).await.map_err(Error::kube(format!("reading NodeVersion {name}")))?;
    Ok(version.and_then(|version| version.spec.rollout).unwrap_or_default())
}

type Inside = (Option<Workload>, Option<AdmissionSeen>, Option<KubeSeen>);

/// What the made cluster says of the node.
async fn inside(context: &Context, cluster: &ConstellationCluster, node: &ConfidentialNode) -> Result<Inside, Error> {
    let Some(workload) = context.workloads.of(&context.client, cluster).await? else { return Ok((None, None, None)) };
    let admission = admission(&workload, &node.uid().unwrap_or_default()).await?;
    let kube = kube_node(&workload, node).await?;
    Ok((Some(workload), admission, kube))
}

/// The launch configuration; nothing while there is no owner key.
async fn launch_config(
    context: &Context,
    cluster: &ConstellationCluster,
    node: &ConfidentialNode,
) -> Result<Option<Vec<u8>>, Error> {
    let (_, owner) = secrets::owner_key(&context.client, cluster).await?;
    let uid = cluster.uid().unwrap_or_default();
    Ok(owner.map(|owner| init::begin::launch_config(&uid, node, &owner)))
}

fn talk(context: &Context, node: &ConfidentialNode) -> Option<TalkSeen> {
    let state = context.inits.state(&node.uid()?)?;
    let init::InitState { attestation, refusals, progress, outcome, .. } = state;
    let failed = match outcome {
        Some(Outcome::Failed(why)) => Some(why),
        _ => None,
    };
    Some(TalkSeen { attestation, refusals, progress, failed })
}

async fn admission(workload: &Workload, uid: &str) -> Result<Option<AdmissionSeen>, Error> {
    let api: Api<NodeAdmission> = Api::namespaced(workload.client(), workload.namespace());
    let found = match api.get_opt(uid).await {
        Ok(found) => found,
        // The kind isn't installed yet.
        Err(kube::Error::Api(status)) if status.is_not_found() => None,
        Err(error) => return Err(Error::kube(format!("reading admission {uid}"))(error)),
    };
    Ok(found.map(|found| {
        let status = found.status.unwrap_or_default();
        AdmissionSeen {
            admitted: status.admission.is_some(),
            evicted: found.spec.evicted == Some(true),
            appraisal: status.last_appraisal,
            refusals: status.refusals,
        }
    }))
}

async fn kube_node(workload: &Workload, node: &ConfidentialNode) -> Result<Option<KubeSeen>, Error> {
    let name = node.name_any();
    let nodes: Api<Node> = Api::all(workload.client());
    let Some(found) = nodes.get_opt(&name).await.map_err(Error::kube(format!("reading Kubernetes node {name}")))?
    else {
        return Ok(None);
    };
    let ready = found
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|list| list.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        && (node.spec.role == Role::Worker || found.labels().contains_key(LABEL_CONTROL_PLANE));
    let taints = found.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let pods = if node.metadata.deletion_timestamp.is_some() { leaving(workload, &name).await?.len() } else { 0 };
    Ok(Some(KubeSeen {
        ready,
        cordoned: taints.iter().any(|taint| taint.key == constellation_crds::TAINT_ROLLING),
        labelled: found.labels().contains_key(LABEL_ATTESTED),
        unattested: taints
            .iter()
            .any(|taint| taint.key == constellation_crds::TAINT_UNATTESTED && taint.effect == super::apply::NO_EXECUTE),
        pods: u32::try_from(pods).unwrap_or(u32::MAX),
    }))
}

/// Pods that leave before their node goes: not those of a `DaemonSet`, not static ones, not finished ones.
pub async fn leaving(workload: &Workload, node: &str) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::all(workload.client());
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let list = pods.list(&on_node).await.map_err(Error::kube(format!("listing pods of node {node}")))?;
    let stays = |pod: &Pod| {
        let daemon = pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet" || owner.kind == "Node");
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        daemon
            || pod.annotations().contains_key("kubernetes.io/config.mirror")
            || matches!(phase, Some("Succeeded" | "Failed"))
    };
    Ok(list.items.into_iter().filter(|pod| !stays(pod)).collect())
}

#[cfg(test)]
mod tests {
    use constellation_crds::{ConfidentialNodeStatus, condition::kind};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn given(name: &str, role: &str, cluster: &str, phase: Phase, was_ready: bool) -> ConfidentialNode {
        let spec = json!({
            "clusterRef": {"name": cluster}, "nodeGroup": "g", "role": role, "nodeVersion": "v", "versionDigest": "d",
            "image": "i", "instanceType": "any", "index": 1,
        });
        let mut node = ConfidentialNode::new(name, serde_json::from_value(spec).unwrap());
        node.metadata.uid = Some(name.into());
        let mut status = ConfidentialNodeStatus { phase: Some(phase), ..ConfidentialNodeStatus::default() };
        if was_ready {
            status.phase_times.insert(kind::READY.into(), "2026-11-30T20:00:00Z".into());
        }
        node.status = Some(status);
        node
    }

    fn going(mut node: ConfidentialNode) -> ConfidentialNode {
        node.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        node
    }

    #[test]
    fn only_control_plane_nodes_of_the_cluster_that_were_ready_once_are_its_other_members() {
        let own = given("own", "control-plane", "c", Phase::Ready, true);
        let count = |members, ready, leaving| Others { members, ready, leaving };
        for (what, other, expected) in [
            ("Ready", given("a", "control-plane", "c", Phase::Ready, true), count(1, 1, 0)),
            ("its kubelet is away", given("a", "control-plane", "c", Phase::Joined, true), count(1, 0, 0)),
            ("its etcd may be no member yet", given("a", "control-plane", "c", Phase::Joined, false), count(0, 0, 0)),
            ("failed", given("a", "control-plane", "c", Phase::Failed, true), count(0, 0, 0)),
            ("goes", going(given("a", "control-plane", "c", Phase::Ready, true)), count(0, 0, 1)),
            ("goes and never was Ready", going(given("a", "control-plane", "c", Phase::Joined, false)), count(0, 0, 0)),
            ("a worker", given("a", "worker", "c", Phase::Ready, true), count(0, 0, 0)),
            ("of another cluster", given("a", "control-plane", "d", Phase::Ready, true), count(0, 0, 0)),
            ("itself", own.clone(), count(0, 0, 0)),
        ] {
            assert_eq!(others(&own, &[own.clone(), other]), expected, "{what}");
        }
    }
}
