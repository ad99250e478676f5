//! The pod network: a `WireGuard` mesh with exactly the admitted nodes. Losing the admission is losing the network.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{boot::BootSecrets, protocol::NodeSettings, told::chain};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::{
    api::Api,
    error::Error,
    host::{Host, command},
    machine::Machine,
    network::MTU,
};

const ADMISSIONS: &str = "/apis/constellation.dev/v1alpha1/namespaces/kube-system/nodeadmissions";
/// Admissions to an answer. One has 2 KiB, and up to 100 KiB when somebody has been refused in its node's name for many
/// reasons: no peer may make the list longer than an answer can be.
const PAGE: usize = 50;
/// Least time between two lists: a burst of changes is one change, and costs the API server one list for each node.
const APART: Duration = Duration::from_secs(1);
/// Where Linux shows network devices.
const DEVICES: &str = "/sys/class/net";
const DEVICE: &str = "wg0";
const PORT: &str = "51820";
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Pause after an error: the API may be in an election, which ends within this time.
const PAUSE: Duration = Duration::from_secs(5);

/// Setting the packet filter takes well under a second; without KVM a busy machine needs longer.
const GUARD: Duration = Duration::from_mins(1);

/// A node of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: String,
    /// Its part of the pod network.
    pub pod_cidr: String,
}

/// What the mesh reads of a list of admissions.
#[derive(Deserialize, Debug)]
pub struct List {
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Item>,
}

impl List {
    /// Reads one page of it.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(page: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(page).map_err(|e| Error::Http(ADMISSIONS.into(), e.to_string()))
    }

    /// The mesh that a node with this uid wants, where `known` is the one that it has.
    #[must_use]
    pub fn wanted(&self, own: &str, pod_cidr: &str, known: &BTreeMap<String, Peer>) -> BTreeMap<String, Peer> {
        peers(&self.items, own, pod_cidr, known)
    }
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
    /// Where the next page begins; empty on the last one.
    #[serde(default, rename = "continue")]
    rest: String,
}

#[derive(Deserialize, Debug)]
struct Item {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_uid: String,
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(default)]
    evicted: Option<bool>,
}

#[derive(Deserialize, Debug, Default)]
struct Status {
    admission: Option<Admission>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Admission {
    wireguard_key: String,
    address: String,
}

/// Keeps the mesh for as long as the node lives.
pub async fn keep(machine: Arc<Machine>) {
    machine.member().await;
    if !matches!(machine.host, Host::Real) {
        return;
    }
    // Outlives errors of the API: pods keep talking while it is away.
    let mut mesh = None;
    loop {
        match run(&machine, &mut mesh).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(error = %chain(&error), "The mesh can't be kept up to date"),
        }
        sleep(PAUSE).await;
    }
}

/// `mesh` is what the device was told; nothing when the device must be made anew.
async fn run(machine: &Machine, mesh: &mut Option<BTreeMap<String, Peer>>) -> Result<(), Error> {
    let (node, cluster) = machine.settings()?;
    if !cluster.mesh {
        return Ok(());
    }
    if mesh.is_none() {
        guard(&node.pod_cidr, &cluster.pod_cidr).await?;
        device(machine, &node).await?;
        *mesh = Some(BTreeMap::new());
    }
    let api = Api::open(&machine.host, &cluster.endpoint)?;
    loop {
        let began = Instant::now();
        let list = admissions(|path| fetch(&api, path)).await?;
        let known = mesh.clone().unwrap_or_default();
        let wanted = list.wanted(&machine.launch.node_uid, &cluster.pod_cidr, &known);
        // Nothing until all is done: after half a change the device is made anew.
        *mesh = None;
        for step in difference(&known, &wanted) {
            command::run(&step.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        }
        if wanted != known {
            tracing::info!(peers = wanted.len(), "Mesh changed");
        }
        *mesh = Some(wanted);
        api.changed(ADMISSIONS, &list.metadata.resource_version).await?;
        sleep(APART.saturating_sub(began.elapsed())).await;
    }
}

async fn fetch(api: &Api, path: String) -> Result<Vec<u8>, Error> {
    api.get(&path).await
}

/// All admissions, page by page, as they were at one time.
async fn admissions<F>(get: impl Fn(String) -> F) -> Result<List, Error>
where
    F: Future<Output = Result<Vec<u8>, Error>>,
{
    let mut path = format!("{ADMISSIONS}?limit={PAGE}");
    let mut items = Vec::new();
    loop {
        let bytes = get(path).await?;
        let mut page = List::read(&bytes)?;
        items.append(&mut page.items);
        if page.metadata.rest.is_empty() {
            return Ok(List { items, ..page });
        }
        path = format!("{ADMISSIONS}?limit={PAGE}&continue={}", page.metadata.rest);
    }
}

/// The admitted nodes but ourselves, by key. An admission without a record, or on its way out, is no peer; so is one
/// whose network isn't a proper part of the pod network: it would take other nodes' traffic. A key that `wg` refuses would
/// keep all that come after it out.
fn peers(items: &[Item], own: &str, pod_cidr: &str, known: &BTreeMap<String, Peer>) -> BTreeMap<String, Peer> {
    items
        .iter()
        .filter(|item| item.spec.node_uid != own && item.spec.evicted != Some(true))
        .filter(|item| is_slice(&item.spec.pod_cidr, pod_cidr))
        .filter_map(|item| {
            let admission = item.status.admission.as_ref()?;
            let address: std::net::IpAddr = admission.address.parse().ok()?;
            let peer = Peer { address: address.to_string(), pod_cidr: item.spec.pod_cidr.clone() };
            is_key(&admission.wireguard_key).then(|| (admission.wireguard_key.clone(), peer))
        })
        .fold(BTreeMap::new(), |mut mesh, (key, peer)| {
            // Public keys are public, and a node says its own: who says another's later takes nothing from it.
            if known.get(&key) == Some(&peer) || !mesh.contains_key(&key) {
                mesh.insert(key, peer);
            }
            mesh
        })
}

fn is_key(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|key| key.len() == KEY_BYTES)
}

/// Whether `slice` is one of the /24 networks of the pod network `all`.
fn is_slice(slice: &str, all: &str) -> bool {
    let (Some((base, 24)), Some((all, length))) = (network(slice), network(all)) else { return false };
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    length < 24 && base.is_multiple_of(256) && base & mask == all & mask
}

/// Address and length of the prefix of an IPv4 network.
fn network(cidr: &str) -> Option<(u32, u32)> {
    let (base, length) = cidr.split_once('/')?;
    let length = length.parse().ok().filter(|bits: &u32| *bits <= 32 && bits.to_string() == length)?;
    Some((base.parse::<std::net::Ipv4Addr>().ok()?.into(), length))
}

/// Commands that lead from one mesh to another: who leaves goes first.
fn difference(known: &BTreeMap<String, Peer>, wanted: &BTreeMap<String, Peer>) -> Vec<Vec<String>> {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let gone = known.iter().filter(|(key, peer)| wanted.get(*key) != Some(*peer)).flat_map(|(key, peer)| {
        [
            words(&["wg", "set", DEVICE, "peer", key, "remove"]),
            words(&["ip", "route", "del", &peer.pod_cidr, "dev", DEVICE]),
        ]
    });
    let come = wanted.iter().filter(|(key, peer)| known.get(*key) != Some(*peer)).flat_map(|(key, peer)| {
        let endpoint = format!("{}:{PORT}", peer.address);
        [
            words(&["wg", "set", DEVICE, "peer", key, "endpoint", &endpoint, "allowed-ips", &peer.pod_cidr]),
            words(&["ip", "route", "replace", &peer.pod_cidr, "dev", DEVICE]),
        ]
    });
    gone.chain(come).collect()
}

/// The private key of the tunnel's device, if there is one: this process was restarted. Others know its public half, so
/// that a new one would cut the node off.
///
/// # Errors
/// When there is a device and its key can't be had.
pub async fn key_in_use() -> Result<Option<Zeroizing<String>>, Error> {
    // A look costs nothing, a program a tenth of a second on an emulated processor.
    if !Path::new(DEVICES).join(DEVICE).exists() {
        return Ok(None);
    }
    // A device that was made and not set up yet says "(none)".
    let key = command::output(&["wg", "show", DEVICE, "private-key"], PAUSE).await?;
    Ok(Some(key).filter(|key| is_key(key.trim())))
}

/// Makes the tunnel's device and gives it its key. It has no peer and no address yet. A machine whose device has a key
/// keeps it: this process was started again.
///
/// # Errors
/// When the kernel or `wg` refuses; [`keep`] tries it again.
pub async fn hold_key(secrets: &BootSecrets) -> Result<(), Error> {
    if !Path::new(DEVICES).join(DEVICE).exists() {
        command::run(&["ip", "link", "add", DEVICE, "type", "wireguard"]).await?;
    }
    let key = secrets.wireguard_private_base64();
    // The key goes through a pipe.
    let set = ["wg", "set", DEVICE, "listen-port", PORT, "private-key", "/dev/stdin"];
    command::with_input(&set, key.as_bytes(), PAUSE).await
}

/// The tunnel's device; peers of an earlier run are forgotten.
async fn device(machine: &Machine, node: &NodeSettings) -> Result<(), Error> {
    hold_key(&machine.secrets).await?;
    let peers = command::output(&["wg", "show", DEVICE, "peers"], PAUSE).await?;
    for key in peers.lines() {
        command::run(&["wg", "set", DEVICE, "peer", key, "remove"]).await?;
    }
    let own = node.pod_cidr.replace("/24", "/32");
    command::run(&["ip", "addr", "replace", &own, "dev", DEVICE]).await?;
    command::run(&["ip", "link", "set", DEVICE, "mtu", &MTU.to_string(), "up"]).await
}

/// Pod traffic never crosses nodes in clear: what no peer takes is dropped, and so is what comes in outside the tunnel.
/// May run twice.
pub async fn guard(own: &str, all: &str) -> Result<(), Error> {
    command::run(&["ip", "route", "replace", "blackhole", all, "metric", "4096"]).await?;
    command::with_input(&["nft", "-f", "-"], rules(own, all).as_bytes(), GUARD).await
}

fn rules(own: &str, all: &str) -> String {
    let mut text = String::from("table ip constellation\ndelete table ip constellation\ntable ip constellation {\n");
    let _ = write!(
        text,
        "  chain forward {{\n    type filter hook forward priority -10;\n    \
         ip daddr {all} oifname \"eth0\" drop\n    ip saddr {all} iifname \"eth0\" drop\n    ip daddr {all} iifname \"eth0\" drop\n  }}\n  \
         chain input {{\n    type filter hook input priority -10;\n    ip saddr {all} iifname \"eth0\" drop\n    ip daddr {all} iifname \"eth0\" drop\n  }}\n  \
         chain output {{\n    type filter hook output priority -10;\n    ip daddr {all} oifname \"eth0\" drop\n  }}\n  \
         chain leave {{\n    type nat hook postrouting priority srcnat;\n    \
         ip saddr {own} ip daddr != {all} oifname \"eth0\" masquerade\n  }}\n}}\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn item(uid: &str, cidr: &str, evicted: bool, key: Option<&str>) -> Item {
        Item {
            spec: Spec { node_uid: uid.into(), pod_cidr: cidr.into(), evicted: Some(evicted) },
            status: Status {
                admission: key.map(|k| Admission { wireguard_key: k.into(), address: "10.77.0.12".into() }),
            },
        }
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let page = |uid: &str, version: &str, rest: &str| {
            let item = serde_json::json!({"spec": {"nodeUid": uid, "podCIDR": "10.244.2.0/24"}});
            serde_json::json!({"metadata": {"resourceVersion": version, "continue": rest}, "items": [item]})
        };
        let asked = std::cell::RefCell::new(Vec::new());
        let list = admissions(|path| {
            let last = path.ends_with("&continue=t-1");
            asked.borrow_mut().push(path);
            let found = if last { page("b", "7", "") } else { page("a", "7", "t-1") };
            std::future::ready(Ok(found.to_string().into_bytes()))
        })
        .await
        .unwrap();
        let uids: Vec<_> = list.items.iter().map(|item| item.spec.node_uid.as_str()).collect();
        assert_eq!((uids, list.metadata.resource_version.as_str()), (vec!["a", "b"], "7"));
        assert!(asked.borrow().iter().all(|path| path.contains("limit=50")) && asked.borrow().len() == 2);
        assert!(admissions(|_| std::future::ready(Err(Error::State("410 Gone".into())))).await.is_err());
    }

    #[test]
    fn exactly_the_admitted_others_are_peers() {
        let mesh = |items: &[Item]| peers(items, "own", "10.244.0.0/16", &BTreeMap::new()).len();
        assert_eq!(mesh(&[item("a", "10.244.2.0/24", false, Some(KEY))]), 1);
        for no in [
            item("own", "10.244.2.0/24", false, Some(KEY)),
            item("a", "10.244.2.0/24", true, Some(KEY)),
            item("a", "10.244.2.0/24", false, None),
            item("a", "10.244.2.0/24", false, Some("short")),
            item("a", "10.244.2.0/24", false, Some(&"?".repeat(KEY.len()))),
            item("a", "10.244.0.0/16", false, Some(KEY)),
            item("a", "0.0.0.0/0", false, Some(KEY)),
            item("a", "10.77.0.0/24", false, Some(KEY)),
        ] {
            assert_eq!(mesh(&[no]), 0);
        }
    }

    #[test]
    fn who_says_the_key_of_a_peer_takes_nothing_from_it() {
        let victim = || item("m", "10.244.2.0/24", false, Some(KEY));
        let known = peers(&[victim()], "own", "10.244.0.0/16", &BTreeMap::new());
        for uid in ["a", "z"] {
            let thief = item(uid, "10.244.3.0/24", false, Some(KEY));
            let list = if uid < "m" { [thief, victim()] } else { [victim(), thief] };
            assert_eq!(peers(&list, "own", "10.244.0.0/16", &known), known, "{uid}");
        }
    }

    #[test]
    fn a_slice_lies_in_the_pod_network_whatever_its_size() {
        for (slice, all, expected) in [
            ("10.244.7.0/24", "10.244.0.0/16", true),
            ("10.245.7.0/24", "10.244.0.0/16", false),
            ("10.9.7.0/24", "10.0.0.0/8", true),
            ("172.20.9.0/24", "172.16.0.0/12", true),
            ("172.32.9.0/24", "172.16.0.0/12", false),
            ("10.244.2.0/24", "10.244.2.0/23", true),
            ("10.244.4.0/24", "10.244.2.0/23", false),
            ("10.244.2.0/24", "10.244.2.0/24", false),
            ("10.244.2.1/24", "10.244.0.0/16", false),
            ("10.244.0.0/16", "10.244.0.0/16", false),
            ("10.244.7.0/+24", "10.244.0.0/16", false),
            ("10.244.7.0/024", "10.244.0.0/16", false),
            ("0.0.0.0/0", "10.244.0.0/16", false),
            ("::/24", "10.244.0.0/16", false),
        ] {
            assert_eq!(is_slice(slice, all), expected, "{slice} of {all}");
        }
    }

    #[test]
    fn who_leaves_goes_first_and_nothing_changes_twice() {
        let peer = |address: &str| Peer { address: address.into(), pod_cidr: "10.244.2.0/24".into() };
        let old = BTreeMap::from([("old".to_owned(), peer("10.77.0.12"))]);
        let new = BTreeMap::from([("new".to_owned(), peer("10.77.0.13"))]);
        let steps: Vec<_> = difference(&old, &new).iter().map(|s| s.join(" ")).collect();
        assert_eq!(
            steps,
            [
                "wg set wg0 peer old remove",
                "ip route del 10.244.2.0/24 dev wg0",
                "wg set wg0 peer new endpoint 10.77.0.13:51820 allowed-ips 10.244.2.0/24",
                "ip route replace 10.244.2.0/24 dev wg0",
            ]
        );
        assert!(difference(&new, &new).is_empty());
    }
}
