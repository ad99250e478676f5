//! `constellation-verifier`: serves joins on a control-plane node.

use std::{
    future::Future,
    io::{self, IsTerminal as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use constellation_attestation::{dumps, platform::Platform, protocol::BOOTSTRAPPER_PORT, seats::Seat};
use constellation_verifier::{
    approver, authority,
    home::{self, Home, Paths},
    join::{self, Outcome},
    metrics,
    reattest::{self, Interval, Schedule},
    refusals,
    server::{self, Limits},
    store::{self, Cluster},
    trust::Trust,
    verifier::{Error, Verifier, chain},
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tracing::Instrument as _;

/// The in-cluster verifier: decides who may join.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve joins until told to stop.
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    /// Where nodes find us.
    #[arg(long, default_value = "0.0.0.0:9001")]
    listen: SocketAddr,
    /// Folder with the secrets and settings that the bootstrapper wrote.
    #[arg(long, default_value = "/etc/kubernetes/constellation")]
    dir: PathBuf,
    /// Folder with kubeadm's certificates and keys.
    #[arg(long, default_value = "/etc/kubernetes/pki")]
    pki: PathBuf,
    /// Kubeconfig of user `constellation:verifier`. Absent: we make ourselves a certificate at each start.
    #[arg(long, default_value = "/etc/kubernetes/constellation/verifier.conf")]
    kubeconfig: PathBuf,
    /// An administrator's kubeconfig: joining control-plane nodes get it; of it we use the API server's address.
    #[arg(long, default_value = "/etc/kubernetes/admin.conf")]
    admin_kubeconfig: PathBuf,
    /// Namespace of trust bundle and admissions.
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    /// The platform that nodes must be on; absent: the one that the owner gave the cluster's first node.
    #[arg(long)]
    platform: Option<Platform>,
    /// Where Prometheus finds the counters.
    #[arg(long, default_value = "127.0.0.1:9102")]
    metrics: SocketAddr,
    /// Seconds between two rounds of re-attestation where the trust bundle says nothing; 0: none.
    #[arg(long, default_value_t = 3600)]
    reattest_seconds: u64,
    /// Port of the nodes' bootstrappers.
    #[arg(long, default_value_t = BOOTSTRAPPER_PORT)]
    bootstrapper_port: u16,
    /// Address of the bootstrapper on this node.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    own_address: IpAddr,
    /// How the log looks; absent: for people on a terminal, JSON elsewhere.
    #[arg(long)]
    log: Option<LogFormat>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

/// Our files come right before us and the API right after, so waiting starts short.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command::Serve(args) = Args::parse().command;
    dumps::forbid().context("forbidding core dumps")?;
    start_log(args.log);
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed"))?;
    Box::pin(serve(args)).await
}

async fn serve(args: Serve) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Stopping");
    };
    tokio::pin!(stop);
    let verifier = tokio::select! {
        verifier = prepare(&args) => Arc::new(verifier),
        () = &mut stop => return Ok(()),
    };
    let schedule = Schedule {
        interval: Interval::of_seconds(args.reattest_seconds),
        port: args.bootstrapper_port,
        own_address: args.own_address,
    };
    let listener = tokio::select! {
        listener = patiently("the address for joins", || listen(args.listen)) => listener,
        () = &mut stop => return Ok(()),
    };
    tracing::info!(address = %listener.local_addr()?, cluster_uid = verifier.home.launch.cluster_uid, "Serving joins");
    let metrics = serve_metrics(&verifier, args.metrics);
    // In a task of its own: to read requests costs signatures, and whoever joins doesn't wait for that.
    let approving = tokio::spawn({
        let verifier = Arc::clone(&verifier);
        async move { approver::answer(&verifier, verifier.store.changes()).await }
    });
    let members = async {
        tokio::join!(
            reattest::enrol(&verifier, &schedule),
            reattest::rounds(&verifier, &schedule),
            join::keep_ready(&verifier),
            verifier.store.follow(),
            refusals::tell(&verifier.ledger, &verifier.store),
            approving
        )
    };
    let joins = server::listen(listener, Limits::default(), stop, |stream, peer, stranger| {
        let verifier = verifier.clone();
        async move { serve_join(&verifier, stream, peer.ip(), stranger).await }
            .instrument(tracing::info_span!("join", %peer))
    });
    tokio::select! {
        () = joins => Ok(()),
        _ = members => Ok(()),
        () = metrics => Ok(()),
        // systemd starts this program again, with a new certificate.
        () = authority::renewal() => anyhow::bail!("our certificate for the API server has lived for half of its time"),
    }
}

async fn serve_join(verifier: &Verifier<Cluster>, stream: TcpStream, address: IpAddr, stranger: Seat) {
    match join::serve(verifier, stream, address, stranger).await {
        Ok(Outcome::Admitted { .. }) => verifier.metrics.joins_admitted.add(),
        Ok(Outcome::Refused { .. }) => verifier.metrics.joins_refused.add(),
        Err(error) => {
            if matches!(error, Error::Displaced) {
                verifier.metrics.dropped.add();
            }
            verifier.metrics.joins_failed.add();
            tracing::info!(error = %chain(&error), "A join ended without a verdict");
        }
    }
}

/// Waits until our files can be used; what is wrong with them is in the log.
async fn prepare(args: &Serve) -> Verifier<Cluster> {
    let paths = Paths { dir: args.dir.clone(), pki: args.pki.clone(), admin_kubeconfig: args.admin_kubeconfig.clone() };
    let home = patiently("our files", || async { Home::load(&paths) }).await;
    let store = patiently("access to the Kubernetes API", || open(args)).await;
    let memory = args.dir.join("trust-revision");
    let platform = args.platform.unwrap_or(home.cluster.platform);
    let trust = patiently("the memory of the trust bundle", || async {
        Trust::open(&home.owner_spki, &home.launch.cluster_uid, platform, &memory)
    })
    .await;
    Verifier::new(home, trust, store, platform)
}

/// With the kubeconfig if there is one, else with a certificate that we make ourselves.
async fn open(args: &Serve) -> Result<Cluster, store::Error> {
    if args.kubeconfig.exists() {
        return Cluster::open(&args.kubeconfig, &args.namespace).await;
    }
    let file = |name: &str| home::text(&args.pki.join(name)).map_err(store::Error::Files);
    Cluster::open_as_verifier(&args.admin_kubeconfig, &file("ca.crt")?, &file("ca.key")?, &args.namespace).await
}

/// Says which address it is that can't be had.
async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("listening on {address}: {error}"));
    TcpListener::bind(address).await.map_err(named)
}

async fn patiently<T, E, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    E: std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    let mut pause = PAUSE_FIRST;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => tracing::warn!(what, error = %chain(&error), "Not ready, trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

/// Counters are a convenience: a port that is taken doesn't stop joins.
async fn serve_metrics(verifier: &Verifier<Cluster>, address: SocketAddr) {
    let listener = patiently("the address for metrics", || listen(address)).await;
    metrics::serve(listener, || verifier.metrics.render(verifier.trust.revision())).await;
}

fn start_log(format: Option<LogFormat>) {
    let human = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if human { LogFormat::Human } else { LogFormat::Json });
    let filter = tracing_subscriber::EnvFilter::try_from_env("CONSTELLATION_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
