//! Refusals that say nothing about a node: counted in memory, and told to the owner seldom enough that nobody can make
//! the API server write.
//!
//! Whoever knocks may give any name, so none of this touches what is believed of a node. A refusal is noted here by the
//! conversation, which waits for no write; [`tell`] writes what was noted, at once and then at growing distances.

use std::{
    collections::{HashMap, hash_map},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use constellation_crds::node::{AttestationResult, Refusals};
use tokio::sync::Notify;

use crate::{
    record,
    store::{self, Store},
    verifier::chain,
};

/// In whose name somebody was refused.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Name {
    /// No node of this cluster.
    Nobody,
    /// The node of this uid, which has a `NodeAdmission`.
    Node(String),
}

/// What wasn't written yet about one name.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// In whose name.
    pub name: Name,
    /// How many refusals.
    pub count: u64,
    /// The last of each reason, newest first; never empty.
    pub reasons: Vec<AttestationResult>,
}

/// What was refused and not yet written.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<HashMap<Name, Entry>>,
    noted: Notify,
}

#[derive(Debug)]
struct Entry {
    count: u64,
    /// The last of each reason, newest first.
    reasons: Vec<AttestationResult>,
    /// Not written before.
    due: Instant,
    /// Distance to the write after the next one.
    pause: Duration,
}

/// After a first write the next waits as long as a person needs to look.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// Doubling from 5 s, a refusal each second is written 8 times in its first 10 min, and 6 times an hour from then on.
const PAUSE_LONGEST: Duration = Duration::from_mins(10);
/// Names are those of objects, of which a cluster has one for each node: 240 workers in a group, some groups. Others
/// stay in the log.
const NAMES_MAX: usize = 4096;
/// Reasons that are kept of one name, so that cheap noise doesn't hide an attempt that means something. An attacker has
/// more ways to be refused than a person reads; each may be some KiB in a status.
const REASONS_MAX: usize = 4;

impl Ledger {
    /// Notes a refusal; gives the id that the peer is told, under which the owner finds this reason.
    pub fn note(&self, name: Name, result: AttestationResult, now: Instant) -> String {
        let id = result.refusal_id.clone().unwrap_or_default();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was quiet for long enough begins anew.
        entries.retain(|_, entry| entry.count > 0 || now < entry.due + PAUSE_LONGEST);
        let full = entries.len() >= NAMES_MAX;
        let told = match entries.entry(name) {
            hash_map::Entry::Occupied(mut known) => {
                let entry = known.get_mut();
                entry.count = entry.count.saturating_add(1);
                let known = entry.reasons.iter().position(|known| record::same(known, &result));
                let last = known.map_or(result, |at| entry.reasons.remove(at));
                let told = last.refusal_id.clone().unwrap_or(id);
                put(&mut entry.reasons, last);
                told
            }
            hash_map::Entry::Vacant(_) if full => id,
            hash_map::Entry::Vacant(free) => {
                free.insert(Entry { count: 1, reasons: vec![result], due: now, pause: PAUSE_FIRST });
                id
            }
        };
        drop(entries);
        self.noted.notify_one();
        told
    }

    /// Takes what may be written now. What can't be written is given [back](Ledger::back).
    pub fn due(&self, now: Instant) -> Vec<News> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let ripe = entries.iter_mut().filter(|(_, entry)| entry.count > 0 && entry.due <= now);
        ripe.map(|(name, entry)| {
            let news = News { name: name.clone(), count: entry.count, reasons: entry.reasons.clone() };
            entry.count = 0;
            entry.due = now + entry.pause;
            entry.pause = (entry.pause * 2).min(PAUSE_LONGEST);
            news
        })
        .collect()
    }

    /// Takes back what couldn't be written: it is counted with the next one's.
    fn back(&self, news: &News) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&news.name) {
            entry.count = entry.count.saturating_add(news.count);
        }
    }

    /// When the next write is due; nothing while there is none.
    fn next(&self) -> Option<Instant> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().filter(|entry| entry.count > 0).map(|entry| entry.due).min()
    }
}

/// Writes what was noted, for ever.
pub async fn tell<A: Store>(ledger: &Ledger, store: &A) {
    loop {
        match ledger.next() {
            None => ledger.noted.notified().await,
            // Another name may be due before it.
            Some(due) => tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = ledger.noted.notified() => {}
            },
        }
        for news in ledger.due(Instant::now()) {
            match store.refused(&news).await {
                Ok(()) => {}
                // A node that went away needs no word any more.
                Err(store::Error::Missing(what)) => tracing::debug!(what, "Nobody is left to be told of a refusal"),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "Telling of refusals failed, trying again");
                    ledger.back(&news);
                }
            }
        }
    }
}

/// What the status says after `news`.
#[must_use]
pub fn after(before: Option<&Refusals>, news: &News) -> Refusals {
    let mut reasons: Vec<_> = before.into_iter().flat_map(Refusals::reasons).cloned().collect();
    for result in news.reasons.iter().rev() {
        reasons.retain(|known| !record::same(known, result));
        put(&mut reasons, result.clone());
    }
    let mut reasons = reasons.into_iter();
    let last = reasons.next().unwrap_or_default();
    Refusals {
        count: before.map_or(0, |before| before.count).saturating_add(news.count),
        since: before.and_then(|before| before.since.clone()).or_else(|| last.time.clone()),
        last,
        others: reasons.collect(),
    }
}

/// Puts a reason before the others, of which the oldest may go.
fn put(reasons: &mut Vec<AttestationResult>, last: AttestationResult) {
    reasons.insert(0, last);
    reasons.truncate(REASONS_MAX);
}

#[cfg(test)]
mod tests {
    use constellation_crds::node::Mismatch;

    use super::*;

    fn refusal(clause: &str, id: &str) -> AttestationResult {
        AttestationResult {
            verdict: record::REFUSED.to_owned(),
            time: Some(id.to_owned()),
            refusal_id: Some(id.to_owned()),
            mismatches: vec![Mismatch { clause: clause.to_owned(), ..Mismatch::default() }],
            ..AttestationResult::default()
        }
    }

    fn node(uid: &str) -> Name {
        Name::Node(uid.to_owned())
    }

    /// What is written of one knock each second.
    fn storm(seconds: u64) -> Vec<u64> {
        let (ledger, start) = (Ledger::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let each = (0..seconds).flat_map(|second| {
            ledger.note(node("a"), refusal("hello.purpose", "1"), at(second));
            ledger.due(at(second))
        });
        let mut counts: Vec<u64> = each.map(|news| news.count).collect();
        counts.extend(ledger.due(at(seconds + 3600)).iter().map(|news| news.count));
        counts
    }

    #[test]
    fn ten_thousand_refusals_are_few_writes_that_count_them_all() {
        let counts = storm(10_000);
        assert_eq!(counts.iter().sum::<u64>(), 10_000);
        assert_eq!(&counts[..4], [1, 5, 10, 20]);
        assert!(counts.len() < 30, "{counts:?}");
    }

    #[test]
    fn a_thousand_at_once_are_two_writes() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        for _ in 0..1000 {
            ledger.note(node("a"), refusal("hello.purpose", "1"), start);
        }
        assert_eq!(ledger.due(start)[0].count, 1000);
        assert_eq!((ledger.due(start), ledger.next()), (Vec::new(), None));
        ledger.note(node("a"), refusal("hello.purpose", "1"), start);
        assert_eq!(ledger.due(start + PAUSE_FIRST / 2), []);
        assert_eq!(ledger.next(), Some(start + PAUSE_FIRST));
        assert_eq!(ledger.due(start + PAUSE_FIRST)[0].count, 1);
    }

    #[test]
    fn one_name_does_not_wait_for_another() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        ledger.note(node("a"), refusal("hello.purpose", "1"), now);
        assert_eq!(ledger.due(now).len(), 1);
        ledger.note(Name::Nobody, refusal("admission.unknown", "2"), now);
        ledger.note(node("b"), refusal("hello.purpose", "3"), now);
        assert_eq!(ledger.due(now).len(), 2);
    }

    #[test]
    fn an_equal_reason_is_told_under_the_id_that_the_owner_finds() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let note = |clause: &str, id: &str| ledger.note(node("a"), refusal(clause, id), now);
        assert_eq!(
            (note("hello.purpose", "1"), note("hello.purpose", "2"), note("hello.cluster", "3")),
            ("1".to_owned(), "1".to_owned(), "3".to_owned())
        );
        assert_eq!(note("hello.purpose", "4"), "1", "the other reason didn't take its id");
        assert_eq!(ledger.due(now)[0].reasons, [refusal("hello.purpose", "1"), refusal("hello.cluster", "3")]);
    }

    #[test]
    fn noise_does_not_hide_what_else_was_tried() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        let mut status = None;
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            ledger.note(node("a"), refusal("hello.purpose", "1"), now);
            if second == 500 {
                ledger.note(node("a"), refusal("tpm.ak.credential", "2"), now);
            }
            for news in ledger.due(now) {
                status = Some(after(status.as_ref(), &news));
            }
        }
        let status = status.unwrap();
        let told: Vec<_> = status.reasons().map(|result| result.mismatches[0].clause.as_str()).collect();
        assert_eq!(told, ["hello.purpose", "tpm.ak.credential"]);
        let ledger = Ledger::default();
        for number in 0..100 {
            ledger.note(node("a"), refusal(&number.to_string(), "3"), start);
        }
        assert_eq!(ledger.due(start)[0].reasons.len(), REASONS_MAX);
    }

    #[test]
    fn what_was_quiet_for_long_is_written_at_once_again() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        ledger.note(node("a"), refusal("hello.purpose", "1"), start);
        ledger.due(start);
        let later = start + PAUSE_FIRST + PAUSE_LONGEST;
        ledger.note(node("a"), refusal("hello.purpose", "2"), later);
        assert_eq!(ledger.due(later).len(), 1);
        ledger.note(node("a"), refusal("hello.purpose", "2"), later);
        assert_eq!(ledger.next(), Some(later + PAUSE_FIRST));
    }

    #[test]
    fn what_could_not_be_written_is_not_forgotten() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        ledger.note(node("a"), refusal("hello.purpose", "1"), now);
        let news = ledger.due(now).remove(0);
        ledger.back(&news);
        assert_eq!(ledger.due(now), []);
        assert_eq!(ledger.due(now + PAUSE_FIRST), [news]);
    }

    #[test]
    fn strangers_fill_no_memory() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        for number in 0..=NAMES_MAX {
            ledger.note(node(&number.to_string()), refusal("hello.purpose", "1"), now);
        }
        assert_eq!(ledger.due(now).len(), NAMES_MAX);
    }

    #[test]
    fn counts_add_up_and_the_first_time_stays() {
        let news = |count, id: &str| News { name: node("a"), count, reasons: vec![refusal("hello.purpose", id)] };
        let first = after(None, &news(3, "1"));
        let second = after(Some(&first), &news(4, "2"));
        assert_eq!((second.count, second.since.as_deref()), (7, Some("1")));
        assert_eq!((second.last.refusal_id.as_deref(), second.others.len()), (Some("2"), 0));
    }
}
