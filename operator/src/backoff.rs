//! How long to wait after a failure, and how often in a row something failed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::error::{Class, Error};

/// First wait: a person may be watching.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait after something that may pass by itself; at twice this people ask whether the operator is alive.
const LONGEST: Duration = Duration::from_mins(2);
/// Wait after something that a person must change: their change wakes us, this is only for what can't be watched.
const PERSON: Duration = Duration::from_mins(5);

/// Wait after the `attempts`-th failure in a row (from 1); `spread` in 0..=255 takes off up to half.
#[must_use]
pub fn delay(attempts: u32, class: Class, spread: u8) -> Duration {
    let whole = match class {
        Class::Wait(after) => return after,
        Class::Denied | Class::User | Class::Bug => PERSON,
        Class::Transient => FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST),
    };
    whole.saturating_sub(whole * u32::from(spread) / 512)
}

/// Failures in a row of each object, by UID.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    /// One more; gives how long to wait, spread so that objects that failed together do not come back together.
    pub fn wait(&self, uid: &str, error: &Error) -> Duration {
        let attempts = {
            let mut all = self.all();
            let attempts = all.entry(uid.to_owned()).or_default();
            *attempts = attempts.saturating_add(1);
            *attempts
        };
        let spread = u8::try_from(Timestamp::now().subsec_nanosecond().unsigned_abs() % 256).unwrap_or(0);
        delay(attempts, error.class(), spread)
    }

    /// It went well, or the object is gone.
    pub fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_only_for_what_may_pass() {
        let millis = |attempts| delay(attempts, Class::Transient, 0).as_millis();
        assert_eq!([1, 2, 3].map(millis), [500, 1000, 2000]);
        assert_eq!(delay(40, Class::Transient, 0), LONGEST);
        assert_eq!(delay(1, Class::User, 0), PERSON);
        assert_eq!(delay(9, Class::Wait(Duration::from_secs(7)), 255), Duration::from_secs(7));
        assert!(delay(3, Class::Transient, 255) > Duration::from_secs(1));
    }

    #[test]
    fn failures_of_one_object_count_until_it_goes_well() {
        let failures = Failures::default();
        let wait = |uid| failures.wait(uid, &Error::Time("a test"));
        let long = (0..9).fold(Duration::ZERO, |_, _| wait("a"));
        assert!(long > Duration::from_secs(30) && wait("b") <= FIRST);
        failures.forget("a");
        assert!(wait("a") <= FIRST);
    }
}
