//! From what was granted to the list of things to do on the machine. Pure: names, orders and contents are decided here.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use constellation_attestation::{
    platform::Platform,
    protocol::{ClusterSettings, InitRequest, NodeSettings, Role, Ticket},
};

use crate::kubeadm;

/// Our folder; it lies on the encrypted disk.
pub const HOME: &str = "/etc/kubernetes/constellation";
/// Present once the node has joined: after a reboot kubeadm isn't run again.
pub const MEMBER: &str = "/etc/kubernetes/constellation/member";
/// Certificate and key of the kubelet, until it renews them.
pub const CREDENTIAL: &str = "/var/lib/kubelet/pki/constellation-client.pem";
/// Certificate and key that the kubelet has now: a link to its ticket's, or to what it renewed or kubeadm made. A kubelet asks
/// for its next certificate with the one that its kubeconfig names, so that names this (client-go, `util/certificate`; the
/// kubelet's `buildClientCertificateManager`): with the ticket's own it could renew once, and then never again.
pub const CURRENT_CREDENTIAL: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// What a kubelet leaves whose power went while it replaced that link, and takes for its newest certificate when it starts.
const UPDATED_CREDENTIAL: &str = "/var/lib/kubelet/pki/kubelet-client-updated.pem";
/// With what a kubelet finds its API server, and who it is there.
const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";
const CA: &str = "/etc/kubernetes/pki/ca.crt";
const LATER: &str = "/run/constellation/later";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// `kubeadm init` without KVM takes 2.5 minutes when the machine is idle; four times that.
const INIT_LIMIT: Duration = Duration::from_mins(10);
/// `kubeadm init phase kubeconfig` makes a key and a file: seconds without KVM, and it competes with nothing yet.
const KUBECONFIG_LIMIT: Duration = Duration::from_mins(2);
/// A joining control-plane node without KVM takes up to 5.5 minutes; about three times that.
const JOIN_LIMIT: Duration = Duration::from_mins(15);

/// One thing to do on the machine. Every action may run twice.
#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    /// Wait for the API server of this node.
    AwaitApi {
        /// Its URL.
        server: String,
        /// How long.
        limit: Duration,
    },
    /// Remove a folder's files.
    Empty(String),
    /// From now on drop pod traffic that would cross nodes in clear.
    Guard {
        /// The node's part of the pod network.
        own: String,
        /// The whole pod network.
        all: String,
    },
    /// Be no member of etcd any more.
    LeaveEtcd {
        /// This node's address.
        own: String,
    },
    /// Have a link point to another file of its folder, whatever is there.
    Link {
        /// The link.
        path: &'static str,
        /// The file's path.
        target: &'static str,
    },
    /// Move the two controllers' manifests.
    Move {
        /// From this folder.
        from: String,
        /// To this one.
        to: String,
    },
    /// Run a command that may be run again until it succeeds; its output goes to the progress.
    Insist {
        /// Program and arguments.
        command: Vec<String>,
        /// How long, over all attempts.
        limit: Duration,
    },
    /// Open the state disk, format it if it was never written to, mount it.
    OpenDisk {
        /// Whether a new one is authenticated; `None` takes no new one.
        integrity: Option<bool>,
    },
    /// Take packets to this address, which are for a load balancer, as our own.
    Own(IpAddr),
    /// Tell those who follow.
    Phase(&'static str),
    /// Remove etcd members whose node is gone; a new member waits for that.
    PruneEtcd {
        /// Kubeconfig of the administrator.
        kubeconfig: String,
        /// This node's address.
        own: String,
    },
    /// Remove a file that may be there.
    Remove(&'static str),
    /// Restart a unit, without waiting.
    Restart(&'static str),
    /// Run a command; its output goes to the progress.
    Run {
        /// Program and arguments.
        command: Vec<String>,
        /// How long.
        limit: Duration,
    },
    /// Start a unit and wait for it.
    Start(&'static str),
    /// Wait until all that was written to the file system of this folder is on its disk.
    Sync(&'static str),
    /// Write a file.
    Write {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
        /// Its contents; may be secret.
        contents: Vec<u8>,
    },
}

impl Action {
    /// In words, without contents.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::AwaitApi { server, .. } => format!("await {server}"),
            Self::Empty(folder) => format!("empty {folder}"),
            Self::LeaveEtcd { own } => format!("leave etcd as {own}"),
            Self::Guard { own, all } => format!("guard {own} of {all}"),
            Self::Link { path, target } => format!("link {path} {target}"),
            Self::Move { from, to } => format!("move {from} {to}"),
            Self::OpenDisk { integrity } => format!("open disk, integrity {integrity:?}"),
            Self::Own(address) => format!("own {address}"),
            Self::Phase(name) => format!("phase {name}"),
            Self::Remove(path) => format!("remove {path}"),
            Self::Restart(unit) => format!("restart {unit}"),
            Self::PruneEtcd { own, .. } => format!("prune etcd members for {own}"),
            Self::Run { command, .. } | Self::Insist { command, .. } => command.join(" "),
            Self::Start(unit) => format!("start {unit}"),
            Self::Sync(folder) => format!("sync {folder}"),
            Self::Write { path, mode, .. } => format!("write {path} {mode:o}"),
        }
    }
}

/// What the disk showed once it was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The node's address.
    pub address: &'a str,
    /// Whether [`MEMBER`] exists.
    pub member: bool,
}

/// The first step of every way in. Kernel modules come first: the kernel would else encrypt the disk with whichever cipher
/// happens to be there.
#[must_use]
pub fn disk(integrity: Option<bool>) -> Vec<Action> {
    vec![Action::Phase("disk"), Action::Start("constellation-modules"), Action::OpenDisk { integrity }]
}

/// The first control-plane node.
#[must_use]
pub fn init(grant: &InitRequest, launch_config: &[u8], facts: Facts<'_>) -> Vec<Action> {
    let mut plan = vec![Action::Phase("files")];
    let secrets = Secrets {
        disk_secret: &grant.disk_secret,
        cluster_id: &grant.cluster_id,
        ca_certificate: &grant.verifier_ca_certificate,
        ca_key: &grant.verifier_ca_key,
    };
    plan.extend(verifier_home(&secrets, launch_config, &grant.cluster));
    plan.push(secret(&format!("{HOME}/node.json"), serde_json::json!(grant.node).to_string()));
    plan.push(Action::Start("containerd"));
    plan.extend(network(&grant.node, &grant.cluster));
    // The first node's API server is the only one that can answer there.
    plan.extend(balancer(&grant.cluster));
    if facts.member {
        plan.extend(own_credential(&grant.node, &grant.cluster, facts.address));
        plan.extend(back());
        return plan;
    }
    plan.extend(patches(&grant.cluster));
    let config = format!("{HOME}/kubeadm.yaml");
    let text = kubeadm::init_config(&grant.node, &grant.cluster, facts.address, &format!("{HOME}/patches"));
    plan.extend([
        secret(&config, text),
        Action::Phase("kubeadm init"),
        Action::Run {
            command: words(&[
                "kubeadm",
                "init",
                "--config",
                &config,
                "--skip-phases=upload-certs,bootstrap-token,show-join-command",
            ]),
            limit: INIT_LIMIT,
        },
    ]);
    plan.extend(joined());
    plan
}

/// A worker or a further control-plane node.
#[must_use]
pub fn join(ticket: &Ticket, role: Role, kubelet_key: &str, launch_config: &[u8], facts: Facts<'_>) -> Vec<Action> {
    let mut plan = vec![Action::Phase("files")];
    let node = &ticket.node;
    plan.extend([
        Action::Write { path: CA.into(), mode: 0o644, contents: ticket.ca_certificate.clone().into_bytes() },
        secret(CREDENTIAL, format!("{}{kubelet_key}", ticket.kubelet_certificate)),
        secret(KUBELET_CONF, kubeadm::kubelet_kubeconfig(&ticket.cluster, CA, CURRENT_CREDENTIAL, &node.node_name)),
        // What it renewed itself may have ended while the node was off, or been emptied by a power cut, and the record of its
        // admission has moved on to this ticket's.
        Action::Remove(UPDATED_CREDENTIAL),
        Action::Link { path: CURRENT_CREDENTIAL, target: CREDENTIAL },
    ]);
    plan.push(Action::Start("containerd"));
    plan.extend(network(node, &ticket.cluster));
    match (role, &ticket.control_plane) {
        (Role::ControlPlane, Some(material)) => {
            let secrets = Secrets {
                disk_secret: &material.disk_secret,
                cluster_id: &ticket.cluster_id,
                ca_certificate: &material.verifier_ca_certificate,
                ca_key: &material.verifier_ca_key,
            };
            plan.extend(verifier_home(&secrets, launch_config, &ticket.cluster));
            plan.push(secret(&format!("{HOME}/node.json"), serde_json::json!(node).to_string()));
            if facts.member {
                plan.extend(balancer(&ticket.cluster));
                plan.extend(back());
                return plan;
            }
            plan.push(secret(&format!("{HOME}/trust-revision"), material.trust_revision.to_string()));
            plan.extend(material.pki.iter().map(|(name, contents)| {
                let mode = if name.rsplit('.').next() == Some("key") { 0o600 } else { 0o644 };
                Action::Write {
                    path: format!("/etc/kubernetes/pki/{name}"),
                    mode,
                    contents: contents.clone().into_bytes(),
                }
            }));
            plan.extend(control_plane(ticket, &material.admin_kubeconfig, facts.address));
        }
        _ => plan.extend([
            secret("/var/lib/kubelet/config.yaml", ticket.kubelet_config.clone()),
            secret("/var/lib/kubelet/kubeadm-flags.env", kubeadm::kubelet_flags(node, facts.address)),
            secret(&format!("{HOME}/cluster-id"), ticket.cluster_id.clone()),
            secret(&format!("{HOME}/node.json"), serde_json::json!(ticket.node).to_string()),
            secret(&format!("{HOME}/cluster.json"), json(&ticket.cluster)),
            Action::Phase("kubelet"),
            Action::Restart("kubelet"),
        ]),
    }
    if !facts.member {
        plan.extend(joined());
    }
    plan
}

/// Says that the node has joined. Programs that helped, such as kubeadm, don't wait for the disk: after a power cut this
/// file could be there and theirs be empty, and nobody would make them again.
fn joined() -> [Action; 2] {
    [Action::Sync(HOME), secret(MEMBER, String::new())]
}

/// A member whose owner gave it its disk key while no verifier was up: what isn't made anew at each boot is on the disk.
#[must_use]
pub fn recover(node: &NodeSettings, cluster: &ClusterSettings, role: Role, address: &str) -> Vec<Action> {
    let (balancer, credential) = match role {
        Role::ControlPlane => (balancer(cluster), own_credential(node, cluster, address)),
        Role::Worker => (None, Vec::new()),
    };
    [vec![Action::Start("containerd")], network(node, cluster), balancer.into_iter().collect(), credential, back()]
        .concat()
}

/// A certificate for the kubelet of a control-plane node that returns while nobody gives tickets: its last one may have ended
/// while it was off, or been emptied by a power cut, and without a kubelet there is no API server that could give another. The
/// cluster's CA lies on its disk. kubeadm keeps what it finds, and fails where that is empty, so the old goes first; a kubelet
/// prefers what it renewed. Whatever of this a power cut leaves is gone or made again by the next grant, and no kubelet starts
/// before it.
fn own_credential(node: &NodeSettings, cluster: &ClusterSettings, address: &str) -> Vec<Action> {
    // That of its join says how to join.
    let config = format!("{HOME}/kubeadm-return.yaml");
    let text = kubeadm::init_config(node, cluster, address, &format!("{HOME}/patches"));
    vec![
        Action::Phase("kubelet's certificate"),
        secret(&config, text),
        Action::Remove(UPDATED_CREDENTIAL),
        Action::Remove(CURRENT_CREDENTIAL),
        Action::Remove(KUBELET_CONF),
        Action::Run {
            command: words(&["kubeadm", "init", "phase", "kubeconfig", "kubelet", "--config", &config]),
            limit: KUBECONFIG_LIMIT,
        },
    ]
}

/// What follows once the cluster's identity is in PCR 15: only a member may verify others.
#[must_use]
pub fn member(role: Role) -> Vec<Action> {
    match role {
        Role::ControlPlane => vec![Action::Start("constellation-verifier")],
        Role::Worker => Vec::new(),
    }
}

fn back() -> Vec<Action> {
    vec![Action::Phase("return"), Action::Restart("kubelet")]
}

/// A control-plane node leaves etcd, then ends its part of the control plane: it must serve nobody from then on.
#[must_use]
pub fn leave(address: &str) -> Vec<Action> {
    vec![
        Action::Phase("etcd"),
        Action::LeaveEtcd { own: address.to_owned() },
        Action::Phase("static pods"),
        Action::Empty(MANIFESTS.into()),
    ]
}

/// kubeadm's phases in the order that lets etcd's learner catch up before the API server starts.
fn control_plane(ticket: &Ticket, admin: &str, address: &str) -> Vec<Action> {
    let config = format!("{HOME}/kubeadm.yaml");
    let discovery = format!("{HOME}/discovery.conf");
    let text = kubeadm::join_config(&ticket.node, &ticket.cluster, address, &format!("{HOME}/patches"), &discovery);
    // Each phase may be run again: kubeadm gives etcd two seconds for an answer, which a busy member may miss.
    let join = |arguments: &[&str]| Action::Insist {
        command: [words(&["kubeadm", "join"]), words(arguments), words(&["--config", &config])].concat(),
        limit: JOIN_LIMIT,
    };
    let mut plan = patches(&ticket.cluster);
    plan.extend([
        secret(&discovery, admin.to_owned()),
        secret(&config, text),
        Action::Phase("etcd"),
        join(&["--skip-phases=control-plane-prepare/control-plane,etcd-join,kubelet-wait-bootstrap,control-plane-join,wait-control-plane"]),
        Action::PruneEtcd { kubeconfig: discovery.clone(), own: address.to_owned() },
        join(&["phase", "etcd-join"]),
        Action::Phase("api-server"),
        join(&["phase", "control-plane-prepare", "control-plane"]),
        Action::Move { from: MANIFESTS.into(), to: LATER.into() },
        Action::AwaitApi { server: format!("https://{address}:6443"), limit: JOIN_LIMIT },
    ]);
    // From here on the endpoint leads to this node's own API server.
    plan.extend(balancer(&ticket.cluster));
    plan.extend([
        Action::Move { from: LATER.into(), to: MANIFESTS.into() },
        Action::Phase("kubelet"),
        join(&["phase", "kubelet-wait-bootstrap"]),
        join(&["phase", "control-plane-join", "mark-control-plane"]),
    ]);
    plan
}

struct Secrets<'a> {
    disk_secret: &'a [u8],
    cluster_id: &'a [u8],
    ca_certificate: &'a str,
    ca_key: &'a str,
}

/// What the verifier reads.
fn verifier_home(secrets: &Secrets<'_>, launch_config: &[u8], cluster: &ClusterSettings) -> Vec<Action> {
    let file = |name: &str, contents: &[u8]| secret(&format!("{HOME}/{name}"), contents);
    vec![
        file("disk-secret", secrets.disk_secret),
        file("cluster-id", secrets.cluster_id),
        file("verifier-ca.crt", secrets.ca_certificate.as_bytes()),
        file("verifier-ca.key", secrets.ca_key.as_bytes()),
        file("launch-config.json", launch_config),
        file("cluster.json", &json(cluster)),
    ]
}

/// Before the kubelet starts: no pod may run before the guard. Neither outlives a reboot. After containerd, which waits
/// for the kernel modules.
fn network(node: &NodeSettings, cluster: &ClusterSettings) -> Vec<Action> {
    if !cluster.mesh {
        return Vec::new();
    }
    let path = "/etc/cni/net.d/10-constellation.conflist".into();
    vec![
        Action::Guard { own: node.pod_cidr.clone(), all: cluster.pod_cidr.clone() },
        Action::Write { path, mode: 0o644, contents: kubeadm::cni_config(node).into_bytes() },
    ]
}

/// Google Cloud's load balancer leaves its own address in packets ("Backend service-based external passthrough Network
/// Load Balancer overview": sent to backends with source and destination unchanged), so a target must take that for its
/// own; Google's guest agent, which our image lacks, adds the same route. It doesn't outlive a reboot.
fn balancer(cluster: &ClusterSettings) -> Option<Action> {
    let google = matches!(cluster.platform, Platform::GcpSevEs | Platform::GcpSnp | Platform::GcpTdx);
    let endpoint = google.then(|| cluster.endpoint.parse::<SocketAddr>().ok()).flatten();
    endpoint.map(|endpoint| Action::Own(endpoint.ip()))
}

fn patches(cluster: &ClusterSettings) -> Vec<Action> {
    kubeadm::patches(cluster).into_iter().map(|(name, text)| secret(&format!("{HOME}/patches/{name}"), text)).collect()
}

fn secret(path: &str, contents: impl Into<Vec<u8>>) -> Action {
    Action::Write { path: path.to_owned(), mode: 0o600, contents: contents.into() }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn json(cluster: &ClusterSettings) -> Vec<u8> {
    serde_json::json!(cluster).to_string().into_bytes()
}

#[cfg(test)]
mod tests;
