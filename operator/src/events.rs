//! Events: one per transition, for people.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::error::chain;

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
