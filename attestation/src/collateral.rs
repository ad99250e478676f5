//! What a verifier keeps of collateral that others fetched: certificates, revocation lists and TCB information, by the
//! thing they are about, each with the time it was fetched.
//!
//! The library says what it needs as a list of [`Key`]s and takes bytes; it never fetches. Whoever fetches puts entries
//! here, so that a thousand nodes with one processor ask its vendor once, and a verifier goes on while the vendor can't
//! be reached, for as long as its owner allows. The form is a map from name to text that fits a folder of files and a
//! Kubernetes `ConfigMap`.
//!
//! Nothing in it is an anchor: all of it is signed by a vendor and verified each time. A wrong entry refuses a node and
//! never admits one.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::snp::{KeyKind, Product};

/// Greatest entry, bytes: a revocation list grows by some 40 bytes a certificate; all of AMD's and Intel's are below
/// 100 KB.
pub const MAX_ENTRY: usize = 512 * 1024;
/// Longest identifier of an issuer's key, bytes: a digest (RFC 5280, 4.2.1.2); a longer one would be no name of a cache.
pub const ISSUER_BYTES: usize = 64;
/// How far the clock of who fetched may be ahead of ours.
pub const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Why collateral can't be had from a cache.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It was never fetched.
    #[error("{0} was never fetched")]
    Absent(Key),
    /// It is older than its owner allows.
    #[error("{key} was fetched {age:#} ago, more than the {greatest:#} that are allowed")]
    Old {
        /// What it is.
        key: Key,
        /// Its age.
        age: SignedDuration,
        /// The greatest age that is allowed.
        greatest: SignedDuration,
    },
    /// It was fetched in the future.
    #[error("{0} bears a time of fetching that lies in the future")]
    Future(Key),
    /// A name or an entry isn't one of ours.
    #[error("entry {0:?} of the cache can't be read")]
    Entry(String),
    /// More than [`MAX_ENTRY`].
    #[error("{0} is larger than {MAX_ENTRY} bytes")]
    Large(Key),
}

/// A thing of collateral, by what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Certificate of the key that signs for one processor at one TCB; both as in the report, hex.
    SnpVcek {
        /// Product, for example `Milan`.
        product: String,
        /// The processor.
        chip: String,
        /// Its reported TCB.
        tcb: String,
    },
    /// Revocation list of a product's root, from where AMD has it for keys of a kind: the lists of the two places may be of
    /// different days.
    SnpCrl {
        /// Product.
        product: String,
        /// Kind of the keys.
        kind: KeyKind,
    },
    /// Certificates of the CA that certifies keys of Google's TPMs, DER, one after the other, the issuer first.
    GoogleIssuer {
        /// Its key, as the certificates that it issues name it (RFC 5280, 4.2.1.1), hex.
        key: String,
    },
    /// All of a TDX platform family's collateral.
    Tdx {
        /// The family.
        fmspc: String,
    },
}

impl fmt::Display for Key {
    /// The name in a cache: letters, digits, dots and dashes, as `ConfigMap` keys and file names may have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SnpVcek { product, chip, tcb } => write!(f, "snp-vcek.{product}.{chip}.{tcb}"),
            Self::SnpCrl { product, kind: KeyKind::Vcek } => write!(f, "snp-crl.{product}"),
            Self::SnpCrl { product, kind: KeyKind::Vlek } => write!(f, "snp-vlek-crl.{product}"),
            Self::GoogleIssuer { key } => write!(f, "google-issuer.{key}"),
            Self::Tdx { fmspc } => write!(f, "tdx.{fmspc}"),
        }
    }
}

impl Key {
    /// Whether it is another one as time goes by. A certificate isn't: how long ago it was fetched says nothing, and its
    /// dates are looked at each time.
    #[must_use]
    pub fn ages(&self) -> bool {
        match self {
            Self::SnpCrl { .. } | Self::Tdx { .. } => true,
            Self::GoogleIssuer { .. } | Self::SnpVcek { .. } => false,
        }
    }
}

/// Text that isn't the name of a [`Key`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it isn't the name of collateral")]
pub struct Unnamed;

impl FromStr for Key {
    type Err = Unnamed;

    /// Reads a name exactly as it is written: known products, and identifiers of the length that their makers give them.
    fn from_str(name: &str) -> Result<Self, Unnamed> {
        let digits = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let hex = |part: &str, bytes: RangeInclusive<usize>| {
            let whole = part.len().is_multiple_of(2) && bytes.contains(&(part.len() / 2)) && digits(part);
            whole.then(|| part.to_owned()).ok_or(Unnamed)
        };
        let product = |name: &str| Ok(name.parse::<Product>().map_err(|_| Unnamed)?.to_string());
        let parts: Vec<&str> = name.split('.').collect();
        Ok(match parts.as_slice() {
            ["snp-vcek", name, chip, tcb] => {
                Self::SnpVcek { product: product(name)?, chip: hex(chip, 64..=64)?, tcb: hex(tcb, 8..=8)? }
            }
            ["snp-crl", name] => Self::SnpCrl { product: product(name)?, kind: KeyKind::Vcek },
            ["snp-vlek-crl", name] => Self::SnpCrl { product: product(name)?, kind: KeyKind::Vlek },
            ["google-issuer", key] => Self::GoogleIssuer { key: hex(key, 1..=ISSUER_BYTES)? },
            ["tdx", fmspc] => Self::Tdx { fmspc: hex(fmspc, 6..=6)? },
            _ => return Err(Unnamed),
        })
    }
}

/// What was fetched, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes as the vendor gave them.
    pub bytes: Vec<u8>,
    /// When they were fetched.
    pub fetched: Timestamp,
}

/// An entry as text.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    fetched: Timestamp,
    base64: String,
}

impl Entry {
    /// Reads an entry from its text.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let written: Written = serde_json::from_str(text).ok()?;
        Some(Self { bytes: STANDARD.decode(written.base64).ok()?, fetched: written.fetched })
    }

    /// Its text.
    ///
    /// # Panics
    /// Never: a time and a string serialise.
    #[must_use]
    pub fn write(&self) -> String {
        let written = Written { fetched: self.fetched, base64: STANDARD.encode(&self.bytes) };
        serde_json::to_string(&written).expect("a time and a string serialise")
    }
}

/// What was fetched so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    entries: BTreeMap<Key, Entry>,
}

impl Cache {
    /// Reads a cache from names and texts: the data of a `ConfigMap`, or the files of a folder. What isn't an entry that
    /// [`Cache::write`] makes is left out, and told of: a stray one, or one of a kind that only a newer release knows, must
    /// not take the others away.
    pub fn read<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> (Self, Vec<Error>) {
        let (mut cache, mut errors) = (Self::default(), Vec::new());
        for (name, text) in texts {
            let taken = match (name.parse(), Entry::read(text)) {
                (Ok(key), Some(entry)) => cache.put(key, entry),
                _ => Err(Error::Entry(name.chars().take(253).collect())),
            };
            errors.extend(taken.err());
        }
        (cache, errors)
    }

    /// Names and texts, in the order of names.
    pub fn write(&self) -> impl Iterator<Item = (String, String)> {
        self.entries.iter().map(|(key, entry)| (key.to_string(), entry.write()))
    }

    /// Keeps an entry, unless a newer one of the same thing is there: two that fetch at once do no harm.
    ///
    /// # Errors
    /// When the entry is too large.
    pub fn put(&mut self, key: Key, entry: Entry) -> Result<(), Error> {
        if entry.bytes.len() > MAX_ENTRY {
            return Err(Error::Large(key));
        }
        if self.entries.get(&key).is_none_or(|known| known.fetched <= entry.fetched) {
            self.entries.insert(key, entry);
        }
        Ok(())
    }

    /// The bytes of a thing, however old.
    #[must_use]
    pub fn kept(&self, key: &Key) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| entry.bytes.as_slice())
    }

    /// The bytes of a thing; of one that [ages](Key::ages), if they are at most so old.
    ///
    /// # Errors
    /// When they aren't there, are older, or say that they come from the future.
    pub fn get(&self, key: &Key, now: Timestamp, greatest: SignedDuration) -> Result<&[u8], Error> {
        let entry = self.entries.get(key).ok_or_else(|| Error::Absent(key.clone()))?;
        let age = now.duration_since(entry.fetched);
        if age < -SKEW {
            return Err(Error::Future(key.clone()));
        }
        if key.ages() && age > greatest {
            return Err(Error::Old { key: key.clone(), age, greatest });
        }
        Ok(&entry.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn keys() -> [Key; 5] {
        let product = || "Milan".to_owned();
        [
            Key::SnpVcek { product: product(), chip: "ab".repeat(64), tcb: "04000000000018db".into() },
            Key::SnpCrl { product: product(), kind: KeyKind::Vcek },
            Key::GoogleIssuer { key: "ab".repeat(20) },
            Key::Tdx { fmspc: "00806f050000".into() },
            Key::SnpCrl { product: product(), kind: KeyKind::Vlek },
        ]
    }

    fn entry(second: i64) -> Entry {
        Entry { bytes: vec![1, 2], fetched: at(second) }
    }

    #[test]
    fn a_cache_survives_its_texts_and_its_names_are_keys_of_a_config_map() {
        let mut cache = Cache::default();
        for key in keys() {
            cache.put(key, entry(5)).unwrap();
        }
        let texts: Vec<_> = cache.write().collect();
        for (name, _) in &texts {
            assert!(name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
        }
        let texts = texts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        assert_eq!(Cache::read(texts), (cache, vec![]));
    }

    #[test]
    fn only_what_is_there_and_young_enough_is_given() {
        let [other, key, certificate, ..] = keys();
        let mut cache = Cache::default();
        cache.put(key.clone(), entry(1_000)).unwrap();
        assert_eq!(cache.get(&key, at(1_000 + 86_400), DAY), Ok(&[1, 2][..]));
        assert!(matches!(cache.get(&key, at(1_001 + 86_400), DAY), Err(Error::Old { .. })));
        assert_eq!(cache.get(&other, at(1_000), DAY), Err(Error::Absent(other.clone())));
        assert!(cache.get(&key, at(700), DAY).is_ok());
        assert_eq!(cache.get(&key, at(699), DAY), Err(Error::Future(key)));
        cache.put(certificate.clone(), entry(1_000)).unwrap();
        assert!(cache.get(&certificate, at(1_001 + 86_400), DAY).is_ok(), "its own dates say how long it is good");
    }

    #[test]
    fn a_newer_entry_stays() {
        let [key, ..] = keys();
        let mut cache = Cache::default();
        cache.put(key.clone(), entry(10)).unwrap();
        cache.put(key.clone(), Entry { bytes: vec![9], fetched: at(9) }).unwrap();
        assert_eq!(cache.get(&key, at(10), DAY), Ok(&[1, 2][..]));
        cache.put(key.clone(), Entry { bytes: vec![9], fetched: at(11) }).unwrap();
        assert_eq!(cache.get(&key, at(11), DAY), Ok(&[9][..]));
    }

    #[test]
    fn names_and_texts_that_are_not_ours_are_left_out_alone() {
        let good = r#"{"fetched":"2026-01-01T00:00:00Z","base64":"AQI="}"#;
        let (one, none) = Cache::read([("tdx.00806f050000", good)]);
        assert_eq!((one.entries.len(), none.len()), (1, 0));
        for name in [
            "",
            "tdx",
            "tdx.",
            "tdx.00806f050000.b",
            "sgx.00806f050000",
            "tdx.../x",
            "tdx.00806f050000\n",
            "tdx.00806F050000",
            "tdx.00806f0500",
            "tdx.00806f05000g",
            "snp-vcek.Milan.ab",
            "snp-crl.milan",
            "snp-crl.Rome",
            "google-issuer.abc",
        ] {
            let read = Cache::read([(name, good), ("tdx.00806f050000", good)]);
            assert_eq!(read, (one.clone(), vec![Error::Entry(name.into())]));
        }
        for text in ["", "{}", &good.replace("AQI=", "?"), &good.replace('}', ",\"more\":1}")] {
            let (read, errors) = Cache::read([("snp-crl.Milan", text), ("tdx.00806f050000", good)]);
            assert_eq!((read, errors.len()), (one.clone(), 1), "{text}");
        }
        let large = Entry { bytes: vec![0; MAX_ENTRY + 1], fetched: at(0) };
        let [key, ..] = keys();
        assert_eq!(Cache::default().put(key.clone(), large), Err(Error::Large(key)));
    }

    #[test]
    fn an_entry_is_as_large_as_the_bound_says_or_smaller() {
        let [key, ..] = keys();
        let put = |length| Cache::default().put(key.clone(), Entry { bytes: vec![1; length], fetched: at(1) });
        assert_eq!(put(MAX_ENTRY), Ok(()));
        assert_eq!(put(MAX_ENTRY + 1), Err(Error::Large(key.clone())));
    }
}
