//! What talking to a cloud costs, counted by operation and outcome.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::CloudError;

/// Operation and outcome; both are closed sets of words, fit for labels of metrics.
pub type Key = (&'static str, &'static str);

/// Counts of calls; shared by everything that talks to one account.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<Key, u64>>);

impl Calls {
    /// One more call: the operation as the cloud names it, and how it ended.
    pub fn record(&self, operation: &'static str, outcome: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((operation, outcome)).or_default() += 1;
    }

    /// One more call, by its result.
    pub fn record_result<T>(&self, operation: &'static str, result: &Result<T, CloudError>) {
        self.record(operation, result.as_ref().map_or_else(CloudError::word, |_| "ok"));
    }

    /// All counts so far.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Key, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of calls so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts().values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_operation_and_outcome() {
        let calls = Calls::default();
        calls.record_result("Launch", &Ok(()));
        calls.record_result("Launch", &Ok(()));
        calls.record_result::<()>("Launch", &Err(CloudError::Capacity("none".into())));
        assert_eq!(calls.counts(), BTreeMap::from([(("Launch", "capacity"), 1), (("Launch", "ok"), 2)]));
        assert_eq!(calls.total(), 3);
    }
}
