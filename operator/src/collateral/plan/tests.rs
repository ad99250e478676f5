//! What is needed, and how what is there stands: tables.

use constellation_attestation::{
    platform::Platform,
    snp::{Tcb, tcb::PerProduct},
};
use constellation_crds::node::Mismatch;

use super::*;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn now() -> Timestamp {
    "2026-11-20T00:00:00Z".parse().unwrap()
}

fn list(product: &str) -> Key {
    Key::SnpCrl { product: product.into(), kind: KeyKind::Vcek }
}

fn set(platform: Platform, change: impl FnOnce(&mut snp::Policy)) -> MeasurementSet {
    let mut policy = snp::Policy::strict();
    let floor: Tcb = "bl=4,tee=0,snp=24,ucode=219".parse().unwrap();
    policy.reported_tcb = PerProduct::at_least([(Product::Milan, floor), (Product::Genoa, floor)]);
    change(&mut policy);
    let hardware = Some(Hardware::Snp(Box::new(policy)));
    MeasurementSet { name: "a".into(), platform, pcrs: [].into(), events: [].into(), hardware }
}

fn refused(mismatches: &[(&str, Option<&str>)]) -> AttestationResult {
    let mismatches = mismatches.iter().map(|(clause, expected)| Mismatch {
        clause: (*clause).to_owned(),
        expected: expected.map(str::to_owned),
        ..Mismatch::default()
    });
    AttestationResult { verdict: "Refused".into(), mismatches: mismatches.collect(), ..AttestationResult::default() }
}

fn keys(wants: &BTreeMap<Key, Want>) -> Vec<Key> {
    wants.keys().cloned().collect()
}

#[test]
fn a_policy_wants_the_lists_of_the_products_that_it_accepts() {
    let wanted = |change: fn(&mut snp::Policy)| keys(&wants("aws-snp", &[set(Platform::AwsSnp, change)], [], []));
    assert_eq!(wanted(|_| ()), [list("Genoa"), list("Milan")], "with a floor, of all products");
    assert_eq!(wanted(|policy| policy.product = Requirement::Exact(Product::Milan)), [list("Milan")]);
    assert_eq!(wanted(|policy| policy.product = Requirement::AnyOf(vec![Product::Turin])), []);
    let clouds = |policy: &mut snp::Policy| {
        policy.product = Requirement::Exact(Product::Milan);
        policy.key = Requirement::AnyOf(vec![KeyKind::Vcek, KeyKind::Vlek]);
    };
    assert_eq!(wanted(clouds), [list("Milan"), Key::SnpCrl { product: "Milan".into(), kind: KeyKind::Vlek }]);
    let waived = |policy: &mut snp::Policy| policy.revocation = Requirement::Waived { reason: "a test".into() };
    assert_eq!(wanted(waived), []);
    assert_eq!(keys(&wants("gcp-snp", &[set(Platform::AwsSnp, |_| ())], [], [])), [], "of another platform");
}

#[test]
fn a_platform_without_makers_wants_nothing_whatever_its_machines_say() {
    let result = refused(&[(clause::COLLATERAL, Some("snp-crl.Milan"))]);
    for platform in ["qemu-vtpm", "simulated", "nonsense"] {
        assert_eq!(
            keys(&wants(platform, &[set(Platform::AwsSnp, |_| ())], [&list("Milan")], [&result])),
            [],
            "{platform}"
        );
    }
    assert_eq!(keys(&wants("aws-snp", [], [], [&result])), [list("Milan")]);
}

#[test]
fn a_machine_names_only_identifiers_of_their_exact_length_and_not_many() {
    let good = "tdx.00806f050000";
    assert_eq!(lacking(&refused(&[(clause::COLLATERAL, Some(good))])).len(), 1);
    for wrong in
        ["tdx.00806f05", "tdx.../../etc", "https://attacker.example/", "snp-crl.Rome", "tdx.00806f050000/x", ""]
    {
        assert_eq!(lacking(&refused(&[(clause::COLLATERAL, Some(wrong))])), [], "{wrong}");
    }
    let names: Vec<_> = (0..99).map(|n| format!("tdx.{n:012x}")).collect();
    let many: Vec<_> = names.iter().map(|name| (clause::COLLATERAL, Some(name.as_str()))).collect();
    let wants = wants("gcp-tdx", [], [], [&refused(&many)]);
    assert_eq!(wants.len(), MOST_HINTS);
    assert!(wants.values().all(|want| want.hint));
}

#[test]
fn a_machine_that_is_refused_for_more_wants_nothing() {
    let want = (clause::COLLATERAL, Some("tdx.00806f050000"));
    let missing = constellation_attestation::tdx::clause::COLLATERAL_STRUCTURE;
    assert_eq!(lacking(&refused(&[want, (missing, None)])).len(), 1);
    assert_eq!(lacking(&refused(&[want, (missing, None), ("tpm.pcr.11", None)])), []);
    assert_eq!(lacking(&AttestationResult { verdict: "Accepted".into(), ..refused(&[want]) }), []);
}

#[test]
fn what_the_owner_wants_or_wrote_is_no_hint_and_keeps_the_place_that_a_machine_names() {
    let issuer = Key::GoogleIssuer { key: "ab".repeat(20) };
    let mut result = refused(&[(clause::COLLATERAL, Some(&issuer.to_string()))]);
    result.mismatches[0].actual = Some("http://a/".into());
    let wants = wants("gcp-sev-es", [], [&issuer], [&result]);
    let need = Need { key: issuer.clone(), place: Some("http://a/".into()) };
    assert_eq!(wants[&issuer], Want { need, hint: false });
}

#[test]
fn what_is_there_is_fresh_then_ageing_then_lacking() {
    let days = |n: i64| HOUR * i32::try_from(n * 24).unwrap();
    let far = now() + days(3000);
    let stood = |key: &Key, age: SignedDuration, until| {
        state(key, Some(&Stored { fetched: now() - age, until: Ok(until) }), now())
    };
    let crl = list("Milan");
    assert_eq!(stood(&crl, days(0), far), State::Fresh);
    assert_eq!(stood(&crl, REFRESH - HOUR, far), State::Fresh);
    assert_eq!(stood(&crl, REFRESH, far), State::Ageing(days(10)));
    assert!(!stood(&crl, days(24), far).is_urgent() && stood(&crl, days(26), far).is_urgent());
    assert_eq!(stood(&crl, GREATEST_AGE, far), State::Lacking("is too old".into()));
    assert!(!State::Ageing(WARN).is_urgent());
    // Its own dates end sooner.
    assert_eq!(stood(&crl, days(1), now() + BEFORE_END), State::Fresh);
    assert_eq!(stood(&crl, days(1), now() + days(6)), State::Ageing(days(6)));
    assert_eq!(stood(&crl, HOUR, now() + days(6)), State::Fresh, "the maker has no newer one yet");
    assert!(matches!(stood(&crl, HOUR, now()), State::Lacking(_)));
    assert!(matches!(stood(&crl, -HOUR, far), State::Lacking(_)), "from the future");
    assert_eq!(stood(&crl, -SKEW, far), State::Fresh, "by a clock that is a little off");
    // A certificate doesn't age.
    assert_eq!(stood(&Key::GoogleIssuer { key: "ab".into() }, days(300), far), State::Fresh);
    assert!(matches!(state(&crl, None, now()), State::Lacking(_)));
    let bad = Stored { fetched: now(), until: Err("signature doesn't hold".into()) };
    assert_eq!(state(&crl, Some(&bad), now()), State::Lacking("can't be used: signature doesn't hold".into()));
}

#[test]
fn needs_are_named_one_after_the_other() {
    let needs = ["Milan", "Genoa"].map(|product| Need::from(list(product)));
    assert_eq!(names(&needs), "snp-crl.Milan, snp-crl.Genoa");
}
