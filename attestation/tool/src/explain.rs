//! `explain-eventlog`: what a firmware measured, register by register, and whether that is what was quoted.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use constellation_attestation::{
    result::Checks,
    tpm::{self, Hash, eventlog::EventLog},
};
use serde::Serialize;

use crate::{
    cases,
    input::{self, Error},
    registers,
};

/// Registers that a log can explain: those that firmware and loaders extend.
const REGISTERS: std::ops::Range<u8> = 0..24;

/// A log, explained.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Locality that started the TPM; absent where the log can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_locality: Option<u8>,
    /// Registers that the log extends: number to value after its events, hex.
    pub registers: BTreeMap<u8, String>,
    /// The events, in order.
    pub events: Vec<Event>,
    /// How the registers compare with the expected ones, if some were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
}

/// One event.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Place in the log.
    pub number: usize,
    /// Register.
    pub pcr: u32,
    /// Digest of the bank that is looked at, hex.
    pub digest: String,
    /// Type and data in words.
    pub description: String,
    /// Whether the digest is one of the data; absent where the event's type doesn't promise that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_matches_data: Option<bool>,
}

impl Explained {
    /// Whether the log is as expected, as far as something was expected.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.checks.as_ref().is_none_or(Checks::accepted)
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (register, value) in &self.registers {
            let _ = writeln!(text, "PCR {register:2} {value}");
            for event in self.events.iter().filter(|event| event.pcr == u32::from(*register)) {
                let warning = match event.digest_matches_data {
                    Some(false) => "  DATA DIFFERS FROM WHAT WAS DIGESTED",
                    _ => "",
                };
                let _ = writeln!(text, "  {}{warning}", event.description);
            }
        }
        if let Some(checks) = &self.checks {
            text.push_str(&crate::output::checks(checks));
        }
        text
    }
}

/// Explains the log in a file; `expected` names registers to compare with, as `file#key`. A log that can't be read is
/// explained by no event, and refused.
///
/// # Errors
/// When a file can't be read, or the log can't be parsed and nothing was expected of it.
pub fn run(log: &Path, expected: Option<&str>) -> Result<Explained, Error> {
    let bytes = input::read(log)?;
    let expected = expected.map(|reference| registers::read(Path::new(""), reference)).transpose()?;
    let bank = expected.as_ref().and_then(|banks| banks.all().next()).map_or(Hash::Sha256, |values| values.bank);
    let checks = expected.map(|expected| {
        let mut checks = Checks::default();
        cases::replayed(&bytes, &expected, &mut checks);
        checks
    });
    let parsed = match (EventLog::parse_for(bank, &bytes), &checks) {
        (Ok(parsed), _) => parsed,
        (Err(error), None) => return Err(Error::value(log.display().to_string(), &error)),
        (Err(_), Some(_)) => {
            return Ok(Explained { startup_locality: None, registers: BTreeMap::new(), events: Vec::new(), checks });
        }
    };
    let registers = REGISTERS.filter(|register| parsed.of(*register).next().is_some());
    let event = |event: &tpm::eventlog::Event| Event {
        number: event.number,
        pcr: event.pcr,
        digest: hex::encode(&event.digest),
        description: event.describe(),
        digest_matches_data: event.digest_matches_data(),
    };
    Ok(Explained {
        startup_locality: Some(parsed.startup_locality),
        registers: registers.map(|register| (register, hex::encode(parsed.replay(register)))).collect(),
        events: parsed.events.iter().map(event).collect(),
        checks,
    })
}
