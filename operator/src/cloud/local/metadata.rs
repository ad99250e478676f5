//! The metadata service at 169.254.169.254: tells each guest its launch configuration and its peers.
//!
//! The caller is known by its source address. Nothing here is secret or trusted: the node measures what it reads.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use super::{proxy::VERIFIER, supervisor::Supervisor};

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, supervisor: Arc<Supervisor>) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/constellation/v1/launch-config", get(launch_config))
        .route("/constellation/v1/peers", get(peers))
        .with_state(supervisor);
    axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>()).await
}

async fn launch_config(
    State(supervisor): State<Arc<Supervisor>>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
) -> Response {
    let IpAddr::V4(address) = caller.ip() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match supervisor.launch_config(address) {
        Some(bytes) => bytes.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn peers(State(supervisor): State<Arc<Supervisor>>) -> Response {
    Json(json!({ "verifiers": [format!("{}:{VERIFIER}", supervisor.gateway())] })).into_response()
}
