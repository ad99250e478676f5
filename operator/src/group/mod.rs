//! `NodeGroup`: tells how many nodes a group has; its size is for others to write.

use std::{sync::Arc, time::Duration};

use constellation_crds::{
    ConfidentialNode, LABEL_CLUSTER, LABEL_GROUP, NodeGroup, NodeGroupStatus,
    condition::{self, Status, kind, reason},
    node::Phase,
};
use futures::StreamExt as _;
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
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

const MANAGER: &str = "constellation-group-status";
/// Two calls; at twice this the API server is in trouble.
const LIMIT: Duration = Duration::from_secs(30);
const CONCURRENCY: u16 = 4;
/// What changed between look and word wakes us; this is for when the watch doesn't tell.
const AGAIN: Duration = Duration::from_secs(2);

/// Reconciles groups for ever.
pub async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let controller = watch::controller(context.scope::<NodeGroup>(), context.relist, &context.health);
    let store = controller.store();
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches_stream(context.watch::<ConfidentialNode>(), move |node| {
            let of = |group: &NodeGroup| {
                group.namespace() == node.namespace()
                    && group.spec.cluster_ref == node.spec.cluster_ref
                    && group.spec.group == node.spec.node_group
            };
            store.state().iter().filter(|g| of(g)).map(|g| ObjectRef::from_obj(g.as_ref())).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(error = chain(&error), "Controller of groups");
            }
        })
        .await;
}

async fn reconcile(group: Arc<NodeGroup>, context: Arc<Context>) -> Result<Action, Error> {
    let look = async {
        tokio::time::timeout(LIMIT, pass(&context, &group)).await.map_err(|_| Error::Time("reconciling a group"))?
    };
    let action = context.metrics.pass("group", look).await?;
    context.failures.forget(&group.uid().unwrap_or_default());
    Ok(action)
}

async fn pass(context: &Context, group: &NodeGroup) -> Result<Action, Error> {
    let nodes: Api<ConfidentialNode> = Api::namespaced(context.client.clone(), &group.namespace().unwrap_or_default());
    let list = nodes.list(&ListParams::default()).await.map_err(Error::kube("listing nodes"))?;
    let phases: Vec<_> = list
        .iter()
        .filter(|node| node.spec.cluster_ref == group.spec.cluster_ref && node.spec.node_group == group.spec.group)
        .filter(|node| node.metadata.deletion_timestamp.is_none())
        .map(|node| node.status.as_ref().and_then(|status| status.phase))
        .collect();
    let status = report(group, &phases, jiff::Timestamp::now());
    if group.status.as_ref() != Some(&status) {
        match status::put(&context.client, group, &status, MANAGER).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.is_conflict() => return Ok(Action::requeue(AGAIN)),
            Err(error) => return Err(Error::kube(format!("writing the status of group {}", group.name_any()))(error)),
        }
    }
    Ok(Action::await_change())
}

/// The status. Pure.
fn report(group: &NodeGroup, phases: &[Option<Phase>], now: jiff::Timestamp) -> NodeGroupStatus {
    let generation = group.metadata.generation;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (wanted, have) = (group.spec.replicas, count(phases.len()));
    let ready = count(phases.iter().filter(|phase| **phase == Some(Phase::Ready)).count());
    let mut conditions = group.status.clone().unwrap_or_default().conditions;
    let mut set = |what, holds: bool, yes, no, message: String| {
        let state = if holds { Status::True } else { Status::False };
        condition::set(&mut conditions, what, state, if holds { yes } else { no }, message, generation, now);
    };
    let counts = format!("{ready} of {wanted} nodes are ready, {have} exist");
    set(kind::READY, have == wanted && ready == wanted, reason::NODES_READY, reason::NODES_NOT_READY, counts);
    set(kind::SCALING_UP, have < wanted, reason::SCALING_UP, reason::STABLE, String::new());
    set(kind::SCALING_DOWN, have > wanted, reason::SCALING_DOWN, reason::STABLE, String::new());
    NodeGroupStatus {
        observed_generation: generation,
        conditions,
        replicas: Some(have),
        ready_replicas: Some(ready),
        selector: Some(format!("{LABEL_CLUSTER}={},{LABEL_GROUP}={}", group.spec.cluster_ref.name, group.spec.group)),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "kube calls it with these")]
fn on_error(group: Arc<NodeGroup>, error: &Error, context: Arc<Context>) -> Action {
    tracing::warn!(name = group.name_any(), error = chain(error), category = error.category(), "Reconcile failed");
    Action::requeue(context.failures.failed(&group.uid().unwrap_or_default(), error))
}

#[cfg(test)]
mod tests {
    use constellation_crds::{NodeGroupSpec, cluster::LocalRef};

    use super::*;

    #[test]
    fn a_group_says_what_it_has_and_whether_it_grows() {
        let spec = NodeGroupSpec { cluster_ref: LocalRef { name: "c".into() }, group: "g".into(), replicas: 2 };
        let group = NodeGroup::new("c-g", spec);
        let status = |phases: &[Option<Phase>]| report(&group, phases, jiff::Timestamp::UNIX_EPOCH);
        let one = status(&[Some(Phase::Ready)]);
        assert_eq!((one.replicas, one.ready_replicas), (Some(1), Some(1)));
        assert!(condition::is_true(&one.conditions, kind::SCALING_UP));
        assert!(!condition::is_true(&one.conditions, kind::READY));
        let two = status(&[Some(Phase::Ready); 2]);
        assert!(condition::is_true(&two.conditions, kind::READY));
        assert!(condition::is_true(&status(&[None; 3]).conditions, kind::SCALING_DOWN));
    }
}
