//! An EC2 and a load balancing service that behave: client tokens, states, things in use, pages, lag, empty zones, lost answers.
//!
//! Every request is checked against botocore's model first ([`model`]); what doesn't keep to it is refused and remembered.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod model;
pub mod objects;
mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use tokio::sync::Notify;

pub use self::world::World;

/// A running endpoint; ends with the test's runtime.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    /// The caller of the call whose answer is lost is told through here that it is dead.
    killed: Notify,
}

impl Endpoint {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { world: Mutex::new(World::new()), killed: Notify::new() });
        let app = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The state of the cloud, to look at and to script.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// Runs something until it ends, or until the scripted call was carried out: then it is dropped as it stands, as a
    /// killed process is. `None` when it was killed.
    pub async fn until_killed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.shared.killed.notified() => None,
        }
    }
}

async fn serve(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (answer, killed) = {
        let mut world = shared.world.lock().unwrap();
        let answer = world.serve(&target, &body);
        (answer, world.kills())
    };
    if killed {
        shared.killed.notify_one();
        std::future::pending::<()>().await;
    }
    let mut headers = HeaderMap::new();
    if answer.throttled {
        headers.insert("retry-after", "7".parse().unwrap());
    }
    let kind = if target.is_empty() { "text/xml" } else { "application/x-amz-json-1.1" };
    headers.insert("content-type", kind.parse().unwrap());
    (StatusCode::from_u16(answer.status).unwrap(), headers, answer.body).into_response()
}
