//! What goes wrong, and when: every side effect once, or a few things drawn from a seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::call::Call;

/// What happens at one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// The operator's process is killed after it took effect and before it learns that.
    KillAfter,
    /// The operator's process is killed, and the request never arrives.
    KillBefore,
    /// It takes effect, and the connection breaks before the answer.
    Lose,
    /// It is held up for so many milliseconds, then passes.
    Late(u64),
    /// Nothing.
    #[default]
    Pass,
    /// It is answered with this status and does not arrive.
    Refuse(u16),
    /// The operator's process is suspended before it reads the answer.
    Suspend,
}

/// What happens to one event of a watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventFate {
    /// The stream ends before it, as when an API server restarts.
    Cut,
    /// It comes late.
    Late(u64),
    /// It is lost, and the stream says that its version is too old, so that the client must list anew.
    Lost,
    /// Nothing.
    #[default]
    Pass,
    /// It comes twice.
    Twice,
}

/// Which side of a side effect the process dies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It happened, and nobody wrote down that it did.
    After,
    /// It did not happen.
    Before,
}

enum Kind {
    /// Nothing goes wrong.
    Calm,
    /// Dies once at each side effect that has another name.
    Every(Side),
    /// Is suspended at the first of these.
    Suspended(fn(&Call) -> bool),
    /// By number of the write, of the read, and of the event.
    Drawn { writes: BTreeMap<u64, Fate>, reads: BTreeMap<u64, Fate>, events: BTreeMap<u64, EventFate> },
}

/// A plan; it does nothing until it is armed.
pub struct Plan {
    kind: Kind,
    armed: AtomicBool,
    counts: [AtomicU64; 3],
    met: Mutex<BTreeSet<String>>,
    done: Mutex<Vec<String>>,
}

impl Plan {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            armed: AtomicBool::new(false),
            counts: Default::default(),
            met: Mutex::default(),
            done: Mutex::default(),
        }
    }

    /// Nothing goes wrong.
    #[must_use]
    pub fn calm() -> Self {
        Self::new(Kind::Calm)
    }

    /// The process dies at every side effect, once each.
    #[must_use]
    pub fn every(side: Side) -> Self {
        Self::new(Kind::Every(side))
    }

    /// The process is suspended when it has asked the first of these, once.
    #[must_use]
    pub fn suspended_at(which: fn(&Call) -> bool) -> Self {
        Self::new(Kind::Suspended(which))
    }

    /// Draws two to six things that go wrong within the first `span` writes; the same seed, the same things.
    #[must_use]
    pub fn drawn(rng: &mut fastrand::Rng, span: u64) -> Self {
        let (mut writes, mut reads, mut events) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for _ in 0..rng.u8(2..=6) {
            let fate = match rng.u8(..10) {
                0..3 => Fate::KillBefore,
                3..6 => Fate::KillAfter,
                6 => Fate::Lose,
                7 => Fate::Refuse(409),
                8 => Fate::Refuse(500),
                _ => Fate::Late(rng.u64(500..3000)),
            };
            writes.insert(rng.u64(..span), fate);
        }
        for _ in 0..rng.u8(..4) {
            let fate = match rng.u8(..4) {
                0 => Fate::Refuse(429),
                1 => Fate::Refuse(500),
                2 => Fate::Lose,
                _ => Fate::Late(rng.u64(500..2000)),
            };
            reads.insert(rng.u64(..span * 6), fate);
        }
        for _ in 0..rng.u8(..4) {
            let fate = match rng.u8(..4) {
                0 => EventFate::Cut,
                1 => EventFate::Lost,
                2 => EventFate::Twice,
                _ => EventFate::Late(rng.u64(200..2000)),
            };
            events.insert(rng.u64(..span * 2), fate);
        }
        Self::new(Kind::Drawn { writes, reads, events })
    }

    /// From now on things go wrong.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// What went wrong until now, for people.
    #[must_use]
    pub fn done(&self) -> Vec<String> {
        lock(&self.done).clone()
    }

    /// Decides about a request whose side effect has this name.
    pub fn fate(&self, call: &Call, effect: &str) -> Fate {
        if !self.armed.load(Ordering::SeqCst) || call.watch {
            return Fate::Pass;
        }
        let fate = match &self.kind {
            Kind::Calm => Fate::Pass,
            Kind::Every(side) => {
                if !call.writes() || !lock(&self.met).insert(effect.to_owned()) {
                    return Fate::Pass;
                }
                match side {
                    Side::After => Fate::KillAfter,
                    Side::Before => Fate::KillBefore,
                }
            }
            Kind::Suspended(which) => {
                if !which(call) || !lock(&self.met).is_empty() {
                    return Fate::Pass;
                }
                lock(&self.met).insert(effect.to_owned());
                Fate::Suspend
            }
            Kind::Drawn { writes, reads, .. } if call.verb == "read" => self.next(1, reads),
            Kind::Drawn { writes, .. } => self.next(0, writes),
        };
        if fate != Fate::Pass {
            lock(&self.done).push(format!("{fate:?}: {effect}"));
        }
        fate
    }

    /// Decides about an event.
    pub fn event(&self) -> EventFate {
        let Kind::Drawn { events, .. } = &self.kind else { return EventFate::Pass };
        if !self.armed.load(Ordering::SeqCst) {
            return EventFate::Pass;
        }
        let fate = self.next(2, events);
        if fate != EventFate::Pass {
            lock(&self.done).push(format!("{fate:?}: an event"));
        }
        fate
    }

    fn next<T: Copy + Default>(&self, which: usize, map: &BTreeMap<u64, T>) -> T {
        let number = self.counts[which].fetch_add(1, Ordering::SeqCst);
        map.get(&number).copied().unwrap_or_default()
    }
}

/// A pause of so many milliseconds.
#[must_use]
pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_effect_is_met_once_and_only_when_armed() {
        let plan = Plan::every(Side::After);
        let call = Call { verb: "create", resource: "secrets".into(), ..Call::default() };
        assert_eq!(plan.fate(&call, "a"), Fate::Pass);
        plan.arm();
        assert_eq!([plan.fate(&call, "a"), plan.fate(&call, "a")], [Fate::KillAfter, Fate::Pass]);
        let read = Call { verb: "read", ..Call::default() };
        assert_eq!(plan.fate(&read, "b"), Fate::Pass);
        assert_eq!(plan.done(), ["KillAfter: a"]);
    }

    #[test]
    fn a_process_is_suspended_once() {
        let plan = Plan::suspended_at(|call| call.resource == "secrets");
        plan.arm();
        let call = |resource: &str| Call { verb: "read", resource: resource.into(), ..Call::default() };
        let fates = ["pods", "secrets", "secrets"].map(|resource| plan.fate(&call(resource), resource));
        assert_eq!(fates, [Fate::Pass, Fate::Suspend, Fate::Pass]);
    }

    #[test]
    fn the_same_seed_draws_the_same_things() {
        let all = |seed| {
            let plan = Plan::drawn(&mut fastrand::Rng::with_seed(seed), 50);
            plan.arm();
            let call = Call { verb: "create", ..Call::default() };
            (0..50).map(|_| plan.fate(&call, "x")).collect::<Vec<_>>()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
        assert!(all(7).iter().any(|fate| *fate != Fate::Pass));
    }
}
