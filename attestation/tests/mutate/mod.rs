//! A genuine file with one thing wrong: a bit flipped, its end cut off, a length that lies. Nothing of that is accepted, and
//! nothing panics.

#![allow(clippy::panic, dead_code, reason = "a test's helpers are tests, and not every test needs all of them")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A length that stands in a file.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// Most significant byte first: place and width in bytes, at most 4.
    Big(usize, usize),
    /// Least significant byte first: the same.
    Little(usize, usize),
}

/// A genuine file, and how it is to be made wrong.
pub struct Genuine<'a> {
    name: &'a str,
    bytes: &'a [u8],
    lengths: Vec<Length>,
    flips: usize,
    cuts: usize,
}

impl<'a> Genuine<'a> {
    /// A file with its name. Every bit is flipped, and it is cut at every place.
    pub fn new(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, bytes, lengths: Vec::new(), flips: usize::MAX, cuts: usize::MAX }
    }

    /// With these lengths lying too. One that stands nowhere would test nothing.
    pub fn lengths(mut self, lengths: impl IntoIterator<Item = Length>) -> Self {
        self.lengths.extend(lengths);
        self
    }

    /// Not more than so many flips and so many cuts: as many as take a second or two. They are spread over the whole
    /// file, the same in every run.
    pub fn at_most(mut self, flips: usize, cuts: usize) -> Self {
        (self.flips, self.cuts) = (flips, cuts);
        self
    }

    /// The file is accepted as it is, and with anything wrong it isn't.
    pub fn is_the_only_one(&self, accepts: impl Fn(&[u8]) -> bool) {
        self.gives_one_verdict(|bytes| accepts(bytes).then_some(()), |_, ()| false);
    }

    /// The file has a verdict as it is. With anything wrong it has none, or the same one where `same` says that nobody
    /// looks at what is wrong.
    pub fn gives_one_verdict<T: PartialEq>(
        &self,
        verdict: impl Fn(&[u8]) -> Option<T>,
        same: impl Fn(&[u8], T) -> bool,
    ) {
        let genuine = verdict(self.bytes);
        assert!(genuine.is_some(), "{} isn't accepted as it is", self.name);
        self.harms_nothing(|bytes| {
            if let Some(found) = verdict(bytes) {
                assert!(genuine.as_ref() == Some(&found), "another verdict");
                assert!(same(bytes, found), "accepted");
            }
        });
    }

    /// Looks at the file with each thing wrong; a panic of `look` says with which.
    pub fn harms_nothing(&self, look: impl Fn(&[u8])) {
        let run = |what: String, wrong: &[u8]| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| look(wrong))) {
                eprintln!("{}: {what}", self.name);
                resume_unwind(panic);
            }
        };
        let mut wrong = self.bytes.to_vec();
        for bit in spread(self.bytes.len() * 8, self.flips) {
            wrong[bit / 8] ^= 1 << (bit % 8);
            run(format!("bit {} of byte {:#x} flipped", bit % 8, bit / 8), &wrong);
            wrong[bit / 8] ^= 1 << (bit % 8);
        }
        for end in spread(self.bytes.len(), self.cuts) {
            run(format!("cut to {end} bytes"), &self.bytes[..end]);
        }
        for length in &self.lengths {
            for (value, lie) in lies(*length, self.bytes) {
                run(format!("{length:?} says {value:#x}"), &lie);
            }
        }
    }
}

/// At most `most` of the numbers below `count`, from each stretch one.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let stretch = count.div_ceil(most.max(1)).max(1);
    // Another place of each stretch (Knuth's multiplicative hash), so that no bit of a byte is left out for good.
    let within = move |start: usize| (start / stretch).wrapping_mul(0x9e37_79b1) / 0x1_0001 % stretch;
    (0..count).step_by(stretch).map(move |start| (start + within(start)).min(count - 1))
}

/// The file with a length that says nothing, one, one more or less, twice as much, half of what it can or all.
fn lies(length: Length, genuine: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let (at, width, big) = match length {
        Length::Big(at, width) => (at, width, true),
        Length::Little(at, width) => (at, width, false),
    };
    let mut field = genuine[at..at + width].to_vec();
    if !big {
        field.reverse();
    }
    let says = field.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    let all = u32::MAX >> (32 - 8 * width);
    let mut values = vec![0, 1, says.wrapping_sub(1) & all, says.wrapping_add(1) & all, says << 1 & all, all >> 1, all];
    values.sort_unstable();
    values.dedup();
    values.retain(|value| *value != says);
    let lie = |value: u32| {
        let mut field = value.to_be_bytes()[4 - width..].to_vec();
        if !big {
            field.reverse();
        }
        let mut lying = genuine.to_vec();
        lying[at..at + width].copy_from_slice(&field);
        (value, lying)
    };
    values.into_iter().map(lie).collect()
}

/// Every length in some DER (ITU-T X.690, 8.1.3), from `start` on; what octet strings hold isn't looked into.
pub fn der(bytes: &[u8], start: usize) -> Vec<Length> {
    const CONSTRUCTED: u8 = 0x20;
    let (mut found, mut at) = (Vec::new(), start);
    // An element after the other: going on behind the head of a constructed one goes into it.
    while let Some([tag, first]) = bytes.get(at..at + 2) {
        let width = if *first < 0x80 { 0 } else { usize::from(first & 0x7f) };
        let content = at + 2 + width;
        let Some(field) = bytes.get(at + 2..content) else { break };
        found.push(if width == 0 { Length::Big(at + 1, 1) } else { Length::Big(at + 2, width) });
        let length =
            if width == 0 { usize::from(*first) } else { field.iter().fold(0, |n, b| n << 8 | usize::from(*b)) };
        at = if tag & CONSTRUCTED == 0 { content + length } else { content };
    }
    found
}

/// Every length in some CBOR (RFC 8949, 3), from `start` on; what byte strings hold isn't looked into.
pub fn cbor(bytes: &[u8], start: usize) -> Vec<Length> {
    let (mut found, mut at) = (Vec::new(), start);
    while let Some(head) = bytes.get(at) {
        let width = match head & 0x1f {
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => 0,
        };
        let Some(field) = bytes.get(at + 1..at + 1 + width) else { break };
        let value =
            if width == 0 { usize::from(head & 0x1f) } else { field.iter().fold(0, |n, b| n << 8 | usize::from(*b)) };
        let is_string = matches!(head >> 5, 2 | 3);
        if (2..=5).contains(&(head >> 5)) && width <= 4 {
            found.push(if width == 0 { Length::Big(at, 1) } else { Length::Big(at + 1, width) });
        }
        at += 1 + width + if is_string { value } else { 0 };
    }
    found
}

/// Where the events of a crypto-agile log begin (`TCG_PCR_EVENT2`: register, type, digests, data), and where each one's data
/// does. Their types are four bytes at 4.
pub fn events(log: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize, bytes: usize| {
        log[at..at + bytes].iter().rev().fold(0_usize, |all, byte| (all << 8) | usize::from(*byte))
    };
    let mut at = 32 + number(28, 4);
    let mut found = Vec::new();
    while at + 12 <= log.len() && log[at..at + 8].iter().any(|byte| *byte != 0xff) {
        let mut end = at + 12;
        for _ in 0..number(at + 8, 4) {
            end += 2 + match number(end, 2) {
                0x04 => 20,
                0x0b => 32,
                0x0c => 48,
                other => panic!("algorithm {other}"),
            };
        }
        found.push((at, end + 4));
        at = end + 4 + number(end, 4);
    }
    found
}
