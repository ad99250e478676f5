//! A Compute Engine that behaves: names, request ids, operations that take time and fail, things in use, pages, lag.
//!
//! Every request is checked against Google's model first ([`model`]); what doesn't keep to it is refused and remembered.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

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
use tokio::sync::Notify;

use self::model::Service;
pub use self::world::{Fault, World};

/// A running endpoint; ends with the test's runtime.
#[derive(Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
    killed: Arc<Notify>,
}

impl Endpoint {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let killed = Arc::default();
        let app = Router::new().fallback(serve).with_state((Arc::clone(&world), Arc::clone(&killed)));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, world, killed }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the caller of a call is dead, as it was scripted.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// The state of the cloud, to look at and to script.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

async fn serve(
    State((world, killed)): State<(Arc<Mutex<World>>, Arc<Notify>)>,
    method: Method,
    uri: Uri,
    Query(query): Query<Vec<(String, String)>>,
    body: Bytes,
) -> Response {
    let body: Option<Value> = (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap());
    let checked = model::check(Service::Compute, method.as_str(), uri.path(), &query, body.as_ref());
    let (status, answer, dies) = {
        let mut world = world.lock().unwrap();
        let (status, answer) = match checked {
            Ok(matched) => world.answer(&matched, &query, body),
            Err(wrong) => {
                world.violations.extend(wrong.clone());
                (400, world::refusal(400, "invalid", &wrong.join("; ")))
            }
        };
        (status, answer, world.dies())
    };
    if dies {
        killed.notify_one();
        std::future::pending::<()>().await;
    }
    let mut headers = HeaderMap::new();
    if status == 429 {
        headers.insert("retry-after", "7".parse().unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    match answer {
        // Word by word, whether it is JSON or not.
        Value::String(text) => (status, headers, text).into_response(),
        answer => (status, headers, Json(answer)).into_response(),
    }
}
