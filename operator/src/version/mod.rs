//! `NodeVersion`: is this release signed by its publisher, and what does a machine measure that runs it?
//!
//! observe reads the object and its manifest; [`appraise::appraise`] verifies and resolves (pure); the status is written
//! when it changed, and told as an Event. A `ConfigMap` that holds a manifest wakes the versions that name it.

pub mod appraise;

use std::{sync::Arc, time::Duration};

use constellation_crds::{
    NodeVersion, NodeVersionStatus,
    condition::{Condition, find, kind},
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    runtime::{
        controller::{Action, Config},
        reflector::ObjectRef,
    },
};

use self::appraise::{MANIFEST_KEY, Manifest, Observed};
use crate::{
    context::Context,
    error::{Error, chain},
    events::Told,
    status, watch,
};

/// Field manager of a version's status.
const MANAGER: &str = "constellation-version";
/// One reconcile is a few API calls; at twice this the API server is in trouble and waiting doesn't help.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a signed manifest is looked at that nobody changed.
const SIGNED: Duration = Duration::from_hours(1);
/// Versions are few and cheap.
const CONCURRENCY: u16 = 4;
/// What changed between look and word wakes us; this is for when the watch doesn't tell.
const AGAIN: Duration = Duration::from_secs(2);

/// Reconciles versions for ever.
pub async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let controller = watch::controller(context.scope::<NodeVersion>(), context.relist, &context.health);
    let store = controller.store();
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches_stream(context.watch::<ConfigMap>(), move |map| {
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
        tokio::time::timeout(LIMIT, look_and_tell(&version, &context))
            .await
            .map_err(|_| Error::Time("reconciling a node version"))?
    };
    let action = context.metrics.pass("version", look).await?;
    context.failures.forget(&version.uid().unwrap_or_default());
    Ok(action)
}

async fn look_and_tell(version: &NodeVersion, context: &Context) -> Result<Action, Error> {
    let (client, namespace) = (&context.client, version.namespace().unwrap_or_default());
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
        match tell(context, version, status).await {
            Err(error) if error.is_conflict() => return Ok(Action::requeue(AGAIN)),
            told => told?,
        }
    }
    // The end of a manifest wakes nobody.
    Ok(version.spec.measurements.signed.as_ref().map_or_else(Action::await_change, |_| Action::requeue(SIGNED)))
}

/// Writes the status, and an Event where it says something else.
async fn tell(context: &Context, version: &NodeVersion, status: NodeVersionStatus) -> Result<(), Error> {
    let (name, namespace) = (version.name_any(), version.namespace().unwrap_or_default());
    match status::put(&context.client, version, &status, MANAGER).await {
        Ok(_) => {}
        // It went away between look and word.
        Err(kube::Error::Api(answer)) if answer.is_not_found() => return Ok(()),
        Err(error) => return Err(Error::kube(format!("writing the status of node version {name}"))(error)),
    }
    tracing::info!(namespace, name, digest = status.digest, "Appraised node version");
    if let Some(told) = news(version.status.as_ref(), &status) {
        context.events.tell(version, told).await;
    }
    Ok(())
}

/// What people are told when `Ready` says something else. A version that can't be used is always somebody's mistake. Pure.
fn news(before: Option<&NodeVersionStatus>, after: &NodeVersionStatus) -> Option<Told> {
    let ready = |status: &NodeVersionStatus| find(&status.conditions, kind::READY).cloned();
    let said = |c: &Condition| (c.status.clone(), c.reason.clone(), c.message.clone());
    let now = ready(after)?;
    let known = before.and_then(ready).is_some_and(|before| said(&before) == said(&now));
    (!known).then(|| Told { warning: now.status != "True", reason: now.reason, note: now.message })
}

#[allow(clippy::needless_pass_by_value, reason = "kube calls it with these")]
fn on_error(version: Arc<NodeVersion>, error: &Error, context: Arc<Context>) -> Action {
    tracing::warn!(name = version.name_any(), error = chain(error), category = error.category(), "Reconcile failed");
    Action::requeue(context.failures.failed(&version.uid().unwrap_or_default(), error))
}

#[cfg(test)]
mod tests {
    use constellation_crds::condition::{Status, reason, set};

    use super::*;

    fn given(ready: Status, why: &str, message: &str, generation: i64) -> NodeVersionStatus {
        let mut status = NodeVersionStatus::default();
        let now = jiff::Timestamp::UNIX_EPOCH;
        set(&mut status.conditions, kind::READY, ready, why, message, Some(generation), now);
        status
    }

    #[test]
    fn a_version_is_told_when_it_says_something_else_and_as_a_warning_while_it_cannot_be_used() {
        let told = |before: Option<&NodeVersionStatus>, after: &NodeVersionStatus| {
            news(before, after).map(|told| (told.warning, told.reason))
        };
        let usable = given(Status::True, reason::RECONCILED, "1 measurement set(s) can be used", 1);
        let unsigned = given(Status::False, reason::SIGNATURE_INVALID, "by another key", 1);
        let broken = given(Status::False, reason::SIGNATURE_INVALID, "no envelope", 1);
        let (good, bad) = (Some((false, "Reconciled".to_owned())), Some((true, "SignatureInvalid".to_owned())));
        assert_eq!(told(None, &usable), good);
        assert_eq!(told(Some(&usable), &unsigned), bad);
        assert_eq!(told(Some(&unsigned), &broken), bad);
        assert_eq!(told(Some(&broken), &usable), good);
        let edited = given(Status::True, reason::RECONCILED, "1 measurement set(s) can be used", 2);
        assert_eq!(told(Some(&usable), &edited), None);
    }
}
