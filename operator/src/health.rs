//! /healthz, /readyz and /metrics.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::{self, Metrics};

/// Serves for ever. A follower is ready too: it is ready to take over.
///
/// # Errors
/// When the address can't be had.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let scrape = async move || {
        let text = metrics.text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok::<_, StatusCode>(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
    };
    let routes = Router::new()
        .route("/healthz", get(|| async { StatusCode::OK }))
        .route("/readyz", get(|| async { StatusCode::OK }))
        .route("/metrics", get(scrape));
    axum::serve(TcpListener::bind(address).await?, routes).await
}
