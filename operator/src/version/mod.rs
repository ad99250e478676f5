//! `NodeVersion`: is this release signed by its publisher, and what does a machine measure that runs it?
//!
//! observe reads the object and its manifest; [`appraise::appraise`] verifies and resolves (pure); the status is written
//! when it changed. A `ConfigMap` that holds a manifest wakes the versions that name it.

pub mod appraise;

use std::{sync::Arc, time::Duration};

use constellation_crds::NodeVersion;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{
        Controller,
        controller::{Action, Config},
        reflector::ObjectRef,
        watcher,
    },
};

use self::appraise::{MANIFEST_KEY, Manifest, Observed};
use crate::{
    context::Context,
    error::{Error, chain},
};

/// Field manager of a version's status.
const MANAGER: &str = "constellation-version";
/// One reconcile is a few API calls; at twice this the API server is in trouble and waiting doesn't help.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a signed manifest is looked at that nobody changed.
const SIGNED: Duration = Duration::from_hours(1);
/// Versions are few and cheap.
const CONCURRENCY: u16 = 4;

/// Reconciles versions for ever.
pub async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (versions, maps): (Api<NodeVersion>, Api<ConfigMap>) = (context.scope(), context.scope());
    let controller = Controller::new(versions, watcher::Config::default());
    let store = controller.store();
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches(maps, watcher::Config::default(), move |map| {
            let (name, namespace) = (map.name_any(), map.namespace());
            let named = |version: &NodeVersion| {
                version.namespace() == namespace
                    && version.spec.measurements.signed.as_ref().is_some_and(|signed| signed.config_map == name)
            };
            store.state().iter().filter(|v| named(v)).map(|v| ObjectRef::from_obj(v.as_ref())).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(error = chain(&error), "Controller of versions");
            }
        })
        .await;
}

async fn reconcile(version: Arc<NodeVersion>, context: Arc<Context>) -> Result<Action, Error> {
    let look = async {
        tokio::time::timeout(LIMIT, look_and_tell(&version, &context.client))
            .await
            .map_err(|_| Error::Time("reconciling a node version"))?
    };
    let action = context.metrics.pass("version", look).await?;
    context.failures.forget(&version.uid().unwrap_or_default());
    Ok(action)
}

async fn look_and_tell(version: &NodeVersion, client: &Client) -> Result<Action, Error> {
    let name = version.name_any();
    let namespace = version.namespace().unwrap_or_default();
    let manifest = match &version.spec.measurements.signed {
        None => Manifest::Inline,
        Some(signed) => {
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
            let map = maps
                .get_opt(&signed.config_map)
                .await
                .map_err(Error::kube(format!("reading ConfigMap {}", signed.config_map)))?;
            map.and_then(|map| map.data.and_then(|mut data| data.remove(MANIFEST_KEY)))
                .map_or(Manifest::Missing, Manifest::Envelope)
        }
    };
    let observed = Observed { version, manifest: &manifest, now: jiff::Timestamp::now() };
    let status = appraise::appraise(&observed);
    if version.status.as_ref() != Some(&status) {
        let body = serde_json::json!({
            "apiVersion": "constellation.dev/v1alpha1", "kind": "NodeVersion", "metadata": {"name": name}, "status": status,
        });
        let api: Api<NodeVersion> = Api::namespaced(client.clone(), &namespace);
        api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))
            .await
            .map_err(Error::kube(format!("writing the status of node version {name}")))?;
        tracing::info!(namespace, name, digest = status.digest, "Appraised node version");
    }
    // The end of a manifest wakes nobody.
    Ok(version.spec.measurements.signed.as_ref().map_or_else(Action::await_change, |_| Action::requeue(SIGNED)))
}

#[allow(clippy::needless_pass_by_value, reason = "kube calls it with these")]
fn on_error(version: Arc<NodeVersion>, error: &Error, context: Arc<Context>) -> Action {
    tracing::warn!(name = version.name_any(), error = chain(error), category = error.category(), "Reconcile failed");
    Action::requeue(context.failures.wait(&version.uid().unwrap_or_default(), error))
}
