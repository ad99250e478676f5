//! Removes from the clouds what belongs to no cluster, or in a cluster to no node: compared every few minutes, removed when seen twice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use constellation_crds::{ConfidentialNode, ConstellationCluster, cluster::DeletionPolicy};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    cloud::{Cloud, CloudError, ClusterUid, InstanceId, offer::provider},
    cluster::observe::is_paused,
    context::Context,
    error::{Error, chain},
    metrics::whose,
};

/// On a `ConfigMap`: UID of a cluster whose VMs its user left running; the sweep spares them while the record is there.
pub const LABEL_ORPHANED: &str = "constellation.dev/orphaned-cluster-uid";

/// What was unknown at a look: name of the cloud, UID of the cluster, and an instance, or nothing for all of the cluster.
type Suspect = (String, ClusterUid, Option<InstanceId>);

/// Sweeps until `stop`, once per `interval`.
pub async fn run(ctx: Arc<Context>, interval: Duration, stop: impl Future<Output = ()> + Send) {
    let work = async {
        let mut suspects = BTreeSet::new();
        loop {
            tokio::time::sleep(interval).await;
            match sweep(&ctx, &suspects).await {
                Ok(unknown) => suspects = unknown,
                Err(error) => tracing::warn!(error = chain(&error), "Sweeping failed"),
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stop => {}
    }
}

/// One comparison; gives what is unknown now. A thing goes when it was unknown before.
async fn sweep(ctx: &Context, before: &BTreeSet<Suspect>) -> Result<BTreeSet<Suspect>, Error> {
    let mut unknown = BTreeSet::new();
    for (name, cloud) in &ctx.clouds.all() {
        // The cloud first: a cluster that is made meanwhile is known then, and not taken for a leak.
        let there = match cloud.clusters().await {
            Ok(there) => there,
            // The other clouds are swept all the same.
            Err(error) => {
                tracing::warn!(cloud = name, error = chain(&error), "Looking for what belongs to no cluster failed");
                unknown.extend(before.iter().filter(|(cloud, ..)| cloud == name).cloned());
                continue;
            }
        };
        let suspects = strangers(ctx, name, cloud.as_ref(), there).await?;
        for (_, cluster, _) in suspects.iter().filter(|suspect| before.contains(suspect)) {
            ctx.fence.check()?;
            tracing::warn!(cloud = name, cluster = cluster.0, "Removing what belongs to no cluster");
            if let Err(error) = remove(cloud.as_ref(), cluster).await {
                tracing::warn!(cloud = name, cluster = cluster.0, error = chain(&error), "Removing it failed");
            }
        }
        unknown.extend(suspects);
    }
    let known = clusters(ctx).await?;
    ctx.metrics.keep(&known.iter().map(whose).collect());
    for cluster in &known {
        // A cloud that can't be used now is told by the cluster's own condition.
        let Ok(cloud) = ctx.cloud(cluster).await else { continue };
        let suspects = match machines(ctx, cloud.as_ref(), cluster).await {
            Ok(suspects) => suspects,
            // What one cluster's cloud doesn't answer keeps nobody else's leaks.
            Err(error) => {
                let uid = cluster.uid().unwrap_or_default();
                tracing::warn!(cluster = uid, error = chain(&error), "Looking for machines without a node failed");
                unknown.extend(before.iter().filter(|(_, of, _)| of.0 == uid).cloned());
                continue;
            }
        };
        for (_, uid, instance) in suspects.iter().filter(|suspect| before.contains(suspect)) {
            ctx.fence.check()?;
            tracing::warn!(cluster = uid.0, ?instance, "Removing a machine that belongs to no node");
            if let Some(id) = instance
                && let Err(error) = gone(cloud.terminate(uid, id).await)
            {
                tracing::warn!(cluster = uid.0, ?instance, error = chain(&error), "Removing it failed");
            }
        }
        unknown.extend(suspects);
    }
    Ok(unknown)
}

async fn clusters(ctx: &Context) -> Result<Vec<ConstellationCluster>, Error> {
    let list = ctx.scope::<ConstellationCluster>().list(&ListParams::default()).await;
    Ok(list.map_err(Error::kube("listing clusters"))?.items)
}

/// Clusters of the cloud that have no object. An operator of one namespace can't judge those of a cloud that others
/// use as well.
async fn strangers(
    ctx: &Context,
    name: &str,
    cloud: &dyn Cloud,
    there: Vec<ClusterUid>,
) -> Result<Vec<Suspect>, Error> {
    if ctx.namespace.is_some() && !cloud.exclusive() {
        return Ok(Vec::new());
    }
    let records = ctx.scope::<ConfigMap>().list(&ListParams::default().labels(LABEL_ORPHANED)).await;
    let records = records.map_err(Error::kube("listing clusters that were left running"))?;
    let mut known: BTreeSet<_> = clusters(ctx).await?.iter().filter_map(ResourceExt::uid).collect();
    known.extend(records.items.iter().filter_map(|record| record.labels().get(LABEL_ORPHANED).cloned()));
    Ok(there.into_iter().filter(|uid| !known.contains(&uid.0)).map(|uid| (name.to_owned(), uid, None)).collect())
}

/// Whether its machines stay as they are: it is paused, or it goes and leaves them running.
fn is_spared(cluster: &ConstellationCluster) -> bool {
    let leaves = cluster.metadata.deletion_timestamp.is_some();
    if leaves { cluster.spec.deletion_policy == Some(DeletionPolicy::Orphan) } else { is_paused(cluster) }
}

/// Machines of a cluster that have no node: one whose launch answered late, or that listings did not show when its
/// node went.
async fn machines(ctx: &Context, cloud: &dyn Cloud, cluster: &ConstellationCluster) -> Result<Vec<Suspect>, Error> {
    if is_spared(cluster) {
        return Ok(Vec::new());
    }
    let uid = ClusterUid(cluster.uid().unwrap_or_default());
    let instances = match cloud.find(&uid).await {
        Ok(instances) => instances,
        Err(CloudError::NotFound(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if instances.is_empty() {
        return Ok(Vec::new());
    }
    // The nodes after the machines: a machine is launched for a node that is there already.
    let nodes: Api<ConfidentialNode> = Api::namespaced(ctx.client.clone(), &cluster.namespace().unwrap_or_default());
    let nodes = nodes.list(&ListParams::default()).await.map_err(Error::kube("listing nodes"))?.items;
    let nodes: BTreeSet<_> = nodes.iter().filter_map(ResourceExt::uid).collect();
    let strangers = instances.into_iter().filter(|instance| !nodes.contains(&instance.node.0));
    Ok(strangers.map(|instance| (provider(cluster).to_owned(), uid.clone(), Some(instance.id))).collect())
}

/// Removes what is there of a cluster: its machines, and when there are none, its network.
async fn remove(cloud: &dyn Cloud, cluster: &ClusterUid) -> Result<(), Error> {
    let instances = cloud.find(cluster).await?;
    for instance in &instances {
        gone(cloud.terminate(cluster, &instance.id).await)?;
    }
    if instances.is_empty() {
        gone(cloud.remove_network(cluster).await)?;
    }
    Ok(())
}

fn gone(result: Result<(), CloudError>) -> Result<(), Error> {
    match result {
        Ok(()) | Err(CloudError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use constellation_crds::ANNOTATION_PAUSED;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    #[test]
    fn machines_of_a_paused_cluster_are_spared_unless_it_goes_and_orphans_only_when_it_goes() {
        for (paused, annotated, goes, orphan, spared) in [
            (false, false, false, false, false),
            (true, false, false, false, true),
            (false, true, false, false, true),
            (true, true, true, false, false),
            (false, false, true, false, false),
            (false, false, true, true, true),
            (true, true, true, true, true),
            (false, false, false, true, false),
        ] {
            let spec = json!({
                "provider": {"simulated": {}}, "tee": "vtpm", "nodeVersion": "v", "paused": paused,
                "controlPlane": {"replicas": 1, "instanceType": "any"},
                "deletionPolicy": if orphan { "Orphan" } else { "Delete" },
            });
            let mut cluster = ConstellationCluster::new("c", serde_json::from_value(spec).unwrap());
            if annotated {
                cluster.annotations_mut().insert(ANNOTATION_PAUSED.into(), String::new());
            }
            cluster.metadata.deletion_timestamp = goes.then_some(Time(Timestamp::UNIX_EPOCH));
            assert_eq!(is_spared(&cluster), spared, "{paused} {annotated} {goes} {orphan}");
        }
    }
}
