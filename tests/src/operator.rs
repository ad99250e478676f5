//! The operator as a process: started, killed and started again by tests.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// A running operator; killed when dropped.
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// Starts `constellation-operator run` with more arguments. Kubeconfig, state and log are in `dir`.
    ///
    /// # Errors
    /// When the program was not built (`cargo build -p constellation-operator`) or does not start.
    pub fn start(dir: &Path, kubeconfig: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_through(dir, kubeconfig, &[], arguments)
    }

    /// As [`Self::start`], through a program that becomes the operator, such as `env` or `unshare`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_through(dir: &Path, kubeconfig: &str, through: &[&str], arguments: &[&str]) -> Result<Self> {
        Self::start_program("constellation-operator", dir, kubeconfig, through, arguments)
    }

    /// As [`Self::start_through`], of a program that is an operator under another name.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_program(
        name: &str,
        dir: &Path,
        kubeconfig: &str,
        through: &[&str],
        arguments: &[&str],
    ) -> Result<Self> {
        let program = program(name)?;
        let path = dir.join("operator.kubeconfig");
        fs::write(&path, kubeconfig)?;
        let log = dir.join("operator.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(through)
            .arg(program)
            .arg("run")
            .arg("--local-state-dir")
            .arg(dir.join("local"))
            .args(arguments)
            .env("KUBECONFIG", path)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting the operator")?;
        Ok(Self { child, log })
    }

    /// SIGKILL, as a machine that loses power would.
    pub fn kill(mut self) {
        self.end();
    }

    /// Stops it where it is, as a machine that is suspended would; [`Self::resume`] lets it go on.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Number of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program of the workspace, beside the running test in the target folder.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = env::current_exe()?;
    let mut folder = test.parent().context("a program is in a folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps is in a folder")?;
    }
    let program = folder.join(name);
    ensure!(program.is_file(), "{} is missing: cargo build -p {name}", program.display());
    Ok(program)
}
