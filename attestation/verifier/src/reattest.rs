//! Asks members to prove themselves again, and enrols the node that we run on.
//!
//! The first control-plane node was appraised by its owner, before there was an API to record it in; the same is true
//! after Recover. So each verifier asks the bootstrapper beside it for evidence as a member, and records that.
//! Only what changed is written: while nothing changes, nothing is written.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use constellation_attestation::{channel, protocol::Purpose, session};
use constellation_crds::NodeAdmission;
use futures::StreamExt as _;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval_at, sleep, timeout},
};

use crate::{
    admit::{self, Door, reason},
    join::Outcome,
    store::Store,
    verifier::{Error, Examined, Settled, Verifier, chain, introduction},
};

/// When and where members are asked.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time between two rounds; nothing: no rounds.
    pub interval: Option<Duration>,
    /// Port of the bootstrappers.
    pub port: u16,
    /// Address of the bootstrapper beside us.
    pub own_address: IpAddr,
}

/// Members asked at a time; each costs a quote there and an appraisal here.
const ABREAST: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshake, Hello and evidence at their limits.
const CONVERSATION: Duration = Duration::from_mins(2);
/// The operator writes our admission right after Init; nodes that join meanwhile can't reach our pods before.
const ENROL_FIRST: Duration = Duration::from_secs(1);
const ENROL_SLOWEST: Duration = Duration::from_secs(15);

/// Returns when the node that we run on is recorded with the keys of this boot.
pub async fn enrol<A: Store>(verifier: &Verifier<A>, schedule: &Schedule) {
    let uid = verifier.home.launch.node_uid.as_str();
    let mut pause = ENROL_FIRST;
    loop {
        match own(verifier, uid, schedule).await {
            Ok(Some(Outcome::Admitted { uid })) => {
                tracing::info!(node_uid = uid, "Enrolled our own node");
                return;
            }
            Ok(Some(Outcome::Refused { id })) => {
                tracing::error!(refusal = id, "Our own node doesn't pass; its status has the reasons");
            }
            Ok(None) => tracing::debug!("Our own node has no admission yet"),
            Err(error) => {
                verifier.own_fault(&error);
                tracing::info!(error = %chain(&error), "Enrolling our own node failed, trying again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(ENROL_SLOWEST);
    }
}

/// Asks all members, again and again.
pub async fn rounds<A: Store>(verifier: &Verifier<A>, schedule: &Schedule) {
    let Some(period) = schedule.interval else { return std::future::pending().await };
    let mut clock = interval_at(tokio::time::Instant::now() + period, period);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        round(verifier, schedule).await;
    }
}

/// Asks all members once.
pub async fn round<A: Store>(verifier: &Verifier<A>, schedule: &Schedule) {
    let nodes = match verifier.store.nodes().await {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "Listing members failed");
            return;
        }
    };
    let members = nodes.into_iter().filter_map(|node| member(&node, schedule.port).map(|address| (node, address)));
    futures::stream::iter(members)
        .for_each_concurrent(ABREAST, |(node, address)| async move {
            let uid = node.spec.node_uid.clone();
            match within(verifier, &uid, address, Door::Member).await {
                Ok(Some(Outcome::Admitted { .. })) => verifier.metrics.reattest_accepted.add(),
                Ok(Some(Outcome::Refused { .. })) => verifier.metrics.reattest_refused.add(),
                Ok(None) => {}
                Err(error) => {
                    verifier.metrics.reattest_failed.add();
                    verifier.own_fault(&error);
                    tracing::info!(node_uid = uid, error = %chain(&error), "A member gave no evidence");
                }
            }
        })
        .await;
}

/// Where to reach a node that has to prove itself; nothing for one that isn't a member, or leaves.
fn member(node: &NodeAdmission, port: u16) -> Option<SocketAddr> {
    let admission = node.status.as_ref()?.admission.as_ref()?;
    if node.spec.evicted == Some(true) || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(SocketAddr::new(admission.address.parse().ok()?, port))
}

async fn own<A: Store>(verifier: &Verifier<A>, uid: &str, schedule: &Schedule) -> Result<Option<Outcome>, Error> {
    if !admit::is_uid(uid) || verifier.store.node(uid).await?.is_none() {
        return Ok(None);
    }
    within(verifier, uid, SocketAddr::new(schedule.own_address, schedule.port), Door::Own).await
}

async fn within<A: Store>(
    verifier: &Verifier<A>,
    uid: &str,
    address: SocketAddr,
    door: Door,
) -> Result<Option<Outcome>, Error> {
    let late = channel::Error::Timeout("the re-attestation");
    timeout(CONVERSATION, ask(verifier, uid, address, door)).await.map_err(|_| late)?
}

/// One conversation; nothing when the node was deleted meanwhile.
async fn ask<A: Store>(
    verifier: &Verifier<A>,
    uid: &str,
    address: SocketAddr,
    door: Door,
) -> Result<Option<Outcome>, Error> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| channel::Error::Timeout("connecting"))?
        .map_err(channel::Error::Io)?;
    let identity = verifier.home.identity()?;
    let mut channel = channel::verifier_connect(stream, &identity).await?;
    let hello = session::ask(&mut channel, Purpose::Reattest).await?;
    let refused = match introduction(&hello, &verifier.home.launch, Purpose::Reattest) {
        // Whoever answers there speaks for itself, not for the node that we asked for.
        Ok(()) if hello.node_uid != uid => {
            let other = reason("hello.node", Some(uid), None, "another node answers at this node's address");
            Some(other)
        }
        Ok(()) => None,
        Err(reason) => Some(reason),
    };
    if let Some(reason) = refused {
        let id = verifier.refuse_unproven(uid, reason)?;
        let _ = session::refuse(&mut channel, &id).await;
        return Ok(Some(Outcome::Refused { id }));
    }
    // Read as late as possible, so that the compare-and-swap is against what is true now.
    let Some(node) = verifier.store.node(uid).await? else { return Ok(None) };
    let bundle = verifier.store.bundle().await?;
    let settled = match verifier.examine(&mut channel, hello, &node, &bundle, door).await? {
        Examined::Appraised(case) => verifier.settle(node, &case, |_| Ok(())).await?,
        Examined::Refused(id) => Settled::Refused(id),
    };
    let outcome = match settled {
        Settled::Granted(()) => {
            session::accept(&mut channel).await?;
            Outcome::Admitted { uid: uid.to_owned() }
        }
        Settled::Refused(id) => {
            let _ = session::refuse(&mut channel, &id).await;
            Outcome::Refused { id }
        }
    };
    channel.close().await;
    Ok(Some(outcome))
}

#[cfg(test)]
mod tests {
    use constellation_crds::{
        NodeAdmissionSpec, NodeAdmissionStatus, cluster::DiskIntegrity, node::Role, trust::Admission,
    };

    use super::*;

    fn given_node() -> NodeAdmission {
        let spec = NodeAdmissionSpec {
            node_uid: "uid-1".to_owned(),
            node_name: "worker-1".to_owned(),
            role: Role::Worker,
            launch_config_digest: String::new(),
            pod_cidr: "10.244.1.0/24".to_owned(),
            provider_id: "local://1".to_owned(),
            labels: std::collections::BTreeMap::default(),
            taints: Vec::new(),
            disk_integrity: DiskIntegrity::None,
            evicted: None,
        };
        let mut node = NodeAdmission::new("uid-1", spec);
        let admission = Admission { address: "10.77.0.11".to_owned(), ..Admission::default() };
        node.status = Some(NodeAdmissionStatus { admission: Some(admission), ..NodeAdmissionStatus::default() });
        node
    }

    #[test]
    fn members_are_asked_and_others_are_left_alone() {
        assert_eq!(member(&given_node(), 9000), Some("10.77.0.11:9000".parse().unwrap()));
        let mut evicted = given_node();
        evicted.spec.evicted = Some(true);
        assert_eq!(member(&evicted, 9000), None);
        let mut stranger = given_node();
        stranger.status = None;
        assert_eq!(member(&stranger, 9000), None);
        let mut misplaced = given_node();
        misplaced.status.as_mut().unwrap().admission.as_mut().unwrap().address = "example.com".to_owned();
        assert_eq!(member(&misplaced, 9000), None);
    }
}
