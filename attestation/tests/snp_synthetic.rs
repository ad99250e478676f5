//! One thing wrong at a time, on processors and clouds' keys that a test's own AMD makes: each is refused, and for that
//! reason only.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use constellation_attestation::{
    bytes::Hex,
    reference::Requirement,
    snp::{
        Evidence, KeyKind, Policy, Product, Revocation, Tcb, clause,
        policy::Bits,
        tcb::{PerProduct, RawTcb},
        verify_and_appraise,
    },
};

mod snp_factory;

use snp_factory::{Amd, CSP, MEASUREMENT, SIGNED, Scheme, Template, Who, der};

const NOW: &str = "2026-11-20T00:00:00Z";
const DATA: [u8; 64] = [0x0d; 64];
const KINDS: [KeyKind; 2] = [KeyKind::Vcek, KeyKind::Vlek];

/// Places in a report, bytes.
mod place {
    pub const POLICY: usize = 0x08;
    pub const VMPL: usize = 0x30;
    pub const ALGORITHM: usize = 0x34;
    pub const CURRENT_TCB: usize = 0x38;
    pub const PLATFORM: usize = 0x40;
    pub const KEY_INFO: usize = 0x48;
    pub const HOST_DATA: usize = 0xc0;
    pub const ID_KEY: usize = 0xe0;
    pub const AUTHOR_KEY: usize = 0x110;
    pub const REPORT_ID_MA: usize = 0x160;
    pub const REPORTED_TCB: usize = 0x180;
    pub const CPUID: usize = 0x188;
    pub const CHIP: usize = 0x1a0;
    pub const COMMITTED_TCB: usize = 0x1e0;
    pub const LAUNCH_TCB: usize = 0x1f0;
    pub const MITIGATIONS: usize = 0x1f8;
}

/// As an owner would write it who knows the guest; floors are what the factory's processors have.
fn policy() -> Policy {
    let floors = || {
        let floor = |text: &str| text.parse::<Tcb>().unwrap();
        PerProduct::at_least([
            (Product::Milan, floor(snp_factory::TCB)),
            (Product::Genoa, floor("bl=10,tee=0,snp=23,ucode=84")),
            (Product::Turin, floor("bl=1,tee=1,snp=4,ucode=81,fmc=1")),
        ])
    };
    Policy {
        key: Requirement::AnyOf(KINDS.to_vec()),
        csp_id: Requirement::Exact(CSP.into()),
        measurement: Requirement::Exact(Hex(MEASUREMENT)),
        report_data: Requirement::Exact(Hex(DATA)),
        reported_tcb: floors(),
        committed_tcb: floors(),
        launch_tcb: floors(),
        ..Policy::strict()
    }
}

/// A change of a report.
type Change = Box<dyn Fn(&mut Vec<u8>)>;

/// What is made and shown.
struct Scene {
    amd: Template,
    version: u8,
    /// Changes the report before it is signed.
    body: Change,
    /// Changes it afterwards.
    signed: Change,
    /// Whether the list of revocations is shown.
    crl: bool,
    now: &'static str,
}

impl Scene {
    fn good(product: Product, kind: KeyKind, version: u8) -> Self {
        let amd = Template::good(product, kind);
        Self { amd, version, body: Box::new(|_| ()), signed: Box::new(|_| ()), crl: true, now: NOW }
    }

    fn failures(&self, policy: &Policy) -> BTreeSet<String> {
        let amd = Amd::made(&self.amd);
        let mut report = amd.unsigned(self.version, &DATA);
        (self.body)(&mut report);
        amd.sign(&mut report);
        (self.signed)(&mut report);
        let (vek, intermediate, crl) = (amd.vek(), amd.intermediate(), amd.crl());
        let crl = self.crl.then_some(crl.as_slice());
        let evidence = Evidence { report: &report, vek: &vek, intermediate: &intermediate, crl };
        let checks = verify_and_appraise(&evidence, &amd.anchors(), policy, self.now.parse().unwrap());
        assert_eq!(checks.accepted(), checks.failures().next().is_none());
        checks.failures().map(|clause| clause.name.clone()).collect()
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Makes one thing wrong with an otherwise good scene; exactly these clauses must fail.
fn refused_of(mut scene: Scene, what: &str, wrong: impl FnOnce(&mut Scene), wanted: &[&str]) {
    wrong(&mut scene);
    assert_eq!(scene.failures(&policy()), set(wanted), "{what}");
}

fn refused(what: &str, wrong: impl FnOnce(&mut Scene), wanted: &[&str]) {
    refused_of(Scene::good(Product::Milan, KeyKind::Vcek, 3), what, wrong, wanted);
}

/// Writes bytes into the report before it is signed.
fn with(at: usize, bytes: &'static [u8]) -> impl Fn(&mut Scene) {
    move |scene| scene.body = Box::new(move |report| report[at..at + bytes.len()].copy_from_slice(bytes))
}

/// Flips a bit of the report before it is signed.
fn bit(at: usize, bit: usize) -> impl Fn(&mut Scene) {
    move |scene| scene.body = Box::new(move |report| report[at + bit / 8] ^= 1 << (bit % 8))
}

#[test]
fn each_product_key_and_version_is_accepted_when_nothing_is_wrong() {
    for product in Product::ALL {
        for kind in KINDS {
            for version in 2..=5 {
                let failures = Scene::good(product, kind, version).failures(&policy());
                assert_eq!(failures, set(&[]), "{product} {kind} version {version}");
            }
        }
    }
    for version in [0, 1, 6, 255] {
        refused("version", |s| s.version = version, &[clause::REPORT_VERSION]);
    }
}

#[test]
fn each_yes_or_no_of_a_policy_is_met_by_one_of_both() {
    for (name, at, place) in [
        (clause::POLICY_SMT, place::POLICY, 16),
        (clause::POLICY_MIGRATION, place::POLICY, 18),
        (clause::POLICY_DEBUG, place::POLICY, 19),
        (clause::POLICY_SINGLE_SOCKET, place::POLICY, 20),
        (clause::POLICY_CXL, place::POLICY, 21),
        (clause::POLICY_AES_256_XTS, place::POLICY, 22),
        (clause::POLICY_RAPL_DISABLED, place::POLICY, 23),
        (clause::POLICY_CIPHERTEXT_HIDING, place::POLICY, 24),
        (clause::POLICY_PAGE_SWAP_DISABLED, place::POLICY, 25),
        (clause::PLATFORM_SMT, place::PLATFORM, 0),
        (clause::PLATFORM_TSME, place::PLATFORM, 1),
        (clause::PLATFORM_ECC, place::PLATFORM, 2),
        (clause::PLATFORM_RAPL_DISABLED, place::PLATFORM, 3),
        (clause::PLATFORM_CIPHERTEXT_HIDING, place::PLATFORM, 4),
        (clause::PLATFORM_ALIAS_CHECK, place::PLATFORM, 5),
        (clause::PLATFORM_TIO, place::PLATFORM, 7),
    ] {
        let is_set = name == clause::PLATFORM_ALIAS_CHECK;
        let mut policy = policy();
        *policy.switch(name).unwrap() = Requirement::Exact(is_set);
        let mut scene = Scene::good(Product::Genoa, KeyKind::Vcek, 5);
        assert_eq!(scene.failures(&policy), set(&[]), "{name}");
        bit(at, place)(&mut scene);
        assert_eq!(scene.failures(&policy), set(&[name]), "{name}");
        // The other way round, the other one is refused.
        *policy.switch(name).unwrap() = Requirement::Exact(!is_set);
        if name != clause::POLICY_MIGRATION {
            assert_eq!(scene.failures(&policy), set(&[]), "{name}");
        }
    }
}

#[test]
fn what_the_default_does_not_let_be_is_refused_by_its_name() {
    refused("debug", bit(place::POLICY, 19), &[clause::POLICY_DEBUG]);
    refused("migration", bit(place::POLICY, 18), &[clause::POLICY_MIGRATION]);
    refused("a migration agent", bit(place::REPORT_ID_MA, 255), &[clause::REPORT_ID_MA]);
    refused("CXL", bit(place::POLICY, 21), &[clause::POLICY_CXL]);
    refused("bit 17 is zero", bit(place::POLICY, 17), &[clause::POLICY_RESERVED]);
    for unknown in [26, 31, 32, 63] {
        refused("an unknown bit", bit(place::POLICY, unknown), &[clause::POLICY_UNKNOWN]);
    }
    refused("no check for aliases", bit(place::PLATFORM, 5), &[clause::PLATFORM_ALIAS_CHECK]);
    // Bits of the platform and reserved bytes may come to mean something that no policy asks about.
    for later in [6, 8, 63] {
        refused("a later bit", bit(place::PLATFORM, later), &[]);
    }
    for reserved in [0x4c, 0x18b, 0x1eb, 0x208, 0x29f] {
        refused("a reserved byte", bit(reserved, 0), &[]);
    }
    refused("host data", with(place::HOST_DATA + 31, &[1]), &[clause::HOST_DATA]);
    refused("an identity", with(place::ID_KEY, &[1]), &[clause::ID_KEY_DIGEST]);
}

#[test]
fn the_host_never_asks_for_a_guest() {
    for level in [1_u32, 2, 3, 4, 255, u32::MAX] {
        let at = |s: &mut Scene| {
            s.body = Box::new(move |report| report[place::VMPL..][..4].copy_from_slice(&level.to_le_bytes()));
        };
        refused("level", at, &[clause::VMPL]);
        let mut scene = Scene::good(Product::Milan, KeyKind::Vcek, 3);
        at(&mut scene);
        let mut lax = policy();
        assert!(lax.waive(clause::VMPL, "test"));
        assert_eq!(scene.failures(&lax).is_empty(), level <= 3, "{level}");
    }
}

#[test]
fn who_signed_is_who_the_report_says() {
    let info = |value: u8| move |s: &mut Scene| s.body = Box::new(move |report| report[place::KEY_INFO] = value);
    for other in 1..=7 {
        refused("another kind of key", info(other << 2), &[clause::SIGNING_KEY]);
    }
    // The firmware signs nothing with a processor's key that is masked (AMD document 56860, 7.3).
    refused("a masked key", info(2), &[clause::SIGNING_KEY]);
    let cloud = || Scene::good(Product::Milan, KeyKind::Vlek, 3);
    refused_of(cloud(), "a masked key, and a cloud's that signed", info(1 << 2 | 2), &[]);
    refused_of(cloud(), "a processor's key", info(0), &[clause::SIGNING_KEY]);
    refused_of(cloud(), "a processor", with(place::CHIP, &[1]), &[clause::REPORT_CHIP_ID]);
    refused_of(cloud(), "another cloud", |s| *s.amd.claim(&[5]) = der(22, b"CN=cc-eu-west-1"), &[clause::CSP_ID]);
    let prefix = |s: &mut Scene| *s.amd.claim(&[5]) = der(22, format!("{CSP}.example.com").as_bytes());
    refused_of(cloud(), "a cloud that begins alike", prefix, &[clause::CSP_ID]);
    for kind in KINDS {
        let mut only = policy();
        only.key = Requirement::Exact(kind);
        for signed in KINDS {
            let failures = Scene::good(Product::Turin, signed, 5).failures(&only);
            assert_eq!(failures, if signed == kind { set(&[]) } else { set(&[clause::KEY_KIND]) });
        }
    }
}

#[test]
fn a_digest_of_an_author_is_there_exactly_when_the_report_says_so() {
    let author = |info: u8, digest: u8| {
        let mut scene = Scene::good(Product::Milan, KeyKind::Vcek, 3);
        scene.body = Box::new(move |report| {
            report[place::KEY_INFO] = info;
            report[place::AUTHOR_KEY..][..48].fill(digest);
        });
        scene
    };
    let mut named = policy();
    named.author_key_digest = Requirement::Exact(Hex([7; 48]));
    assert_eq!(author(1, 7).failures(&named), set(&[]));
    for (info, digest) in [(0, 7), (1, 8), (1, 0), (0, 0)] {
        assert_eq!(author(info, digest).failures(&named), set(&[clause::AUTHOR_KEY_DIGEST]), "{info} {digest}");
    }
    assert_eq!(author(0, 0).failures(&policy()), set(&[]));
    assert_eq!(author(1, 0).failures(&policy()), set(&[clause::AUTHOR_KEY_DIGEST]));
    // Where nobody asks for the author, nothing follows from what the firmware says of it.
    let mut open = policy();
    open.author_key_digest = Requirement::Waived { reason: "a test".into() };
    for (info, digest) in [(0, 0), (1, 0), (0, 7)] {
        assert_eq!(author(info, digest).failures(&open), set(&[]));
    }
}

#[test]
fn every_part_of_every_tcb_is_at_its_floor_or_above() {
    let (reported, committed, launch) = (place::REPORTED_TCB, place::COMMITTED_TCB, place::LAUNCH_TCB);
    for (product, parts) in
        [(Product::Milan, &[0, 6, 7][..]), (Product::Genoa, &[0, 6, 7]), (Product::Turin, &[0, 1, 2, 3, 7])]
    {
        for part in parts.iter().copied() {
            let lower = |at: usize| move |s: &mut Scene| s.body = Box::new(move |report| report[at + part] -= 1);
            let scene = || Scene::good(product, KeyKind::Vcek, 5);
            refused_of(scene(), "launch", lower(launch), &[clause::TCB_LAUNCH]);
            refused_of(scene(), "committed", lower(committed), &[clause::TCB_COMMITTED, clause::TCB_PROVISIONAL]);
            refused_of(scene(), "reported", lower(reported), &[clause::TCB_REPORTED, clause::VEK_TCB][1..]);
            // One that is newer doesn't make up for it.
            let other = parts.iter().copied().find(|other| *other != part).unwrap();
            let traded = |s: &mut Scene| {
                s.body = Box::new(move |report| {
                    report[launch + part] -= 1;
                    report[launch + other] = 255;
                });
            };
            refused_of(scene(), "traded", traded, &[clause::TCB_LAUNCH]);
        }
    }
    // A certificate for exactly what is reported: then only the floor speaks.
    let old = |s: &mut Scene| {
        *s.amd.claim(&[3, 8]) = der(2, &[0, 218]);
        s.body = Box::new(move |report| report[reported + 7] = 218);
    };
    refused("reported, and endorsed", old, &[clause::TCB_REPORTED]);
    refused("provisional", with(place::CURRENT_TCB + 7, &[220]), &[clause::TCB_PROVISIONAL]);
    refused("rolled back", with(place::CURRENT_TCB + 7, &[218]), &[clause::TCB_PROVISIONAL]);
}

#[test]
fn a_tcb_is_read_by_the_products_layout_or_not_at_all() {
    for product in Product::ALL {
        let reserved = if product == Product::Turin { 4..7 } else { 2..6 };
        for byte in reserved {
            let set_at = |at: usize| move |s: &mut Scene| s.body = Box::new(move |report| report[at + byte] = 1);
            let scene = || Scene::good(product, KeyKind::Vcek, 5);
            refused_of(scene(), "launch", set_at(place::LAUNCH_TCB), &[clause::TCB_LAUNCH]);
            refused_of(scene(), "reported", set_at(place::REPORTED_TCB), &[clause::VEK_TCB]);
        }
    }
    // Turin's TCB in the layout of the others.
    let others: &[u8] = &[1, 1, 0, 0, 0, 0, 4, 81];
    assert_eq!(RawTcb(others.try_into().unwrap()).of(Product::Turin), None);
    let scene = Scene::good(Product::Turin, KeyKind::Vcek, 5);
    refused_of(scene, "layout", with(place::REPORTED_TCB, &[1, 1, 0, 0, 0, 0, 4, 81]), &[clause::VEK_TCB]);
    refused("another product", with(place::CPUID, &[0x19, 0x11]), &[clause::REPORT_PRODUCT]);
    refused("no product", with(place::CPUID, &[0x17, 0x01]), &[clause::REPORT_PRODUCT]);
    refused("between two products", with(place::CPUID, &[0x19, 0x20]), &[clause::REPORT_PRODUCT]);
}

#[test]
fn mitigations_that_are_wanted_are_there_in_reports_that_can_say_so() {
    let mut policy = policy();
    policy.launch_mitigations = Requirement::AtLeast(Bits(0b101));
    for (version, bits, wanted) in [(5, 0b101, true), (5, 0b111, true), (5, 0b100, false), (4, 0b111, false)] {
        let mut scene = Scene::good(Product::Genoa, KeyKind::Vcek, version);
        scene.body = Box::new(move |report| report[place::MITIGATIONS] = bits);
        let failures = scene.failures(&policy);
        assert_eq!(failures, if wanted { set(&[]) } else { set(&[clause::MITIGATION_LAUNCH]) }, "{version} {bits}");
    }
}

/// Order of P-384, little-endian (NIST SP 800-186, 3.2.1.4).
fn order() -> Vec<u8> {
    let order = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
    hex::decode(order).unwrap().into_iter().rev().collect()
}

#[test]
fn a_signature_is_two_numbers_of_the_curve_and_nothing_else() {
    let (r, s) = (SIGNED, SIGNED + 72);
    let write = |at: usize, bytes: Vec<u8>| {
        move |scene: &mut Scene| {
            scene.signed = Box::new(move |report| report[at..at + bytes.len()].copy_from_slice(&bytes));
        }
    };
    for at in [r, s] {
        refused("zero", write(at, vec![0; 48]), &[clause::SIGNATURE]);
        refused("one", write(at, [vec![1], vec![0; 47]].concat()), &[clause::SIGNATURE]);
        refused("the order", write(at, order()), &[clause::SIGNATURE]);
        refused("all ones", write(at, vec![255; 48]), &[clause::SIGNATURE]);
        for high in 48..72 {
            refused("a high byte", write(at + high, vec![1]), &[clause::SIGNATURE_FORMAT]);
        }
    }
    for rest in [144, 200, 511] {
        refused("a byte behind it", write(SIGNED + rest, vec![1]), &[clause::SIGNATURE_FORMAT]);
    }
    // A number and the order more, where it fits into the field: the same number modulo the order.
    let more = |scene: &mut Scene| {
        scene.signed = Box::new(move |report| {
            let mut carry = 0;
            for (byte, add) in report[s..s + 49].iter_mut().zip(order().into_iter().chain([0])) {
                let sum = u16::from(*byte) + u16::from(add) + carry;
                (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
            }
        });
    };
    refused("the order more", more, &[clause::SIGNATURE_FORMAT]);
    let swapped = |scene: &mut Scene| {
        scene.signed = Box::new(move |report| {
            let (first, second) = report[r..].split_at_mut(72);
            first[..48].swap_with_slice(&mut second[..48]);
        });
    };
    refused("swapped", swapped, &[clause::SIGNATURE]);
    let turned = |scene: &mut Scene| {
        scene.signed = Box::new(move |report| {
            report[r..r + 48].reverse();
            report[s..s + 48].reverse();
        });
    };
    refused("big-endian", turned, &[clause::SIGNATURE]);
    for algorithm in [0, 2, 255] {
        let other = |scene: &mut Scene| scene.body = Box::new(move |report| report[place::ALGORITHM] = algorithm);
        refused("algorithm", other, &[clause::SIGNATURE_ALGORITHM]);
    }
    for length in [0, 0x2a0, 1183, 1185, 2368] {
        let cut = |scene: &mut Scene| scene.signed = Box::new(move |report| report.resize(length, 0));
        refused("length", cut, &[clause::REPORT_STRUCTURE]);
    }
}

#[test]
fn a_key_is_of_exactly_the_processor_that_the_report_names() {
    for byte in [0, 7, 63] {
        refused("another", bit(place::CHIP + byte, 0), &[clause::VEK_HWID]);
    }
    refused("masked", |s| s.body = Box::new(|report| report[place::CHIP..][..64].fill(0)), &[clause::VEK_HWID]);
    let none = |s: &mut Scene| {
        s.amd.claim(&[4]).fill(0);
        s.body = Box::new(|report| report[place::CHIP..][..64].fill(0));
    };
    refused("masked in both", none, &[clause::VEK_HWID]);
    refused("wrapped", |s| *s.amd.claim(&[4]) = der(4, &[0xc1; 64]), &[]);
    let turin = || Scene::good(Product::Turin, KeyKind::Vcek, 5);
    refused_of(turin(), "something behind it", with(place::CHIP + 8, &[1]), &[clause::VEK_HWID]);
    let long = |s: &mut Scene| {
        *s.amd.claim(&[4]) = vec![0xc1; 64];
        s.body = Box::new(|report| report[place::CHIP..][..64].fill(0xc1));
    };
    refused_of(turin(), "as long as Milan's", long, &[clause::VEK_HWID]);
    for length in [0, 7, 8, 16, 63, 65] {
        refused("length", |s| *s.amd.claim(&[4]) = vec![0xc1; length], &[clause::VEK_HWID]);
    }
    let lying = |s: &mut Scene| *s.amd.claim(&[4]) = [vec![4, 63], vec![0xc1; 64]].concat();
    refused("wrapped, with a length that lies", lying, &[clause::VEK_HWID]);
}

#[test]
fn a_certificate_says_each_thing_once_and_in_one_form() {
    for arc in [&[2][..], &[3, 1], &[3, 2], &[3, 3], &[3, 8], &[4]] {
        let without = |s: &mut Scene| s.amd.claims.retain(|(known, _)| known != arc);
        refused("missing", without, &[clause::VEK_EXTENSIONS]);
        let twice = |s: &mut Scene| {
            let value = s.amd.claim(arc).clone();
            s.amd.claims.push((arc.to_vec(), value));
        };
        refused("twice", twice, &[clause::VEK_EXTENSIONS]);
    }
    // What nobody reads, and whether it is an issuer.
    let unread = |s: &mut Scene| s.amd.claims.extend([1, 2].map(|version| (vec![1], vec![2, 1, version])));
    refused("a version of its form twice", unread, &[clause::VEK_EXTENSIONS]);
    // 4 and 219 in forms that DER doesn't have, and as other types.
    for (arc, value) in [
        (&[3, 1][..], &[2, 2, 0, 4][..]),
        (&[3, 1], &[2, 0x81, 1, 4]),
        (&[3, 1], &[2, 1, 4, 0]),
        (&[3, 1], &[2, 2, 4]),
        (&[3, 1], &[2, 0]),
        (&[3, 1], &[10, 1, 4]),
        (&[3, 1], &[4]),
        (&[3, 8], &[2, 1, 219]),
        (&[3, 8], &[2, 3, 0, 0, 219]),
        (&[3, 8], &[2, 2, 255, 219]),
        (&[2], &[12, 8, b'M', b'i', b'l', b'a', b'n', b'-', b'B', b'0']),
        (&[2], &[22, 9, b'M', b'i', b'l', b'a', b'n', b'-', b'B', b'0']),
        (&[2], &[22, 7, b'M', b'i', b'l', b'a', b'n', b'-', b'B', b'0']),
    ] {
        refused(&format!("{arc:?} {value:?}"), |s| *s.amd.claim(arc) = value.to_vec(), &[clause::VEK_EXTENSIONS]);
    }
    // Of which only the last byte is the report's.
    refused("more than a part can be", |s| *s.amd.claim(&[3, 8]) = vec![2, 2, 1, 219], &[clause::VEK_TCB]);
    // Parts that have no meaning are there or not, and zero.
    for arc in [[3, 4], [3, 5], [3, 6], [3, 7], [3, 9]] {
        refused("zero", |s| s.amd.claims.push((arc.to_vec(), vec![2, 1, 0])), &[]);
        refused("one", |s| s.amd.claims.push((arc.to_vec(), vec![2, 1, 1])), &[clause::VEK_EXTENSIONS]);
    }
    // The order is nothing.
    refused("turned round", |s| s.amd.claims.reverse(), &[]);
    for (name, wanted) in
        [(&b"Genoa"[..], clause::VEK_PRODUCT), (b"milan-B0", clause::VEK_PRODUCT), (b"", clause::VEK_PRODUCT)]
    {
        refused("product", |s| *s.amd.claim(&[2]) = der(22, name), &[wanted]);
    }
    for (product, name) in [(Product::Milan, "Turin"), (Product::Genoa, "Turin"), (Product::Turin, "Milan-B0")] {
        for kind in KINDS {
            let named = |s: &mut Scene| *s.amd.claim(&[2]) = der(22, name.as_bytes());
            refused_of(Scene::good(product, kind, 5), name, named, &[clause::VEK_PRODUCT]);
        }
    }
    // Nobody's key is of a processor and of a cloud.
    let both = |s: &mut Scene| s.amd.claims.push((vec![5], der(22, CSP.as_bytes())));
    refused("a cloud's too", both, &[clause::VEK_EXTENSIONS]);
    let both = |s: &mut Scene| s.amd.claims.push((vec![4], vec![0xc1; 64]));
    refused_of(Scene::good(Product::Milan, KeyKind::Vlek, 3), "a processor's too", both, &[clause::VEK_EXTENSIONS]);
}

#[test]
fn a_chain_is_amds_in_every_link() {
    refused("a stranger's intermediate", |s| s.amd.intermediate.signer = Who::Stranger, &[clause::INTERMEDIATE_ISSUER]);
    let named = |name: &'static str| {
        move |s: &mut Scene| {
            s.amd.intermediate.name = name.into();
            s.amd.vek.issuer = name.into();
        }
    };
    refused("no name of AMD's", named("SEV-Rome"), &[clause::INTERMEDIATE_NAME]);
    refused("the root's name", named("ARK-Milan"), &[clause::INTERMEDIATE_NAME]);
    refused("for clouds' keys", named("SEV-VLEK-Milan"), &[clause::VEK_KIND]);
    refused(
        "of a product without an anchor",
        named("SEV-Genoa"),
        &[clause::INTERMEDIATE_ISSUER, clause::VEK_PRODUCT, clause::REPORT_PRODUCT],
    );
    refused("no CA", |s| s.amd.intermediate.ca = false, &[clause::INTERMEDIATE_USAGE]);
    let key = |who| {
        move |s: &mut Scene| {
            s.amd.intermediate_key = who;
            s.amd.vek.signer = who;
        }
    };
    refused("another key", key(Who::Stranger), &[]);
    refused("a key that is smaller than AMD's", key(Who::Small), &[clause::VEK_ISSUER]);
    refused("another issuer", |s| s.amd.intermediate.issuer = "ARK-Genoa".into(), &[clause::INTERMEDIATE_ISSUER]);
    refused("PKCS #1 v1.5", |s| s.amd.intermediate.scheme = Scheme::Pkcs1, &[clause::INTERMEDIATE_ISSUER]);
    for signer in [Who::Stranger, Who::Root] {
        refused("a key of another issuer", |s| s.amd.vek.signer = signer, &[clause::VEK_ISSUER]);
    }
    refused("PKCS #1 v1.5", |s| s.amd.vek.scheme = Scheme::Pkcs1, &[clause::VEK_ISSUER]);
    refused("another issuer's name", |s| s.amd.vek.issuer = "SEV-Genoa".into(), &[clause::VEK_ISSUER]);
    for name in ["SEV-VLEK", "VCEK", "sev-vcek", "SEV-VCEK-Milan", ""] {
        let wanted: &[&str] =
            if name == "SEV-VLEK" { &[clause::VEK_KIND, clause::SIGNING_KEY] } else { &[clause::VEK_KIND] };
        let mut scene = Scene::good(Product::Milan, KeyKind::Vcek, 3);
        scene.amd.vek.name = name.into();
        let failures = scene.failures(&policy());
        assert!(failures.contains(clause::VEK_KIND) && failures.is_subset(&set(wanted)), "{name}: {failures:?}");
    }
    refused("a CA", |s| s.amd.vek.ca = true, &[clause::VEK_KIND]);
}

#[test]
fn everything_is_in_date_to_the_second() {
    let dates: [&str; 2] = ["261120000000Z", "261120000010Z"];
    for (now, inside) in [
        ("2026-11-19T23:59:59Z", false),
        ("2026-11-20T00:00:00Z", true),
        ("2026-11-20T00:00:10Z", true),
        ("2026-11-20T00:00:11Z", false),
    ] {
        let wanted = |name| if inside { vec![] } else { vec![name] };
        let at = |s: &mut Scene| s.now = now;
        let scene = || {
            let mut scene = Scene::good(Product::Milan, KeyKind::Vcek, 3);
            at(&mut scene);
            scene
        };
        refused_of(scene(), "key", |s| s.amd.vek.dates = dates, &wanted(clause::VEK_VALIDITY));
        refused_of(scene(), "issuer", |s| s.amd.intermediate.dates = dates, &wanted(clause::INTERMEDIATE_VALIDITY));
        refused_of(scene(), "list", |s| s.amd.crl.dates = dates.to_vec(), &wanted(clause::CRL));
    }
    refused(
        "a root that ended",
        |s| s.now = "2040-01-02T00:00:00Z",
        &[clause::ARK_VALIDITY, clause::INTERMEDIATE_VALIDITY, clause::VEK_VALIDITY],
    );
}

#[test]
fn a_list_of_revocations_is_the_roots_whole_and_says_when_the_next_comes() {
    refused("none", |s| s.crl = false, &[clause::CRL]);
    refused("of another root", |s| s.amd.crl.issuer = "ARK-Genoa".into(), &[clause::CRL]);
    refused("of the intermediate", |s| s.amd.crl.issuer = "SEV-Milan".into(), &[clause::CRL]);
    for signer in [Who::Intermediate, Who::Stranger] {
        refused("of another signer", |s| s.amd.crl.signer = signer, &[clause::CRL]);
    }
    refused("PKCS #1 v1.5", |s| s.amd.crl.scheme = Scheme::Pkcs1, &[clause::CRL]);
    refused("no next one", |s| s.amd.crl.dates.truncate(1), &[clause::CRL]);
    refused("of some only", |s| s.amd.crl.partial = true, &[clause::CRL]);
    refused("another's serial number", |s| s.amd.crl.revoked = vec![9], &[]);
    refused("the intermediate", |s| s.amd.crl.revoked = vec![9, 2], &[clause::INTERMEDIATE_REVOKED]);
    refused("the root", |s| s.amd.crl.revoked = vec![1], &[clause::ARK_REVOKED]);
    // Serial number zero is every processor's: the root can't revoke what it didn't issue.
    refused("the key", |s| s.amd.crl.revoked = vec![0], &[]);
    // What revokes does so though the list is too old, and whatever the policy waives.
    let mut lax = policy();
    lax.revocation = Requirement::AnyOf(vec![Revocation::Unknown, Revocation::OutOfDate, Revocation::Current]);
    let mut scene = Scene::good(Product::Milan, KeyKind::Vcek, 3);
    scene.amd.crl.dates = vec!["200101000000Z", "200102000000Z"];
    assert_eq!(scene.failures(&lax), set(&[]));
    // What isn't the root's list may stand where the one was that revokes.
    lax.revocation = Requirement::Waived { reason: "a test".into() };
    scene.amd.crl.signer = Who::Stranger;
    assert_eq!(scene.failures(&lax), set(&[clause::CRL]));
    scene.crl = false;
    assert_eq!(scene.failures(&lax), set(&[]));
    (scene.crl, scene.amd.crl.signer) = (true, Who::Root);
    scene.amd.crl.revoked = vec![2];
    assert_eq!(scene.failures(&lax), set(&[clause::INTERMEDIATE_REVOKED]));
}
