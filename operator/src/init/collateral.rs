//! What the owner has of makers' and clouds' words about machines: a `ConfigMap` beside the cluster.
//!
//! Nothing in it is believed for being there; a word that is missing refuses a machine and never admits one. A machine
//! of the local host needs none, and then nobody asks for it.

use std::sync::Arc;

use constellation_attestation::{collateral::Cache, endorsers::Endorsers, platform::Platform};
use constellation_crds::ConstellationCluster;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt as _};

/// The `ConfigMap`, in the cluster's namespace; its keys and values are those of
/// [`Cache::read`](constellation_attestation::collateral::Cache::read).
pub const NAME: &str = "constellation-collateral";

/// Whom the owner believes about machines of a platform.
///
/// # Errors
/// When the API server doesn't answer.
pub async fn endorsers(
    client: &Client,
    cluster: &ConstellationCluster,
    platform: &str,
) -> kube::Result<Arc<Endorsers>> {
    let cache = match platform.parse::<Platform>() {
        Ok(platform) if platform.needs_collateral() => read(client, cluster).await?,
        _ => Cache::default(),
    };
    Ok(Arc::new(Endorsers::pinned(cache)))
}

async fn read(client: &Client, cluster: &ConstellationCluster) -> kube::Result<Cache> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let texts = maps.get_opt(NAME).await?.and_then(|map| map.data).unwrap_or_default();
    let cache = Cache::read(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    Ok(cache.unwrap_or_else(|error| {
        tracing::warn!(%error, "ConfigMap {NAME} can't be used");
        Cache::default()
    }))
}
