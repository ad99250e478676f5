//! Fetching what makers of processors and clouds have to have said about machines, and keeping it fresh.
//!
//! [`plan`] says what a cluster needs and how what is there stands; [`vendors`] knows where it is and what is worth keeping;
//! [`http`] asks; [`store`] writes it into the `ConfigMap` that the trust bundle is made from. [`Collector`] puts them
//! together: at each look at a cluster it begins what is due and waits for nothing ([`Collector::tend`]), and a conversation
//! of the owner with a machine waits a little for what that machine needs ([`Collector::complete`]).
//!
//! One thing is fetched once at a time for all clusters, and kept in memory for the next namespace. What failed isn't tried
//! again before its pause is over. What stands in the map stays until there is something newer that is good: a failure takes
//! nothing away. Nothing that is fetched is believed: verifiers check it each time.

mod desk;
pub mod http;
pub mod plan;
pub mod settings;
pub mod store;
pub mod trouble;
pub mod vendors;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use constellation_attestation::{
    collateral::{Cache, Entry, Key},
    endorsers::{Endorsers, Need},
    policy::MeasurementSet,
    protocol::machine::Machine,
};
use constellation_crds::{ConstellationCluster, condition::reason, node::AttestationResult};
use futures::{FutureExt as _, future::ready};
use hyper_util::client::proxy::matcher::Matcher;
use jiff::Timestamp;
use kube::Client;

use self::{
    desk::{Desk, Flight},
    http::{Http, Pace},
    plan::{State, Want},
    settings::Settings,
    trouble::Trouble,
    vendors::{Vendor, Vendors},
};
use crate::{error::chain, lease::Fence, metrics::Metrics};

/// How long a conversation waits for what its machine needs: the machine waits for its verdict for a minute.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most entries of a map that we add to; a trust bundle carries 256.
const MOST_ENTRIES: usize = 128;
/// Most bytes of a map that we add to, of 1 MiB that it may have.
const MOST_BYTES: usize = 640 * 1024;

/// A cluster, as far as it needs anything.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// Where its `ConfigMap` is.
    pub namespace: &'a str,
    /// Its platform.
    pub platform: &'a str,
    /// The sets that are accepted.
    pub sets: &'a [MeasurementSet],
    /// The last verdicts about its machines.
    pub results: &'a [AttestationResult],
    /// What stands in the map.
    pub texts: &'a BTreeMap<String, String>,
}

/// What people must know: a condition's reason, and its message.
pub type Notice = (&'static str, String);

/// Fetches for all clusters of this operator.
pub struct Collector {
    client: Client,
    vendors: Option<Vendors>,
    metrics: Arc<Metrics>,
    fence: Arc<Fence>,
    /// Whom stored words are checked against.
    anchors: Endorsers,
    desk: Mutex<Desk>,
}

impl Collector {
    /// A collector as the owner wants it; nothing is sent.
    ///
    /// # Errors
    /// When the CAs can't be read.
    pub fn new(client: Client, settings: &Settings, metrics: Arc<Metrics>, fence: Arc<Fence>) -> anyhow::Result<Self> {
        let anchors = Endorsers::pinned(Cache::default());
        let vendors = if settings.fetch_collateral {
            let ca = settings.collateral_ca.as_ref().map(std::fs::read).transpose().context("--collateral-ca")?;
            let http = Http::new(ca.as_deref(), Matcher::from_env(), Pace::default()).context("--collateral-ca")?;
            Some(Vendors::new(http, settings.sources.clone(), anchors.clone()))
        } else {
            None
        };
        Ok(Self { client, vendors, metrics, fence, anchors, desk: Mutex::default() })
    }

    /// What stands in a cluster's map, for a platform that needs any.
    ///
    /// # Errors
    /// When the API server doesn't answer.
    pub async fn read(&self, cluster: &ConstellationCluster, platform: &str) -> kube::Result<BTreeMap<String, String>> {
        store::read(&self.client, cluster, platform).await
    }

    /// Begins what is due for a cluster, and says what people must know. Waits for nothing.
    pub fn tend(self: &Arc<Self>, case: &Case<'_>, now: Timestamp) -> Option<Notice> {
        let (stored, unread) = self.stored(case.texts, now);
        let wants = plan::wants(case.platform, case.sets, stored.keys(), case.results);
        if wants.is_empty() {
            return None;
        }
        let oldest = |vendor| {
            let of_vendor = stored.iter().filter(|(key, _)| key.ages() && Vendor::of(key) == vendor);
            of_vendor.map(|(_, stored)| stored.fetched.as_second()).min()
        };
        let ages = [Vendor::Amd, Vendor::Intel].map(|vendor| (vendor, oldest(vendor)));
        let mut notices: Vec<Notice> = unread.into_iter().collect();
        {
            let mut desk = self.desk();
            for (vendor, oldest) in desk.oldest(case.uid, ages) {
                self.metrics.collateral_of(vendor.as_str(), oldest);
            }
        }
        for (key, want) in wants {
            let state = plan::state(&key, stored.get(&key), now);
            if state == State::Fresh {
                continue;
            }
            let trouble = self.begin(case, &want, now);
            notices.extend(trouble.filter(|_| state.is_urgent()).map(|trouble| notice(&key, &state, &trouble)));
        }
        // One of each kind would hide the others: all are told, in a fixed order.
        let reason = notices.first()?.0;
        let texts: Vec<_> = notices.into_iter().map(|(_, text)| text).collect();
        Some((reason, texts.join("; ")))
    }

    /// Forgets a cluster that goes.
    pub fn forget(&self, uid: &str) {
        self.desk().forget(uid);
    }

    /// Adds to what is known what a machine needs beside it, as far as it can be had soon.
    pub async fn complete(
        self: &Arc<Self>,
        mut known: Endorsers,
        machine: &Machine,
        (uid, namespace): (&str, &str),
        now: Timestamp,
    ) -> Endorsers {
        let lacking: Vec<_> = known.lacking(machine, now).into_iter().take(plan::MOST_HINTS).collect();
        if lacking.is_empty() || self.vendors.is_none() {
            return known;
        }
        let fetched = lacking.into_iter().map(|need| {
            let (this, uid, namespace) = (Arc::clone(self), uid.to_owned(), namespace.to_owned());
            async move {
                let entry = this.get(&need, Some(&uid), now).await.ok()?;
                this.keep(&namespace, &need.key, &entry).await;
                Some((need.key, entry))
            }
        });
        // Each goes on by itself, so that what comes too late for this conversation is there for the next one.
        let tasks: Vec<_> = fetched.map(tokio::spawn).collect();
        let end = tokio::time::Instant::now() + PATIENCE;
        for task in tasks {
            if let Ok(Ok(Some((key, entry)))) = tokio::time::timeout_at(end, task).await {
                // Larger ones than a cache takes aren't fetched.
                let _ = known.collateral.put(key, entry);
            }
        }
        known
    }

    /// What stands in a map, checked once for each text; and what of it can't be read.
    fn stored(
        &self,
        texts: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> (BTreeMap<Key, plan::Stored>, Option<Notice>) {
        let (mut stored, mut unread) = (BTreeMap::new(), Vec::new());
        for (name, text) in texts {
            let (Ok(key), Some(entry)) = (name.parse::<Key>(), Entry::read(text)) else {
                unread.push(name.as_str());
                continue;
            };
            let checked = self.desk().checked(&key, &entry, || {
                self.anchors.check(&key, &entry.bytes, now).map_err(|error| error.to_string())
            });
            stored.insert(key, plan::Stored { fetched: entry.fetched, until: checked });
        }
        let names = unread.join(", ");
        let text = format!("{names} of ConfigMap {} can't be read, and isn't used: correct or remove it", store::NAME);
        (stored, (!unread.is_empty()).then_some((reason::COLLATERAL_INVALID, text)))
    }

    /// Begins to fetch something unless that goes on, or failed a short while ago; gives why it last failed.
    fn begin(self: &Arc<Self>, case: &Case<'_>, want: &Want, now: Timestamp) -> Option<Trouble> {
        if self.vendors.is_none() {
            return Some(Trouble::Off);
        }
        let key = &want.need.key;
        if !case.texts.contains_key(&key.to_string()) && is_full(case.texts) {
            return Some(Trouble::Full);
        }
        let mut desk = self.desk();
        let trouble = desk.trouble(key);
        if !desk.may_begin(case.namespace, key) {
            return trouble;
        }
        drop(desk);
        let (this, need, hint) = (Arc::clone(self), want.need.clone(), want.hint);
        let (namespace, uid) = (case.namespace.to_owned(), case.uid.to_owned());
        tokio::spawn(async move {
            if let Ok(entry) = this.get(&need, hint.then_some(uid.as_str()), now).await {
                this.keep(&namespace, &need.key, &entry).await;
            }
            this.desk().ended(&namespace, &need.key);
        });
        trouble
    }

    /// Gets a thing: from memory, from who fetches it already, or from its maker. `asks` is the cluster whose machine says
    /// that it is needed.
    async fn get(self: &Arc<Self>, need: &Need, asks: Option<&str>, now: Timestamp) -> Result<Entry, Trouble> {
        let flight = self.flight(need, asks, now)?;
        flight.await
    }

    fn flight(self: &Arc<Self>, need: &Need, asks: Option<&str>, now: Timestamp) -> Result<Flight, Trouble> {
        let mut desk = self.desk();
        if let Some(entry) = desk.known(&need.key, now) {
            return Ok(ready(Ok(entry)).boxed().shared());
        }
        if let Some(flight) = desk.flight(&need.key) {
            return Ok(flight);
        }
        desk.ready(&need.key)?;
        if asks.is_some_and(|uid| !desk.allows(uid)) {
            return Err(Trouble::Asked);
        }
        let (this, key, need) = (Arc::clone(self), need.key.clone(), need.clone());
        // In a task of its own: whoever stops waiting must not end it for the others.
        let task = tokio::spawn(async move { this.fetch(&need, now).await });
        let flight = async move { task.await.unwrap_or(Err(Trouble::Cut("the operator".into()))) };
        Ok(desk.take_off(key, flight.boxed().shared()))
    }

    async fn fetch(&self, need: &Need, now: Timestamp) -> Result<Entry, Trouble> {
        let Some(vendors) = &self.vendors else { return Err(Trouble::Off) };
        let fetched = vendors.fetch(need, now).await.map(|bytes| Entry { bytes, fetched: now });
        let word = fetched.as_ref().map_or_else(Trouble::word, |_| "ok");
        self.metrics.fetched(Vendor::of(&need.key).as_str(), word);
        if let Err(trouble) = &fetched {
            tracing::warn!(key = %need.key, error = chain(trouble), "Fetching collateral failed");
        }
        self.desk().landed(&need.key, &fetched);
        fetched
    }

    /// Writes what was fetched, while we lead.
    async fn keep(&self, namespace: &str, key: &Key, entry: &Entry) {
        if self.fence.check().is_err() {
            return;
        }
        match store::keep(&self.client, namespace, key, entry).await {
            Ok(()) => tracing::info!(namespace, %key, "Stored collateral"),
            Err(error) => {
                tracing::warn!(namespace, %key, error = chain(&error), "Storing collateral failed");
                self.desk().failed(key, Trouble::Store { why: error.to_string() });
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(texts: &BTreeMap<String, String>) -> bool {
    texts.len() >= MOST_ENTRIES || texts.values().map(String::len).sum::<usize>() >= MOST_BYTES
}

fn notice(key: &Key, state: &State, trouble: &Trouble) -> Notice {
    let reason = if *trouble == Trouble::Off { reason::FETCHING_OFF } else { reason::FETCH_FAILED };
    let how = match state {
        State::Lacking(why) => why.as_str(),
        State::Ageing(_) | State::Fresh => "will soon be too old",
    };
    (reason, format!("{key} {how}: {trouble}; {}", trouble.cure()))
}

#[cfg(test)]
mod tests;
