//! Launches that were refused: none is tried again before its time, whatever else wakes the node's controller.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::report::Failed;

/// Refusals by UID of the node; a restarted operator has none, and asks.
#[derive(Debug, Default)]
pub struct Holds(Mutex<HashMap<String, (Instant, Failed)>>);

impl Holds {
    /// A launch was refused, and may be tried again after `wait`.
    pub fn keep(&self, uid: &str, wait: Duration, refused: Failed) {
        self.all().insert(uid.to_owned(), (Instant::now() + wait, refused));
    }

    /// The refusal, and for how long it stands; nothing when the time has come.
    #[must_use]
    pub fn held(&self, uid: &str) -> Option<(Duration, Failed)> {
        let all = self.all();
        let (until, refused) = all.get(uid)?;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some((left, refused.clone()))
    }

    /// It was launched, or is gone.
    pub fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, (Instant, Failed)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan::Step, *};

    #[test]
    fn a_refusal_stands_for_its_time_and_for_its_node_only() {
        let holds = Holds::default();
        let refused = || (Step::Launch, "NoCapacity", "no room".to_owned());
        holds.keep("a", Duration::from_hours(1), refused());
        let (left, told) = holds.held("a").unwrap();
        assert!(left <= Duration::from_hours(1) && left > Duration::from_mins(59));
        assert_eq!(told, refused());
        assert_eq!(holds.held("b"), None);
        holds.keep("a", Duration::ZERO, refused());
        assert_eq!(holds.held("a"), None);
        holds.keep("a", Duration::from_hours(1), refused());
        holds.forget("a");
        assert_eq!(holds.held("a"), None);
    }
}
