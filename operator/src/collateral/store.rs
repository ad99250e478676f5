//! What is there of makers' and clouds' words about machines: a `ConfigMap` beside the cluster, written by its owner, by
//! who fetches, or by both.
//!
//! Nothing in it is believed for being there; a word that is missing refuses a machine and never admits one. The trust
//! bundle hands it to the verifiers. A machine of the local host needs none, and then nobody asks for it.

use std::collections::BTreeMap;

use constellation_attestation::{
    collateral::{Entry, Key},
    endorsers::Endorsers,
    platform::Platform,
};
use constellation_crds::ConstellationCluster;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The `ConfigMap`, in the cluster's namespace; its keys and values are those of
/// [`Cache::read`](constellation_attestation::collateral::Cache::read).
pub const NAME: &str = "constellation-collateral";
/// Field manager of what was fetched.
const MANAGER: &str = "constellation-collateral";

/// What stands there, for a platform that needs any.
///
/// # Errors
/// When the API server doesn't answer.
pub async fn read(
    client: &Client,
    cluster: &ConstellationCluster,
    platform: &str,
) -> kube::Result<BTreeMap<String, String>> {
    if !platform.parse::<Platform>().is_ok_and(Platform::needs_collateral) {
        return Ok(BTreeMap::new());
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    Ok(maps.get_opt(NAME).await?.and_then(|map| map.data).unwrap_or_default())
}

/// Whom the owner believes about machines. What can't be read is as good as absent.
#[must_use]
pub fn endorsers(texts: &BTreeMap<String, String>) -> Endorsers {
    let (endorsers, errors) = Endorsers::read(texts);
    for error in errors {
        tracing::warn!(%error, "A part of ConfigMap {NAME} can't be used");
    }
    endorsers
}

/// Writes one entry and touches no other: what the owner wrote stays the owner's. Several clusters may share the map, so
/// it goes with none of them.
///
/// # Errors
/// When the API server refuses or doesn't answer.
pub async fn keep(client: &Client, namespace: &str, key: &Key, entry: &Entry) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let body = json!({"data": {(key.to_string()): entry.write()}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match maps.patch(NAME, &params, &Patch::Merge(&body)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            let mut map = ConfigMap { data: Some([(key.to_string(), entry.write())].into()), ..ConfigMap::default() };
            map.metadata.name = Some(NAME.to_owned());
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            maps.create(&params, &map).await.map(drop)
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_is_kept_and_the_rest_is_as_good_as_absent() {
        let word = r#"{"fetched":"2026-01-01T00:00:00Z","base64":"AQI="}"#.to_owned();
        let good = BTreeMap::from([("snp-crl.Milan".to_owned(), word.clone())]);
        assert_eq!(endorsers(&good).collateral.write().collect::<BTreeMap<_, _>>(), good);
        for (name, text) in [("snp-crl.Genoa", "{}"), ("another", word.as_str())] {
            let mut texts = good.clone();
            texts.insert(name.to_owned(), text.to_owned());
            assert_eq!(endorsers(&texts).collateral.write().collect::<BTreeMap<_, _>>(), good, "{name}");
        }
    }
}
