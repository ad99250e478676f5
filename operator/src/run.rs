//! Puts the parts together: clouds, leadership, controllers, and an end that waits for all of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use kube::{Client, Config};
use tokio::sync::watch;

use crate::{
    args::Run,
    backoff::Counts,
    cloud::{
        Cloud,
        local::LocalCloud,
        offer::{Guard, Offer},
        simulated::SimulatedCloud,
    },
    cluster,
    collateral::Collector,
    context::{Context, Listings},
    events::Events,
    group,
    health::{self, Health},
    lease::{Fence, Leader},
    metrics::Metrics,
    node, version, workload,
};

/// Runs until a signal, or until leadership is lost, which is an error.
///
/// # Errors
/// When the API server can't be configured, no provider is offered, or leadership is lost.
pub async fn run(args: Run) -> anyhow::Result<()> {
    let mut config = Config::infer().await.context("finding the API server (KUBECONFIG, or a service account)")?;
    // A proxy that the environment names is one to the Internet.
    config.proxy_url = None;
    let fence = Arc::<Fence>::default();
    let client = fence.client(config.clone())?;
    let identity = format!("{}-{}", hostname(), std::process::id());
    let (metrics, health) = (Arc::new(Metrics::default()), Arc::<Health>::default());
    if let Some(address) = args.health_address {
        let (metrics, health) = (Arc::clone(&metrics), Arc::clone(&health));
        tokio::spawn(async move {
            if let Err(error) = health::serve(address, metrics, health).await {
                tracing::error!(%error, %address, "Serving health failed");
                std::process::exit(1);
            }
        });
    }
    // The first provider wakes up only when we lead: a simulated cloud acts by itself.
    let lease_namespace = args.lease_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let claim = Arc::clone(&fence);
    let leader = Leader::new(client_without_retry(config)?, &lease_namespace, identity.clone(), claim);
    if args.leader_elect {
        tracing::info!(identity, "Waiting for leadership");
        leader.acquire(|| health.follows()).await;
    }
    health.leads();
    metrics.leads();
    tracing::info!(identity, "Leading");

    let collector = Collector::new(client.clone(), &args.collateral, Arc::clone(&metrics), Arc::clone(&fence))?;
    let context = Arc::new(Context {
        collector: Arc::new(collector),
        clouds: clouds(&args, &client, &Guard { metrics: Arc::clone(&metrics), fence: Arc::clone(&fence) })?,
        events: Events::new(client.clone(), identity),
        workloads: workload::Registry::new(Arc::clone(&fence)),
        inits: Arc::default(),
        listings: Listings::default(),
        holds: node::hold::Holds::default(),
        failures: Counts::default(),
        looks: Counts::default(),
        fence,
        health,
        metrics,
        namespace: args.namespace.clone(),
        relist: Duration::from_secs(args.relist_seconds),
        client,
    });
    let (stop, stopped) = watch::channel(false);
    let wait = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
        .boxed()
        .shared()
    };
    let controllers = async {
        tokio::join!(
            version::run(context.clone(), wait()),
            cluster::run(context.clone(), wait()),
            node::run(context.clone(), wait()),
            group::run(context.clone(), wait()),
            cluster::sweep::run(context.clone(), Duration::from_secs(args.sweep_seconds), wait()),
        )
    };
    let lost = async {
        if args.leader_elect {
            leader.hold().await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(controllers);
    tokio::select! {
        _ = &mut controllers => bail!("the controllers ended by themselves"),
        () = lost => bail!("leadership is lost; another operator goes on"),
        () = signal() => tracing::info!("Stopping"),
    }
    stop.send_replace(true);
    controllers.await;
    Ok(())
}

fn clouds(args: &Run, client: &Client, guard: &Guard) -> anyhow::Result<Offer> {
    let mut clouds: BTreeMap<&'static str, Arc<dyn Cloud>> = BTreeMap::new();
    if let Some(folder) = &args.local_state_dir {
        let folder = std::path::absolute(folder).context("--local-state-dir")?;
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        clouds.insert("local", Arc::new(LocalCloud::new(folder)));
    }
    if args.allow_simulated {
        tracing::warn!("Provider `simulated` is allowed: its clusters prove nothing");
        clouds.insert("simulated", Arc::new(SimulatedCloud::new(client.clone(), args.namespace.clone())));
    }
    let offer = Offer::new(client.clone(), clouds, guard);
    if offer.is_empty() {
        bail!(
            "no provider is offered: take an operator that was built with a cloud's feature (aws, azure, gcp), or give \
             --local-state-dir DIR, or --allow-simulated for a trial"
        );
    }
    Ok(offer)
}

/// Renewals must fail fast: kube's own retries would outlast the lease.
fn client_without_retry(mut config: Config) -> anyhow::Result<Client> {
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "operator".into(), |name| name.trim().to_owned())
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
