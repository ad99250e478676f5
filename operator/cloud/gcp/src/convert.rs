//! Between our words and Google's: names, marks, tokens, states. Pure.

use constellation_cloud::{CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, NodeUid};
use google_cloud_compute_v1::model::{self, instance::Status};
use uuid::Uuid;

use crate::Settings;

/// Label with the UID of the cluster.
pub const LABEL_CLUSTER: &str = "constellation-cluster";
/// Label with the UID of the node.
pub const LABEL_NODE: &str = "constellation-node";
/// Label with the operator's [`Settings::owner`].
pub const LABEL_OWNER: &str = "constellation-owner";
/// Begins the name of everything we make.
pub const PREFIX: &str = "constellation-";
const SCHEME: &str = "gce://";

/// Refuses settings that could not work, or that would mean something else than they say.
pub fn check(settings: &Settings) -> Result<(), CloudError> {
    let wrong = |what: &str, value: &str| Err(CloudError::Unsupported(format!("{what} {value:?} is malformed")));
    if !settings.project.split(['.', ':']).all(is_plain) {
        return wrong("project", &settings.project);
    }
    if !is_plain(&settings.region) {
        return wrong("region", &settings.region);
    }
    if !is_plain(&settings.owner) || settings.owner.len() > 40 {
        return wrong("owner", &settings.owner);
    }
    if settings.zones.is_empty() || settings.sources.is_empty() {
        return Err(CloudError::Unsupported("at least one zone and one source network are needed".into()));
    }
    match settings.zones.iter().find(|zone| !is_plain(zone) || !zone.starts_with(&format!("{}-", settings.region))) {
        Some(zone) => wrong("zone", zone),
        None => Ok(()),
    }
}

/// Letters, digits and dashes, as names and labels of Compute Engine want them (RFC 1035, lower case).
fn is_plain(text: &str) -> bool {
    (1..=60).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What the objects of one cluster are called and how they are marked.
#[derive(Clone, Debug)]
pub struct Names {
    /// The cluster.
    pub cluster: ClusterUid,
    owner: String,
    project: String,
    region: String,
}

impl Names {
    /// Names for a cluster.
    ///
    /// # Errors
    /// When the UID can't be part of a name.
    pub fn new(settings: &Settings, cluster: &ClusterUid) -> Result<Self, CloudError> {
        if !is_plain(&cluster.0) || cluster.0.len() > 40 {
            return Err(CloudError::Unsupported(format!("cluster UID {:?} can't be part of a name", cluster.0)));
        }
        Ok(Self {
            cluster: cluster.clone(),
            owner: settings.owner.clone(),
            project: settings.project.clone(),
            region: settings.region.clone(),
        })
    }

    /// Name of a part of the cluster's network.
    pub fn part(&self, suffix: &str) -> String {
        format!("{PREFIX}{}{suffix}", self.cluster.0)
    }

    /// Description of what is ours, for kinds without labels.
    pub fn mark(&self) -> String {
        mark(&self.owner, &self.cluster.0)
    }

    /// Labels of what is ours.
    pub fn labels(&self) -> [(String, String); 2] {
        [(LABEL_CLUSTER.into(), self.cluster.0.clone()), (LABEL_OWNER.into(), self.owner.clone())]
    }

    /// Whether an instance is of this cluster and of this operator.
    pub fn own(&self, instance: &model::Instance) -> bool {
        self.labels().iter().all(|(key, value)| instance.labels.get(key) == Some(value))
    }

    /// Partial URL of a global thing.
    pub fn global(&self, kind: &str, name: &str) -> String {
        format!("projects/{}/global/{kind}/{name}", self.project)
    }

    /// Partial URL of a thing of the region.
    pub fn regional(&self, kind: &str, name: &str) -> String {
        format!("projects/{}/regions/{}/{kind}/{name}", self.project, self.region)
    }

    /// Partial URL of a thing of a zone.
    pub fn zonal(&self, zone: &str, kind: &str, name: &str) -> String {
        format!("projects/{}/zones/{zone}/{kind}/{name}", self.project)
    }

    /// Id of an instance: what Google's cloud controller writes into `spec.providerID`.
    pub fn id(&self, zone: &str, name: &str) -> InstanceId {
        InstanceId(format!("{SCHEME}{}/{zone}/{name}", self.project))
    }

    /// Zone and name that an id stands for; an id of another cloud or project names nothing here.
    pub fn place(&self, id: &InstanceId) -> Result<(String, String), CloudError> {
        let unknown = || CloudError::NotFound(format!("instance {} in project {}", id.0, self.project));
        let rest = id.0.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(&self.project)).ok_or_else(unknown)?;
        match rest.split('/').collect::<Vec<_>>().as_slice() {
            ["", zone, name] if is_plain(zone) && is_plain(name) => Ok(((*zone).to_owned(), (*name).to_owned())),
            _ => Err(unknown()),
        }
    }
}

/// Filter for the instances of all clusters of this operator.
pub fn filter(settings: &Settings) -> String {
    format!("labels.{LABEL_OWNER}={}", settings.owner)
}

fn mark(owner: &str, cluster: &str) -> String {
    format!("constellation.dev owner={owner} cluster={cluster}")
}

/// The cluster whose network this is, when this operator made it.
pub fn cluster_of(owner: &str, description: &str) -> Option<ClusterUid> {
    let cluster = description.strip_prefix(&mark(owner, ""))?;
    is_plain(cluster).then(|| ClusterUid(cluster.to_owned()))
}

/// Name of the instance of a node.
///
/// # Errors
/// When the UID can't be part of a name.
pub fn instance_name(node: &NodeUid) -> Result<String, CloudError> {
    if !is_plain(&node.0) {
        return Err(CloudError::Unsupported(format!("node UID {:?} can't be part of a name", node.0)));
    }
    Ok(format!("n-{}", node.0))
}

/// The node of an instance by its name.
pub fn node_of(name: &str) -> Option<NodeUid> {
    name.strip_prefix("n-").map(|node| NodeUid(node.to_owned()))
}

/// The zone of an attempt: the node's own, or the next after the one that its index points at.
///
/// # Errors
/// When the node's zone has no place in the endpoint.
pub fn zone(settings: &Settings, request: &LaunchRequest, attempt: u32) -> Result<String, CloudError> {
    if let Some(zone) = &request.zone {
        return settings.zones.contains(zone).then(|| zone.clone()).ok_or_else(|| {
            CloudError::Unsupported(format!("zone {zone} is not one of the operator's: {}", settings.zones.join(", ")))
        });
    }
    let turn = usize::try_from(request.index.wrapping_add(attempt)).unwrap_or_default();
    let zone = settings.zones.get(turn % settings.zones.len().max(1));
    zone.cloned().ok_or_else(|| CloudError::Unsupported("no zone is set".into()))
}

/// The request id of an attempt (a UUID, as `requestId` must be): same node, same attempt, same request.
pub fn request_id(node: &NodeUid, attempt: u32) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("constellation.dev/node/{}/{attempt}", node.0).as_bytes()).to_string()
}

/// An instance as we speak of it; nothing when it has no node, or copies the labels of one under a name that is not the
/// node's.
pub fn instance(names: &Names, found: &model::Instance) -> Option<Instance> {
    let name = found.name.as_deref()?;
    let zone = last(found.zone.as_deref()?);
    let node = NodeUid(found.labels.get(LABEL_NODE)?.clone());
    if instance_name(&node).ok()? != name {
        return None;
    }
    let address = found.network_interfaces.first().and_then(|nic| nic.network_ip.as_deref()?.parse().ok());
    let (state, message) = state(found.status.as_ref(), found.status_message.as_deref());
    Some(Instance { id: names.id(zone, name), node, address, state, message })
}

/// The last part of a URL.
pub fn last(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Compute Engine, "VM instance lifecycle". A stopped VM is a failed one: nobody but its guest or a person stopped it.
fn state(status: Option<&Status>, why: Option<&str>) -> (InstanceState, Option<String>) {
    let told = |text: &str| Some(why.map_or_else(|| text.to_owned(), |why| format!("{text}: {why}")));
    match status {
        Some(Status::Running | Status::Pending | Status::Provisioning | Status::Staging) => {
            (InstanceState::Running, None)
        }
        Some(Status::Repairing) => (InstanceState::Running, told("Google repairs the host of the VM")),
        Some(Status::Deprovisioning | Status::PendingStop | Status::Stopping) => (InstanceState::Terminating, None),
        Some(Status::Stopped | Status::Terminated) => (InstanceState::Failed, told("the VM was stopped")),
        Some(Status::Suspended | Status::Suspending) => (InstanceState::Failed, told("the VM was suspended")),
        // A new state must not cost a fleet of nodes: what a node may do rests on its evidence, not on this.
        Some(other) => (InstanceState::Running, told(&format!("unknown state {other:?}"))),
        None => (InstanceState::Running, told("no state was given")),
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
pub(crate) mod tests;
