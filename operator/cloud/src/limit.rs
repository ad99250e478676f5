//! How fast we may call a cloud: one bucket of tokens per account and region, which a throttled call empties.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A bucket of tokens. Its clock is tokio's, which tests stop and move.
#[derive(Debug)]
pub struct Limiter {
    every: Duration,
    burst: u32,
    /// The earliest time at which a bucket that was never touched again would be full.
    full_at: Mutex<Instant>,
}

impl Limiter {
    /// At most `burst` calls at once, then one in each `every`.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { every, burst: burst.max(1), full_at: Mutex::new(Instant::now()) }
    }

    /// Waits for a turn. Turns are given in the order of asking.
    pub async fn turn(&self) {
        let when = {
            let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *full_at = (*full_at).max(now) + self.every;
            // The token that we took was there if the bucket held no more debt than its size.
            *full_at - self.every * self.burst
        };
        sleep_until(when).await;
    }

    /// The cloud said that we are too fast: nobody gets a turn for this long.
    pub fn throttled(&self, after: Duration) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        // After the pause there is one token, not a burst: that is what was too fast.
        *full_at = (*full_at).max(Instant::now() + after + self.every * (self.burst - 1));
    }
}

/// Limiters by account and region: whoever shares a quota of calls shares a limiter.
#[derive(Debug)]
pub struct Limiters {
    burst: u32,
    every: Duration,
    all: Mutex<BTreeMap<(String, String), Arc<Limiter>>>,
}

impl Limiters {
    /// All limiters have the same size.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, all: Mutex::default() }
    }

    /// The limiter of an account in a region.
    #[must_use]
    pub fn of(&self, account: &str, region: &str) -> Arc<Limiter> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = all.entry((account.to_owned(), region.to_owned()));
        Arc::clone(limiter.or_insert_with(|| Arc::new(Limiter::new(self.burst, self.every))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn waited(limiter: &Limiter) -> Duration {
        let before = Instant::now();
        limiter.turn().await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(3, SECOND);
        for _ in 0..3 {
            assert_eq!(waited(&limiter).await, Duration::ZERO);
        }
        assert_eq!([waited(&limiter).await, waited(&limiter).await], [SECOND; 2]);
        tokio::time::advance(SECOND * 60).await;
        for _ in 0..3 {
            assert_eq!(waited(&limiter).await, Duration::ZERO, "a rested bucket is full, not fuller");
        }
        assert_eq!(waited(&limiter).await, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_call_stops_everybody_for_as_long_as_the_cloud_says() {
        let limiter = Limiter::new(3, SECOND);
        limiter.throttled(SECOND * 7);
        assert_eq!(waited(&limiter).await, SECOND * 7);
        assert_eq!(waited(&limiter).await, SECOND, "no burst after it");
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_and_regions_do_not_wait_for_each_other() {
        let limiters = Limiters::new(1, SECOND);
        limiters.of("a", "north").throttled(SECOND * 9);
        assert_eq!(waited(&limiters.of("a", "south")).await, Duration::ZERO);
        assert_eq!(waited(&limiters.of("b", "north")).await, Duration::ZERO);
        assert_eq!(waited(&limiters.of("a", "north")).await, SECOND * 9);
    }
}
