//! Real VMs: a measured control plane that its owner initialises, a worker that the verifier admits, and a VM with one
//! byte of its command line changed that it refuses. Needs an image: `CONSTELLATION_IMAGE` names the builder's folder.

#![allow(clippy::unwrap_used, clippy::too_many_lines, clippy::print_stderr)]

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    appraise::{Presented, appraise, pcr15_after_join, pcr15_before_join},
    binding::VerifierRole,
    channel::{self, Identity},
    dsse, keys,
    owner::{SigningKey, fingerprint, spki_from_pem},
    policy::{MANIFEST_TYPE, MeasurementManifest, TRUST_POLICY_TYPE, TrustPolicy},
    protocol::{BOOTSTRAPPER_PORT, ClusterSettings, InitRequest, LaunchConfig, NodeSettings, Progress, Purpose, Role},
    session,
};
use constellation_crds::{
    NodeAdmission, NodeAdmissionSpec, TrustBundle, TrustBundleSpec, cluster::DiskIntegrity, definition, node,
};
use constellation_operator::cloud::{
    Cloud, ClusterUid, Instance, LaunchRequest, Network, NetworkRequest, NodeUid,
    local::{LocalCloud, leaks},
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::DynamicObject,
    discovery::ApiResource,
};
use sha2::{Digest, Sha256};

const CLUSTER: &str = "0b9f3c1e-2222-4a4a-8888-000000000002";
const POLICY_REVISION: u64 = 1;

/// What the owner holds.
struct Owner {
    key: SigningKey,
    master: [u8; 32],
    policy: TrustPolicy,
    cloud: LocalCloud,
    network: Network,
    start: Instant,
}

/// One node as the owner wants it.
struct Wanted {
    name: &'static str,
    index: u32,
    role: Role,
    size: &'static str,
}

impl Wanted {
    fn uid(&self) -> String {
        format!("0b9f3c1e-3333-4a4a-8888-00000000000{}", self.index)
    }
}

impl Owner {
    fn say(&self, what: &str) {
        eprintln!("[{:4} s] {what}", self.start.elapsed().as_secs());
    }

    fn launch_config(&self, node: &Wanted) -> Vec<u8> {
        LaunchConfig {
            cluster_uid: CLUSTER.into(),
            node_uid: node.uid(),
            node_name: node.name.into(),
            role: node.role,
            owner_public_key: STANDARD.encode(self.key.public_spki()),
        }
        .to_bytes()
    }

    async fn launch(&self, node: &Wanted, image: &std::path::Path) -> Instance {
        self.say(&format!("launching {}", node.name));
        let request = LaunchRequest {
            cluster: ClusterUid(CLUSTER.into()),
            node: NodeUid(node.uid()),
            name: node.name.into(),
            control_plane: node.role == Role::ControlPlane,
            image: image.to_str().unwrap().into(),
            instance_type: node.size.into(),
            zone: None,
            state_disk_bytes: 8 << 30,
            index: node.index,
            launch_config: self.launch_config(node),
        };
        self.cloud.launch(&request).await.unwrap()
    }

    fn node_settings(&self, node: &Wanted, id: &str) -> NodeSettings {
        NodeSettings {
            node_name: node.name.into(),
            provider_id: id.into(),
            pod_cidr: format!("10.244.{}.0/24", node.index),
            labels: [("constellation.dev/node-group".to_owned(), "test".to_owned())].into(),
            taints: vec![],
            disk_integrity: false,
        }
    }

    /// Init over attested TLS; gives the kubeconfig.
    async fn init(&self, node: &Wanted, instance: &Instance) -> String {
        let cluster = ClusterUid(CLUSTER.into());
        let address = SocketAddr::new(instance.address.unwrap(), BOOTSTRAPPER_PORT);
        let identity = Identity::owner_client(&self.key).unwrap();
        let deadline = Instant::now() + Duration::from_mins(5);
        let mut channel = loop {
            let attempt = async {
                let stream = self.cloud.dial(&cluster, address).await.map_err(|e| e.to_string())?;
                channel::verifier_connect(stream, &identity).await.map_err(|e| e.to_string())
            };
            match attempt.await {
                Ok(channel) => break channel,
                Err(e) => assert!(Instant::now() < deadline, "the bootstrapper doesn't answer: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        self.say("the bootstrapper answers");
        let hello = session::ask(&mut channel, Purpose::Init).await.unwrap();
        let proof = session::challenge(&mut channel, hello, VerifierRole::Owner, POLICY_REVISION).await.unwrap();
        let before = pcr15_before_join(&self.launch_config(node));
        let cluster_id = keys::derive(&self.master, keys::CLUSTER_ID).to_vec();
        let presented = |pcr15| {
            appraise(
                &Presented {
                    hello: &proof.hello,
                    evidence: &proof.evidence,
                    binding: &proof.binding,
                    credential_secret: &proof.credential_secret,
                    platform: self.cloud.platform().parse().unwrap(),
                    expected_pcr15: pcr15,
                },
                &self.policy,
                jiff::Timestamp::now(),
            )
        };
        let verdict = presented(&before);
        assert!(verdict.accepted, "{:#?}", verdict.mismatches);
        let late = presented(&pcr15_after_join(&before, &cluster_id));
        assert_eq!(late.mismatches.iter().map(|m| m.clause.as_str()).collect::<Vec<_>>(), ["tpm.pcr.15"]);
        self.say("the owner accepted the first node's evidence: what it quotes is what the builder predicted");
        let (verifier_ca_certificate, verifier_ca_key) = Identity::issue_verifier_ca(&self.key).unwrap();
        let disk_secret = keys::derive(&self.master, keys::DISK_SECRET);
        let request = InitRequest {
            disk_key: keys::disk_key(disk_secret.as_slice(), &node.uid()).to_vec(),
            disk_secret: disk_secret.to_vec(),
            cluster_id,
            verifier_ca_certificate,
            verifier_ca_key: verifier_ca_key.to_string(),
            node: self.node_settings(node, &instance.id.0),
            cluster: ClusterSettings {
                name: "vm".into(),
                kubernetes_version: "v1.36.3".into(),
                endpoint: self.network.endpoint.clone(),
                cert_sans: self.network.cert_sans.clone(),
                pod_cidr: "10.244.0.0/16".into(),
                service_cidr: "10.96.0.0/16".into(),
                mesh: true,
            },
        };
        session::grant(&mut channel, &proof, &request).await.unwrap();
        loop {
            match channel.receive_within(Duration::from_mins(15)).await.unwrap() {
                Progress::Phase { name } => self.say(&format!("phase {name}")),
                Progress::Line { text } => self.say(&format!("  {text}")),
                Progress::Done { kubeconfig } => return kubeconfig,
                Progress::Failed { message } => panic!("init failed: {message}"),
            }
        }
    }

    async fn client(&self, kubeconfig: &str) -> Client {
        let mut config = Kubeconfig::from_yaml(kubeconfig).unwrap();
        for cluster in &mut config.clusters {
            cluster.cluster.as_mut().unwrap().server = Some(self.network.external_url.clone());
        }
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// Custom resources, rights, the signed policy.
    async fn install(&self, client: &Client) {
        let params = PatchParams::apply("test").force();
        for crd in definition::workload() {
            let api: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
                Api::all(client.clone());
            let name = crd.metadata.name.clone().unwrap();
            api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
            let established = kube::runtime::conditions::is_crd_established();
            kube::runtime::wait::await_condition(api, &name, established).await.unwrap();
        }
        let rules = [
            (
                "constellation:mesh",
                "Group",
                "system:nodes",
                serde_json::json!([
                {"apiGroups": ["constellation.dev"], "resources": ["nodeadmissions"], "verbs": ["get", "list", "watch"]}]),
            ),
            (
                "constellation:verifier",
                "User",
                "constellation:verifier",
                serde_json::json!([
                {"apiGroups": ["constellation.dev"], "resources": ["nodeadmissions"], "verbs": ["get", "list"]},
                {"apiGroups": ["constellation.dev"], "resources": ["nodeadmissions/status"], "verbs": ["update"]},
                {"apiGroups": ["constellation.dev"], "resources": ["trustbundles"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kubelet-config"], "verbs": ["get"]}]),
            ),
        ];
        for (name, kind, subject, rules) in rules {
            let group = "rbac.authorization.k8s.io";
            for (what, body) in [
                ("ClusterRole", serde_json::json!({"rules": rules})),
                (
                    "ClusterRoleBinding",
                    serde_json::json!({
                    "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
                    "subjects": [{"apiGroup": group, "kind": kind, "name": subject}]}),
                ),
            ] {
                let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, "v1", what));
                let mut object = DynamicObject::new(name, &resource);
                object.data = body;
                let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                api.patch(name, &params, &Patch::Apply(&object)).await.unwrap();
            }
        }
        let envelope = dsse::sign(TRUST_POLICY_TYPE, &serde_json::to_vec(&self.policy).unwrap(), &self.key);
        let bundle = TrustBundle::new("constellation", TrustBundleSpec { envelope });
        let api: Api<TrustBundle> = Api::namespaced(client.clone(), "kube-system");
        api.create(&PostParams::default(), &bundle).await.unwrap();
    }

    async fn admit(&self, client: &Client, node: &Wanted, id: &str) {
        let role = if node.role == Role::Worker { node::Role::Worker } else { node::Role::ControlPlane };
        let admission = NodeAdmission::new(
            &node.uid(),
            NodeAdmissionSpec {
                node_uid: node.uid(),
                node_name: node.name.into(),
                role,
                launch_config_digest: hex::encode(Sha256::digest(self.launch_config(node))),
                pod_cidr: format!("10.244.{}.0/24", node.index),
                provider_id: id.into(),
                labels: self.node_settings(node, id).labels,
                taints: vec![],
                disk_integrity: DiskIntegrity::None,
                evicted: None,
            },
        );
        let api: Api<NodeAdmission> = Api::namespaced(client.clone(), "kube-system");
        api.create(&PostParams::default(), &admission).await.unwrap();
    }
}

async fn eventually<T>(owner: &Owner, what: &str, limit: Duration, mut seen: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = seen().await {
            owner.say(what);
            return found;
        }
        if Instant::now() > deadline {
            for instance in owner.cloud.find(&ClusterUid(CLUSTER.into())).await.unwrap_or_default() {
                let console = owner.cloud.console(&ClusterUid(CLUSTER.into()), &instance.id).unwrap_or_default();
                let lines: Vec<_> = console.lines().collect();
                eprintln!("--- {:?}\n{}", instance, lines[lines.len().saturating_sub(60)..].join("\n"));
            }
            panic!("{what}: did not happen in {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measured_control_plane_admits_a_worker_and_refuses_a_changed_command_line() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let folder =
        PathBuf::from(std::env::var("CONSTELLATION_IMAGE").expect("CONSTELLATION_IMAGE names the builder's folder"));
    let tampered = folder.join("tampered.raw");
    let publisher = spki_from_pem(&std::fs::read_to_string(folder.join("publisher.pub.pem")).unwrap()).unwrap();
    let envelope = std::fs::read_to_string(folder.join("manifest.dsse.json")).unwrap();
    let manifest: MeasurementManifest =
        serde_json::from_slice(&dsse::verify(&envelope, MANIFEST_TYPE, &publisher).unwrap()).unwrap();
    manifest.validate().unwrap();

    let state = std::env::temp_dir().join(format!("constellation-vm-{}", std::process::id()));
    std::fs::create_dir_all(&state).unwrap();
    let cloud = LocalCloud::new(state.clone()).with_executable(env!("CARGO_BIN_EXE_constellation-operator").into());
    let uid = ClusterUid(CLUSTER.into());
    let request = NetworkRequest { cluster: uid.clone(), name: "vm".into(), node_cidr: "10.77.0.0/24".into() };
    let network = cloud.ensure_network(&request).await.unwrap();
    let policy = TrustPolicy {
        cluster_uid: CLUSTER.into(),
        revision: POLICY_REVISION,
        sets: manifest.sets,
        endorsement_roots: cloud.endorsement_roots(&uid).await.unwrap(),
    };
    let mut master = [0; 32];
    aws_lc_rs::rand::fill(&mut master).unwrap();
    let owner = Owner { key: SigningKey::generate().unwrap(), master, policy, cloud, network, start: Instant::now() };
    owner.say(&format!("owner {}", fingerprint(&owner.key.public_spki())));

    let first = Wanted { name: "vm-cp-1", index: 1, role: Role::ControlPlane, size: "2x2560" };
    let instance = owner.launch(&first, &folder.join("image.raw")).await;
    owner.cloud.set_endpoint_targets(&uid, std::slice::from_ref(&instance.id)).await.unwrap();
    let kubeconfig = owner.init(&first, &instance).await;
    owner.say("Kubernetes is initialised");
    let client = owner.client(&kubeconfig).await;
    owner.install(&client).await;
    owner.admit(&client, &first, &instance.id.0).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let admissions: Api<NodeAdmission> = Api::namespaced(client.clone(), "kube-system");
    let ready = async |name: &str| nodes.get_opt(name).await.ok().flatten().filter(is_ready);
    eventually(&owner, "the control-plane node is Ready", Duration::from_mins(8), async || ready("vm-cp-1").await)
        .await;

    let worker = Wanted { name: "vm-w-2", index: 2, role: Role::Worker, size: "2x1280" };
    let id = format!("local://{CLUSTER}/{}", worker.uid());
    owner.admit(&client, &worker, &id).await;
    let launched = owner.launch(&worker, &folder.join("image.raw")).await;
    assert_eq!(launched.id.0, id);
    eventually(&owner, "the worker is admitted", Duration::from_mins(4), async || {
        admissions.get_status(&worker.uid()).await.ok()?.status?.admission
    })
    .await;
    let node = eventually(&owner, "the worker is Ready", Duration::from_mins(8), async || ready("vm-w-2").await).await;
    assert_eq!(node.spec.unwrap().provider_id.unwrap(), id);

    let changed = Wanted { name: "vm-w-3", index: 3, role: Role::Worker, size: "2x1024" };
    owner.admit(&client, &changed, &format!("local://{CLUSTER}/{}", changed.uid())).await;
    owner.launch(&changed, &tampered).await;
    let refusal = eventually(&owner, "the changed VM is refused", Duration::from_mins(4), async || {
        admissions.get_status(&changed.uid()).await.ok()?.status?.last_appraisal
    })
    .await;
    assert_eq!(refusal.verdict, "Refused");
    for mismatch in &refusal.mismatches {
        owner.say(&format!(
            "  {}: expected {:?}, actual {:?}: {}",
            mismatch.clause, mismatch.expected, mismatch.actual, mismatch.message
        ));
    }
    let clauses: Vec<_> = refusal.mismatches.iter().map(|m| m.clause.as_str()).collect();
    assert!(clauses.contains(&"tpm.pcr.4") && clauses.contains(&"tpm.pcr.11"), "{clauses:?}");
    assert!(admissions.get_status(&changed.uid()).await.unwrap().status.unwrap().admission.is_none());

    for instance in owner.cloud.find(&uid).await.unwrap() {
        while owner.cloud.terminate(&uid, &instance.id).await.is_ok() {}
    }
    while owner.cloud.remove_network(&uid).await.is_ok() {}
    assert_eq!(leaks(&state), Vec::<String>::new());
    std::fs::remove_dir_all(&state).unwrap();
    owner.say("nothing is left");
}
