//! The owner's conversations with genuine machines, Init, Recover and Leave, and the operator's process killed at every
//! side effect and at every turn of each.
//!
//! Nothing is played but what a VM would be for: the operator's own program and its own room of provider `local`, node
//! agents and verifiers as they are, software TPMs whose evidence is appraised, an API server for the operator and one for
//! the cluster that is made. Needs the programs: `cargo build --bins`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says what is wrong by failing")]

#[path = "conversations/door.rs"]
mod door;
#[path = "conversations/host.rs"]
mod host;
#[path = "conversations/machine.rs"]
mod machine;
#[path = "conversations/talk.rs"]
mod talk;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use constellation_attestation::{channel::Identity, keys, owner::SigningKey};
use constellation_crds::{ConfidentialNode, ConstellationCluster, NodeVersion, condition, node::Phase};
use constellation_operator::{
    cloud::local::leaks,
    cluster::secrets::{master_secret_name, owner_key_name},
    init::install::MANAGER,
};
use constellation_tests::{
    agent::IMAGE,
    controlplane,
    faults::{
        flow::{LONG, anonymous, same, still},
        lane::{Lane, Setting},
        management, picture,
        plan::{Plan, Side},
        proxy::Proxy,
        steps,
    },
    kubeadm::ControlPlane,
};
use futures::future::try_join_all;
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::Host;

/// Where a life has fewer side effects than these, they aren't seen or told apart any more.
const FEWEST: usize = 70;

/// What happens to a cluster, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It is made: Init.
    Create,
    /// Its machine loses its power: Recover.
    CutPower,
    /// Other settings are wanted of its control plane: another machine joins, and the first leaves.
    Replace,
    /// It is deleted.
    Delete,
}

impl Part {
    const ALL: [Self; 4] = [Self::Create, Self::CutPower, Self::Replace, Self::Delete];

    /// Turns that its conversation has at least: handshake, request, challenge, and what is granted.
    fn turns(self) -> usize {
        if self == Self::Delete { 0 } else { 4 }
    }

    /// Numbers of the nodes that there are at its end.
    fn nodes(self) -> &'static [u32] {
        match self {
            Self::Create | Self::CutPower => &[1],
            Self::Replace => &[2],
            Self::Delete => &[],
        }
    }
}

/// A cluster with everything around it.
struct Life {
    lane: Lane,
    host: Host,
    /// What the operator says to the API server that it made goes through here.
    inside: Proxy,
    /// That API server's administrator.
    client: Client,
}

impl Life {
    /// A cluster that is asked for and paused; what goes wrong goes wrong from here on.
    async fn begin(name: &str, side: Option<Side>) -> Result<Self> {
        let plan = || side.map_or_else(Plan::calm, Plan::every);
        let config = management(&dir().join("plane")).await?;
        let folder = dir().join("planes").join(name);
        let plane = tokio::task::spawn_blocking(move || ControlPlane::start(&folder, async |_| Ok(()))).await??;
        let mut admin = controlplane::config(plane.admin()).await?;
        let client = Client::try_from(admin.clone())?;
        let folder = lanes().join(name);
        // Whatever a run left that was killed.
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let setting = Setting { arguments: Vec::new(), ..Setting::default() };
        let lane = Lane::start_in(setting, config, &lanes(), name, plan(), &[]).await?;
        admin.default_retry = false;
        let inside = Proxy::start(Client::try_from(admin)?, plan(), lane.process()).await?;
        ask(&lane, &client.apiserver_version().await?.git_version).await?;
        let cluster = lane.cluster().await?.context("it was made")?;
        let folder = folder.join("local").join(cluster.uid().context("it has a uid")?);
        let host = Host::start(&folder, name, Arc::new(plane), (plan(), lane.process()), inside.address()).await?;
        lane.arm();
        inside.plan().arm();
        host.arm();
        Ok(Self { lane, host, inside, client })
    }

    async fn change(&self, change: Value) -> Result<()> {
        let clusters = self.lane.api::<ConstellationCluster>();
        clusters.patch(&self.lane.name, &PatchParams::default(), &Patch::Merge(&change)).await?;
        Ok(())
    }

    /// Lets it happen, and waits for its end; gives what there is then.
    async fn run(&self, part: Part) -> Result<Vec<String>> {
        let secrets = picture::secrets(&self.lane).await?;
        match part {
            Part::Create => self.change(json!({"spec": {"paused": null}})).await?,
            Part::CutPower => {
                self.host.cut_power().await?;
                // Somebody looks; of itself the operator would do so within a minute.
                self.change(json!({"metadata": {"annotations": {"looked": "at"}}})).await?;
                self.lane.until("the way back", LONG, async |_| Ok(self.host.serves())).await?;
            }
            Part::Replace => {
                self.change(json!({"spec": {"controlPlane": {"instanceType": "2x4096"}}})).await?;
            }
            Part::Delete => {
                self.lane.delete().await?;
                self.lane.gone(LONG).await?;
                let left = leaks(&lanes().join(&self.lane.name).join("local"));
                ensure!(left.is_empty() && self.host.names().await.is_empty(), "left on the host: {left:?}");
                self.host.fine()?;
                return picture::left(&self.lane).await;
            }
        }
        self.settled(part).await?;
        let (owner, granted) = self.keys().await?;
        let look = async || self.picture(&owner, &granted).await;
        let end = still(&self.lane, async || self.settled(part).await, look).await?;
        let kept = part == Part::Create || secrets == picture::secrets(&self.lane).await?;
        ensure!(kept, "{}: {part:?} changed a Secret", self.lane.name);
        Ok(end)
    }

    /// Waits until a part is over.
    async fn settled(&self, part: Part) -> Result<()> {
        let words = format!("the end of {part:?}");
        self.lane.until(&words, LONG, async |_| self.is(part).await).await
    }

    /// Whether a part is over.
    async fn is(&self, part: Part) -> Result<bool> {
        self.host.fine()?;
        let Some(cluster) = self.lane.cluster().await? else { return Ok(false) };
        let status = cluster.status.clone().unwrap_or_default();
        let told = condition::is_true(&status.conditions, condition::kind::READY)
            && status.observed_generation == cluster.metadata.generation;
        let nodes = self.lane.list::<ConfidentialNode>().await?;
        let ready = |node: &ConfidentialNode| node.status.as_ref().and_then(|s| s.phase) == Some(Phase::Ready);
        let wanted: Vec<_> = part.nodes().iter().map(|number| format!("{}-cp-{number}", self.lane.name)).collect();
        Ok(told
            && nodes.iter().all(ready)
            && nodes.iter().map(ResourceExt::name_any).collect::<Vec<_>>() == wanted
            && self.host.names().await == wanted)
    }

    /// The owner, and what every node of the cluster is granted: the disk secret and the cluster's identity.
    async fn keys(&self) -> Result<(Identity, [Vec<u8>; 2])> {
        let cluster = self.lane.cluster().await?.context("it is there")?;
        let secrets = self.lane.api::<Secret>();
        let read = async |name: String, key: &str| {
            let data = secrets.get(&name).await?.data.unwrap_or_default();
            anyhow::Ok(data.get(key).with_context(|| format!("{name} has no {key}"))?.0.clone())
        };
        let owner = String::from_utf8(read(owner_key_name(&cluster), "key.pem").await?)?;
        let master = read(master_secret_name(&cluster), "secret").await?;
        let derived = [keys::DISK_SECRET, keys::CLUSTER_ID].map(|label| keys::derive(&master, label).to_vec());
        Ok((Identity::owner_client(&SigningKey::from_pkcs8_pem(&owner)?)?, derived))
    }

    /// What there is at both API servers and on the host.
    async fn picture(&self, owner: &Identity, granted: &[Vec<u8>; 2]) -> Result<Vec<String>> {
        let mut lines = picture::of(&self.lane).await?;
        let client = &self.client;
        let all = ListParams::default();
        lines.extend(picture::inside(
            &Api::namespaced(client.clone(), "kube-system").list(&all).await?.items,
            &Api::namespaced(client.clone(), "kube-system").list(&all).await?.items,
            &Api::all(client.clone()).list(&all).await?.items,
        )?);
        lines.extend(installed::<CustomResourceDefinition>(&Api::all(client.clone())).await?);
        lines.extend(installed::<ClusterRole>(&Api::all(client.clone())).await?);
        lines.extend(installed::<ClusterRoleBinding>(&Api::all(client.clone())).await?);
        lines.extend(installed::<Role>(&Api::namespaced(client.clone(), "kube-system")).await?);
        lines.extend(installed::<RoleBinding>(&Api::namespaced(client.clone(), "kube-system")).await?);
        lines.extend(installed::<ConfigMap>(&Api::namespaced(client.clone(), "kube-public")).await?);
        lines.extend(self.host.picture(owner, granted).await?);
        Ok(anonymous(&lines, &self.lane.name))
    }

    /// How many side effects of different names there were, where the process dies at each.
    fn met(&self) -> usize {
        self.lane.proxy.plan().met() + self.inside.plan().met() + self.host.met()
    }
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("conversations")
}

fn lanes() -> PathBuf {
    dir().join("lanes")
}

/// Asks for a cluster and its release, which the good image is.
async fn ask(lane: &Lane, kubernetes: &str) -> Result<()> {
    let zero = [0; 32];
    let mut pcrs: BTreeMap<_, _> = [12, 13].map(|register| (register.to_string(), [hex::encode(zero)])).into();
    for (register, digest) in IMAGE {
        let value = Sha256::new().chain_update(zero).chain_update(digest).finalize();
        pcrs.insert(register.to_string(), [hex::encode(value)]);
    }
    let version = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeVersion", "metadata": {"name": lane.name},
        "spec": {
            "image": {"local": "/good"}, "kubernetesVersion": kubernetes.split(['+', '-']).next(),
            "measurements": {"inline": [{"name": "good", "platform": "qemu-vtpm", "pcrs": pcrs}]},
        },
    });
    let cluster = json!({
        "apiVersion": "constellation.dev/v1alpha1", "kind": "ConstellationCluster", "metadata": {"name": lane.name},
        "spec": {
            "provider": {"local": {}}, "tee": "vtpm", "nodeVersion": lane.name, "paused": true,
            "controlPlane": {"replicas": 1, "instanceType": "2x2048"},
        },
    });
    let user = PatchParams::apply("tests").force();
    lane.api::<NodeVersion>().patch(&lane.name, &user, &Patch::Apply(version)).await?;
    lane.api::<ConstellationCluster>().patch(&lane.name, &user, &Patch::Apply(cluster)).await?;
    Ok(())
}

/// Names of what the operator wrote.
async fn installed<K>(api: &Api<K>) -> Result<Vec<String>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let ours = |object: &K| object.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(MANAGER));
    let all = api.list(&ListParams::default()).await?.items;
    Ok(all
        .iter()
        .filter(|object| ours(object))
        .map(|object| format!("{} {}", K::kind(&()), object.name_any()))
        .collect())
}

/// A whole life; gives what there is at the end of each part.
async fn life(name: &str, side: Option<Side>) -> Result<Vec<Vec<String>>> {
    let start = Instant::now();
    let life = Life::begin(name, side).await?;
    let mut ends = Vec::new();
    for part in Part::ALL {
        let (kills, begun, words) = (life.lane.kills(), Instant::now(), format!("{part:?}"));
        life.host.begin(words.clone());
        ends.push(life.run(part).await?);
        let (kills, turns) = (life.lane.kills() - kills, life.host.turns(&words));
        ensure!(side.is_none() || turns >= part.turns(), "{name} {words}: killed at {turns} turns of a conversation");
        println!("{name} {words}: {kills} kills, {turns} of them at turns, {} s", begun.elapsed().as_secs());
    }
    let met = life.met();
    ensure!(side.is_none() || met >= FEWEST, "{name}: {met} side effects, {FEWEST} at least");
    let steps = life.lane.steps();
    ensure!(steps::OF_TALKS.iter().all(|step| steps.contains(*step)), "{name}: only these were carried out: {steps:?}");
    println!("{name}: {met} different side effects met, {} kills, {} s", life.lane.kills(), start.elapsed().as_secs());
    Ok(ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn init_recover_and_leave_end_the_same_whenever_the_operator_dies() {
    let lives = [("talk-calm", None), ("talk-after", Some(Side::After)), ("talk-before", Some(Side::Before))];
    let ends = try_join_all(lives.map(|(name, side)| life(name, side))).await.unwrap();
    for ((name, _), ends_of_one) in lives.iter().zip(&ends).skip(1) {
        for ((part, calm), end) in Part::ALL.iter().zip(&ends[0]).zip(ends_of_one) {
            same(&format!("{part:?} of {name}"), calm, end).unwrap();
        }
    }
}
