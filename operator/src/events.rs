//! Events: one per transition, for people.

use constellation_crds::{
    condition::reason,
    node::{AttestationResult, Refusals},
};
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::error::chain;

/// One event, before it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Publishes events; holds the series of equal ones, so there is one per process.
pub struct Events(Recorder);

impl Events {
    /// Events of this process.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "constellation-operator".into(), instance: Some(instance) };
        Self(Recorder::new(client, reporter))
    }

    /// Something happened as it should.
    pub async fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: String) {
        self.publish(object, EventType::Normal, reason, message).await;
    }

    /// Something needs a person's eyes.
    pub async fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: String) {
        self.publish(object, EventType::Warning, reason, message).await;
    }

    /// As decided.
    pub async fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, told: Told) {
        let kind = if told.warning { EventType::Warning } else { EventType::Normal };
        self.publish(object, kind, &told.reason, told.note).await;
    }

    /// An event that can't be written is only logged: the same is in a condition.
    async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, kind: EventType, reason: &str, message: String) {
        let event = Event {
            type_: kind,
            reason: reason.into(),
            note: Some(message.chars().take(1000).collect()),
            action: reason.into(),
            secondary: None,
        };
        if let Err(error) = self.0.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(error = chain(&error), reason, "Publishing an event failed");
        }
    }
}
