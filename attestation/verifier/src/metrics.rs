//! A few counters, and a port on which Prometheus finds them.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections closed because there were too many.
    pub dropped: Counter,
    /// Joins that ended with a ticket.
    pub joins_admitted: Counter,
    /// Joins without a verdict.
    pub joins_failed: Counter,
    /// Joins that were refused.
    pub joins_refused: Counter,
    /// Members that passed again.
    pub reattest_accepted: Counter,
    /// Members that gave no evidence.
    pub reattest_failed: Counter,
    /// Members that didn't pass.
    pub reattest_refused: Counter,
}

impl Metrics {
    /// The counters in Prometheus' text format.
    #[must_use]
    pub fn render(&self, trust_revision: u64) -> String {
        let rows = [
            ("joins_total{result=\"admitted\"}", self.joins_admitted.value()),
            ("joins_total{result=\"failed\"}", self.joins_failed.value()),
            ("joins_total{result=\"refused\"}", self.joins_refused.value()),
            ("reattestations_total{result=\"accepted\"}", self.reattest_accepted.value()),
            ("reattestations_total{result=\"failed\"}", self.reattest_failed.value()),
            ("reattestations_total{result=\"refused\"}", self.reattest_refused.value()),
            ("connections_dropped_total", self.dropped.value()),
            ("trust_revision", trust_revision),
        ];
        rows.into_iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "constellation_verifier_{name} {value}");
            text
        })
    }
}

/// One scrape, reading and answering together.
const SCRAPE: Duration = Duration::from_secs(5);
const REQUEST_BYTES: usize = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers every request on `listener` with what `render` gives, one at a time.
pub async fn serve(listener: TcpListener, render: impl Fn() -> String) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = timeout(SCRAPE, answer(stream, render())).await;
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn answer(mut stream: TcpStream, body: String) -> std::io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    let _ = stream.read(&mut request).await?;
    let length = body.len();
    let kind = "text/plain; version=0.0.4";
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_rendered_with_their_labels() {
        let metrics = Metrics::default();
        metrics.joins_admitted.add();
        let text = metrics.render(7);
        assert!(text.contains("constellation_verifier_joins_total{result=\"admitted\"} 1\n"));
        assert!(text.contains("constellation_verifier_trust_revision 7\n"));
    }

    #[tokio::test]
    async fn a_scrape_gets_the_text() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, || "a 1\n".to_owned()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\na 1\n"));
        server.abort();
    }
}
