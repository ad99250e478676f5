//! The smoke run of fuzz targets: their corpus, and deterministic mutations of it, through the same bodies.
//!
//! libFuzzer searches; this only shows that no target falls over what its corpus and the usual lies look like: flipped
//! bits, cut ends, lengths that say too much or too little, bytes taken out or put in. Tests include this file beside the
//! targets of their package.

use std::{collections::BTreeSet, fs, panic, path::Path};

use super::targets::Target;

/// Runs a package's target by its name.
type Run = fn(&str, &[u8]);

/// Bytes that the mutations of one seed may add up to: a second or two in a debug build. Miri is a thousand times slower.
const BYTES: usize = if cfg!(miri) { 10_000 } else { 3_000_000 };
/// Least and greatest number of mutations of one seed.
const ROUNDS: (usize, usize) = if cfg!(miri) { (5, 50) } else { (100, 4000) };

fn seeds(package: &Path, target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(package.join("corpus").join(target))
        .unwrap_or_else(|e| panic!("{target} has no corpus: {e}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Numbers that look random and are the same in every run (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}

/// A seed with one thing wrong.
fn mutated(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    /// What a length may lie: nothing, one, all a field can hold, one beyond the signed half.
    const LIES: [u32; 6] = [0, 1, 0x7f, 0x8000, u32::MAX - 1, u32::MAX];
    let mut bytes = seed.to_vec();
    let at = numbers.below(bytes.len());
    match numbers.below(6) {
        0 => bytes[at] ^= 1 << numbers.below(8),
        1 => bytes.truncate(at),
        kind @ (2 | 3) => {
            let lie = LIES[numbers.below(LIES.len())];
            let width = [1, 2, 4][numbers.below(3)];
            let lie =
                if kind == 2 { lie.to_le_bytes()[..width].to_vec() } else { lie.to_be_bytes()[4 - width..].to_vec() };
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&lie[..end - at]);
        }
        4 => {
            let end = (at + 1 + numbers.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let from = numbers.below(bytes.len());
            let piece = bytes[from..(from + 1 + numbers.below(16)).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
    }
    bytes
}

/// Runs a target; a panic names the bytes.
fn run(targets: Run, name: &str, bytes: &[u8]) {
    if let Err(panic) = panic::catch_unwind(|| targets(name, bytes)) {
        let shown = hex::encode(&bytes[..bytes.len().min(4096)]);
        let length = bytes.len();
        eprintln!("target {name} failed on {length} bytes: {shown}");
        panic::resume_unwind(panic);
    }
}

/// The smoke run of one of a package's targets.
pub fn smoke(package: &Path, targets: Run, name: &str) {
    let seeds = seeds(package, name);
    assert!(!seeds.is_empty(), "{name} has no corpus");
    run(targets, name, &[]);
    for (number, seed) in seeds.iter().enumerate() {
        run(targets, name, seed);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ number as u64);
        let rounds = (BYTES / seeds.len() / seed.len().max(1)).clamp(ROUNDS.0, ROUNDS.1);
        for _ in 0..rounds {
            run(targets, name, &mutated(seed, &mut numbers));
        }
    }
}

/// Checks that every target has a body, a file, a corpus, a smoke run, and a line in the table of entry points.
pub fn is_whole(package: &Path, targets: &[Target], smoked: &[&str], table: &str) {
    let names = |folder: &str, ending: &str| -> BTreeSet<String> {
        fs::read_dir(package.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| !ending.is_empty() || entry.file_type().unwrap().is_dir())
            .filter_map(|entry| entry.file_name().to_str().unwrap().strip_suffix(ending).map(str::to_owned))
            .collect()
    };
    let bodies: BTreeSet<String> = targets.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(bodies, names("fuzz_targets", ".rs"));
    assert_eq!(bodies, names("corpus", ""));
    assert_eq!(bodies, smoked.iter().map(|name| (*name).to_owned()).collect());
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    for name in bodies {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} isn't in the package's Cargo.toml");
        assert!(table.contains(&format!("| `{name}` |\n")), "{name} isn't in the table of attestation/fuzz/README.md");
    }
}

/// One test per target, so that they run side by side and name themselves.
macro_rules! smoke {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            smoke::smoke(&package(), targets::run, stringify!($name));
        })*

        /// What has a smoke run.
        const SMOKED: &[&str] = &[$(stringify!($name)),*];
    };
}
