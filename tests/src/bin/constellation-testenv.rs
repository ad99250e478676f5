//! Starts a management API server for the demo and the quickstart, and runs until SIGTERM, SIGINT,
//! or the end of standard input if that is a pipe.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use constellation_tests::controlplane::{ControlPlane, Options};
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
};

/// How long one that was told to end may still hold the folder.
const PREDECESSOR: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(about = "etcd and kube-apiserver on loopback, for the demo")]
struct Args {
    /// Folder for data, certificates and logs; used again when it is there.
    #[arg(long)]
    dir: PathBuf,
    /// Where the kubeconfig is written once the API server is ready. Default: <dir>/kubeconfig.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Where an audit log of all requests is written.
    #[arg(long)]
    audit_log: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let ended = run().await;
    if let Err(error) = &ended {
        eprintln!("constellation-testenv: {error:#}");
    }
    // A reader of standard input can't be interrupted, and would hold up an ordinary return.
    std::process::exit(i32::from(ended.is_err()));
}

async fn run() -> Result<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let kubeconfig = args.kubeconfig.unwrap_or_else(|| dir.join("kubeconfig"));
    let lock = fs::File::options().create(true).append(true).open(dir.join("lock"))?;
    let until = Instant::now() + PREDECESSOR;
    while rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            bail!("another constellation-testenv runs in {}", dir.display());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut plane = ControlPlane::start_with(&Options { dir: Some(dir), audit_log: args.audit_log }).await?;
    write(&kubeconfig, &plane.kubeconfig()).with_context(|| format!("writing {}", kubeconfig.display()))?;
    println!("{} is ready; kubeconfig: {}", plane.url(), kubeconfig.display());

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = input_ended() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        if !plane.alive() {
            bail!("etcd or kube-apiserver ended; logs are in {}", plane.dir().display());
        }
    }
}

/// Ends when standard input does; never if that is not a pipe (a daemon has /dev/null there).
async fn input_ended() {
    let pipe = fs::metadata("/dev/stdin").is_ok_and(|file| file.file_type().is_fifo());
    if !pipe {
        return std::future::pending().await;
    }
    let mut buffer = [0; 256];
    let mut input = tokio::io::stdin();
    while matches!(input.read(&mut buffer).await, Ok(1..)) {}
}

/// Whole or not at all: others wait for the file to appear.
fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let fresh = path.with_extension("new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?
        .write_all(text.as_bytes())?;
    Ok(fs::rename(fresh, path)?)
}
