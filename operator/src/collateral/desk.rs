//! What is known between two looks: what was fetched, what is being fetched, what failed and for how long it rests, and how
//! much each cluster's machines asked for. A restarted operator finds it out again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use constellation_attestation::collateral::{Entry, Key};
use futures::future::{BoxFuture, Shared};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    plan::{self, State, Stored},
    trouble::Trouble,
    vendors::Vendor,
};

/// Requests in [`WINDOW`] that the machines of one cluster are worth. A new cluster wants two or three things; at twice
/// this a host that invents processors would have us ask AMD every minute.
const MOST_ASKED: usize = 24;
/// See [`MOST_ASKED`].
const WINDOW: Duration = Duration::from_hours(1);
/// Things whose failures and texts are remembered; the oldest name goes first. Far more than clusters have.
const MOST_REMEMBERED: usize = 1024;

/// Something that is being fetched; everybody waits for the same answer.
pub type Flight = Shared<BoxFuture<'static, Result<Entry, Trouble>>>;

struct Failure {
    trouble: Trouble,
    attempts: u32,
    rests_until: Instant,
}

/// It.
#[derive(Default)]
pub struct Desk {
    fetched: BTreeMap<Key, Entry>,
    flights: BTreeMap<Key, Flight>,
    failures: BTreeMap<Key, Failure>,
    /// What is being brought where.
    begun: BTreeSet<(String, Key)>,
    asked: BTreeMap<String, VecDeque<Instant>>,
    /// When a text was fetched, and what came of checking it.
    checked: BTreeMap<Key, (Entry, Result<Timestamp, String>)>,
    oldest: BTreeMap<String, [(Vendor, Option<i64>); 2]>,
}

impl Desk {
    /// What this process fetched, as long as nothing newer is due.
    pub fn known(&mut self, key: &Key, now: Timestamp) -> Option<Entry> {
        let entry = self.fetched.get(key)?.clone();
        let until = self.checked.get(key).filter(|(of, _)| *of == entry).map(|(_, until)| until.clone());
        let stored = Stored { fetched: entry.fetched, until: until.unwrap_or(Ok(Timestamp::MAX)) };
        (plan::state(key, Some(&stored), now) == State::Fresh).then_some(entry)
    }

    /// The result of checking an entry; a new text is checked.
    pub fn checked(
        &mut self,
        key: &Key,
        entry: &Entry,
        check: impl FnOnce() -> Result<Timestamp, String>,
    ) -> Result<Timestamp, String> {
        if let Some((of, result)) = self.checked.get(key)
            && of == entry
        {
            return result.clone();
        }
        let result = check();
        bound(&mut self.checked);
        self.checked.insert(key.clone(), (entry.clone(), result.clone()));
        result
    }

    /// Who fetches it already.
    pub fn flight(&self, key: &Key) -> Option<Flight> {
        self.flights.get(key).cloned()
    }

    /// Somebody fetches it now.
    pub fn take_off(&mut self, key: Key, flight: Flight) -> Flight {
        self.flights.insert(key, flight.clone());
        flight
    }

    /// What came of it.
    pub fn landed(&mut self, key: &Key, result: &Result<Entry, Trouble>) {
        self.flights.remove(key);
        match result {
            Ok(entry) => {
                self.failures.remove(key);
                bound(&mut self.fetched);
                self.fetched.insert(key.clone(), entry.clone());
            }
            Err(trouble) => self.failed(key, trouble.clone()),
        }
    }

    /// It failed, and rests.
    pub fn failed(&mut self, key: &Key, trouble: Trouble) {
        let attempts = self.failures.get(key).map_or(0, |failure| failure.attempts).saturating_add(1);
        let spread = u8::try_from(Timestamp::now().subsec_nanosecond().unsigned_abs() % 256).unwrap_or(0);
        let rests_until = Instant::now() + trouble.pause(attempts, spread);
        bound(&mut self.failures);
        self.failures.insert(key.clone(), Failure { trouble, attempts, rests_until });
    }

    /// Why it last failed.
    pub fn trouble(&self, key: &Key) -> Option<Trouble> {
        self.failures.get(key).map(|failure| failure.trouble.clone())
    }

    /// Whether its pause is over.
    ///
    /// # Errors
    /// Why it rests.
    pub fn ready(&self, key: &Key) -> Result<(), Trouble> {
        match self.failures.get(key) {
            Some(failure) if Instant::now() < failure.rests_until => Err(failure.trouble.clone()),
            _ => Ok(()),
        }
    }

    /// Whether to bring something somewhere now; if so, it is begun.
    pub fn may_begin(&mut self, namespace: &str, key: &Key) -> bool {
        self.ready(key).is_ok() && self.begun.insert((namespace.to_owned(), key.clone()))
    }

    /// It was brought, or not.
    pub fn ended(&mut self, namespace: &str, key: &Key) {
        self.begun.remove(&(namespace.to_owned(), key.clone()));
    }

    /// Whether nothing is on its way.
    #[cfg(test)]
    pub fn is_quiet(&self) -> bool {
        self.begun.is_empty() && self.flights.is_empty()
    }

    /// Whether a cluster's machines may have one more thing fetched; if so, it counts.
    pub fn allows(&mut self, uid: &str) -> bool {
        let asked = self.asked.entry(uid.to_owned()).or_default();
        let now = Instant::now();
        while asked.front().is_some_and(|at| now.duration_since(*at) >= WINDOW) {
            asked.pop_front();
        }
        let allowed = asked.len() < MOST_ASKED;
        if allowed {
            asked.push_back(now);
        }
        allowed
    }

    /// When the oldest entry of each maker was fetched, over all clusters, with what one of them has.
    pub fn oldest(&mut self, uid: &str, of: [(Vendor, Option<i64>); 2]) -> [(Vendor, i64); 2] {
        self.oldest.insert(uid.to_owned(), of);
        of.map(|(vendor, _)| {
            let all = self.oldest.values().flatten().filter(|(known, _)| *known == vendor);
            (vendor, all.filter_map(|(_, at)| *at).min().unwrap_or_default())
        })
    }

    /// A cluster is gone.
    pub fn forget(&mut self, uid: &str) {
        self.oldest.remove(uid);
        self.asked.remove(uid);
    }
}

fn bound<T>(map: &mut BTreeMap<Key, T>) {
    while map.len() >= MOST_REMEMBERED {
        map.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_machines_of_a_cluster_are_worth_so_many_requests_an_hour() {
        let mut desk = Desk::default();
        assert!((0..MOST_ASKED).all(|_| desk.allows("a")));
        assert!(!desk.allows("a") && desk.allows("b"));
        tokio::time::advance(WINDOW).await;
        assert!(desk.allows("a"));
    }
}
