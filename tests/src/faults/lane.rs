//! One cluster in a namespace of its own, with an operator process that talks through a proxy; and what a user does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeVersion, node::Phase};
use constellation_operator::cloud::simulated::{SCRIPT, claim};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

pub use super::setting::{Setting, Want};
use super::{
    keeper::Keeper,
    plan::Plan,
    proxy::{Process, Proxy, Seen},
    steps,
    turns::{self, Told},
    vault::{Custody, OLD},
};

/// Between two looks. Each is one read while the cluster isn't Ready.
const LOOK: Duration = Duration::from_secs(1);
/// A Secret that the user made, and its label.
pub const USERS: &str = "users";
/// The group of workers of every lane's cluster.
pub const GROUP: &str = "workers";

/// A cluster and its operator.
pub struct Lane {
    /// Name of the cluster and of its namespace.
    pub name: String,
    /// What the operator talks through.
    pub proxy: Proxy,
    client: Client,
    keeper: Arc<Keeper>,
    setting: Setting,
    /// Another operator for the same cluster, with a proxy of its own.
    beside: Option<Box<Lane>>,
}

impl Drop for Lane {
    /// Connections outlive the lane for a while, and they know the keeper; its operator ends here.
    fn drop(&mut self) {
        self.keeper.end();
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
        name.clone_into(&mut config.default_namespace);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.patch(name, &PatchParams::apply("tests"), &Patch::Apply(namespace)).await?;
        // Who dies and comes back would wait for its own lease.
        let alone = if arguments.iter().any(|a| a.starts_with("--leader-elect")) { "" } else { "--leader-elect=false" };
        let own = ["--namespace", name, alone].into_iter().filter(|argument| !argument.is_empty());
        let given = arguments.iter().copied().map(str::to_owned);
        let environment = setting.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let arguments = own.map(str::to_owned).chain(setting.arguments.clone()).chain(given).collect();
        let keeper = Arc::new(Keeper::new(dir, setting.program, environment, arguments));
        let process: Arc<dyn Process> = Arc::<Keeper>::clone(&keeper);
        let proxy = Proxy::start(Client::try_from(config)?, plan, process).await?;
        keeper.begin(proxy.kubeconfig(name));
        Ok(Self { name: name.to_owned(), proxy, client, keeper, setting, beside: None })
    }

    /// With another operator that looks after the same cluster, when it leads.
    #[must_use]
    pub fn beside(mut self, other: Self) -> Self {
        self.beside = Some(Box::new(other));
        self
    }

    /// All operators of the lane, each with what it is behind.
    fn operators(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |lane| lane.beside.as_deref())
    }

    /// From now on things go wrong as planned.
    pub fn arm(&self) {
        for lane in self.operators() {
            lane.keeper.arm();
            lane.proxy.plan().arm();
        }
    }

    /// The steps that the operators carried out since then.
    #[must_use]
    pub fn steps(&self) -> BTreeSet<String> {
        self.operators().flat_map(|lane| steps::told(&lane.keeper.armed_log())).collect()
    }

    /// How many side effects each of the operators had until now.
    #[must_use]
    pub fn written(&self) -> Vec<usize> {
        self.operators().map(|lane| lane.proxy.seen(|seen| seen.writes.len())).collect()
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
        self.operators().map(|lane| lane.keeper.kills()).sum()
    }

    /// How often which kind of thing went wrong until now.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<String, u32> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.operators().flat_map(|lane| lane.proxy.plan().tally()) {
            *all.entry(kind).or_default() += count;
        }
        all
    }

    /// Lets a suspended operator go on.
    pub fn resume(&self) {
        self.keeper.resume();
    }

    /// Whether the operator runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.keeper.alive()
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
        let mut cluster = json!({
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
        if let Some(master) = self.master_secret().await? {
            cluster["spec"]["masterSecret"] = master;
        }
        self.api::<ConstellationCluster>().patch(&self.name, &user(), &Patch::Apply(cluster)).await?;
        Ok(())
    }

    /// How the spec says that the master secret is kept; what that needs is made.
    async fn master_secret(&self) -> Result<Option<Value>> {
        let Some(Custody { address, ca, token }) = &self.setting.custody else { return Ok(None) };
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": USERS, "labels": {USERS: "true"}},
            "stringData": {"token": token, "ca.crt": ca},
        });
        self.api::<Secret>().patch(USERS, &user(), &Patch::Apply(secret)).await?;
        Ok(Some(json!({"kms": {"vault": {"address": address, "key": OLD, "credentialsRef": {"name": USERS}}}})))
    }

    /// Changes the cluster's spec.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn change(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api::<ConstellationCluster>().patch(&self.name, &PatchParams::default(), &patch).await?;
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
        self.change(json!({"controlPlane": {"replicas": nodes}})).await
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
            let troubles: Vec<_> = self.operators().filter_map(|lane| lane.keeper.trouble()).collect();
            if !troubles.is_empty() || tokio::time::Instant::now() > end {
                let logs: Vec<_> = self.operators().map(|lane| lane.keeper.tail()).collect();
                let plans: Vec<_> = self.operators().map(|lane| lane.proxy.plan().done()).collect();
                let picture = super::picture::of(self).await?;
                bail!(
                    "{}: {what}: not seen; {troubles:?}\nplans so far: {plans:#?}\nseen: {picture:#?}\nlog:\n{}",
                    self.name,
                    logs.join("\n\n"),
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
        let mut launches: BTreeMap<String, u32> = BTreeMap::new();
        for lane in self.operators() {
            for (uid, count) in lane.proxy.seen(|seen| seen.launches.clone()) {
                *launches.entry(uid).or_default() += count;
            }
        }
        launches.retain(|_, count| *count > 1);
        let name =
            |uid: &String| self.operators().find_map(|lane| lane.proxy.seen(|seen| seen.names.get(uid).cloned()));
        let twice: Vec<_> = launches.iter().map(|(uid, count)| format!("{uid} ({:?}): {count}", name(uid))).collect();
        ensure!(twice.is_empty(), "{}: nodes with more than one machine: {twice:?}", self.name);
        Ok(())
    }

    /// Whether no operator wrote after another one had begun to lead, since it led last itself.
    ///
    /// # Errors
    /// Names what was written.
    pub fn in_turn(&self) -> Result<()> {
        let told = |seen: &mut Seen| Told {
            reigns: seen.reigns.clone(),
            writes: seen.moments.iter().copied().zip(seen.writes.iter().cloned()).collect(),
        };
        let told: Vec<_> = self.operators().map(|lane| lane.proxy.seen(told)).collect();
        let late = turns::out_of_turn(&told);
        ensure!(late.is_empty(), "{}: written while another one led: {late:#?}", self.name);
        Ok(())
    }

    /// How often each of the operators began to lead.
    #[must_use]
    pub fn reigns(&self) -> Vec<usize> {
        self.operators().map(|lane| lane.proxy.seen(|seen| seen.reigns.len())).collect()
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
