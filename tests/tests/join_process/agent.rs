//! The real bootstrapper as a process: a software TPM, a metadata service, and a folder in place of the machine.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use constellation_attestation::{
    binding::VerifierRole,
    channel::{self, Channel, Identity},
    platform::Platform,
    protocol::{Hello, LaunchConfig, Purpose},
    session::{self, Proof},
};
use constellation_tests::{
    operator::program,
    swtpm::{Swtpm, alone},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    cluster::{free_port, spawn},
    machine::{IMAGE, extend},
};

const START: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// What kubeadm would leave behind.
pub const ADMIN: &str = "the administrator's kubeconfig";

/// A node's agent.
pub struct Agent {
    /// Where it serves its owner.
    pub address: SocketAddr,
    folder: TempDir,
    metadata: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    process: Child,
    swtpm: Swtpm,
}

impl Agent {
    /// Boots the good image with this launch configuration; verifiers may be at `peers`.
    pub async fn start(launch: &LaunchConfig, peers: &[SocketAddr]) -> Result<Self> {
        let swtpm = Swtpm::start()?;
        for (register, digest) in IMAGE {
            extend(&swtpm, register, &digest)?;
        }
        let folder = tempfile::tempdir()?;
        let peers = Arc::new(Mutex::new(peers.to_vec()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let metadata = listener.local_addr()?;
        tokio::spawn(serve_metadata(listener, launch.to_bytes(), peers.clone()));
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let process = start(folder.path(), &swtpm, metadata, address)?;
        let mut agent = Self { address, folder, metadata, peers, process, swtpm };
        agent.prepare("etc/kubernetes/admin.conf", ADMIN)?;
        agent.wait_until_it_listens().await?;
        Ok(agent)
    }

    /// Ends the process as a crash does. The machine stays up, so the TPM's registers stay.
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
    pub async fn restart(&mut self, peers: &[SocketAddr]) -> Result<()> {
        *self.peers.lock().unwrap() = peers.to_vec();
        self.process = start(self.folder.path(), &self.swtpm, self.metadata, self.address)?;
        self.wait_until_it_listens().await
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Who endorses its TPM.
    pub fn endorsement_roots(&self) -> Result<Vec<String>> {
        self.swtpm.endorsement_roots()
    }

    /// A file of the machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    /// Reads a file of the machine.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).with_context(|| format!("{name}: {}", self.log()))
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("bootstrapper.log")).unwrap_or_default()
    }

    /// Puts something on the way of its next write of `name`; gives a future that ends when the agent gets there.
    pub fn trap(&self, name: &str) -> Result<Trap> {
        let path = self.path(&format!("{name}.new"));
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "mkfifo {}", path.display());
        Ok(Trap { path })
    }

    /// Connects as `caller` and asks for `purpose`; gives what the node says of itself.
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
    pub async fn pcr15(&self, owner: &Identity) -> Result<Vec<u8>, session::Error> {
        let (mut channel, proof) = self.prove(owner, Purpose::Reattest).await?;
        session::accept(&mut channel).await?;
        Ok(proof.evidence.pcrs[15 * 32..].to_vec())
    }

    /// Asks for evidence until PCR 15 is `register`.
    pub async fn wait_for_pcr15(&self, owner: &Identity, register: [u8; 32]) -> Result<()> {
        let begun = Instant::now();
        while self.pcr15(owner).await? != register {
            ensure!(begun.elapsed() < START, "PCR 15 stays another: {}", self.log());
        }
        Ok(())
    }

    /// Waits until it has logged something.
    pub async fn wait_for_log(&self, text: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.log().contains(text) {
            ensure!(begun.elapsed() < START, "{text:?} was not logged: {}", self.log());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Writes a file of the machine.
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
    pub async fn kill(self, agent: &mut Agent) -> Result<()> {
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || fs::File::open(path));
        let Ok(file) = tokio::time::timeout(START, opened).await else {
            // Sets the waiting thread free.
            fs::OpenOptions::new().read(true).write(true).open(&self.path)?;
            bail!("the agent never wrote {}: {}", self.path.display(), agent.log());
        };
        let file = file??;
        agent.kill()?;
        drop(file);
        Ok(fs::remove_file(&self.path)?)
    }
}

fn start(folder: &Path, swtpm: &Swtpm, metadata: SocketAddr, address: SocketAddr) -> Result<Child> {
    let arguments = [
        "run".to_owned(),
        format!("--tcti={}", swtpm.tcti()),
        format!("--metadata={metadata}"),
        format!("--listen={address}"),
        format!("--simulated-host={}", folder.join("root").display()),
    ];
    spawn(&program("constellation-bootstrapper")?, &folder.join("bootstrapper.log"), &arguments)
}

/// Answers as the host does.
async fn serve_metadata(listener: TcpListener, launch: Vec<u8>, peers: Arc<Mutex<Vec<SocketAddr>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (mut request, mut chunk) = (Vec::new(), [0; 1024]);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut chunk).await {
                Ok(length @ 1..) => request.extend_from_slice(&chunk[..length]),
                _ => break,
            }
        }
        let body = if request.starts_with(b"GET /constellation/v1/launch-config ") {
            launch.clone()
        } else {
            serde_json::json!({ "verifiers": *peers.lock().unwrap() }).to_string().into_bytes()
        };
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
    }
}
