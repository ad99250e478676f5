//! `constellation-bootstrapper`: the node agent.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use constellation_attestation::{
    boot::BootSecrets,
    dumps,
    protocol::{BOOTSTRAPPER_PORT, LaunchConfig},
};
use constellation_bootstrapper::{
    attester,
    error::Error,
    host::block,
    join,
    machine::Machine,
    mesh,
    metadata::Metadata,
    network::{self, HINT, Hint},
    platform::{Platform, TABLES},
    serve,
    source::{LOCAL, Source},
};
use tokio::{net::TcpListener, time::sleep};

/// Proves this machine's boot, then starts Kubernetes on it.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, prove, join; then stay as the node's agent.
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// Way to the TPM: device:PATH, or swtpm:host=HOST,port=PORT of a software TPM.
    #[arg(long, default_value = "device:/dev/tpmrm0")]
    tcti: String,
    /// Host and port of a cloud's metadata service.
    #[arg(long, default_value = "169.254.169.254:80")]
    metadata: String,
    /// File with the user data of a machine that is in no cloud.
    #[arg(long, default_value = LOCAL)]
    user_data: PathBuf,
    /// Address that port 9000 is opened on.
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], BOOTSTRAPPER_PORT)))]
    listen: SocketAddr,
    /// SIMULATED: write files below this folder and run nothing. Only with a software TPM.
    #[arg(long, hide = true)]
    simulated_host: Option<PathBuf>,
}

/// Longest pause between two looks for the user data.
const LONGEST: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CONSTELLATION_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    let Command::Run(run) = Arguments::parse().command;
    dumps::forbid().context("forbidding core dumps")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(agent(run))
}

async fn agent(run: Run) -> anyhow::Result<()> {
    let began = Instant::now();
    let simulated = run.simulated_host.is_some();
    if simulated {
        if !run.tcti.starts_with("swtpm:") {
            bail!("--simulated-host needs a software TPM (--tcti swtpm:...): it must never be mistaken for a node");
        }
        tracing::warn!("SIMULATED HOST: nothing is started, files go below the folder");
    }
    let platform = if simulated { Platform::Local } else { Platform::detect(TABLES.as_ref()) };
    let authority = run.metadata.clone();
    // A TPM is slow to make its keys and to give its certificate, and a processor that is emulated to find randomness for
    // ours: both go on beside each other.
    let tpm = tokio::task::spawn_blocking(move || {
        attester::open(platform, &run.tcti, &authority).map(|mut tpm| {
            // Who needs it finds it known, or asks again and tells what is wrong.
            let _ = tpm.endorsement();
            (tpm, began.elapsed())
        })
    });
    let device_key = if simulated { None } else { mesh::key_in_use().await? };
    let secrets = tokio::task::spawn_blocking(move || {
        let made = device_key.map_or_else(BootSecrets::generate, |key| BootSecrets::with_device_key(&key));
        made.map(|secrets| (secrets, began.elapsed()))
    });
    let hint = if simulated { None } else { Hint::read(HINT.as_ref())? };
    let service = Metadata { authority: run.metadata };
    let source = Source { platform, service, local: run.user_data };
    let (bytes, launch) = find(&source).await;
    let found = Instant::now();
    let own = hint.as_ref().map(Hint::ip).transpose()?.or_else(|| source.address());
    if let Some(own) = own {
        network::name(&launch.node_name, own, hint.as_ref().map(|hint| hint.gateway.as_str()))?;
    }
    let address = own.unwrap_or_else(|| run.listen.ip());
    let (tpm, opened) = tpm.await?.context("opening the TPM")?;
    let (secrets, made) = secrets.await?.map_err(Error::Keys)?;
    let measure = move || Machine::measure(tpm, secrets, bytes, launch, address.to_string(), run.simulated_host);
    let machine = tokio::task::spawn_blocking(measure).await??;
    let measured = began.elapsed();
    // Only now: who comes from outside finds a machine that has measured what it is. In a cloud a service of the image
    // brings the network up, for the configuration comes from there; since when, nobody tells.
    let up = if let Some(hint) = &hint {
        network::configure(hint).await?;
        Instant::now()
    } else {
        found
    };
    // Milliseconds since this program began, for whoever asks where a machine's time goes.
    let [opened, made, measured, online] = [opened, made, measured, up - began].map(|part| part.as_millis());
    let (node, state) = (&machine.launch.node_name, machine.state());
    tracing::info!(node, ?state, opened, made, measured, online, "Measured the launch configuration");
    let listener = TcpListener::bind(run.listen).await.with_context(|| format!("listening on {}", run.listen))?;
    if !simulated {
        // Whether there is one is known before anybody is asked for its key.
        tokio::spawn(async {
            match block::state_disk().await {
                Ok(disk) => tracing::info!("The state disk is {disk}"),
                Err(error) => tracing::error!(%error, "This machine can't become a node"),
            }
        });
    }
    let joining = tokio::spawn(join::join(machine.clone(), source, up));
    let meshing = tokio::spawn(mesh::keep(machine.clone()));
    let ended = tokio::select! {
        served = serve::serve(Arc::clone(&machine), listener) => served.map_err(Into::into),
        // systemd starts this program again, which tries it again.
        Err(error) = machine.start_member() => Err(error).context("starting what a member runs"),
    };
    joining.abort();
    meshing.abort();
    ended
}

/// The launch configuration, once there is one: a cloud's service may come later than the machine.
async fn find(source: &Source) -> (Vec<u8>, LaunchConfig) {
    let mut pause = Duration::from_millis(100);
    loop {
        match source.launch_config().await {
            Ok(found) => return found,
            Err(error) => tracing::info!(%error, "No launch configuration yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}
