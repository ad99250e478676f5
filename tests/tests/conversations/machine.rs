//! A machine of the host: the node's agent with its software TPM, and what kubeadm and systemd would start beside it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Child,
};

use anyhow::Result;
use constellation_attestation::{
    appraise::{pcr15_after_join, pcr15_before_join},
    channel::Identity,
    protocol::NodeSettings,
};
use constellation_crds::{LABEL_ROLE, NodeAdmission};
use constellation_tests::{
    agent::Agent,
    kubeadm::ControlPlane,
    operator::program,
    process::{free_port, spawn_in},
    swtpm::Swtpm,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

const HOME: &str = "etc/kubernetes/constellation";
/// Written once, when the node is a member.
const MEMBER: &str = "etc/kubernetes/constellation/member";
/// Written at each boot, right before the kubelet is started; no disk keeps it.
const STARTED: &str = "etc/cni/net.d/10-constellation.conflist";

/// A machine that runs.
pub struct Machine {
    /// Name of its node.
    pub name: String,
    /// How often its power was cut.
    pub cuts: u32,
    agent: Agent,
    launch: Vec<u8>,
    uid: String,
    /// Where its verifier serves.
    port: u16,
    /// Where others' verifiers are.
    peers: Vec<SocketAddr>,
    verifier: Option<Child>,
    registered: bool,
}

impl Machine {
    /// Boots one; its agent serves at `address`, and verifiers may be at `peers`.
    pub async fn boot(
        (uid, name): (&str, &str),
        address: SocketAddr,
        launch: Vec<u8>,
        tpm: Swtpm,
        plane: &ControlPlane,
        peers: &[SocketAddr],
    ) -> Result<Self> {
        let agent = Agent::start_with(tpm, launch.clone(), address, plane.admin(), peers).await?;
        let (name, uid, port) = (name.to_owned(), uid.to_owned(), free_port()?);
        let peers = peers.to_vec();
        Ok(Self { name, cuts: 0, agent, launch, uid, port, peers, verifier: None, registered: false })
    }

    /// Where its agent serves.
    pub fn address(&self) -> SocketAddr {
        self.agent.address
    }

    /// Where its verifier serves, if it has one.
    pub fn verifier(&self) -> Option<SocketAddr> {
        self.verifier.is_some().then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    /// Cuts its power and switches it on again.
    pub async fn cut_power(&mut self) -> Result<()> {
        self.end_verifier();
        (self.cuts, self.registered) = (self.cuts + 1, false);
        self.agent.power_cut()?;
        self.agent.boot(&self.peers).await
    }

    /// Whether its API server runs: it is a member, and its kubelet was started since it has power.
    pub fn serves(&self) -> bool {
        [MEMBER, STARTED].iter().all(|file| self.agent.path(file).exists())
    }

    /// Does what kubelet and systemd do on a machine that serves.
    pub async fn tend(&mut self, plane: &ControlPlane, client: &Client) -> Result<()> {
        let ended = |verifier: &mut Child| !matches!(verifier.try_wait(), Ok(None));
        // A verifier that finds no admission of its own node looks again 15 s later, for which nobody here has the time.
        let admissions: Api<NodeAdmission> = Api::namespaced(client.clone(), "kube-system");
        if self.verifier.as_mut().is_none_or(ended) {
            match admissions.get(&self.uid).await {
                Ok(_) => self.verifier = Some(self.start_verifier(plane)?),
                // Nor is there the kind, before the operator installs it.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.registered {
            self.register(client).await?;
            self.registered = true;
        }
        Ok(())
    }

    /// What it keeps on its disk of what it was granted: the disk secret and the cluster's identity.
    pub fn granted(&self) -> Result<[Vec<u8>; 2]> {
        let read = |file: &str| self.agent.read(&format!("{HOME}/{file}"));
        Ok([read("disk-secret")?, read("cluster-id")?])
    }

    /// Whether it proves to be a member of this cluster.
    pub async fn is_member(&self, owner: &Identity, cluster_id: &[u8]) -> Result<bool> {
        let member = pcr15_after_join(&pcr15_before_join(&self.launch), cluster_id).sha256;
        Ok(self.agent.pcr15(owner).await? == member)
    }

    fn ip(&self) -> IpAddr {
        self.agent.address.ip()
    }

    fn start_verifier(&self, plane: &ControlPlane) -> Result<Child> {
        let path = |file: &str| self.agent.path(file).display().to_string();
        let arguments = [
            "serve".to_owned(),
            format!("--listen=127.0.0.1:{}", self.port),
            format!("--dir={}", path(HOME)),
            format!("--pki={}", plane.pki().display()),
            format!("--kubeconfig={}", path(&format!("{HOME}/verifier.conf"))),
            format!("--admin-kubeconfig={}", path("etc/kubernetes/admin.conf")),
            "--metrics=127.0.0.1:0".to_owned(),
            "--reattest-seconds=0".to_owned(),
            format!("--bootstrapper-port={}", self.agent.address.port()),
            format!("--own-address={}", self.ip()),
        ];
        spawn_in(&program("constellation-verifier")?, &self.agent.path("verifier.log"), &arguments, &[])
    }

    fn end_verifier(&mut self) {
        if let Some(mut verifier) = self.verifier.take() {
            let _ = verifier.kill();
            let _ = verifier.wait();
        }
    }

    /// As its kubelet does, and kubeadm when all else is done.
    async fn register(&self, client: &Client) -> Result<()> {
        let settings: NodeSettings = serde_json::from_slice(&self.agent.read(&format!("{HOME}/node.json"))?)?;
        let mut labels: BTreeMap<_, _> = settings.labels;
        if labels.get(LABEL_ROLE).is_some_and(|role| role == "control-plane") {
            labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
        }
        let (nodes, params): (Api<Node>, _) = (Api::all(client.clone()), PatchParams::apply("kubelet").force());
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": settings.node_name, "labels": labels},
            "spec": {"providerID": settings.provider_id},
        });
        nodes.patch(&settings.node_name, &params, &Patch::Apply(&node)).await?;
        let status = json!({
            "apiVersion": "v1", "kind": "Node", "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        nodes.patch_status(&settings.node_name, &params, &Patch::Apply(&status)).await?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end_verifier();
    }
}
