//! One cluster in a namespace of its own, with an operator process that talks through a proxy; and what a user does.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeVersion, node::Phase};
use constellation_operator::cloud::simulated::{SCRIPT, claim};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    plan::Plan,
    proxy::{Process, Proxy},
};
use crate::operator::Operator;

/// Between two looks. Each is one read while the cluster isn't Ready.
const LOOK: Duration = Duration::from_secs(1);
/// The group of workers of every lane's cluster.
pub const GROUP: &str = "workers";

/// What a cluster should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Number of control-plane nodes.
    pub control_plane: usize,
    /// Number of workers.
    pub workers: usize,
    /// Image of every node.
    pub image: &'static str,
    /// Another one was wanted, and given up.
    pub given_up: bool,
}

/// Where a lane's machines are, and which operator makes them.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The operator's program.
    pub program: &'static str,
    /// What it is started with, beside what all are.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<(&'static str, String)>,
    /// The cluster's `provider`, `tee` and instance type.
    pub provider: Value,
    /// How memory is protected.
    pub tee: &'static str,
    /// Instance type of every node.
    pub instance_type: &'static str,
    /// The release's `image` for an image.
    pub image: fn(&str) -> Value,
    /// The image that a cluster rolls to.
    pub next: &'static str,
}

impl Default for Setting {
    /// Provider `simulated`, whose books are on the API server.
    fn default() -> Self {
        Self {
            program: "constellation-operator",
            arguments: vec!["--allow-simulated".to_owned()],
            environment: Vec::new(),
            provider: json!({"simulated": {"bootSeconds": 0}}),
            tee: "vtpm",
            instance_type: "any",
            image: |image| json!({"simulated": image}),
            next: "v2",
        }
    }
}

/// A cluster and its operator.
pub struct Lane {
    /// Name of the cluster and of its namespace.
    pub name: String,
    /// What the operator talks through.
    pub proxy: Proxy,
    client: Client,
    keeper: Arc<Keeper>,
    setting: Setting,
}

/// Keeps one operator running, whatever happens to it.
struct Keeper {
    dir: PathBuf,
    program: &'static str,
    environment: Vec<String>,
    arguments: Vec<String>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    kubeconfig: String,
    operator: Option<Operator>,
    kills: u32,
    failure: Option<String>,
}

impl Keeper {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, running: &mut Running) {
        let through: Vec<_> = std::iter::once("env").chain(self.environment.iter().map(String::as_str)).collect();
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        match Operator::start_program(self.program, &self.dir, &running.kubeconfig, &through, &arguments) {
            Ok(operator) => running.operator = Some(operator),
            Err(error) => running.failure = Some(format!("{error:#}")),
        }
    }
}

impl Process for Keeper {
    /// Nobody who asks whether it runs sees the moment between. Where none runs the lane is over.
    fn kill(&self) {
        let mut running = self.running();
        if let Some(operator) = running.operator.take() {
            running.kills += 1;
            operator.kill();
            self.start(&mut running);
        }
    }

    fn suspend(&self) {
        self.running().operator.iter().for_each(Operator::pause);
    }
}

impl Drop for Lane {
    /// Connections outlive the lane for a while, and they know the keeper; its operator ends here.
    fn drop(&mut self) {
        self.keeper.running().operator = None;
    }
}

impl Lane {
    /// A namespace, and an operator for it alone. `config` is of somebody with every right.
    ///
    /// # Errors
    /// When any of it can't be had.
    pub async fn start(config: kube::Config, dir: &Path, name: &str, plan: Plan, arguments: &[&str]) -> Result<Self> {
        Self::start_in(Setting::default(), config, dir, name, plan, arguments).await
    }

    /// As [`Self::start`], with machines elsewhere.
    ///
    /// # Errors
    /// When any of it can't be had.
    pub async fn start_in(
        setting: Setting,
        mut config: kube::Config,
        dir: &Path,
        name: &str,
        plan: Plan,
        arguments: &[&str],
    ) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        let client = Client::try_from(config.clone())?;
        config.default_retry = false;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.patch(name, &PatchParams::apply("tests"), &Patch::Apply(namespace)).await?;
        // Who dies and comes back would wait for its own lease.
        let alone = if arguments.iter().any(|a| a.starts_with("--leader-elect")) { "" } else { "--leader-elect=false" };
        let own = ["--namespace", name, alone].into_iter().filter(|argument| !argument.is_empty());
        let given = arguments.iter().copied().map(str::to_owned);
        let keeper = Arc::new(Keeper {
            dir,
            program: setting.program,
            environment: setting.environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            arguments: own.map(str::to_owned).chain(setting.arguments.clone()).chain(given).collect(),
            running: Mutex::default(),
        });
        let process: Arc<dyn Process> = Arc::<Keeper>::clone(&keeper);
        let proxy = Proxy::start(Client::try_from(config)?, plan, process).await?;
        keeper.running().kubeconfig = proxy.kubeconfig(name);
        keeper.start(&mut keeper.running());
        Ok(Self { name: name.to_owned(), proxy, client, keeper, setting })
    }

    /// The operator's process, for others than its proxy who may end it.
    #[must_use]
    pub fn process(&self) -> Arc<dyn Process> {
        Arc::<Keeper>::clone(&self.keeper)
    }

    /// The image that the cluster rolls to.
    #[must_use]
    pub fn next_image(&self) -> &'static str {
        self.setting.next
    }

    /// How often the operator was killed.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.keeper.running().kills
    }

    /// Lets a suspended operator go on.
    pub fn resume(&self) {
        self.keeper.running().operator.iter().for_each(Operator::resume);
    }

    /// Whether the operator runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.keeper.running().operator.as_mut().is_some_and(Operator::alive)
    }

    /// Kills the operator and starts it again.
    pub fn restart(&self) {
        self.keeper.kill();
    }

    /// Objects of the lane's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Objects of a kind in the lane's namespace.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn list<K>(&self) -> Result<Vec<K>>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        Ok(self.api::<K>().list(&cached()).await?.items)
    }

    /// The cluster.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn cluster(&self) -> Result<Option<ConstellationCluster>> {
        Ok(self.api().get_opt(&self.name).await?)
    }

    /// Kubernetes nodes of this lane's cluster.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn kube_nodes(&self) -> Result<Vec<Node>> {
        let all = Api::<Node>::all(self.client.clone()).list(&cached()).await?.items;
        let prefix = format!("{}-", self.name);
        Ok(all.into_iter().filter(|node| node.name_any().starts_with(&prefix)).collect())
    }

    /// The simulated cloud's records: machines and networks.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn records(&self) -> Result<Vec<ConfigMap>> {
        let ours = cached().labels("constellation.dev/simulated");
        Ok(self.api::<ConfigMap>().list(&ours).await?.items)
    }

    /// Makes or changes the release: an image, and what it measures; `genuine` images measure what the release says.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn release(&self, image: &str, genuine: bool) -> Result<()> {
        let set = image.rsplit('/').next().unwrap_or_default();
        let measured = if genuine { image } else { "another image" };
        let pcrs: BTreeMap<String, [String; 1]> = [4, 11, 12, 13].map(|n| (n.to_string(), [claim(measured, n)])).into();
        let version = json!({
            "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeVersion", "metadata": {"name": self.name},
            "spec": {
                "image": (self.setting.image)(image), "kubernetesVersion": "v1.36.3",
                "measurements": {"inline": [{"name": set, "platform": "simulated", "pcrs": pcrs}]},
            },
        });
        self.api::<NodeVersion>().patch(&self.name, &user(), &Patch::Apply(version)).await?;
        Ok(())
    }

    /// Asks for a cluster, with its release.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create(&self, want: Want) -> Result<()> {
        self.release(want.image, true).await?;
        let cluster = json!({
            "apiVersion": "constellation.dev/v1alpha1", "kind": "ConstellationCluster", "metadata": {"name": self.name},
            "spec": {
                "provider": self.setting.provider, "tee": self.setting.tee, "nodeVersion": self.name,
                // Longer than any flow: a node that goes with pods on it went too early.
                "rollout": {"drainTimeoutSeconds": 3600},
                "controlPlane": {"replicas": want.control_plane, "instanceType": self.setting.instance_type},
                "nodeGroups": [{
                    "name": GROUP, "instanceType": self.setting.instance_type, "replicas": want.workers
                }],
            },
        });
        self.api::<ConstellationCluster>().patch(&self.name, &user(), &Patch::Apply(cluster)).await?;
        Ok(())
    }

    /// Sets the number of workers, as `kubectl scale` does.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn scale(&self, workers: usize) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": workers}}));
        let group = format!("{}-{GROUP}", self.name);
        self.api::<constellation_crds::NodeGroup>().patch_scale(&group, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Sets the number of control-plane nodes.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn resize(&self, nodes: usize) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"controlPlane": {"replicas": nodes}}}));
        self.api::<ConstellationCluster>().patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// What befalls machines from now on.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn script(&self, data: Value) -> Result<()> {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SCRIPT}, "data": data});
        self.api::<ConfigMap>().patch(SCRIPT, &user(), &Patch::Apply(map)).await?;
        Ok(())
    }

    /// Asks for the cluster's end.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn delete(&self) -> Result<()> {
        match self.api::<ConstellationCluster>().delete(&self.name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks until it holds.
    ///
    /// # Errors
    /// When it does not in time, or the operator ended by itself; says what was seen.
    pub async fn until(&self, what: &str, limit: Duration, holds: impl AsyncFn(&Self) -> Result<bool>) -> Result<()> {
        let end = tokio::time::Instant::now() + limit;
        while !holds(self).await? {
            let (alive, failure) = {
                let mut running = self.keeper.running();
                (running.operator.as_mut().is_some_and(Operator::alive), running.failure.clone())
            };
            if !alive || failure.is_some() || tokio::time::Instant::now() > end {
                let log = self.keeper.running().operator.as_ref().map(Operator::tail).unwrap_or_default();
                let picture = super::picture::of(self).await?;
                bail!(
                    "{}: {what}: not seen; operator runs: {alive} {failure:?}\nplan so far: {:#?}\nseen: {picture:#?}\nlog:\n{log}",
                    self.name,
                    self.proxy.plan().done(),
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until the cluster is as wanted, and says so.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn settled(&self, want: Want, limit: Duration) -> Result<()> {
        self.until(&format!("{want:?}"), limit, async |lane| lane.is(want).await).await
    }

    /// Whether the cluster is as wanted, and says so.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn is(&self, want: Want) -> Result<bool> {
        let Some(cluster) = self.cluster().await? else { return Ok(false) };
        let status = cluster.status.clone().unwrap_or_default();
        let says = |kind, holds| status.conditions.iter().any(|c| c.type_ == kind && c.status == holds);
        let given_up = status.rolled_back.is_some() && says("Ready", "False") && says("Stalled", "True");
        let told = if want.given_up { given_up } else { says("Ready", "True") };
        if !told || status.observed_generation != cluster.metadata.generation {
            return Ok(false);
        }
        let nodes = self.list::<ConfidentialNode>().await?;
        let fine = |node: &ConfidentialNode| {
            node.metadata.deletion_timestamp.is_none()
                && node.spec.image == want.image
                && node.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Ready))
        };
        let groups = self.list::<constellation_crds::NodeGroup>().await?;
        let groups_told = groups.iter().all(|group| {
            let wanted = u32::try_from(want.workers).ok();
            group.status.as_ref().is_some_and(|s| s.ready_replicas == wanted && s.replicas == wanted)
        });
        let all = want.control_plane + want.workers;
        Ok(nodes.len() == all
            && nodes.iter().all(fine)
            && groups_told
            && self.records().await?.iter().filter(|map| is_machine(map)).count() == all
            && self.kube_nodes().await?.len() == all)
    }

    /// Waits until the cluster is gone and nothing of it is left that the garbage collector wouldn't take.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn gone(&self, limit: Duration) -> Result<()> {
        self.until("nothing left", limit, async |lane| {
            Ok(lane.cluster().await?.is_none() && super::picture::left(lane).await?.is_empty())
        })
        .await
    }

    /// Whether no node ever got two machines.
    ///
    /// # Errors
    /// Names those that did.
    pub fn one_machine_per_node(&self) -> Result<()> {
        let twice: Vec<_> = self.proxy.seen(|seen| {
            let twice = seen.launches.iter().filter(|(_, count)| **count > 1);
            twice.map(|(uid, count)| format!("{uid} ({:?}): {count}", seen.names.get(uid))).collect()
        });
        ensure!(twice.is_empty(), "{}: nodes with more than one machine: {twice:?}", self.name);
        Ok(())
    }

    /// A worker's name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn worker(&self) -> Result<String> {
        let nodes = self.list::<ConfidentialNode>().await?;
        let worker = nodes.iter().find(|node| node.spec.node_group == GROUP);
        worker.map(ResourceExtName::name).context("no worker")
    }
}

/// Whether a record is of a machine; others are of networks.
fn is_machine(record: &ConfigMap) -> bool {
    record.labels().get("constellation.dev/simulated").is_some_and(|kind| kind == "instance")
}

/// From the API server's memory: a look that is a moment old costs nothing, and the next one is newer.
fn cached() -> ListParams {
    ListParams::default().match_any()
}

/// Who applies what a user wants.
#[must_use]
pub fn user() -> PatchParams {
    PatchParams::apply("tests").force()
}

/// `name_any`, as a path for `map`.
trait ResourceExtName {
    fn name(&self) -> String;
}

impl ResourceExtName for ConfidentialNode {
    fn name(&self) -> String {
        self.name_any()
    }
}
