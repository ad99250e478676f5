//! Looks at everything a decision about a cluster needs; changes nothing.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use constellation_attestation::{owner, settings};
use constellation_crds::{
    ANNOTATION_DELETE_FIRST, ANNOTATION_PAUSED, ConfidentialNode, ConstellationCluster, FINALIZER_CLUSTER, NodeGroup,
    NodeVersion, TrustBundle,
    cluster::{AcceptedVersion, CloudResource, DeletionPolicy, POD_CIDR, StateDisk, Taint, WorkerGroup},
    condition::{Condition, find, kind, reason},
    node::{AttestationResult, Phase, Refusals, Role},
    version::Rollout,
};
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::{
    Memory, bundle,
    report::Facts,
    secrets,
    seen::{GroupSeen, Init, NodeSeen, Observed, VersionSeen},
};
use crate::{
    cloud::{
        Cloud, ClusterUid, Network,
        custody::must_rewrap,
        local::FIRST_NODE,
        offer::{is_simulated, provider},
    },
    collateral::plan::lacking,
    context::Context,
    custody::{self, Master},
    error::{Class, Error, chain},
    init::{Outcome, begin, install, trust},
    node::apply::disk_gib,
    workload::Workload,
};

/// On a `NodeGroup`: the size that the cluster's spec asked for when it was last taken over.
pub const ANNOTATION_SPEC_SIZE: &str = "constellation.dev/spec-replicas";
/// On a node: how many nodes failed in its place before it, one after the other.
pub const ANNOTATION_FAILURES: &str = "constellation.dev/failures";
/// Nodes that a cluster may have: those that a network of 256 addresses on a host has room for.
const MOST_NODES: u32 = 244;
/// How many VMs of one cluster may boot at a time on a host: without hardware virtualisation one takes whole cores, and
/// several starve each other and the control plane they want to join.
const BOOTING_ON_HOST: usize = 1;
/// The same in a cloud, whose machines don't share cores: this bounds what one mistake costs.
const BOOTING_IN_CLOUD: usize = 16;
/// How long an API server may take to say that it is there.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// An API server that was started has read who may do what by then, also without KVM.
const STARTS: Duration = Duration::from_mins(1);
/// A node of a cluster that doesn't answer is offered its disk key again this long after the last time: it may have lost
/// its power once more, or have been refused by what was accepted then.
const OFFER_AGAIN: Duration = Duration::from_secs(30);

/// Whether nothing may be changed about a cluster.
#[must_use]
pub fn is_paused(cluster: &ConstellationCluster) -> bool {
    cluster.spec.paused == Some(true) || is_annotated_paused(cluster)
}

/// Whether nothing may be changed about an object by its annotation.
#[must_use]
pub fn is_annotated_paused(object: &impl kube::ResourceExt) -> bool {
    object.annotations().get(ANNOTATION_PAUSED).is_some_and(|value| value != "false")
}

/// What was seen, and what acting on it needs. Holds secrets: no `Debug`.
pub struct World {
    /// For plan and report.
    pub seen: Observed,
    /// For report.
    pub facts: Facts,
    /// The cluster.
    pub cluster: Arc<ConstellationCluster>,
    /// Its UID.
    pub uid: ClusterUid,
    /// Its cloud, unless the operator may not use it.
    pub cloud: Option<Arc<dyn Cloud>>,
    /// Its owner key.
    pub owner: Option<Arc<owner::SigningKey>>,
    /// Its master secret.
    pub master: Option<Master>,
    /// Its network.
    pub network: Option<Network>,
    /// The wanted version.
    pub version: Option<NodeVersion>,
    /// Its nodes.
    pub nodes: Vec<ConfidentialNode>,
    /// The cluster that was made.
    pub workload: Option<Workload>,
    /// Roots of its TPMs' certificates.
    pub roots: Vec<String>,
    /// What makers and clouds said about machines, see [`crate::collateral`].
    pub collateral: BTreeMap<String, String>,
}

/// Looks.
pub async fn observe(ctx: &Context, cluster: Arc<ConstellationCluster>, memory: &Memory) -> Result<World, Error> {
    let client = &ctx.client;
    let namespace = cluster.namespace().unwrap_or_default();
    let uid = ClusterUid(cluster.uid().unwrap_or_default());
    let status = cluster.status.clone().unwrap_or_default();
    let accepted = status.accepted_versions.clone();
    let simulated = is_simulated(&cluster);
    let (cloud, provider_refused) = match ctx.cloud(&cluster).await {
        Ok(cloud) => (Some(cloud), None),
        Err(error) if matches!(error.class(), Class::Denied | Class::User) => (None, Some(chain(&error))),
        Err(error) => return Err(error),
    };
    let mine = ListParams::default().fields(&format!("spec.clusterRef.name={}", cluster.name_any()));
    let nodes: Api<ConfidentialNode> = Api::namespaced(client.clone(), &namespace);
    let nodes = nodes.list(&mine).await.map_err(Error::kube("listing the cluster's nodes"))?.items;
    let groups = groups(client, &cluster, &mine).await?;
    let versions: Api<NodeVersion> = Api::namespaced(client.clone(), &namespace);
    let wanted = &cluster.spec.node_version;
    let version = versions.get_opt(wanted).await.map_err(Error::kube(format!("reading NodeVersion {wanted}")))?;
    let (owner_seen, owner) = secrets::owner_key(client, &cluster).await?;
    let (master_seen, master) = secrets::master_secret(client, &cluster).await?;
    let workload = ctx.workloads.of(client, &cluster).await?;
    let roots = match &cloud {
        Some(cloud) if memory.network.is_some() => cloud.endorsement_roots(&uid).await?,
        _ => Vec::new(),
    };
    let node_list: Vec<NodeSeen> = nodes.iter().map(|found| node(found, &cluster)).collect();
    let kubeconfig = !simulated && secrets::has_kubeconfig(client, &cluster).await?;
    let recorded = secrets::is_initialized(&cluster);
    let ready_control_plane = node_list.iter().any(|n| n.role.as_str() == "control-plane" && n.phase == Phase::Ready);
    let collateral = match &cloud {
        Some(cloud) => {
            ctx.collector.read(&cluster, cloud.platform()).await.map_err(Error::kube("reading the collateral"))?
        }
        None => BTreeMap::new(),
    };
    let given = Given { owner: owner.as_deref(), cloud: cloud.as_deref(), roots: &roots, collateral: &collateral };
    let inside = inside(&cluster, workload.as_ref(), simulated, &uid, &given).await;
    let platform = cloud.as_ref().map(|cloud| cloud.platform());
    let initialized = recorded || kubeconfig || (simulated && ready_control_plane);
    let running = match &inside.kubernetes {
        _ if !initialized || simulated => Running::Nothing,
        Some(version) => Running::Version(version),
        None => Running::Unsaid,
    };
    let seen = Observed {
        name: cluster.name_any(),
        now: Timestamp::now().as_second(),
        created: cluster.creation_timestamp().map_or(0, |time| time.0.as_second()),
        deleting: cluster.metadata.deletion_timestamp.is_some(),
        deletion_policy: cluster.spec.deletion_policy.unwrap_or(DeletionPolicy::Delete),
        finalizer: cluster.finalizers().iter().any(|finalizer| finalizer == FINALIZER_CLUSTER),
        paused: is_paused(&cluster),
        simulated,
        provider_refused,
        owner_key_known: status.owner_key.is_some(),
        owner_key: owner_seen,
        master_secret_stale: stale(&cluster, master.as_ref(), memory),
        master_secret_named: cluster.spec.master_secret.as_ref().is_some_and(|m| m.existing_secret.is_some()),
        cluster_id_known: status.cluster_id.is_some(),
        master_secret: master_seen,
        network: memory.network.is_some(),
        version: version_seen(&cluster, version.as_ref(), platform, running),
        accepted,
        current: status.current_version,
        auto_rollback: rollout(&cluster, version.as_ref(), |rollout| rollout.auto_rollback).unwrap_or(true),
        rolled_back: status.rolled_back,
        initialized,
        kubeconfig_lost: (recorded && !kubeconfig && !simulated).then(|| secrets::kubeconfig_name(&cluster)),
        reachable: inside.reachable,
        shut_out: shut_out(&cluster, memory.turned_away.map(|first| first.elapsed())),
        turned_away: inside.turned_away,
        unreachable_seconds: silence(&cluster, memory.answered.map(|last| last.elapsed()), Timestamp::now()),
        installed: inside.installed,
        trust_current: inside.trust_current,
        max_index: max_index(&cluster),
        control_plane_replicas: cluster.spec.control_plane.replicas,
        on_failure: cluster.spec.on_failure(),
        most_booting: most_booting(&cluster),
        max_surge: rollout(&cluster, version.as_ref(), |rollout| rollout.max_surge).unwrap_or(1),
        groups: cluster.spec.node_groups.iter().map(|group| group_seen(group, &groups)).collect(),
        stale_groups: stale_groups(&cluster, &groups),
        talks: nodes.iter().filter_map(|node| talk(ctx, node, initialized)).collect(),
        nodes: node_list,
        targets: memory.targets.clone(),
    };
    let facts = Facts {
        generation: cluster.metadata.generation,
        cluster_id: master.as_ref().map(|master| hex::encode(master.cluster_id())),
        owner_key: owner.as_ref().map(|key| owner::fingerprint(&key.public_spki())),
        endpoint: memory.network.as_ref().map(|network| network.endpoint.clone()),
        kubeconfig: kubeconfig.then(|| secrets::kubeconfig_name(&cluster)),
        trust_revision: inside.revision,
        refusals: inside.refusals,
        resources: resources(memory, &nodes),
        ..Facts::default()
    };
    let network = memory.network.clone();
    Ok(World { seen, facts, cluster, uid, cloud, owner, master, network, version, nodes, workload, roots, collateral })
}

/// For how many seconds the API server hasn't answered: since it answered us last, or since the status says so in an
/// operator's words that died meanwhile. One that dies again and again would else begin to count each time, and never
/// offer a disk key.
fn silence(cluster: &ConstellationCluster, unanswered: Option<Duration>, now: Timestamp) -> i64 {
    let ours = unanswered.map_or(i64::MAX, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    ours.max(told_silent(cluster).map_or(0, |since| now.as_second() - since.as_second()))
}

/// Whether an API server has turned us away for longer than one does that starts: until it has read who may do what, it lets
/// nobody in but its own kind. What was told of it goes on when another operator looks.
fn shut_out(cluster: &ConstellationCluster, turned_away: Option<Duration>) -> bool {
    let ready = cluster.status.as_ref().and_then(|status| find(&status.conditions, kind::READY));
    turned_away.is_some_and(|time| time >= STARTS) || ready.is_some_and(|told| told.reason == reason::ACCESS_DENIED)
}

/// Since when the status says that it doesn't answer. One that was never available is new, and takes its time.
fn told_silent(cluster: &ConstellationCluster) -> Option<Timestamp> {
    let status = cluster.status.as_ref()?;
    let silent = |told: &&Condition| told.status == "False" && told.reason == reason::API_SERVER_UNREACHABLE;
    let since = find(&status.conditions, kind::AVAILABLE).filter(silent)?.last_transition_time.0;
    let made: Timestamp = status.initialization.as_ref()?.control_plane_initialized_at.as_ref()?.parse().ok()?;
    (since > made).then_some(since)
}

/// The cluster's groups. One that somebody else made in its name is not ours to read or to delete.
async fn groups(client: &Client, cluster: &ConstellationCluster, mine: &ListParams) -> Result<Vec<NodeGroup>, Error> {
    let groups: Api<NodeGroup> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let mut groups = groups.list(mine).await.map_err(Error::kube("listing the cluster's groups"))?.items;
    groups.retain(|group| group.name_any() == format!("{}-{}", cluster.name_any(), group.spec.group));
    Ok(groups)
}

/// Those that the spec no longer has, and that are not on their way out.
fn stale_groups(cluster: &ConstellationCluster, groups: &[NodeGroup]) -> Vec<String> {
    let has = |name: &str| cluster.spec.node_groups.iter().any(|group| group.name == name);
    let stale = |group: &&NodeGroup| !has(&group.spec.group) && group.metadata.deletion_timestamp.is_none();
    groups.iter().filter(stale).map(|group| group.spec.group.clone()).collect()
}

/// Whether the master secret must be wrapped again.
fn stale(cluster: &ConstellationCluster, master: Option<&Master>, memory: &Memory) -> bool {
    let (Some(kms), Some(Master::Wrapped { wrapped, .. })) = (custody::kms(cluster), master) else { return false };
    must_rewrap(wrapped, &custody::key(kms), memory.key.as_ref().and_then(|(_, version)| version.as_deref()))
}

fn resources(memory: &Memory, nodes: &[ConfidentialNode]) -> Vec<CloudResource> {
    let network = memory.network.iter().map(|n| CloudResource { kind: "network".into(), id: n.id.clone() });
    let ids = nodes.iter().filter_map(|node| node.status.as_ref()?.provider_id.clone());
    network.chain(ids.map(|id| CloudResource { kind: "instance".into(), id })).collect()
}

/// A setting of the roll: the version's, or else the cluster's.
fn rollout<T>(
    cluster: &ConstellationCluster,
    version: Option<&NodeVersion>,
    setting: impl Fn(&Rollout) -> Option<T>,
) -> Option<T> {
    let of_version = version.and_then(|version| setting(version.spec.rollout.as_ref()?));
    of_version.or_else(|| setting(cluster.spec.rollout.as_ref()?))
}

fn most_booting(cluster: &ConstellationCluster) -> usize {
    if provider(cluster) == "local" { BOOTING_ON_HOST } else { BOOTING_IN_CLOUD }
}

/// Without the number 0, which no node has; a host's network gives its first addresses, and its last one, to nobody.
fn max_index(cluster: &ConstellationCluster) -> u32 {
    let bits = |cidr: &str, all: u32| {
        let prefix: u32 = cidr.split_once('/').and_then(|(_, prefix)| prefix.parse().ok()).unwrap_or(u32::MAX);
        all.checked_sub(prefix).map_or(0, |bits| 1_u32.checked_shl(bits).unwrap_or(u32::MAX))
    };
    let network = cluster.spec.network.as_ref();
    let pods = network.and_then(|network| network.pod_cidr.as_deref()).unwrap_or(POD_CIDR);
    let local = network.filter(|_| cluster.spec.provider.local.is_some());
    let hosts = local
        .and_then(|network| network.node_cidr.as_deref())
        .map_or(MOST_NODES, |cidr| bits(cidr, 32).saturating_sub(FIRST_NODE + 2));
    bits(pods, 24).saturating_sub(1).min(hosts).min(MOST_NODES)
}

/// What no node could be told of itself: a kubelet would not start with it.
fn unfit(cluster: &ConstellationCluster) -> Option<String> {
    let problem = |group: &WorkerGroup| {
        let error = settings::placement(&group.labels, &begin::taints(&group.taints)).err()?;
        Some(format!("group {}: {error}: change it", group.name))
    };
    cluster.spec.node_groups.iter().find_map(problem)
}

/// Which Kubernetes a cluster runs.
#[derive(Clone, Copy, Debug)]
enum Running<'a> {
    /// None: it isn't made yet, or is only played, so that any version will do.
    Nothing,
    /// It doesn't say.
    Unsaid,
    /// This version.
    Version(&'a str),
}

fn version_seen(
    cluster: &ConstellationCluster,
    version: Option<&NodeVersion>,
    platform: Option<&str>,
    running: Running<'_>,
) -> VersionSeen {
    if let Some(problem) = unfit(cluster) {
        return VersionSeen::Impossible(problem);
    }
    let name = cluster.spec.node_version.clone();
    let Some(version) = version else { return VersionSeen::Missing(name) };
    let Some(status) = &version.status else {
        return VersionSeen::Awaited(format!("NodeVersion {name} is being verified"));
    };
    if status.observed_generation != version.metadata.generation {
        return VersionSeen::Awaited(format!("NodeVersion {name} changed and is being verified"));
    }
    let ready = find(&status.conditions, kind::READY);
    let (Some(digest), true) = (&status.digest, ready.is_some_and(|c| c.status == "True")) else {
        let why = ready.map_or("it is being verified", |c| c.message.as_str());
        return VersionSeen::NotReady(format!("NodeVersion {name} is not Ready: {why}"));
    };
    let Some(image) = image(cluster, version) else { return VersionSeen::NoImage(name) };
    if !status.sets.iter().any(|set| Some(set.platform.as_str()) == platform) {
        return VersionSeen::NoSet(name);
    }
    let (wanted, accepted) =
        (&version.spec.kubernetes_version, cluster.status.as_ref().map(|it| &it.accepted_versions));
    let known = accepted.is_some_and(|accepted| accepted.iter().any(|known| known.digest == *digest));
    match running {
        Running::Unsaid if !known => {
            return VersionSeen::Awaited(format!(
                "the cluster doesn't say whether it runs Kubernetes {wanted}, for which NodeVersion {name} is"
            ));
        }
        Running::Version(running) if running.split(['+', '-']).next() != Some(wanted) => {
            return VersionSeen::Impossible(format!(
                "NodeVersion {name} is for Kubernetes {wanted}, and the cluster runs {running}: roll to images of the \
                 version that it was made with"
            ));
        }
        Running::Nothing | Running::Unsaid | Running::Version(_) => {}
    }
    VersionSeen::Ready(AcceptedVersion { digest: digest.clone(), name, sets: status.sets.clone(), image: Some(image) })
}

/// The image of a version for the cluster's provider.
#[must_use]
pub fn image(cluster: &ConstellationCluster, version: &NodeVersion) -> Option<String> {
    let image = &version.spec.image;
    match provider(cluster) {
        "aws" => cluster.spec.provider.aws.as_ref().and_then(|aws| image.aws.get(&aws.region).cloned()),
        "azure" => image.azure.clone(),
        "gcp" => image.gcp.clone(),
        "simulated" => image.simulated.clone(),
        _ => image.local.clone(),
    }
}

fn group_seen(group: &WorkerGroup, existing: &[NodeGroup]) -> GroupSeen {
    let found = existing.iter().find(|known| known.spec.group == group.name);
    let (min, max) = group.autoscaling.as_ref().map_or((0, 240), |bounds| (bounds.min, bounds.max));
    GroupSeen {
        name: group.name.clone(),
        wanted: group.replicas.unwrap_or(min),
        spec: group.replicas.map_or_else(|| format!("{min}-{max}"), |replicas| replicas.to_string()),
        remembered: found.and_then(|known| known.annotations().get(ANNOTATION_SPEC_SIZE).cloned()),
        current: found.map(|known| known.spec.replicas),
        min,
        max,
        autoscaled: group.autoscaling.is_some(),
    }
}

/// Whether the cluster's spec asks for something else than the node was made from. A group that it no longer has is
/// dealt with as a whole.
fn drifted(node: &ConfidentialNode, cluster: &ConstellationCluster) -> bool {
    let (made, spec) = (&node.spec, &cluster.spec);
    let disk = |disk: &Option<StateDisk>| (disk_gib(disk.as_ref()), begin::disk_integrity(cluster, disk.as_ref()));
    let same =
        |kind: &str, wanted: &Option<StateDisk>| made.instance_type == kind && disk(&made.state_disk) == disk(wanted);
    if made.role == Role::ControlPlane {
        return !same(&spec.control_plane.instance_type, &spec.control_plane.state_disk);
    }
    spec.node_groups.iter().find(|group| group.name == made.node_group).is_some_and(|group| {
        // Without zones in the spec the cloud's room chooses, and any will do.
        let zone = group.zones.is_empty() || made.zone.as_ref().is_some_and(|zone| group.zones.contains(zone));
        let taints = taints(&made.taints) == taints(&group.taints);
        let labels = made.labels == group.labels;
        !(same(&group.instance_type, &group.state_disk) && zone && labels && taints)
    })
}

/// Taints in an order of their own: in a list it says nothing, and an empty value is none.
fn taints(taints: &[Taint]) -> BTreeSet<(&str, &str, &str)> {
    let mut set = BTreeSet::new();
    for Taint { key, value, effect } in taints {
        set.insert((key.as_str(), effect.as_str(), value.as_deref().unwrap_or_default()));
    }
    set
}

fn node(node: &ConfidentialNode, cluster: &ConstellationCluster) -> NodeSeen {
    let status = node.status.clone().unwrap_or_default();
    let at = |phase: &str| Some(status.phase_times.get(phase)?.parse::<Timestamp>().ok()?.as_second());
    let was_joined = at("Joined").is_some() || at("Ready").is_some();
    let because = |kind: &str, reasons: &[&'static str]| {
        let told = find(&status.conditions, kind).filter(|told| told.status == "False")?;
        reasons.iter().copied().find(|reason| told.reason == *reason)
    };
    let short = because(kind::LAUNCHED, &[reason::HOST_NOT_READY, reason::NO_CAPACITY, reason::QUOTA_EXCEEDED]);
    let vanished = because(kind::READY, &[reason::INSTANCE_VANISHED]).is_some();
    let refused = |result: &AttestationResult| result.verdict == "Refused" && lacking(result).is_empty();
    NodeSeen {
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        group: node.spec.node_group.clone(),
        role: node.spec.role,
        index: node.spec.index,
        digest: node.spec.version_digest.clone(),
        drifted: drifted(node, cluster),
        phase: status.phase.unwrap_or(Phase::Pending),
        deleting: node.metadata.deletion_timestamp.is_some(),
        delete_first: node.annotations().contains_key(ANNOTATION_DELETE_FIRST),
        accepted: status.attestation.as_ref().map(|result| result.verdict == "Accepted"),
        disproved: status.attestation.as_ref().is_some_and(refused),
        created: node.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        failed_at: at("Failed"),
        short,
        vanished,
        was_joined,
        was_ready: at("Ready").is_some(),
        ready_at: at("Ready"),
        failures: node.annotations().get(ANNOTATION_FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0),
        provider_id: status.provider_id,
        address: status.address,
        message: status.summary.unwrap_or_default(),
    }
}

fn talk(ctx: &Context, node: &ConfidentialNode, initialized: bool) -> Option<(String, Init)> {
    let uid = node.uid()?;
    let state = ctx.inits.state(&uid)?;
    if initialized && state.ended.is_some_and(|at| at.elapsed() >= OFFER_AGAIN) {
        return None;
    }
    let said = match state.outcome {
        None => Init::Running(state.progress.last().cloned().unwrap_or_else(|| "waiting for its answer".to_owned())),
        Some(Outcome::Done(_)) => Init::Done,
        Some(Outcome::Failed(why)) => Init::Failed(why),
        Some(Outcome::Refused) => {
            let result = state.attestation.unwrap_or_default();
            let why: Vec<_> = result.mismatches.into_iter().map(|m| format!("{}: {}", m.clause, m.message)).collect();
            Init::Refused(why.join("; "))
        }
    };
    Some((uid, said))
}

#[derive(Default)]
struct Inside {
    reachable: bool,
    turned_away: Option<String>,
    kubernetes: Option<String>,
    installed: bool,
    trust_current: bool,
    revision: Option<u64>,
    refusals: Option<Refusals>,
}

/// What the trust bundle is made from.
struct Given<'a> {
    owner: Option<&'a owner::SigningKey>,
    cloud: Option<&'a dyn Cloud>,
    roots: &'a [String],
    collateral: &'a BTreeMap<String, String>,
}

/// Looks into the cluster that was made; whatever does not answer is not there.
async fn inside(
    cluster: &ConstellationCluster,
    workload: Option<&Workload>,
    simulated: bool,
    uid: &ClusterUid,
    given: &Given<'_>,
) -> Inside {
    let Some(workload) = workload else { return Inside::default() };
    let look = async {
        let client: Client = workload.client();
        // What answers for a simulated cluster is the operator's own API server.
        let kubernetes = if simulated { None } else { Some(client.apiserver_version().await?.git_version) };
        let installed = install::installed(&client, simulated).await?;
        let mut inside = Inside { reachable: true, kubernetes, installed, ..Inside::default() };
        let (true, Some(owner), Some(cloud)) = (inside.installed, given.owner, given.cloud) else { return Ok(inside) };
        let bundles: Api<TrustBundle> = Api::namespaced(client, workload.namespace());
        let found = bundles.get_opt(&bundle::name(workload, cluster)).await?;
        inside.refusals = found.as_ref().and_then(|bundle| bundle.status.clone()).and_then(|status| status.refusals);
        let words = found.as_ref().is_some_and(|bundle| bundle.spec.collateral == *given.collateral);
        let there = found.and_then(|bundle| trust::read(&bundle.spec.envelope, &owner.public_spki()));
        let accepted = cluster.status.as_ref().map(|s| s.accepted_versions.as_slice()).unwrap_or_default();
        let wanted = trust::policy(&uid.0, 0, accepted, cloud.platform(), given.roots.to_vec(), &cluster.spec);
        inside.trust_current = words && bundle::is_current(there.as_ref(), &wanted, bundle::taken(cluster));
        inside.revision = there.map(|there| there.revision);
        Ok::<_, kube::Error>(inside)
    };
    match tokio::time::timeout(PROBE_LIMIT, look).await {
        Ok(Ok(inside)) => inside,
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
            let (name, why) = (secrets::kubeconfig_name(cluster), status.message);
            let refusal = format!(
                "the cluster's API server doesn't let in who has the kubeconfig of Secret {name} ({why}): put an administrator's \
                 kubeconfig of this cluster there"
            );
            Inside { turned_away: Some(refusal), ..Inside::default() }
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "the cluster's API server does not answer");
            Inside::default()
        }
        Err(_) => Inside::default(),
    }
}
