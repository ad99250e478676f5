//! Asks members to prove themselves again, and enrols the node that we run on.
//!
//! The first control-plane node was appraised by its owner, before there was an API to record it in; the same is true
//! after Recover. So each verifier asks the bootstrapper beside it for evidence as a member, and records that.
//! Only what changed is written: while nothing changes, nothing is written. How often members are asked is the owner's
//! word, in the trust bundle; who doesn't answer is counted by [`silence`].

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use constellation_attestation::{channel, protocol::Purpose, session};
use constellation_crds::NodeAdmission;
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    admit::{self, Door, reason},
    record, silence,
    store::Store,
    verifier::{Error, Examined, Settled, Verifier, chain, introduction, unproven},
};

/// When and where members are asked.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time between two rounds, where the owner's bundle says nothing.
    pub interval: Interval,
    /// Port of the bootstrappers.
    pub port: u16,
    /// Address of the bootstrapper beside us.
    pub own_address: IpAddr,
}

/// Time between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// This long.
    Every(Duration),
    /// There are none.
    Never,
}

impl Interval {
    /// From a setting, whose 0 means never.
    #[must_use]
    pub const fn of_seconds(seconds: u64) -> Self {
        if seconds == 0 { Self::Never } else { Self::Every(Duration::from_secs(seconds)) }
    }

    /// When the round after the one that began at `last` is due.
    fn after(self, last: Instant) -> Option<Instant> {
        match self {
            Self::Every(period) => last.checked_add(period),
            Self::Never => None,
        }
    }
}

/// What came of asking a member.
enum Answer {
    /// It proved itself.
    Accepted,
    /// It was deleted meanwhile.
    Gone,
    /// Refused under this id, for its own evidence or for what is no fault of its own.
    Refused(String),
    /// Refused under this id, and nothing that came was evidence of its own.
    Strange(String),
}

/// Members asked at a time; each costs a quote there and an appraisal here.
const ABREAST: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshake, Hello and evidence at their limits.
const CONVERSATION: Duration = Duration::from_mins(2);
/// The operator writes our admission right after Init; nodes that join meanwhile can't reach our pods before.
const ENROL_FIRST: Duration = Duration::from_secs(1);
const ENROL_SLOWEST: Duration = Duration::from_secs(15);
/// How long another interval may go unnoticed: one read in ten minutes is nothing to an API server, and at twice this a
/// person who asks for shorter rounds would wonder whether they come.
const LOOK: Duration = Duration::from_mins(10);
/// The same while there is no bundle that can be believed: the operator writes the first one right after Init.
const LOOK_SOON: Duration = Duration::from_mins(1);

/// Returns when the node that we run on is recorded with the keys of this boot.
pub async fn enrol<A: Store>(verifier: &Verifier<A>, schedule: &Schedule) {
    let uid = verifier.home.launch.node_uid.as_str();
    let mut pause = ENROL_FIRST;
    loop {
        match own(verifier, uid, schedule).await {
            Ok(Answer::Accepted) => {
                tracing::info!(node_uid = uid, "Enrolled our own node");
                return;
            }
            Ok(Answer::Refused(id) | Answer::Strange(id)) => {
                tracing::error!(refusal = id, "Our own node doesn't pass; its status has the reasons");
            }
            Ok(Answer::Gone) => tracing::debug!("Our own node has no admission yet"),
            Err(error) => {
                verifier.own_fault(&error);
                tracing::info!(error = %chain(&error), "Enrolling our own node failed, trying again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(ENROL_SLOWEST);
    }
}

/// Asks all members, again and again, as often as the owner's bundle says by then.
pub async fn rounds<A: Store>(verifier: &Verifier<A>, schedule: &Schedule) {
    let mut last = Instant::now();
    let mut interval = schedule.interval;
    loop {
        let told = owners(verifier, schedule.interval).await;
        interval = told.unwrap_or(interval);
        let (now, due) = (Instant::now(), interval.after(last));
        if due.is_some_and(|due| due <= now) {
            last = now;
            round(verifier, schedule).await;
        } else {
            let look = now + if told.is_some() { LOOK } else { LOOK_SOON };
            sleep_until(due.map_or(look, |due| due.min(look))).await;
        }
    }
}

/// The interval that the owner wants; nothing while no bundle can be believed, which joins tell the owner.
async fn owners<A: Store>(verifier: &Verifier<A>, default: Interval) -> Option<Interval> {
    let policy = match verifier.store.bundle().await {
        Ok(bundle) => verifier.trust.accept(&bundle.envelope).map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    let seconds = policy.inspect_err(|error| tracing::debug!(error, "The bundle says no interval")).ok()?;
    Some(seconds.reattestation_interval_seconds.map_or(default, |seconds| Interval::of_seconds(seconds.into())))
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
    let members: Vec<_> =
        nodes.into_iter().filter_map(|node| member(&node, schedule.port).map(|address| (node, address))).collect();
    verifier.silence.keep(&members.iter().map(|(node, _)| node.spec.node_uid.clone()).collect());
    futures::stream::iter(members)
        .for_each_concurrent(ABREAST, |(node, address)| async move { visit(verifier, &node, address).await })
        .await;
}

/// Asks one member, and remembers whether it was heard.
async fn visit<A: Store>(verifier: &Verifier<A>, node: &NodeAdmission, address: SocketAddr) {
    let uid = node.spec.node_uid.as_str();
    let (metrics, silence) = (&verifier.metrics, &verifier.silence);
    let why = match within(verifier, uid, address, Door::Member).await {
        Ok(Answer::Gone) => return,
        Ok(Answer::Accepted) => {
            metrics.reattest_accepted.add();
            return silence.heard(uid);
        }
        Ok(Answer::Refused(_)) => {
            metrics.reattest_refused.add();
            return silence.heard(uid);
        }
        Ok(Answer::Strange(id)) => {
            metrics.reattest_refused.add();
            format!("what answered was refused under {id}")
        }
        Err(error) => {
            metrics.reattest_failed.add();
            verifier.own_fault(&error);
            let why = chain(&error);
            tracing::info!(node_uid = uid, error = why, "A member gave no evidence");
            if !silence::is_silence(&error) {
                return;
            }
            why
        }
    };
    if let Err(error) = silence::missed(verifier, node, &why, (Instant::now().into_std(), Timestamp::now())).await {
        tracing::warn!(node_uid = uid, error = %chain(&error), "Recording a silent member failed, trying again");
    }
}

/// Where to reach a node that has to prove itself; nothing for one that isn't a member, or leaves.
fn member(node: &NodeAdmission, port: u16) -> Option<SocketAddr> {
    let admission = node.status.as_ref()?.admission.as_ref()?;
    if node.spec.evicted == Some(true) || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(SocketAddr::new(admission.address.parse().ok()?, port))
}

async fn own<A: Store>(verifier: &Verifier<A>, uid: &str, schedule: &Schedule) -> Result<Answer, Error> {
    if !admit::is_uid(uid) || verifier.store.node(uid).await?.is_none() {
        return Ok(Answer::Gone);
    }
    within(verifier, uid, SocketAddr::new(schedule.own_address, schedule.port), Door::Own).await
}

async fn within<A: Store>(verifier: &Verifier<A>, uid: &str, address: SocketAddr, door: Door) -> Result<Answer, Error> {
    let late = channel::Error::Timeout("the re-attestation");
    timeout(CONVERSATION, ask(verifier, uid, address, door)).await.map_err(|_| late)?
}

/// One conversation.
async fn ask<A: Store>(verifier: &Verifier<A>, uid: &str, address: SocketAddr, door: Door) -> Result<Answer, Error> {
    // Before anybody is asked: a member that waits for a slow API server would break off, and look as if it were silent. Who
    // writes the admission meanwhile wins, and the case is decided again.
    let Some(node) = verifier.store.node(uid).await? else { return Ok(Answer::Gone) };
    let bundle = verifier.store.bundle().await?;
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| channel::Error::Timeout("connecting"))?
        .map_err(channel::Error::Io)?;
    let identity = verifier.home.identity()?;
    let mut channel = channel::verifier_connect(stream, &identity).await?;
    let greeted = session::ask(&mut channel, Purpose::Reattest).await;
    let refused = match &greeted {
        Ok(hello) => introduction(hello, &verifier.home.launch, Purpose::Reattest).err().or_else(|| {
            // Whoever answers there speaks for itself, not for the node that we asked for.
            let other = || reason("hello.node", Some(uid), None, "another node answers at this node's address");
            (hello.node_uid != uid).then(other)
        }),
        Err(error @ session::Error::Purpose(_)) => unproven(error, door),
        Err(_) => None,
    };
    if let Some(reason) = refused {
        let id = verifier.refuse_unproven(uid, reason)?;
        let _ = session::refuse(&mut channel, &id).await;
        return Ok(Answer::Strange(id));
    }
    let hello = greeted?;
    let (settled, refused): (_, fn(String) -> Answer) =
        match verifier.examine(&mut channel, hello, &node, bundle.into(), door).await? {
            Examined::Appraised(case) => {
                // Who was refused for want of others' words alone has shown what it has.
                let own = record::attributable(node.status.as_ref(), door, &case.appraisal)
                    || !case.appraisal.lacking.is_empty();
                let settled = verifier.settle(node, &case, |_| Ok(())).await?;
                (settled, if own { Answer::Refused } else { Answer::Strange })
            }
            // No member can help it that the bundle isn't believed.
            Examined::Distrusted(id) => (Settled::Refused(id), Answer::Refused),
            Examined::Refused(id) => (Settled::Refused(id), Answer::Strange),
        };
    let answer = match settled {
        Settled::Granted(()) => {
            // It is recorded: that the member doesn't wait to hear it changes nothing.
            let _ = session::accept(&mut channel).await;
            Answer::Accepted
        }
        Settled::Refused(id) => {
            let _ = session::refuse(&mut channel, &id).await;
            refused(id)
        }
    };
    channel.close().await;
    Ok(answer)
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
