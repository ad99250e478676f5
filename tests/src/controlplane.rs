//! A real control plane for tests and the demo: etcd and kube-apiserver on loopback, gone when dropped.
//!
//! In order: find the programs ([`programs`]), make or reuse certificates ([`pki`]), start etcd, start
//! kube-apiserver, poll `/readyz`. Both die with the thread that started them (`setpriv --pdeathsig`), so a crash
//! leaks nothing; kube-apiserver is ended before etcd, because without etcd its own end hangs.

pub mod pki;
pub mod programs;
pub mod shared;

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

use self::{pki::Pki, programs::Programs};
use crate::swtpm::alone;

/// On two idle cores it takes five seconds; on two busy ones it was seen to take forty.
const READY_TIMEOUT: Duration = Duration::from_mins(3);
/// Ports are asked for, freed and used a moment later, so somebody else may have taken one.
const ATTEMPTS: usize = 4;
/// First pause between two looks; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// How long a process gets to end by itself. With open watches kube-apiserver never would; etcd takes milliseconds,
/// and what it has written is in the kernel's hands anyway.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What a control plane is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Folder for data, certificates and logs; reused when it is there. Absent: a temporary one.
    pub dir: Option<PathBuf>,
    /// Where the audit log of all requests goes (metadata only, one JSON object a line).
    pub audit_log: Option<PathBuf>,
}

/// A running control plane.
pub struct ControlPlane {
    apiserver: Child,
    etcd: Child,
    port: u16,
    pki: Pki,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl ControlPlane {
    /// Starts one in a temporary folder.
    ///
    /// # Errors
    /// When the programs can't be had or don't get ready.
    pub async fn start() -> Result<Self> {
        Self::start_with(&Options::default()).await
    }

    /// Starts one.
    ///
    /// # Errors
    /// When the programs can't be had or don't get ready; the message ends with the last lines of the log.
    pub async fn start_with(options: &Options) -> Result<Self> {
        install_crypto();
        let programs = Programs::find()?;
        let temporary = if options.dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let dir = match (&options.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => bail!("a control plane needs a folder"),
        };
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let pki = Pki::load_or_create(&dir.join("pki"))?;
        for attempt in 1.. {
            let error = match launch(&programs, &pki, &dir, options).await {
                Ok((etcd, apiserver, port)) => {
                    return Ok(Self {
                        apiserver: apiserver.release(),
                        etcd: etcd.release(),
                        port,
                        pki,
                        dir,
                        _temporary: temporary,
                    });
                }
                Err(error) => error,
            };
            let text = format!("{error:#}");
            if attempt >= ATTEMPTS || !text.contains("address already in use") {
                return Err(error);
            }
        }
        bail!("unreachable: the loop above returns")
    }

    /// URL of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A kubeconfig of a member of `system:masters`.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.pki.kubeconfig(&self.url())
    }

    /// A client of a member of `system:masters`.
    ///
    /// # Errors
    /// When the generated kubeconfig can't be used, which would be our bug.
    pub async fn client(&self) -> Result<kube::Client> {
        Ok(kube::Client::try_from(self.config().await?)?)
    }

    /// Configuration of such a client, for those who want to change it first.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub async fn config(&self) -> Result<kube::Config> {
        config(&self.kubeconfig()).await
    }

    /// Folder with data, certificates and logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether both processes still run.
    pub fn alive(&mut self) -> bool {
        matches!(self.apiserver.try_wait(), Ok(None)) && matches!(self.etcd.try_wait(), Ok(None))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        end(&mut self.apiserver);
        end(&mut self.etcd);
    }
}

/// Makes a client configuration from a kubeconfig.
///
/// # Errors
/// When it can't be read.
pub async fn config(kubeconfig: &str) -> Result<kube::Config> {
    install_crypto();
    let parsed = Kubeconfig::from_yaml(kubeconfig)?;
    Ok(kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?)
}

/// One TLS provider per process; a second call changes nothing.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A child that is ended when it is dropped before somebody took it over.
struct Guard(Option<Child>);

impl Guard {
    fn release(mut self) -> Child {
        self.0.take().expect("a guard holds its child until it is released")
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.as_mut().expect("a guard holds its child until it is released").try_wait()?)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

async fn launch(programs: &Programs, pki: &Pki, dir: &Path, options: &Options) -> Result<(Guard, Guard, u16)> {
    let [client_port, peer_port, port] = free_ports()?;
    let etcd_url = format!("http://127.0.0.1:{client_port}");
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    let etcd_log = dir.join("etcd.log");
    let mut command = child(&programs.etcd, &etcd_log)?;
    command
        .arg("--name=default")
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .arg(format!("--listen-client-urls={etcd_url}"))
        .arg(format!("--advertise-client-urls={etcd_url}"))
        .arg(format!("--listen-peer-urls={peer_url}"))
        .arg(format!("--initial-advertise-peer-urls={peer_url}"))
        .arg(format!("--initial-cluster=default={peer_url}"))
        .args(["--force-new-cluster", "--unsafe-no-fsync", "--log-level=warn"]);
    let mut etcd = Guard(Some(command.spawn().context("starting etcd")?));

    let log = dir.join("kube-apiserver.log");
    let mut command = child(&programs.apiserver, &log)?;
    command
        .arg(format!("--etcd-servers={etcd_url}"))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24"])
        .arg(format!("--secure-port={port}"))
        .arg(format!("--tls-cert-file={}", pki.path("serving.crt").display()))
        .arg(format!("--tls-private-key-file={}", pki.path("serving.key").display()))
        .arg(format!("--client-ca-file={}", pki.path("ca.crt").display()))
        .arg(format!("--service-account-key-file={}", pki.path("service-account.pub").display()))
        .arg(format!("--service-account-signing-key-file={}", pki.path("service-account.key").display()))
        .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC"])
        .args(["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"])
        .args(["--profiling=false", "--allow-privileged=true", "--shutdown-delay-duration=0s"]);
    if let Some(path) = &options.audit_log {
        let policy = dir.join("audit-policy.yaml");
        fs::write(&policy, AUDIT_POLICY)?;
        command
            .arg(format!("--audit-policy-file={}", policy.display()))
            .arg(format!("--audit-log-path={}", path.display()))
            .arg("--audit-log-mode=blocking");
    }
    let mut apiserver = Guard(Some(command.spawn().context("starting kube-apiserver")?));

    let client = kube::Client::try_from(config(&pki.kubeconfig(&format!("https://127.0.0.1:{port}"))).await?)?;
    let until = Instant::now() + READY_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    loop {
        for (name, child, log) in [("etcd", &mut etcd, &etcd_log), ("kube-apiserver", &mut apiserver, &log)] {
            if let Some(how) = child.exited()? {
                bail!("{name} ended before it was ready, {how}:\n{}", tail(log));
            }
        }
        if ready(&client).await {
            return Ok((etcd, apiserver, port));
        }
        if Instant::now() > until {
            bail!("kube-apiserver was not ready in {} s:\n{}", READY_TIMEOUT.as_secs(), tail(&log));
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn ready(client: &kube::Client) -> bool {
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await.is_ok_and(|answer| answer.is_ok())
}

/// Half to all of the pause: many harnesses at once should not look in step.
fn jittered(pause: Duration) -> Duration {
    let nanos = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs();
    pause / 2 + pause.mul_f64(f64::from(nanos % 1000) / 2000.0)
}

fn child(program: &Path, log: &Path) -> Result<Command> {
    let log =
        File::options().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
    let mut command = alone::command("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// All are held until all are had, so they differ.
fn free_ports() -> Result<[u16; 3]> {
    let held =
        [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port(), held[2].local_addr()?.port()])
}

fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let until = Instant::now() + END_TIMEOUT;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The last lines of a log; without etcd's warnings about our settings, which say the same at every start.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("\"caller\":\"embed/config.go")).collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n";
