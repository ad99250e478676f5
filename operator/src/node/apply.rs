//! Carries out the steps of one node, in order, up to the first that fails.

use std::sync::Arc;

use constellation_attestation::{
    delivery::{self, Hints},
    protocol::VERIFIER_PORT,
};
use constellation_crds::{
    ConfidentialNode, ConstellationCluster, NodeAdmission, NodeAdmissionSpec, TAINT_ROLLING, TAINT_UNATTESTED,
    cluster::{DiskIntegrity, StateDisk},
    condition::reason,
};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, EvictParams, Patch, PatchParams},
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    LATER,
    observe::{LABEL_ATTESTED, Look, leaving},
    plan::{Plan, Step},
    report::Outcome,
};
use crate::{
    cloud::{CloudError, ClusterUid, InstanceId, LaunchRequest, NodeUid, offer::provider},
    cluster::secrets,
    context::Context,
    error::{Class, Error, chain},
    init,
    workload::Workload,
};

const MANAGER: &str = "constellation-node";
/// Absent: 8 GiB, sparse.
const DISK_GIB: u32 = 8;
const GIB: u64 = 1 << 30;
/// Effects of taints. Source: Kubernetes, "Taints and Tolerations".
pub const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";

/// Carries out a plan.
pub async fn apply(context: &Context, look: &Look, plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let uid = look.seen.node.uid().unwrap_or_default();
    for step in &plan.steps {
        if let Some((left, refused)) = context.holds.held(&uid).filter(|_| *step == Step::Launch) {
            (outcome.again, outcome.failed) = (Some(left), Some(refused));
            break;
        }
        match one(context, look, step).await {
            Ok(()) => outcome.done.push(step.clone()),
            Err(error) => {
                tracing::warn!(node = look.seen.node.name_any(), ?step, error = chain(&error), "Step failed");
                let why = match step {
                    Step::Launch => error.launch_reason(),
                    _ => error.reason().unwrap_or(reason::CLOUD_ERROR),
                };
                let wait = context.failures.failed(&uid, &error);
                let wait = if matches!(error.class(), Class::Wait(_)) { wait } else { wait.min(LATER) };
                let failed = (step.clone(), why, chain(&error));
                if *step == Step::Launch {
                    context.holds.keep(&uid, wait, failed.clone());
                }
                (outcome.again, outcome.failed) = (Some(wait), Some(failed));
                outcome.refused = error.refusal().cloned();
                break;
            }
        }
    }
    outcome
}

async fn one(context: &Context, look: &Look, step: &Step) -> Result<(), Error> {
    let name = look.seen.node.name_any();
    context.fence.check()?;
    tracing::info!(node = name, ?step, "Carrying out");
    match step {
        Step::AddFinalizer => finalizer(context, &look.seen.node, true).await,
        Step::DropFinalizer => {
            let uid = look.seen.node.uid().unwrap_or_default();
            context.inits.forget(&uid);
            context.holds.forget(&uid);
            finalizer(context, &look.seen.node, false).await
        }
        Step::Launch => launch(context, look).await,
        Step::Terminate => terminate(context, look).await,
        Step::Leave => leave(context, look).await,
        Step::Admit => admit(look).await,
        Step::Evict => evict(look).await,
        Step::Label => patch_node(look, json!({"metadata": {"labels": {LABEL_ATTESTED: "true"}}})).await,
        Step::Cordon => taint(look, TAINT_ROLLING, NO_SCHEDULE, Wanted::There).await,
        Step::Taint => taint(look, TAINT_UNATTESTED, NO_EXECUTE, Wanted::There).await,
        Step::Untaint => taint(look, TAINT_UNATTESTED, NO_EXECUTE, Wanted::Gone).await,
        Step::Drain => drain(look).await,
        Step::Forget => forget(look).await,
    }
}

async fn finalizer(context: &Context, node: &ConfidentialNode, wanted: bool) -> Result<(), Error> {
    let name = node.name_any();
    let api: Api<ConfidentialNode> = Api::namespaced(context.client.clone(), &node.namespace().unwrap_or_default());
    let mut list = node.metadata.finalizers.clone().unwrap_or_default();
    list.retain(|entry| entry != constellation_crds::FINALIZER_NODE);
    if wanted {
        list.push(constellation_crds::FINALIZER_NODE.into());
    }
    // The version makes the write fail if somebody else changed the list meanwhile.
    let body = json!({"metadata": {"finalizers": list, "resourceVersion": node.resource_version()}});
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() && !wanted => Ok(()),
        Err(error) => Err(Error::kube(format!("writing the finalizers of node {name}"))(error)),
    }
}

/// Size of a state disk, GiB.
#[must_use]
pub fn disk_gib(disk: Option<&StateDisk>) -> u32 {
    disk.and_then(|disk| disk.size_gib).unwrap_or(DISK_GIB)
}

async fn launch(context: &Context, look: &Look) -> Result<(), Error> {
    let node = &look.seen.node;
    let (Some(cluster), Some(launch_config)) = (&look.cluster, &look.launch_config) else { return Ok(()) };
    let size = disk_gib(node.spec.state_disk.as_ref());
    let request = LaunchRequest {
        cluster: ClusterUid(cluster.uid().unwrap_or_default()),
        node: NodeUid(node.uid().unwrap_or_default()),
        name: node.name_any(),
        control_plane: look.seen.is_control_plane(),
        image: node.spec.image.clone(),
        instance_type: node.spec.instance_type.clone(),
        zone: node.spec.zone.clone(),
        state_disk_bytes: u64::from(size) * GIB,
        index: node.spec.index,
        launch_config: delivered(cluster, launch_config),
    };
    let instance = context.cloud(cluster).await?.launch(&request).await?;
    tracing::info!(node = node.name_any(), instance = instance.id.0, "Launched instance");
    context.holds.forget(&request.node.0);
    Ok(())
}

/// What the cloud delivers to the node. A local host answers the node's questions itself; a cloud's service only hands
/// out what was given at the launch, so that the hints come with it: verifiers are behind the endpoint.
fn delivered(cluster: &ConstellationCluster, launch_config: &[u8]) -> Vec<u8> {
    if matches!(provider(cluster), "local" | "simulated") {
        return launch_config.to_vec();
    }
    let endpoint = cluster.status.as_ref().and_then(|status| status.endpoint.as_deref());
    let host = endpoint.and_then(|endpoint| endpoint.rsplit_once(':')).map(|(host, _)| host);
    let verifiers = host.map(|host| format!("{host}:{VERIFIER_PORT}")).into_iter().collect();
    delivery::join(launch_config, &Hints { verifiers })
}

async fn terminate(context: &Context, look: &Look) -> Result<(), Error> {
    let (Some(cluster), Some(instance)) = (&look.cluster, &look.seen.instance) else { return Ok(()) };
    let uid = ClusterUid(cluster.uid().unwrap_or_default());
    match context.cloud(cluster).await?.terminate(&uid, &instance.id).await {
        Ok(()) | Err(CloudError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn leave(context: &Context, look: &Look) -> Result<(), Error> {
    if matches!(look.workload, Some(Workload::Simulated { .. })) {
        // A simulated control plane has no etcd, and nobody who could be asked to leave it.
        return Ok(());
    }
    let (Some(cluster), Some(instance)) = (&look.cluster, &look.seen.instance) else { return Ok(()) };
    let (_, owner) = secrets::owner_key(&context.client, cluster).await?;
    let (_, master) = secrets::master_secret(&context.client, cluster).await?;
    // Without them nobody can be asked to leave, and a machine that ends without leaving may take etcd's majority along.
    let lost = |name| {
        Error::Secret(format!("Secret {name} can't be used: restore it, so that the node can be asked to leave etcd"))
    };
    let owner = owner.ok_or_else(|| lost(secrets::owner_key_name(cluster)))?;
    let master = master.ok_or_else(|| lost(secrets::master_secret_name(cluster)))?;
    let launch_config = look.launch_config.as_ref().ok_or_else(|| lost(secrets::owner_key_name(cluster)))?;
    let address = instance.address.ok_or(Error::Time("waiting for the machine's address"))?;
    let cloud = context.cloud(cluster).await?;
    let uid = ClusterUid(cluster.uid().unwrap_or_default());
    let status = cluster.status.clone().unwrap_or_default();
    let roots = cloud.endorsement_roots(&uid).await?;
    let policy = init::trust::policy(
        &uid.0,
        status.trust_revision.unwrap_or_default(),
        &status.accepted_versions,
        cloud.platform(),
        roots,
        &cluster.spec,
    );
    let cluster_id = master.cluster_id();
    let peer = init::Peer {
        cloud,
        cluster: uid,
        node_uid: look.seen.node.uid().unwrap_or_default(),
        address,
        owner,
        launch_config: launch_config.clone(),
        cluster_id: Zeroizing::new(cluster_id),
        policy,
        words: init::talk::Words { collector: Arc::clone(&context.collector), object: Arc::new(cluster.clone()) },
    };
    init::leave::leave(&peer).await.map_err(|error| Error::Talk(Box::new(error)))
}

/// The made cluster; a step that needs it is planned only when it can be asked.
fn workload(look: &Look) -> Result<&Workload, Error> {
    look.workload.as_ref().ok_or(Error::Time("waiting for the cluster's API"))
}

async fn admit(look: &Look) -> Result<(), Error> {
    let (Some(cluster), Some(instance)) = (&look.cluster, &look.seen.instance) else { return Ok(()) };
    let node = &look.seen.node;
    let workload = workload(look)?;
    let settings = init::begin::node_settings(cluster, node);
    let uid = node.uid().unwrap_or_default();
    let InstanceId(provider_id) = instance.id.clone();
    let admission = NodeAdmission::new(
        &uid,
        NodeAdmissionSpec {
            node_uid: uid.clone(),
            node_name: node.name_any(),
            role: node.spec.role,
            launch_config_digest: look.seen.launch_digest.clone().unwrap_or_default(),
            pod_cidr: settings.pod_cidr,
            provider_id,
            labels: settings.labels,
            taints: settings.taints,
            disk_integrity: if settings.disk_integrity { DiskIntegrity::Hmac } else { DiskIntegrity::None },
            evicted: None,
        },
    );
    let api: Api<NodeAdmission> = Api::namespaced(workload.client(), workload.namespace());
    api.patch(&uid, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&admission))
        .await
        .map(|_| ())
        .map_err(Error::kube(format!("writing admission {uid}")))
}

async fn evict(look: &Look) -> Result<(), Error> {
    let workload = workload(look)?;
    let uid = look.seen.node.uid().unwrap_or_default();
    let api: Api<NodeAdmission> = Api::namespaced(workload.client(), workload.namespace());
    let body = json!({"spec": {"evicted": true}});
    gone_is_fine(api.patch(&uid, &PatchParams::default(), &Patch::Merge(&body)).await, "evicting a node")
}

async fn patch_node(look: &Look, body: serde_json::Value) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(workload(look)?.client());
    let patch = Patch::Strategic(&body);
    gone_is_fine(
        nodes.patch(&look.seen.node.name_any(), &PatchParams::default(), &patch).await,
        "writing a Kubernetes node",
    )
}

/// Whether a taint shall be on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    There,
    Gone,
}

/// Puts a taint of ours on the Kubernetes node, or takes it off. The list is one value to the API server, so it is read,
/// and written whole under the version that was read: nobody else's taint is lost.
async fn taint(look: &Look, key: &str, effect: &str, wanted: Wanted) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(workload(look)?.client());
    let name = look.seen.node.name_any();
    let found = nodes.get_opt(&name).await.map_err(Error::kube(format!("reading Kubernetes node {name}")))?;
    let Some(found) = found else { return Ok(()) };
    let version = found.resource_version();
    let there = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let Some(taints) = with_taint(there, key, effect, wanted) else { return Ok(()) };
    let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
    match nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
        // Somebody else wrote first: the next look, which is soon, sees what and tries again.
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
        result => gone_is_fine(result, "writing a Kubernetes node's taints"),
    }
}

/// The taints with or without one of ours; nothing where that is so already.
fn with_taint(mut taints: Vec<Taint>, key: &str, effect: &str, wanted: Wanted) -> Option<Vec<Taint>> {
    let is_ours = |taint: &Taint| taint.key == key && taint.effect == effect;
    match (wanted, taints.iter().any(is_ours)) {
        (Wanted::There, false) => {
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() });
        }
        (Wanted::Gone, true) => taints.retain(|taint| !is_ours(taint)),
        (Wanted::There, true) | (Wanted::Gone, false) => return None,
    }
    Some(taints)
}

async fn drain(look: &Look) -> Result<(), Error> {
    let workload = workload(look)?;
    let mut refused = None;
    for pod in leaving(workload, &look.seen.node.name_any()).await? {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let api =
            Api::<k8s_openapi::api::core::v1::Pod>::namespaced(workload.client(), &pod.namespace().unwrap_or_default());
        match api.evict(&pod.name_any(), &EvictParams::default()).await {
            Ok(_) => {}
            // A disruption budget says not now: the next look asks again, until the time for pods is over.
            Err(kube::Error::Api(status)) if status.code == 429 || status.is_not_found() => {}
            // Also an error of a webhook or of the disruption controller is about one pod: the others leave meanwhile.
            Err(error) => refused = Some(Error::kube(format!("evicting pod {}", pod.name_any()))(error)),
        }
    }
    refused.map_or(Ok(()), Err)
}

async fn forget(look: &Look) -> Result<(), Error> {
    let workload = workload(look)?;
    let nodes: Api<Node> = Api::all(workload.client());
    gone_is_fine(
        nodes.delete(&look.seen.node.name_any(), &DeleteParams::default()).await,
        "deleting a Kubernetes node",
    )?;
    let admissions: Api<NodeAdmission> = Api::namespaced(workload.client(), workload.namespace());
    let uid = look.seen.node.uid().unwrap_or_default();
    gone_is_fine(admissions.delete(&uid, &DeleteParams::default()).await, "deleting an admission")
}

fn gone_is_fine<T>(result: Result<T, kube::Error>, doing: &str) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(Error::kube(doing)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_comes_and_goes_and_others_stay_as_they_are() {
        let of = |key: &str, effect: &str| Taint { key: key.into(), effect: effect.into(), ..Taint::default() };
        let ours = || of(TAINT_UNATTESTED, NO_EXECUTE);
        // Of the same key, with another effect: somebody else's.
        let others = || vec![of("gpu", NO_EXECUTE), of(TAINT_UNATTESTED, NO_SCHEDULE)];
        let both = || [others(), vec![ours()]].concat();
        for (there, wanted, expected) in [
            (others(), Wanted::There, Some(both())),
            (both(), Wanted::There, None),
            (both(), Wanted::Gone, Some(others())),
            (others(), Wanted::Gone, None),
            (vec![], Wanted::There, Some(vec![ours()])),
            (vec![ours()], Wanted::Gone, Some(vec![])),
        ] {
            assert_eq!(with_taint(there.clone(), TAINT_UNATTESTED, NO_EXECUTE, wanted), expected, "{there:?}");
        }
    }
}
