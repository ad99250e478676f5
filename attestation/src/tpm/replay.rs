//! Checks an event log against register values: does it replay to them, and is what it says what was measured?

use super::{
    Hash, clause,
    eventlog::{EV_EFI_ACTION, EV_NO_ACTION, EV_SEPARATOR, Event, EventLog},
    quote::Values,
};
use crate::result::Checks;

/// Registers of the firmware, each handed over by a separator (PC Client Platform Firmware Profile 1.06, 3.3.4).
const FIRMWARE: std::ops::RangeInclusive<u32> = 0..=7;
/// Data of a separator: 0, or all ones in old firmware's (PC Client Platform Firmware Profile 1.06, 10.4.1). 1 says that
/// the firmware failed.
const HANDED_OVER: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
/// What firmware writes when the operating system takes over (PC Client Platform Firmware Profile 1.06, 8.2.4).
const EXITED: &[u8] = b"Exit Boot Services Returned with Success";
/// Events that only firmware before its separator writes: firmware volumes and configuration (same profile, 10.4.1).
const BEFORE_SEPARATOR: [u32; 7] = [0x01, 0x07, 0x08, 0x11, 0x8000_0001, 0x8000_0008, 0x8000_000a];
/// The register of Secure Boot. All that firmware measures there has its digest from its data (same profile, 3.3.4.8), so
/// an event of another type hides what it is of: types aren't measured.
const SECURE_BOOT: u32 = 7;
/// Data of a separator when the firmware failed.
const FAILED: [u8; 4] = 1_u32.to_le_bytes();

/// Checks a log for the bank of `values` against them. Only with this is a log's *data* worth reading: a log that
/// replays can still lie about what its digests are of.
pub fn check(log: &[u8], values: &Values, checks: &mut Checks) -> Option<EventLog> {
    let log = match EventLog::parse_for(values.bank, log) {
        Ok(log) => log,
        Err(e) => {
            checks.fails(clause::LOG_STRUCTURE, &format!("the event log can't be read: {e}"));
            return None;
        }
    };
    checks.holds(clause::LOG_STRUCTURE, "it is one whole crypto-agile log");
    if values.pcrs.is_empty() {
        checks.fails(clause::LOG_STRUCTURE, "there is no register to compare the log with");
    }
    for (pcr, value) in &values.pcrs {
        let replayed = log.replay(*pcr);
        let name = format!("{}{pcr}", clause::LOG_REPLAY);
        let (expected, actual) = (hex::encode(value), hex::encode(&replayed));
        checks.check(&name, replayed == *value, expected, actual, &log.explain(*pcr, value, None));
    }
    check_data(&log, checks);
    check_separators(&log, checks);
    Some(log)
}

/// Checks that the firmware handed over to an operating system and says so. Firmware of clouds does; that of some
/// workstations doesn't.
pub fn check_exit(log: &EventLog, checks: &mut Checks) {
    let exited = log.of(5).any(|e| e.kind == EV_EFI_ACTION && e.data == EXITED && is_of_data(log.bank, e));
    checks.check(clause::LOG_EXIT, exited, None, None, "the firmware measured that it left its boot services");
}

fn check_data(log: &EventLog, checks: &mut Checks) {
    let hidden = |e: &Event| e.pcr == SECURE_BOOT && e.kind != EV_NO_ACTION;
    let lies = log.events.iter().filter(|e| !e.digest_matches_data().unwrap_or(!hidden(e)));
    let lies: Vec<_> = lies.map(Event::describe).collect();
    let found = (!lies.is_empty()).then(|| lies.join(", "));
    checks.check(clause::LOG_DATA, lies.is_empty(), None, found, "digests of events are those of their data");
}

fn check_separators(log: &EventLog, checks: &mut Checks) {
    let mut handed_over = [false; 8];
    let mut wrong = Vec::new();
    for event in log.events.iter().filter(|e| FIRMWARE.contains(&e.pcr)) {
        let Some(over) = handed_over.get_mut(event.pcr as usize) else { continue };
        let second = *over && event.kind == EV_SEPARATOR;
        let late = *over && BEFORE_SEPARATOR.contains(&event.kind);
        let failed = event.kind == EV_SEPARATOR
            && !(HANDED_OVER.iter().any(|data| event.data == data) && is_of_data(log.bank, event));
        let disguised = event.kind != EV_SEPARATOR
            && is_separator(log.bank, event)
            && (event.pcr == SECURE_BOOT || is_of_data(log.bank, event));
        if second || late || failed || disguised {
            wrong.push(event.describe());
        }
        *over |= event.kind == EV_SEPARATOR;
    }
    let missing = FIRMWARE.zip(handed_over).filter(|(pcr, over)| log.events.iter().any(|e| e.pcr == *pcr) && !over);
    wrong.extend(missing.map(|(pcr, _)| format!("PCR {pcr} has none")));
    let found = (!wrong.is_empty()).then(|| wrong.join(", "));
    checks.check(clause::LOG_SEPARATOR, wrong.is_empty(), None, found, "each register of the firmware is closed once");
}

/// Whether an event extended its register by what separators extend it by, whatever its type says.
pub(crate) fn is_separator(bank: Hash, event: &Event) -> bool {
    HANDED_OVER.iter().chain([&FAILED]).any(|data| bank.digest(&[data]) == event.digest)
}

fn is_of_data(bank: Hash, event: &Event) -> bool {
    bank.digest(&[&event.data]) == event.digest
}
