//! How long to wait after a failure. Pure.

use std::time::Duration;

use crate::error::Class;

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
}
