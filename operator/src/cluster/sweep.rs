//! Removes from the clouds what belongs to no cluster: compared every few minutes, removed when seen twice.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use constellation_crds::ConstellationCluster;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    cloud::{Cloud, CloudError, ClusterUid},
    context::Context,
    error::{Error, chain},
};

/// Often enough that a leak costs cents, seldom enough to be no load.
const INTERVAL: Duration = Duration::from_mins(5);

/// On a `ConfigMap`: UID of a cluster whose VMs its user left running; the sweep spares them while the record is there.
pub const LABEL_ORPHANED: &str = "constellation.dev/orphaned-cluster-uid";

/// Sweeps until `stop`. Only an operator that sees all namespaces may: another's clusters are unknown to it.
pub async fn run(ctx: Arc<Context>, stop: impl Future<Output = ()> + Send) {
    let work = async {
        if ctx.namespace.is_some() {
            std::future::pending::<()>().await;
        }
        let mut suspects = BTreeSet::new();
        loop {
            tokio::time::sleep(INTERVAL).await;
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
async fn sweep(ctx: &Context, before: &BTreeSet<(String, String)>) -> Result<BTreeSet<(String, String)>, Error> {
    let mut unknown = BTreeSet::new();
    for (name, cloud) in &ctx.clouds.all().await {
        // The cloud first: a cluster that is made meanwhile is known then, and not taken for a leak.
        let there = match cloud.clusters().await {
            Ok(there) => there,
            // The other clouds are swept all the same.
            Err(error) => {
                tracing::warn!(cloud = name, error = chain(&error), "Looking for what belongs to no cluster failed");
                continue;
            }
        };
        let clusters: Api<ConstellationCluster> = Api::all(ctx.client.clone());
        let known = clusters.list(&ListParams::default()).await.map_err(Error::kube("listing clusters"))?;
        let mut known: BTreeSet<_> = known.items.iter().filter_map(ResourceExt::uid).collect();
        let records: Api<ConfigMap> = Api::all(ctx.client.clone());
        let records = records.list(&ListParams::default().labels(LABEL_ORPHANED)).await;
        let records = records.map_err(Error::kube("listing clusters that were left running"))?;
        known.extend(records.items.iter().filter_map(|record| record.labels().get(LABEL_ORPHANED).cloned()));
        for cluster in there.into_iter().filter(|cluster| !known.contains(&cluster.0)) {
            let key = (name.clone(), cluster.0.clone());
            if before.contains(&key) {
                tracing::warn!(cloud = name, cluster = cluster.0, "Removing what belongs to no cluster");
                remove(cloud.as_ref(), &cluster).await?;
            }
            unknown.insert(key);
        }
    }
    Ok(unknown)
}

async fn remove(cloud: &dyn Cloud, cluster: &ClusterUid) -> Result<(), Error> {
    let instances = cloud.find(cluster).await?;
    for instance in &instances {
        match cloud.terminate(cluster, &instance.id).await {
            Ok(()) | Err(CloudError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if instances.is_empty() {
        match cloud.remove_network(cluster).await {
            Ok(()) | Err(CloudError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
