//! A management API server with our kinds, an operator that may be killed, and what can be seen of a cluster.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test says what is wrong by failing"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    audit::Audit,
    controlplane::{ControlPlane, Options, shared::exclusive},
    operator::Operator,
};
use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeGroup, NodeVersion, definition, node::Role};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Event, Namespace, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::ApiResource,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "default";

/// Everything a story needs.
pub struct World {
    /// Name of the story's cluster.
    pub cluster: String,
    client: Client,
    operator: Option<Operator>,
    dir: PathBuf,
    plane: ControlPlane,
    _lock: fs::File,
}

impl World {
    /// An API server with our kinds, in `dir`, for a story about a cluster.
    pub async fn start(dir: PathBuf, cluster: &str) -> Self {
        let lock = exclusive(&dir).unwrap();
        end_machines(&dir);
        let options = Options { dir: Some(dir.join("plane")), audit_log: Some(dir.join("audit.log")) };
        let plane = ControlPlane::start_with(&options).await.unwrap();
        let client = plane.client().await.unwrap();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in definition::management() {
            let name = crd.metadata.name.clone().unwrap();
            crds.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.unwrap();
            await_condition(crds.clone(), &name, is_crd_established()).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        while namespaces.get_opt(NAMESPACE).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { cluster: cluster.to_owned(), client, operator: None, dir, plane, _lock: lock }
    }

    /// A client of the management cluster, with every right.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Folder of the operator's log and of the `local` provider's state (`local`).
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the operator.
    pub fn operator(&mut self, arguments: &[&str]) {
        self.operator_through(&[], arguments);
    }

    /// Starts the operator through a program that becomes it.
    pub fn operator_through(&mut self, through: &[&str], arguments: &[&str]) {
        let kubeconfig = self.plane.kubeconfig();
        self.operator = Some(Operator::start_through(&self.dir, &kubeconfig, through, arguments).unwrap());
    }

    /// Number of the operator's process.
    #[must_use]
    pub fn operator_pid(&self) -> u32 {
        self.operator.as_ref().expect("an operator runs").pid()
    }

    /// SIGKILL, as a machine that loses power would.
    pub fn kill_operator(&mut self) {
        self.operator.take().expect("an operator runs").kill();
    }

    /// Looks until it holds; says what was seen when it does not.
    pub async fn until(&mut self, what: &str, limit: Duration, holds: impl AsyncFn(&World) -> bool) {
        let end = tokio::time::Instant::now() + limit;
        while !holds(self).await {
            let running = self.operator.as_mut().is_some_and(Operator::alive);
            if !running || tokio::time::Instant::now() > end {
                let tail = self.operator.as_ref().map(Operator::tail).unwrap_or_default();
                panic!("{what}: operator running: {running}\n{}\noperator's log:\n{tail}", self.picture().await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn picture(&self) -> String {
        let status = self.cluster().await.and_then(|c| c.status);
        let mut text = serde_json::to_string_pretty(&status).unwrap();
        for node in self.nodes().await {
            text += "\n";
            text += &node.name_any();
            text += &serde_json::to_string(&node.status).unwrap();
        }
        text
    }

    /// Applies an example.
    pub async fn apply(&self, example: &str) {
        self.apply_object(self.example(example)).await;
    }

    /// Reads an example.
    #[must_use]
    pub fn example(&self, example: &str) -> DynamicObject {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
        serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Applies an object of any kind.
    pub async fn apply_object(&self, object: DynamicObject) {
        let gvk = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &ApiResource::from_gvk(&gvk));
        let name = object.name_any();
        api.patch(&name, &PatchParams::apply("kubectl").force(), &Patch::Apply(&object)).await.unwrap();
    }

    /// The cluster's object.
    pub async fn cluster(&self) -> Option<ConstellationCluster> {
        Api::namespaced(self.client.clone(), NAMESPACE).get_opt(&self.cluster).await.unwrap()
    }

    /// Whether a condition of the cluster holds for what its spec says now.
    pub async fn condition(&self, kind: &str) -> bool {
        let Some(cluster) = self.cluster().await else { return false };
        let generation = cluster.metadata.generation;
        let status = cluster.status.unwrap_or_default();
        status.observed_generation == generation
            && status.conditions.iter().any(|c| c.type_ == kind && c.status == "True")
    }

    /// The cluster's nodes.
    pub async fn nodes(&self) -> Vec<ConfidentialNode> {
        let api: Api<ConfidentialNode> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// Names of its workers.
    pub async fn workers(&self) -> Vec<String> {
        self.nodes().await.iter().filter(|n| n.spec.role == Role::Worker).map(ResourceExtName::name).collect()
    }

    /// Ready workers, as the group counts them.
    pub async fn ready_workers(&self) -> u32 {
        let api: Api<NodeGroup> = Api::namespaced(self.client.clone(), NAMESPACE);
        let group = api.get_opt(&format!("{}-workers", self.cluster)).await.unwrap();
        group.and_then(|g| g.status).and_then(|s| s.ready_replicas).unwrap_or(0)
    }

    /// The Kubernetes nodes of the management cluster, where simulated machines register.
    pub async fn kube_nodes(&self) -> Vec<Node> {
        Api::all(self.client.clone()).list(&ListParams::default()).await.unwrap().items
    }

    /// The simulated cloud's records of machines.
    pub async fn machines(&self) -> Vec<ConfigMap> {
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        api.list(&ListParams::default().labels("constellation.dev/simulated=instance")).await.unwrap().items
    }

    /// Sets the size of the workers' group through its scale subresource.
    pub async fn scale(&self, replicas: u32) {
        let api: Api<NodeGroup> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        api.patch_scale(&format!("{}-workers", self.cluster), &PatchParams::default(), &patch).await.unwrap();
    }

    /// The Events of an object for one reason.
    pub async fn events(&self, object: &str, reason: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), NAMESPACE);
        let all = events.list(&ListParams::default()).await.unwrap().items.into_iter();
        all.filter(|event| event.involved_object.name.as_deref() == Some(object))
            .filter(|event| event.reason.as_deref() == Some(reason))
            .collect()
    }

    /// What simulated machines do wrong.
    pub async fn script(&self, data: Value) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "constellation-simulated-script"}, "data": data});
        let params = PatchParams::apply("tests").force();
        api.patch("constellation-simulated-script", &params, &Patch::Apply(map)).await.unwrap();
    }

    /// The image of the release becomes another one, its measurements stay.
    pub async fn release(&self, image: &str) {
        let api: Api<NodeVersion> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {"image": {"simulated": image}}}));
        api.patch(&self.cluster, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Deletes the cluster.
    pub async fn delete_cluster(&self) {
        let api: Api<ConstellationCluster> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.delete(&self.cluster, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until three seconds pass without a write.
    pub async fn settle(&mut self) {
        for _ in 0..20 {
            if self.writes_during(Duration::from_secs(3)).await.is_empty() {
                return;
            }
        }
    }

    /// Writes of the operator in a span of time, from the audit log.
    pub async fn writes_during(&self, span: Duration) -> Vec<String> {
        let mut audit = self.audit();
        audit.writes().unwrap();
        tokio::time::sleep(span).await;
        audit.writes().unwrap()
    }

    /// From the audit log: each machine was created once.
    pub fn assert_one_machine_per_node(&self) {
        let mut created: BTreeMap<String, u32> = BTreeMap::new();
        for event in self.audit().events().unwrap() {
            let name = event["objectRef"]["name"].as_str().unwrap_or_default();
            let made = event["verb"] == "create" && event["responseStatus"]["code"] == 201;
            if made
                && event["objectRef"]["resource"] == "configmaps"
                && name.starts_with("simulated-")
                && !name.contains("network")
            {
                *created.entry(name.to_owned()).or_default() += 1;
            }
        }
        assert!(!created.is_empty() && created.values().all(|&n| n == 1), "{created:?}");
    }

    fn audit(&self) -> Audit {
        Audit::new(self.dir.join("audit.log"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        end_machines(&self.dir);
    }
}

/// Ends the VMs of a story that failed or was cut off: their supervisor is the first process of their namespace, and it
/// is meant to outlive operators. Its folder is removed too.
fn end_machines(dir: &Path) {
    for cluster in fs::read_dir(dir.join("local")).into_iter().flatten().flatten() {
        let folder = cluster.path();
        let pid = fs::read_to_string(folder.join("supervisor.pid")).unwrap_or_default();
        let words = fs::read(Path::new("/proc").join(pid.trim()).join("cmdline")).unwrap_or_default();
        // The number may be another process's by now.
        if String::from_utf8_lossy(&words).contains(&*folder.to_string_lossy()) {
            Command::new("kill").args(["-KILL", pid.trim()]).status().ok();
        }
        fs::remove_dir_all(folder).ok();
    }
}

/// `name_any` of a node, as a path for `map`.
trait ResourceExtName {
    fn name(&self) -> String;
}

impl ResourceExtName for ConfidentialNode {
    fn name(&self) -> String {
        self.name_any()
    }
}
