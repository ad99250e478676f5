//! Watches that begin anew now and then: a change that a watch never told is found by listing again.
//!
//! kube's own go on from the last version that they saw, for as long as the API server lets them. An event that was lost on
//! the way would be lost for good: an object that nobody told of is never reconciled, and one that is remembered as it was
//! is reconciled in vain, for what is written about it is refused as a conflict.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::{
        Controller, WatchStreamExt as _, reflector,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use crate::health::Health;

/// Objects as they come, change and go; each `interval` all of them again.
pub fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    interval: Duration,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    anew(interval, move || watcher(api.clone(), config.clone()))
}

/// A controller of such objects, which says when it has seen all of them.
#[must_use]
pub fn controller<K>(api: Api<K>, interval: Duration, health: &Arc<Health>) -> Controller<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Default + Eq + Hash + Unpin,
{
    let (known, writer) = reflector::store();
    // The store has a way to wait for that, which wakes only who asked last: the controller asks too.
    let (health, mut told) = (Arc::clone(health), false);
    let changes = watch(api, watcher::Config::default(), interval).inspect(move |event| {
        if matches!(event, Ok(Event::InitDone)) && !told {
            told = true;
            health.listed();
        }
    });
    Controller::for_stream(changes.reflect(writer).applied_objects(), known)
}

/// What `begin` gives, cut off after each `interval` and begun again.
fn anew<S: Stream + Send>(interval: Duration, begin: impl Fn() -> S + Send) -> impl Stream<Item = S::Item> + Send {
    stream::repeat_with(move || begin().take_until(tokio::time::sleep(interval))).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_tells_nothing_more_begins_anew() {
        let (begun, interval) = (AtomicU32::new(0), Duration::from_mins(1));
        let once = || stream::once(std::future::ready(begun.fetch_add(1, Ordering::SeqCst))).chain(stream::pending());
        let start = tokio::time::Instant::now();
        let seen: Vec<_> = anew(interval, once).take(3).collect().await;
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(start.elapsed().as_secs(), 2 * interval.as_secs());
    }
}
