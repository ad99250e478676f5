//! The TPMs: a CA per cluster, a manufactured TPM per VM, the emulator that runs it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tokio::process::{Child, Command};

use super::{probe::Tools, qemu::TPM_SOCKET};

/// What went wrong with a TPM.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("writing the TPM CA's configuration {} failed", path.display())]
    Configuration { path: PathBuf, source: io::Error },
    #[error("{program} did not run")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} did not finish in {}s", MANUFACTURE_TIMEOUT.as_secs())]
    Slow { program: &'static str },
    #[error("{program} failed: {output}")]
    Failed { program: &'static str, output: String },
    #[error("the TPM at {} could not be put in place", path.display())]
    Place { path: PathBuf, source: io::Error },
}

/// Manufacturing takes 0.1 s of CPU, 3 s with a new CA; at a minute something is stuck.
const MANUFACTURE_TIMEOUT: Duration = Duration::from_mins(1);

/// Names of the CA's certificates, issuer first.
pub(super) const CERTIFICATES: [&str; 2] = ["issuercert.pem", "swtpm-localca-rootca-cert.pem"];

/// Writes the CA's configuration. Paths are absolute: `swtpm_localca` runs wherever `swtpm_setup` likes.
pub(super) fn configure(ca: &Path, tools: &Tools) -> Result<(), Error> {
    let dir = ca.display();
    let files = [
        (
            SETUP,
            format!(
                "create_certs_tool = {}\ncreate_certs_tool_config = {dir}/localca.conf\n\
                 create_certs_tool_options = {dir}/localca.options\nactive_pcr_banks = sha256\n",
                tools.swtpm_localca.display()
            ),
        ),
        (
            "localca.conf",
            format!(
                "statedir = {dir}\nsigningkey = {dir}/signkey.pem\nissuercert = {dir}/issuercert.pem\n\
                 certserial = {dir}/certserial\n"
            ),
        ),
        (
            "localca.options",
            "--platform-manufacturer Constellation\n--platform-version 1\n--platform-model QEMU\n".to_owned(),
        ),
    ];
    fs::create_dir_all(ca).map_err(|source| Error::Configuration { path: ca.to_owned(), source })?;
    for (name, content) in files {
        let path = ca.join(name);
        fs::write(&path, content).map_err(|source| Error::Configuration { path, source })?;
    }
    Ok(())
}

/// Makes the CA, by manufacturing a TPM that nobody will use: the CA must be known before the first VM asks to join.
pub(super) async fn ensure_ca(ca: &Path, tools: &Tools) -> Result<(), Error> {
    configure(ca, tools)?;
    if CERTIFICATES.iter().all(|name| ca.join(name).exists()) {
        return Ok(());
    }
    let scratch = ca.join("scratch");
    manufacture(&scratch, "scratch", ca, tools).await?;
    fs::remove_dir_all(&scratch).map_err(|source| Error::Place { path: scratch, source })
}

/// Makes a TPM with endorsement key and certificate in `tpm`; one that is there already stays as it is.
pub(super) async fn manufacture(tpm: &Path, owner: &str, ca: &Path, tools: &Tools) -> Result<(), Error> {
    if tpm.exists() {
        return Ok(());
    }
    let place = |source| Error::Place { path: tpm.to_owned(), source };
    let unfinished = tpm.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(place)?;
    }
    fs::create_dir_all(&unfinished).map_err(place)?;
    let mut command = Command::new(&tools.swtpm_setup);
    command
        .args(["--tpm2", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--pcr-banks", "sha256"])
        .args(["--vmid", owner, "--config"])
        .arg(ca.join(SETUP))
        .arg("--tpmstate")
        .arg(format!("dir://{}", unfinished.display()))
        .current_dir(ca);
    if geteuid().is_root() {
        // Else it would become the user "tss", who cannot write here.
        command.args(["--runas", "root"]);
    }
    let output = finish("swtpm_setup", command).await?;
    if !output.status.success() {
        return Err(Error::Failed { program: "swtpm_setup", output: last_lines(&output) });
    }
    fs::rename(&unfinished, tpm).map_err(place)
}

/// Starts the emulator of the TPM in `instance`; it ends when QEMU closes the connection.
pub(super) fn start(instance: &Path, tools: &Tools) -> Result<Child, Error> {
    let socket = instance.join(TPM_SOCKET);
    if let Err(source) = fs::remove_file(&socket)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(Error::Place { path: socket, source });
    }
    let log = fs::File::options().create(true).append(true).open(instance.join("swtpm.log"));
    let log = log.map_err(|source| Error::Place { path: instance.to_owned(), source })?;
    Command::new(&tools.swtpm)
        .args(["socket", "--tpm2", "--tpmstate", "dir=tpm", "--terminate", "--ctrl"])
        .arg(format!("type=unixio,path={TPM_SOCKET}"))
        .current_dir(instance)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Run { program: "swtpm", source })
}

/// Runs a command to its end; its whole process group is killed when it takes too long.
async fn finish(program: &'static str, mut command: Command) -> Result<Output, Error> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Run { program, source })?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Ok(output) = tokio::time::timeout(MANUFACTURE_TIMEOUT, child.wait_with_output()).await {
        return output.map_err(|source| Error::Run { program, source });
    }
    if let Some(group) = group {
        // Fails only if the group has ended meanwhile.
        kill_process_group(group, Signal::KILL).ok();
    }
    Err(Error::Slow { program })
}

fn last_lines(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    super::console::tail(&text, 4)
}

const SETUP: &str = "setup.conf";
