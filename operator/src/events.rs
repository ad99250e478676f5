//! Events: one per transition, for people.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use constellation_crds::{
    condition::{Condition, reason},
    node::{AttestationResult, Refusals},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};

use crate::error::chain;

/// One event, before it is published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// It needs a person's eyes.
    pub warning: bool,
    /// Its reason.
    pub reason: String,
    /// In words.
    pub note: String,
}

/// What is told of refusals that say nothing about anybody: one event for each reason, however often it comes.
#[must_use]
pub fn refused(before: Option<&Refusals>, after: Option<&Refusals>, whose: &str) -> Vec<Told> {
    let Some(after) = after else { return Vec::new() };
    let known = |id| before.into_iter().flat_map(Refusals::reasons).any(|told| told.refusal_id == id);
    let times = if after.count == 1 { "once".to_owned() } else { format!("{} times", after.count) };
    let which = std::iter::once("last").chain(std::iter::repeat("also"));
    let news = which.zip(after.reasons()).filter(|(_, result)| !known(result.refusal_id.clone()));
    let tell = |(which, result)| Told {
        warning: true,
        reason: reason::PEER_REFUSED.to_owned(),
        note: format!("{whose}; {times} so far, {which}{}", first(result)),
    };
    news.map(tell).collect()
}

/// The first thing that didn't hold, for the end of a sentence.
#[must_use]
pub fn first(result: &AttestationResult) -> String {
    result.mismatches.first().map_or_else(String::new, |first| format!(": {}: {}", first.clause, first.message))
}

/// Whether a condition says something else than before. Numbers say nothing, nor do words with digits: many are counts, or
/// a cloud's id of one attempt, and would be news at each look. After an edit they do.
#[must_use]
pub fn is_news(before: Option<&Condition>, after: &Condition) -> bool {
    let Some(before) = before else { return true };
    let edited = before.observed_generation != after.observed_generation && before.message != after.message;
    edited || has_turned(Some(before), after) || !words(&before.message).eq(words(&after.message))
}

/// Whether a condition has another status or reason than before, whatever it says.
#[must_use]
pub fn has_turned(before: Option<&Condition>, after: &Condition) -> bool {
    before.is_none_or(|before| (&before.status, &before.reason) != (&after.status, &after.reason))
}

fn words(message: &str) -> impl Iterator<Item = &str> {
    message.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
}

/// Publishes events; holds the series of equal ones, so there is one per process.
///
/// kube's own `Recorder` takes those for equal that have the same reason and drops what the later one says, and its names
/// are too long for an object whose name is.
pub struct Events {
    client: Client,
    instance: String,
    /// By the object's UID and what was told of it.
    series: Mutex<HashMap<(String, Told), Event>>,
}

impl Events {
    /// Events of this process.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance, series: Mutex::default() }
    }

    /// Something needs a person's eyes.
    pub async fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: String) {
        self.tell(object, Told { warning: true, reason: reason.to_owned(), note }).await;
    }

    /// As decided. An event that can't be written is only logged: the same is in a condition.
    pub async fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, told: Told) {
        let (regarding, now) = (object.object_ref(&()), Timestamp::now());
        let api: Api<Event> = Api::namespaced(self.client.clone(), regarding.namespace.as_deref().unwrap_or("default"));
        let key = (regarding.uid.clone().unwrap_or_default(), told);
        let again = match self.again(&key, now) {
            Some(event) => match api.patch(&event.name_any(), &PatchParams::default(), &Patch::Merge(&event)).await {
                // Somebody removed it: it is told anew.
                Err(kube::Error::Api(answer)) if answer.is_not_found() => None,
                published => Some(published.map(|_| event)),
            },
            None => None,
        };
        let published = if let Some(published) = again {
            published
        } else {
            let event = self.first(regarding, &key.1, now);
            api.create(&PostParams::default(), &event).await.map(|_| event)
        };
        match published {
            Ok(event) => drop(self.series().insert(key, event)),
            Err(error) => tracing::warn!(error = chain(&error), reason = key.1.reason, "Publishing an event failed"),
        }
    }

    /// The event that was told before, once more; nothing where that was too long ago.
    fn again(&self, key: &(String, Told), now: Timestamp) -> Option<Event> {
        let mut all = self.series();
        all.retain(|_, event| last(event).is_some_and(|last| last + PAUSE > now));
        let mut event = all.get(key)?.clone();
        let count = event.series.as_ref().map_or(1, |series| series.count).saturating_add(1);
        event.series = Some(EventSeries { count, last_observed_time: MicroTime(now) });
        Some(event)
    }

    fn first(&self, regarding: ObjectReference, told: &Told, now: Timestamp) -> Event {
        let mut event = Event {
            type_: Some(if told.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(told.reason.clone()),
            action: Some(told.reason.clone()),
            note: Some(cut(&told.note, LONGEST_NOTE).to_owned()),
            event_time: Some(MicroTime(now)),
            reporting_controller: Some("constellation-operator".to_owned()),
            reporting_instance: Some(cut(&self.instance, LONGEST_INSTANCE).to_owned()),
            ..Event::default()
        };
        event.metadata.name = Some(name(regarding.name.as_deref().unwrap_or_default(), now));
        event.metadata.namespace.clone_from(&regarding.namespace);
        event.regarding = Some(regarding);
        event
    }

    fn series(&self) -> MutexGuard<'_, HashMap<(String, Told), Event>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an event is called: after its object, as kubectl does it, and by its time.
fn name(object: &str, now: Timestamp) -> String {
    let time = format!("{:x}", now.as_nanosecond());
    let head = cut(object, LONGEST_NAME - time.len() - 1).trim_end_matches(['.', '-']);
    format!("{head}.{time}")
}

/// When it was told last.
fn last(event: &Event) -> Option<Timestamp> {
    let again = event.series.as_ref().map(|series| series.last_observed_time.0);
    again.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// The beginning of a text, in whole characters.
fn cut(text: &str, most_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(most_bytes)).unwrap_or_default()
}

/// Equal events are one series while no longer passes between two: what Kubernetes' own clients take.
const PAUSE: SignedDuration = SignedDuration::from_mins(6);
/// Source: Kubernetes, `pkg/apis/core/validation/events.go`.
const LONGEST_NOTE: usize = 1024;
const LONGEST_INSTANCE: usize = 128;
/// Of any object's name.
const LONGEST_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use constellation_crds::condition::{Status, kind, set};

    use super::*;

    fn ready(why: &str, message: &str, generation: i64) -> Condition {
        let mut list = Vec::new();
        set(&mut list, kind::READY, Status::False, why, message, Some(generation), Timestamp::UNIX_EPOCH);
        list.remove(0)
    }

    #[test]
    fn other_words_are_news_and_other_numbers_only_after_an_edit() {
        let before = ready("SecretInvalid", "Secret a1 has 9 bytes", 1);
        for (after, expected) in [
            (ready("SecretInvalid", "Secret a1 has 9 bytes", 1), false),
            (ready("SecretInvalid", "Secret a1 has 9 bytes", 2), false),
            (ready("SecretInvalid", "Secret b2 has 17 bytes", 1), false),
            (ready("SecretInvalid", "Secret b2 has 17 bytes", 2), true),
            (ready("SecretInvalid", "Secret a1 has no `secret`", 1), true),
            (ready("SecretNotFound", "Secret a1 has 9 bytes", 1), true),
        ] {
            assert_eq!(is_news(Some(&before), &after), expected, "{after:?}");
        }
        assert!(is_news(None, &before));
    }

    #[test]
    fn an_event_of_the_longest_name_has_one_itself_and_its_note_is_cut_in_whole_characters() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(name("c", now), "c.18fae27693b40000");
        let long = name(&format!("{}.{}", "x".repeat(235), "y".repeat(17)), now);
        assert!(long.len() <= 253 && long.starts_with("xxx") && !long.contains(".."), "{long}");
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
    }
}
