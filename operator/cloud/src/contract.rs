//! What every cloud must keep, as one suite that runs against any of them.
//!
//! Not behind `cfg(test)`: the suites of clouds that need a server or root live in another crate.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    Cloud, CloudError, ClusterUid, Instance, InstanceId, InstanceState, LaunchRequest, NetworkRequest, NodeUid,
    calls::{Call, Watcher},
};

/// A promise that was not kept.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A call failed that must not.
    #[error("{doing} failed")]
    Call {
        /// What the suite was doing.
        doing: &'static str,
        /// What the cloud said.
        #[source]
        source: CloudError,
    },
    /// An answer is wrong.
    #[error("{0}")]
    Wrong(String),
}

/// What the suite needs to know of a cloud.
#[derive(Clone, Debug)]
pub struct Subject {
    /// An image that boots.
    pub image: String,
    /// A small instance type.
    pub instance_type: String,
    /// A launch configuration for a node of a cluster.
    pub launch_config: fn(&ClusterUid, &NodeUid) -> Vec<u8>,
    /// How long removals may take.
    pub patience: Duration,
}

/// Runs the suite on two clusters named after `seed`, which nobody else uses; leaves nothing behind when it succeeds.
///
/// # Errors
/// The first promise that was not kept.
pub async fn check(cloud: Arc<dyn Cloud>, subject: &Subject, seed: &str) -> Result<(), Violation> {
    let guard = Arc::new(Guard { may: AtomicBool::new(true), ended: AtomicU64::new(0) });
    cloud.watch_calls(Box::new(Arc::clone(&guard)));
    let suite = Suite { cloud, subject: subject.clone() };
    let (ours, other) = (ClusterUid(format!("{seed}-a")), ClusterUid(format!("{seed}-b")));
    suite.nothing_is_there_before(&ours).await?;
    suite.a_network_is_ensured_twice(&ours).await?;
    suite.a_network_is_ensured_twice(&other).await?;
    let first = suite.one_token_is_one_instance(&ours).await?;
    suite.clusters_do_not_see_each_other(&ours, &other, &first).await?;
    suite.targets_are_set_twice(&ours, &first.id).await?;
    suite.a_removal_ends_with_not_found(&ours, &first.id).await?;
    suite.the_rest_goes(&ours).await?;
    suite.the_rest_goes(&other).await?;
    suite.who_may_not_act_sends_nothing(&ours, &guard).await
}

/// Stands beside every call.
struct Guard {
    may: AtomicBool,
    ended: AtomicU64,
}

impl Watcher for Arc<Guard> {
    fn may_call(&self) -> bool {
        self.may.load(Ordering::SeqCst)
    }

    fn ended(&self, _: &Call) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

struct Suite {
    cloud: Arc<dyn Cloud>,
    subject: Subject,
}

impl Suite {
    async fn nothing_is_there_before(&self, cluster: &ClusterUid) -> Result<(), Violation> {
        let found = self.find(cluster).await?;
        ensure(found.is_empty(), || format!("a cluster nobody made has instances: {found:?}"))?;
        let unknown = InstanceId(format!("{}://nobody", self.cloud.name()));
        let removed = self.cloud.terminate(cluster, &unknown).await;
        ensure(matches!(removed, Err(CloudError::NotFound(_))), || format!("terminating nothing gave {removed:?}"))?;
        let removed = self.cloud.remove_network(cluster).await;
        ensure(matches!(removed, Err(CloudError::NotFound(_))), || format!("removing no network gave {removed:?}"))
    }

    async fn a_network_is_ensured_twice(&self, cluster: &ClusterUid) -> Result<(), Violation> {
        let request = network(cluster);
        let first = self.cloud.ensure_network(&request).await.map_err(call("making a network"))?;
        let second = self.cloud.ensure_network(&request).await.map_err(call("making the network again"))?;
        ensure(first == second, || format!("the same network twice: {first:?} and {second:?}"))?;
        let clusters = self.cloud.clusters().await.map_err(call("listing clusters"))?;
        ensure(clusters.contains(cluster), || "a cluster with a network is not listed".into())
    }

    /// Again, and eight times at once.
    async fn one_token_is_one_instance(&self, cluster: &ClusterUid) -> Result<Instance, Violation> {
        let request = self.request(cluster, "one", 1);
        let first = self.launch(&request).await?;
        ensure(first.node == request.node, || format!("launched for {:?}, tagged {:?}", request.node, first.node))?;
        let again = self.launch(&request).await?;
        ensure(again.id == first.id, || format!("a second launch gave {:?} after {:?}", again.id, first.id))?;

        let request = self.request(cluster, "two", 2);
        let launches = futures::future::join_all((0..8).map(|_| self.launch(&request))).await;
        let ids = launches.into_iter().map(|done| done.map(|i| i.id)).collect::<Result<BTreeSet<_>, _>>()?;
        ensure(ids.len() == 1, || format!("eight launches at once with one token gave {ids:?}"))?;
        let found = self.find(cluster).await?;
        ensure(found.len() == 2, || format!("two nodes were launched, listed are {found:?}"))?;
        Ok(first)
    }

    async fn clusters_do_not_see_each_other(
        &self,
        ours: &ClusterUid,
        other: &ClusterUid,
        first: &Instance,
    ) -> Result<(), Violation> {
        let theirs = self.launch(&self.request(other, "one", 1)).await?;
        ensure(theirs.id != first.id, || "two clusters share an instance".into())?;
        let found = self.find(ours).await?;
        ensure(found.iter().all(|i| i.id != theirs.id), || "a cluster lists another's instance".into())?;
        let removed = self.cloud.terminate(ours, &theirs.id).await;
        ensure(matches!(removed, Err(CloudError::NotFound(_))), || {
            format!("removing another's instance gave {removed:?}")
        })?;
        let still = self.find(other).await?;
        ensure(still.iter().any(|i| i.id == theirs.id && i.state != InstanceState::Terminating), || {
            "another's instance was touched".into()
        })
    }

    async fn targets_are_set_twice(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), Violation> {
        for _ in 0..2 {
            self.cloud
                .set_endpoint_targets(cluster, std::slice::from_ref(id))
                .await
                .map_err(call("setting targets"))?;
        }
        self.cloud.set_endpoint_targets(cluster, &[]).await.map_err(call("removing all targets"))
    }

    async fn a_removal_ends_with_not_found(&self, cluster: &ClusterUid, id: &InstanceId) -> Result<(), Violation> {
        let until = Instant::now() + self.subject.patience;
        loop {
            match self.cloud.terminate(cluster, id).await {
                Err(CloudError::NotFound(_)) => break,
                Ok(()) => {}
                Err(source) => return Err(Violation::Call { doing: "terminating", source }),
            }
            ensure(Instant::now() < until, || format!("{id:?} is still there"))?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let found = self.find(cluster).await?;
        ensure(found.iter().all(|i| i.id != *id), || "an instance that was not found is listed".into())?;
        ensure(found.len() == 1, || format!("removing one left {found:?}"))
    }

    async fn the_rest_goes(&self, cluster: &ClusterUid) -> Result<(), Violation> {
        let until = Instant::now() + self.subject.patience;
        for instance in self.find(cluster).await? {
            while !matches!(self.cloud.terminate(cluster, &instance.id).await, Err(CloudError::NotFound(_))) {
                ensure(Instant::now() < until, || format!("{:?} is still there", instance.id))?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        while !matches!(self.cloud.remove_network(cluster).await, Err(CloudError::NotFound(_))) {
            ensure(Instant::now() < until, || "the network is still there".into())?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let clusters = self.cloud.clusters().await.map_err(call("listing clusters"))?;
        ensure(!clusters.contains(cluster), || "a cluster of which nothing is left is listed".into())
    }

    /// Only of a cloud that is called, and so can be held back.
    async fn who_may_not_act_sends_nothing(&self, cluster: &ClusterUid, guard: &Guard) -> Result<(), Violation> {
        let before = guard.ended.load(Ordering::SeqCst);
        if self.cloud.calls().is_empty() {
            return Ok(());
        }
        ensure(before > 0, || "calls are counted, and nobody is told".into())?;
        guard.may.store(false, Ordering::SeqCst);
        let made = self.cloud.ensure_network(&network(cluster)).await.is_ok();
        let launched = self.cloud.launch(&self.request(cluster, "late", 7)).await.is_ok();
        guard.may.store(true, Ordering::SeqCst);
        ensure(!made && !launched, || "a call was answered that must not be sent".into())?;
        let sent = guard.ended.load(Ordering::SeqCst) - before;
        ensure(sent == 0, || format!("{sent} calls were sent by who may not act"))
    }

    fn request(&self, cluster: &ClusterUid, name: &str, index: u32) -> LaunchRequest {
        let node = NodeUid(format!("{}-{name}", cluster.0));
        LaunchRequest {
            cluster: cluster.clone(),
            name: format!("contract-{name}"),
            control_plane: false,
            image: self.subject.image.clone(),
            instance_type: self.subject.instance_type.clone(),
            zone: None,
            state_disk_bytes: 1 << 30,
            index,
            launch_config: (self.subject.launch_config)(cluster, &node),
            node,
        }
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<Instance, Violation> {
        self.cloud.launch(request).await.map_err(call("launching"))
    }

    async fn find(&self, cluster: &ClusterUid) -> Result<Vec<Instance>, Violation> {
        self.cloud.find(cluster).await.map_err(call("listing"))
    }
}

fn network(cluster: &ClusterUid) -> NetworkRequest {
    NetworkRequest { cluster: cluster.clone(), name: "contract".into(), node_cidr: "10.77.0.0/24".into() }
}

fn call(doing: &'static str) -> impl Fn(CloudError) -> Violation {
    move |source| Violation::Call { doing, source }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::Wrong(message())) }
}
