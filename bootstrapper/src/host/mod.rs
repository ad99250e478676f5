//! The only rooms that touch the machine: commands, the disk, and the actions of a plan.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use constellation_attestation::boot::BootSecrets;
use zeroize::Zeroizing;

use crate::{error::Error, etcd, mesh, network, plan::Action, progress::Log};

pub mod block;
pub mod command;
pub mod disk;
pub mod header;

/// Carries out plans.
pub enum Host {
    /// This machine.
    Real,
    /// A folder that files are written into; commands, disk and services are only noted. For tests without a VM.
    Simulated(PathBuf),
}

impl Host {
    /// Carries out the actions in order; stops at the first that fails.
    pub async fn apply(&self, actions: &[Action], disk_key: &Zeroizing<Vec<u8>>, log: &Log) -> Result<(), Error> {
        for action in actions {
            if let Action::Phase(name) = action {
                log.phase(name);
                continue;
            }
            match self {
                Self::Real => self.real(action, disk_key, log).await?,
                Self::Simulated(root) => simulated(action, root, log)?,
            }
        }
        Ok(())
    }

    /// Has the tunnel's device hold its key, where there is a device.
    ///
    /// # Errors
    /// [`Error::Command`] when the kernel or `wg` refuses.
    pub async fn hold_key(&self, secrets: &BootSecrets) -> Result<(), Error> {
        match self {
            Self::Real => mesh::hold_key(secrets).await,
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Ends the machine.
    pub async fn power_off(&self) {
        if let Self::Real = self
            && let Err(error) = command::run(&["systemctl", "poweroff"]).await
        {
            tracing::error!(%error, "The machine can't be ended");
        }
    }

    /// Reads a file of the machine.
    pub fn read(&self, path: &str) -> Result<Zeroizing<String>, Error> {
        let path = self.path(path);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::File(format!("reading {}", path.display()), e))?;
        Ok(Zeroizing::new(text))
    }

    /// Whether a file of the machine exists.
    ///
    /// # Errors
    /// When its disk doesn't tell.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        let path = self.path(path);
        path.try_exists().map_err(|e| Error::File(format!("looking for {}", path.display()), e))
    }

    async fn real(&self, action: &Action, disk_key: &Zeroizing<Vec<u8>>, log: &Log) -> Result<(), Error> {
        match action {
            Action::Phase(_) => Ok(()),
            Action::OpenDisk { integrity } => disk::open(*integrity, disk_key, log).await,
            Action::Write { path, mode, contents } => write(Path::new(path), *mode, contents),
            Action::Run { command, limit } => command::logged(&words(command), *limit, log).await,
            Action::Insist { command, limit } => command::insist(&words(command), *limit, log).await,
            Action::PruneEtcd { kubeconfig, own } => etcd::prune(self, kubeconfig, own, log).await,
            Action::LeaveEtcd { own } => etcd::leave(self, own, log).await,
            Action::Start(unit) => command::run(&["systemctl", "start", unit]).await,
            Action::Link { path, target } => link(Path::new(path), target),
            Action::Remove(path) => remove(Path::new(path)),
            Action::Restart(unit) => command::run(&["systemctl", "restart", "--no-block", unit]).await,
            Action::Sync(folder) => sync(Path::new(folder)),
            Action::Empty(folder) => files(folder).try_for_each(|file| remove(&file)),
            Action::Move { from, to } => files(from).filter(|file| to_move(file)).try_for_each(|file| {
                let target = Path::new(to).join(file.file_name().unwrap_or_default());
                std::fs::create_dir_all(to).map_err(|e| Error::File(format!("making {to}"), e))?;
                std::fs::copy(&file, &target).map_err(|e| Error::File(format!("writing {}", target.display()), e))?;
                remove(&file)
            }),
            Action::Own(address) => network::own(*address).await,
            Action::Guard { own, all } => mesh::guard(own, all).await,
            Action::AwaitApi { server, limit } => command::await_readyz(server, *limit, log).await,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        match self {
            Self::Real => PathBuf::from(path),
            Self::Simulated(root) => root.join(path.trim_start_matches('/')),
        }
    }
}

/// Only the two controllers are held back while a joining API server starts.
fn to_move(file: &Path) -> bool {
    ["kube-controller-manager.yaml", "kube-scheduler.yaml"].iter().any(|name| file.ends_with(name))
}

/// What is in a folder; nothing if there is none.
fn files(folder: &str) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn simulated(action: &Action, root: &Path, log: &Log) -> Result<(), Error> {
    match action {
        Action::Link { path, target } => link(&root.join(path.trim_start_matches('/')), target),
        Action::Remove(path) => remove(&root.join(path.trim_start_matches('/'))),
        Action::Sync(folder) => sync(&root.join(folder.trim_start_matches('/'))),
        Action::Write { path, mode, contents } => write(&root.join(path.trim_start_matches('/')), *mode, contents),
        other => {
            log.line(&format!("simulated: {}", other.describe()));
            Ok(())
        }
    }
}

/// Writes a file whole or not at all; it is never readable by more than `mode` says.
fn write(path: &Path, mode: u32, contents: &[u8]) -> Result<(), Error> {
    let failed = |e| Error::File(format!("writing {}", path.display()), e);
    let fresh = beside(path)?;
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), mode);
    let mut file = options.open(&fresh).map_err(failed)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    std::io::Write::write_all(&mut file, contents).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    put(&fresh, path)
}

/// Has a link point to another file of its folder, whatever is there.
fn link(path: &Path, target: &str) -> Result<(), Error> {
    let fresh = beside(path)?;
    remove(&fresh)?;
    let name = Path::new(target).file_name().unwrap_or_default();
    std::os::unix::fs::symlink(name, &fresh)
        .map_err(|e| Error::File(format!("making a link at {}", path.display()), e))?;
    put(&fresh, path)
}

/// Where a file is made that is to take another's place; the folder is there then.
fn beside(path: &Path) -> Result<PathBuf, Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::File(format!("making {}", folder.display()), e))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    Ok(fresh.into())
}

/// Gives a file its name, so that it outlives a power cut, before anybody is told that it is there.
fn put(fresh: &Path, path: &Path) -> Result<(), Error> {
    let failed = |e| Error::File(format!("writing {}", path.display()), e);
    std::fs::rename(fresh, path).map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn remove(file: &Path) -> Result<(), Error> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File(format!("removing {}", file.display()), e))
        }
        _ => Ok(()),
    }
}

/// Waits until all that anybody wrote to this folder's file system is on its disk.
fn sync(folder: &Path) -> Result<(), Error> {
    let all = std::fs::File::open(folder).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
    all.map_err(|e| Error::File(format!("writing what {} is on", folder.display()), e))
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_the_place_of_whatever_is_there_and_leads_to_its_neighbour() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join("pki").join(name);
        write(&at("ours.pem"), 0o600, b"ours").unwrap();
        // As a kubelet leaves its link, as a power cut leaves a file, and as we leave it ourselves.
        std::os::unix::fs::symlink(at("renewed.pem"), at("current.pem")).unwrap();
        for _ in 0..2 {
            link(&at("current.pem"), "/var/lib/kubelet/pki/ours.pem").unwrap();
            assert_eq!(std::fs::read(at("current.pem")).unwrap(), b"ours");
            assert!(at("current.pem").is_symlink());
            std::fs::write(at("current.pem.new"), "").unwrap();
            remove(&at("current.pem")).unwrap();
            std::fs::write(at("current.pem"), "").unwrap();
        }
    }
}
