//! The cluster that was made, seen with its administrator's kubeconfig, and its pods.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use constellation_crds::{NodeAdmission, node::Role};
use constellation_tests::{
    capture::{Capture, Packet},
    controlplane::programs::built,
    world::World,
};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions::is_pod_running},
};
use serde_json::json;

/// Stands in what pods say to each other.
const MARKER: &str = "said-by-a-pod-to-a-pod";
/// Port of the mesh (wireguard.com, quick start).
const MESH: u16 = 51820;
/// Discard (RFC 863): nobody listens.
const DISCARD: u16 = 9;
/// The listener's own address in the cluster's network.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// How long a pod may take to start without KVM.
const START: Duration = Duration::from_mins(5);

/// A way in.
pub struct Inside {
    client: Client,
    kubeconfig: PathBuf,
    control_plane: IpAddr,
}

impl Inside {
    /// With the kubeconfig of the cluster's Secret.
    pub async fn open(world: &World) -> Self {
        let secrets: Api<Secret> = Api::namespaced(world.client(), "default");
        let secret = secrets.get(&format!("{}-kubeconfig", world.cluster)).await.unwrap();
        let text = String::from_utf8(secret.data.unwrap().remove("value").unwrap().0).unwrap();
        let kubeconfig = world.dir().join("inside.kubeconfig");
        fs::write(&kubeconfig, &text).unwrap();
        let config = Kubeconfig::from_yaml(&text).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let nodes = world.nodes().await;
        let first = nodes.iter().find(|node| node.spec.role == Role::ControlPlane).unwrap();
        let control_plane = first.status.as_ref().unwrap().address.as_ref().unwrap().parse().unwrap();
        Self { client: config.try_into().unwrap(), kubeconfig, control_plane }
    }

    /// Names of the Kubernetes nodes, in order.
    pub async fn nodes(&self) -> Vec<String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut names: Vec<_> = nodes.list(&ListParams::default()).await.unwrap().iter().map(Node::name_any).collect();
        names.sort();
        names
    }

    /// Starts a pod on each node that answers on port 80, anew.
    pub async fn pods(&self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let gone = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        for name in self.nodes().await {
            let pod = format!("on-{name}");
            let script = format!("echo {MARKER} > /tmp/index.html; exec /bin/busybox httpd -f -p 80 -h /tmp");
            let body = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
                "spec": {
                    "nodeName": name, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                    "hostPID": true,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "web", "image": "constellation.dev/busybox:1", "imagePullPolicy": "Never",
                        "securityContext": {"privileged": true},
                        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                        "command": ["/bin/busybox", "sh", "-c", script]
                    }],
                    // On the encrypted disk, and in nothing that a member makes anew.
                    "volumes": [{"name": "state", "hostPath": {"path": "/var/lib/kubelet"}}]
                }
            });
            pods.delete(&pod, &gone).await.ok();
            pods.patch(&pod, &PatchParams::apply("tests"), &Patch::Apply(body)).await.unwrap();
            let running = await_condition(pods.clone(), &pod, is_pod_running());
            tokio::time::timeout(START, running).await.unwrap_or_else(|_| panic!("{pod} did not start")).unwrap();
        }
    }

    /// Boot IDs of the Kubernetes nodes by name, for those that are ready.
    pub async fn boots(&self) -> BTreeMap<String, String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        // While its only API server restarts there is no answer.
        let Ok(list) = nodes.list(&ListParams::default()).await else { return BTreeMap::new() };
        list.iter()
            .filter_map(|node| {
                let status = node.status.as_ref()?;
                let mut conditions = status.conditions.iter().flatten();
                conditions.any(|c| c.type_ == "Ready" && c.status == "True").then_some(())?;
                Some((node.name_any(), status.node_info.as_ref()?.boot_id.clone()))
            })
            .collect()
    }

    /// What a node's kernel says of its state disk: whether sectors pass dm-integrity below dm-crypt.
    pub fn authenticates(&self, node: &str) -> bool {
        let output = self.inside(&format!("on-{node}"), "cat /sys/block/dm-*/dm/name");
        assert!(output.lines().any(|name| name == "state"), "{output}");
        output.lines().any(|name| name == "state_dif")
    }

    /// Leaves a word on a node's disk; gives the one that lay there.
    pub fn marks(&self, node: &str, word: &str) -> String {
        let script = format!("cat /state/marked; echo -n {word} > /state/marked; sync");
        self.inside(&format!("on-{node}"), &script)
    }

    /// Command line and environment of every process of a node.
    pub fn processes(&self, node: &str) -> String {
        self.inside(&format!("on-{node}"), "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ")
    }

    /// A client of the cluster's administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether the pods of the first and the last node reach each other again before the time is over.
    pub async fn exchange_again(&self) {
        let end = tokio::time::Instant::now() + START;
        while !self.exchange().await {
            assert!(tokio::time::Instant::now() < end, "the pods don't reach each other");
        }
    }

    /// Whether a pod of the first node gets the page of the last node's pod, and back.
    async fn exchange(&self) -> bool {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let list = pods.list(&ListParams::default()).await.unwrap().items;
        let (one, other) = (list.first().unwrap(), list.last().unwrap());
        assert_ne!(one.spec.as_ref().unwrap().node_name, other.spec.as_ref().unwrap().node_name);
        self.asks(one, other) && self.asks(other, one)
    }

    fn asks(&self, from: &Pod, to: &Pod) -> bool {
        // A pod whose node was restarted has no address for a moment.
        let Some(address) = to.status.as_ref().and_then(|status| status.pod_ip.clone()) else { return false };
        let ask = format!("printf 'GET /?{MARKER} HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 10 {address} 80");
        self.inside(&from.name_any(), &ask).contains(MARKER)
    }

    /// What a shell in a pod prints.
    fn inside(&self, pod: &str, script: &str) -> String {
        let output = Command::new(built(&["kubectl"]).unwrap().join("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["exec", pod, "--", "/bin/busybox", "sh", "-c", script])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Admitted nodes' pods reach each other, and a host that listens sees the mesh's packets and nothing of theirs.
    pub async fn crosses_only_encrypted(&self, local: &Path) {
        let capture = self.listen(local);
        assert!(self.exchange().await, "the pods don't reach each other");
        let packets = capture.end().unwrap();
        assert!(packets.iter().any(|p| p.protocol == 17 && p.port == MESH), "the pods didn't use the mesh");
        in_clear(&packets);
    }

    /// An evicted node's pods neither reach nor are reached, and nothing of what is tried is seen in clear.
    pub async fn evicted_is_cut_off(&self, local: &Path) {
        let admissions: Api<NodeAdmission> = Api::namespaced(self.client.clone(), "kube-system");
        let list = admissions.list(&ListParams::default()).await.unwrap().items;
        let worker = list.iter().find(|a| a.spec.role == Role::Worker).unwrap();
        let patch = Patch::Merge(json!({"spec": {"evicted": true}}));
        admissions.patch(&worker.name_any(), &PatchParams::default(), &patch).await.unwrap();
        let end = tokio::time::Instant::now() + START;
        while self.exchange().await {
            assert!(tokio::time::Instant::now() < end, "the evicted node stays in the mesh");
        }
        let capture = self.listen(local);
        assert!(!self.exchange().await, "the evicted node came back");
        in_clear(&capture.end().unwrap());
    }

    fn listen(&self, local: &Path) -> Capture {
        let mut clusters = fs::read_dir(local).unwrap().map(|entry| entry.unwrap().path());
        let folder = clusters.find(|path| path.join("supervisor.pid").exists()).unwrap();
        let control = SocketAddr::new(self.control_plane, DISCARD);
        Capture::begin(&folder, MARKER.as_bytes(), control).unwrap()
    }
}

/// The listener's own packet is seen, so it does listen; of the pods no address and no word passes between nodes.
fn in_clear(packets: &[Packet]) {
    assert!(packets.iter().any(|p| p.port == DISCARD && p.marked), "the capture sees nothing");
    let host = |p: &Packet| [p.source, p.destination].contains(&HOST);
    let pods = |address: Ipv4Addr| address.octets()[..2] == [10, 244];
    let leaks: Vec<_> =
        packets.iter().filter(|p| pods(p.source) || pods(p.destination) || p.marked && !host(p)).collect();
    assert!(leaks.is_empty(), "pod traffic in clear: {leaks:?}");
}
