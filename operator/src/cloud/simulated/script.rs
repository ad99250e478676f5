//! What goes wrong: set by tests through [`Script`], by people through a `ConfigMap`.
//!
//! A `ConfigMap` named [`SCRIPT`], in any namespace, holds for each [`Behaviour::key`] the names of nodes, one a line;
//! a name may end in `*`, and `slow-boot` takes `name=seconds`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::cloud::CloudError;

/// Name of the `ConfigMap`.
pub const SCRIPT: &str = "constellation-simulated-script";

/// What may befall a node, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// Its evidence does not match its image.
    BrokenEvidence,
    /// Its machine ends by itself.
    Fail,
    /// Listings do not show it; launches still find it.
    Hide,
    /// It can't be launched.
    NoCapacity,
    /// It takes longer to boot.
    SlowBoot,
    /// Its machine is gone without a trace.
    Vanish,
}

impl Behaviour {
    const ALL: [Self; 6] =
        [Self::BrokenEvidence, Self::Fail, Self::Hide, Self::NoCapacity, Self::SlowBoot, Self::Vanish];

    /// Key in the `ConfigMap`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::BrokenEvidence => "broken-evidence",
            Self::Fail => "fail",
            Self::Hide => "hide",
            Self::NoCapacity => "no-capacity",
            Self::SlowBoot => "slow-boot",
            Self::Vanish => "vanish",
        }
    }
}

/// The script; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    failures: VecDeque<CloudError>,
    set: Rules,
    read: Rules,
}

/// Behaviour to patterns of names, each with seconds where that means something.
type Rules = BTreeMap<Behaviour, Vec<(String, u32)>>;

impl Script {
    /// The next launch fails so; each call adds one failure.
    pub fn fail_next(&self, error: CloudError) {
        self.lines().failures.push_back(error);
    }

    /// From now on `behaviour` befalls nodes of this name, or of this prefix where it ends in `*`.
    pub fn add(&self, behaviour: Behaviour, name: &str) {
        self.lines().set.entry(behaviour).or_default().push((name.to_owned(), 0));
    }

    /// Nodes of this name take so many seconds more to boot.
    pub fn slow_boot(&self, name: &str, seconds: u32) {
        self.lines().set.entry(Behaviour::SlowBoot).or_default().push((name.to_owned(), seconds));
    }

    /// `behaviour` befalls nobody any more.
    pub fn clear(&self, behaviour: Behaviour) {
        self.lines().set.remove(&behaviour);
    }

    pub(super) fn next_failure(&self) -> Option<CloudError> {
        self.lines().failures.pop_front()
    }

    pub(super) fn applies(&self, behaviour: Behaviour, name: &str) -> bool {
        self.lines().find(behaviour, name).next().is_some()
    }

    pub(super) fn extra_boot_seconds(&self, name: &str) -> u32 {
        self.lines().find(Behaviour::SlowBoot, name).max().unwrap_or(0)
    }

    /// Takes over what the `ConfigMap`s say now.
    pub(super) fn read<'a>(&self, maps: impl Iterator<Item = &'a BTreeMap<String, String>>) {
        let mut rules = Rules::new();
        for data in maps {
            for behaviour in Behaviour::ALL {
                let lines = data.get(behaviour.key()).map(String::as_str).unwrap_or_default().lines();
                rules.entry(behaviour).or_default().extend(lines.filter_map(line));
            }
        }
        self.lines().read = rules;
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn find(&self, behaviour: Behaviour, name: &str) -> impl Iterator<Item = u32> {
        let rules = [&self.set, &self.read].into_iter().filter_map(move |rules| rules.get(&behaviour)).flatten();
        rules.filter(move |(pattern, _)| matches(pattern, name)).map(|(_, seconds)| *seconds)
    }
}

fn line(text: &str) -> Option<(String, u32)> {
    let (name, seconds) = text.trim().split_once('=').unwrap_or((text.trim(), "0"));
    (!name.is_empty()).then(|| (name.to_owned(), seconds.trim().parse().unwrap_or(0)))
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_names_nodes_by_name_or_prefix() {
        let script = Script::default();
        let data = BTreeMap::from([
            ("broken-evidence".to_owned(), "a-1\n b-* \n\n".to_owned()),
            ("slow-boot".to_owned(), "a-*=30\na-1=40".to_owned()),
            ("unknown".to_owned(), "a-1".to_owned()),
        ]);
        script.read([&data].into_iter());
        for (name, broken, seconds) in [("a-1", true, 40), ("a-12", false, 30), ("b-7", true, 0), ("c", false, 0)] {
            assert_eq!(script.applies(Behaviour::BrokenEvidence, name), broken, "{name}");
            assert_eq!(script.extra_boot_seconds(name), seconds, "{name}");
        }
        script.read(std::iter::empty());
        assert!(!script.applies(Behaviour::BrokenEvidence, "a-1"));
    }

    #[test]
    fn failures_come_once_and_in_order() {
        let script = Script::default();
        script.fail_next(CloudError::Capacity("one".into()));
        script.fail_next(CloudError::Quota("two".into()));
        assert!(matches!(script.next_failure(), Some(CloudError::Capacity(_))));
        assert!(matches!(script.next_failure(), Some(CloudError::Quota(_))));
        assert!(script.next_failure().is_none());
    }
}
