//! Why something couldn't be fetched, what to do about it, and when it is tried again.

use std::time::Duration;

/// First pause after a failure; every later one is twice as long.
const FIRST: Duration = Duration::from_secs(30);
/// Longest pause. Collateral is good for weeks, and its refresh begins ten days before it is too old.
const LONGEST: Duration = Duration::from_hours(1);
/// Pause after a maker said that it has no such thing: only a new processor or a correction changes that.
const ABSENT: Duration = Duration::from_hours(6);

/// Why something couldn't be fetched. Holds no time and no count: it stands in a status, which must not change by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Machines named too many things.
    #[error("machines of this cluster asked for more than is fetched in an hour")]
    Asked,
    /// There is no such thing.
    #[error("{0} says that there is no such thing")]
    Absent(String),
    /// The answer ended early.
    #[error("the answer of {0} was cut")]
    Cut(String),
    /// There is no room.
    #[error("ConfigMap {map} is full", map = super::store::NAME)]
    Full,
    /// More than collateral may have.
    #[error("the answer of {0} is too large")]
    Large(String),
    /// Fetching is off.
    #[error("fetching is off")]
    Off,
    /// Nobody says where it is, or it isn't where such things are.
    #[error("no evidence names a place where Google has issuers")]
    Place,
    /// The proxy didn't let us through.
    #[error("proxy {proxy} gave no way to {host}: {why}")]
    Proxy {
        /// Whom we wanted.
        host: String,
        /// The proxy, without credentials.
        proxy: String,
        /// What it said.
        why: String,
    },
    /// We are sent elsewhere.
    #[error("{0} answered with a redirect, which isn't followed")]
    Redirected(String),
    /// No answer in time.
    #[error("{0} didn't answer in time")]
    Slow(String),
    /// Another status.
    #[error("{host} answered with status {status}")]
    Status {
        /// Who.
        host: String,
        /// Which.
        status: u16,
    },
    /// `ConfigMap` can't be written.
    #[error("ConfigMap {map} can't be written: {why}", map = super::store::NAME)]
    Store {
        /// What the API server said.
        why: String,
    },
    /// Too fast.
    #[error("{host} answered that there were too many requests")]
    Throttled {
        /// Who.
        host: String,
        /// For how long it sends us away; absent: it doesn't say.
        after: Option<Duration>,
    },
    /// It can't be believed.
    #[error("what {host} gave can't be believed: {why}")]
    Unfit {
        /// Who.
        host: String,
        /// Why.
        why: String,
    },
    /// Nobody answers.
    #[error("{host} can't be reached: {why}")]
    Unreachable {
        /// Who.
        host: String,
        /// Why.
        why: String,
    },
}

impl Trouble {
    /// One of a closed set, for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Absent(_) => "absent",
            Self::Asked => "asked",
            Self::Cut(_) => "cut",
            Self::Full => "full",
            Self::Large(_) => "large",
            Self::Off => "off",
            Self::Place => "place",
            Self::Proxy { .. } => "proxy",
            Self::Redirected(_) => "redirected",
            Self::Slow(_) => "slow",
            Self::Status { .. } => "status",
            Self::Store { .. } => "store",
            Self::Throttled { .. } => "throttled",
            Self::Unfit { .. } => "unfit",
            Self::Unreachable { .. } => "unreachable",
        }
    }

    /// What a person can do.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Off => "start the operator with --fetch-collateral, or write the entry as docs/trust.md says",
            Self::Asked => "look at the machines that are refused: genuine ones don't ask for so many things",
            Self::Full => "remove entries of machines that are gone",
            Self::Absent(_) => "nothing, unless the machine is genuine and new: then write the entry by hand",
            Self::Cut(_) | Self::Large(_) | Self::Redirected(_) | Self::Unfit { .. } => {
                "look at what stands between the operator and its maker: a proxy, a mirror, or the address that was given"
            }
            Self::Place => "write the entry by hand if the machine is genuine",
            Self::Proxy { .. } => "let the proxy through to that host, or correct HTTPS_PROXY and NO_PROXY",
            Self::Slow(_) | Self::Unreachable { .. } => {
                "let the operator through to that host (DNS, egress rules, HTTPS_PROXY), or give the address of a mirror"
            }
            Self::Status { .. } => "wait; if it lasts, look at the maker's notices or give the address of a mirror",
            Self::Store { .. } => {
                "let the operator create and patch ConfigMaps here, as its chart does with collateral.fetch"
            }
            Self::Throttled { .. } => {
                "wait; if it lasts, others behind the same address ask as well: give a mirror's address"
            }
        }
    }

    /// How long it isn't tried again after the `attempts`-th failure in a row (from 1); `spread` in 0..=255 takes off up to
    /// a quarter, never from what the maker asked for.
    #[must_use]
    pub fn pause(&self, attempts: u32, spread: u8) -> Duration {
        let doubled = match self {
            Self::Absent(_) | Self::Place => ABSENT,
            _ => FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST),
        };
        let whole = doubled.saturating_sub(doubled * u32::from(spread) / 1024);
        match self {
            Self::Throttled { after: Some(after), .. } => whole.max(*after),
            _ => whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_are_never_shorter_than_the_maker_wants() {
        let slow = Trouble::Slow("a".into());
        assert_eq!([1, 2, 3].map(|n| slow.pause(n, 0).as_secs()), [30, 60, 120]);
        assert_eq!(slow.pause(99, 0), LONGEST);
        assert!(slow.pause(1, 255) < FIRST && slow.pause(1, 255) > FIRST * 7 / 10);
        let throttled = |after| Trouble::Throttled { host: "a".into(), after: Some(Duration::from_secs(after)) };
        assert_eq!(throttled(600).pause(1, 255).as_secs(), 600);
        assert_eq!(throttled(0).pause(1, 0), FIRST);
        assert_eq!(Trouble::Absent("a".into()).pause(1, 0), ABSENT);
    }
}
