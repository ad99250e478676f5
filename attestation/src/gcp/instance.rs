//! The extension by which Google's certificates name a machine: object identifier 1.3.6.1.4.1.11129.2.1.21.
//!
//! Source: `go-tpm-tools`, `server/instance_info.go` (the structure), and genuine certificates (members 2 to 5 of the
//! security properties, which have no documented meaning and aren't looked at).

/// Its object identifier.
pub const OID: [u64; 10] = [1, 3, 6, 1, 4, 1, 11129, 2, 1, 21];
/// Longest name, bytes; Google allows 63.
const MAX_NAME: usize = 128;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
/// Members 0 and 1 of a context, explicit.
const EXPLICIT: [u8; 2] = [0xa0, 0xa1];

/// The extension isn't one whole structure; the member that isn't in its form.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
#[error("{0} isn't there in its form")]
pub struct Error(pub &'static str);

/// A machine of Google Cloud, as the certificate of its TPM's key names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Zone, for example `us-central1-f`.
    pub zone: String,
    /// Number of the project.
    pub project_number: u64,
    /// Name of the project.
    pub project_id: String,
    /// Number of the instance.
    pub instance_id: u64,
    /// Name of the instance.
    pub instance_name: String,
    /// Whether the host is one of Google's production; `None` when the certificate doesn't say.
    pub is_production: Option<bool>,
}

impl Machine {
    /// Parses the extension's value, DER.
    ///
    /// # Errors
    /// The member that isn't in its form.
    pub fn parse(der: &[u8]) -> Result<Self, Error> {
        let mut outer = Der(der);
        let mut info = Der(outer.take(SEQUENCE, "instance identity")?);
        outer.end("instance identity")?;
        let mut machine = Self {
            zone: info.name("zone")?,
            project_number: info.number("project number")?,
            project_id: info.name("project")?,
            instance_id: info.number("instance number")?,
            instance_name: info.name("instance")?,
            is_production: None,
        };
        if !info.0.is_empty() {
            machine.is_production = production(info.take(EXPLICIT[0], "security properties")?)?;
        }
        info.end("instance identity")?;
        Ok(machine)
    }
}

fn production(der: &[u8]) -> Result<Option<bool>, Error> {
    const WHAT: &str = "security properties";
    let mut outer = Der(der);
    let mut properties = Der(outer.take(SEQUENCE, WHAT)?);
    outer.end(WHAT)?;
    let (mut last, mut is_production) = (None, None);
    while let Some(tag) = properties.0.first().copied() {
        // In order, so none stands twice.
        if last.replace(tag).is_some_and(|last| last >= tag) {
            return Err(Error(WHAT));
        }
        let mut member = Der(properties.take(tag, WHAT)?);
        if tag == EXPLICIT[1] {
            is_production = Some(match member.take(BOOLEAN, WHAT)? {
                [0] => false,
                [0xff] => true,
                _ => return Err(Error(WHAT)),
            });
            member.end(WHAT)?;
        }
    }
    Ok(is_production)
}

/// Reads DER values in order.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next value, which has this tag (X.690, 8.1 and 10.1: the shortest length).
    fn take(&mut self, tag: u8, what: &'static str) -> Result<&'a [u8], Error> {
        let (length, rest) = match self.0 {
            [found, length @ 0..=0x7f, rest @ ..] if *found == tag => (usize::from(*length), rest),
            [found, 0x81, length @ 0x80..=0xff, rest @ ..] if *found == tag => (usize::from(*length), rest),
            [found, 0x82, high @ 1..=0xff, low, rest @ ..] if *found == tag => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            _ => return Err(Error(what)),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(Error(what))?;
        self.0 = rest;
        Ok(value)
    }

    fn end(&self, what: &'static str) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error(what)) }
    }

    fn name(&mut self, what: &'static str) -> Result<String, Error> {
        let text = std::str::from_utf8(self.take(UTF8_STRING, what)?).map_err(|_| Error(what))?;
        let printable = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|c| c.is_ascii_graphic());
        if printable { Ok(text.to_owned()) } else { Err(Error(what)) }
    }

    /// A number from 0 that fits 64 bits, in the shortest form (X.690, 8.3).
    fn number(&mut self, what: &'static str) -> Result<u64, Error> {
        let digits = match self.take(INTEGER, what)? {
            [] | [0x80..=0xff, ..] | [0, 0..=0x7f, ..] => return Err(Error(what)),
            [0, digits @ ..] | digits => digits,
        };
        if digits.len() > 8 {
            return Err(Error(what));
        }
        Ok(digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a genuine certificate of November 2022.
    const GENUINE: &str = "306e0c0d75732d63656e7472616c312d6102051b5a475c690c1c676f6f676c652e636f6d3a7775616c652d6763\
                           702d74657374696e670208030878c5bdd3d99d0c0c63732d64656275672d706361a020301ea003020100a10301\
                           01ffa2030101ffa303010100a403010100a503010100";

    fn genuine() -> Vec<u8> {
        hex::decode(GENUINE).unwrap()
    }

    #[test]
    fn a_genuine_extension_names_its_machine() {
        let machine = Machine {
            zone: "us-central1-a".into(),
            project_number: 117_478_743_145,
            project_id: "google.com:wuale-gcp-testing".into(),
            instance_id: 218_557_372_616_137_117,
            instance_name: "cs-debug-pca".into(),
            is_production: Some(true),
        };
        assert_eq!(Machine::parse(&genuine()), Ok(machine));
    }

    #[test]
    fn what_is_not_said_is_unknown_and_what_is_said_otherwise_is_refused() {
        let whole = genuine();
        // Without the security properties: the outer length shrinks with them.
        let mut short = whole[..whole.len() - 34].to_vec();
        short[1] -= 34;
        assert_eq!(Machine::parse(&short).unwrap().is_production, None);
        let place = whole.windows(5).position(|part| part == [0xa1, 3, 1, 1, 0xff]).unwrap();
        let mut other = whole.clone();
        other[place + 4] = 0;
        assert_eq!(Machine::parse(&other).unwrap().is_production, Some(false));
        for (offset, value) in [(4, 1), (3, 2), (2, 2), (0, 0xa0)] {
            let mut other = whole.clone();
            other[place + offset] = value;
            assert!(Machine::parse(&other).is_err(), "{offset}");
        }
        for cut in 0..whole.len() {
            assert!(Machine::parse(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(Machine::parse(&[whole, vec![0]].concat()).is_err());
    }

    #[test]
    fn numbers_are_read_in_the_shortest_form_only() {
        for (der, number) in [
            (&[2, 1, 0][..], Some(0)),
            (&[2, 2, 0, 0x80], Some(128)),
            (&[2, 9, 0, 255, 255, 255, 255, 255, 255, 255, 255], Some(u64::MAX)),
            (&[2, 0], None),
            (&[2, 1, 0x80], None),
            (&[2, 2, 0, 1], None),
            (&[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0], None),
            (&[2, 0x81, 1, 0], None),
        ] {
            assert_eq!(Der(der).number("x").ok(), number, "{der:?}");
        }
    }

    #[test]
    fn a_value_has_the_wanted_tag_and_the_shortest_length() {
        let of = |head: &[u8], length: usize| [head, &vec![7; length]].concat();
        for (der, length) in [
            (of(&[0x0c, 0], 0), Some(0)),
            (of(&[0x0c, 0x7f], 0x7f), Some(0x7f)),
            (of(&[0x0c, 0x81, 0x80], 0x80), Some(0x80)),
            (of(&[0x0c, 0x81, 0xff], 0xff), Some(0xff)),
            (of(&[0x0c, 0x82, 1, 0], 0x100), Some(0x100)),
            (of(&[0x0c, 0x82, 1, 2], 0x102), Some(0x102)),
            (of(&[0x0d, 0x7f], 0x7f), None),
            (of(&[0x0d, 0x81, 0x80], 0x80), None),
            (of(&[0x0d, 0x82, 1, 0], 0x100), None),
            (of(&[0x0c, 0x81, 0x7f], 0x7f), None),
            (of(&[0x0c, 0x82, 0, 0xff], 0xff), None),
            (of(&[0x0c, 0x83, 0, 1, 0], 0x100), None),
            (of(&[0x0c, 0x80], 1), None),
            (of(&[0x0c, 0x82, 1, 0], 0xff), None),
        ] {
            let mut rest = Der(&der);
            assert_eq!(rest.take(0x0c, "x").ok().map(<[u8]>::len), length, "{:?}", &der[..der.len().min(5)]);
            assert_eq!(rest.0.is_empty(), length.is_some());
        }
    }

    #[test]
    fn names_are_printable_and_neither_empty_nor_longer_than_any_cloud_names_things() {
        let name = |text: &[u8]| {
            let length = u8::try_from(text.len()).unwrap();
            let head = if length < 0x80 { vec![0x0c, length] } else { vec![0x0c, 0x81, length] };
            Der(&[head, text.to_vec()].concat()).name("x").ok()
        };
        for good in ["a", "us-central1-a", &"x".repeat(MAX_NAME)] {
            assert_eq!(name(good.as_bytes()).as_deref(), Some(good));
        }
        for wrong in ["", "a b", "a\n", "\u{e9}", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(name(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(name(&[0xff]), None);
    }
}
