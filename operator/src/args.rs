//! The command line of `run`.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::collateral::settings::Settings;

/// Reconcile clusters until told to stop.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Allow provider `simulated`. It proves nothing: for trials and tests only.
    #[arg(long)]
    pub allow_simulated: bool,
    /// Folder for the VMs of provider `local`; absent: the provider isn't offered.
    #[arg(long, value_name = "DIR")]
    pub local_state_dir: Option<PathBuf>,
    /// Only this namespace.
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Where /healthz, /readyz and /metrics are served; absent: nowhere.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_address: Option<SocketAddr>,
    /// Wait for leadership before doing anything; several operators may then run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// Namespace of the lease; absent: the pod's own, or the kubeconfig's.
    #[arg(long, value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// Seconds between two looks for what clouds have and no object names. Often enough that a leak costs cents, seldom
    /// enough to be no load.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub sweep_seconds: u64,
    /// Seconds until a watch begins anew with all objects: an event that was lost goes unnoticed for so long. It is a
    /// listing of each kind.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub relist_seconds: u64,
    /// Fetching of what makers and clouds say about machines.
    #[command(flatten)]
    pub collateral: Settings,
}
