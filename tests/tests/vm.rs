//! Real VMs, driven as a user drives them: `kubectl apply` to nothing left, with the operator killed on the way.
//!
//! Needs root, the programs (`cargo build --workspace --bins`) and images (`tests/run.sh image`): `CONSTELLATION_IMAGE`
//! names the folder of the first one and of `tampered.raw`, `CONSTELLATION_IMAGE_2` the one that nodes are rolled to.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test says what is wrong by failing"
)]

#[path = "vm/inside.rs"]
mod inside;
#[path = "vm/secrets.rs"]
mod secrets;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use constellation_crds::{ConfidentialNode, node::Role};
use constellation_operator::cloud::{
    ClusterUid, InstanceId,
    local::{LocalCloud, leaks},
};
use constellation_tests::{operator::program, world::World};
use kube::{ResourceExt, api::DynamicObject};
use serde_json::{Value, json};

use self::inside::Inside;

/// It leads alone, so it needs no lease: a host that stands still for ten seconds, as VMs without KVM were seen to make it,
/// would end it. Leases are the matter of `takeover.rs`.
const ALONE: [&str; 1] = ["--leader-elect=false"];
/// Without KVM a control-plane node needs up to three minutes, and a roll makes one of each kind.
const LONG: Duration = Duration::from_mins(15);

fn folder(variable: &str) -> PathBuf {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the image builder's folder")).into()
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

/// The release in a folder of the image builder; its measurements may be another's.
async fn release(world: &World, image: &Path, measured: &Path) {
    let name = measured.file_name().unwrap().to_str().unwrap();
    let read = |file: &str| fs::read_to_string(measured.join(file)).unwrap();
    world
        .apply_object(object(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"manifest.dsse.json": read("manifest.dsse.json")}
        })))
        .await;
    world
        .apply_object(object(json!({
            "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeVersion", "metadata": {"name": "demo"},
            "spec": {
                "image": {"local": image}, "kubernetesVersion": "v1.36.3",
                "measurements": {"signed": {"configMap": name, "publicKey": read("publisher.pub.pem")}}
            }
        })))
        .await;
}

fn of_image<'a>(nodes: &'a [ConfidentialNode], image: &Path) -> Option<&'a ConfidentialNode> {
    nodes.iter().find(|node| Path::new(&node.spec.image) == image)
}

/// The host of the VMs, and the nodes of a role whose VM it knows.
async fn host(world: &World, role: Role) -> (LocalCloud, ClusterUid, Vec<InstanceId>) {
    let cloud = LocalCloud::new(world.dir().join("local")).with_executable(program("constellation-operator").unwrap());
    let cluster = ClusterUid(world.cluster().await.unwrap().uid().unwrap());
    let nodes = world.nodes().await.into_iter().filter(|node| node.spec.role == role);
    let ids = nodes.filter_map(|node| node.status?.provider_id).map(InstanceId).collect();
    (cloud, cluster, ids)
}

/// Every VM of a role loses its power and is switched on again.
async fn power_cut(world: &World, role: Role) {
    let (cloud, cluster, ids) = host(world, role).await;
    assert!(!ids.is_empty());
    for id in ids {
        cloud.restart(&cluster, &id).await.unwrap();
    }
}

/// Whether a VM of a role has written something to its console.
async fn says(world: &World, role: Role, text: &str) -> bool {
    let (cloud, cluster, ids) = host(world, role).await;
    ids.iter().any(|id| cloud.console(&cluster, id).is_ok_and(|console| console.contains(text)))
}

/// What the VMs of a role say of their admission: milliseconds from network to ticket, and of its parts.
async fn admissions(world: &World, role: Role) -> Vec<String> {
    let (cloud, cluster, ids) = host(world, role).await;
    let consoles = ids.iter().filter_map(|id| cloud.console(&cluster, id).ok());
    consoles
        .flat_map(|text| text.lines().filter(|l| l.contains("Admitted")).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// One cluster's life: chapters in order, each begins where the one before ended.
struct Story {
    world: World,
    /// The first release's folder of the image builder.
    first: PathBuf,
    /// The one that is rolled to.
    second: PathBuf,
    began: Instant,
}

impl Story {
    fn say(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.began.elapsed().as_secs());
    }

    /// `kubectl apply` to Ready. Operator and VMs die on the way.
    async fn comes_up(&mut self) {
        self.world.operator(&ALONE);
        release(&self.world, &self.first.join("image.raw"), &self.first).await;
        let mut cluster = self.world.example("local/cluster.yaml");
        cluster.data["spec"]["nodeGroups"][0]["replicas"] = json!(1);
        cluster.data["spec"]["nodeGroups"][0]["stateDisk"]["integrity"] = json!("Hmac");
        self.world.apply_object(cluster).await;
        let init = async |w: &World| {
            let nodes = w.nodes().await;
            nodes.iter().filter_map(|node| node.status.as_ref()).any(|status| status.attestation.is_some())
        };
        self.world.until("the first node's evidence", LONG, init).await;
        self.say("the owner accepted the first node's evidence; the operator dies while Kubernetes is initialised");
        self.world.kill_operator();
        self.world.operator(&ALONE);
        let at_work = async |w: &World| says(w, Role::ControlPlane, "static Pod manifest for \"kube-scheduler\"").await;
        self.world.until("kubeadm at work", LONG, at_work).await;
        power_cut(&self.world, Role::ControlPlane).await;
        self.say("the control-plane node lost its power in the middle of Init");
        let formatting = async |w: &World| says(w, Role::Worker, "formatting the state disk").await;
        self.world.until("the worker's disk", LONG, formatting).await;
        power_cut(&self.world, Role::Worker).await;
        self.say("the worker lost its power while it formatted its disk");
        self.world.until("Ready", LONG, async |w| w.condition("Ready").await && w.nodes().await.len() == 2).await;
        self.say("one control-plane node and one worker are Ready");
        for node in self.world.nodes().await {
            let status = node.status.unwrap();
            let result = status.attestation.unwrap();
            assert_eq!((result.platform.as_str(), result.verdict.as_str()), ("qemu-vtpm", "Accepted"));
            self.say(&format!("  phases of {}: {:?}", node.metadata.name.unwrap(), status.phase_times));
        }
        for line in admissions(&self.world, Role::Worker).await {
            self.say(&format!("  the worker: {line}"));
        }
    }

    /// Members that are switched off and on are the same nodes, with their disks.
    async fn returns(&mut self, inside: &Inside) {
        for node in self.world.nodes().await {
            assert_eq!(inside.authenticates(&node.name_any()), node.spec.role == Role::Worker);
        }
        let names = inside.nodes().await;
        for name in &names {
            assert_eq!(inside.marks(name, "before"), "");
        }
        let before = inside.boots().await;
        power_cut(&self.world, Role::ControlPlane).await;
        power_cut(&self.world, Role::Worker).await;
        self.say("every VM lost its power and was switched on again");
        let back = async |w: &World| {
            let now = inside.boots().await;
            w.condition("Ready").await
                && now.len() == 2
                && now.iter().all(|(name, boot)| before.get(name) != Some(boot))
        };
        self.world.until("the nodes back", LONG, back).await;
        inside.exchange_again().await;
        for name in &names {
            assert_eq!(inside.marks(name, "after"), "before", "the disk of {name} was made anew");
        }
        self.say("the same nodes are back with their disks, by Recover and by Join, and their pods reach each other");
    }

    /// A byte of the command line changed is a refusal with its reasons, and no harm: the release is given up.
    async fn refuses(&mut self, inside: &Inside) {
        let tampered = self.first.join("tampered.raw");
        release(&self.world, &tampered, &self.first).await;
        let refused = async |w: &World| {
            let nodes = w.nodes().await;
            let result = of_image(&nodes, &tampered).and_then(|node| node.status.as_ref()?.attestation.clone());
            result.is_some_and(|result| result.verdict == "Refused")
        };
        self.world.until("the refusal of the changed image", LONG, refused).await;
        let nodes = self.world.nodes().await;
        let node = of_image(&nodes, &tampered).unwrap();
        let (name, result) = (node.name_any(), node.status.clone().unwrap().attestation.unwrap());
        for mismatch in &result.mismatches {
            self.say(&format!("  {}: {}", mismatch.clause, mismatch.message));
            assert!(mismatch.expected.is_some() && mismatch.actual.is_some());
        }
        let clauses: Vec<_> = result.mismatches.iter().map(|m| m.clause.as_str()).collect();
        assert!(clauses.contains(&"tpm.pcr.4") && clauses.contains(&"tpm.pcr.11"), "{clauses:?}");
        assert_eq!(inside.nodes().await.len(), 2, "the refused VM is no node");
        assert!(self.world.condition("Available").await);
        let back = async |w: &World| {
            w.condition("Stalled").await
                && of_image(&w.nodes().await, &tampered).is_none()
                && w.nodes().await.len() == 2
        };
        self.world.until("the release given up", LONG, back).await;
        let given_up = self.world.cluster().await.unwrap().status.unwrap().rolled_back.unwrap();
        self.say(&format!(
            "the release was given up, and nothing but the nodes of before is there: {}",
            given_up.message
        ));
        assert!(given_up.message.contains("tpm.pcr."), "{given_up:?}");
        for (object, reason) in [(&name, "AttestationRefused"), (&self.world.cluster, "RolledBack")] {
            let told = self.world.events(object, reason).await;
            assert!(told.len() == 1 && told[0].type_.as_deref() == Some("Warning"), "{reason}: {told:#?}");
            assert!(told[0].message.as_ref().unwrap().contains("tpm.pcr."), "{reason}: {told:#?}");
        }
    }

    /// Every node becomes one of the second release; the operator dies while a control-plane node joins.
    async fn rolls(&mut self, inside: &Inside) {
        let newer = self.second.join("image.raw");
        release(&self.world, &newer, &self.second).await;
        let rolling = async |w: &World| {
            let nodes = w.nodes().await;
            nodes.iter().any(|node| Path::new(&node.spec.image) == newer && node.spec.role == Role::ControlPlane)
        };
        self.world.until("the new control-plane node", LONG, rolling).await;
        self.say("the worker is rolled; the operator dies while a control-plane node joins");
        self.world.kill_operator();
        self.world.operator(&ALONE);
        let rolled = async |w: &World| {
            let nodes = w.nodes().await;
            nodes.len() == 2
                && nodes.iter().all(|node| Path::new(&node.spec.image) == newer)
                && w.condition("Ready").await
                && w.condition("NodesUpToDate").await
        };
        self.world.until("the roll", LONG, rolled).await;
        self.say("every node runs the second image");
        let mut names: Vec<_> = self.world.nodes().await.iter().map(ResourceExt::name_any).collect();
        names.sort();
        assert_eq!(inside.nodes().await, names);
    }

    /// Nothing is left, though the operator dies half-way.
    async fn goes(&mut self, local: &Path) {
        self.world.delete_cluster().await;
        self.world.until("the first VM gone", LONG, async |w| w.nodes().await.len() < 2).await;
        self.world.kill_operator();
        self.world.operator(&ALONE);
        let gone = async |w: &World| w.cluster().await.is_none() && w.nodes().await.is_empty();
        self.world.until("nothing left", LONG, gone).await;
        assert_eq!(leaks(local), Vec::<String>::new());
        self.say("nothing is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_vms_lives_from_apply_to_nothing_left() {
    let world = World::start(Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm"), "demo").await;
    let local = world.dir().join("local");
    let (first, second) = (folder("CONSTELLATION_IMAGE"), folder("CONSTELLATION_IMAGE_2"));
    let mut story = Story { world, first, second, began: Instant::now() };

    story.comes_up().await;
    let inside = Inside::open(&story.world).await;
    inside.pods().await;
    inside.crosses_only_encrypted(&local).await;
    story.say("pods reach each other, and nothing of it crosses the network in clear");
    story.returns(&inside).await;
    story.refuses(&inside).await;
    story.rolls(&inside).await;

    // Writing needs a majority of etcd: the old member is gone from it.
    let inside = Inside::open(&story.world).await;
    inside.pods().await;
    inside.evicted_is_cut_off(&local).await;
    story.say("an evicted node's pods are cut off, and what they send is dropped, not sent in clear");
    secrets::assert_none_is_out(&story.world, &inside, &local).await;
    story.say("no secret is in a log, a console, an API or a process");
    story.goes(&local).await;
}
