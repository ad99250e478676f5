//! One VM, one launch: finalizer, launch, admission; then, when it goes, pods, etcd, VM, object.
//!
//! A node is never repaired. One that is refused, vanishes or runs out of time is Failed, and the cluster's
//! controller makes another.

pub mod apply;
pub mod hold;
pub mod news;
pub mod observe;
pub mod plan;
pub mod report;
pub mod seen;

use std::{sync::Arc, time::Duration};

use constellation_crds::{ConfidentialNode, ConfidentialNodeStatus, ConstellationCluster};
use futures::StreamExt as _;
use kube::{
    ResourceExt as _,
    runtime::{
        controller::{Action, Config},
        reflector::ObjectRef,
    },
};

use crate::{
    context::Context,
    error::{Error, chain},
    status, watch,
};

const MANAGER: &str = "constellation-node-status";
/// Leaving etcd is the longest step and has its own limit of two minutes.
const LIMIT: Duration = Duration::from_mins(3);
/// Nodes at a time; each look is one call of the cloud and three of an API server.
const CONCURRENCY: u16 = 8;
/// What was just done shows at once, or at the next look.
const NEXT: Duration = Duration::from_millis(300);
/// A VM may vanish without a word; this bounds how long that goes unnoticed.
const LATER: Duration = Duration::from_secs(20);

/// Reconciles nodes for ever.
pub async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let controller = watch::controller(context.scope::<ConfidentialNode>(), context.relist, &context.health);
    let store = controller.store();
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches_stream(context.watch::<ConstellationCluster>(), move |cluster| {
            let (name, namespace) = (cluster.name_any(), cluster.namespace());
            let of = |node: &ConfidentialNode| node.namespace() == namespace && node.spec.cluster_ref.name == name;
            store.state().iter().filter(|n| of(n)).map(|n| ObjectRef::from_obj(n.as_ref())).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(error = chain(&error), "Controller of nodes");
            }
        })
        .await;
}

async fn reconcile(node: Arc<ConfidentialNode>, context: Arc<Context>) -> Result<Action, Error> {
    let look = Box::pin(async {
        tokio::time::timeout(LIMIT, Box::pin(pass(&context, &node)))
            .await
            .map_err(|_| Error::Time("reconciling a node"))?
    });
    context.metrics.pass("node", look).await
}

async fn pass(context: &Context, node: &ConfidentialNode) -> Result<Action, Error> {
    let look = observe::observe(context, node).await?;
    let plan = plan::plan(&look.seen);
    let outcome = apply::apply(context, &look, &plan).await;
    let dropped = outcome.done.contains(&plan::Step::DropFinalizer);
    context.fence.check()?;
    let uid = node.uid().unwrap_or_default();
    if dropped {
        context.metrics.gone(&uid);
    } else {
        let status = report::report(&look.seen, &outcome);
        if let Some(phase) = status.phase {
            context.metrics.place(node, phase);
        }
        if node.status.as_ref() != Some(&status) {
            tell(context, node, status).await?;
            context.looks.forget(&uid);
        }
    }
    // While a VM boots or pods leave nobody tells us.
    if !plan.soon || !outcome.done.is_empty() {
        context.looks.forget(&uid);
    }
    let next = match (outcome.again, outcome.done.is_empty(), plan.soon) {
        (Some(again), _, _) => again.min(LATER),
        (None, false, _) => NEXT,
        (None, true, true) => context.looks.waited(&uid),
        (None, true, false) => LATER,
    };
    if outcome.failed.is_none() {
        context.failures.forget(&uid);
    }
    Ok(if dropped { Action::await_change() } else { Action::requeue(next) })
}

/// Writes a status that changed, and an event for each change that a person waits for.
async fn tell(context: &Context, node: &ConfidentialNode, status: ConfidentialNodeStatus) -> Result<(), Error> {
    match status::put(&context.client, node, &status, MANAGER).await {
        Ok(_) => {}
        // It went away, or changed, between look and word: there is another look.
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => return Ok(()),
        Err(error) => return Err(Error::kube(format!("writing the status of node {}", node.name_any()))(error)),
    }
    let before = node.status.clone().unwrap_or_default();
    context.metrics.changed(&before, &status);
    for told in news::news(&before, &status) {
        context.events.tell(node, told).await;
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "kube calls it with these")]
fn on_error(node: Arc<ConfidentialNode>, error: &Error, context: Arc<Context>) -> Action {
    tracing::warn!(name = node.name_any(), error = chain(error), category = error.category(), "Reconcile failed");
    Action::requeue(context.failures.failed(&node.uid().unwrap_or_default(), error).min(LATER))
}
