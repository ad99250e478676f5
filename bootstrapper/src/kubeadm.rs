//! What kubeadm, the kubelet, the container network and kubectl read: plain text made from what was granted. Pure.

use std::fmt::Write as _;

use constellation_attestation::protocol::{ClusterSettings, KUBELET_LIFE, NodeSettings};
use serde_json::json;

use crate::network::MTU;

const SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// Components whose probes are slower than kubeadm's: without KVM an API server needs minutes to start
/// (measured: answers after 95 s, ready after 138 s).
const COMPONENTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// kubeadm's patches: file name and contents. Only slow machines need any; an empty one keeps the folder.
#[must_use]
pub fn patches(cluster: &ClusterSettings) -> Vec<(String, String)> {
    if !cluster.slow {
        return vec![("etcd+strategic.yaml".into(), "{}\n".into())];
    }
    COMPONENTS
        .iter()
        .map(|name| {
            let readiness = if *name == "kube-controller-manager" {
                ""
            } else {
                "    readinessProbe: {periodSeconds: 30, timeoutSeconds: 30}\n"
            };
            let text = format!(
                "spec:\n  containers:\n  - name: {name}\n{readiness}    \
                 startupProbe: {{periodSeconds: 5, failureThreshold: 240, timeoutSeconds: 30}}\n    \
                 livenessProbe: {{periodSeconds: 30, failureThreshold: 10, timeoutSeconds: 30}}\n"
            );
            (format!("{name}+strategic.yaml"), text)
        })
        .collect()
}

/// `kubeadm init --config`: no bootstrap token, no uploaded certificates, no pod subnet (the pod network is ours).
#[must_use]
pub fn init_config(node: &NodeSettings, cluster: &ClusterSettings, address: &str, patches: &str) -> String {
    let init = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": address, "bindPort": 6443},
        "nodeRegistration": registration(node, address),
        "patches": {"directory": patches},
        "timeouts": timeouts(),
    });
    documents(&[init, cluster_config(cluster), kubelet_config(cluster), proxy_config()])
}

/// `kubeadm join --config` of a control-plane node; discovery is by the administrator's kubeconfig of the ticket.
#[must_use]
pub fn join_config(
    node: &NodeSettings,
    cluster: &ClusterSettings,
    address: &str,
    patches: &str,
    discovery: &str,
) -> String {
    let join = json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {"file": {"kubeConfigPath": discovery}},
        "controlPlane": {"localAPIEndpoint": {"advertiseAddress": address, "bindPort": 6443}},
        "nodeRegistration": registration(node, address),
        "patches": {"directory": patches},
        "timeouts": timeouts(),
    });
    documents(&[join, cluster_config(cluster)])
}

/// Flags of a worker's kubelet, as its unit reads them.
#[must_use]
pub fn kubelet_flags(node: &NodeSettings, address: &str) -> String {
    let mut flags = format!(
        "--container-runtime-endpoint={SOCKET} --hostname-override={} --node-ip={address} --provider-id={}",
        node.node_name, node.provider_id
    );
    if !node.labels.is_empty() {
        let _ = write!(flags, " --node-labels={}", labels(node));
    }
    if !node.taints.is_empty() {
        let _ = write!(flags, " --register-with-taints={}", node.taints.join(","));
    }
    format!("KUBELET_KUBEADM_ARGS=\"{flags}\"\n")
}

/// The kubelet's kubeconfig.
#[must_use]
pub fn kubelet_kubeconfig(cluster: &ClusterSettings, ca: &str, credential: &str, node: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": {"certificate-authority": ca, "server": format!("https://{}", cluster.endpoint)}}],
        "users": [{"name": format!("system:node:{node}"), "user": {"client-certificate": credential, "client-key": credential}}],
        "contexts": [{"name": "default", "context": {"cluster": cluster.name, "user": format!("system:node:{node}")}}],
        "current-context": "default",
    });
    documents(&[config])
}

/// The container network of one node: a bridge over the node's part of the pod network.
#[must_use]
pub fn cni_config(node: &NodeSettings) -> String {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "constellation",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": MTU,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pod_cidr}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    config.to_string()
}

fn registration(node: &NodeSettings, address: &str) -> serde_json::Value {
    let mut extra =
        vec![json!({"name": "node-ip", "value": address}), json!({"name": "provider-id", "value": node.provider_id})];
    if !node.labels.is_empty() {
        extra.push(json!({"name": "node-labels", "value": labels(node)}));
    }
    json!({
        "name": node.node_name,
        "criSocket": SOCKET,
        "imagePullPolicy": "IfNotPresent",
        // The image is measured and the disk is ours; what kubeadm would find is what an interrupted run left.
        "ignorePreflightErrors": ["all"],
        "kubeletExtraArgs": extra,
    })
}

fn labels(node: &NodeSettings) -> String {
    node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// kubeadm's own limits (1 to 4 minutes) expire without KVM.
fn timeouts() -> serde_json::Value {
    json!({
        "controlPlaneComponentHealthCheck": "10m0s",
        "kubeletHealthCheck": "10m0s",
        "kubernetesAPICall": "5m0s",
        "etcdAPICall": "5m0s",
        "tlsBootstrap": "10m0s",
        "discovery": "10m0s",
    })
}

fn cluster_config(cluster: &ClusterSettings) -> serde_json::Value {
    // What follows is measured for slow machines; the others keep Kubernetes' own settings.
    let env = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().filter(|_| cluster.slow);
        pairs.map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()
    };
    let one_thread = env(&[("GOMAXPROCS", "1"), ("GOGC", "400")]);
    let leases = env(&[
        ("leader-elect-lease-duration", "60s"),
        ("leader-elect-renew-deadline", "40s"),
        ("leader-elect-retry-period", "10s"),
    ]);
    // Of whatever kube-controller-manager signs: kubelets' renewed certificates, above all.
    let signing = format!("{}h", KUBELET_LIFE.as_secs() / 3600);
    let controllers = [vec![json!({"name": "cluster-signing-duration", "value": signing})], leases.clone()].concat();
    json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "clusterName": cluster.name,
        "kubernetesVersion": cluster.kubernetes_version,
        "controlPlaneEndpoint": cluster.endpoint,
        "encryptionAlgorithm": "ECDSA-P256",
        // kubeadm's own, as long as its CAs: nobody renews what is in a cluster's Secret, or on a node that isn't rolled for a year.
        "certificateValidityPeriod": "87600h",
        "networking": {"serviceSubnet": cluster.service_cidr},
        "apiServer": {
            "certSANs": cluster.cert_sans,
            "extraArgs": env(&[("etcd-count-metric-poll-period", "0"), ("etcd-db-metric-poll-interval", "0")]),
            "extraEnvs": env(&[("GOGC", "400")]),
        },
        "controllerManager": {"extraArgs": controllers, "extraEnvs": one_thread},
        "scheduler": {"extraArgs": leases, "extraEnvs": one_thread},
        "etcd": {"local": {
            "extraArgs": env(&[("heartbeat-interval", "1000"), ("election-timeout", "10000"), ("watch-progress-notify-interval", "10m")]),
            "extraEnvs": one_thread,
        }},
    })
}

fn kubelet_config(cluster: &ClusterSettings) -> serde_json::Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "fileCheckFrequency": "5s",
        // The images that came with the node are in no registry: one that is collected is lost. So none is collected,
        // also of those that users' pods pulled.
        "imageGCHighThresholdPercent": 100,
    });
    if cluster.slow {
        config["nodeLeaseDurationSeconds"] = json!(120);
        config["nodeStatusUpdateFrequency"] = json!("60s");
        config["volumeStatsAggPeriod"] = json!("-1s");
        config["evictionHard"] = json!({"memory.available": "50Mi"});
    }
    config
}

fn proxy_config() -> serde_json::Value {
    json!({"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables"})
}

/// JSON is YAML; one document per line.
fn documents(list: &[serde_json::Value]) -> String {
    list.iter().fold(String::new(), |mut text, document| {
        let _ = writeln!(text, "---\n{document}");
        text
    })
}

#[cfg(test)]
mod tests {
    use constellation_attestation::platform::Platform;

    use super::*;

    pub(crate) fn node() -> NodeSettings {
        NodeSettings {
            node_name: "demo-cp-1".into(),
            provider_id: "local://c/n".into(),
            pod_cidr: "10.244.1.0/24".into(),
            labels: [("constellation.dev/role".to_owned(), "worker".to_owned())].into(),
            taints: vec!["a=b:NoSchedule".into()],
            disk_integrity: false,
        }
    }

    pub(crate) fn cluster() -> ClusterSettings {
        ClusterSettings {
            name: "demo".into(),
            kubernetes_version: "v1.36.3".into(),
            endpoint: "10.77.0.1:6443".into(),
            cert_sans: vec!["127.0.0.1".into()],
            pod_cidr: "10.244.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            mesh: true,
            slow: true,
            platform: Platform::QemuVtpm,
        }
    }

    #[test]
    fn kubeadm_is_told_of_no_token_and_no_pod_subnet() {
        let text = init_config(&node(), &cluster(), "10.77.0.11", "/p");
        for document in text.split("---\n").filter(|d| !d.is_empty()) {
            serde_yaml::from_str::<serde_yaml::Value>(document).unwrap();
        }
        assert!(text.contains(r#""controlPlaneEndpoint":"10.77.0.1:6443""#));
        for absent in ["token", "certificateKey", "podSubnet"] {
            assert!(!text.contains(absent), "{absent}");
        }
        let join = join_config(&node(), &cluster(), "10.77.0.12", "/p", "/d");
        assert!(join.contains(r#""kubeConfigPath":"/d""#) && !join.contains("token"));
    }

    #[test]
    fn certificates_of_a_cluster_live_as_long_as_kubeadms_authorities() {
        let text = init_config(&node(), &cluster(), "10.77.0.11", "/p");
        let documents = text.split("---\n").filter(|document| !document.is_empty());
        let documents = documents.map(|document| serde_json::from_str::<serde_json::Value>(document).unwrap());
        let lives: Vec<_> = documents
            .filter(|document| document["kind"] == "ClusterConfiguration")
            .map(|document| document["certificateValidityPeriod"].clone())
            .collect();
        assert_eq!(lives, [json!(format!("{}h", 10 * 365 * 24))]);
    }

    #[test]
    fn what_the_controller_manager_signs_lives_a_week_on_every_machine() {
        for slow in [false, true] {
            let text = init_config(&node(), &ClusterSettings { slow, ..cluster() }, "10.77.0.11", "/p");
            let documents = text.split("---\n").filter(|document| !document.is_empty());
            let documents = documents.map(|document| serde_json::from_str::<serde_json::Value>(document).unwrap());
            let arguments =
                documents.filter_map(|document| document["controllerManager"]["extraArgs"].as_array().cloned());
            let arguments: Vec<_> = arguments.flatten().collect();
            assert!(arguments.contains(&json!({"name": "cluster-signing-duration", "value": "168h"})), "{arguments:?}");
        }
    }

    #[test]
    fn only_slow_machines_get_other_time_limits_than_kubernetes_own() {
        let fast = ClusterSettings { slow: false, ..cluster() };
        let told = |cluster: &ClusterSettings| init_config(&node(), cluster, "10.77.0.11", "/p");
        for setting in ["leader-elect", "election-timeout", "GOMAXPROCS", "nodeLeaseDurationSeconds", "evictionHard"] {
            assert!(told(&cluster()).contains(setting) && !told(&fast).contains(setting), "{setting}");
        }
        assert!(patches(&cluster()).len() == 4 && patches(&fast)[0].1 == "{}\n");
    }

    #[test]
    fn a_workers_flags_name_it_as_it_was_admitted() {
        let flags = kubelet_flags(&node(), "10.77.0.12");
        assert!(flags.contains("--hostname-override=demo-cp-1 ") && flags.contains("--provider-id=local://c/n "));
        assert!(flags.contains("--node-labels=constellation.dev/role=worker"));
        assert!(flags.contains("--register-with-taints=a=b:NoSchedule"));
    }
}
