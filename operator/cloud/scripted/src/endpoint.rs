//! A scripted cloud that listens on loopback.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use tokio::sync::Notify;

use crate::Scripted;

/// A request, whole.
pub struct Request {
    pub method: Method,
    pub uri: Uri,
    /// Parameters of the URL.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A running endpoint; ends with the test's runtime.
pub struct Endpoint<W> {
    pub address: SocketAddr,
    shared: Arc<Shared<W>>,
}

struct Shared<W> {
    world: Mutex<W>,
    /// Told when a caller died.
    killed: Notify,
}

impl<W> Clone for Endpoint<W> {
    fn clone(&self) -> Self {
        Self { address: self.address, shared: Arc::clone(&self.shared) }
    }
}

impl<W: Scripted> Endpoint<W> {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Mutex::new(W::at(&format!("http://{address}")));
        let shared = Arc::new(Shared { world, killed: Notify::new() });
        let app = Router::new().fallback(serve::<W>).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the caller of a call is dead, as it was scripted.
    pub async fn killed(&self) {
        self.shared.killed.notified().await;
    }

    /// The state of the cloud, to look at and to script.
    pub fn world(&self) -> MutexGuard<'_, W> {
        // A test that failed while it looked has said so.
        self.shared.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every request kept to the vendor's model, and no VM was made twice.
    #[track_caller]
    pub fn kept_to_the_model(&self) {
        assert_eq!(self.world().wrongs(), [""; 0]);
    }
}

async fn serve<W: Scripted>(
    State(shared): State<Arc<Shared<W>>>,
    method: Method,
    uri: Uri,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request { method, uri, query, headers, body };
    let (answer, dies) = {
        let mut world = shared.world.lock().unwrap();
        let answer = world.respond(&request);
        (answer, world.dies())
    };
    if dies {
        shared.killed.notify_one();
        std::future::pending::<()>().await;
    }
    answer
}
