//! One control plane for all tests of a binary.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow};

use super::{ControlPlane, Options};

static KUBECONFIG: OnceLock<Result<String, String>> = OnceLock::new();

/// Kubeconfig of the control plane in `dir`, which is emptied first; started by the first caller, ended with the process.
///
/// It belongs to a thread of its own: children die with the thread that started them, and a test's thread ends early.
///
/// # Errors
/// When it can't be started; every caller gets the same answer.
pub fn shared(dir: &Path) -> Result<&'static str> {
    shared_with(dir, None)
}

/// As [`shared`]; where the first caller names an audit log, in that folder, all requests are told there.
///
/// # Errors
/// As [`shared`].
pub fn shared_with(dir: &Path, audit_log: Option<PathBuf>) -> Result<&'static str> {
    let kubeconfig = KUBECONFIG.get_or_init(|| start(dir, audit_log).map_err(|error| format!("{error:#}")));
    kubeconfig.as_deref().map_err(|error| anyhow!("{error}"))
}

/// A folder for one run at a time, emptied; another run of the same tests waits until the lock is dropped.
///
/// # Errors
/// When it can't be made.
pub fn exclusive(dir: &Path) -> Result<std::fs::File> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let lock = std::fs::File::options().create(true).append(true).open(dir.with_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    Ok(lock)
}

fn start(dir: &Path, audit_log: Option<PathBuf>) -> Result<String> {
    let lock = exclusive(dir)?;
    let options = Options { dir: Some(dir.to_owned()), audit_log };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("control-plane".to_owned()).spawn(move || {
        let started = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(ControlPlane::start_with(&options)));
        match started {
            Ok(plane) => {
                let _held = lock;
                let _ = sender.send(Ok(plane.kubeconfig()));
                loop {
                    std::thread::park();
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    receiver.recv().context("the thread of the control plane ended")?
}
