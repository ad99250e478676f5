//! What talking to a cloud costs, counted by operation and outcome; who watches is told, and asked before each call.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::CloudError;

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

/// Who stands beside every call.
pub trait Watcher: Send + Sync {
    /// Whether a call may be sent now. A process that was suspended, and that another one may have replaced, sends nothing.
    fn may_call(&self) -> bool {
        true
    }

    /// A call is over.
    fn ended(&self, call: &Call);
}

impl<F: Fn(&Call) + Send + Sync> Watcher for F {
    fn ended(&self, call: &Call) {
        self(call);
    }
}

/// Counts of calls; shared by everything that talks to one account.
#[derive(Default)]
pub struct Calls {
    counts: Mutex<BTreeMap<Key, u64>>,
    watcher: OnceLock<Box<dyn Watcher>>,
}

impl Calls {
    /// Has somebody stand beside every call from now on. The first one stays: who shares an account has the same watcher.
    pub fn watch(&self, watcher: Box<dyn Watcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// To be asked right before a call is sent, when nothing is left to wait for.
    ///
    /// # Errors
    /// [`CloudError::Transient`] when it may not be sent now.
    pub fn check(&self, operation: &str) -> Result<(), CloudError> {
        match self.watcher.get() {
            Some(watcher) if !watcher.may_call() => {
                Err(CloudError::Transient(format!("{operation} is not sent: another process may have taken over")))
            }
            _ => Ok(()),
        }
    }

    /// One more call.
    pub fn ended(&self, call: Call) {
        let key = (call.operation, call.outcome);
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        if let Some(watcher) = self.watcher.get() {
            watcher.ended(&call);
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
        calls.watch(Box::new(move |call: &Call| watcher.lock().unwrap().push(*call)));
        calls.watch(Box::new(|_: &Call| panic!("the first watcher stays")));
        calls.ended(call("ok"));
        calls.ended(call("capacity"));
        assert_eq!(calls.counts(), BTreeMap::from([(("Launch", "capacity"), 1), (("Launch", "ok"), 2)]));
        assert_eq!(*told.lock().unwrap(), [call("ok"), call("capacity")]);
    }

    #[test]
    fn a_call_is_not_sent_when_the_watcher_says_no() {
        struct Says(bool);
        impl Watcher for Says {
            fn may_call(&self) -> bool {
                self.0
            }

            fn ended(&self, _: &Call) {}
        }
        for may in [true, false] {
            let calls = Calls::default();
            calls.check("Launch").unwrap();
            calls.watch(Box::new(Says(may)));
            assert_eq!(calls.check("Launch").is_ok(), may);
        }
    }
}
