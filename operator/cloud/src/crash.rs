//! What every cloud must keep when the operator's process dies: after any of its calls, another goes on to the same end.
//!
//! A process that dies is a future that is dropped while its last call was carried out and not answered. Not behind
//! `cfg(test)`: rooms live in other crates.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;

use crate::{
    Cloud, CloudError, ClusterUid, Instance, InstanceState, LaunchRequest, NetworkRequest, NodeUid, contract::Subject,
};

/// A scripted cloud, and processes that use it.
#[async_trait]
pub trait Rig: Send + Sync {
    /// The cloud of a process that was just started: it remembers nothing.
    async fn process(&self) -> Arc<dyn Cloud>;

    /// Has the `call`-th call from now on, the first being 0, carried out and never answered; or no call any more.
    fn kill(&self, call: Option<u64>);

    /// Waits until that call was carried out.
    async fn killed(&self);

    /// All that the cloud has, without what differs from run to run.
    fn picture(&self) -> Vec<String>;
}

/// Parts of a cluster's life, by the nodes that are wanted.
const LIFE: [&[&str]; 3] = [&["a", "b"], &["b", "c"], &[]];
/// Looks at the world until it is as wanted; a network takes some to go. At twice this something is stuck.
const PASSES: u32 = 60;

/// Creates, rolls and deletes a cluster on clouds that `new` makes, killed at each call; gives the number of kills.
///
/// # Errors
/// The first end that is another than that of an undisturbed life.
pub async fn check<R: Rig>(new: impl AsyncFn() -> R, subject: &Subject) -> Result<u64, String> {
    let cluster = ClusterUid("crash".into());
    let mut kills = 0;
    for (part, nodes) in LIFE.into_iter().enumerate() {
        let calm = before(&new, subject, &cluster, part).await?;
        reach(calm.process().await.as_ref(), subject, &cluster, nodes).await?;
        for call in 0.. {
            let rig = before(&new, subject, &cluster, part).await?;
            let cloud = rig.process().await;
            rig.kill(Some(call));
            let killed = tokio::select! {
                done = reach(cloud.as_ref(), subject, &cluster, nodes) => done.map(|()| false)?,
                () = rig.killed() => true,
            };
            if !killed {
                break;
            }
            kills += 1;
            rig.kill(None);
            let what = |why: String| format!("killed after call {call} on the way to {nodes:?}: {why}");
            reach(rig.process().await.as_ref(), subject, &cluster, nodes).await.map_err(what)?;
            if rig.picture() != calm.picture() {
                return Err(what(format!("{:#?} instead of {:#?}", rig.picture(), calm.picture())));
            }
        }
    }
    Ok(kills)
}

/// A cloud in which all earlier parts went well.
async fn before<R: Rig>(
    new: &impl AsyncFn() -> R,
    subject: &Subject,
    cluster: &ClusterUid,
    part: usize,
) -> Result<R, String> {
    let rig = new().await;
    for nodes in &LIFE[..part] {
        reach(rig.process().await.as_ref(), subject, cluster, nodes).await?;
    }
    Ok(rig)
}

/// Looks and acts until nothing is left to do, as the operator does; what may pass is tried again.
async fn reach(cloud: &dyn Cloud, subject: &Subject, cluster: &ClusterUid, nodes: &[&str]) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..PASSES {
        match pass(cloud, subject, cluster, nodes).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error @ (CloudError::NotFound(_) | CloudError::Transient(_))) => last = error.to_string(),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("not there after {PASSES} looks; the last failure: {last:?}"))
}

async fn pass(cloud: &dyn Cloud, subject: &Subject, cluster: &ClusterUid, nodes: &[&str]) -> Result<bool, CloudError> {
    if nodes.is_empty() {
        let there = cloud.find(cluster).await?;
        for instance in &there {
            terminate(cloud, cluster, instance).await?;
        }
        return match cloud.remove_network(cluster).await {
            Err(CloudError::NotFound(_)) => Ok(there.is_empty()),
            removed => removed.map(|()| false),
        };
    }
    let node_cidr = "10.77.0.0/16".to_owned();
    cloud.ensure_network(&NetworkRequest { cluster: cluster.clone(), name: "crash".into(), node_cidr }).await?;
    let there = cloud.find(cluster).await?;
    let known: BTreeSet<&str> = there.iter().map(|instance| instance.node.0.as_str()).collect();
    let mut settled = known == nodes.iter().copied().collect();
    for (index, name) in (0..).zip(nodes).filter(|(_, name)| !known.contains(**name)) {
        cloud.launch(&request(subject, cluster, name, index)).await?;
    }
    for instance in there.iter().filter(|instance| !nodes.contains(&instance.node.0.as_str())) {
        terminate(cloud, cluster, instance).await?;
    }
    let targets: Vec<_> = there.iter().filter(|instance| instance.node.0 == nodes[0]).map(|i| i.id.clone()).collect();
    cloud.set_endpoint_targets(cluster, &targets).await?;
    settled &= there.iter().all(|instance| instance.state == InstanceState::Running);
    Ok(settled)
}

async fn terminate(cloud: &dyn Cloud, cluster: &ClusterUid, instance: &Instance) -> Result<(), CloudError> {
    match cloud.terminate(cluster, &instance.id).await {
        Err(CloudError::NotFound(_)) => Ok(()),
        ended => ended,
    }
}

fn request(subject: &Subject, cluster: &ClusterUid, name: &str, index: u32) -> LaunchRequest {
    let node = NodeUid(name.to_owned());
    LaunchRequest {
        cluster: cluster.clone(),
        name: format!("crash-{name}"),
        control_plane: index == 0,
        image: subject.image.clone(),
        instance_type: subject.instance_type.clone(),
        zone: None,
        state_disk_bytes: 1 << 30,
        index,
        launch_config: (subject.launch_config)(cluster, &node),
        node,
    }
}
