//! What evidence needs beside what comes with it, and what of that is worth keeping.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

mod snp_factory;
#[allow(dead_code, reason = "shared with tests of quotes")]
mod tdx_factory;

use constellation_attestation::{
    collateral::{Cache, Entry, Key},
    endorsers::{Endorsers, Error, Need, check::Unfit, google_need, needs, snp_needs, tdx_needs},
    protocol::machine::{Machine, Report},
    snp::{self, KeyKind, Product},
    tdx::collateral::{self, Collateral, PckCa},
    x509::{self, chain::MAX_CHAIN},
};
use jiff::Timestamp;
use serde_json::Value;
use snp_factory::{Amd, Template, Who};
use tdx_factory::{NOW, Scene};

fn read(path: &str) -> Vec<u8> {
    std::fs::read(format!("{}/vectors/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn list(product: &str) -> Key {
    Key::SnpCrl { product: product.into(), kind: KeyKind::Vcek }
}

/// AMD has the list for clouds' keys elsewhere.
fn clouds_list(product: &str) -> Key {
    Key::SnpCrl { product: product.into(), kind: KeyKind::Vlek }
}

fn family(fmspc: &str) -> Key {
    Key::Tdx { fmspc: fmspc.into() }
}

fn pinned() -> Endorsers {
    Endorsers::pinned(Cache::default())
}

#[test]
fn a_report_needs_the_list_of_its_root_and_the_certificate_that_its_host_did_not_give() {
    let amd = Amd::new(KeyKind::Vcek);
    let report = amd.report(&[1; 64]);
    let (chip, tcb) = Amd::names();
    let vcek = Key::SnpVcek { product: "Milan".into(), chip, tcb };
    assert_eq!(snp_needs(&report, &[]), [vcek.clone(), list("Milan")]);
    assert_eq!(snp_needs(&report, &amd.table()), [list("Milan")]);
    // A table that can't be read is none.
    assert_eq!(snp_needs(&report, &[1; 24]), [vcek, list("Milan")]);
    // Version 2 has no CPUID: the report doesn't say its product, but a certificate does.
    let old = [&[2], &report[1..]].concat();
    assert_eq!(snp_needs(&old, &[]), []);
    assert_eq!(snp_needs(&old, &amd.table()), [list("Milan")]);
    for nothing in [&report[1..], &[]] {
        assert_eq!(snp_needs(nothing, &[]), []);
    }
}

#[test]
fn of_a_hosts_table_only_the_certificate_of_the_reports_key_is_used() {
    let (processor, cloud) = (Amd::new(KeyKind::Vcek), Amd::new(KeyKind::Vlek));
    let both = Amd::table_of([&processor.vek_entry(), &cloud.vek_entry(), &cloud.ask_entry()]);
    let endorsers = pinned();
    for (own, brought_issuer, needed) in [(&processor, false, list("Milan")), (&cloud, true, clouds_list("Milan"))] {
        let report = own.report(&[1; 64]);
        let said = endorsers.amd(&report, &both, now()).unwrap();
        assert_eq!(said.vek, own.vek());
        // The other kind's issuer isn't this one's.
        assert_eq!(said.intermediate == cloud.intermediate(), brought_issuer);
        assert_eq!(snp_needs(&report, &both), [needed]);
    }
    // After an update: what the host gives is of the TCB before, and the right one is to be had.
    let mut template = Template::good(Product::Milan, KeyKind::Vcek);
    *template.claim(&[3, 8]) = vec![2, 1, 1];
    let old = Amd::made(&template).table();
    let (chip, tcb) = Amd::names();
    let vcek = Key::SnpVcek { product: "Milan".into(), chip, tcb };
    let report = processor.report(&[1; 64]);
    assert_eq!(snp_needs(&report, &old), [vcek.clone(), list("Milan")]);
    assert!(endorsers.amd(&report, &old, now()).is_err());
    let mut fetched = pinned();
    fetched.collateral.put(vcek, Entry { bytes: processor.vek(), fetched: now() }).unwrap();
    assert_eq!(fetched.amd(&report, &old, now()).unwrap().vek, processor.vek());
    // Who hides the processor can't be helped: it is refused for its TCB.
    let mut hidden = report;
    hidden[416..480].fill(0);
    assert!(endorsers.amd(&hidden, &old, now()).is_ok());
}

#[test]
fn nobody_is_asked_for_the_certificate_of_a_clouds_key_or_of_a_hidden_processor() {
    let amd = Amd::new(KeyKind::Vlek);
    let report = amd.report(&[1; 64]);
    assert_eq!(snp_needs(&report, &amd.table()), [clouds_list("Milan")]);
    assert_eq!(snp_needs(&report, &[]), []);
    let mut hidden = Amd::new(KeyKind::Vcek).report(&[1; 64]);
    hidden[416..480].fill(0);
    assert_eq!(snp_needs(&hidden, &[]), []);
}

#[test]
fn a_quote_needs_the_collateral_of_its_platform_family() {
    let quote = read("dcap-qvl/tdx_quote");
    assert_eq!(tdx_needs(&quote), [family("b0c06f000000")]);
    assert_eq!(tdx_needs(&Scene::good(4, 2).quote()), [family("b0c06f000000")]);
    for nothing in [read("synthetic-tdx/neg_ecdsa_high_cert_type/quote.bin"), quote[..600].to_vec(), Vec::new()] {
        assert_eq!(tdx_needs(&nothing), []);
    }
}

/// Genuine: Google's word about the key of a TPM.
fn google_key() -> Vec<u8> {
    x509::from_pem(&read("go-tpm-tools/certificates/pca_tpm_rsa_sign_cert.pem"), 1).unwrap().remove(0)
}

/// Genuine: its issuer.
fn google_intermediate() -> Vec<u8> {
    let bytes = read("go-tpm-tools/ca/gcp_ek_ak_ca_intermediate_v3.crt");
    x509::from_pem(&bytes, 1).ok().and_then(|mut all| all.pop()).unwrap_or(bytes)
}

const GOOGLE_KEY: &str = "e96673546766 1befdd65bfe5e85ce3910b9b0552";

fn issuer() -> Key {
    Key::GoogleIssuer { key: GOOGLE_KEY.replace(' ', "") }
}

#[test]
fn a_key_of_googles_needs_its_issuer_and_says_where_that_is() {
    let place = "http://privateca-content-633beb94-0000-25c1-a9d7-001a114ba6e8.storage.googleapis.com/c59a22589ab43a57e3a4/ca.crt";
    assert_eq!(google_need(&google_key()), Some(Need { key: issuer(), place: Some(place.into()) }));
    let above = google_need(&google_intermediate()).unwrap();
    assert!(above.place.unwrap().ends_with("/032bf9d39db4fa06aade/ca.crt"));
    for nothing in [&google_key()[1..], &[], snp_root()] {
        assert_eq!(google_need(nothing), None);
    }
}

#[test]
fn a_chain_of_googles_is_what_came_and_what_was_fetched_of_its_issuer() {
    let with = |bytes: Vec<u8>| {
        let mut endorsers = pinned();
        endorsers.collateral.put(issuer(), Entry { bytes, fetched: now() }).unwrap();
        endorsers
    };
    let (key, issuer, above) = (google_key(), google_intermediate(), snp_root().to_vec());
    let came = vec![key.clone()];
    assert_eq!(pinned().google(&came, now()), came);
    assert_eq!(with(issuer.clone()).google(&came, now()), [key.clone(), issuer.clone()]);
    assert_eq!(with(issuer.clone()).google(&[], now()), [[0; 0]; 0]);
    // Of several certificates that were fetched, as many as a chain has room for; nothing else.
    let several = [issuer.clone(), above.clone()].concat();
    assert_eq!(with(several.clone()).google(&came, now()), [key.clone(), issuer.clone(), above.clone()]);
    let tail = [several.as_slice(), &[1, 2, 3]].concat();
    assert_eq!(with(tail).google(&came, now()), [key.clone(), issuer.clone(), above]);
    let full = vec![key; MAX_CHAIN - 1];
    assert_eq!(with(several).google(&full, now()), [full.as_slice(), &[issuer]].concat());
}

#[test]
fn intels_word_about_a_quote_is_what_was_fetched_for_its_family() {
    let quote = read("dcap-qvl/tdx_quote");
    let mut endorsers = pinned();
    assert!(matches!(endorsers.intel(&quote, now()), Err(Error::Collateral(_))));
    assert!(matches!(endorsers.intel(&[], now()), Err(Error::Unnamed)));
    for (fmspc, bytes) in [("b0c06f000000", vec![1, 2]), ("00806f050000", vec![3])] {
        endorsers.collateral.put(family(fmspc), Entry { bytes, fetched: now() }).unwrap();
    }
    assert_eq!(endorsers.intel(&quote, now()).unwrap(), [1, 2]);
    let later = now() + endorsers.greatest_age + jiff::SignedDuration::from_secs(1);
    assert!(matches!(endorsers.intel(&quote, later), Err(Error::Collateral(_))));
}

/// A certificate that names no issuer's key.
fn snp_root() -> &'static [u8] {
    include_bytes!("../src/snp/ark_milan.der")
}

#[test]
fn a_machine_lacks_what_it_needs_until_it_is_there_and_young_enough() {
    let amd = Amd::new(KeyKind::Vcek);
    let report = Report::Snp { report: amd.report(&[1; 64]), certificates: amd.table() };
    let machine = Machine::Google { certificates: vec![google_key()], report: Some(report) };
    let mut endorsers = pinned();
    let of = |endorsers: &Endorsers, at| {
        endorsers.lacking(&machine, at).into_iter().map(|need| need.key).collect::<Vec<_>>()
    };
    assert_eq!(of(&endorsers, now()), [list("Milan"), issuer()]);
    for (key, bytes) in [(list("Milan"), amd.crl()), (issuer(), google_intermediate())] {
        endorsers.collateral.put(key, Entry { bytes, fetched: now() }).unwrap();
    }
    assert_eq!(of(&endorsers, now()), []);
    // A list is of its day; a certificate has its own dates.
    let later = now() + endorsers.greatest_age + jiff::SignedDuration::from_secs(1);
    assert_eq!(of(&endorsers, later), [list("Milan")]);
    // Who brings the issuer lacks none.
    let whole = Machine::Google { certificates: vec![google_key(), google_intermediate()], report: None };
    assert_eq!(pinned().lacking(&whole, now()), []);
}

#[test]
fn only_what_fails_for_want_of_something_is_wanting() {
    assert!(needs::only_wanting([snp::clause::CRL, "evidence.collateral"]));
    assert!(!needs::only_wanting([snp::clause::CRL, "tpm.pcr.11"]));
}

#[test]
fn what_was_revoked_in_any_list_of_the_product_stays_revoked() {
    let cloud = Amd::new(KeyKind::Vlek);
    let revoking = |serial: u8| {
        let mut template = Template::good(Product::Milan, KeyKind::Vlek);
        template.crl.revoked = vec![serial];
        Amd::made(&template).crl()
    };
    let old = now() - jiff::SignedDuration::from_hours(24 * 40);
    for (key, bytes, fetched, found) in [
        (list("Milan"), revoking(2), now(), true),
        (list("Milan"), revoking(2), old, true),
        (clouds_list("Milan"), revoking(2), old, true),
        (list("Milan"), revoking(9), now(), false),
        (list("Genoa"), revoking(2), now(), false),
    ] {
        let mut endorsers = pinned();
        let own = Entry { bytes: cloud.crl(), fetched: now() };
        endorsers.collateral.put(clouds_list("Milan"), own.clone()).unwrap();
        if key == clouds_list("Milan") {
            endorsers = pinned();
        }
        endorsers.collateral.put(key.clone(), Entry { bytes: bytes.clone(), fetched }).unwrap();
        let (vek, intermediate) = (cloud.vek(), cloud.intermediate());
        let given = endorsers.amd_of(&vek, &intermediate, now()).crl.unwrap();
        assert_eq!(given == bytes, found, "{key} {fetched}");
        assert!(found || given == own.bytes);
    }
}

#[test]
fn a_list_is_kept_that_its_products_root_signed_and_that_is_in_date() {
    let amd = Amd::new(KeyKind::Vcek);
    let endorsers = Endorsers { amd: amd.anchors(), ..pinned() };
    let until: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(endorsers.check(&list("Milan"), &amd.crl(), now()), Ok(until));
    let certificate = |result| matches!(result, Err(Unfit::Certificate(_)));
    let mut forged = Template::good(Product::Milan, KeyKind::Vcek);
    forged.crl.signer = Who::Stranger;
    for (product, bytes, at) in [
        ("Milan", amd.crl(), until + jiff::SignedDuration::from_secs(1)),
        ("Milan", Amd::made(&forged).crl(), now()),
        ("Genoa", amd.crl(), now()),
        ("Milan", amd.crl()[..99].to_vec(), now()),
        ("Milan", [amd.crl(), vec![0]].concat(), now()),
        ("Milan", Vec::new(), now()),
    ] {
        assert!(certificate(endorsers.check(&list(product), &bytes, at)), "{product} {at}");
    }
    assert!(certificate(pinned().check(&list("Milan"), &amd.crl(), now())), "an attacker's root");
}

#[test]
fn a_processors_certificate_is_kept_for_exactly_that_processor_and_tcb() {
    let vek = read("go-sev-guest/vcek.testcer");
    let report = snp::Report::parse(&read("go-sev-guest/attestation.bin")[..snp::parse::BYTES]).unwrap();
    let (chip, tcb) = (report.chip_id.to_string(), report.reported_tcb.to_string());
    let key = |product: &str, chip: &str, tcb: &str| Key::SnpVcek {
        product: product.into(),
        chip: chip.into(),
        tcb: tcb.into(),
    };
    assert!(pinned().check(&key("Milan", &chip, &tcb), &vek, now()).unwrap() > now());
    let other = |text: &str| text.replacen(|_: char| true, if text.starts_with('0') { "1" } else { "0" }, 1);
    for wrong in [key("Genoa", &chip, &tcb), key("Milan", &other(&chip), &tcb), key("Milan", &chip, &other(&tcb))] {
        assert!(matches!(pinned().check(&wrong, &vek, now()), Err(Unfit::Other(_))), "{wrong}");
    }
    let mut forged = vek.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(pinned().check(&key("Milan", &chip, &tcb), &forged, now()), Err(Unfit::Clauses(_))));
    let far = Timestamp::from_second(NOW * 2).unwrap();
    assert!(matches!(pinned().check(&key("Milan", &chip, &tcb), &vek, far), Err(Unfit::Clauses(_))));
}

#[test]
fn an_issuer_is_kept_under_its_own_key_if_googles_root_issued_it() {
    assert!(pinned().check(&issuer(), &google_intermediate(), now()).unwrap() > now());
    let other = Key::GoogleIssuer { key: "ab".repeat(20) };
    assert!(matches!(pinned().check(&other, &google_intermediate(), now()), Err(Unfit::Other(_))));
    for wrong in [google_key(), snp_root().to_vec(), Vec::new()] {
        assert!(matches!(pinned().check(&issuer(), &wrong, now()), Err(Unfit::Certificate(_))));
    }
}

/// The four answers of Intel's service that collateral is made of.
fn answers(collateral: &Value) -> [(Vec<u8>, String); 4] {
    let text = |member: &str| collateral[member].as_str().unwrap().to_owned();
    let signed = |member: &str, name: &str| {
        format!("{{\"{name}\":{},\"signature\":\"{}\"}}", text(member), text(&format!("{member}_signature")))
            .into_bytes()
    };
    let der = |member: &str| hex::decode(text(member)).unwrap();
    [
        (signed("tcb_info", "tcbInfo"), text("tcb_info_issuer_chain")),
        (signed("qe_identity", "enclaveIdentity"), text("qe_identity_issuer_chain")),
        (der("pck_crl"), text("pck_crl_issuer_chain")),
        // A cache gives lists in hex.
        (text("root_ca_crl").into_bytes(), String::new()),
    ]
}

fn taken(answers: [(Vec<u8>, String); 4]) -> Vec<u8> {
    let mut collateral = Collateral::default();
    let family = "b0c06f000000".parse().unwrap();
    for (need, (answer, chain)) in collateral::needs(&family, PckCa::Platform).iter().zip(answers) {
        collateral.take(need, &answer, chain).unwrap();
    }
    serde_json::to_vec(&collateral).unwrap()
}

#[test]
fn intels_answers_are_kept_for_their_family_if_all_of_it_is_signed_and_in_date() {
    let scene = Scene::good(4, 2);
    let endorsers = Endorsers { intel: scene.anchors(), ..pinned() };
    let good = taken(answers(&scene.collateral()));
    let until: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    assert_eq!(endorsers.check(&family("b0c06f000000"), &good, now()), Ok(until));
    assert!(matches!(endorsers.check(&family("00806f050000"), &good, now()), Err(Unfit::Other(_))));
    let clauses = |result| matches!(result, Err(Unfit::Clauses(_)));
    assert!(clauses(pinned().check(&family("b0c06f000000"), &good, now())), "an attacker's root");
    let after = until + jiff::SignedDuration::from_secs(1);
    assert!(clauses(endorsers.check(&family("b0c06f000000"), &good, after)));
    assert!(clauses(endorsers.check(&family("b0c06f000000"), b"{}", now())));
    for change in [
        |scene: &mut Scene| scene.signed_by = tdx_factory::Who::Stranger,
        |scene: &mut Scene| scene.pck_crl.issuer = tdx_factory::Who::Stranger,
        |scene: &mut Scene| scene.root_crl.issuer = tdx_factory::Who::Stranger,
        |scene: &mut Scene| scene.root_crl.next_year = 2026,
        |scene: &mut Scene| scene.pck_crl.next_year = 2026,
        |scene: &mut Scene| scene.root_crl.revoked = vec![scene.signer.serial],
        |scene: &mut Scene| scene.root_crl.revoked = vec![scene.ca.serial],
        |scene: &mut Scene| scene.ca.name = "Intel SGX PCK Certificate",
        |scene: &mut Scene| scene.qe_identity["nextUpdate"] = "2026-11-02T00:00:00Z".into(),
    ] {
        let mut wrong = scene.clone();
        change(&mut wrong);
        let bytes = serde_json::to_vec(&wrong.collateral()).unwrap();
        assert!(clauses(endorsers.check(&family("b0c06f000000"), &bytes, now())));
    }
}

#[test]
fn genuine_collateral_is_kept_in_its_time() {
    let json = read("dcap-qvl/tdx_quote_collateral.json");
    let whole: Value = serde_json::from_slice(&json).unwrap();
    let tcb_info: Value = serde_json::from_str(whole["tcb_info"].as_str().unwrap()).unwrap();
    let issued: Timestamp = tcb_info["issueDate"].as_str().unwrap().parse().unwrap();
    let at = issued + jiff::SignedDuration::from_hours(24);
    assert!(pinned().check(&family("b0c06f000000"), &json, at).unwrap() > at);
    let taken = taken(answers(&whole));
    assert!(pinned().check(&family("b0c06f000000"), &taken, at).unwrap() > at);
}
