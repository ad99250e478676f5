//! Little-endian reading with bounds, and byte strings that print as hex.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// A byte string of known length, hex in text. Equality takes the same time wherever the difference is.
#[derive(Serialize, Deserialize, Clone, Copy, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A measurement of a TEE: SHA-384.
pub type Measurement = Hex<48>;

impl<const N: usize> Hex<N> {
    /// All zero.
    pub const ZERO: Self = Self([0; N]);
}

impl<const N: usize> PartialEq for Hex<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Digests have no order, so [`AtLeast`](crate::reference::Requirement::AtLeast) one is that one.
impl<const N: usize> PartialOrd for Hex<N> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (self == other).then_some(std::cmp::Ordering::Equal)
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> From<Hex<N>> for String {
    fn from(value: Hex<N>) -> Self {
        hex::encode(value.0)
    }
}

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl<const N: usize> std::str::FromStr for Hex<N> {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What ended before it should: the name of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short(pub(crate) &'static str);

/// Reads members in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Short> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(Short(what))?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Short> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Short(what))?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn hex<const N: usize>(&mut self, what: &'static str) -> Result<Hex<N>, Short> {
        self.array(what).map(Hex)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Short> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Short> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A part whose length, 16 bits, stands before it.
    pub(crate) fn part16(&mut self, what: &'static str) -> Result<&'a [u8], Short> {
        let length = self.u16(what)?;
        self.take(length.into(), what)
    }

    /// A part whose length, 32 bits, stands before it.
    pub(crate) fn part32(&mut self, what: &'static str) -> Result<&'a [u8], Short> {
        let length = self.u32(what)?;
        self.take(usize::try_from(length).map_err(|_| Short(what))?, what)
    }
}

/// A byte string of any length, hex in text. Equality takes the same time wherever the difference is.
#[derive(Serialize, Deserialize, Clone, Default, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// As [`Hex`]: there is no order among values that differ.
impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (self == other).then_some(std::cmp::Ordering::Equal)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Bytes> for String {
    fn from(value: Bytes) -> Self {
        hex::encode(value.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_have_no_order_and_each_is_at_least_itself() {
        for (one, other, same) in [([1, 2], [1, 2], true), ([1, 2], [1, 3], false), ([1, 3], [1, 2], false)] {
            assert_eq!((Hex(one) >= Hex(other), Hex(one) <= Hex(other)), (same, same), "{one:?} {other:?}");
            let (one, other) = (Bytes(one.to_vec()), Bytes(other.to_vec()));
            assert_eq!((one >= other, one <= other), (same, same), "{one} {other}");
        }
        assert_eq!(Bytes(vec![1]).partial_cmp(&Bytes(vec![1, 2])), None);
    }

    #[test]
    fn bytes_are_hex_in_text_and_in_json() {
        let (hex, bytes) = (Hex([0x0a, 0xff]), Bytes(vec![0x0a, 0xff]));
        for text in [hex.to_string(), format!("{hex:?}"), bytes.to_string(), format!("{bytes:?}")] {
            assert_eq!(text, "0aff");
        }
        assert_eq!(serde_json::to_string(&hex).unwrap(), "\"0aff\"");
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"0aff\"");
        assert_eq!(serde_json::from_str::<Hex<2>>("\"0aff\"").unwrap(), hex);
        assert_eq!(serde_json::from_str::<Bytes>("\"0aff\"").unwrap(), bytes);
        for wrong in ["\"0af\"", "\"0afg\"", "1"] {
            assert!(serde_json::from_str::<Hex<2>>(wrong).is_err() && serde_json::from_str::<Bytes>(wrong).is_err());
        }
        assert!(serde_json::from_str::<Hex<2>>("\"0a\"").is_err());
    }
}
