//! The real bootstrapper as a process: a software TPM, user data in a file, and a folder in place of the machine.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use constellation_attestation::{
    binding::VerifierRole,
    channel::{self, Channel, Identity},
    delivery::{self, Hints},
    platform::Platform,
    protocol::{Hello, LaunchConfig, Purpose},
    session::{self, Proof},
};
use constellation_bootstrapper::host::disk::FOLDERS;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    disk::Lasting,
    operator::program,
    process::{free_port, spawn_in},
    swtpm::{Swtpm, alone},
};

/// What the good image extends into PCR 4 and PCR 11.
pub const IMAGE: [(u8, [u8; 32]); 2] = [(4, [0x44; 32]), (11, [0x11; 32])];
const START: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// What kubeadm leaves behind in tests that read no kubeconfig.
pub const ADMIN: &str = "the administrator's kubeconfig";
const ADMIN_FILE: &str = "etc/kubernetes/admin.conf";

/// A node's agent.
pub struct Agent {
    /// Where it serves its owner.
    pub address: SocketAddr,
    /// What it has in its environment from its next start on.
    pub environment: Vec<(&'static str, String)>,
    launch: Vec<u8>,
    /// What kubeadm leaves behind.
    admin: String,
    process: Child,
    swtpm: Swtpm,
    /// Unmounted before its folder goes.
    disk: Option<Lasting>,
    folder: TempDir,
}

impl Agent {
    /// Boots the good image with this launch configuration; verifiers may be at `peers`.
    ///
    /// # Errors
    /// When a program is missing, or the agent does not listen.
    pub async fn start(launch: &LaunchConfig, peers: &[SocketAddr]) -> Result<Self> {
        let made = (Swtpm::start()?, launch.to_bytes(), local()?, ADMIN);
        Self::start_in(tempfile::tempdir()?, None, made, peers).await
    }

    /// As [`Agent::start`], with a state disk that outlives [`Agent::power_cut`].
    ///
    /// # Errors
    /// As [`Agent::start`]; without root there is no disk.
    pub async fn start_on_disk(launch: &LaunchConfig, peers: &[SocketAddr]) -> Result<Self> {
        Self::start_with(Swtpm::start()?, launch.to_bytes(), local()?, ADMIN, peers).await
    }

    /// As [`Agent::start_on_disk`], with this TPM and at this address; kubeadm leaves `admin` behind.
    ///
    /// # Errors
    /// As [`Agent::start_on_disk`].
    pub async fn start_with(
        swtpm: Swtpm,
        launch: Vec<u8>,
        address: SocketAddr,
        admin: &str,
        peers: &[SocketAddr],
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Lasting::new(folder.path().join("disk.img"), folder.path().join("disk"))?;
        lay_out(folder.path())?;
        Self::start_in(folder, Some(disk), (swtpm, launch, address, admin), peers).await
    }

    async fn start_in(
        folder: TempDir,
        disk: Option<Lasting>,
        (swtpm, launch, address, admin): (Swtpm, Vec<u8>, SocketAddr, &str),
        peers: &[SocketAddr],
    ) -> Result<Self> {
        measure(&swtpm)?;
        deliver(folder.path(), &launch, peers)?;
        let (admin, environment) = (admin.to_owned(), Vec::new());
        let process = start(folder.path(), &swtpm.tcti(), address, &environment)?;
        let mut agent = Self { address, environment, launch, admin, process, swtpm, disk, folder };
        agent.run_kubeadm()?;
        agent.wait_until_it_listens().await?;
        Ok(agent)
    }

    /// Writes what kubeadm would, which doesn't wait for the disk.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn run_kubeadm(&self) -> Result<()> {
        // One that is written over is on the disk sooner (ext4's `auto_da_alloc`).
        if self.path(ADMIN_FILE).exists() {
            fs::remove_file(self.path(ADMIN_FILE))?;
        }
        self.prepare(ADMIN_FILE, &self.admin)
    }

    /// Cuts the machine's power: of its files only those on the state disk stay, as far as they were synced.
    ///
    /// # Errors
    /// When it has no disk to come back with.
    pub fn power_cut(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.disk.as_ref().context("no disk to come back with")?.power_cut()?;
        fs::remove_dir_all(self.path(""))?;
        lay_out(self.folder.path())
    }

    /// Boots it after [`Agent::power_cut`]; verifiers may be at `peers` now.
    ///
    /// # Errors
    /// When it doesn't come up again.
    pub async fn boot(&mut self, peers: &[SocketAddr]) -> Result<()> {
        self.measure_again()?;
        self.restart(peers).await
    }

    /// Resets its TPM and measures the image, as firmware does at each boot; says where the TPM is.
    ///
    /// # Errors
    /// When the TPM doesn't come back.
    pub fn measure_again(&mut self) -> Result<String> {
        self.swtpm.reboot()?;
        measure(&self.swtpm)?;
        Ok(self.swtpm.tcti())
    }

    /// Ends the process as a crash does. The machine stays up, so the TPM's registers stay.
    ///
    /// # Errors
    /// When the TPM can't be asked to forget.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        // As the kernel's resource manager does when a process is gone.
        for kind in ["--transient-object", "--loaded-session"] {
            let status = alone::command("tpm2_flushcontext").args(["-T", &self.swtpm.tcti(), kind]).status()?;
            ensure!(status.success(), "tpm2_flushcontext {kind}");
        }
        Ok(())
    }

    /// Starts it again after [`Agent::kill`]; verifiers may be at `peers` now.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn restart(&mut self, peers: &[SocketAddr]) -> Result<()> {
        self.restart_by(&self.swtpm.tcti(), peers).await
    }

    /// As [`Agent::restart`], on this way to its TPM.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn restart_by(&mut self, tcti: &str, peers: &[SocketAddr]) -> Result<()> {
        deliver(self.folder.path(), &self.launch, peers)?;
        self.process = start(self.folder.path(), tcti, self.address, &self.environment)?;
        self.wait_until_it_listens().await
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Who endorses its TPM.
    ///
    /// # Errors
    /// When the files are gone.
    pub fn endorsement_roots(&self) -> Result<Vec<String>> {
        self.swtpm.endorsement_roots()
    }

    /// A file of the machine.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    /// Reads a file of the machine.
    ///
    /// # Errors
    /// When it can't be read; says what the agent logged.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).with_context(|| format!("{name}: {}", self.log()))
    }

    /// What it has logged since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("bootstrapper.log")).unwrap_or_default()
    }

    /// Puts something on the way of its next write of `name`; gives a future that ends when the agent gets there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn trap(&self, name: &str) -> Result<Trap> {
        let path = self.path(&format!("{name}.new"));
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "mkfifo {}", path.display());
        Ok(Trap { path })
    }

    /// Connects as `caller` and asks for `purpose`; gives what the node says of itself.
    ///
    /// # Errors
    /// When the conversation fails.
    pub async fn call(
        &self,
        caller: &Identity,
        purpose: Purpose,
    ) -> Result<(Channel<TcpStream>, Hello), session::Error> {
        let stream = TcpStream::connect(self.address).await.map_err(channel::Error::Io)?;
        let mut channel = channel::verifier_connect(stream, caller).await?;
        let hello = session::ask(&mut channel, purpose).await?;
        Ok((channel, hello))
    }

    /// As [`Agent::call`] by the owner, up to the node's evidence.
    ///
    /// # Errors
    /// As [`Agent::call`].
    pub async fn prove(
        &self,
        owner: &Identity,
        purpose: Purpose,
    ) -> Result<(Channel<TcpStream>, Proof), session::Error> {
        let (mut channel, hello) = self.call(owner, purpose).await?;
        let proof = session::challenge(&mut channel, hello, VerifierRole::Owner, 1, Platform::QemuVtpm).await?;
        Ok((channel, proof))
    }

    /// PCR 15, from evidence.
    ///
    /// # Errors
    /// As [`Agent::call`].
    pub async fn pcr15(&self, owner: &Identity) -> Result<Vec<u8>, session::Error> {
        let (mut channel, proof) = self.prove(owner, Purpose::Reattest).await?;
        session::accept(&mut channel).await?;
        Ok(proof.evidence.pcrs[15 * 32..].to_vec())
    }

    /// Asks for evidence until PCR 15 is `register`.
    ///
    /// # Errors
    /// When it stays another.
    pub async fn wait_for_pcr15(&self, owner: &Identity, register: [u8; 32]) -> Result<()> {
        let begun = Instant::now();
        while self.pcr15(owner).await? != register {
            ensure!(begun.elapsed() < START, "PCR 15 stays another: {}", self.log());
        }
        Ok(())
    }

    /// Waits until it has logged something.
    ///
    /// # Errors
    /// When it never does.
    pub async fn wait_for_log(&self, text: &str) -> Result<()> {
        self.wait_for_log_after(0, text).await
    }

    /// Waits until it has logged something behind the first bytes of its log.
    pub async fn wait_for_log_after(&self, bytes: usize, text: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.log().get(bytes..).is_some_and(|log| log.contains(text)) {
            ensure!(begun.elapsed() < START, "{text:?} was not logged: {}", self.log());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Writes a file of the machine.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn prepare(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        Ok(fs::write(path, text)?)
    }

    async fn wait_until_it_listens(&mut self) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            ensure!(self.process.try_wait()?.is_none(), "the bootstrapper ended: {}", self.log());
            ensure!(begun.elapsed() < START, "the bootstrapper doesn't listen: {}", self.log());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A file that its writer can't open before somebody reads it.
pub struct Trap {
    path: PathBuf,
}

impl Trap {
    /// Waits until the agent opens the file, ends the agent there, and takes the trap away.
    ///
    /// # Errors
    /// When the agent never gets there.
    pub async fn kill(self, agent: &mut Agent) -> Result<()> {
        let file = self.sprung(agent).await?;
        agent.kill()?;
        drop(file);
        Ok(fs::remove_file(&self.path)?)
    }

    /// As [`Trap::kill`], and cuts the power.
    ///
    /// # Errors
    /// As [`Trap::kill`] and [`Agent::power_cut`].
    pub async fn power_cut(self, agent: &mut Agent) -> Result<()> {
        let file = self.sprung(agent).await?;
        agent.process.kill()?;
        agent.process.wait()?;
        drop(file);
        agent.power_cut()?;
        // It may have come to the disk with what was synced beside it, and is not to come back from there.
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(fs::File::open(self.path.parent().context("a file lies in a folder")?)?.sync_all()?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the agent opens the file; it stays there until what is given is dropped.
    async fn sprung(&self, agent: &Agent) -> Result<fs::File> {
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || fs::File::open(path));
        let Ok(file) = tokio::time::timeout(START, opened).await else {
            // Sets the waiting thread free.
            fs::OpenOptions::new().read(true).write(true).open(&self.path)?;
            bail!("the agent never wrote {}: {}", self.path.display(), agent.log());
        };
        Ok(file??)
    }
}

fn local() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}

/// Puts the state disk where a node mounts it; the rest of the machine's files are new.
fn lay_out(folder: &Path) -> Result<()> {
    for name in FOLDERS {
        let name = name.trim_start_matches('/');
        let (on_disk, mounted) = (folder.join("disk").join(name), folder.join("root").join(name));
        fs::create_dir_all(&on_disk)?;
        fs::create_dir_all(mounted.parent().context("it lies in the machine's root")?)?;
        symlink(on_disk, mounted)?;
    }
    Ok(())
}

/// Delivers user data as the host does.
fn deliver(folder: &Path, launch: &[u8], peers: &[SocketAddr]) -> Result<()> {
    let verifiers = peers.iter().map(SocketAddr::to_string).collect();
    Ok(fs::write(folder.join("user-data"), delivery::join(launch, &Hints { verifiers }))?)
}

fn start(folder: &Path, tcti: &str, address: SocketAddr, environment: &[(&str, String)]) -> Result<Child> {
    let arguments = [
        "run".to_owned(),
        format!("--tcti={tcti}"),
        format!("--user-data={}", folder.join("user-data").display()),
        format!("--listen={address}"),
        format!("--simulated-host={}", folder.join("root").display()),
    ];
    spawn_in(&program("constellation-bootstrapper")?, &folder.join("bootstrapper.log"), &arguments, environment)
}

/// What firmware measures when it boots the good image.
fn measure(swtpm: &Swtpm) -> Result<()> {
    IMAGE.iter().try_for_each(|(register, digest)| extend(swtpm, *register, digest))
}

/// Extends a register from outside, as firmware does.
///
/// # Errors
/// When tpm2-tools fail.
pub fn extend(swtpm: &Swtpm, register: u8, digest: &[u8; 32]) -> Result<()> {
    let value = format!("{register}:sha256={}", hex::encode(digest));
    tool(&swtpm.tcti(), "tpm2_pcrextend", &[&value])
}

/// Runs one of tpm2-tools.
///
/// # Errors
/// When it fails.
pub fn tool(tcti: &str, program: &str, arguments: &[&str]) -> Result<()> {
    let output =
        alone::command(program).args(["-T", tcti]).args(arguments).output().context("tpm2-tools isn't installed")?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
