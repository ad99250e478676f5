//! The firmware's event log (TCG PC Client Platform Firmware Profile 1.06, 10): it explains a register and proves nothing.

use std::collections::BTreeMap;

use super::{Error, Hash};

/// Greatest log, bytes: cloud VMs write about 60 KiB.
pub const MAX_BYTES: usize = 512 * 1024;
/// Greatest number of events.
pub const MAX_EVENTS: usize = 4096;
/// `EV_NO_ACTION`: extends nothing.
pub(crate) const EV_NO_ACTION: u32 = 0x03;
/// `EV_SEPARATOR`: firmware hands a register to the operating system.
pub(super) const EV_SEPARATOR: u32 = 0x04;
const EV_ACTION: u32 = 0x05;
const EV_S_CRTM_VERSION: u32 = 0x08;
/// `EV_NONHOST_INFO`: what the platform says of itself.
pub(crate) const EV_NONHOST_INFO: u32 = 0x11;
const EV_OMIT_BOOT_DEVICE_EVENTS: u32 = 0x12;
const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
const EV_EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
/// `EV_EFI_ACTION`.
pub(super) const EV_EFI_ACTION: u32 = 0x8000_0007;
const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
/// Start of the event that a crypto-agile log begins with (10.2.1).
pub(crate) const SPEC_ID: &[u8] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// Localities that a TPM can be started from, and the one of a measured start before it (10.4.5.3).
const LOCALITIES: [u8; 3] = [0, 3, 4];
const MAX_ALGORITHMS: u32 = 8;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Place in the log, from 0 (the header).
    pub number: usize,
    /// Register.
    pub pcr: u32,
    /// Type.
    pub kind: u32,
    /// Digest for the bank that the log is read for.
    pub digest: Vec<u8>,
    /// The event's data; only a hint about what was digested.
    pub data: Vec<u8>,
}

/// A log, read for one bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    /// The bank.
    pub bank: Hash,
    /// Events after the header, in order.
    pub events: Vec<Event>,
    /// Locality that started the TPM: the value PCR 0 began with.
    pub startup_locality: u8,
}

impl EventLog {
    /// Parses a crypto-agile log that has a SHA-256 bank.
    ///
    /// # Errors
    /// When it is too large, cut off, of the old SHA-1 form, or without SHA-256.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse_for(Hash::Sha256, bytes)
    }

    /// Parses a crypto-agile log for a bank. Padding that fills the rest of the log with one byte, as in the area of a
    /// confidential VM's log (ACPI 6.5, 5.2.34 CCEL), isn't an event.
    ///
    /// # Errors
    /// When it is too large, cut off, of the old SHA-1 form, or without the bank.
    pub fn parse_for(bank: Hash, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Value { what: "length of the log", value: bytes.len() as u64 });
        }
        let mut reader = Little(bytes);
        let sizes = header(&mut reader, bank)?;
        let mut log = Self { bank, events: Vec::new(), startup_locality: 0 };
        let mut located = false;
        while !is_padding(reader.0) {
            let number = log.events.len() + 1;
            if number > MAX_EVENTS {
                return Err(Error::Value { what: "number of events", value: number as u64 });
            }
            let pcr = reader.u32("pcrIndex")?;
            if pcr > 23 && pcr != u32::MAX {
                return Err(Error::Value { what: "pcrIndex", value: pcr.into() });
            }
            let kind = reader.u32("eventType")?;
            let count = reader.u32("digests.count")?;
            if count > MAX_ALGORITHMS {
                return Err(Error::Value { what: "digests.count", value: count.into() });
            }
            let mut digests = BTreeMap::new();
            for _ in 0..count {
                let algorithm = reader.u16("digest.hashAlg")?;
                let size =
                    *sizes.get(&algorithm).ok_or(Error::Value { what: "digest.hashAlg", value: algorithm.into() })?;
                if digests.insert(algorithm, reader.take(size, "digest")?).is_some() {
                    return Err(Error::Value { what: "repeated digest.hashAlg", value: algorithm.into() });
                }
            }
            let size = reader.u32("eventSize")?;
            let data = reader.take(usize::try_from(size).map_err(|_| Error::Short("event"))?, "event")?;
            if kind == EV_NO_ACTION
                && let Some([locality]) = data.strip_prefix(STARTUP_LOCALITY)
            {
                // Once, of register 0 and before that is extended: else it explains another value than the TPM began with.
                let late = located || pcr != 0 || log.of(0).next().is_some();
                if late || !LOCALITIES.contains(locality) {
                    return Err(Error::Value { what: "StartupLocality", value: u64::from(*locality) });
                }
                (log.startup_locality, located) = (*locality, true);
            }
            let digest = digests.get(&bank.id()).ok_or(Error::Short("digest of the bank"))?.to_vec();
            log.events.push(Event { number, pcr, kind, digest, data: data.to_vec() });
        }
        Ok(log)
    }

    /// Value of a register after all events of the log.
    #[must_use]
    pub fn replay(&self, pcr: u8) -> Vec<u8> {
        let mut value = vec![0; self.bank.size()];
        if pcr == 0
            && let Some(last) = value.last_mut()
        {
            *last = self.startup_locality;
        }
        self.of(pcr).fold(value, |value, event| self.bank.digest(&[&value, &event.digest]))
    }

    /// The events that extended a register.
    pub fn of(&self, pcr: u8) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |e| e.pcr == u32::from(pcr) && e.kind != EV_NO_ACTION)
    }

    /// In words, what was measured into a register whose quoted value is `actual`: the events that differ from the
    /// `expected` digests where those are known, else all.
    #[must_use]
    pub fn explain(&self, pcr: u8, actual: &[u8], expected: Option<&[[u8; 32]]>) -> String {
        const SHOWN: usize = 16;
        let events: Vec<_> = self.of(pcr).map(Event::describe).collect();
        let replayed = if self.replay(pcr) == actual {
            "the event log replays to this value"
        } else {
            "the event log does NOT replay to this value: something was measured after the firmware, or the log was altered"
        };
        if events.is_empty() {
            return format!("{replayed}; it has no event for PCR {pcr}");
        }
        if let Some(differing) = expected.map(|expected| self.differing(pcr, expected)).filter(|d| !d.is_empty()) {
            return format!("{replayed}; {}", differing.join(", "));
        }
        let more = events.len().saturating_sub(SHOWN);
        let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{replayed}: {}{tail}", events.into_iter().take(SHOWN).collect::<Vec<_>>().join(", "))
    }

    /// The events that aren't the expected ones, in words; what follows an event too many or too few is left out.
    fn differing(&self, pcr: u8, expected: &[[u8; 32]]) -> Vec<String> {
        let events: Vec<_> = self.of(pcr).collect();
        let short = |digest: &[u8; 32]| hex::encode(&digest[..4]);
        let pairs = events.iter().zip(expected).filter(|(event, wanted)| event.digest != wanted.as_slice());
        let mut differing: Vec<_> = pairs
            .map(|(event, wanted)| format!("{} stands where {} was expected", event.describe(), short(wanted)))
            .collect();
        if events.len() != expected.len() {
            differing.truncate(1);
        }
        if differing.is_empty() {
            differing.extend(events.get(expected.len()).map(|event| format!("{} is one too many", event.describe())));
            differing.extend(
                expected.get(events.len()).map(|wanted| format!("the event {} is missing at the end", short(wanted))),
            );
        }
        differing
    }
}

impl Event {
    /// For people: place, type, what its data says, and the start of its digest.
    #[must_use]
    pub fn describe(&self) -> String {
        let what = text(&self.data).map(|t| format!(" \"{t}\"")).unwrap_or_default();
        format!(
            "event {} {}{what} {}",
            self.number,
            self.kind_name(),
            hex::encode(self.digest.get(..4).unwrap_or_default())
        )
    }

    /// Whether the digest is one of the data, for the types where the profile says so and EDK2 does so (it digests only
    /// the value of `EV_EFI_VARIABLE_BOOT`).
    #[must_use]
    pub fn digest_matches_data(&self) -> Option<bool> {
        let bank = [Hash::Sha256, Hash::Sha384].into_iter().find(|hash| hash.size() == self.digest.len())?;
        let of = |data: &[u8]| bank.digest(&[data]) == self.digest;
        match self.kind {
            EV_SEPARATOR
            | EV_ACTION
            | EV_S_CRTM_VERSION
            | EV_NONHOST_INFO
            | EV_OMIT_BOOT_DEVICE_EVENTS
            | 0x8000_0001
            | 0x8000_0006
            | EV_EFI_ACTION
            | EV_EFI_VARIABLE_BOOT2 => Some(of(&self.data)),
            EV_EFI_VARIABLE_BOOT => Some(of(&self.data) || value_of(&self.data).is_some_and(of)),
            // Some shims write one byte more than they digest.
            EV_EFI_VARIABLE_AUTHORITY => {
                Some(of(&self.data) || self.data.split_last().is_some_and(|(_, digested)| of(digested)))
            }
            _ => None,
        }
    }

    fn kind_name(&self) -> String {
        let name = match self.kind {
            EV_SEPARATOR => "EV_SEPARATOR",
            EV_ACTION => "EV_ACTION",
            0x06 => "EV_EVENT_TAG",
            0x07 => "EV_S_CRTM_CONTENTS",
            EV_S_CRTM_VERSION => "EV_S_CRTM_VERSION",
            0x0d => "EV_IPL",
            EV_NONHOST_INFO => "EV_NONHOST_INFO",
            0x0e => "EV_IPL_PARTITION_DATA",
            0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
            EV_OMIT_BOOT_DEVICE_EVENTS => "EV_OMIT_BOOT_DEVICE_EVENTS",
            EV_EFI_VARIABLE_BOOT => "EV_EFI_VARIABLE_BOOT",
            EV_EFI_VARIABLE_BOOT2 => "EV_EFI_VARIABLE_BOOT2",
            0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
            0x8000_0006 => "EV_EFI_GPT_EVENT",
            EV_EFI_ACTION => "EV_EFI_ACTION",
            0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
            0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
            EV_EFI_VARIABLE_AUTHORITY => "EV_EFI_VARIABLE_AUTHORITY",
            other => return format!("{other:#x}"),
        };
        name.to_owned()
    }
}

/// The value of a variable (`UEFI_VARIABLE_DATA`, PC Client Platform Firmware Profile 1.06, 10.4.2.1): a GUID of 16 bytes,
/// the name's length in characters of two bytes, the value's length in bytes, both.
fn value_of(data: &[u8]) -> Option<&[u8]> {
    let mut reader = Little(data.get(16..)?);
    let (name, value) = (reader.u64("name's length").ok()?, reader.u64("value's length").ok()?);
    reader.take(usize::try_from(name).ok()?.checked_mul(2)?, "name").ok()?;
    reader.take(usize::try_from(value).ok()?, "value").ok()
}

/// Reads the `TCG_PCClientPCREvent` header with its `TCG_EfiSpecIDEvent`; gives digest sizes by algorithm.
fn header(reader: &mut Little<'_>, bank: Hash) -> Result<BTreeMap<u16, usize>, Error> {
    reader.u32("header.pcrIndex")?;
    let kind = reader.u32("header.eventType")?;
    reader.take(20, "header.digest")?;
    let size = reader.u32("header.eventSize")?;
    let event = reader.take(usize::try_from(size).map_err(|_| Error::Short("header"))?, "header")?;
    let mut spec = Little(event);
    if kind != EV_NO_ACTION || spec.take(SPEC_ID.len(), "signature")? != SPEC_ID {
        return Err(Error::Value { what: "header (only crypto-agile logs are read); its type", value: kind.into() });
    }
    spec.take(8, "version")?;
    let count = spec.u32("numberOfAlgorithms")?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(Error::Value { what: "numberOfAlgorithms", value: count.into() });
    }
    let mut sizes = BTreeMap::new();
    for _ in 0..count {
        let algorithm = spec.u16("algorithmId")?;
        let size = spec.u16("digestSize")?;
        let known = Hash::from_id(algorithm).is_ok_and(|hash| hash.size() != usize::from(size));
        if size > 64 || known || sizes.insert(algorithm, size.into()).is_some() {
            return Err(Error::Value { what: "digestSize", value: size.into() });
        }
    }
    if !sizes.contains_key(&bank.id()) {
        return Err(Error::Value { what: "algorithms without the bank, number", value: count.into() });
    }
    Ok(sizes)
}

/// Nothing, or one byte over and over that no event can start with.
pub(crate) fn is_padding(rest: &[u8]) -> bool {
    rest.first().is_none_or(|first| matches!(first, 0 | 0xff) && rest.len() >= 8 && rest.iter().all(|b| b == first))
}

/// Printable text in an event's data, ASCII or UTF-16, at most 160 characters.
fn text(data: &[u8]) -> Option<String> {
    let wide = data.len().is_multiple_of(2) && data.chunks_exact(2).all(|pair| pair[1] == 0);
    let text: String = if wide {
        data.iter().step_by(2).copied().map(char::from).collect()
    } else {
        String::from_utf8(data.to_vec()).ok()?
    };
    let text = text.trim_end_matches('\0');
    let printable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    printable.then(|| text.chars().take(160).collect())
}

/// Reads little-endian members.
struct Little<'a>(&'a [u8]);

impl<'a> Little<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(Error::Short(what))?;
        self.0 = tail;
        Ok(head)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.take(2, what)?.try_into().map_err(|_| Error::Short(what))?))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.take(4, what)?.try_into().map_err(|_| Error::Short(what))?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.take(8, what)?.try_into().map_err(|_| Error::Short(what))?))
    }
}

#[cfg(test)]
pub(crate) mod tests;
