//! Programs that die with the thread that started them, and ports for them.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result};

use crate::swtpm::alone;

/// Starts a program that dies with the thread that started it, with more in its environment.
///
/// # Errors
/// When it can't be started.
pub fn spawn_in(program: &Path, log: &Path, arguments: &[String], environment: &[(&str, String)]) -> Result<Child> {
    let log = fs::File::create(log)?;
    alone::command("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

/// A port of loopback that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
