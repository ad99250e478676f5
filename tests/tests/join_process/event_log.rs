//! An event log altered in each field: it helps nobody in and keeps nobody out, and the owner reads what it is worth.

use constellation_attestation::protocol::Role;
use constellation_tests::agent::IMAGE;

use crate::{machine::Machine, refusal, scene::Scene};

/// `TPM_ALG_SHA256` and its digests' length.
const SHA256: (u16, u16) = (0x000b, 32);
/// `EV_NO_ACTION`, `EV_IPL` and `EV_EFI_BOOT_SERVICES_APPLICATION` (TCG PC Client Platform Firmware Profile, 10.4.1).
const NO_ACTION: u32 = 3;
const IPL: u32 = 0x0d;
const APPLICATION: u32 = 0x8000_0003;
/// What another image extends into PCR 11.
const OTHER: [u8; 32] = [0xbb; 32];

type Change = fn(&mut Log);

/// The fields of a crypto-agile log (TCG PC Client Platform Firmware Profile, 10.2 and 10.4).
#[derive(Clone)]
struct Log {
    header_type: u32,
    signature: Vec<u8>,
    algorithms: u32,
    bank: (u16, u16),
    events: Vec<Event>,
    end: Vec<u8>,
}

#[derive(Clone)]
struct Event {
    register: u32,
    kind: u32,
    digests: u32,
    algorithm: u16,
    digest: Vec<u8>,
    length: u32,
    data: Vec<u8>,
}

impl Event {
    fn new(register: u32, kind: u32, digest: [u8; 32], data: &[u8]) -> Self {
        let length = u32::try_from(data.len()).unwrap();
        let (digest, data) = (digest.to_vec(), data.to_vec());
        Self { register, kind, digests: 1, algorithm: SHA256.0, digest, length, data }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.register, self.kind, self.digests] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.algorithm.to_le_bytes());
        out.extend(&self.digest);
        out.extend(self.length.to_le_bytes());
        out.extend(&self.data);
    }
}

impl Log {
    /// What the firmware of a machine with this kernel writes.
    fn of(kernel: [u8; 32]) -> Self {
        let events = vec![
            Event::new(0, NO_ACTION, [0; 32], b"StartupLocality\0\0"),
            Event::new(4, APPLICATION, IMAGE[0].1, b"boot loader"),
            Event::new(11, IPL, kernel, b"kernel"),
        ];
        let signature = b"Spec ID Event03\0".to_vec();
        Self { header_type: NO_ACTION, signature, algorithms: 1, bank: SHA256, events, end: Vec::new() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = self.signature.clone();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        header.extend(self.algorithms.to_le_bytes());
        header.extend([self.bank.0.to_le_bytes(), self.bank.1.to_le_bytes()].concat());
        header.push(0);
        let mut out = 0_u32.to_le_bytes().to_vec();
        out.extend(self.header_type.to_le_bytes());
        out.extend([0; 20]);
        out.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
        out.extend(header);
        self.events.iter().for_each(|event| event.write(&mut out));
        out.extend(&self.end);
        out
    }
}

/// What the owner reads about the register.
const REPLAYS: &str = "the event log replays to this value";
const ALTERED: &str = "the event log does NOT replay to this value";
const UNREADABLE: &str = "the event log can't be read";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_altered_in_any_field_helps_nobody_in_and_keeps_nobody_out() {
    let (scene, mut good) = Scene::with_worker("log-fields").await.unwrap();
    let fields: [(&str, &str, Change); 17] = [
        ("nothing", REPLAYS, |_| {}),
        ("header-type", UNREADABLE, |log| log.header_type = IPL),
        ("signature", UNREADABLE, |log| log.signature[0] ^= 1),
        ("algorithms", UNREADABLE, |log| log.algorithms = 2),
        ("bank", UNREADABLE, |log| log.bank = (0x0012, 32)),
        ("size-of-digests", UNREADABLE, |log| log.bank.1 = 20),
        ("locality", REPLAYS, |log| log.events[0].data[16] = 3),
        ("register", ALTERED, |log| log.events[2].register = 12),
        ("no-register", UNREADABLE, |log| log.events[2].register = 24),
        ("type", ALTERED, |log| log.events[2].kind = NO_ACTION),
        ("digests", UNREADABLE, |log| log.events[2].digests = 2),
        ("algorithm", UNREADABLE, |log| log.events[2].algorithm = 0x0004),
        ("digest", ALTERED, |log| log.events[2].digest = vec![0x22; 32]),
        ("length", UNREADABLE, |log| log.events[2].length += 1),
        ("data", REPLAYS, |log| log.events[2].data = b"nicest".to_vec()),
        ("left-out", ALTERED, |log| drop(log.events.pop())),
        ("more", UNREADABLE, |log| log.end = vec![0, 1, 2]),
    ];
    for (field, expected, change) in fields {
        let altered = |kernel| {
            let mut log = Log::of(kernel);
            change(&mut log);
            log.bytes()
        };
        let log = altered(IMAGE[1].1);
        good.join_altered(scene.verifier, |_| {}, |evidence| evidence.event_log.clone_from(&log)).await.unwrap();

        let launch = scene.launch(field, Role::Worker);
        scene.announce(&launch).await.unwrap();
        let other = [IMAGE[0], (11, OTHER)];
        let mut bad = Machine::boot_like_measuring(&good, &launch, &other).unwrap();
        let log = altered(OTHER);
        let shown = |evidence: &mut constellation_attestation::protocol::Evidence| evidence.event_log.clone_from(&log);
        let id = refusal(bad.join_altered(scene.verifier, |_| {}, shown).await);
        scene.assert_told(&launch.node_uid, &id, &["tpm.pcr.11"]).await;
        let told = scene.status(&launch.node_uid).await.unwrap().last_appraisal.unwrap();
        assert!(told.mismatches[0].message.contains(expected), "{field}: {}", told.mismatches[0].message);
    }
}
