//! CBOR (RFC 8949), as far as signed documents use it: bounded, in the shortest form, no key twice. Arrays and maps of
//! indefinite length are read because AWS writes them; tags, floating point and simple values but null are refused.

/// Deepest nesting: a document is a map that holds a map or a list.
const MAX_DEPTH: usize = 4;
/// Most items of a document: 24 registers, nine members, a few certificates.
const MAX_ITEMS: usize = 256;
/// Ends a value of indefinite length.
const BREAK: u8 = 0xff;

/// Why bytes aren't one value.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A value ends before it should.
    #[error("it is cut off")]
    Short,
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// Something that isn't read: {0}.
    #[error("{0} isn't accepted")]
    Unaccepted(&'static str),
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number from 0.
    Unsigned(u64),
    /// -1 minus the number.
    Negative(u64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A text string.
    Text(&'a str),
    /// A list.
    Array(Vec<Value<'a>>),
    /// Keys and values, in order; no key stands twice.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// Nothing.
    Null,
}

/// Parses exactly one value.
///
/// # Errors
/// When the bytes are anything else.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Error> {
    let mut reader = Reader { rest: bytes, items: 0 };
    let value = reader.value(0)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(Error::Trailing(reader.rest.len())) }
}

struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(Error::Short)?;
        self.rest = tail;
        Ok(head)
    }

    /// The number that follows the first byte of an item (RFC 8949, 3); `None` for an indefinite length.
    fn argument(&mut self, information: u8) -> Result<Option<u64>, Error> {
        let (width, least) = match information {
            0..=23 => return Ok(Some(information.into())),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            31 => return Ok(None),
            _ => return Err(Error::Unaccepted("a reserved length")),
        };
        let number = self.take(width)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        if number < least { Err(Error::Unaccepted("a number in a longer form than needed")) } else { Ok(Some(number)) }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        self.items += 1;
        if depth > MAX_DEPTH || self.items > MAX_ITEMS {
            return Err(Error::Unaccepted("so much nesting, or so many items"));
        }
        let first = *self.take(1)?.first().ok_or(Error::Short)?;
        let argument = self.argument(first & 0x1f)?;
        let definite = |argument: Option<u64>| argument.ok_or(Error::Unaccepted("an indefinite length here"));
        match first >> 5 {
            0 => Ok(Value::Unsigned(definite(argument)?)),
            1 => Ok(Value::Negative(definite(argument)?)),
            2 => Ok(Value::Bytes(self.string(definite(argument)?)?)),
            3 => {
                let text = self.string(definite(argument)?)?;
                std::str::from_utf8(text).map(Value::Text).map_err(|_| Error::Unaccepted("text that isn't UTF-8"))
            }
            4 => {
                let mut list = Vec::new();
                while self.more(list.len(), argument)? {
                    list.push(self.value(depth + 1)?);
                }
                Ok(Value::Array(list))
            }
            5 => {
                let mut map: Vec<(Value<'a>, Value<'a>)> = Vec::new();
                while self.more(map.len(), argument)? {
                    let key = self.value(depth + 1)?;
                    if map.iter().any(|(known, _)| *known == key) {
                        return Err(Error::Unaccepted("a key that stands twice"));
                    }
                    map.push((key, self.value(depth + 1)?));
                }
                Ok(Value::Map(map))
            }
            // Simple value 22, null (RFC 8949, 3.3).
            7 if first == 0xf6 => Ok(Value::Null),
            _ => Err(Error::Unaccepted("a tag, a floating-point number or a simple value")),
        }
    }

    fn string(&mut self, length: u64) -> Result<&'a [u8], Error> {
        self.take(usize::try_from(length).map_err(|_| Error::Short)?)
    }

    /// Whether a list or map of `count` members so far has another one.
    fn more(&mut self, count: usize, length: Option<u64>) -> Result<bool, Error> {
        if let Some(length) = length {
            return Ok((count as u64) < length);
        }
        let ends = *self.rest.first().ok_or(Error::Short)? == BREAK;
        if ends {
            self.take(1)?;
        }
        Ok(!ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_rfc_8949_appendix_a_are_read() {
        for (hex, value) in [
            ("00", Value::Unsigned(0)),
            ("17", Value::Unsigned(23)),
            ("1818", Value::Unsigned(24)),
            ("190100", Value::Unsigned(256)),
            ("1a00010000", Value::Unsigned(65_536)),
            ("1b0000000100000000", Value::Unsigned(1 << 32)),
            ("1b000000e8d4a51000", Value::Unsigned(1_000_000_000_000)),
            ("3863", Value::Negative(99)),
            ("4401020304", Value::Bytes(&[1, 2, 3, 4])),
            ("6449455446", Value::Text("IETF")),
            ("f6", Value::Null),
            ("83010203", Value::Array([1, 2, 3].map(Value::Unsigned).to_vec())),
            ("9f0102ff", Value::Array([1, 2].map(Value::Unsigned).to_vec())),
            ("a10102", Value::Map(vec![(Value::Unsigned(1), Value::Unsigned(2))])),
            ("bf6161f6ff", Value::Map(vec![(Value::Text("a"), Value::Null)])),
        ] {
            assert_eq!(parse(&hex::decode(hex).unwrap()), Ok(value), "{hex}");
        }
    }

    #[test]
    fn other_forms_of_the_same_values_and_other_values_are_refused() {
        for hex in [
            "",
            "1817",
            "190017",
            "1a00000017",
            "1b0000000000000017",
            "1c",
            "ff",
            "9f01",
            "5f4101ff",
            "7f6161ff",
            "8201",
            "a101",
            "a201020102",
            "c001",
            "f4",
            "f5",
            "f7",
            "fb3ff0000000000000",
            "0000",
            "61ff",
            "5bffffffffffffffff",
            "9bffffffffffffffff",
            "818181818181",
        ] {
            assert!(parse(&hex::decode(hex).unwrap()).is_err(), "{hex}");
        }
        assert!(parse(&[vec![0x99, 0x01, 0x2c], vec![0; 300]].concat()).is_err());
    }

    #[test]
    fn values_are_nested_and_many_up_to_the_bounds_and_no_further() {
        let deep = |levels, open: &[u8]| [open.repeat(levels), vec![0]].concat();
        // In a list; as a value of a map; as its key.
        for open in [&[0x81][..], &[0xa1, 0]] {
            assert!(parse(&deep(MAX_DEPTH, open)).is_ok(), "{open:?}");
            assert!(parse(&deep(MAX_DEPTH + 1, open)).is_err(), "{open:?}");
            assert!(parse(&deep(MAX_DEPTH + 2, open)).is_err(), "{open:?}");
        }
        let keys = |levels: usize| [vec![0xa1; levels], vec![0; levels + 1]].concat();
        assert!(parse(&keys(MAX_DEPTH)).is_ok());
        assert!(parse(&keys(MAX_DEPTH + 1)).is_err());
        // The list is one of them.
        let many = |count: u8| [vec![0x98, count], vec![0; count.into()]].concat();
        assert!(parse(&many(255)).is_ok());
        for count in [256_u16, 257] {
            let list = [&[0x99][..], &count.to_be_bytes(), &vec![0; count.into()]].concat();
            assert!(parse(&list).is_err(), "{count}");
        }
    }
}
