//! Finds a target among a package's; both packages of targets take this file.

use super::TARGETS;

/// A target: its name, which is the name of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Runs a target by its name.
///
/// # Panics
/// When there is none of that name, or the bytes found a fault.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target is registered under the name of its file").1(bytes);
}
