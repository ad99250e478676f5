//! A Compute Engine that behaves: names, request ids, operations that take time and fail, things in use, pages, lag.
//!
//! Every request is checked against Google's model first ([`model`]); what doesn't keep to it is refused and remembered.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod model;
mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use self::model::Service;
pub use self::world::{Fault, World};

/// A running endpoint; ends with the test's runtime.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
}

impl Endpoint {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let app = Router::new().fallback(serve).with_state(Arc::clone(&world));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, world }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The state of the cloud, to look at and to script.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

async fn serve(
    State(world): State<Arc<Mutex<World>>>,
    method: Method,
    uri: Uri,
    Query(query): Query<Vec<(String, String)>>,
    body: Bytes,
) -> Response {
    let body: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap());
    let mut world = world.lock().unwrap();
    let (status, answer) = match model::check(Service::Compute, method.as_str(), uri.path(), &query, body.as_ref()) {
        Ok(matched) => world.answer(&matched, &query, body),
        Err(wrong) => {
            world.violations.extend(wrong.clone());
            (400, world::refusal(400, "invalid", &wrong.join("; ")))
        }
    };
    let mut headers = HeaderMap::new();
    if status == 429 {
        headers.insert("retry-after", "7".parse().unwrap());
    }
    (StatusCode::from_u16(status).unwrap(), headers, Json(answer)).into_response()
}
