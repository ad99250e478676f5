//! /healthz, /readyz and /metrics.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::{self, Metrics};

/// Clusters, groups, nodes and versions.
const KINDS: usize = 4;

/// Whether this process can do its work. That it lives is another question, which whoever serves has answered.
#[derive(Debug)]
pub struct Health {
    follows: AtomicBool,
    unlisted: AtomicUsize,
}

impl Default for Health {
    fn default() -> Self {
        Self { follows: AtomicBool::new(false), unlisted: AtomicUsize::new(KINDS) }
    }
}

impl Health {
    /// Another one leads, as the API server says: this one is ready to take over.
    pub fn follows(&self) {
        self.follows.store(true, Ordering::Relaxed);
    }

    /// This one leads, and is ready when it has seen all there is.
    pub fn leads(&self) {
        self.follows.store(false, Ordering::Relaxed);
    }

    /// All objects of one kind were listed for the first time.
    pub fn listed(&self) {
        self.unlisted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.follows.load(Ordering::Relaxed) || self.unlisted.load(Ordering::Relaxed) == 0
    }
}

/// Serves for ever.
///
/// # Errors
/// When the address can't be had.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, health: Arc<Health>) -> std::io::Result<()> {
    axum::serve(TcpListener::bind(address).await?, routes(metrics, health)).await
}

fn routes(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    let scrape = async move || {
        let text = metrics.text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok::<_, StatusCode>(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
    };
    let ready = async move || if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Router::new()
        .route("/healthz", get(|| async { StatusCode::OK }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_whitespace().nth(1).unwrap().to_owned()
    }

    #[tokio::test]
    async fn who_follows_is_ready_and_who_leads_only_when_all_kinds_were_listed_and_both_live() {
        let health = Arc::<Health>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, routes(Arc::default(), Arc::clone(&health))).into_future());
        let asked = async || (get(address, "/healthz").await, get(address, "/readyz").await);
        let answers = |ready: &str| ("200".to_owned(), ready.to_owned());
        assert_eq!(asked().await, answers("503"), "nobody knows yet who leads");
        health.follows();
        assert_eq!(asked().await, answers("200"));
        health.leads();
        for _ in 0..KINDS {
            assert_eq!(asked().await, answers("503"));
            health.listed();
        }
        assert_eq!(asked().await, answers("200"));
        assert_eq!(get(address, "/metrics").await, "200");
    }
}
