//! Logs: for people on a terminal, JSON in a cluster.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Sets the process's log up. `CONSTELLATION_LOG` filters, as in `info,constellation_operator=debug`.
pub fn start() {
    let filter = EnvFilter::try_from_env("CONSTELLATION_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}
