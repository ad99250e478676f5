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

#[cfg(test)]
mod tests {
    use super::*;

    const ACTION: u32 = 0x05;
    const UNUSED: u32 = 0x02;
    const BLOB: u32 = 0x8000_0008;
    const ENDS: [u8; 4] = [0; 4];

    /// Events of a register: type, data, and what was digested.
    type Events<'a> = &'a [(u32, &'a [u8], &'a [u8])];

    fn log(pcr: u32, events: Events<'_>) -> EventLog {
        let event = |(number, (kind, data, digested)): (usize, &(u32, &[u8], &[u8]))| Event {
            number: number + 1,
            pcr,
            kind: *kind,
            digest: Hash::Sha256.digest(&[digested]),
            data: data.to_vec(),
        };
        EventLog { bank: Hash::Sha256, events: events.iter().enumerate().map(event).collect(), startup_locality: 0 }
    }

    /// What a clause says of a log: nothing, if it holds.
    fn said(log: &EventLog, check: fn(&EventLog, &mut Checks)) -> Option<String> {
        let mut checks = Checks::default();
        check(log, &mut checks);
        assert_eq!(checks.clauses().len(), 1);
        let wrong = checks.failures().next().map(|clause| clause.actual.clone().unwrap_or_default());
        assert!(wrong.is_some() || checks.clauses()[0].actual.is_none());
        wrong
    }

    /// Places of the events that are named, and what else is said.
    fn named(said: Option<&str>) -> Vec<String> {
        let place = |text: &str| text.strip_prefix("event ").and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        let texts = said.into_iter().flat_map(|text| text.split(", "));
        texts.map(|text| place(text).unwrap_or_else(|| text.to_owned())).collect()
    }

    #[test]
    fn a_register_of_the_firmware_is_closed_once_and_openly() {
        let end = (EV_SEPARATOR, &ENDS[..], &ENDS[..]);
        let action = (ACTION, &b"x"[..], &b"x"[..]);
        let blob = (BLOB, &b"x"[..], &b"y"[..]);
        for (pcr, events, wrong) in [
            (0, &[blob, end, action][..], &[][..]),
            (7, &[action, (EV_SEPARATOR, &[0xff; 4], &[0xff; 4])], &[]),
            (0, &[end, end], &["2"]),
            (0, &[end, end, end], &["2", "3"]),
            (0, &[end, blob], &["2"]),
            (0, &[blob, action], &["PCR 0 has none"]),
            (7, &[action], &["PCR 7 has none"]),
            (8, &[action], &[]),
            (8, &[end, end], &[]),
            // The firmware failed; or says that it ended and extended by something else; or ended with other words.
            (0, &[(EV_SEPARATOR, &FAILED, &FAILED)], &["1"]),
            (0, &[(EV_SEPARATOR, &ENDS, b"x")], &["1"]),
            (0, &[(EV_SEPARATOR, b"x", b"x")], &["1"]),
            (0, &[(EV_SEPARATOR, b"x", &ENDS)], &["1"]),
            // A separator that is called something else.
            (0, &[(ACTION, &ENDS, &ENDS), end], &["1"]),
            (0, &[(ACTION, &FAILED, &FAILED), end], &["1"]),
            (7, &[(UNUSED, b"x", &ENDS), end], &["1"]),
            (7, &[(UNUSED, b"x", &FAILED), end], &["1"]),
            (0, &[(UNUSED, b"x", &ENDS), end], &[]),
            (0, &[(ACTION, &ENDS, b"x"), end], &[]),
        ] {
            assert_eq!(named(said(&log(pcr, events), check_separators).as_deref()), wrong, "{pcr} {events:?}");
        }
    }

    #[test]
    fn only_the_registers_that_have_events_want_a_separator_each() {
        let mut both = log(0, &[(EV_SEPARATOR, &ENDS, &ENDS)]);
        both.events.extend(log(1, &[(ACTION, b"x", b"x")]).events);
        assert_eq!(named(said(&both, check_separators).as_deref()), ["PCR 1 has none"]);
        assert_eq!(said(&log(0, &[]), check_separators), None);
    }

    #[test]
    fn an_event_of_other_data_than_it_shows_is_named_and_so_is_one_of_secure_boot_that_hides_them() {
        for (pcr, event, wrong) in [
            (0, (ACTION, &b"x"[..], &b"x"[..]), &[][..]),
            (0, (ACTION, b"x", b"y"), &["1"]),
            (0, (UNUSED, b"x", b"y"), &[]),
            (7, (UNUSED, b"x", b"x"), &["1"]),
            (7, (EV_NO_ACTION, b"x", b"y"), &[]),
            (7, (ACTION, b"x", b"x"), &[]),
        ] {
            assert_eq!(named(said(&log(pcr, &[event]), check_data).as_deref()), wrong, "{pcr} {event:?}");
        }
    }

    #[test]
    fn the_firmware_left_only_if_it_measured_that_it_did() {
        let exit = |pcr, event| {
            let mut checks = Checks::default();
            check_exit(&log(pcr, &[event]), &mut checks);
            checks.accepted()
        };
        assert!(exit(5, (EV_EFI_ACTION, EXITED, EXITED)));
        for (pcr, event) in [
            (4, (EV_EFI_ACTION, EXITED, EXITED)),
            (5, (ACTION, EXITED, EXITED)),
            (5, (EV_EFI_ACTION, b"x", b"x")),
            (5, (EV_EFI_ACTION, EXITED, b"x")),
            (5, (EV_EFI_ACTION, b"x", EXITED)),
        ] {
            assert!(!exit(pcr, event), "{event:?}");
        }
    }
}
