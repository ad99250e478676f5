//! What each fuzz target does with its bytes: one place for libFuzzer and for the smoke run of `cargo test`.
//!
//! A target feeds bytes to a parser that eats what a peer, a node, a metadata service or a provider may have written.
//! None may panic, hang or ask for more memory than the bytes justify, and what is parsed must hold what its
//! documentation promises; the assertions here say that.

use constellation_attestation::{
    azure,
    collateral::{Cache, Key},
    credential, delivery, dsse, endorsement,
    endorsers::Endorsers,
    gcp, guest, nitro, owner,
    policy::{MANIFEST_TYPE, MeasurementManifest, TRUST_POLICY_TYPE, TrustPolicy},
    predict::{self, pe},
    protocol,
    result::Checks,
    snp, tdx, told,
    tpm::{Hash, attest::Attest, eventlog, public::Public, signature::Signature},
    x509::chain::Anchors,
};
use serde::{Serialize, de::DeserializeOwned};

#[path = "run.rs"]
mod run;

pub use run::{Target, run};

/// Every target.
pub const TARGETS: &[Target] = &[
    ("azure_hcl", azure_hcl),
    ("collateral", collateral_entry),
    ("delivery", delivered),
    ("dsse", dsse_envelope),
    ("endorsement", endorsement_certificate),
    ("gcp_certificate", gcp_certificate),
    ("gcp_endorsement", gcp_endorsement),
    ("guest_ccel", guest_ccel),
    ("guest_certificates", guest_certificates),
    ("guest_nsm", guest_nsm),
    ("guest_thim", guest_thim),
    ("guest_wire", guest_wire),
    ("nitro_document", nitro_document),
    ("pe", portable_executable),
    ("policy", policy_json),
    ("protocol", protocol_json),
    ("snp_certificate", snp_certificate),
    ("snp_crl", snp_crl),
    ("snp_firmware", snp_firmware),
    ("snp_report", snp_report),
    ("tdx_ccel", tdx_ccel),
    ("tdx_collateral", tdx_collateral),
    ("tdx_quote", tdx_quote),
    ("told", told_text),
    ("tpm_attest", tpm_attest),
    ("tpm_eventlog", tpm_eventlog),
    ("tpm_public", tpm_public),
    ("tpm_signature", tpm_signature),
    ("trusted_launch", trusted_launch),
];

/// A quote parses to no more than its bytes can hold.
fn tpm_attest(bytes: &[u8]) {
    if let Ok(attest) = Attest::parse(bytes) {
        assert!(attest.extra_data.len() + attest.pcr_digest.len() < bytes.len());
        assert!(attest.selections.iter().all(|selection| selection.pcrs.is_sorted()));
    }
}

/// A public area has a name of its hash, and a credential is made for it or refused.
fn tpm_public(bytes: &[u8]) {
    if let Ok(public) = Public::parse(bytes) {
        assert!(public.name.len() > 32);
        let _ = credential::make_credential(bytes, bytes, &[7; 32]);
    }
    let _ = credential::make_credential(bytes, &[], &[7; 32]);
}

/// A signature is checked against a key of either kind.
fn tpm_signature(bytes: &[u8]) {
    let Ok(signature) = Signature::parse(bytes) else { return };
    for key in [include_bytes!("../corpus/tpm_public/ecc").as_slice(), include_bytes!("../corpus/tpm_public/rsa")] {
        let key = Public::parse(key).expect("the corpus holds public areas").key;
        assert!(!signature.is_valid(&key, b"a message that nobody signed"));
    }
}

/// A log is bounded, replays and is explained in words.
fn tpm_eventlog(bytes: &[u8]) {
    let Ok(log) = eventlog::EventLog::parse(bytes) else { return };
    assert!(log.events.len() <= eventlog::MAX_EVENTS && bytes.len() <= eventlog::MAX_BYTES);
    for register in 0..24 {
        let _ = log.explain(register, &log.replay(register), None);
    }
    for event in &log.events {
        let _ = event.digest_matches_data();
    }
}

/// Every message of the conversation survives being written again.
fn protocol_json(bytes: &[u8]) {
    round_trip::<protocol::Request>(bytes);
    round_trip::<protocol::Hello>(bytes);
    round_trip::<protocol::Challenge>(bytes);
    round_trip::<protocol::Evidence>(bytes);
    round_trip::<protocol::Verdict>(bytes);
    round_trip::<protocol::LaunchConfig>(bytes);
    round_trip::<protocol::InitRequest>(bytes);
    round_trip::<protocol::Ticket>(bytes);
    round_trip::<protocol::RecoverKey>(bytes);
    round_trip::<protocol::Progress>(bytes);
}

/// A policy or manifest that is valid survives being written again and is valid then.
fn policy_json(bytes: &[u8]) {
    if let Some(policy) = round_trip::<TrustPolicy>(bytes)
        && policy.validate().is_ok()
    {
        assert!(!policy.cluster_uid.is_empty() && !policy.sets.is_empty());
    }
    if let Some(manifest) = round_trip::<MeasurementManifest>(bytes)
        && manifest.validate().is_ok()
    {
        assert!(!manifest.sets.is_empty());
    }
}

/// No envelope but the signed one gives a payload.
fn dsse_envelope(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let key = owner::spki_from_pem(include_str!("../corpus/dsse.pub.pem")).expect("the key beside the corpus is one");
    for kind in [TRUST_POLICY_TYPE, MANIFEST_TYPE] {
        if let Ok(payload) = dsse::verify(text, kind, &key) {
            assert_eq!(payload, b"{\"signed\":true}");
        }
    }
}

/// No certificate is believed but what its CA signed, under that signature. (The envelope around the two isn't signed,
/// and the X.509 parser reads it with some tolerance.)
fn endorsement_certificate(bytes: &[u8]) {
    const GENUINE: &[u8] = include_bytes!("../corpus/endorsement/ek.der");
    /// `TBSCertificate`, after the four bytes of the outer header.
    const SIGNED: &[u8] = GENUINE.split_at(608).0.split_at(4).1;
    /// RSA-3072.
    const SIGNATURE: &[u8] = GENUINE.split_at(GENUINE.len() - 384).1;
    let ek = Public::parse(include_bytes!("../corpus/tpm_public/ek")).expect("the corpus holds public areas");
    let roots = [include_str!("../corpus/endorsement.ca.pem").to_owned()];
    let now = "2026-11-23T12:00:00Z".parse().expect("a time in RFC 3339");
    if endorsement::verify(bytes, &ek, &roots, now).is_ok() {
        assert!(bytes.windows(SIGNED.len()).any(|part| part == SIGNED) && bytes.ends_with(SIGNATURE));
    } else {
        assert_ne!(bytes, GENUINE);
    }
}

/// An image's sections lie inside it, and it is predicted or refused.
fn portable_executable(bytes: &[u8]) {
    if let Ok(image) = pe::Image::parse(bytes) {
        let _ = image.authenticode(Hash::Sha256);
        for section in image.sections() {
            assert!(section.raw_offset + section.raw_size <= bytes.len());
        }
    }
    let _ = predict::predict(bytes, Hash::Sha256);
}

/// Only what the processor signed is accepted: all but the signature and what may follow it.
fn snp_report(bytes: &[u8]) {
    /// What the signature is over (SEV-SNP ABI 1.58, table 23).
    const SIGNED: usize = 0x2a0;
    if snp_accepts(bytes, SNP_VCEK, None) {
        assert_eq!((bytes.get(..SIGNED), bytes.len()), (SNP_REPORT.get(..SIGNED), SNP_REPORT.len()));
    } else {
        assert_ne!(bytes, SNP_REPORT);
    }
}

/// No certificate makes the genuine report acceptable but what AMD signed, under that signature.
fn snp_certificate(bytes: &[u8]) {
    if snp_accepts(SNP_REPORT, bytes, None) {
        assert!(bytes.ends_with(SNP_VCEK.split_at(SNP_VCEK.len() - 512).1));
    } else {
        assert_ne!(bytes, SNP_VCEK);
    }
}

/// No list that AMD didn't sign counts as one, and none that can't be read makes a report acceptable.
fn snp_crl(bytes: &[u8]) {
    assert!(!snp_accepts(SNP_REPORT, SNP_VCEK, Some(bytes)), "nothing here is a list of AMD's");
}

const SNP_REPORT: &[u8] = include_bytes!("../corpus/snp_report/milan");
const SNP_VCEK: &[u8] = include_bytes!("../corpus/snp_certificate/vcek");

fn snp_accepts(report: &[u8], vek: &[u8], crl: Option<&[u8]>) -> bool {
    let mut policy = snp::Policy::strict();
    for name in snp::clause::REFERENCE {
        if crl.is_none() || name != snp::clause::CRL {
            policy.waive(name, "the target has no reference values");
        }
    }
    let intermediate = include_bytes!("../corpus/snp.ask.der");
    let now = september();
    let evidence = snp::Evidence { report, vek, intermediate, crl };
    snp::verify_and_appraise(&evidence, &snp::Anchors::amd(), &policy, now).accepted()
}

/// A paravisor's report is accepted only as it came; the NV index may go on with zeros.
fn azure_hcl(bytes: &[u8]) {
    const GENUINE: &[u8] = include_bytes!("../corpus/azure_hcl/snp");
    if let Ok(report) = azure::hcl::Report::parse(bytes) {
        assert!(report.hardware.len() <= 1184);
        // Whatever the runtime data are, reading them ends.
        let _ = report.runtime();
    }
    let vek = include_bytes!("../corpus/azure.vcek.der");
    let mut policy = snp::Policy::strict();
    for name in snp::clause::REFERENCE {
        policy.waive(name, "the target has no reference values");
    }
    let intermediate = snp::intermediate_of(vek).expect("AMD's intermediate is known");
    let endorsement = azure::Endorsement::Snp { vek, intermediate, crl: None };
    let (amd, intel) = (snp::Anchors::amd(), tdx::Anchors::intel());
    let anchors = azure::Anchors { snp: &amd, tdx: &intel };
    let wanted = azure::Hardware::Snp(Box::new(policy));
    let machine = azure::verify(bytes, &endorsement, anchors, &wanted, september(), &mut Checks::default());
    let same = bytes.split_at_checked(GENUINE.len()).is_some_and(|(head, rest)| head == GENUINE && is_zero(rest));
    assert_eq!(machine.is_some(), same);
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Of all bytes, only the document that AWS signed is one.
fn nitro_document(bytes: &[u8]) {
    const GENUINE: &[u8] = include_bytes!("../corpus/nitro_document/tpm");
    let now = jiff::Timestamp::from_second(1_770_113_522).expect("when the document was made");
    let tpm = nitro::verify(bytes, &nitro::aws(), now, &mut Checks::default());
    assert_eq!(tpm.is_some(), bytes == GENUINE);
}

/// Of all bytes, only the certificate that Google signed names a machine.
fn gcp_certificate(bytes: &[u8]) {
    const GENUINE: &[u8] = include_bytes!("../corpus/gcp_certificate/ak");
    let now = jiff::Timestamp::from_second(1_770_200_000).expect("in February 2026");
    let chain = [bytes.to_vec(), include_bytes!("../corpus/gcp.ca.der").to_vec()];
    let tpm = gcp::verify(&chain, &gcp::google(), now, &mut Checks::default());
    assert_eq!(tpm.is_some(), bytes == GENUINE);
}

/// No endorsement says anything but what was signed.
fn gcp_endorsement(bytes: &[u8]) {
    /// Of a Google of our own: no genuine one is published with a certificate in date.
    const MADE: &[u8] = include_bytes!("../corpus/gcp_endorsement/made");
    let ca = include_bytes!("../corpus/gcp_endorsement.ca.der");
    let anchors = Anchors::new([ca.as_slice()]).expect("what is beside the corpus is a CA");
    match gcp::endorsement::verify(bytes, &anchors, september(), &mut Checks::default()) {
        Some(said) => {
            let signed = gcp::endorsement::Signed::parse(MADE).expect("the corpus holds an endorsement");
            assert_eq!(said.get(), &signed.golden);
        }
        None => assert_ne!(bytes, MADE),
    }
}

/// Of all bytes, only the certificate that was signed is one of a TPM. (What is around the signed part isn't looked at, as
/// in `endorsement_certificate`.)
fn trusted_launch(bytes: &[u8]) {
    /// Under a Microsoft of our own: its roots are the owner's to name.
    const MADE: &[u8] = include_bytes!("../corpus/trusted_launch/ak");
    /// `TBSCertificate`, after the four bytes of the outer header.
    const SIGNED: &[u8] = MADE.split_at(286).0.split_at(4).1;
    let ca = include_bytes!("../corpus/trusted_launch.ca.der");
    let anchors = Anchors::new([ca.as_slice()]).expect("what is beside the corpus is a CA");
    let issuers = azure::trusted_launch::Issuers { anchors: &anchors, lists: &[] };
    if azure::trusted_launch::verify(&[bytes.to_vec()], issuers, september(), &mut Checks::default()).is_some() {
        assert!(bytes.windows(SIGNED.len()).any(|part| part == SIGNED));
    } else {
        assert_ne!(bytes, MADE);
    }
}

/// A table is exact: a byte more or less and it is none.
fn guest_ccel(bytes: &[u8]) {
    if guest::ccel::reserved(bytes).is_ok() {
        assert_eq!(bytes.len(), guest::ccel::SIZE);
        assert!(guest::ccel::reserved(&[bytes, &[0]].concat()).is_err());
    }
}

/// A host's table gives no more bytes than it has, none of them from its own entries.
fn guest_certificates(bytes: &[u8]) {
    use guest::certificates::{Kind, MAX_BYTES, Table};
    let Ok(table) = Table::parse(bytes) else { return };
    assert!(bytes.len() <= MAX_BYTES);
    let kinds = [Kind::Ark, Kind::Ask, Kind::Crl, Kind::GoogleEndorsement, Kind::Vcek, Kind::Vlek];
    let found: Vec<_> = kinds.into_iter().filter_map(|kind| table.of(kind)).collect();
    assert!(found.len() <= table.len());
    assert!(found.iter().all(|certificate| !certificate.is_empty() && certificate.len() < bytes.len()));
}

/// An answer holds its document, or a reason that can be printed.
fn guest_nsm(bytes: &[u8]) {
    match guest::nsm::document(bytes) {
        Ok(document) => assert!(!document.is_empty() && document.len() < bytes.len()),
        Err(guest::nsm::Error::Refused(reason)) => assert!(reason.len() < 100 && !reason.contains(char::is_control)),
        Err(_) => {}
    }
}

/// An answer gives certificates, a quote or nothing, and never more than was in it.
fn guest_thim(bytes: &[u8]) {
    if let Ok(found) = guest::thim::Certificates::parse(bytes) {
        assert!(found.vcek.len() + found.ask.len() < bytes.len());
    }
    if let Ok(quote) = guest::thim::quote(bytes) {
        assert!(quote.len() < bytes.len());
    }
}

/// A TPM's answer is bounded, and what is read from it lies inside it, whichever command it is held for.
fn guest_wire(bytes: &[u8]) {
    use guest::{commands, wire};
    let bare = wire::Command::new(0, &[]);
    for command in
        [bare.clone(), bare.clone().makes_handle(), bare.clone().password(&[]), bare.makes_handle().policy(1)]
    {
        let Ok(wire::Answer { parameters, .. }) = command.answer(bytes) else { continue };
        assert!(bytes.len() <= wire::MAX_RESPONSE && parameters.len() + wire::HEADER <= bytes.len());
        let _ = wire::unsized_exact(parameters);
        let _ = commands::is_there(parameters, 1);
        let _ = commands::index_size(parameters);
        if let Ok(public) = commands::public(parameters) {
            assert!(parameters.starts_with(&public));
        }
        if let Ok((attest, signature)) = commands::quoted(parameters) {
            assert_eq!(attest.len() + signature.len() + 2, parameters.len());
        }
        if let Ok(Some(values)) = commands::registers(parameters, Hash::Sha256, &[0, 15]) {
            assert_eq!(values.len(), 64);
        }
    }
    if let Ok(template) = commands::template(bytes) {
        assert!(bytes.starts_with(template));
    }
    if let Ok(inner) = wire::unsized_exact(bytes) {
        assert_eq!(inner.len() + 2, bytes.len());
    }
}

/// Firmware is bounded, and every machine that it can start has a digest that depends on all of it.
fn snp_firmware(bytes: &[u8]) {
    use snp::launch::{Cpu, Firmware, Kernel, Launch, SNP_ACTIVE, Vmm, firmware, predict};
    let Ok(image) = Firmware::parse(bytes) else { return };
    assert!(Firmware::is_one(bytes) && image.address() + bytes.len() as u64 == 1 << 32);
    let sections = image.sections();
    assert!(sections.len() <= firmware::MAX_SECTIONS);
    assert!(sections.iter().map(|section| section.bytes).sum::<u64>() <= firmware::MAX_SECTION_BYTES);
    let kernel = Kernel::new(b"", b"", "").expect("an empty line has no zero byte");
    let plain = Launch { vmm: Vmm::Qemu, cpu: Cpu::new(25, 1, 1), vcpus: 1, features: SNP_ACTIVE, kernel: None };
    let digest = predict(&image, &plain).expect("one processor is a machine");
    let genuine = include_bytes!("../corpus/snp_firmware/AmdSev");
    let known = Firmware::parse(genuine).map(|image| predict(&image, &plain).expect("one processor is a machine"));
    assert_eq!(known == Ok(digest), bytes == genuine);
    let booting = Launch { kernel: Some(&kernel), ..plain };
    assert_eq!(predict(&image, &booting).is_ok(), image.hash_table_offset().is_some());
}

/// In September 2026.
fn september() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_790_000_000).expect("a time")
}

/// Only the genuine collateral makes the genuine quote acceptable.
fn tdx_collateral(bytes: &[u8]) {
    if tdx_accepts(TDX_QUOTE, bytes) {
        let shown = serde_json::from_slice::<tdx::collateral::Collateral>(bytes).expect("it was accepted");
        let genuine = serde_json::from_slice::<tdx::collateral::Collateral>(TDX_COLLATERAL).expect("it is genuine");
        assert_eq!((shown.tcb_info, shown.qe_identity), (genuine.tcb_info, genuine.qe_identity));
    } else {
        assert_ne!(bytes, TDX_COLLATERAL);
    }
}

/// A log of a trust domain is bounded, and each of its events is of one register.
fn tdx_ccel(bytes: &[u8]) {
    let Ok(log) = tdx::ccel::Ccel::parse(bytes) else { return };
    assert!(log.events.len() <= tdx::ccel::MAX_EVENTS && bytes.len() <= tdx::ccel::MAX_BYTES);
    let of_registers: usize = (0..4).map(|rtmr| log.of(rtmr).count()).sum();
    assert!(of_registers <= log.events.len());
    let untouched = log.replay().iter().filter(|value| value.0 == [0; 48]).count();
    assert_eq!(untouched, (0..4).filter(|rtmr| log.of(*rtmr).count() == 0).count());
}

/// Only what Intel's quoting enclave signed is accepted: header and body, up to the length of the signature data.
fn tdx_quote(bytes: &[u8]) {
    /// Header and TD 1.0 body (Intel TDX DCAP Quoting Library API, A.3).
    const SIGNED: usize = 48 + 584;
    if tdx_accepts(bytes, TDX_COLLATERAL) {
        assert_eq!(bytes.get(..SIGNED), TDX_QUOTE.get(..SIGNED));
    } else {
        assert_ne!(bytes, TDX_QUOTE);
    }
}

const TDX_QUOTE: &[u8] = include_bytes!("../corpus/tdx_quote/v4");
const TDX_COLLATERAL: &[u8] = include_bytes!("../corpus/tdx_collateral/spr");

fn tdx_accepts(quote: &[u8], collateral: &[u8]) -> bool {
    let mut policy = tdx::Policy::strict();
    for name in tdx::clause::REFERENCE {
        policy.waive(name, "the target has no reference values");
    }
    let now = jiff::Timestamp::from_second(1_751_328_000).expect("1 July 2025");
    let evidence = tdx::Evidence { quote, collateral };
    tdx::verify_and_appraise(&evidence, &tdx::Anchors::intel(), &policy, now).checks.accepted()
}

/// The first line is what was delivered, byte for byte; hints are few, whatever follows it.
fn delivered(bytes: &[u8]) {
    let (launch, hints) = delivery::split(bytes);
    assert!(bytes.starts_with(launch) && !launch.contains(&b'\n') && hints.verifiers.len() <= 16);
    let joined = delivery::join(launch, &hints);
    assert_eq!(delivery::split(&joined), (launch, hints));
}

/// A name of collateral is written as it was read, what a cache took survives its text, and what was fetched under any name
/// is judged.
fn collateral_entry(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = text.parse::<Key>() {
        assert_eq!(key.to_string(), text);
    }
    let (cache, _) = Cache::read([("tdx.00806f050000", &*text)]);
    for (name, written) in cache.write() {
        assert_eq!(Cache::read([(name.as_str(), written.as_str())]), (cache.clone(), vec![]));
    }
    let endorsers = Endorsers::pinned(cache);
    let vcek = format!("snp-vcek.Milan.{}.04000000000018db", "ab".repeat(64));
    for name in [vcek.as_str(), "snp-crl.Milan", "snp-vlek-crl.Genoa", "google-issuer.abab", "tdx.00806f050000"] {
        let key: Key = name.parse().expect("the name of collateral");
        let _ = endorsers.check(&key, bytes, september());
    }
}

/// What people are told is short and plain.
fn told_text(bytes: &[u8]) {
    let text = told::text(&String::from_utf8_lossy(bytes));
    assert!(text.chars().count() <= told::TEXT_MAX && !text.contains(char::is_control));
}

/// Parses JSON; what was parsed must be the same after it was written and read again.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("what was JSON is JSON");
    assert!(serde_json::from_slice::<T>(&written).is_ok_and(|again| again == value));
    Some(value)
}
