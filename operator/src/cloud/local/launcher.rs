//! Starting and stopping a cluster's supervisor.
//!
//! The operator runs its own executable as `local-supervisor --dir D`: the *launcher*. It takes the cluster's lock,
//! opens the port on the host's loopback, and starts `unshare`, which makes the namespaces and runs the executable a
//! third time as the *supervisor*. Lock and port are passed as standard output and input, so they live exactly as
//! long as the supervisor. The launcher tells the outcome on its standard output and ends; the supervisor, in a
//! session of its own, outlives the operator. `unshare --kill-child` ties the supervisor to the process whose id is
//! in `supervisor.pid`, and the pid namespace ties every VM to the supervisor: one SIGKILL ends them all.

use std::{
    env, fs,
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal, setsid},
};

use super::{
    api::Reply,
    checks::check_free,
    console::tail_of,
    layout::{ClusterDir, SOCKET},
    leaks,
    probe::Tools,
};
use crate::cloud::CloudError;

/// The path at which a cluster's socket can be reached however long the directory's own path is. The path is good
/// for as long as the descriptor is open.
pub(super) fn socket_path(dir: &ClusterDir) -> io::Result<(PathBuf, OwnedFd)> {
    let opened = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&opened);
    Ok((PathBuf::from(format!("/proc/self/fd/{number}/{SOCKET}")), opened))
}

/// Whether a supervisor holds the cluster's lock.
pub(super) fn is_supervised(dir: &ClusterDir) -> Result<bool, CloudError> {
    Ok(take_lock(dir)?.is_none())
}

/// Takes the cluster's lock; nothing if somebody holds it.
pub(super) fn take_lock(dir: &ClusterDir) -> Result<Option<OwnedFd>, CloudError> {
    let path = dir.lock();
    let failed = |e: io::Error| CloudError::Transient(format!("locking {} failed: {e}", path.display()));
    let file = fs::File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file.into())),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The launcher: starts a supervisor unless one runs, and waits until it answers.
pub(super) fn launch(dir: &ClusterDir, cidr: &str) -> Result<(), CloudError> {
    // Fails only for a leader of a process group, which a freshly started process is not; by hand it may be.
    setsid().ok();
    let tools = Tools::find()?;
    let versions = tools.check_versions()?;
    let Some(lock) = lock_unless_answered(dir)? else {
        return Ok(());
    };
    check_free(dir.path(), STATE, "a cluster")?;
    let failed = |what: &str, e: io::Error| CloudError::Transient(format!("{what} failed: {e}"));
    let outside = outside_port(dir)?;
    match fs::remove_file(dir.path().join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(failed("removing the old socket", e));
        }
        _ => {}
    }
    let log = fs::File::options().create(true).append(true).mode(0o600).open(dir.log());
    let mut log = log.map_err(|e| failed("opening the supervisor's log", e))?;
    writeln!(log, "Starting supervisor with {versions}").map_err(|e| failed("writing the supervisor's log", e))?;
    let executable = env::current_exe().map_err(|e| failed("finding our executable", e))?;
    let mut command = Command::new(&tools.unshare);
    if !geteuid().is_root() {
        // Not as root: `swtpm_setup` would then want to change groups, which a user namespace forbids.
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    let mut child = command
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(executable)
        .args(["local-supervisor", "--inside", "--cidr", cidr, "--dir"])
        .arg(dir.path())
        .current_dir(dir.path())
        .stdin(OwnedFd::from(outside))
        .stdout(lock)
        .stderr(log)
        .spawn()
        .map_err(|e| failed("starting unshare", e))?;
    let unfinished = dir.pid().with_extension("unfinished");
    fs::write(&unfinished, child.id().to_string())
        .and_then(|()| fs::rename(&unfinished, dir.pid()))
        .map_err(|e| failed("writing the supervisor's process id", e))?;
    let answered = await_answer(dir, &mut child);
    if answered.is_err() {
        // It has ended, or has to.
        child.kill().ok();
        child.wait().ok();
    }
    answered
}

/// Binds the port that this cluster had before, or any that is free and keeps it.
fn outside_port(dir: &ClusterDir) -> Result<TcpListener, CloudError> {
    let path = dir.port();
    let failed = |e: io::Error| CloudError::Transient(format!("choosing the cluster's port on 127.0.0.1 failed: {e}"));
    match fs::read_to_string(&path) {
        Ok(text) => {
            let port: u16 = text
                .trim()
                .parse()
                .map_err(|_| CloudError::Unsupported(format!("{} holds no port", path.display())))?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| {
                CloudError::Host(format!(
                    "port {port} on 127.0.0.1, which this cluster had before and its kubeconfig names, cannot be had: \
                     {e}; end what holds it"
                ))
            })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            let port = listener.local_addr().map_err(failed)?.port();
            let unfinished = path.with_extension("unfinished");
            fs::write(&unfinished, port.to_string()).and_then(|()| fs::rename(&unfinished, &path)).map_err(failed)?;
            Ok(listener)
        }
        Err(e) => Err(failed(e)),
    }
}

/// The cluster's lock, or nothing once another supervisor answers. Whoever only looks holds the lock for a moment too.
fn lock_unless_answered(dir: &ClusterDir) -> Result<Option<OwnedFd>, CloudError> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(lock) = take_lock(dir)? {
            return Ok(Some(lock));
        }
        if answers(dir) {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err(CloudError::Transient(format!(
                "another supervisor starts but does not answer: {}",
                tail_of(&dir.log(), 3)
            )));
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until the supervisor that was started answers.
fn await_answer(dir: &ClusterDir, child: &mut Child) -> Result<(), CloudError> {
    let said = || tail_of(&dir.log(), 1);
    let deadline = Instant::now() + START;
    while !answers(dir) {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(refusal(&status.to_string(), &said()));
        }
        if Instant::now() > deadline {
            return Err(CloudError::Transient(format!(
                "the supervisor did not answer in {}s: {}",
                START.as_secs(),
                said()
            )));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn answers(dir: &ClusterDir) -> bool {
    socket_path(dir).and_then(|(path, _open)| UnixStream::connect(path)).is_ok()
}

/// Why the supervisor ended before it answered.
fn refusal(status: &str, said: &str) -> CloudError {
    if said.contains("unshare: ") {
        CloudError::Host(format!(
            "network and pid namespaces cannot be made: run as root (CAP_SYS_ADMIN, CAP_NET_ADMIN), or allow user \
             namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone): {said}"
        ))
    } else {
        CloudError::Transient(format!("the supervisor ended ({status}): {said}"))
    }
}

/// Stops the cluster's supervisor and with it every VM; returns when no process of the cluster is left.
pub(super) fn stop(dir: &ClusterDir) -> Result<(), CloudError> {
    let deadline = Instant::now() + STOP;
    loop {
        if is_supervised(dir)? {
            kill(dir);
        } else if leaks::processes(dir.path()).is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let left = leaks::processes(dir.path()).join("; ");
            return Err(CloudError::Transient(format!("the supervisor does not end: {left}")));
        }
        // Milliseconds, in all; several processes have to be gone and none is our child.
        std::thread::sleep(POLL);
    }
}

/// Kills the process in `supervisor.pid` if it is really the one: the id is checked after the descriptor is held.
fn kill(dir: &ClusterDir) {
    let pid = fs::read_to_string(dir.pid()).ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    let Some(pid) = pid else { return };
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if leaks::belongs_to(&pid.as_raw_nonzero().to_string(), dir.path()) {
        // Fails only if it has ended meanwhile.
        pidfd_send_signal(held, Signal::KILL).ok();
    }
}

/// The operator's half: runs the launcher and reads what it says.
pub(super) async fn ensure(executable: &Path, dir: &ClusterDir, cidr: &str) -> Result<(), CloudError> {
    let failed = |what: String| {
        CloudError::Transient(format!("starting the supervisor of {} failed: {what}", dir.path().display()))
    };
    let child = tokio::process::Command::new(executable)
        .args(["local-supervisor", "--cidr", cidr, "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = tokio::time::timeout(START + Duration::from_secs(5), child).await;
    let output = output.map_err(|_| failed("it takes too long".into()))?.map_err(|e| failed(e.to_string()))?;
    match serde_json::from_slice::<Reply>(&output.stdout) {
        Ok(reply) => reply.into_result().map(|_| ()),
        Err(_) => Err(failed(super::console::tail(&output.stderr, 2))),
    }
}

/// A cluster's own files, bytes: its CA, logs and a few more come to a tenth of this.
const STATE: u64 = 16 << 20;
/// A new CA takes up to 3 s in software and on a busy host; the rest is milliseconds.
const START: Duration = Duration::from_mins(1);
/// Other processes' doings can only be looked at; this is short beside what they take.
const POLL: Duration = Duration::from_millis(10);
/// A SIGKILL of everything took 19 ms; a busy host may need longer to free gigabytes.
const STOP: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_forbids_namespaces_is_refused_and_told_why() {
        let refused = refusal("exit status: 1", "unshare: unshare failed: Operation not permitted");
        let CloudError::Host(message) = refused else { panic!("{refused}") };
        assert!(message.contains("user namespaces"), "{message}");
        assert!(matches!(refusal("exit status: 1", "out of memory"), CloudError::Transient(_)));
    }

    #[test]
    fn a_lock_is_taken_once() {
        let path = env::temp_dir().join(format!("constellation-lock-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let dir = ClusterDir::at(path.clone());
        let held = take_lock(&dir).unwrap().expect("nobody else knows this directory");
        assert!(is_supervised(&dir).unwrap());
        drop(held);
        assert!(!is_supervised(&dir).unwrap());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_cluster_keeps_its_port() {
        let path = env::temp_dir().join(format!("constellation-port-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let dir = ClusterDir::at(path.clone());
        let first = outside_port(&dir).unwrap().local_addr().unwrap();
        assert_eq!(outside_port(&dir).unwrap().local_addr().unwrap(), first);
        fs::write(dir.port(), "x").unwrap();
        assert!(outside_port(&dir).is_err());
        fs::remove_dir_all(path).unwrap();
    }
}
