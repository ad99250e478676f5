//! A cluster in a namespace of its own: an owner, a trust bundle, admissions, and a real verifier process.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    channel::Identity,
    dsse,
    owner::SigningKey,
    platform::Platform,
    policy::{MeasurementSet, TRUST_POLICY_TYPE, TrustPolicy},
    protocol::{ClusterSettings, LaunchConfig, Role},
};
use constellation_crds::{
    NodeAdmission, NodeAdmissionSpec, NodeAdmissionStatus, TrustBundle, TrustBundleSpec,
    cluster::DiskIntegrity,
    node::{AttestationResult, Refusals, Role as NodeRole},
};
use constellation_tests::{
    agent::{Agent, IMAGE},
    kubeadm::ControlPlane,
    operator::program,
    process::{free_port, spawn_in},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{cluster, gate::Turn, machine::Machine};

pub const DISK_SECRET: [u8; 32] = [0xd5; 32];
pub const CLUSTER_ID: [u8; 32] = [0xc1; 32];
const START: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// One cluster with one verifier.
pub struct Scene {
    pub owner: SigningKey,
    pub client: Client,
    pub verifier: SocketAddr,
    pub folder: TempDir,
    /// Where the verifier looks for bootstrappers.
    pub bootstrapper_port: u16,
    /// What the verifier has in its environment from its next start on.
    pub environment: Vec<(&'static str, String)>,
    /// Where the verifier finds kubeadm's certificates from its next start on.
    pki: PathBuf,
    namespace: String,
    process: Child,
}

impl Scene {
    /// Starts a verifier in namespace `name`.
    pub async fn start(name: &str, more: &[&str]) -> Result<Self> {
        let control_plane = cluster::shared();
        let client = control_plane.client(&control_plane.kubeconfig("admin")).await?;
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let (owner, folder) = (SigningKey::generate()?, tempfile::tempdir()?);
        home(folder.path(), &owner, control_plane)?;
        let (port, bootstrapper_port) = (free_port()?, free_port()?);
        let environment = Vec::new();
        let pki = control_plane.pki().to_owned();
        let process = launch(folder.path(), name, &pki, (port, bootstrapper_port), (more, &environment))?;
        let verifier = SocketAddr::from(([127, 0, 0, 1], port));
        let namespace = name.to_owned();
        let mut scene =
            Self { owner, client, verifier, folder, bootstrapper_port, environment, pki, namespace, process };
        scene.wait_until_it_listens().await?;
        Ok(scene)
    }

    /// A cluster that a worker may join, and that worker, booted and honest.
    pub async fn with_worker(name: &str) -> Result<(Self, Machine)> {
        let scene = Self::start(name, &[]).await?;
        let machine = Machine::boot(&scene.launch("worker-1", Role::Worker))?;
        scene.trust(1, &[&machine]).await?;
        scene.announce(&machine.launch).await?;
        Ok((scene, machine))
    }

    /// Ends the verifier and starts it again with the same files, as after a crash.
    pub async fn restart_verifier(&mut self) -> Result<()> {
        self.begin_restart()?;
        self.wait_until_it_listens().await
    }

    /// Ends the verifier.
    pub fn stop_verifier(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// As [`Scene::restart_verifier`], for a verifier that may not come up.
    pub fn begin_restart(&mut self) -> Result<()> {
        self.stop_verifier()?;
        let (port, folder) = (self.verifier.port(), self.folder.path());
        let more = (&[] as &[&str], self.environment.as_slice());
        self.process = launch(folder, &self.namespace, &self.pki, (port, self.bootstrapper_port), more)?;
        Ok(())
    }

    /// A second verifier of this cluster, with files of its own as on another node.
    pub async fn replica(&self) -> Result<Replica> {
        let folder = tempfile::tempdir()?;
        home(folder.path(), &self.owner, cluster::shared())?;
        let port = free_port()?;
        let ports = (port, self.bootstrapper_port);
        let mut process = launch(folder.path(), &self.namespace, &self.pki, ports, (&[], &[]))?;
        let verifier = SocketAddr::from(([127, 0, 0, 1], port));
        listens(&mut process, verifier, folder.path()).await?;
        Ok(Replica { verifier, _folder: folder, process })
    }

    /// Gives the verifier a copy of the certificates, for it alone from its next start on.
    pub fn own_pki(&mut self) -> Result<PathBuf> {
        let pki = self.folder.path().join("pki");
        fs::create_dir_all(pki.join("etcd"))?;
        for folder in ["", "etcd"] {
            for entry in fs::read_dir(self.pki.join(folder))? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    fs::copy(entry.path(), pki.join(folder).join(entry.file_name()))?;
                }
            }
        }
        self.pki.clone_from(&pki);
        Ok(pki)
    }

    /// Waits until the verifier has logged this since its start.
    pub async fn wait_for_log(&mut self, words: &str) -> Result<()> {
        self.wait_for_log_after(0, words).await
    }

    /// Waits until the verifier has logged this behind the first bytes of its log.
    pub async fn wait_for_log_after(&mut self, bytes: usize, words: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.log()?.get(bytes..).is_some_and(|log| log.contains(words)) {
            ensure!(self.process.try_wait()?.is_none(), "the verifier ended: {}", self.log()?);
            ensure!(begun.elapsed() < START, "the verifier doesn't say {words:?}: {}", self.log()?);
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Asserts that the owner finds this refusal, for exactly these clauses, in the status of a node: as its appraisal, or
    /// beside it.
    pub async fn assert_listed(&self, uid: &str, id: &str, clauses: &[&str]) {
        let of_id = |result: &&AttestationResult| result.refusal_id.as_deref() == Some(id);
        let last = self.status(uid).await.unwrap().last_appraisal.filter(|last| of_id(&last));
        let result = if let Some(last) = last {
            last
        } else {
            let told = self.refusals(uid, |refusals| refusals.reasons().any(|result| of_id(&result))).await;
            told.reasons().find(of_id).unwrap().clone()
        };
        let listed: Vec<&str> = result.mismatches.iter().map(|mismatch| mismatch.clause.as_str()).collect();
        assert_eq!((listed, result.verdict.as_str()), (clauses.to_vec(), "Refused"), "{uid}: {:?}", result.mismatches);
    }

    /// As [`Scene::assert_listed`], of a node that wasn't let in.
    pub async fn assert_told(&self, uid: &str, id: &str, clauses: &[&str]) {
        self.assert_listed(uid, id, clauses).await;
        assert_eq!(self.status(uid).await.unwrap().admission, None, "{uid}");
    }

    /// Another worker that may join, with a TPM of the same make and keys. What is told of one node waits for nothing that is
    /// told of another, so each attack has its own.
    pub async fn worker_like(&self, other: &Machine, name: &str) -> Result<Machine> {
        let launch = self.launch(name, Role::Worker);
        self.announce(&launch).await?;
        Machine::boot_like(other, &launch)
    }

    /// The launch configuration of a node of this cluster.
    pub fn launch(&self, name: &str, role: Role) -> LaunchConfig {
        launch_config(&self.owner, name, role)
    }

    /// What the operator does before it launches a VM.
    pub async fn announce(&self, launch: &LaunchConfig) -> Result<()> {
        self.announce_as(launch, launch.role).await
    }

    /// As somebody does who may write admissions and wants more for the node than it measured.
    pub async fn announce_as(&self, launch: &LaunchConfig, role: Role) -> Result<()> {
        let spec = NodeAdmissionSpec {
            node_uid: launch.node_uid.clone(),
            node_name: launch.node_name.clone(),
            role: match role {
                Role::ControlPlane => NodeRole::ControlPlane,
                Role::Worker => NodeRole::Worker,
            },
            launch_config_digest: hex::encode(Sha256::digest(launch.to_bytes())),
            pod_cidr: "10.244.1.0/24".to_owned(),
            provider_id: format!("local://{}", launch.node_uid),
            labels: BTreeMap::from([("pool".to_owned(), "a".to_owned())]),
            taints: Vec::new(),
            disk_integrity: DiskIntegrity::None,
            evicted: None,
        };
        let node = NodeAdmission::new(&launch.node_uid, spec);
        self.nodes().create(&PostParams::default(), &node).await?;
        Ok(())
    }

    /// Publishes a policy that trusts the good image on these machines' TPMs.
    pub async fn trust(&self, revision: u64, machines: &[&Machine]) -> Result<()> {
        self.sign(&policy(revision, machines)?).await
    }

    /// As [`Scene::trust`], of agents' TPMs.
    pub async fn trust_agents(&self, agents: &[&Agent]) -> Result<()> {
        let mut policy = policy(1, &[])?;
        for agent in agents {
            policy.endorsement_roots.extend(agent.endorsement_roots()?);
        }
        self.sign(&policy).await
    }

    /// The agent of a machine that may join. It has run, so that its TPM is known, and doesn't now.
    pub async fn agent(&self, launch: &LaunchConfig) -> Result<Agent> {
        let mut agent = Agent::start(launch, &[]).await?;
        self.trust_agents(&[&agent]).await?;
        self.announce(launch).await?;
        agent.kill()?;
        Ok(agent)
    }

    /// Publishes a policy of the owner's.
    pub async fn sign(&self, policy: &TrustPolicy) -> Result<()> {
        let envelope = dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(policy)?, &self.owner);
        self.publish(&envelope).await
    }

    /// Publishes whatever it is given as the bundle.
    pub async fn publish(&self, envelope: &str) -> Result<()> {
        let bundle =
            TrustBundle::new("constellation", TrustBundleSpec { envelope: envelope.to_owned(), collateral: [].into() });
        let bundles: Api<TrustBundle> = Api::namespaced(self.client.clone(), &self.namespace);
        bundles.patch("constellation", &PatchParams::apply("test").force(), &Patch::Apply(&bundle)).await?;
        Ok(())
    }

    /// The bundle that is in force.
    pub async fn envelope(&self) -> Result<String> {
        let bundles: Api<TrustBundle> = Api::namespaced(self.client.clone(), &self.namespace);
        Ok(bundles.get("constellation").await?.spec.envelope)
    }

    pub fn nodes(&self) -> Api<NodeAdmission> {
        self.nodes_of(self.client.clone())
    }

    /// The admissions as another client sees them.
    pub fn nodes_of(&self, client: Client) -> Api<NodeAdmission> {
        Api::namespaced(client, &self.namespace)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The verifier's process.
    pub fn verifier_pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.process)
    }

    /// What the verifier has logged since its last start.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("verifier.log"))?)
    }

    pub async fn node(&self, uid: &str) -> Result<NodeAdmission> {
        Ok(self.nodes().get(uid).await?)
    }

    pub async fn status(&self, uid: &str) -> Result<NodeAdmissionStatus> {
        Ok(self.node(uid).await?.status.unwrap_or_default())
    }

    /// Asserts that a node which lost its verifier or itself at a turn of its join is on record if that was the last one: a
    /// record comes before the ticket, and from nothing less than an accepted proof.
    pub async fn assert_recorded_after(&self, turn: Turn, uid: &str) {
        let recorded = self.status(uid).await.unwrap().admission.is_some();
        assert_eq!(recorded, turn == Turn::Verdict, "{turn:?}");
    }

    /// Waits for refusals in a node's name that say nothing about it; the verifier writes them when it likes.
    pub async fn refusals(&self, uid: &str, enough: impl Fn(&Refusals) -> bool) -> Refusals {
        self.until(enough, async || self.status(uid).await.unwrap().refusals).await
    }

    /// Waits for refusals in no node's name.
    pub async fn strangers(&self, enough: impl Fn(&Refusals) -> bool) -> Refusals {
        let bundles: Api<TrustBundle> = Api::namespaced(self.client.clone(), &self.namespace);
        let told = async || bundles.get("constellation").await.unwrap().status.unwrap_or_default().refusals;
        self.until(enough, told).await
    }

    async fn until(&self, enough: impl Fn(&Refusals) -> bool, told: impl AsyncFn() -> Option<Refusals>) -> Refusals {
        let begun = Instant::now();
        loop {
            let refusals = told().await;
            if let Some(refusals) = refusals.clone().filter(&enough) {
                return refusals;
            }
            assert!(begun.elapsed() < START, "not told but {refusals:?}: {}", self.log().unwrap());
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn wait_until_it_listens(&mut self) -> Result<()> {
        listens(&mut self.process, self.verifier, self.folder.path()).await
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.path().join("verifier.log")).unwrap_or_default());
        }
    }
}

/// Another verifier of a [`Scene`].
pub struct Replica {
    pub verifier: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn listens(process: &mut Child, address: SocketAddr, folder: &Path) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        let log = || fs::read_to_string(folder.join("verifier.log")).unwrap_or_default();
        ensure!(process.try_wait()?.is_none(), "the verifier ended: {}", log());
        ensure!(begun.elapsed() < START, "the verifier doesn't listen: {}", log());
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// A node but for the certificate of its last ticket, of which each has another.
pub fn but_its_ticket(mut node: NodeAdmission) -> NodeAdmission {
    (node.metadata.resource_version, node.metadata.managed_fields) = (None, None);
    if let Some(admission) = node.status.as_mut().and_then(|status| status.admission.as_mut()) {
        admission.kubelet_certificate = None;
    }
    node
}

pub fn launch_config(owner: &SigningKey, name: &str, role: Role) -> LaunchConfig {
    LaunchConfig {
        cluster_uid: "3f1c7b1e-0000-4000-8000-000000000001".to_owned(),
        node_uid: format!("uid-{name}"),
        node_name: name.to_owned(),
        role,
        owner_public_key: STANDARD.encode(owner.public_spki()),
    }
}

/// Trusts the good image, endorsed by the makers of these machines' TPMs.
pub fn policy(revision: u64, machines: &[&Machine]) -> Result<TrustPolicy> {
    let zero = [0; 32];
    let mut pcrs = BTreeMap::from([(12, vec![hex::encode(zero)]), (13, vec![hex::encode(zero)])]);
    for (register, digest) in IMAGE {
        let value = Sha256::new().chain_update(zero).chain_update(digest).finalize();
        pcrs.insert(register, vec![hex::encode(value)]);
    }
    let mut roots = Vec::new();
    for machine in machines {
        roots.extend(machine.endorsement_roots()?);
    }
    Ok(TrustPolicy {
        cluster_uid: "3f1c7b1e-0000-4000-8000-000000000001".to_owned(),
        revision,
        sets: vec![MeasurementSet::of_registers("good".to_owned(), Platform::QemuVtpm, pcrs)],
        endorsement_roots: roots,
        place: None,
        reattestation_interval_seconds: None,
    })
}

/// What nodes are told about the cluster.
pub fn settings() -> ClusterSettings {
    ClusterSettings {
        name: "test".to_owned(),
        kubernetes_version: "v1.36.3".to_owned(),
        endpoint: "10.77.0.1:6443".to_owned(),
        cert_sans: Vec::new(),
        pod_cidr: "10.244.0.0/16".to_owned(),
        service_cidr: "10.96.0.0/16".to_owned(),
        mesh: true,
        slow: true,
        platform: Platform::QemuVtpm,
    }
}

/// What the bootstrapper writes before it starts the verifier.
fn home(folder: &Path, owner: &SigningKey, control_plane: &ControlPlane) -> Result<()> {
    let (certificate, key) = Identity::issue_verifier_ca(owner)?;
    let launch = launch_config(owner, "cp-0", Role::ControlPlane);
    fs::write(folder.join("disk-secret"), DISK_SECRET)?;
    fs::write(folder.join("cluster-id"), CLUSTER_ID)?;
    fs::write(folder.join("verifier-ca.crt"), certificate)?;
    fs::write(folder.join("verifier-ca.key"), key.as_bytes())?;
    fs::write(folder.join("launch-config.json"), launch.to_bytes())?;
    fs::write(folder.join("cluster.json"), serde_json::to_vec(&settings())?)?;
    fs::write(folder.join("verifier.conf"), control_plane.kubeconfig("verifier"))?;
    fs::write(folder.join("admin.conf"), control_plane.kubeconfig("admin"))?;
    Ok(())
}

fn launch(
    folder: &Path,
    namespace: &str,
    pki: &Path,
    (port, bootstrapper_port): (u16, u16),
    (more, environment): (&[&str], &[(&str, String)]),
) -> Result<Child> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut arguments = vec![
        "serve".to_owned(),
        format!("--listen=127.0.0.1:{port}"),
        format!("--dir={}", folder.display()),
        format!("--pki={}", pki.display()),
        format!("--kubeconfig={}", path("verifier.conf")),
        format!("--admin-kubeconfig={}", path("admin.conf")),
        format!("--namespace={namespace}"),
        "--metrics=127.0.0.1:0".to_owned(),
        format!("--bootstrapper-port={bootstrapper_port}"),
        "--log=json".to_owned(),
    ];
    if more.is_empty() {
        arguments.push("--reattest-seconds=0".to_owned());
    }
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    spawn_in(&program("constellation-verifier")?, &folder.join("verifier.log"), &arguments, environment)
}
