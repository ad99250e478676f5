//! The program: parses arguments and runs what they name.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use constellation_attestation::dumps;

use crate::{
    args::Run,
    cloud::local::{SupervisorArgs, supervise},
    metrics,
    permissions::{self, Permissions},
    refusals, run, telemetry,
};

/// Kubernetes clusters of confidential VMs that prove what they booted.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts, or is, the supervisor of a local cluster; the operator calls this.
    #[command(hide = true)]
    LocalSupervisor(SupervisorArgs),
    /// Print what metrics there are, as a page.
    Metrics,
    /// Print the role that the operator needs in a cloud.
    #[command(subcommand)]
    Permissions(Permissions),
    /// Print what the refusals of a cloud become, as a page.
    Refusals,
    /// Reconcile clusters until told to stop.
    Run(Box<Run>),
}

/// Runs the program.
///
/// # Errors
/// Those of the command that was given.
pub fn main() -> anyhow::Result<()> {
    dumps::forbid().context("forbidding core dumps")?;
    match Args::parse().command {
        // Before any log: its standard streams carry its answers.
        Command::LocalSupervisor(args) => Ok(supervise(&args)?),
        Command::Metrics => {
            print!("{}", metrics::page());
            Ok(())
        }
        Command::Permissions(of) => {
            print!("{}", permissions::document(&of)?);
            Ok(())
        }
        Command::Refusals => {
            print!("{}", refusals::page());
            Ok(())
        }
        Command::Run(args) => {
            telemetry::start();
            rustls::crypto::aws_lc_rs::default_provider()
                .install_default()
                .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run::run(*args))
        }
    }
}
