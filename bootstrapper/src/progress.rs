//! What the node is doing, kept for every caller that wants to follow it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use constellation_attestation::protocol::Progress;
use tokio::sync::watch;

/// Lines kept; kubeadm prints about a hundred.
const KEPT: usize = 2000;
/// Words in a line of output that could be followed by a credential; such lines are dropped.
const SECRET_WORDS: [&str; 4] = ["--token", "certificate-key", "PRIVATE KEY", "certificateKey"];

/// An append-only list of [`Progress`] that can be followed from its start.
#[derive(Clone)]
pub struct Log {
    entries: Arc<Mutex<Vec<Progress>>>,
    length: watch::Sender<usize>,
    start: Instant,
}

impl Default for Log {
    fn default() -> Self {
        Self { entries: Arc::default(), length: watch::Sender::new(0), start: Instant::now() }
    }
}

impl Log {
    /// A new phase begins.
    pub fn phase(&self, name: &str) {
        tracing::info!(phase = name, seconds = self.start.elapsed().as_secs(), "Phase began");
        self.push(Progress::Phase { name: name.to_owned() });
    }

    /// A line of output; dropped when it could hold a credential.
    pub fn line(&self, text: &str) {
        if SECRET_WORDS.iter().any(|word| text.contains(word)) {
            return;
        }
        tracing::info!(seconds = self.start.elapsed().as_secs(), "{text}");
        self.push(Progress::Line { text: text.to_owned() });
    }

    /// The end.
    pub fn end(&self, last: Progress) {
        self.push(last);
    }

    /// The `n`-th entry, as soon as there is one.
    pub async fn entry(&self, n: usize) -> Progress {
        let mut length = self.length.subscribe();
        loop {
            if let Some(entry) = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(n) {
                return entry.clone();
            }
            // The sender lives in `self`, so waiting can't fail.
            if length.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn push(&self, entry: Progress) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = matches!(entry, Progress::Done { .. } | Progress::Failed { .. });
        if entries.len() < KEPT || ends {
            entries.push(entry);
            self.length.send_replace(entries.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_are_followed_from_the_start_and_credentials_are_dropped() {
        let log = Log::default();
        log.phase("disk");
        log.line("kubeadm join --token abc");
        log.line("done");
        assert!(log.entry(0).await == Progress::Phase { name: "disk".into() });
        assert!(log.entry(1).await == Progress::Line { text: "done".into() });
        let (late, ()) = tokio::join!(log.entry(2), async { log.end(Progress::Failed { message: "x".into() }) });
        assert!(late == Progress::Failed { message: "x".into() });
    }
}
