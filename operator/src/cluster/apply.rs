//! Carries out one step of a plan. Every step may be done twice.

use std::{collections::BTreeSet, sync::Arc};

use constellation_attestation::platform::Unknown;
use constellation_crds::{
    ConfidentialNode, ConfidentialNodeSpec, ConstellationCluster, FINALIZER_CLUSTER, FINALIZER_NODE, LABEL_CLUSTER,
    LABEL_GROUP, LABEL_ROLE, LABEL_VERSION, NodeGroup, NodeGroupSpec, TrustBundle,
    cluster::{CLOUD_NODE_CIDR, HOST_NODE_CIDR, LocalRef},
    node::Role,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    Memory, bundle,
    observe::{self, ANNOTATION_FAILURES, ANNOTATION_SPEC_SIZE, World},
    plan::Step,
    secrets,
    sweep::LABEL_ORPHANED,
};
use crate::{
    cloud::{
        Cloud, CloudError, ClusterUid, InstanceId, NetworkRequest,
        demand::{Demand, Wanted},
        offer::provider,
    },
    context::Context,
    error::Error,
    init::{self, Outcome, begin, install, recover, trust},
    metrics::whose,
};

/// What a step needs and isn't there.
#[must_use]
pub fn missing(what: &str) -> Error {
    Error::Invalid(format!("{what} is not there yet"))
}

/// What a cluster's network is made from.
#[must_use]
pub fn network_request(cluster: &ConstellationCluster) -> NetworkRequest {
    let cidr = cluster.spec.network.as_ref().and_then(|network| network.node_cidr.clone());
    NetworkRequest {
        cluster: ClusterUid(cluster.uid().unwrap_or_default()),
        name: cluster.name_any(),
        node_cidr: cidr.unwrap_or_else(|| match provider(cluster) {
            "local" | "simulated" => HOST_NODE_CIDR.to_owned(),
            _ => CLOUD_NODE_CIDR.to_owned(),
        }),
    }
}

/// What a cluster will ask of its cloud, at most, at one time.
#[must_use]
pub fn demand(cluster: &ConstellationCluster, image: Option<String>, max_surge: u32) -> Demand {
    let spec = &cluster.spec;
    let control_plane = Wanted {
        instance_type: spec.control_plane.instance_type.clone(),
        zones: BTreeSet::new(),
        // A control plane rolls one by one, whatever the surge is.
        count: spec.control_plane.replicas + 1,
    };
    let workers = spec.node_groups.iter().map(|group| {
        let most = group.autoscaling.as_ref().map(|bounds| bounds.max).or(group.replicas).unwrap_or_default();
        Wanted {
            instance_type: group.instance_type.clone(),
            zones: group.zones.iter().cloned().collect(),
            count: if most == 0 { 0 } else { most + max_surge },
        }
    });
    Demand { groups: std::iter::once(control_plane).chain(workers).collect(), image }
}

/// Before anything is made in a cloud: whether the cloud can run it, and the account may.
async fn check(world: &World, cloud: &dyn Cloud) -> Result<(), Error> {
    let cluster = &world.cluster;
    if cluster.status.as_ref().is_some_and(|status| status.endpoint.is_some()) {
        return Ok(());
    }
    let image = world.version.as_ref().and_then(|version| observe::image(cluster, version));
    let demand = demand(cluster, image, world.seen.max_surge);
    let answered = |checked| match checked {
        // Who may not ask beforehand is told when a launch is refused.
        Err(CloudError::Denied(why)) => {
            tracing::warn!(cluster = cluster.name_any(), why, "Could not be asked before the first launch");
            Ok(())
        }
        checked => checked,
    };
    answered(cloud.check_capability(&demand).await)?;
    answered(cloud.check_quota(&world.uid, &demand).await)?;
    Ok(())
}

/// Carries a step out.
pub async fn apply(ctx: &Context, world: &mut World, memory: &mut Memory, step: &Step) -> Result<(), Error> {
    let client = &ctx.client;
    let cluster = &world.cluster;
    match step {
        Step::AddFinalizer => finalizers(ctx, cluster, true).await,
        Step::RemoveFinalizer => {
            finalizers(ctx, cluster, false).await?;
            ctx.workloads.forget(&world.uid.0);
            Ok(())
        }
        Step::Disown => record_orphan(ctx, world).await,
        Step::CreateOwnerKey => secrets::create_owner_key(client, cluster).await,
        Step::CreateMasterSecret => secrets::create_master_secret(ctx, cluster).await,
        Step::RewrapMasterSecret => {
            let master = world.master.as_ref().ok_or_else(|| missing("the master secret"))?;
            secrets::rewrap_master_secret(ctx, cluster, master).await
        }
        Step::EnsureNetwork => {
            let cloud = world.cloud.as_ref().ok_or_else(|| missing("the cloud"))?;
            check(world, cloud.as_ref()).await?;
            let request = network_request(cluster);
            memory.network = Some(cloud.ensure_network(&request).await?);
            memory.ensured = Some(std::time::Instant::now());
            Ok(())
        }
        Step::RemoveNetwork => remove_network(ctx, world, memory).await,
        Step::ApplyGroup { group, replicas, spec } => apply_group(ctx, cluster, group, *replicas, spec).await,
        Step::DeleteGroup(group) => {
            let api: Api<NodeGroup> = namespaced(ctx, cluster);
            gone(
                api.delete(&format!("{}-{group}", cluster.name_any()), &DeleteParams::default()).await,
                "deleting a group",
            )
        }
        Step::CreateNode { group, role, index, failures } => {
            create_node(ctx, world, group, *role, *index, *failures).await
        }
        Step::DeleteNode { name, .. } => {
            let uid = world.nodes.iter().find(|node| node.name_any() == *name).and_then(ConfidentialNode::uid);
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: uid.clone(), resource_version: None }),
                ..DeleteParams::default()
            };
            let api: Api<ConfidentialNode> = namespaced(ctx, cluster);
            gone(api.delete(name, &params).await, "deleting a node")?;
            if let Some(uid) = uid {
                ctx.inits.forget(&uid);
            }
            Ok(())
        }
        Step::OrphanNode(name) => orphan(ctx, world, name).await,
        Step::StartInit(name) => start_init(ctx, world, name).await,
        Step::StartRecover(name) => {
            let (peer, _) = peer(ctx, world, name)?;
            let master = world.master.as_ref().ok_or_else(|| missing("the master secret"))?;
            let key = recover::key(&master.open(ctx, cluster).await?, &peer.node_uid);
            ctx.inits.start(peer, key);
            Ok(())
        }
        Step::SaveKubeconfig(name) => {
            let node = named(world, name)?;
            let state = node.uid().and_then(|uid| ctx.inits.state(&uid));
            let Some(Outcome::Done(kubeconfig)) = state.and_then(|state| state.outcome) else {
                return Err(missing("the kubeconfig"));
            };
            let network = world.network.as_ref().ok_or_else(|| missing("the network"))?;
            secrets::save_kubeconfig(client, cluster, &kubeconfig, &network.external_url).await
        }
        Step::Install => {
            let workload = world.workload.as_ref().ok_or_else(|| missing("the cluster's API server"))?;
            let endpoint = world.network.as_ref().map(|network| network.endpoint.as_str()).unwrap_or_default();
            install::install(workload, endpoint).await.map_err(Error::kube("installing our kinds and rights"))
        }
        Step::WriteTrust => bundle::write(ctx, world, memory).await,
        Step::SetTargets(targets) => {
            let cloud = world.cloud.as_ref().ok_or_else(|| missing("the cloud"))?;
            let ids: Vec<_> = targets.iter().cloned().map(InstanceId).collect();
            cloud.set_endpoint_targets(&world.uid, &ids).await?;
            memory.targets = Some(targets.clone());
            Ok(())
        }
    }
}

fn namespaced<K>(ctx: &Context, cluster: &ConstellationCluster) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(ctx.client.clone(), &cluster.namespace().unwrap_or_default())
}

fn gone<T>(result: kube::Result<T>, doing: &str) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        // Another object has the name by now: the one that was meant is gone.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(Error::kube(doing)(error)),
    }
}

async fn finalizers(ctx: &Context, cluster: &ConstellationCluster, ours: bool) -> Result<(), Error> {
    let mut list: Vec<_> = cluster.finalizers().iter().filter(|f| *f != FINALIZER_CLUSTER).cloned().collect();
    if ours {
        list.push(FINALIZER_CLUSTER.to_owned());
    }
    // With the version that was seen: somebody else's finalizer that came meanwhile must not be lost.
    let body = json!({"metadata": {"finalizers": list, "resourceVersion": cluster.resource_version()}});
    let api: Api<ConstellationCluster> = namespaced(ctx, cluster);
    match api.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(&body)).await {
        // One that went before it was marked is an error: what would be made for it next nobody would remove.
        Err(kube::Error::Api(status)) if !ours && status.is_not_found() => {}
        other => drop(other.map_err(Error::kube("changing the cluster's finalizer"))?),
    }
    if !ours {
        ctx.metrics.told(whose(cluster), &[]);
    }
    Ok(())
}

async fn remove_network(ctx: &Context, world: &World, memory: &mut Memory) -> Result<(), Error> {
    if let (Some(workload), true) = (&world.workload, world.seen.simulated) {
        let api: Api<TrustBundle> = Api::namespaced(workload.client(), workload.namespace());
        let name = bundle::name(workload, &world.cluster);
        gone(api.delete(&name, &DeleteParams::default()).await, "deleting the trust bundle")?;
    }
    let groups: Api<NodeGroup> = namespaced(ctx, &world.cluster);
    for group in &world.seen.groups {
        let name = format!("{}-{}", world.seen.name, group.name);
        let found = groups.get_opt(&name).await.map_err(Error::kube(format!("reading group {name}")))?;
        // Group c of cluster a-b has the name of group b-c of cluster a.
        let Some(found) = found.filter(|found| found.spec.cluster_ref.name == world.seen.name) else { continue };
        let preconditions = Some(Preconditions { uid: found.uid(), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        gone(groups.delete(&name, &params).await, "deleting a group")?;
    }
    let cloud = world.cloud.as_ref().ok_or_else(|| {
        Error::Invalid(world.seen.provider_refused.clone().unwrap_or_else(|| "the operator has no such cloud".into()))
    })?;
    memory.network = None;
    memory.targets = None;
    // A machine that listings did not show when its node went shows up by now, or the network can't be removed.
    let left = match cloud.find(&world.uid).await {
        Err(CloudError::NotFound(_)) => Vec::new(),
        found => found?,
    };
    for instance in left {
        match cloud.terminate(&world.uid, &instance.id).await {
            Ok(()) | Err(CloudError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match cloud.remove_network(&world.uid).await {
        Ok(()) => Ok(()),
        Err(CloudError::NotFound(_)) => {
            secrets::hand_over(&ctx.client, &world.cluster).await?;
            finalizers(ctx, &world.cluster, false).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn apply_group(
    ctx: &Context,
    cluster: &ConstellationCluster,
    group: &str,
    replicas: u32,
    spec: &str,
) -> Result<(), Error> {
    let name = format!("{}-{group}", cluster.name_any());
    let api: Api<NodeGroup> = namespaced(ctx, cluster);
    let there = api.get_opt(&name).await.map_err(Error::kube(format!("reading NodeGroup {name}")))?;
    if let Some(there) = there.filter(|there| there.spec.cluster_ref.name != cluster.name_any()) {
        return Err(taken("NodeGroup", &name, &there.spec.cluster_ref.name));
    }
    let mut object = NodeGroup::new(
        &name,
        NodeGroupSpec { cluster_ref: LocalRef { name: cluster.name_any() }, group: group.to_owned(), replicas },
    );
    object.metadata.labels =
        Some([(LABEL_CLUSTER.to_owned(), cluster.name_any()), (LABEL_GROUP.to_owned(), group.to_owned())].into());
    object.metadata.annotations = Some([(ANNOTATION_SPEC_SIZE.to_owned(), spec.to_owned())].into());
    object.metadata.owner_references = Some(cluster.controller_owner_ref(&()).into_iter().collect());
    api.patch(&name, &PatchParams::apply(install::MANAGER).force(), &Patch::Apply(&object))
        .await
        .map(drop)
        .map_err(Error::kube(format!("writing NodeGroup {name}")))
}

async fn create_node(
    ctx: &Context,
    world: &World,
    group: &str,
    role: Role,
    index: u32,
    failures: u32,
) -> Result<(), Error> {
    let cluster = &world.cluster;
    let version = world.seen.goal().ok_or_else(|| missing("the node version"))?;
    let image = version.image.clone().ok_or_else(|| missing("the image"))?;
    let control_plane = &cluster.spec.control_plane;
    let worker = cluster.spec.node_groups.iter().find(|known| known.name == group);
    let (instance_type, state_disk) = match (role, worker) {
        (Role::ControlPlane, _) => (control_plane.instance_type.clone(), control_plane.state_disk.clone()),
        (Role::Worker, Some(worker)) => (worker.instance_type.clone(), worker.state_disk.clone()),
        (Role::Worker, None) => return Err(missing("the group")),
    };
    let zones = worker.map(|worker| worker.zones.as_slice()).unwrap_or_default();
    let zone = usize::try_from(index).ok().and_then(|index| zones.get(index % zones.len().max(1)).cloned());
    let short = if role == Role::ControlPlane { "cp" } else { group };
    let name = format!("{}-{short}-{index}", cluster.name_any());
    let mut node = ConfidentialNode::new(
        &name,
        ConfidentialNodeSpec {
            cluster_ref: LocalRef { name: cluster.name_any() },
            node_group: group.to_owned(),
            role,
            node_version: version.name.clone(),
            version_digest: version.digest.clone(),
            image,
            instance_type,
            zone,
            state_disk,
            index,
            labels: worker.map(|worker| worker.labels.clone()).unwrap_or_default(),
            taints: worker.map(|worker| worker.taints.clone()).unwrap_or_default(),
        },
    );
    node.metadata.labels = Some(
        [
            (LABEL_CLUSTER, cluster.name_any()),
            (LABEL_GROUP, group.to_owned()),
            (LABEL_ROLE, role.as_str().to_owned()),
            (LABEL_VERSION, label_value(&version.name)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
    );
    if failures > 0 {
        node.metadata.annotations = Some([(ANNOTATION_FAILURES.to_owned(), failures.to_string())].into());
    }
    node.metadata.finalizers = Some(vec![FINALIZER_NODE.to_owned()]);
    node.metadata.owner_references = Some(cluster.controller_owner_ref(&()).into_iter().collect());
    let api: Api<ConfidentialNode> = namespaced(ctx, cluster);
    match api.create(&kube::api::PostParams::default(), &node).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let there = api.get_opt(&name).await.map_err(Error::kube(format!("reading node {name}")))?;
            match there {
                Some(there) if there.spec.cluster_ref.name != cluster.name_any() => {
                    let of = &there.spec.cluster_ref.name;
                    Err(taken("ConfidentialNode", &name, of))
                }
                _ => Ok(()),
            }
        }
        Err(error) => Err(Error::kube(format!("creating node {name}"))(error)),
    }
}

/// Two clusters of a namespace whose names, with their groups', come to the same.
fn taken(kind: &str, name: &str, of: &str) -> Error {
    Error::Taken(format!(
        "{kind} {name} belongs to cluster {of} already: give this cluster or its group another name, or delete it if \
         there is no cluster {of} any more"
    ))
}

/// A name as a label's value, which has at most 63 characters; a longer one ends in a digest of the whole.
fn label_value(name: &str) -> String {
    /// Kubernetes: "Labels and Selectors", syntax and character set.
    const LONGEST: usize = 63;
    const DIGEST: usize = 12;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let head: String = name.chars().take(LONGEST - DIGEST - 1).collect();
    let digest: String = hex::encode(Sha256::digest(name)).chars().take(DIGEST).collect();
    format!("{}-{digest}", head.trim_end_matches(['-', '.', '_']))
}

async fn orphan(ctx: &Context, world: &World, name: &str) -> Result<(), Error> {
    let node = named(world, name)?;
    let uid = node.uid().unwrap_or_default();
    ctx.holds.forget(&uid);
    ctx.failures.forget(&uid);
    ctx.looks.forget(&uid);
    ctx.metrics.gone(&uid);
    let rest: Vec<_> = node.finalizers().iter().filter(|f| *f != FINALIZER_NODE).cloned().collect();
    let body = json!({"metadata": {"finalizers": rest, "resourceVersion": node.resource_version()}});
    let api: Api<ConfidentialNode> = namespaced(ctx, &world.cluster);
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&body)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(Error::kube(format!("letting node {name} go"))(error)),
        Ok(_) => {}
    }
    gone(api.delete(name, &DeleteParams::default()).await, "forgetting a node")
}

/// Tells the sweep that these VMs are no leak. By UID: another cluster of this name may be left running as well.
async fn record_orphan(ctx: &Context, world: &World) -> Result<(), Error> {
    let mut record = ConfigMap::default();
    record.metadata.name = Some(format!("orphaned-{}", world.uid.0));
    record.metadata.labels = Some([(LABEL_ORPHANED.to_owned(), world.uid.0.clone())].into());
    let name = record.name_any();
    let api: Api<ConfigMap> = namespaced(ctx, &world.cluster);
    api.patch(&name, &PatchParams::apply(install::MANAGER).force(), &Patch::Apply(&record))
        .await
        .map(drop)
        .map_err(Error::kube("recording that the VMs are left running"))
}

fn named<'a>(world: &'a World, name: &str) -> Result<&'a ConfidentialNode, Error> {
    world.nodes.iter().find(|node| node.name_any() == name).ok_or_else(|| missing("the node"))
}

/// A node as the other end of a conversation.
fn peer<'a>(ctx: &Context, world: &'a World, name: &str) -> Result<(init::Peer, &'a ConfidentialNode), Error> {
    let node = named(world, name)?;
    let owner = world.owner.as_ref().ok_or_else(|| missing("the owner key"))?;
    let master = world.master.as_ref().ok_or_else(|| missing("the master secret"))?;
    let address = node.status.as_ref().and_then(|status| status.address.as_ref()?.parse().ok());
    let uid = node.uid().unwrap_or_default();
    let cloud = world.cloud.as_ref().ok_or_else(|| missing("the cloud"))?;
    let revision = bundle::known(world).unwrap_or(0);
    let accepted = &world.seen.accepted;
    let peer = init::Peer {
        cloud: Arc::clone(cloud),
        cluster: world.uid.clone(),
        address: address.ok_or_else(|| missing("the node's address"))?,
        owner: Arc::clone(owner),
        launch_config: begin::launch_config(&world.uid.0, node, owner),
        node_uid: uid,
        cluster_id: master.cluster_id().into(),
        policy: trust::policy(
            &world.uid.0,
            revision,
            accepted,
            cloud.platform(),
            world.roots.clone(),
            &world.cluster.spec,
        ),
        words: init::talk::Words { collector: Arc::clone(&ctx.collector), object: Arc::clone(&world.cluster) },
    };
    Ok((peer, node))
}

async fn start_init(ctx: &Context, world: &World, name: &str) -> Result<(), Error> {
    let (peer, node) = peer(ctx, world, name)?;
    let network = world.network.as_ref().ok_or_else(|| missing("the network"))?;
    let master = world.master.as_ref().ok_or_else(|| missing("the master secret"))?;
    let master = master.open(ctx, &world.cluster).await?;
    let version = world.version.as_ref().ok_or_else(|| missing("the node version"))?;
    let ca = secrets::verifier_ca(&ctx.client, &world.cluster, &peer.owner).await?;
    let kubernetes = &version.spec.kubernetes_version;
    let platform = peer.cloud.platform().parse().map_err(|error: Unknown| Error::Invalid(error.to_string()))?;
    let request = begin::request(&world.cluster, node, network, kubernetes, platform, &master, &ca);
    ctx.inits.start(peer, request);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::label_value;

    #[test]
    fn a_long_name_is_a_label_of_its_own() {
        assert_eq!(label_value("v1.2"), "v1.2");
        let (one, other) = (format!("{}.a", "x".repeat(251)), format!("{}.b", "x".repeat(251)));
        assert!(label_value(&one).len() <= 63 && label_value(&one) != label_value(&other));
        let cut_at_a_dot = format!("{}.{}", "x".repeat(49), "y".repeat(100));
        assert!(label_value(&cut_at_a_dot).starts_with(&format!("{}-", "x".repeat(49))));
    }
}
