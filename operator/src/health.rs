//! /healthz, /readyz and /metrics.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, http::StatusCode, routing::get};
use tokio::net::TcpListener;

/// Whether this process leads.
#[derive(Clone, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// We lead now.
    pub fn leads(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Serves for ever. A follower is ready too: it is ready to take over.
    pub async fn serve(self, address: SocketAddr) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/healthz", get(|| async { StatusCode::OK }))
            .route("/readyz", get(|| async { StatusCode::OK }))
            .route("/metrics", get(move || async move { self.metrics() }));
        axum::serve(TcpListener::bind(address).await?, routes).await
    }

    fn metrics(&self) -> String {
        let leads = u8::from(self.0.load(Ordering::Relaxed));
        format!(
            "# HELP leader_election_master_status Whether this process leads.\n\
             # TYPE leader_election_master_status gauge\n\
             leader_election_master_status{{name=\"{}\"}} {leads}\n",
            crate::lease::NAME
        )
    }
}
