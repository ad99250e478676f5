//! Runs the machine's programs: arguments never hold a secret, input goes through a pipe, output into the progress.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    time::{Instant, sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{error::Error, progress::Log};

/// Programs that only configure something answer within this time, also without KVM.
const SHORT: Duration = Duration::from_mins(1);
/// Pause between two looks at the API server of this node; it is local, and each costs a process.
const LOOK: Duration = Duration::from_secs(2);

/// First pause before a command is run again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const GREATEST_PAUSE: Duration = Duration::from_secs(15);

/// Runs a short command; its error output is part of the error.
pub async fn run(words: &[&str]) -> Result<(), Error> {
    output(words, SHORT).await.map(|_| ())
}

/// Whether a short command succeeds.
pub async fn succeeds(words: &[&str]) -> bool {
    run(words).await.is_ok()
}

/// Whether what a short command looks for is so: it ends with 0 then, and with 1 where it isn't.
///
/// # Errors
/// When it ends otherwise, or not at all: that says nothing.
pub async fn holds(words: &[&str]) -> Result<bool, Error> {
    let done = ended(words, SHORT).await?;
    match done.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(unsuccessful(words, &done)),
    }
}

/// Runs a command and gives its standard output.
pub async fn output(words: &[&str], limit: Duration) -> Result<Zeroizing<String>, Error> {
    let done = ended(words, limit).await?;
    if !done.status.success() {
        return Err(unsuccessful(words, &done));
    }
    Ok(Zeroizing::new(String::from_utf8_lossy(&done.stdout).into_owned()))
}

async fn ended(words: &[&str], limit: Duration) -> Result<Output, Error> {
    let mut command = prepare(words)?;
    command.stdin(Stdio::null());
    timeout(limit, command.output())
        .await
        .map_err(|_| Error::Time(name(words), limit.as_secs()))?
        .map_err(|e| failed(words, &e.to_string()))
}

/// Runs a command with `input` on its standard input.
pub async fn with_input(words: &[&str], input: &[u8], limit: Duration) -> Result<(), Error> {
    let mut command = prepare(words)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(words, &e.to_string()))?;
    let mut pipe = child.stdin.take().ok_or_else(|| failed(words, "no pipe"))?;
    pipe.write_all(input).await.map_err(|e| failed(words, &e.to_string()))?;
    drop(pipe);
    let done = timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| Error::Time(name(words), limit.as_secs()))?
        .map_err(|e| failed(words, &e.to_string()))?;
    if done.status.success() { Ok(()) } else { Err(unsuccessful(words, &done)) }
}

/// Runs a long command and puts each line of its output into the progress.
pub async fn logged(words: &[&str], limit: Duration, log: &Log) -> Result<(), Error> {
    let mut command = prepare(words)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(words, &e.to_string()))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let copy = |stream: Option<_>| async move {
        if let Some(stream) = stream {
            follow(stream, log).await;
        }
    };
    let copy_err = async {
        if let Some(stream) = err {
            follow(stream, log).await;
        }
    };
    let all = async {
        let (status, (), ()) = tokio::join!(child.wait(), copy(out), copy_err);
        status
    };
    let status = timeout(limit, all)
        .await
        .map_err(|_| Error::Time(name(words), limit.as_secs()))?
        .map_err(|e| failed(words, &e.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(words, &format!("{status}; see the lines above"))) }
}

/// Runs a long command again and again until it succeeds or its time is over.
pub async fn insist(words: &[&str], limit: Duration, log: &Log) -> Result<(), Error> {
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match logged(words, left, log).await {
            Err(error @ Error::Command { .. }) if Instant::now() + pause < end => {
                log.line(&format!("{error}; trying again"));
                sleep(pause).await;
                pause = (pause * 2).min(GREATEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// Waits until this node's own API server says that it is ready.
pub async fn await_readyz(server: &str, limit: Duration, log: &Log) -> Result<(), Error> {
    let look = ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--server", server, "get", "--raw", "/readyz"];
    let ready = async {
        while !succeeds(&look).await {
            sleep(LOOK).await;
        }
    };
    timeout(limit, ready).await.map_err(|_| Error::Time("the API server".into(), limit.as_secs()))?;
    log.line("the API server of this node is ready");
    Ok(())
}

async fn follow(stream: impl tokio::io::AsyncRead + Unpin, log: &Log) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.line(&line);
    }
}

fn prepare(words: &[&str]) -> Result<Command, Error> {
    let (program, arguments) = words.split_first().ok_or_else(|| failed(words, "no program"))?;
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    Ok(command)
}

fn name(words: &[&str]) -> String {
    words.iter().take(4).copied().collect::<Vec<_>>().join(" ")
}

fn unsuccessful(words: &[&str], done: &Output) -> Error {
    failed(words, &format!("{}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()))
}

fn failed(words: &[&str], problem: &str) -> Error {
    Error::Command { command: name(words), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_fails_otherwise_than_by_saying_no_said_nothing() {
        let asked = async |script: &str| holds(&["sh", "-c", script]).await;
        assert!(asked("exit 0").await.unwrap() && !asked("exit 1").await.unwrap());
        for silent in ["exit 2", "exit 4", "kill -9 $$"] {
            assert!(asked(silent).await.is_err(), "{silent}");
        }
        assert!(holds(&["/nonexistent"]).await.is_err());
    }
}
