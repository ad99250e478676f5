//! Logs made here, for the bounds that no genuine log comes near.

use super::*;

const SHA256: (u16, u16) = (0x0b, 32);
const ACTION: u32 = 0x05;

fn sized(bytes: &[u8]) -> Vec<u8> {
    [u32::try_from(bytes.len()).unwrap().to_le_bytes().as_slice(), bytes].concat()
}

/// The header of a log with these algorithms and the sizes of their digests.
pub(crate) fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let count = u32::try_from(algorithms.len()).unwrap().to_le_bytes();
    let algorithms = algorithms.iter().flat_map(|(algorithm, size)| [algorithm.to_le_bytes(), size.to_le_bytes()]);
    let spec = [SPEC_ID, &[0; 8], &count, &algorithms.flatten().collect::<Vec<_>>()].concat();
    [&[0; 4][..], &EV_NO_ACTION.to_le_bytes(), &[0; 20], &sized(&spec)].concat()
}

pub(crate) fn event_of(pcr: u32, kind: u32, digests: &[(u16, u16)], data: &[u8]) -> Vec<u8> {
    let digests: Vec<_> =
        digests.iter().map(|(algorithm, size)| (algorithm.to_le_bytes(), vec![7; (*size).into()])).collect();
    let count = u32::try_from(digests.len()).unwrap();
    let digests: Vec<_> = digests.into_iter().flat_map(|(algorithm, digest)| [algorithm.to_vec(), digest]).collect();
    let head = [pcr, kind, count].map(u32::to_le_bytes).concat();
    [head, digests.concat(), sized(data)].concat()
}

fn event(pcr: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    event_of(pcr, kind, &[SHA256], data)
}

fn log(events: &[Vec<u8>]) -> Vec<u8> {
    [header(&[SHA256]), events.concat()].concat()
}

/// The member that isn't accepted.
fn refused(bytes: &[u8]) -> Option<&'static str> {
    match EventLog::parse(bytes) {
        Ok(_) => None,
        Err(Error::Value { what, .. } | Error::Short(what)) => Some(what),
        Err(Error::Trailing(_)) => Some("end"),
    }
}

/// As many algorithms, SHA-256 the last.
fn algorithms(count: u16) -> Vec<(u16, u16)> {
    (1..count).map(|number| (0x100 + number, 1)).chain([SHA256]).collect()
}

#[test]
fn a_log_may_be_as_long_and_have_as_many_events_and_algorithms_as_the_bounds_say_and_no_more() {
    let padded = |length| {
        let mut log = log(&[event(0, ACTION, b"x")]);
        log.resize(length, 0);
        log
    };
    assert_eq!(EventLog::parse(&padded(MAX_BYTES)).unwrap().events.len(), 1);
    assert_eq!(refused(&padded(MAX_BYTES + 1)), Some("length of the log"));
    assert_eq!(refused(&padded(MAX_BYTES + 2)), Some("length of the log"));

    let many = |count| log(&vec![event(0, ACTION, b"x"); count]);
    let numbers: Vec<_> = EventLog::parse(&many(MAX_EVENTS)).unwrap().events.iter().map(|e| e.number).collect();
    assert_eq!(numbers, (1..=MAX_EVENTS).collect::<Vec<_>>());
    assert_eq!(refused(&many(MAX_EVENTS + 1)), Some("number of events"));

    for (count, wrong) in [(1, None), (7, None), (8, None), (9, Some("numberOfAlgorithms"))] {
        let all = algorithms(count);
        assert_eq!(refused(&[header(&all), event_of(0, ACTION, &all, b"x")].concat()), wrong, "{count}");
    }
    assert_eq!(refused(&header(&[])), Some("numberOfAlgorithms"));
    let nine = event_of(0, ACTION, &algorithms(9), b"x");
    assert_eq!(refused(&[header(&algorithms(8)), nine].concat()), Some("digests.count"));
}

#[test]
fn digests_have_the_sizes_of_their_algorithms() {
    for (algorithms, wrong) in [
        (&[SHA256, (0x04, 20)][..], None),
        (&[SHA256, (0x0d, 64)], None),
        (&[SHA256, (0x0c, 48)], None),
        (&[SHA256, (0x0d, 65)], Some("digestSize")),
        (&[SHA256, (0x0c, 47)], Some("digestSize")),
        (&[(0x0b, 20)], Some("digestSize")),
        (&[SHA256, SHA256], Some("digestSize")),
        (&[(0x04, 20)], Some("algorithms without the bank, number")),
    ] {
        assert_eq!(refused(&header(algorithms)), wrong, "{algorithms:?}");
    }
}

#[test]
fn events_are_of_registers_that_a_tpm_has_or_of_none() {
    for (pcr, wrong) in [
        (0, None),
        (22, None),
        (23, None),
        (24, Some("pcrIndex")),
        (25, Some("pcrIndex")),
        (u32::MAX - 1, Some("pcrIndex")),
        (u32::MAX, None),
    ] {
        assert_eq!(refused(&log(&[event(pcr, EV_NO_ACTION, b"x")])), wrong, "{pcr}");
    }
}

#[test]
fn where_the_tpm_was_started_from_is_said_once_and_before_the_first_register_is_extended() {
    const WRONG: Option<&str> = Some("StartupLocality");
    let locality = |pcr, locality: &[u8]| event(pcr, EV_NO_ACTION, &[STARTUP_LOCALITY, locality].concat());
    for (events, wrong) in [
        (&[locality(0, &[3])][..], None),
        (&[event(1, ACTION, b"x"), locality(0, &[3])], None),
        (&[event(0, EV_NO_ACTION, b"x"), locality(0, &[3])], None),
        (&[locality(1, &[3])], WRONG),
        (&[locality(0, &[3]), locality(0, &[3])], WRONG),
        (&[locality(0, &[0]), locality(0, &[3])], WRONG),
        (&[event(0, ACTION, b"x"), locality(0, &[3])], WRONG),
        (&[locality(0, &[1])], WRONG),
        (&[locality(0, &[2])], WRONG),
        (&[locality(0, &[5])], WRONG),
        // Another event that begins like it.
        (&[locality(1, &[3, 0])], None),
    ] {
        assert_eq!(refused(&log(events)), wrong, "{events:?}");
    }
    for said in [0, 3, 4] {
        let log = EventLog::parse(&log(&[locality(0, &[said])])).unwrap();
        assert_eq!((log.startup_locality, log.replay(0).last().copied()), (said, Some(said)));
    }
}

#[test]
fn padding_is_at_least_eight_bytes_that_are_all_zero_or_all_ones() {
    for (rest, padding) in [
        (&[][..], true),
        (&[0; 8], true),
        (&[0xff; 9], true),
        (&[0; 7], false),
        (&[1; 8], false),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 1], false),
        (&[1, 0, 0, 0, 0, 0, 0, 0], false),
    ] {
        assert_eq!(is_padding(rest), padding, "{rest:?}");
    }
}

#[test]
fn data_are_shown_where_they_are_printable() {
    let long = "x".repeat(161);
    for (data, shown) in [
        (&b"two words"[..], Some("two words")),
        (b"even", Some("even")),
        (b"e\0v\0e\0n\0", Some("even")),
        (b"o\0", Some("o")),
        (b"word\0", Some("word")),
        (b"a\0b", None),
        (b"a\0b\x01", None),
        (b"a\0\xe9\0", None),
        (b"\x01\x02\x03", None),
        (b"line\n", None),
        (b"\0\0", None),
        (b"", None),
        (long.as_bytes(), Some(&long[1..])),
    ] {
        assert_eq!(text(data).as_deref(), shown, "{data:?}");
    }
}

#[test]
fn an_event_is_described_by_its_place_type_data_and_digest() {
    for (kind, name) in [
        (0x04, "EV_SEPARATOR"),
        (0x05, "EV_ACTION"),
        (0x06, "EV_EVENT_TAG"),
        (0x07, "EV_S_CRTM_CONTENTS"),
        (0x08, "EV_S_CRTM_VERSION"),
        (0x0d, "EV_IPL"),
        (0x0e, "EV_IPL_PARTITION_DATA"),
        (0x11, "EV_NONHOST_INFO"),
        (0x12, "EV_OMIT_BOOT_DEVICE_EVENTS"),
        (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
        (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
        (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
        (0x8000_0006, "EV_EFI_GPT_EVENT"),
        (0x8000_0007, "EV_EFI_ACTION"),
        (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
        (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
        (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
        (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
        (0x8000_00ff, "0x800000ff"),
    ] {
        let log = EventLog::parse(&log(&[event(0, kind, b"x")])).unwrap();
        assert_eq!(log.events[0].describe(), format!("event 1 {name} \"x\" 07070707"));
    }
}

#[test]
fn a_register_is_explained_by_its_first_sixteen_events_or_by_those_that_differ() {
    let of = |count| EventLog::parse(&log(&vec![event(0, ACTION, b"x"); count])).unwrap();
    for (count, tail) in [(1, ""), (16, ""), (17, " and 1 more"), (20, " and 4 more")] {
        let log = of(count);
        let said = log.explain(0, &log.replay(0), None);
        assert_eq!(said.matches("EV_ACTION").count(), count.min(16), "{said}");
        assert!(said.ends_with(&format!("07070707{tail}")), "{said}");
    }
    let log = of(2);
    let places = |expected: &[[u8; 32]]| {
        let said = log.explain(0, &log.replay(0), Some(expected));
        [1, 2].map(|number| said.contains(&format!("event {number} EV_ACTION \"x\" 07070707 stands")))
    };
    let (same, other) = ([7; 32], [8; 32]);
    assert_eq!(places(&[other, other]), [true, true]);
    assert_eq!(places(&[same, other]), [false, true]);
    // Behind an event that is missing all are other ones.
    assert_eq!(places(&[other, other, same]), [true, false]);
}
