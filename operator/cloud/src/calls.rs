//! What talking to a cloud costs, counted by operation and outcome, and told to whoever watches.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// Operation and outcome; both are closed sets of words, fit for labels of metrics.
pub type Key = (&'static str, &'static str);

/// A call that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The operation as the cloud names it.
    pub operation: &'static str,
    /// How it ended: `ok`, or [`crate::CloudError::word`].
    pub outcome: &'static str,
    /// From when it was its turn until its end.
    pub took: Duration,
}

/// Who is told of every call.
pub type Watcher = Box<dyn Fn(&Call) + Send + Sync>;

/// Counts of calls; shared by everything that talks to one account.
#[derive(Default)]
pub struct Calls {
    counts: Mutex<BTreeMap<Key, u64>>,
    watcher: OnceLock<Watcher>,
}

impl Calls {
    /// Has somebody told of every call from now on. The first one stays: who shares an account has the same watcher.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    /// One more call.
    pub fn ended(&self, call: Call) {
        let key = (call.operation, call.outcome);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        if let Some(watcher) = self.watcher.get() {
            watcher(&call);
        }
    }

    /// All counts so far.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Key, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn calls_are_counted_by_operation_and_outcome_and_told() {
        let calls = Calls::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let call = |outcome| Call { operation: "Launch", outcome, took: Duration::from_millis(7) };
        calls.ended(call("ok"));
        let watcher = Arc::clone(&told);
        calls.watch(Box::new(move |call| watcher.lock().unwrap().push(*call)));
        calls.watch(Box::new(|_| panic!("the first watcher stays")));
        calls.ended(call("ok"));
        calls.ended(call("capacity"));
        assert_eq!(calls.counts(), BTreeMap::from([(("Launch", "capacity"), 1), (("Launch", "ok"), 2)]));
        assert_eq!(*told.lock().unwrap(), [call("ok"), call("capacity")]);
    }
}
