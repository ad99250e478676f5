//! A software TPM with a certified endorsement key, on a local port; killed when dropped.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

// Tests of other crates take this file alone, so it brings what it needs.
#[path = "alone.rs"]
pub mod alone;

/// swtpm answers within milliseconds of its start; only a box that is down takes this long.
const START: Duration = Duration::from_secs(20);
/// Ports from here on are below those that the kernel gives to connections (32768 and up, `ip_local_port_range`).
const FIRST: u16 = 20_000;
/// Pairs of ports.
const PAIRS: u32 = 5_000;
/// Two ports that were free a moment ago may be taken when swtpm asks for them.
const ATTEMPTS: usize = 5;

/// A running software TPM 2.0, manufactured by a CA of its own.
pub struct Swtpm {
    child: Child,
    folder: TempDir,
    ports: Ports,
}

/// Two ports in a row, which no other test's process takes before they are dropped.
struct Ports {
    first: u16,
    _held: UnixListener,
}

impl Swtpm {
    /// Manufactures a TPM (RSA-2048 EK with certificate, SHA-256 and SHA-384 banks) and starts it.
    ///
    /// # Errors
    /// When swtpm isn't installed or doesn't start.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        manufacture(folder.path())?;
        let (child, ports) = launch(folder.path())?;
        Ok(Self { child, folder, ports })
    }

    /// Starts another one with the same keys and the same maker, which is much faster than making one.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn start_like(other: &Self) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for part in [ca, state] {
            fs::create_dir(part(folder.path()))?;
            copy_files(&part(other.folder.path()), &part(folder.path()))?;
        }
        let (child, ports) = launch(folder.path())?;
        Ok(Self { child, folder, ports })
    }

    /// How a TPM library reaches it.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.ports.first)
    }

    /// Certificates (PEM) that endorse its EK: the CA that issued the EK's certificate, and that CA's root.
    ///
    /// # Errors
    /// When the files are gone.
    pub fn endorsement_roots(&self) -> Result<Vec<String>> {
        let ca = ca(self.folder.path());
        let names = ["issuercert.pem", "swtpm-localca-rootca-cert.pem"];
        names.iter().map(|name| only_pem(&fs::read_to_string(ca.join(name))?)).collect()
    }

    /// Switches it off and on again: PCRs start over, keys stay.
    ///
    /// # Errors
    /// When it doesn't start again.
    pub fn reboot(&mut self) -> Result<()> {
        self.kill();
        (self.child, self.ports) = launch(self.folder.path())?;
        Ok(())
    }

    /// A copy of its state, as somebody with the host's disk can make.
    ///
    /// # Errors
    /// When the files can't be copied.
    pub fn copy(&self) -> Result<TempDir> {
        let copy = tempfile::tempdir()?;
        copy_files(&state(self.folder.path()), copy.path())?;
        Ok(copy)
    }

    /// Switches it off and puts an earlier state back; [`Swtpm::reboot`] switches it on.
    ///
    /// # Errors
    /// When the files can't be copied.
    pub fn put_back(&mut self, earlier: &TempDir) -> Result<()> {
        self.kill();
        copy_files(earlier.path(), &state(self.folder.path()))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// `GnuTLS` writes a description before the PEM.
fn only_pem(text: &str) -> Result<String> {
    let start = text.find("-----BEGIN CERTIFICATE-----").context("no certificate in swtpm's CA")?;
    Ok(text[start..].to_owned())
}

fn ca(folder: &Path) -> PathBuf {
    folder.join("ca")
}

fn state(folder: &Path) -> PathBuf {
    folder.join("state")
}

/// Manufactures a TPM in a folder, by a CA that lies beside it; gives the folder of its state, which no process uses yet.
///
/// # Errors
/// When swtpm isn't installed, or a TPM is there already.
pub fn manufacture(folder: &Path) -> Result<PathBuf> {
    let (ca, state) = (ca(folder), state(folder));
    fs::create_dir(&ca)?;
    fs::create_dir(&state)?;
    let (ca_path, tool) = (ca.display(), find("swtpm_localca")?);
    let (ca_config, ca_options, setup) =
        (folder.join("localca.conf"), folder.join("localca.options"), folder.join("setup.conf"));
    fs::write(
        &ca_config,
        format!(
            "statedir = {ca_path}\nsigningkey = {ca_path}/signkey.pem\nissuercert = {ca_path}/issuercert.pem\n\
             certserial = {ca_path}/certserial\n"
        ),
    )?;
    fs::write(&ca_options, "--platform-manufacturer Constellation\n--platform-version 1\n--platform-model test\n")?;
    fs::write(
        &setup,
        format!(
            "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
            tool.display(),
            ca_config.display(),
            ca_options.display()
        ),
    )?;
    let output = alone::command("swtpm_setup")
        .args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256,sha384", "--overwrite"])
        .arg("--tpmstate")
        .arg(&state)
        .arg("--config")
        .arg(&setup)
        .output()
        .context("swtpm_setup isn't installed")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "swtpm_setup failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(state)
}

fn launch(folder: &Path) -> Result<(Child, Ports)> {
    for _ in 0..ATTEMPTS {
        let ports = free_pair()?;
        let port = ports.first;
        let mut child = alone::command("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state(folder).display()))
            .arg("--server")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={port}"))
            .arg("--ctrl")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("swtpm isn't installed")?;
        if answers(&mut child, port + 1)? {
            return Ok((child, ports));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    bail!("swtpm found no free ports in {ATTEMPTS} attempts");
}

/// Whether it serves before it ends. It listens on its control port first, and on the other a moment later; so it is asked
/// for a word, which it gives when it listens on both.
fn answers(child: &mut Child, control: u16) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < START {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        if ask(control).is_ok() {
            return Ok(true);
        }
        std::thread::yield_now();
    }
    bail!("swtpm doesn't answer");
}

/// Asks what it is capable of: `CMD_GET_CAPABILITY`, answered by a result and flags, four bytes each (`swtpm_ioctls(3)`).
fn ask(control: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, control))?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(&1_u32.to_be_bytes())?;
    stream.read_exact(&mut [0; 4 + 4])
}

/// Two ports in a row: swtpm's clients expect the control port right after the other. Whoever tries a pair holds its
/// name, in the namespace that ports are in: while one swtpm starts, another's answer would be taken for its own.
fn free_pair() -> Result<Ports> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PAIRS {
        let number = std::process::id().wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % PAIRS;
        let first = FIRST + 2 * u16::try_from(number)?;
        let name = SocketAddr::from_abstract_name(format!("constellation-swtpm-{first}"))?;
        let Ok(held) = UnixListener::bind_addr(&name) else { continue };
        let both = [first, first + 1].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if both.iter().all(Result::is_ok) {
            return Ok(Ports { first, _held: held });
        }
    }
    bail!("no two ports in a row are free");
}

fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH isn't set")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{program} isn't installed"))
}
