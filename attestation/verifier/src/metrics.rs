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

/// How long something took, in buckets of seconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    count: Counter,
    micros: AtomicU64,
}

/// Upper bounds in milliseconds: an appraisal takes about five, a join is dominated by the node's TPM and the API
/// server's two writes, and a node waits a minute for its verdict.
const BOUNDS: [u64; 10] = [10, 25, 50, 100, 250, 500, 1000, 2500, 10_000, 60_000];

impl Histogram {
    /// Adds one duration.
    pub fn observe(&self, duration: Duration) {
        for (bound, bucket) in BOUNDS.into_iter().zip(&self.buckets) {
            if duration <= Duration::from_millis(bound) {
                bucket.add();
            }
        }
        self.count.add();
        self.micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// In Prometheus' text format; buckets are cumulative.
    fn render(&self, name: &str, text: &mut String) {
        let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
        for (bound, bucket) in BOUNDS.into_iter().zip(&self.buckets) {
            let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {}", seconds(bound), bucket.value());
        }
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        let count = self.count.value();
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Of the joins without a verdict, those that made room for another caller.
    pub dropped: Counter,
    /// Joins that ended with a ticket.
    pub joins_admitted: Counter,
    /// Joins without a verdict.
    pub joins_failed: Counter,
    /// Joins that were refused.
    pub joins_refused: Counter,
    /// From a node's Hello, once it has a place, to its ticket; only joins that were admitted.
    pub ticket_seconds: Histogram,
    /// Members that passed again.
    pub reattest_accepted: Counter,
    /// Members that gave no evidence.
    pub reattest_failed: Counter,
    /// Members that didn't pass.
    pub reattest_refused: Counter,
    /// Kubelets' certificates that were renewed.
    pub renewals_approved: Counter,
    /// Requests for kubelets' certificates that were denied.
    pub renewals_denied: Counter,
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
            ("renewals_total{result=\"approved\"}", self.renewals_approved.value()),
            ("renewals_total{result=\"denied\"}", self.renewals_denied.value()),
            ("connections_dropped_total", self.dropped.value()),
            ("trust_revision", trust_revision),
        ];
        let mut text = String::new();
        for (name, value) in rows {
            let _ = writeln!(text, "constellation_verifier_{name} {value}");
        }
        self.ticket_seconds.render("constellation_verifier_ticket_seconds", &mut text);
        text
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

    #[test]
    fn a_histogram_counts_each_duration_in_every_bucket_that_holds_it() {
        let metrics = Metrics::default();
        for millis in [20, 50, 90_000] {
            metrics.ticket_seconds.observe(Duration::from_millis(millis));
        }
        let text = metrics.render(0);
        for line in ["bucket{le=\"0.01\"} 0", "bucket{le=\"0.025\"} 1", "bucket{le=\"0.05\"} 2", "bucket{le=\"60\"} 2"]
        {
            assert!(text.contains(&format!("constellation_verifier_ticket_seconds_{line}\n")), "{line}: {text}");
        }
        assert!(
            text.contains("_bucket{le=\"+Inf\"} 3\n") && text.contains("_sum 90.07\n") && text.contains("_count 3\n")
        );
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
