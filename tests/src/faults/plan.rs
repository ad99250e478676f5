//! What goes wrong, and when: every side effect once, one of them, or a few things drawn from a seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::call::Call;

/// Renewals of a lease that are refused one after the other: its holder asks every two seconds and gives up after ten.
const REFUSED: u64 = 8;

/// What happens at one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// The user deletes the cluster on this side of it.
    Delete(Side),
    /// It takes effect, and the answer is that the API server's time ran out.
    Expire,
    /// It takes effect, and no answer comes, while the connection stays.
    Hang,
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
    /// It is lost, and the stream says that its version is too old, so that the client must list anew.
    Expired,
    /// It comes late.
    Late(u64),
    /// It is lost, and nobody says so.
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

/// What is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// An event of a watch.
    Event,
    /// A heartbeat of who leads.
    Lease,
    /// A read of many objects.
    List,
    /// A read of one.
    Read,
    /// The beginning of a watch.
    Watch,
    /// All else; also heartbeats.
    Write,
}

impl Class {
    fn of(call: &Call) -> Self {
        match call.verb {
            "read" if call.watch => Self::Watch,
            "read" if call.name.is_none() => Self::List,
            "read" => Self::Read,
            _ => Self::Write,
        }
    }
}

enum Kind {
    /// Nothing goes wrong.
    Calm,
    /// Watches stand still: no event arrives.
    Deaf,
    /// The user deletes the cluster on this side of the n-th of these that have different names.
    Deleted { side: Side, nth: usize, which: fn(&Call) -> bool },
    /// Its lease is not renewed any more, and what it writes arrives late.
    Deposed,
    /// Dies once at each side effect that has another name.
    Every(Side),
    /// Is suspended at the first of these.
    Suspended(fn(&Call) -> bool),
    /// By number in its class.
    Drawn { requests: BTreeMap<(Class, u64), Fate>, events: BTreeMap<u64, EventFate>, leases: Vec<Range<u64>> },
}

/// A plan; it does nothing until it is armed.
pub struct Plan {
    kind: Kind,
    armed: AtomicBool,
    counts: Mutex<BTreeMap<Class, u64>>,
    met: Mutex<BTreeSet<String>>,
    done: Mutex<Vec<String>>,
    tally: Mutex<BTreeMap<String, u32>>,
}

impl Plan {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            armed: AtomicBool::new(false),
            counts: Mutex::default(),
            met: Mutex::default(),
            done: Mutex::default(),
            tally: Mutex::default(),
        }
    }

    /// Nothing goes wrong.
    #[must_use]
    pub fn calm() -> Self {
        Self::new(Kind::Calm)
    }

    /// Watches stand still, and nobody says so.
    #[must_use]
    pub fn deaf() -> Self {
        Self::new(Kind::Deaf)
    }

    /// The process dies at every side effect, once each.
    #[must_use]
    pub fn every(side: Side) -> Self {
        Self::new(Kind::Every(side))
    }

    /// The user deletes the cluster on this side of the n-th of these side effects, where those of one name count once.
    #[must_use]
    pub fn deleted(side: Side, nth: usize, which: fn(&Call) -> bool) -> Self {
        Self::new(Kind::Deleted { side, nth, which })
    }

    /// The process can't renew its lease, while all else passes, though slowly: what it writes is held up for a second.
    #[must_use]
    pub fn deposed() -> Self {
        Self::new(Kind::Deposed)
    }

    /// The process is suspended when it has asked the first of these, once.
    #[must_use]
    pub fn suspended_at(which: fn(&Call) -> bool) -> Self {
        Self::new(Kind::Suspended(which))
    }

    /// Draws what goes wrong within the first `span` writes, two to six of them and a few reads and events; the same seed,
    /// the same things.
    #[must_use]
    pub fn drawn(rng: &mut fastrand::Rng, span: u64) -> Self {
        let (mut requests, mut events) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..rng.u8(2..=6) {
            let fate = match rng.u8(..12) {
                0..3 => Fate::KillBefore,
                3..6 => Fate::KillAfter,
                6 => Fate::Lose,
                7 => Fate::Refuse(409),
                8 => Fate::Refuse(429),
                9 => Fate::Refuse(500),
                10 => Fate::Expire,
                _ => Fate::Late(rng.u64(500..3000)),
            };
            requests.insert((Class::Write, rng.u64(..span)), fate);
        }
        for (class, numbers) in [(Class::Read, span * 3), (Class::List, span * 3), (Class::Watch, span / 4)] {
            for _ in 0..rng.u8(..3) {
                let fate = match rng.u8(..5) {
                    0 => Fate::Refuse(429),
                    1 => Fate::Refuse(500),
                    2 => Fate::Refuse(504),
                    3 => Fate::Lose,
                    _ => Fate::Late(rng.u64(500..2000)),
                };
                requests.insert((class, rng.u64(..numbers)), fate);
            }
        }
        // Whoever meets it waits until its patience ends, so it is seldom.
        if rng.u8(..8) == 0 {
            let classes = [(Class::Write, span), (Class::Read, span), (Class::List, span), (Class::Watch, span / 8)];
            requests.extend(rng.choice(classes).map(|(class, numbers)| ((class, rng.u64(..numbers)), Fate::Hang)));
        }
        for _ in 0..rng.u8(..4) {
            let fate = match rng.u8(..5) {
                0 => EventFate::Cut,
                1 => EventFate::Expired,
                2 => EventFate::Lost,
                3 => EventFate::Twice,
                _ => EventFate::Late(rng.u64(200..2000)),
            };
            events.insert(rng.u64(..span * 2), fate);
        }
        Self::new(Kind::Drawn { requests, events, leases: Vec::new() })
    }

    /// Draws when a process that may lead can't renew its lease for so long that it must give up, once or twice.
    #[must_use]
    pub fn losing_leases(mut self, rng: &mut fastrand::Rng) -> Self {
        if let Kind::Drawn { leases, .. } = &mut self.kind {
            *leases = (0..rng.u8(1..=2)).map(|_| rng.u64(1..20)).map(|first| first..first + REFUSED).collect();
        }
        self
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

    /// How many side effects of different names there were, where the process dies at each.
    #[must_use]
    pub fn met(&self) -> usize {
        lock(&self.met).len()
    }

    /// How often which kind of thing went wrong until now.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<String, u32> {
        lock(&self.tally).clone()
    }

    /// Decides about a request whose side effect has this name.
    pub fn fate(&self, call: &Call, effect: &str) -> Fate {
        if !self.armed.load(Ordering::SeqCst) {
            return Fate::Pass;
        }
        let class = Class::of(call);
        let fate = match &self.kind {
            Kind::Deleted { side, nth, which } => {
                let mut met = lock(&self.met);
                let new = which(call) && met.insert(effect.to_owned());
                if new && met.len() == *nth { Fate::Delete(*side) } else { Fate::Pass }
            }
            Kind::Deposed if call.renews() => Fate::Refuse(500),
            Kind::Deposed if call.writes() => Fate::Late(1000),
            Kind::Calm | Kind::Deaf | Kind::Deposed => Fate::Pass,
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
                if call.watch || !which(call) || !lock(&self.met).is_empty() {
                    return Fate::Pass;
                }
                lock(&self.met).insert(effect.to_owned());
                Fate::Suspend
            }
            Kind::Drawn { leases, .. } if call.renews() && self.is_in(leases) => Fate::Refuse(500),
            Kind::Drawn { requests, .. } => requests.get(&(class, self.next(class))).copied().unwrap_or_default(),
        };
        if fate != Fate::Pass {
            self.note(class, &fate, effect);
        }
        fate
    }

    /// Decides about an event.
    pub fn event(&self) -> EventFate {
        if !self.armed.load(Ordering::SeqCst) {
            return EventFate::Pass;
        }
        let fate = match &self.kind {
            Kind::Drawn { events, .. } => events.get(&self.next(Class::Event)).copied().unwrap_or_default(),
            Kind::Deaf => EventFate::Lost,
            _ => EventFate::Pass,
        };
        if fate != EventFate::Pass {
            self.note(Class::Event, &fate, "");
        }
        fate
    }

    /// Whether the next renewal of the lease is one of these.
    fn is_in(&self, refused: &[Range<u64>]) -> bool {
        let renewal = self.next(Class::Lease);
        refused.iter().any(|numbers| numbers.contains(&renewal))
    }

    /// The number of the next one of a class.
    fn next(&self, class: Class) -> u64 {
        let mut counts = lock(&self.counts);
        let count = counts.entry(class).or_default();
        *count += 1;
        *count - 1
    }

    fn note(&self, class: Class, fate: &dyn Debug, what: &str) {
        let fate = format!("{fate:?}");
        // How late doesn't make another kind.
        let kind = if fate.starts_with("Late") { "Late" } else { fate.as_str() };
        *lock(&self.tally).entry(format!("{class:?} {kind}")).or_default() += 1;
        lock(&self.done).push(format!("{class:?} {fate}: {what}"));
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
    use constellation_operator::lease::NAME;

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
        assert_eq!(plan.done(), ["Write KillAfter: a"]);
        assert_eq!(plan.tally(), [("Write KillAfter".to_owned(), 1)].into());
    }

    #[test]
    fn a_cluster_is_deleted_at_one_side_effect_and_those_of_one_name_count_once() {
        let plan = Plan::deleted(Side::Before, 2, Call::writes);
        plan.arm();
        let call = Call { verb: "create", resource: "secrets".into(), ..Call::default() };
        let fates = ["a", "a", "b", "b", "c"].map(|effect| plan.fate(&call, effect));
        assert_eq!(fates, [Fate::Pass, Fate::Pass, Fate::Delete(Side::Before), Fate::Pass, Fate::Pass]);
    }

    #[test]
    fn a_lease_is_refused_so_often_that_its_holder_gives_up_and_nothing_else_is() {
        let call = |resource: &str, name: &str| Call {
            verb: "update",
            resource: resource.into(),
            name: Some(name.into()),
            ..Call::default()
        };
        let (ours, kubelets) = (call("leases", NAME), call("leases", "a-worker-1"));
        let deposed = Plan::deposed();
        deposed.arm();
        let fates = [&ours, &kubelets, &call("secrets", "x")].map(|call| deposed.fate(call, ""));
        assert_eq!(fates, [Fate::Refuse(500), Fate::Pass, Fate::Late(1000)]);
        let requests = BTreeMap::new();
        let drawn = Plan::new(Kind::Drawn { requests, events: BTreeMap::new(), leases: Vec::new() });
        let drawn = drawn.losing_leases(&mut fastrand::Rng::with_seed(1));
        drawn.arm();
        let fates: Vec<_> = (0..60).map(|_| drawn.fate(&ours, "")).collect();
        let longest = fates.chunk_by(|a, b| a == b).filter(|run| run[0] == Fate::Refuse(500)).map(<[Fate]>::len).max();
        assert!(fates[0] == Fate::Pass && longest.is_some_and(|run| run >= 8), "{fates:?}");
        assert_eq!(drawn.fate(&kubelets, ""), Fate::Pass);
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
    fn watches_and_lists_are_counted_by_themselves() {
        let call =
            |name: Option<&str>, watch| Call { verb: "read", name: name.map(Into::into), watch, ..Call::default() };
        let requests = [((Class::Watch, 0), Fate::Hang), ((Class::List, 1), Fate::Refuse(504))].into();
        let plan = Plan::new(Kind::Drawn { requests, events: BTreeMap::new(), leases: Vec::new() });
        plan.arm();
        let fates = [call(None, false), call(Some("a"), false), call(None, true), call(None, false)];
        let fates = fates.map(|call| plan.fate(&call, ""));
        assert_eq!(fates, [Fate::Pass, Fate::Pass, Fate::Hang, Fate::Refuse(504)]);
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
