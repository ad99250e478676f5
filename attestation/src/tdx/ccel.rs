//! The firmware's log in a trust domain (ACPI 6.5, 5.2.34 CCEL; UEFI 2.10, 38.4): it explains a register and proves
//! nothing. Its form is the crypto-agile one of a TPM (TCG PC Client Platform Firmware Profile 1.06, 10), with SHA-384
//! and other numbers: 0 is MRTD, 1 to 4 are RTMR 0 to 3.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA384, digest};

use super::{
    bytes::{Hex, Measurement, Reader, Short},
    clause,
    verify::Td,
};
use crate::{
    result::Checks,
    tpm::eventlog::{EV_NO_ACTION, SPEC_ID, is_padding},
    verified::Verified,
};

/// Greatest log, bytes: clouds reserve 64 to 256 KiB, most of it empty.
pub const MAX_BYTES: usize = 512 * 1024;
/// Greatest number of events.
pub const MAX_EVENTS: usize = 4096;
/// Most algorithms of a log.
const MAX_ALGORITHMS: u32 = 8;
/// `TPM_ALG_SHA384`.
const SHA_384: u16 = 0x000c;
/// Types whose digest is one of the data: `EV_SEPARATOR`, `EV_ACTION`, `EV_EFI_VARIABLE_DRIVER_CONFIG`,
/// `EV_EFI_GPT_EVENT`, `EV_EFI_ACTION`, `EV_EFI_VARIABLE_AUTHORITY`.
const OF_DATA: [u32; 6] = [0x04, 0x05, 0x8000_0001, 0x8000_0006, 0x8000_0007, 0x8000_00e0];

/// Why bytes aren't a log.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It ends inside a member.
    #[error("ends in {0}")]
    Short(&'static str),
    /// A member has a value that it can't have.
    #[error("{0} isn't accepted")]
    Value(&'static str),
}

impl From<Short> for Error {
    fn from(Short(what): Short) -> Self {
        Self::Short(what)
    }
}

/// One event that extended a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Place in the log, from 0 (the header).
    pub number: usize,
    /// Register: 0 is MRTD, 1 to 4 are RTMR 0 to 3.
    pub index: u32,
    /// Type.
    pub kind: u32,
    /// What the register was extended with.
    pub digest: Measurement,
    /// What was measured, or words about it; only a hint.
    pub data: Vec<u8>,
}

impl Event {
    /// Whether the digest is one of the data, for the types where it must be.
    #[must_use]
    pub fn digest_matches_data(&self) -> Option<bool> {
        OF_DATA.contains(&self.kind).then(|| digest(&SHA384, &self.data).as_ref() == self.digest.0)
    }
}

/// A parsed log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ccel {
    /// The events that extended a register, in order.
    pub events: Vec<Event>,
}

impl Ccel {
    /// Parses a log as it lies in the table's memory: what fills it up behind the last event isn't one.
    ///
    /// # Errors
    /// When it is too large, cut off, of the old SHA-1 form, or without SHA-384.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Value("length of the log"));
        }
        let mut reader = Reader(bytes);
        let sizes = header(&mut reader)?;
        let mut log = Self { events: Vec::new() };
        for number in 1.. {
            if is_padding(reader.0) {
                break;
            }
            if number > MAX_EVENTS {
                return Err(Error::Value("number of events"));
            }
            let event = event(&mut reader, &sizes, number)?;
            if event.kind != EV_NO_ACTION {
                log.events.push(event);
            }
        }
        Ok(log)
    }

    /// Values of the run-time measurement registers after all events.
    #[must_use]
    pub fn replay(&self) -> [Measurement; 4] {
        [0, 1, 2, 3].map(|rtmr| {
            self.of(rtmr).fold(Measurement::ZERO, |value, event| {
                let mut context = Context::new(&SHA384);
                context.update(&value.0);
                context.update(&event.digest.0);
                let mut extended = Measurement::ZERO;
                extended.0.copy_from_slice(context.finish().as_ref());
                extended
            })
        })
    }

    /// The events that extended a run-time measurement register, 0 to 3, in order.
    pub fn of(&self, rtmr: u32) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.index.checked_sub(1) == Some(rtmr))
    }
}

/// Reads the `TCG_PCClientPCREvent` header with its `TCG_EfiSpecIDEvent`; gives digest sizes by algorithm.
fn header(reader: &mut Reader<'_>) -> Result<BTreeMap<u16, usize>, Error> {
    reader.u32("header")?;
    let kind = reader.u32("header")?;
    reader.take(20, "header")?;
    let mut spec = Reader(reader.part32("header")?);
    if kind != EV_NO_ACTION || spec.take(SPEC_ID.len(), "header")? != SPEC_ID {
        return Err(Error::Value("header"));
    }
    spec.take(8, "version")?;
    let count = spec.u32("number of algorithms")?;
    if count > MAX_ALGORITHMS {
        return Err(Error::Value("number of algorithms"));
    }
    let mut sizes = BTreeMap::new();
    for _ in 0..count {
        let algorithm = spec.u16("algorithm")?;
        let size = usize::from(spec.u16("size of a digest")?);
        if size > 64 || (algorithm == SHA_384) != (size == 48) || sizes.insert(algorithm, size).is_some() {
            return Err(Error::Value("size of a digest"));
        }
    }
    if sizes.contains_key(&SHA_384) { Ok(sizes) } else { Err(Error::Value("log without SHA-384")) }
}

/// Reads one `TCG_PCR_EVENT2`.
fn event(reader: &mut Reader<'_>, sizes: &BTreeMap<u16, usize>, number: usize) -> Result<Event, Error> {
    let index = reader.u32("register")?;
    let kind = reader.u32("type")?;
    let count = reader.u32("number of digests")?;
    if (index > 4 && kind != EV_NO_ACTION) || count > MAX_ALGORITHMS {
        return Err(Error::Value("register or number of digests"));
    }
    let mut digest = None;
    for _ in 0..count {
        let algorithm = reader.u16("algorithm")?;
        let size = sizes.get(&algorithm).ok_or(Error::Value("algorithm"))?;
        let bytes = reader.take(*size, "digest")?;
        if algorithm == SHA_384 && digest.replace(bytes).is_some() {
            return Err(Error::Value("second digest"));
        }
    }
    let digest =
        digest.and_then(|bytes| bytes.try_into().ok()).map(Hex).ok_or(Error::Value("event without SHA-384"))?;
    let data = reader.part32("event")?.to_vec();
    Ok(Event { number, index, kind, digest, data })
}

/// Whether a log explains the registers of a genuine trust domain: it replays to them, and its digests are those of the
/// data it shows. A failure means that the log is worth nothing, not that the trust domain is bad.
pub fn check(log: &[u8], td: &Verified<Td>, checks: &mut Checks) -> Option<Ccel> {
    let log = match Ccel::parse(log) {
        Ok(log) => log,
        Err(error) => {
            checks.fails(clause::CCEL_STRUCTURE, &error.to_string());
            return None;
        }
    };
    checks.holds(clause::CCEL_STRUCTURE, "one whole log");
    let quoted = td.get().report.rtmr;
    for ((name, quoted), replayed) in clause::CCEL_RTMR.into_iter().zip(quoted).zip(log.replay()) {
        let (expected, actual) = (quoted.to_string(), replayed.to_string());
        checks.check(name, quoted == replayed, expected, actual, "the log's replay of the register");
    }
    let lies = log.events.iter().filter(|event| event.digest_matches_data() == Some(false));
    let lies = lies.map(|event| format!("event {} of register {}", event.number, event.index)).collect::<Vec<_>>();
    let shown = (!lies.is_empty()).then(|| lies.join(", "));
    checks.check(clause::CCEL_DATA, lies.is_empty(), None, shown, "digests of events are those of their data");
    Some(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::eventlog::tests::{self, header};

    const SHA384: (u16, u16) = (0x0c, 48);
    const ACTION: u32 = 5;

    fn event_of(index: u32, kind: u32, digests: &[(u16, u16)]) -> Vec<u8> {
        tests::event_of(index, kind, digests, b"x")
    }

    fn log(events: &[Vec<u8>]) -> Vec<u8> {
        [header(&[SHA384]), events.concat()].concat()
    }

    fn refused(bytes: &[u8]) -> Option<&'static str> {
        match Ccel::parse(bytes) {
            Ok(_) => None,
            Err(Error::Short(what) | Error::Value(what)) => Some(what),
        }
    }

    /// As many algorithms, SHA-384 the last.
    fn algorithms(count: u16) -> Vec<(u16, u16)> {
        (1..count).map(|number| (0x100 + number, 1)).chain([SHA384]).collect()
    }

    #[test]
    fn a_log_may_be_as_long_and_have_as_many_events_and_algorithms_as_the_bounds_say_and_no_more() {
        let one = || event_of(1, ACTION, &[SHA384]);
        let padded = |length| {
            let mut log = log(&[one()]);
            log.resize(length, 0xff);
            log
        };
        assert_eq!(Ccel::parse(&padded(MAX_BYTES)).unwrap().events.len(), 1);
        for more in [1, 2] {
            assert_eq!(refused(&padded(MAX_BYTES + more)), Some("length of the log"));
        }
        let many = |count| log(&vec![one(); count]);
        assert_eq!(Ccel::parse(&many(MAX_EVENTS)).unwrap().events.last().map(|event| event.number), Some(MAX_EVENTS));
        assert_eq!(refused(&many(MAX_EVENTS + 1)), Some("number of events"));
        for (count, wrong) in
            [(1, None), (8, None), (9, Some("number of algorithms")), (10, Some("number of algorithms"))]
        {
            let all = algorithms(count);
            assert_eq!(refused(&[header(&all), event_of(1, ACTION, &all)].concat()), wrong, "{count}");
        }
        for count in [9, 10] {
            let log = [header(&algorithms(8)), event_of(1, ACTION, &algorithms(count))].concat();
            assert_eq!(refused(&log), Some("register or number of digests"), "{count}");
        }
    }

    #[test]
    fn digests_have_the_sizes_of_their_algorithms() {
        const WRONG: Option<&str> = Some("size of a digest");
        for (algorithms, wrong) in [
            (&[SHA384, (0x0b, 32)][..], None),
            (&[SHA384, (0x0d, 64)], None),
            (&[SHA384, (0x0d, 65)], WRONG),
            (&[SHA384, (0x0d, 66)], WRONG),
            (&[SHA384, (0x0d, 48)], WRONG),
            (&[(0x0c, 32)], WRONG),
            (&[SHA384, SHA384], WRONG),
            (&[(0x0b, 32)], Some("log without SHA-384")),
            (&[], Some("log without SHA-384")),
        ] {
            assert_eq!(refused(&header(algorithms)), wrong, "{algorithms:?}");
        }
    }

    #[test]
    fn events_extend_a_register_that_a_trust_domain_has_or_none() {
        const WRONG: Option<&str> = Some("register or number of digests");
        for (index, kind, wrong, extending) in [
            (0, ACTION, None, 1),
            (4, ACTION, None, 1),
            (5, ACTION, WRONG, 0),
            (6, ACTION, WRONG, 0),
            (u32::MAX, ACTION, WRONG, 0),
            (4, EV_NO_ACTION, None, 0),
            (5, EV_NO_ACTION, None, 0),
            (u32::MAX, EV_NO_ACTION, None, 0),
        ] {
            let log = log(&[event_of(index, kind, &[SHA384])]);
            assert_eq!(refused(&log), wrong, "{index} {kind}");
            assert_eq!(Ccel::parse(&log).map_or(0, |log| log.events.len()), extending, "{index} {kind}");
        }
        let nine = event_of(1, EV_NO_ACTION, &algorithms(9));
        assert_eq!(refused(&[header(&algorithms(8)), nine].concat()), WRONG);
    }
}
