//! Where etcd and kube-apiserver come from: `KUBEBUILDER_ASSETS`, else PATH, else built from the pinned Go module.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Minor of Kubernetes that the tests are for; a program on PATH of another minor is passed over.
const WANTED: &str = "Kubernetes v1.36.";

/// The two programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
}

/// Folder of programs of the pinned Go module, built if they aren't there yet.
///
/// # Errors
/// When the build fails.
pub fn built(names: &[&str]) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/build.sh");
    let built = Command::new(&script)
        .args(names)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(built.status.success(), "{} failed; its messages are above", script.display());
    Ok(PathBuf::from(String::from_utf8(built.stdout)?.trim()))
}

impl Programs {
    /// Finds them, or builds them (minutes, once; progress on standard error).
    ///
    /// # Errors
    /// When `KUBEBUILDER_ASSETS` is set and lacks one, or when the build fails.
    pub fn find() -> Result<Self> {
        if let Some(dir) = env::var_os("KUBEBUILDER_ASSETS") {
            let found = Self::inside(Path::new(&dir));
            return found.with_context(|| format!("KUBEBUILDER_ASSETS={} lacks etcd or kube-apiserver", dir.display()));
        }
        if let Some(found) = Self::on_path() {
            return Ok(found);
        }
        Self::inside(&built(&["etcd", "kube-apiserver"])?).context("the build left nothing usable")
    }

    fn inside(dir: &Path) -> Option<Self> {
        let programs = Self { etcd: dir.join("etcd"), apiserver: dir.join("kube-apiserver") };
        (programs.etcd.is_file() && programs.apiserver.is_file()).then_some(programs)
    }

    fn on_path() -> Option<Self> {
        let path = env::var_os("PATH")?;
        let find = |name: &str| env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
        let programs = Self { etcd: find("etcd")?, apiserver: find("kube-apiserver")? };
        let version = Command::new(&programs.apiserver).arg("--version").output().ok()?;
        version.stdout.starts_with(WANTED.as_bytes()).then_some(programs)
    }
}
