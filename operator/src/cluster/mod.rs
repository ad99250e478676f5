//! `ConstellationCluster`: observe, plan, apply, report.

pub mod apply;
pub mod bundle;
pub mod news;
pub mod observe;
pub mod plan;
pub mod report;
pub mod secrets;
pub mod seen;
pub mod sweep;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_attestation::policy::TrustPolicy;
use constellation_crds::{
    ConfidentialNode, ConstellationCluster, ConstellationClusterStatus, NodeGroup, NodeVersion,
    condition::{self, Status, kind, reason},
};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::{
    ResourceExt as _,
    runtime::{
        controller::{Action, Config},
        reflector::ObjectRef,
    },
};
use tokio::sync::Mutex as AsyncMutex;

use self::{
    observe::World,
    plan::{Step, rollback},
};
use crate::{
    cloud::Network,
    collateral,
    context::Context,
    custody,
    error::{Class, Error, chain},
    init::install::MANAGER,
    metrics::whose,
    status,
    version::appraise::private,
    watch,
};

/// One reconcile is tens of API calls and a few of a cloud.
const LIMIT: Duration = Duration::from_mins(2);
/// Clusters reconcile beside each other; each is mostly waiting.
const CONCURRENCY: u16 = 8;
/// How soon after steps were carried out.
const NEXT: Duration = Duration::from_millis(300);
/// How often a cluster is looked at in which nothing happens: its API server can't wake us.
const CALM: Duration = Duration::from_mins(1);
/// How often network and endpoint are repaired: a host may have restarted.
const REPAIR: Duration = Duration::from_mins(5);

/// How often the key of the master secret is asked for a newer version: keys are rotated by the month.
const ROTATION: Duration = Duration::from_hours(1);

/// What is known of a cluster between two looks; a restarted operator finds it out again.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Network and endpoint.
    pub network: Option<Network>,
    /// When they were last made or repaired.
    pub ensured: Option<Instant>,
    /// When the cluster's API server answered last, or when we first asked.
    pub answered: Option<Instant>,
    /// Since when it answers and doesn't let us in.
    pub turned_away: Option<Instant>,
    /// The endpoint's targets as they were set last.
    pub targets: Option<Vec<String>>,
    /// The trust policy that was signed last.
    pub trust: Option<TrustPolicy>,
    /// When the key of the master secret was asked for its newest version, and the answer.
    pub key: Option<(Instant, Option<String>)>,
}

struct Reconciler {
    ctx: Arc<Context>,
    memories: Mutex<HashMap<String, Arc<AsyncMutex<Memory>>>>,
}

/// Reconciles clusters until `stop`.
pub async fn run(ctx: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let controller = watch::controller(ctx.scope::<ConstellationCluster>(), ctx.relist, &ctx.health);
    let store = controller.store();
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .owns_stream(ctx.watch::<ConfidentialNode>())
        .owns_stream(ctx.watch::<NodeGroup>())
        .watches_stream(ctx.watch::<NodeVersion>(), move |version| {
            let (name, namespace) = (version.name_any(), version.namespace());
            let uses = |c: &ConstellationCluster| c.namespace() == namespace && c.spec.node_version == name;
            store.state().iter().filter(|c| uses(c)).map(|c| ObjectRef::from_obj(c.as_ref())).collect::<Vec<_>>()
        })
        .graceful_shutdown_on(stop)
        .run(reconcile, on_error, Arc::new(Reconciler { ctx: Arc::clone(&ctx), memories: Mutex::default() }))
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(error = chain(&error), "Controller of clusters");
            }
        })
        .await;
}

async fn reconcile(cluster: Arc<ConstellationCluster>, reconciler: Arc<Reconciler>) -> Result<Action, Error> {
    let uid = cluster.uid().unwrap_or_default();
    let memory = {
        let mut all = reconciler.memories.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(uid.clone()).or_default())
    };
    let mut memory = memory.lock().await;
    let ctx = &reconciler.ctx;
    let look = Box::pin(async {
        tokio::time::timeout(LIMIT, once(ctx, cluster, &mut memory))
            .await
            .map_err(|_| Error::Time("reconciling a cluster"))?
    });
    let action = ctx.metrics.pass("cluster", look).await?;
    ctx.failures.forget(&uid);
    Ok(action)
}

/// One look at one cluster.
async fn once(ctx: &Context, cluster: Arc<ConstellationCluster>, memory: &mut Memory) -> Result<Action, Error> {
    if cluster.status.is_none() {
        let mut status = ConstellationClusterStatus::default();
        let generation = cluster.metadata.generation;
        let message = "the operator has not looked at it yet";
        let now = Timestamp::now();
        let list = &mut status.conditions;
        condition::set(list, kind::READY, Status::Unknown, reason::NOT_YET_RECONCILED, message, generation, now);
        write(ctx, &cluster, &status).await?;
    }
    let known = cluster.status.as_ref().map(|status| status.conditions.as_slice());
    ctx.metrics.told(whose(cluster.as_ref()), known.unwrap_or_default());
    repair(ctx, &cluster, memory).await;
    rotation(ctx, &cluster, memory).await;
    memory.answered.get_or_insert_with(Instant::now);
    let mut world = match observe::observe(ctx, Arc::clone(&cluster), memory).await {
        Ok(world) => world,
        Err(error) => return blind(ctx, &cluster, error).await,
    };
    if world.seen.reachable {
        memory.answered = Some(Instant::now());
        if world.seen.initialized {
            // What was said while it was silent is settled now; the next silence begins anew.
            world.seen.talks.iter().for_each(|(uid, _)| ctx.inits.forget(uid));
        }
    }
    memory.turned_away = world.seen.turned_away.as_ref().map(|_| memory.turned_away.unwrap_or_else(Instant::now));
    world.facts.collateral = tend(ctx, &world);
    let plan = plan::plan(&world.seen);
    ctx.fence.check()?;
    let failure = carry_out(ctx, &mut world, memory, &plan.steps).await.err();
    // A step may have written its status.
    let cluster = Arc::clone(&world.cluster);
    // A conflict says only that the next look will see more: nobody needs to read that.
    world.facts.conflict = failure.as_ref().is_some_and(Error::is_conflict);
    let told = failure.as_ref().filter(|error| !error.is_conflict());
    world.facts.error = told.map(|error| chain(error));
    world.facts.stuck = told.is_some_and(Error::needs_help);
    world.facts.why = told.and_then(Error::reason);
    let before = cluster.status.clone().unwrap_or_default();
    let status = report::report(&world.seen, &plan, &world.facts, &before, Timestamp::now());
    if !(world.seen.deleting && plan.steps.contains(&Step::RemoveFinalizer)) && cluster.status.as_ref() != Some(&status)
    {
        tell(ctx, &cluster, &before, &status).await?;
    }
    match failure {
        Some(error) if error.is_conflict() => return Ok(Action::requeue(NEXT)),
        Some(error) => return Err(error),
        None => {}
    }
    let (uid, acted) = (&world.uid.0, !plan.steps.is_empty());
    if acted || status != before {
        ctx.looks.forget(uid);
    }
    // What is remembered before anything is done for it.
    let decided = (&status.accepted_versions, &status.rolled_back) != (&before.accepted_versions, &before.rolled_back);
    Ok(Action::requeue(if acted || decided {
        NEXT
    } else if report::converged(&world.seen, &plan) || world.seen.paused || rollback::rests(&plan) {
        CALM
    } else {
        // Something is going on that no watch tells.
        ctx.looks.waited(uid)
    }))
}

/// Tells why nothing can be seen where somebody must help; what passes by itself is in the log.
async fn blind(ctx: &Context, cluster: &ConstellationCluster, error: Error) -> Result<Action, Error> {
    if !error.needs_help() {
        return Err(error);
    }
    let why = match error.class() {
        Class::Denied => reason::ACCESS_DENIED,
        _ => error.reason().unwrap_or(reason::SECRET_INVALID),
    };
    let before = cluster.status.clone().unwrap_or_default();
    let status = report::blind(&before, why, &chain(&error), cluster.metadata.generation, Timestamp::now());
    if status != before {
        ctx.fence.check()?;
        tell(ctx, cluster, &before, &status).await?;
    }
    Err(error)
}

/// Has what the cluster needs of makers and clouds fetched; gives what people must know of that.
fn tend(ctx: &Context, world: &World) -> Option<collateral::Notice> {
    if world.seen.deleting {
        ctx.collector.forget(&world.uid.0);
    }
    let cloud = world.cloud.as_ref().filter(|_| !world.seen.deleting && !world.seen.paused)?;
    let sets = world.seen.accepted.iter().flat_map(|version| &version.sets);
    let sets: Vec<_> =
        sets.filter(|set| set.platform == cloud.platform()).filter_map(|set| private(set).ok()).collect();
    let nodes = world.nodes.iter().filter(|node| node.metadata.deletion_timestamp.is_none());
    let results: Vec<_> = nodes.filter_map(|node| node.status.as_ref()?.attestation.clone()).collect();
    let case = collateral::Case {
        uid: &world.uid.0,
        namespace: &world.cluster.namespace().unwrap_or_default(),
        platform: cloud.platform(),
        sets: &sets,
        results: &results,
        texts: &world.collateral,
    };
    ctx.collector.tend(&case, Timestamp::now())
}

async fn carry_out(ctx: &Context, world: &mut World, memory: &mut Memory, steps: &[Step]) -> Result<(), Error> {
    for step in steps {
        let (namespace, name) = (world.cluster.namespace(), &world.seen.name);
        tracing::info!(namespace, name, step = step.words(), "Step");
        ctx.fence.check()?;
        apply::apply(ctx, world, memory, step).await?;
    }
    Ok(())
}

/// Finds network and endpoint again after a restart, and mends them now and then.
async fn repair(ctx: &Context, cluster: &ConstellationCluster, memory: &mut Memory) {
    let known = cluster.status.as_ref().is_some_and(|status| status.endpoint.is_some());
    let due = memory.ensured.is_none_or(|last| last.elapsed() > REPAIR);
    let paused = observe::is_paused(cluster);
    if !known || !due || paused || cluster.metadata.deletion_timestamp.is_some() {
        return;
    }
    let cloud = match ctx.cloud(cluster).await {
        Ok(cloud) => cloud,
        Err(error) => return tracing::warn!(name = cluster.name_any(), error = chain(&error), "No cloud to mend"),
    };
    match cloud.ensure_network(&apply::network_request(cluster)).await {
        Ok(network) => {
            memory.network = Some(network);
            memory.ensured = Some(Instant::now());
            // What was made anew has none; where nothing was, setting them changes nothing.
            memory.targets = None;
        }
        Err(error) => tracing::warn!(name = cluster.name_any(), error = chain(&error), "Mending the network failed"),
    }
}

/// Asks now and then whether the key that wraps the master secret was rotated.
async fn rotation(ctx: &Context, cluster: &ConstellationCluster, memory: &mut Memory) {
    let due = memory.key.as_ref().is_none_or(|(last, _)| last.elapsed() > ROTATION);
    let Some(kms) = custody::kms(cluster).filter(|_| due && cluster.metadata.deletion_timestamp.is_none()) else {
        return;
    };
    let newest = async {
        let service = custody::service(ctx, cluster, kms).await?;
        Ok::<_, Error>(service.version(&custody::key(kms)).await?)
    };
    // Whoever needs the secret meets the same refusal, and says it in a condition.
    let newest = newest.await.unwrap_or_else(|error| {
        tracing::warn!(name = cluster.name_any(), error = chain(&error), "Asking for the key's version failed");
        None
    });
    memory.key = Some((Instant::now(), newest));
}

/// Writes a status; false where the cluster changed or went since it was looked at.
async fn write(
    ctx: &Context,
    cluster: &ConstellationCluster,
    status: &ConstellationClusterStatus,
) -> Result<bool, Error> {
    match status::put(&ctx.client, cluster, status, MANAGER).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(false),
        Err(error) => Err(Error::kube(format!("writing the status of cluster {}", cluster.name_any()))(error)),
    }
}

/// Writes a status and then publishes what is new in it: what isn't written, the next look says again.
async fn tell(
    ctx: &Context,
    cluster: &ConstellationCluster,
    before: &ConstellationClusterStatus,
    after: &ConstellationClusterStatus,
) -> Result<(), Error> {
    if write(ctx, cluster, after).await? {
        ctx.metrics.told(whose(cluster), &after.conditions);
        for told in news::news(before, after) {
            ctx.events.tell(cluster, told).await;
        }
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "kube calls it with these")]
fn on_error(cluster: Arc<ConstellationCluster>, error: &Error, reconciler: Arc<Reconciler>) -> Action {
    let uid = cluster.uid().unwrap_or_default();
    tracing::warn!(name = cluster.name_any(), error = chain(error), category = error.category(), "Reconcile failed");
    Action::requeue(reconciler.ctx.failures.failed(&uid, error))
}
