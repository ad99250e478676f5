//! Machines of clouds join with a real (software) TPM: each is accepted, and with one thing wrong refused for it.
//! SIMULATED are the makers: Intel, Google and AWS are the test's own, as are the paravisor and the processor.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

mod simulated;
mod snp_factory;
#[path = "../../tests/src/swtpm.rs"]
#[allow(dead_code, reason = "shared with crate tests, which uses all of it")]
mod swtpm;
#[allow(dead_code, reason = "shared with tdx_synthetic, which uses all of it")]
mod tdx_factory;

use std::collections::BTreeMap;

use constellation_attestation::{
    appraise::{Appraisal, LaunchRegister, Origin, Presented, appraise, pcr15_from_digest},
    azure::hcl,
    boot::BootSecrets,
    bytes::Hex,
    collateral::{Cache, Entry, Key},
    collect::{AttestationKey, Tpm},
    endorsers::Endorsers,
    machine::{report_data, tpm_nonce},
    place::Place,
    platform::{Platform, Tee},
    policy::{Hardware, MeasurementSet, TrustPolicy},
    protocol::{
        Evidence, Hello, Purpose,
        machine::{Endorsement, Machine, Report},
    },
    reference::Requirement,
    session::Attester as _,
    snp::{self, KeyKind, tcb::PerProduct},
    tdx,
    tpm::public,
    x509::chain::Anchors,
};
use jiff::Timestamp;
use simulated::provider;
use snp_factory::Amd;
use swtpm::Swtpm;
use tdx_factory::{NOW, Scene, place as part};
use tss_esapi::{
    Context, TctiNameConf,
    handles::PcrHandle,
    interface_types::{algorithm::HashingAlgorithm, session_handles::AuthSession},
    structures::{Digest, DigestValues},
};

const BINDING: [u8; 32] = [7; 32];
const LAUNCH: [u8; 32] = [9; 32];
/// Where a quote's body says what the guest wanted to have attested (Intel TDX DCAP Quoting Library API, A.3.2).
const REPORT_DATA: usize = 520;

/// Everything that a verifier of one machine knows and sees.
struct Case {
    platform: Platform,
    hello: Hello,
    evidence: Evidence,
    policy: TrustPolicy,
    endorsers: Endorsers,
    pcr15: LaunchRegister,
}

impl Case {
    fn judge(&self) -> Appraisal {
        let presented = Presented {
            hello: &self.hello,
            evidence: &self.evidence,
            binding: &BINDING,
            credential_secret: &[],
            platform: self.platform,
            expected_pcr15: &self.pcr15,
        };
        appraise(&presented, &self.policy, &self.endorsers, Timestamp::from_second(NOW).unwrap())
    }

    fn accepted(&self) -> Appraisal {
        let appraisal = self.judge();
        assert!(appraisal.accepted, "{}: {:#?}", self.platform, appraisal.mismatches);
        assert!(!appraisal.ak_name.is_empty() && !appraisal.ek_certificate_digest.is_empty());
        appraisal
    }

    /// What is all that stands against it, by name; the owner is told of that first.
    fn lacking(&self) -> Vec<String> {
        let appraisal = self.judge();
        let lacking: Vec<_> = appraisal.lacking.iter().map(|need| need.key.to_string()).collect();
        let told: Vec<_> = appraisal.reasons().collect();
        let (first, rest) = told.split_at(lacking.len());
        assert!(first.iter().map(|reason| reason.expected.as_ref()).eq(lacking.iter().map(Some)), "{told:?}");
        assert_eq!(rest, appraisal.mismatches);
        lacking
    }

    /// With one thing wrong, these clauses and no others say so.
    fn refused(&self, wanted: &[&str]) {
        let appraisal = self.judge();
        let clauses: Vec<_> = appraisal.mismatches.iter().map(|mismatch| mismatch.clause.as_str()).collect();
        assert_eq!(clauses, wanted, "{}: {:#?}", self.platform, appraisal.mismatches);
        assert!(!appraisal.accepted && appraisal.set.is_none());
    }
}

/// A TPM that measured the launch configuration, and what its node says of itself.
fn node(swtpm: &Swtpm, key: AttestationKey) -> (Tpm, public::Key, Hello) {
    let mut tpm = Tpm::open_with(&swtpm.tcti(), key).unwrap();
    tpm.extend_pcr15(&LAUNCH).unwrap();
    let hello = Hello {
        purpose: Purpose::Join,
        node_uid: "node-uid".into(),
        cluster_uid: "cluster-uid".into(),
        address: "10.77.0.11".into(),
        keys: BootSecrets::generate().unwrap().keys(),
        ek_certificate: vec![],
        ek_public: vec![],
        ak_public: tpm.ak_public(),
    };
    let key = public::Public::parse(&hello.ak_public).unwrap().key;
    (tpm, key, hello)
}

/// Accepts what this evidence shows, with hardware as strict as the test's own Intel can satisfy.
fn policy(platform: Platform, evidence: &Evidence, place: Place) -> TrustPolicy {
    let bytes = platform.register_bytes().unwrap();
    let value = |pcr: u8| hex::encode(&evidence.pcrs[usize::from(pcr) * bytes..][..bytes]);
    let pcrs = BTreeMap::from([4, 11, 12, 13].map(|pcr| (pcr, vec![value(pcr)])));
    let hardware = platform.tee().map(|tee| match tee {
        Tee::Tdx => {
            let mut policy = tdx::Policy::strict();
            for name in tdx::clause::REFERENCE {
                assert!(policy.waive(name, "the test has no value for it"));
            }
            // The conversation's, which no set of reference values can have.
            policy.report_data = Requirement::AnyOf(Vec::new());
            let mrtd = Scene::good(4, 2).body[part::MRTD..][..48].try_into().unwrap();
            policy.mrtd = Requirement::Exact(Hex(mrtd));
            Hardware::Tdx(Box::new(policy))
        }
        Tee::Snp => {
            let mut policy = snp::Policy::strict();
            policy.measurement = Requirement::Exact(Hex(snp_factory::MEASUREMENT));
            let floor = PerProduct::every(&Requirement::AtLeast(snp_factory::TCB.parse().unwrap()));
            (policy.reported_tcb, policy.committed_tcb, policy.launch_tcb) = (floor.clone(), floor.clone(), floor);
            if platform == Platform::AwsSnp {
                policy.key = Requirement::Exact(KeyKind::Vlek);
                policy.csp_id = Requirement::Exact(snp_factory::CSP.into());
            }
            Hardware::Snp(Box::new(policy))
        }
    });
    let set = MeasurementSet { hardware, ..MeasurementSet::of_registers("set".into(), platform, pcrs) };
    TrustPolicy {
        cluster_uid: "cluster-uid".into(),
        revision: 1,
        sets: vec![set],
        endorsement_roots: vec![],
        place: Some(place),
        reattestation_interval_seconds: None,
    }
}

/// The test's own AMD, and what it says.
fn with_amd(amd: &Amd) -> Endorsers {
    let mut collateral = Cache::default();
    let crl = Entry { bytes: amd.crl(), fetched: Timestamp::from_second(NOW).unwrap() };
    for kind in [KeyKind::Vcek, KeyKind::Vlek] {
        collateral.put(Key::SnpCrl { product: "Milan".into(), kind }, crl.clone()).unwrap();
    }
    Endorsers { amd: amd.anchors(), ..Endorsers::pinned(collateral) }
}

/// The test's own makers, and what Intel says about the scene's platform.
fn endorsers(scene: &Scene) -> Endorsers {
    let fmspc = hex::encode(scene.extension.fmspc);
    let bytes = serde_json::to_vec(&scene.collateral()).unwrap();
    let mut collateral = Cache::default();
    collateral.put(Key::Tdx { fmspc }, Entry { bytes, fetched: Timestamp::from_second(NOW).unwrap() }).unwrap();
    Endorsers { intel: scene.anchors(), ..Endorsers::pinned(collateral) }
}

fn quote_about(data: &[u8; 64]) -> Vec<u8> {
    let mut scene = Scene::good(4, 2);
    scene.body[REPORT_DATA..][..64].copy_from_slice(data);
    scene.quote()
}

fn extend_pcr0(swtpm: &Swtpm, digests: &[[u8; 32]]) {
    let mut context = Context::new(swtpm.tcti().parse::<TctiNameConf>().unwrap()).unwrap();
    for digest in digests {
        let mut values = DigestValues::new();
        values.set(HashingAlgorithm::Sha256, Digest::try_from(digest.as_slice()).unwrap());
        context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(PcrHandle::Pcr0, values))
            .unwrap();
    }
}

fn google(platform: Platform, technology: u8) -> Case {
    google_with(platform, technology, endorsers(&Scene::good(4, 2)), |data| match platform.tee() {
        Some(Tee::Tdx) => Some(Report::Tdx { quote: quote_about(data), event_log: vec![] }),
        _ => None,
    })
}

fn google_with(
    platform: Platform,
    technology: u8,
    endorsers: Endorsers,
    report: impl Fn(&[u8; 64]) -> Option<Report>,
) -> Case {
    let swtpm = Swtpm::start().unwrap();
    let (digests, log) = provider::log(technology);
    extend_pcr0(&swtpm, &digests);
    let (mut tpm, key, hello) = node(&swtpm, AttestationKey::Own);
    let root = provider::issuer("Google, simulated");
    let certificate = provider::certificate(&root, &key);
    let report = report(&report_data(&BINDING, &key.to_bytes()));
    let nonce = report.as_ref().map_or(BINDING, |report| tpm_nonce(&BINDING, report.signed()));
    let mut evidence = tpm.evidence(&nonce, vec![]).unwrap();
    evidence.event_log = log;
    evidence.machine = Some(Machine::Google { certificates: vec![certificate], report });
    let place = Place::google("project".into(), "europe-west4");
    let policy = policy(platform, &evidence, place);
    assert_eq!(policy.validate(), Ok(()));
    let google = Anchors::new([root.der().as_ref()]).unwrap();
    let endorsers = Endorsers { google, ..endorsers };
    Case { platform, hello, evidence, policy, endorsers, pcr15: pcr15_from_digest(&LAUNCH) }
}

/// What is wrong with any machine of a cloud is said by the same clause.
fn common(case: &mut Case) {
    case.accepted();
    let (pcr15, place) = (case.pcr15, case.policy.place.clone());
    case.pcr15 = pcr15_from_digest(&[8; 32]);
    case.refused(&["tpm.pcr.15"]);
    case.pcr15 = pcr15.extended(&[4; 32]);
    case.refused(&["tpm.pcr.15"]);
    case.pcr15 = pcr15;
    case.policy.place = None;
    case.refused(&["policy.place"]);
    case.policy.place = place;
    let (machine, set) = (case.evidence.machine.take(), case.policy.sets[0].clone());
    case.refused(&["evidence.machine"]);
    case.evidence.machine = machine;
    let digits = 2 * case.platform.register_bytes().unwrap();
    case.policy.sets[0].pcrs.insert(11, vec!["1".repeat(digits)]);
    case.refused(&["tpm.pcr.11"]);
    case.policy.sets[0] = set.clone();
    case.policy.sets[0].platform = Platform::QemuVtpm;
    case.refused(&["policy.empty"]);
    case.policy.sets[0] = set;
    case.policy.cluster_uid = "another".into();
    case.refused(&["policy.cluster"]);
    case.policy.cluster_uid = "cluster-uid".into();
    let values = case.evidence.pcrs.split_off(32);
    case.refused(&["tpm.quote.selection"]);
    case.evidence.pcrs.extend(values);
    // A set that nothing can match stands beside the good one: all of one set is enough.
    let mut other = case.policy.sets[0].clone();
    other.name = "other".into();
    other.pcrs.insert(4, vec!["2".repeat(digits)]);
    case.policy.sets.insert(0, other);
    assert_eq!(case.accepted().set.as_deref(), Some("set"));
    case.policy.sets.remove(0);
    case.accepted();
}

#[test]
fn a_machine_of_google_without_reports_joins_by_googles_word() {
    let mut case = google(Platform::GcpSevEs, 2);
    common(&mut case);
    let Some(Machine::Google { certificates, report }) = case.evidence.machine.clone() else {
        panic!("it is Google's")
    };
    assert!(report.is_none());
    case.policy.place = Some(Place::google("another".into(), "europe-west4"));
    case.refused(&["gcp.project"]);
    case.policy.place = Some(Place::google("project".into(), "europe-west1"));
    case.refused(&["gcp.zone"]);
    case.policy.place = Some(Place::azure());
    case.refused(&["policy.place"]);
    case.policy.place = Some(Place::google("project".into(), "europe-west4"));
    let report = Some(Report::Tdx { quote: vec![1], event_log: vec![] });
    case.evidence.machine = Some(Machine::Google { certificates: certificates.clone(), report });
    // The nonce would have to name the report that doesn't belong there.
    case.refused(&["tpm.quote.nonce", "evidence.machine"]);
    case.evidence.machine = Some(Machine::Google { certificates, report: None });
    let root = provider::issuer("somebody else");
    let google = std::mem::replace(&mut case.endorsers.google, Anchors::new([root.der().as_ref()]).unwrap());
    case.refused(&["gcp.ak.chain"]);
    case.endorsers.google = google;
    let other = self::google(Platform::GcpSevEs, 2);
    assert_eq!(case.judge().origin, Origin::Machine);
    case.hello.ak_public = other.hello.ak_public;
    case.refused(&["evidence.machine.key"]);
    // Nobody's word on the key that it only names: a member whose key that is has shown nothing.
    assert_eq!(case.judge().origin, Origin::Unknown);
}

#[test]
fn a_machine_of_google_that_says_no_encryption_is_refused() {
    google(Platform::GcpSevEs, 1).refused(&["gcp.technology"]);
    let mut silent = google(Platform::GcpSevEs, 2);
    silent.evidence.event_log.clear();
    silent.refused(&["gcp.technology"]);
}

#[test]
fn a_machine_of_google_with_tdx_joins_by_its_quote_and_googles_word() {
    let mut case = google(Platform::GcpTdx, 3);
    common(&mut case);
    let Some(Hardware::Tdx(hardware)) = &mut case.policy.sets[0].hardware else { panic!("it is TDX") };
    let mrtd = std::mem::replace(&mut hardware.mrtd, Requirement::Exact(Hex([1; 48])));
    case.refused(&["tdx.mrtd"]);
    let Some(Hardware::Tdx(hardware)) = &mut case.policy.sets[0].hardware else { panic!("it is TDX") };
    hardware.mrtd = mrtd;
    let collateral = std::mem::take(&mut case.endorsers.collateral);
    case.refused(&["tdx.collateral.structure"]);
    assert_eq!(case.lacking(), ["tdx.b0c06f000000"]);
    case.endorsers.collateral = collateral;
    let Some(Machine::Google { certificates, .. }) = case.evidence.machine.clone() else { panic!("it is Google's") };
    case.evidence.machine = Some(Machine::Google { certificates, report: None });
    case.refused(&["tpm.quote.nonce", "evidence.machine"]);
}

/// A genuine report of another conversation, or about another key, with a quote that names it.
#[test]
fn a_quote_of_tdx_about_something_else_is_refused() {
    for about in [report_data(&[8; 32], b"key"), report_data(&BINDING, b"another")] {
        let report = |_: &[u8; 64]| Some(Report::Tdx { quote: quote_about(&about), event_log: vec![] });
        google_with(Platform::GcpTdx, 3, endorsers(&Scene::good(4, 2)), report).refused(&["gcp.report_data"]);
    }
}

/// Changes one clause of a policy.
type Change = fn(&mut snp::Policy);

/// What can be wrong with a machine's SEV-SNP report, whatever brings it: exactly these clauses say so.
fn wrong_reports(case: &mut Case, amd: &Amd) {
    let Some(Hardware::Snp(wanted)) = case.policy.sets[0].hardware.clone() else { panic!("it is SEV-SNP") };
    let changes: [(&str, Change); 3] = [
        ("snp.measurement", |policy| policy.measurement = Requirement::Exact(Hex([1; 48]))),
        ("snp.host_data", |policy| policy.host_data = Requirement::Exact(Hex([1; 32]))),
        ("snp.policy.smt", |policy| policy.smt_allowed = Requirement::Exact(true)),
    ];
    for (clause, change) in changes {
        let mut policy = wanted.clone();
        change(&mut policy);
        case.policy.sets[0].hardware = Some(Hardware::Snp(policy));
        case.refused(&[clause]);
    }
    case.policy.sets[0].hardware = Some(Hardware::Snp(wanted));
    let collateral = std::mem::take(&mut case.endorsers.collateral);
    case.refused(&["snp.crl"]);
    // EC2's reports are signed by its own key.
    let list = if case.platform == Platform::AwsSnp { "snp-vlek-crl.Milan" } else { "snp-crl.Milan" };
    assert_eq!(case.lacking(), [list]);
    // What another thing stands against wants nothing.
    let place = case.policy.place.take();
    assert_eq!(case.lacking(), [""; 0]);
    case.policy.place = place;
    case.endorsers.collateral = collateral;
    case.endorsers.amd = snp::Anchors::amd();
    case.refused(&["snp.intermediate.issuer"]);
    case.endorsers.amd = amd.anchors();
    case.accepted();
}

#[test]
fn a_machine_of_google_with_snp_joins_by_its_report_and_googles_word() {
    let amd = Amd::new(KeyKind::Vcek);
    let machine = |endorsers: Endorsers, report: &dyn Fn(&[u8; 64]) -> Vec<u8>, certificates: &[u8]| {
        let certificates = || certificates.to_vec();
        let report = |data: &[u8; 64]| Some(Report::Snp { report: report(data), certificates: certificates() });
        google_with(Platform::GcpSnp, 4, endorsers, report)
    };
    let good = |data: &[u8; 64]| amd.report(data);
    let mut case = machine(with_amd(&amd), &good, &amd.table());
    common(&mut case);
    wrong_reports(&mut case, &amd);
    // Without the host's table the certificate has to have been fetched.
    machine(with_amd(&amd), &good, &[]).refused(&["snp.vek.structure"]);
    let mut fetched = with_amd(&amd);
    let (chip, tcb) = Amd::names();
    let vcek = Key::SnpVcek { product: "Milan".into(), chip, tcb };
    let entry = Entry { bytes: amd.vek(), fetched: Timestamp::from_second(NOW).unwrap() };
    fetched.collateral.put(vcek, entry).unwrap();
    // The intermediate is AMD's own then, which didn't issue the test's.
    machine(fetched, &good, &[]).refused(&["snp.intermediate.issuer", "snp.vek.issuer"]);
    machine(with_amd(&amd), &|_| amd.report(&[1; 64]), &amd.table()).refused(&["gcp.report_data"]);
    let debugged = |data: &[u8; 64]| {
        let mut report = amd.report(data);
        report[10] |= 1 << 3;
        amd.sign(&mut report);
        report
    };
    machine(with_amd(&amd), &debugged, &amd.table()).refused(&["snp.policy.debug"]);
    let unsigned = |data: &[u8; 64]| {
        let mut report = amd.report(data);
        report[144] ^= 1;
        report
    };
    machine(with_amd(&amd), &unsigned, &amd.table()).refused(&["snp.signature"]);
}

#[test]
fn a_machine_of_azure_with_tdx_joins_by_its_paravisors_report() {
    let swtpm = Swtpm::start().unwrap();
    simulated::make_paravisor_key(&swtpm.tcti());
    let (mut tpm, key, hello) = node(&swtpm, AttestationKey::Azure);
    let scene = Scene::good(4, 2);
    let mut of = |user_data: &[u8]| {
        let report = simulated::hcl_report(simulated::TDX, &key, user_data);
        let quote = quote_about(&hcl::Report::parse(&report).unwrap().report_data().0);
        let mut evidence = tpm.evidence(&tpm_nonce(&BINDING, &report), vec![]).unwrap();
        evidence.event_log.clear();
        evidence.machine = Some(Machine::Azure { report, endorsement: Endorsement::Tdx { quote } });
        evidence
    };
    let evidence = of(&report_data(&BINDING, &key.to_bytes()));
    let platform = Platform::AzureTdx;
    let policy = policy(platform, &evidence, Place::azure());
    assert_eq!(policy.validate(), Ok(()));
    let endorsers = endorsers(&scene);
    let mut case = Case { platform, hello, evidence, policy, endorsers, pcr15: pcr15_from_digest(&LAUNCH) };
    common(&mut case);
    let whole = case.evidence.machine.clone();
    let Some(Machine::Azure { report, .. }) = whole.clone() else { panic!("it is Azure's") };
    let endorsement = Endorsement::Snp { vek: vec![1], intermediate: vec![] };
    case.evidence.machine = Some(Machine::Azure { report: report.clone(), endorsement });
    case.refused(&["evidence.machine"]);
    let endorsement = Endorsement::Tdx { quote: quote_about(&[3; 64]) };
    case.evidence.machine = Some(Machine::Azure { report, endorsement });
    case.refused(&["tdx.report_data"]);
    case.evidence.machine = whole;
    case.accepted();
    case.evidence = of(&report_data(&[8; 32], &key.to_bytes()));
    case.refused(&["azure.user_data"]);
}

#[test]
fn a_machine_of_azure_with_snp_joins_by_its_paravisors_report() {
    let swtpm = Swtpm::start().unwrap();
    simulated::make_paravisor_key(&swtpm.tcti());
    let (mut tpm, key, hello) = node(&swtpm, AttestationKey::Azure);
    let amd = Amd::new(KeyKind::Vcek);
    let mut of = |about: Option<[u8; 64]>| {
        let mut report = simulated::hcl_report(simulated::SNP, &key, &report_data(&BINDING, &key.to_bytes()));
        let about = about.unwrap_or_else(|| hcl::Report::parse(&report).unwrap().report_data().0);
        report[0x20..][..1184].copy_from_slice(&amd.report(&about));
        let mut evidence = tpm.evidence(&tpm_nonce(&BINDING, &report), vec![]).unwrap();
        evidence.event_log.clear();
        let endorsement = Endorsement::Snp { vek: amd.vek(), intermediate: amd.intermediate() };
        evidence.machine = Some(Machine::Azure { report, endorsement });
        evidence
    };
    let (evidence, platform) = (of(None), Platform::AzureSnp);
    let policy = policy(platform, &evidence, Place::azure());
    assert_eq!(policy.validate(), Ok(()));
    let endorsers = with_amd(&amd);
    let mut case = Case { platform, hello, evidence, policy, endorsers, pcr15: pcr15_from_digest(&LAUNCH) };
    common(&mut case);
    wrong_reports(&mut case, &amd);
    case.evidence = of(Some([1; 64]));
    case.refused(&["snp.report_data"]);
}

#[test]
fn a_machine_of_ec2_joins_by_awss_document_over_the_same_registers() {
    let swtpm = Swtpm::start().unwrap();
    let (mut tpm, key, hello) = node(&swtpm, AttestationKey::Aws);
    let root = provider::issuer("AWS, simulated");
    let mut evidence = tpm.evidence(&BINDING, vec![]).unwrap();
    evidence.event_log.clear();
    assert_eq!(evidence.pcrs.len(), 16 * 48);
    assert_eq!(evidence.pcrs[15 * 48..], pcr15_from_digest(&LAUNCH).sha384);
    let of = |registers: &[u8], nonce: &[u8], key: &[u8]| {
        Some(Machine::Aws { document: provider::document(&root, registers, nonce, key, NOW), report: None })
    };
    evidence.machine = of(&evidence.pcrs, &BINDING, &key.to_bytes());
    let platform = Platform::AwsNitroTpm;
    let policy = policy(platform, &evidence, Place::aws("us-east-1".into()));
    assert_eq!(policy.validate(), Ok(()));
    let aws = Anchors::new([root.der().as_ref()]).unwrap();
    let endorsers = Endorsers { aws, ..Endorsers::pinned(Cache::default()) };
    let mut case = Case { platform, hello, evidence, policy, endorsers, pcr15: pcr15_from_digest(&LAUNCH) };
    common(&mut case);
    let pcrs = case.evidence.pcrs.clone();
    case.evidence.machine = of(&pcrs, &[8; 32], &key.to_bytes());
    case.refused(&["nitro.nonce"]);
    case.evidence.machine = of(&pcrs, &BINDING, &[4; 65]);
    case.refused(&["nitro.public_key", "nitro.quote.key"]);
    let mut other = pcrs.clone();
    other[0] ^= 1;
    case.evidence.machine = of(&other, &BINDING, &key.to_bytes());
    case.refused(&["nitro.quote.registers"]);
    case.evidence.machine = of(&pcrs, &BINDING, &key.to_bytes());
    case.policy.place = Some(Place::aws("eu-west-1".into()));
    case.refused(&["nitro.region"]);
    case.policy.place = Some(Place::aws("us-east-1".into()));
    case.platform = Platform::AwsSnp;
    case.refused(&["policy.empty"]);
}

#[test]
fn a_machine_of_ec2_with_snp_joins_by_a_report_under_its_regions_key() {
    let amd = Amd::new(KeyKind::Vlek);
    let made = |about: Option<[u8; 64]>| {
        let swtpm = Swtpm::start().unwrap();
        let (mut tpm, key, hello) = node(&swtpm, AttestationKey::Aws);
        let root = provider::issuer("AWS, simulated");
        let report = amd.report(&about.unwrap_or_else(|| report_data(&BINDING, &key.to_bytes())));
        let nonce = tpm_nonce(&BINDING, &report);
        let mut evidence = tpm.evidence(&nonce, vec![]).unwrap();
        evidence.event_log.clear();
        let document = provider::document(&root, &evidence.pcrs, &nonce, &key.to_bytes(), NOW);
        let report = Some(Report::Snp { report, certificates: amd.table() });
        evidence.machine = Some(Machine::Aws { document, report });
        let platform = Platform::AwsSnp;
        let policy = policy(platform, &evidence, Place::aws("us-east-1".into()));
        assert_eq!(policy.validate(), Ok(()));
        let endorsers = Endorsers { aws: Anchors::new([root.der().as_ref()]).unwrap(), ..with_amd(&amd) };
        Case { platform, hello, evidence, policy, endorsers, pcr15: pcr15_from_digest(&LAUNCH) }
    };
    let mut case = made(None);
    common(&mut case);
    wrong_reports(&mut case, &amd);
    made(Some([1; 64])).refused(&["nitro.snp.report_data"]);
}
