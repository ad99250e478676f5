//! Whose process ends with a call: it is carried out, and nobody learns of it.

use std::collections::BTreeSet;

/// Which calls end the process that makes them. Only calls that change something are asked about: who dies between two
/// changes dies as after the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Deaths {
    /// The call of this number from now on, the first being 0.
    After(u64),
    /// Every call that has an effect which no call had before; those that had one are listed.
    AfterEach(BTreeSet<String>),
    /// None.
    #[default]
    Never,
}

impl Deaths {
    /// Whether the caller of this call dies.
    pub fn meets(&mut self, effect: &str) -> bool {
        match self {
            Self::After(0) => {
                *self = Self::Never;
                true
            }
            Self::After(left) => {
                *left -= 1;
                false
            }
            Self::AfterEach(met) => met.insert(effect.to_owned()),
            Self::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_dies_at_one_number_or_once_at_each_effect() {
        let dies = |mut deaths: Deaths| ["a", "b", "a", "c"].map(|effect| deaths.meets(effect));
        assert_eq!(dies(Deaths::After(1)), [false, true, false, false]);
        assert_eq!(dies(Deaths::AfterEach(BTreeSet::new())), [true, true, false, true]);
        assert_eq!(dies(Deaths::Never), [false; 4]);
    }
}
