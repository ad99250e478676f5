//! The simulated cloud's books: one `ConfigMap` per machine and per network, so that the cloud outlives the operator.
//!
//! A machine's record is named after its node's uid; the API server's "already exists" is what makes a launch
//! idempotent, whoever launches, how often, and at the same time.

use std::collections::{BTreeMap, BTreeSet};

use constellation_crds::ConstellationCluster;
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::ConfigMap};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::NAME;
use crate::cloud::{CloudError, ClusterUid, InstanceId, LaunchRequest, NetworkRequest, NodeUid};

/// Label: `instance` or `network`.
pub const LABEL_KIND: &str = "constellation.dev/simulated";
/// Label: uid of the cluster.
const LABEL_CLUSTER: &str = "constellation.dev/cluster-uid";
const RECORD: &str = "record";
const TARGETS: &str = "targets";
/// Seconds from launch to evidence where the cluster does not say.
const BOOT_SECONDS: u32 = 1;

/// Whether a simulated machine runs.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It ended by itself.
    Failed,
    /// It runs.
    Running,
    /// It is being removed.
    Terminating,
}

/// A machine.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Uid of the cluster.
    pub cluster: String,
    /// Uid of the node.
    pub node: String,
    /// Name of the node.
    pub name: String,
    /// Image.
    pub image: String,
    /// Number in the cluster.
    pub index: u32,
    /// The launch configuration; it is JSON, but kept as it was given.
    pub launch_config: String,
    /// When it was launched.
    pub launched_at: Timestamp,
    /// Seconds until it sends its evidence.
    pub boot_seconds: u32,
    /// Whether it runs.
    pub state: State,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Record {
    /// The cloud's id of the machine.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        InstanceId(format!("{NAME}://{}", self.node))
    }

    /// Reads the record of a `ConfigMap` of ours.
    #[must_use]
    pub fn of(map: &ConfigMap) -> Option<Self> {
        serde_json::from_str(map.data.as_ref()?.get(RECORD)?).ok()
    }
}

/// The books, of one namespace or of all.
#[derive(Clone)]
pub struct Store {
    client: Client,
    namespace: Option<String>,
}

impl Store {
    pub fn new(client: Client, namespace: Option<String>) -> Self {
        Self { client, namespace }
    }

    /// Objects of one kind in the namespaces that these books are of.
    pub fn scope<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.namespace {
            Some(name) => Api::namespaced(self.client.clone(), name),
            None => Api::all(self.client.clone()),
        }
    }

    /// The record of a node, if it was launched.
    pub async fn record(&self, cluster: &ClusterUid, node: &NodeUid) -> Result<Option<Record>, CloudError> {
        Ok(self.records(cluster).await?.into_iter().find(|record| record.node == node.0))
    }

    /// All records of a cluster.
    pub async fn records(&self, cluster: &ClusterUid) -> Result<Vec<Record>, CloudError> {
        Ok(self.list("instance", Some(cluster)).await?.iter().filter_map(Record::of).collect())
    }

    /// Clusters that have anything.
    pub async fn clusters(&self) -> Result<Vec<ClusterUid>, CloudError> {
        let mut uids = BTreeSet::new();
        for kind in ["instance", "network"] {
            uids.extend(self.list(kind, None).await?.iter().filter_map(|map| map.labels().get(LABEL_CLUSTER).cloned()));
        }
        Ok(uids.into_iter().map(ClusterUid).collect())
    }

    /// Writes a machine down, or returns the one that is there.
    pub async fn create(&self, request: &LaunchRequest, now: Timestamp) -> Result<Record, CloudError> {
        let (namespace, boot_seconds) = self.home(&request.cluster).await?;
        let launch_config = String::from_utf8(request.launch_config.clone())
            .map_err(|_| CloudError::Unsupported("a launch configuration is JSON".to_owned()))?;
        let record = Record {
            cluster: request.cluster.0.clone(),
            node: request.node.0.clone(),
            name: request.name.clone(),
            image: request.image.clone(),
            index: request.index,
            launch_config,
            launched_at: now,
            boot_seconds,
            state: State::Running,
            message: None,
        };
        let name = format!("simulated-{}", record.node);
        let map = config_map(&name, "instance", &request.cluster, RECORD, &text(&record));
        match self.maps(&namespace).create(&PostParams::default(), &map).await {
            Ok(_) => Ok(record),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let there = self.maps(&namespace).get_opt(&name).await.map_err(transient)?;
                there.as_ref().and_then(Record::of).ok_or_else(|| CloudError::Transient(format!("{name} is going")))
            }
            Err(error) => Err(transient(error)),
        }
    }

    /// Marks a machine for removal.
    pub async fn mark_terminating(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), CloudError> {
        for map in self.list("instance", Some(cluster)).await? {
            let Some(record) = Record::of(&map).filter(|record| record.id() == *id) else { continue };
            if record.state != State::Terminating {
                self.write(&map, &Record { state: State::Terminating, ..record }).await?;
            }
            return Ok(());
        }
        Err(CloudError::NotFound(id.0.clone()))
    }

    /// Replaces a machine's record.
    pub async fn write(&self, map: &ConfigMap, record: &Record) -> Result<(), CloudError> {
        let patch = json!({
            "metadata": {"resourceVersion": map.metadata.resource_version},
            "data": {RECORD: text(record)}
        });
        let maps = self.maps(&map.namespace().unwrap_or_default());
        maps.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).map_err(transient)
    }

    /// Removes a machine's record: from now on it was never there.
    pub async fn forget(&self, map: &ConfigMap) -> Result<(), CloudError> {
        let preconditions = Preconditions { uid: map.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        gone(self.maps(&map.namespace().unwrap_or_default()).delete(&map.name_any(), &params).await.map(drop)).map(drop)
    }

    /// Writes a network down, unless it is there.
    pub async fn ensure_network(&self, request: &NetworkRequest) -> Result<(), CloudError> {
        if !self.list("network", Some(&request.cluster)).await?.is_empty() {
            return Ok(());
        }
        let (namespace, _) = self.home(&request.cluster).await?;
        let name = network_name(&request.cluster);
        let map = config_map(&name, "network", &request.cluster, "nodeCIDR", &request.node_cidr);
        match self.maps(&namespace).create(&PostParams::default(), &map).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => other.map(drop).map_err(transient),
        }
    }

    /// Removes a network; it refuses while machines are in it.
    pub async fn remove_network(&self, cluster: &ClusterUid) -> Result<(), CloudError> {
        if !self.list("instance", Some(cluster)).await?.is_empty() {
            return Err(CloudError::Transient("machines are still in the network".to_owned()));
        }
        let maps = self.list("network", Some(cluster)).await?;
        if maps.is_empty() {
            return Err(CloudError::NotFound(network_name(cluster)));
        }
        for map in maps {
            self.forget(&map).await?;
        }
        Ok(())
    }

    /// Writes the endpoint's targets down, if they are others.
    pub async fn set_targets(&self, cluster: &ClusterUid, targets: &[InstanceId]) -> Result<(), CloudError> {
        let wanted = targets.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join("\n");
        let maps = self.list("network", Some(cluster)).await?;
        let map = maps.first().ok_or_else(|| CloudError::NotFound(network_name(cluster)))?;
        if map.data.as_ref().and_then(|data| data.get(TARGETS)) == Some(&wanted) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"data": {TARGETS: wanted}}));
        let maps = self.maps(&map.namespace().unwrap_or_default());
        maps.patch(&map.name_any(), &PatchParams::default(), &patch).await.map(drop).map_err(transient)
    }

    /// Namespace of a cluster's object, and its boot time; our namespace where there is no such object.
    async fn home(&self, cluster: &ClusterUid) -> Result<(String, u32), CloudError> {
        let list = self.scope::<ConstellationCluster>().list(&ListParams::default()).await.map_err(transient)?;
        let found = list.items.into_iter().find(|c| c.metadata.uid.as_deref() == Some(&cluster.0));
        let settings = found.as_ref().and_then(|c| c.spec.provider.simulated.as_ref());
        let boot_seconds = settings.and_then(|s| s.boot_seconds).unwrap_or(BOOT_SECONDS);
        let namespace = found.as_ref().and_then(ResourceExt::namespace);
        Ok((
            namespace.or_else(|| self.namespace.clone()).unwrap_or_else(|| self.client.default_namespace().to_owned()),
            boot_seconds,
        ))
    }

    async fn list(&self, kind: &str, cluster: Option<&ClusterUid>) -> Result<Vec<ConfigMap>, CloudError> {
        let mut selector = format!("{LABEL_KIND}={kind}");
        if let Some(cluster) = cluster {
            selector = format!("{selector},{LABEL_CLUSTER}={}", cluster.0);
        }
        Ok(self.scope::<ConfigMap>().list(&ListParams::default().labels(&selector)).await.map_err(transient)?.items)
    }

    fn maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn config_map(name: &str, kind: &str, cluster: &ClusterUid, key: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([
                (LABEL_KIND.to_owned(), kind.to_owned()),
                (LABEL_CLUSTER.to_owned(), cluster.0.clone()),
            ])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

fn network_name(cluster: &ClusterUid) -> String {
    format!("simulated-network-{}", cluster.0)
}

fn text(record: &Record) -> String {
    serde_json::to_string(record).expect("a struct of strings and numbers serialises")
}

/// Whether the thing was there; not being there is what a removal wants.
pub fn gone(result: kube::Result<()>) -> Result<bool, CloudError> {
    match result {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(transient(error)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
pub fn transient(error: kube::Error) -> CloudError {
    CloudError::Transient(error.to_string())
}
