//! Parses arguments and runs what they name.

use clap::{Parser, Subcommand};
use constellation_operator::cloud::local::{SupervisorArgs, supervise};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts, or is, the supervisor of a local cluster; the operator calls this.
    #[command(hide = true)]
    LocalSupervisor(SupervisorArgs),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::LocalSupervisor(args) => Ok(supervise(&args)?),
    }
}
