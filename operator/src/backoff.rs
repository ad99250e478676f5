//! How long to wait after a failure, or after a look that found nothing new, and how often in a row that was so.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::error::{Class, Error};

/// First wait: a person may be watching.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait for what no watch tells, while a person waits for it; one look costs a few reads.
const PATIENCE: Duration = Duration::from_secs(2);
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
        Class::Transient => doubled(attempts, LONGEST),
    };
    spread_out(whole, spread)
}

/// Wait after the `looks`-th look in a row (from 1) that found nothing new; `spread` as for [`delay`].
#[must_use]
pub fn patience(looks: u32, spread: u8) -> Duration {
    spread_out(doubled(looks, PATIENCE), spread)
}

fn doubled(times: u32, longest: Duration) -> Duration {
    FIRST.saturating_mul(1 << times.saturating_sub(1).min(16)).min(longest)
}

fn spread_out(whole: Duration, spread: u8) -> Duration {
    whole.saturating_sub(whole * u32::from(spread) / 512)
}

/// So that objects that wait together do not come back together.
fn spread() -> u8 {
    u8::try_from(Timestamp::now().subsec_nanosecond().unsigned_abs() % 256).unwrap_or(0)
}

/// How often in a row something was so of each object, by UID: that it failed, or that nothing was new.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<String, u32>>);

impl Counts {
    /// It failed once more; gives how long to wait.
    pub fn failed(&self, uid: &str, error: &Error) -> Duration {
        delay(self.more(uid), error.class(), spread())
    }

    /// Nothing was new once more; gives how long to wait.
    pub fn waited(&self, uid: &str) -> Duration {
        patience(self.more(uid), spread())
    }

    /// It is no more so, or the object is gone.
    pub fn forget(&self, uid: &str) {
        self.all().remove(uid);
    }

    fn more(&self, uid: &str) -> u32 {
        let mut all = self.all();
        let times = all.entry(uid.to_owned()).or_default();
        *times = times.saturating_add(1);
        *times
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
    fn who_waits_for_what_nobody_tells_looks_soon_and_then_every_two_seconds() {
        let millis = |looks| patience(looks, 0).as_millis();
        assert_eq!([1, 2, 3, 4, 40].map(millis), [500, 1000, 2000, 2000, 2000]);
        assert!(patience(9, 255) > Duration::from_secs(1) && patience(9, 255) < patience(9, 100));
        let looks = Counts::default();
        let long = (0..9).map(|_| looks.waited("a")).max().unwrap();
        assert!(long > FIRST && looks.waited("b") <= FIRST);
        looks.forget("a");
        assert!(looks.waited("a") <= FIRST);
    }

    #[test]
    fn failures_of_one_object_count_until_it_goes_well() {
        let failures = Counts::default();
        let wait = |uid| failures.failed(uid, &Error::Time("a test"));
        let long = (0..9).fold(Duration::ZERO, |_, _| wait("a"));
        assert!(long > Duration::from_secs(30) && wait("b") <= FIRST);
        failures.forget("a");
        assert!(wait("a") <= FIRST);
    }
}
