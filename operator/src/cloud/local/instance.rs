//! One VM: its directory, its two processes, and the task that owns them from launch to removal.
//!
//! The directory is the VM's memory. `request.json` comes first, then disks, TPM and tap, each of which is made only
//! if it is missing; so a launch that was cut short goes on where it stopped, and a restart finds the same machine.
//! A VM's processes never outlive the supervisor: they are in its pid namespace. Removal renames the directory away
//! first, so a removal that was cut short is never mistaken for a VM.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use constellation_attestation::delivery::{self, Hints};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::{mpsc, oneshot, watch},
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use super::{
    api::Record,
    checks::check_free,
    console::{bound, tail_of},
    layout::{Shape, Subnet},
    netns,
    probe::Tools,
    proxy::VERIFIER,
    qemu::{self, Accelerator, Machine},
    shelf, swtpm,
};

/// What all VMs of a cluster share.
pub(super) struct Host {
    pub(super) tools: Tools,
    pub(super) subnet: Subnet,
    /// Absolute.
    pub(super) ca: PathBuf,
    /// Absolute.
    pub(super) instances: PathBuf,
    /// Falls back to software once KVM has proved not to work, and stays there.
    pub(super) accelerator: Mutex<Accelerator>,
}

/// How a VM is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It ended or never began.
    Failed(String),
    /// QEMU runs.
    Running,
    /// Its disks and TPM are being made, or it is between two runs.
    Starting,
    /// It is being removed.
    Terminating,
}

/// What can be asked of a VM's task. The sender learns when it is done.
pub(super) enum Order {
    Restart(oneshot::Sender<()>),
    Terminate(oneshot::Sender<Result<(), String>>),
}

/// What went wrong while a VM was made or ran.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{what} could not be made")]
    File { what: &'static str, source: io::Error },
    #[error("the tap could not be made")]
    Network(#[from] netns::Error),
    #[error("QEMU did not start")]
    Qemu(#[source] io::Error),
    #[error("the instance type is not understood")]
    Shape,
    #[error("the TPM could not be made or started")]
    Tpm(#[from] swtpm::Error),
    #[error("the TPM emulator ended before it was ready: {0}")]
    TpmEnded(String),
}

/// The error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// How one run of QEMU ended.
enum Ended {
    /// KVM shows no sign of life.
    Fallback,
    Itself(String),
    Ordered(Order),
    /// The guest rebooted after this long.
    Reset(Duration),
}

/// Whether a VM's task begins with a run.
pub(super) enum Begin {
    Failed(String),
    Start,
}

/// A VM and its task's state.
pub(super) struct Vm {
    pub(super) host: Arc<Host>,
    pub(super) record: Record,
    pub(super) address: Ipv4Addr,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) orders: mpsc::Receiver<Order>,
}

impl Vm {
    /// Runs the VM until it is removed.
    pub(super) async fn run(mut self, begin: Begin) {
        let mut quick_resets = 0;
        let mut failure = match begin {
            Begin::Failed(message) => Some(message),
            Begin::Start => None,
        };
        loop {
            let ended = match failure.take() {
                Some(message) => {
                    tracing::warn!(node = self.record.node, why = message, "VM failed");
                    self.phase.send_replace(Phase::Failed(message));
                    match self.orders.recv().await {
                        Some(order) => Ended::Ordered(order),
                        None => return,
                    }
                }
                None => match self.live().await {
                    Ok(ended) => ended,
                    Err(error) => Ended::Itself(chain(&error)),
                },
            };
            match ended {
                Ended::Fallback => {
                    tracing::warn!("KVM does not run this guest, using software from now on");
                    *self.host.accelerator.lock().unwrap_or_else(PoisonError::into_inner) = Accelerator::Tcg;
                }
                Ended::Itself(message) => failure = Some(message),
                Ended::Ordered(Order::Restart(done)) => {
                    tracing::info!(node = self.record.node, "Restarting VM");
                    // Nobody may be waiting any more.
                    let _ = done.send(());
                }
                Ended::Ordered(Order::Terminate(done)) => match self.remove().await {
                    Ok(()) => {
                        tracing::info!(node = self.record.node, "Terminated VM");
                        let _ = done.send(Ok(()));
                        return;
                    }
                    Err(error) => {
                        failure = Some(format!("removal failed: {error}"));
                        let _ = done.send(Err(error.to_string()));
                    }
                },
                Ended::Reset(age) => {
                    quick_resets = if age < BOOT_LOOP { quick_resets + 1 } else { 0 };
                    tracing::info!(node = self.record.node, quick_resets, "Guest rebooted");
                    if quick_resets > QUICK_RESETS {
                        failure = Some(self.with_console("the guest reboots in a loop"));
                    }
                }
            }
        }
    }

    fn dir(&self) -> PathBuf {
        self.host.instances.join(&self.record.node)
    }

    /// One run, from disks to the end of QEMU.
    async fn live(&mut self) -> Result<Ended, Error> {
        self.phase.send_replace(Phase::Starting);
        let dir = self.dir();
        self.prepare(&dir).await?;
        let mut tpm = swtpm::start(&dir, &self.host.tools)?;
        await_socket(&dir, &mut tpm).await?;
        let accelerator = *self.host.accelerator.lock().unwrap_or_else(PoisonError::into_inner);
        let mut qemu = self.start_qemu(&dir, accelerator)?;
        self.phase.send_replace(Phase::Running);
        tracing::info!(node = self.record.node, address = %self.address, ?accelerator, "Started VM");
        let ended = self.watch(&mut qemu, accelerator).await;
        self.phase.send_replace(match ended {
            Ended::Ordered(Order::Terminate(_)) => Phase::Terminating,
            _ => Phase::Starting,
        });
        // `kill` also waits; an error means that it has ended already.
        qemu.kill().await.ok();
        if timeout(TPM_PATIENCE, tpm.wait()).await.is_err() {
            tpm.kill().await.ok();
        }
        Ok(ended)
    }

    /// Makes what is missing: disks, firmware variables, user data, TPM, tap.
    async fn prepare(&self, dir: &Path) -> Result<(), Error> {
        let file = |what| move |source| Error::File { what, source };
        let state = fs::File::options().create(true).append(true).open(dir.join(qemu::STATE_DISK));
        let state = state.map_err(file("the state disk"))?;
        if state.metadata().map_err(file("the state disk"))?.len() < self.record.state_disk_bytes {
            state.set_len(self.record.state_disk_bytes).map_err(file("the state disk"))?;
        }
        let variables = dir.join(qemu::VARIABLES);
        if !variables.exists() {
            let unfinished = variables.with_extension("unfinished");
            let template = &self.host.tools.variables;
            fs::copy(template, &unfinished)
                .and_then(|_| fs::set_permissions(&unfinished, std::os::unix::fs::PermissionsExt::from_mode(0o600)))
                .and_then(|()| fs::rename(&unfinished, &variables))
                .map_err(file("the firmware's variables"))?;
        }
        let hints = Hints { verifiers: vec![format!("{}:{VERIFIER}", self.host.subnet.gateway())] };
        let user_data = delivery::join(&self.record.launch_config, &hints);
        fs::write(dir.join(qemu::USER_DATA), user_data).map_err(file("the user data"))?;
        swtpm::manufacture(&dir.join("tpm"), &self.record.node, &self.host.ca, &self.host.tools).await?;
        netns::ensure_tap(&self.host.tools.ip, &netns::tap_name(self.address)).await?;
        Ok(())
    }

    fn start_qemu(&self, dir: &Path, accelerator: Accelerator) -> Result<Child, Error> {
        let machine = Machine {
            name: self.record.name.clone(),
            accelerator,
            shape: Shape::parse(&self.record.instance_type).map_err(|_| Error::Shape)?,
            firmware: self.host.tools.firmware.clone(),
            image: PathBuf::from(&self.record.image),
            tap: netns::tap_name(self.address),
            address: self.address,
            subnet: self.host.subnet,
        };
        let arguments = qemu::arguments(&machine);
        let file = |what| move |source| Error::File { what, source };
        let shown = format!("{} {}\n", self.host.tools.qemu.display(), arguments.join(" "));
        fs::write(dir.join("qemu.cmd"), shown).map_err(file("qemu.cmd"))?;
        let log = fs::File::options().create(true).append(true).open(dir.join(LOG)).map_err(file("QEMU's log"))?;
        Command::new(&self.host.tools.qemu)
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::Qemu)
    }

    /// Waits for the end of QEMU or for an order.
    async fn watch(&mut self, qemu: &mut Child, accelerator: Accelerator) -> Ended {
        let started = Instant::now();
        let console = self.dir().join(qemu::CONSOLE);
        let said_before = length(&console);
        let mut doubtful = accelerator == Accelerator::Kvm;
        let mut monitor = qemu.stdout.take().map(|out| BufReader::new(out).lines());
        let mut input = qemu.stdin.take();
        if let Some(input) = &mut input {
            // If QEMU is gone already, its exit says more than this error.
            input.write_all(qemu::OPEN_MONITOR.as_bytes()).await.ok();
        }
        let mut reason = None;
        let (mut looks, mut stopped) = (interval(CONSOLE_LOOK), false);
        loop {
            tokio::select! {
                line = next_line(&mut monitor) => match line {
                    Some(line) if qemu::wants_room(&line) => {
                        let on = self.host.instances.display();
                        tracing::warn!(node = self.record.node, %on, "The VM stands still until there is room on the disk");
                        stopped = true;
                    }
                    Some(line) => reason = qemu::shutdown_reason(&line).or(reason),
                    None => monitor = None,
                },
                () = sleep(ROOM_LOOK), if stopped => {
                    stopped = check_free(&self.host.instances, ROOM, "a VM that stands still").is_err();
                    if let Some(input) = input.as_mut().filter(|_| !stopped) {
                        tracing::info!(node = self.record.node, "The VM goes on");
                        input.write_all(qemu::GO_ON.as_bytes()).await.ok();
                    }
                }
                status = qemu.wait() => {
                    while let Ok(Some(line)) = timeout(MONITOR_PATIENCE, next_line(&mut monitor)).await {
                        reason = qemu::shutdown_reason(&line).or(reason);
                    }
                    let age = started.elapsed();
                    if accelerator == Accelerator::Kvm && age < KVM_CRASH && reason.is_none() {
                        return Ended::Fallback;
                    }
                    return match reason.as_deref() {
                        Some("guest-reset") => Ended::Reset(age),
                        reason => Ended::Itself(self.why(reason, status.ok())),
                    };
                }
                order = self.orders.recv() => match order {
                    Some(order) => return Ended::Ordered(order),
                    None => return Ended::Itself("the supervisor forgot this VM".into()),
                },
                _ = looks.tick() => {
                    if let Err(error) = bound(&console) {
                        tracing::warn!(%error, node = self.record.node, "The console can't be kept small");
                    }
                }
                () = sleep_until(started + KVM_SILENCE), if doubtful => {
                    if length(&console) == said_before {
                        return Ended::Fallback;
                    }
                    doubtful = false;
                }
            }
        }
    }

    fn why(&self, reason: Option<&str>, status: Option<ExitStatus>) -> String {
        match reason {
            Some("guest-shutdown") => self.with_console("the guest powered itself off"),
            Some("guest-panic") => self.with_console("the guest's kernel panicked"),
            Some(reason) => self.with_console(&format!("QEMU ended ({reason})")),
            None => {
                let status = status.map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
                let log = tail_of(&self.dir().join(LOG), 2);
                self.with_console(&format!("QEMU ended ({status}): {log}"))
            }
        }
    }

    fn with_console(&self, what: &str) -> String {
        let console = tail_of(&self.dir().join(qemu::CONSOLE), 5);
        if console.is_empty() {
            format!("{what}; the console is empty")
        } else {
            format!("{what}; end of console: {console}")
        }
    }

    /// Removes tap and directory. The processes have ended.
    async fn remove(&self) -> io::Result<()> {
        self.phase.send_replace(Phase::Terminating);
        // It is not there if the launch never came so far.
        netns::remove_tap(&self.host.tools.ip, &netns::tap_name(self.address)).await.ok();
        shelf::remove_dir(&self.host.instances, &self.record.node)
    }
}

async fn await_socket(dir: &Path, tpm: &mut Child) -> Result<(), Error> {
    let socket = dir.join(qemu::TPM_SOCKET);
    let log = || tail_of(&dir.join("swtpm.log"), 2);
    let deadline = Instant::now() + TPM_START;
    while !socket.exists() {
        if tpm.try_wait().is_ok_and(|status| status.is_some()) || Instant::now() > deadline {
            return Err(Error::TpmEnded(log()));
        }
        // It takes 3 to 9 ms; there is nothing to wait on but the file's appearance.
        sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}

async fn next_line(monitor: &mut Option<Lines<BufReader<ChildStdout>>>) -> Option<String> {
    match monitor {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

const LOG: &str = "qemu.log";
/// Starting takes milliseconds; on a busy host perhaps a second.
const TPM_START: Duration = Duration::from_secs(10);
/// The emulator ends by itself when QEMU's end of the socket closes.
const TPM_PATIENCE: Duration = Duration::from_secs(1);
/// QEMU has written its last word before it ends; only the pipe has to be read.
const MONITOR_PATIENCE: Duration = Duration::from_millis(200);
/// Time between two looks at how great the console became.
const CONSOLE_LOOK: Duration = Duration::from_mins(1);
/// Time between two looks whether there is room again for a VM that stands still, and how much there has to be, bytes.
const ROOM_LOOK: Duration = Duration::from_secs(10);
const ROOM: u64 = 64 << 20;
/// A KVM that does not suit makes QEMU abort at once, or the firmware say nothing; it speaks within 3 s even in software.
const KVM_CRASH: Duration = Duration::from_secs(2);
const KVM_SILENCE: Duration = Duration::from_secs(5);
/// A guest that reboots this soon has not come up; after a few of these in a row it never will.
const BOOT_LOOP: Duration = Duration::from_mins(1);
const QUICK_RESETS: u32 = 3;
