//! Who belongs to etcd: forgets members whose node is gone, and lets this node leave.
//!
//! kubeadm forgets nobody: a node that died while it joined leaves a learner behind, and etcd takes one at a time. And
//! where kubeadm removes a member it empties the folder of an etcd that is started again: as a new, empty cluster.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::json;

use crate::{error::Error, host::Host, host::command, https::Https, progress::Log};

/// Port of etcd for clients (IANA: etcd-client).
const PORT: u16 = 2379;
const PKI: &str = "/etc/kubernetes/pki/etcd";
/// The administrator's kubeconfig, made by kubeadm; it names the cluster's endpoint, not this node.
const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// A member, as etcd's JSON gateway shows it (rpc.proto, `Member`); numbers of 64 bits are strings there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its number.
    #[serde(rename = "ID")]
    id: String,
    /// Name of its node; empty until it has started once.
    #[serde(default)]
    name: String,
    #[serde(default, rename = "peerURLs")]
    peers: Vec<String>,
    #[serde(default, rename = "isLearner")]
    learner: bool,
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Status {
    leader: String,
}

/// A control-plane node that Kubernetes knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    name: String,
    address: String,
}

/// Before this node joins: removes members whose node Kubernetes no longer knows.
pub async fn prune(host: &Host, kubeconfig: &str, own: &str, log: &Log) -> Result<(), Error> {
    let known = known(kubeconfig).await?;
    let mut last = Error::State("Kubernetes knows no control-plane node whose etcd could be asked".into());
    for node in known.iter().filter(|node| node.address != own) {
        match prune_through(host, &node.address, &known, own, log).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn prune_through(host: &Host, address: &str, known: &BTreeSet<Known>, own: &str, log: &Log) -> Result<(), Error> {
    let etcd = open(host, address)?;
    for member in gone(&members(&etcd).await?, known, own) {
        log.line(&format!("removing etcd member {} {:?}: its node is gone", member.id, member.name));
        etcd.post("/v3/cluster/member/remove", &json!({"ID": member.id})).await?;
    }
    Ok(())
}

/// This node leaves for good, told to another member: removed before its own etcd ends, so that neither quorum is lost
/// nor a second cluster begins from an empty folder. May run twice.
pub async fn leave(host: &Host, own: &str, log: &Log) -> Result<(), Error> {
    let mut last = Error::State("etcd has no other member: the cluster would end with this node".into());
    for node in known(ADMIN).await?.iter().filter(|node| node.address != own) {
        match leave_through(host, &node.address, own, log).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn leave_through(host: &Host, address: &str, own: &str, log: &Log) -> Result<(), Error> {
    let etcd = open(host, address)?;
    let all = members(&etcd).await?;
    let Some(mine) = all.iter().find(|member| is_at(member, own)) else {
        log.line("this node is no member of etcd any more");
        return Ok(());
    };
    let Some(next) = successor(&all, &mine.id) else {
        return Err(Error::State("etcd has no other voting member: the cluster would end with this node".into()));
    };
    let status: Status = parse(&etcd.post("/v3/maintenance/status", &json!({})).await?)?;
    if status.leader == mine.id {
        log.line(&format!("handing etcd's leadership to {}", next.name));
        let leader = open(host, own)?;
        leader.post("/v3/maintenance/transfer-leadership", &json!({"targetID": next.id})).await?;
    }
    log.line(&format!("removing etcd member {} {:?}: it leaves", mine.id, mine.name));
    etcd.post("/v3/cluster/member/remove", &json!({"ID": mine.id})).await.map(drop)
}

fn is_at(member: &Member, address: &str) -> bool {
    member.peers.iter().any(|peer| peer.contains(&format!("//{address}:")))
}

/// Members without a node, and never this node's own: it may have been added by an attempt that broke off.
fn gone(members: &[Member], known: &BTreeSet<Known>, own: &str) -> Vec<Member> {
    let stays = |member: &&Member| {
        is_at(member, own) && member.name.is_empty()
            || known
                .iter()
                .any(|node| node.name == member.name || (member.name.is_empty() && is_at(member, &node.address)))
    };
    members.iter().filter(|member| !stays(member)).cloned().collect()
}

/// Who leads next; a learner can't.
fn successor(members: &[Member], own: &str) -> Option<Member> {
    members.iter().find(|member| member.id != own && !member.learner && !member.name.is_empty()).cloned()
}

async fn members(etcd: &Https) -> Result<Vec<Member>, Error> {
    let list: Members = parse(&etcd.post("/v3/cluster/member/list", &json!({})).await?)?;
    Ok(list.members)
}

fn open(host: &Host, address: &str) -> Result<Https, Error> {
    let ca = host.read(&format!("{PKI}/ca.crt"))?;
    let mut credential = host.read(&format!("{PKI}/healthcheck-client.crt"))?;
    credential.push_str(&host.read(&format!("{PKI}/healthcheck-client.key"))?);
    Https::new(&format!("{address}:{PORT}"), &ca, &credential)
}

/// The control-plane nodes, with the administrator's rights that the ticket brought.
async fn known(kubeconfig: &str) -> Result<BTreeSet<Known>, Error> {
    let path =
        "jsonpath={range .items[*]}{.metadata.name} {.status.addresses[?(@.type=='InternalIP')].address}{'\\n'}{end}";
    let words = ["kubectl", "--kubeconfig", kubeconfig, "get", "nodes", "-o", path];
    let text = command::output(&words, std::time::Duration::from_mins(2)).await?;
    let nodes = text.lines().filter_map(|line| {
        let (name, address) = line.split_once(' ')?;
        Some(Known { name: name.to_owned(), address: address.to_owned() })
    });
    Ok(nodes.collect())
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::State(format!("etcd's answer can't be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, name: &str, address: &str, learner: bool) -> Member {
        let peers = vec![format!("https://{address}:2380")];
        Member { id: id.into(), name: name.into(), peers, learner }
    }

    fn known(list: &[(&str, &str)]) -> BTreeSet<Known> {
        list.iter().map(|(name, address)| Known { name: (*name).into(), address: (*address).into() }).collect()
    }

    #[test]
    fn members_without_a_node_go_and_no_other() {
        let nodes = known(&[("cp-1", "10.0.0.11"), ("cp-3", "10.0.0.13"), ("w-2", "10.0.0.12")]);
        let ids = |members: &[Member]| gone(members, &nodes, "10.0.0.13").into_iter().map(|m| m.id).collect::<Vec<_>>();
        assert!(ids(&[member("1", "cp-1", "10.0.0.11", false)]).is_empty());
        assert_eq!(ids(&[member("1", "cp-1", "10.0.0.11", false), member("2", "cp-2", "10.0.0.14", false)]), ["2"]);
        assert_eq!(ids(&[member("2", "", "10.0.0.14", true)]), ["2"], "a learner that never started");
        assert!(ids(&[member("3", "", "10.0.0.13", true)]).is_empty(), "our own, of an attempt that broke off");
        assert_eq!(ids(&[member("4", "cp-0", "10.0.0.13", false)]), ["4"], "another node had our address before");
    }

    #[test]
    fn leadership_goes_to_a_member_that_votes() {
        let own = member("1", "cp-1", "10.0.0.11", false);
        assert_eq!(successor(&[own.clone(), member("2", "cp-2", "10.0.0.12", true)], "1"), None);
        assert_eq!(successor(&[own, member("3", "cp-3", "10.0.0.13", false)], "1").unwrap().id, "3");
    }

    #[test]
    fn the_gateways_answer_is_read() {
        let list: Members = parse(
            br#"{"header":{"cluster_id":"9"},"members":[{"ID":"1","name":"a","peerURLs":["https://a:2380"],"clientURLs":[]},
            {"ID":"2","peerURLs":["https://b:2380"],"isLearner":true}]}"#,
        )
        .unwrap();
        assert_eq!((list.members[0].learner, list.members[1].learner), (false, true));
        let status: Status = parse(br#"{"header":{"member_id":"1"},"version":"3.6.0","leader":"1"}"#).unwrap();
        assert_eq!(status.leader, "1");
    }
}
