//! Makers that behave as their services do, over TLS, and each way in which they or the network don't.

mod fakes;
#[path = "../../../attestation/tests/snp_factory/mod.rs"]
mod snp_factory;
#[allow(dead_code, reason = "shared with tests of quotes")]
#[path = "../../../attestation/tests/tdx_factory/mod.rs"]
mod tdx_factory;

use std::sync::LazyLock;

use constellation_attestation::{
    appraise::clause,
    platform::Platform,
    policy::Hardware,
    protocol::machine::Report,
    reference::Requirement,
    snp::{self, KeyKind, Product, tcb::PerProduct},
};
use constellation_crds::node::Mismatch;
use jiff::SignedDuration;

use self::{
    fakes::{Maker, Reply, Scene, proxy},
    snp_factory::Amd,
};
use super::*;

/// One pair of RSA keys for all tests.
static AMD: LazyLock<Amd> = LazyLock::new(|| Amd::new(KeyKind::Vcek));
const CRL: &str = "/kds/vcek/v1/Milan/crl";

fn now() -> Timestamp {
    Timestamp::from_second(tdx_factory::NOW).unwrap()
}

fn crl() -> Key {
    Key::SnpCrl { product: "Milan".into(), kind: KeyKind::Vcek }
}

fn tdx() -> Key {
    Key::Tdx { fmspc: "b0c06f000000".into() }
}

/// A set that wants Milan's revocation list.
fn sets() -> Vec<MeasurementSet> {
    let mut policy = snp::Policy::strict();
    policy.product = Requirement::Exact(Product::Milan);
    policy.reported_tcb = PerProduct::at_least([(Product::Milan, snp_factory::TCB.parse().unwrap())]);
    let hardware = Some(Hardware::Snp(Box::new(policy)));
    let platform = Platform::AwsSnp;
    vec![MeasurementSet { name: "a".into(), platform, pcrs: [].into(), events: [].into(), hardware }]
}

fn refused(name: &str, place: Option<&str>) -> AttestationResult {
    let wanted = Mismatch {
        clause: clause::COLLATERAL.into(),
        expected: Some(name.into()),
        actual: place.map(str::to_owned),
        message: String::new(),
    };
    AttestationResult { verdict: "Refused".into(), mismatches: vec![wanted], ..AttestationResult::default() }
}

fn texts(key: &Key, bytes: Vec<u8>, age: SignedDuration) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_string(), Entry { bytes, fetched: now() - age }.write())])
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// A look at a cluster.
fn look(collector: &Arc<Collector>, platform: &str, texts: &BTreeMap<String, String>) -> Option<Notice> {
    look_of(collector, "n", platform, &[], texts)
}

fn look_of(
    collector: &Arc<Collector>,
    namespace: &str,
    platform: &str,
    results: &[AttestationResult],
    texts: &BTreeMap<String, String>,
) -> Option<Notice> {
    let sets = sets();
    let case = Case { uid: "u", namespace, platform, sets: &sets, results, texts };
    collector.tend(&case, now())
}

#[tokio::test]
async fn what_a_policy_needs_is_fetched_and_after_a_restart_nothing_that_is_fresh() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let none = BTreeMap::new();
    assert_eq!(look(&scene.collector, "aws-snp", &none), None, "it is on its way");
    let stored = scene.api.stored("n", 1).await;
    assert_eq!(stored.keys().map(String::as_str).collect::<Vec<_>>(), ["snp-crl.Milan"]);
    assert_eq!(Entry::read(&stored["snp-crl.Milan"]).unwrap(), Entry { bytes: AMD.crl(), fetched: now() });
    assert_eq!(look(&scene.collector, "aws-snp", &stored), None);
    let restarted = scene.again();
    assert_eq!(look(&restarted, "aws-snp", &stored), None);
    scene.settle().await;
    assert_eq!((maker.asked(), scene.api.writes()), (vec![CRL.to_owned()], 1));
    let text = scene.metrics.text().unwrap();
    assert!(text.contains("constellation_collateral_fetches_total{vendor=\"amd\",outcome=\"ok\"} 1\n"), "{text}");
    let oldest = format!("constellation_collateral_oldest_timestamp_seconds{{vendor=\"amd\"}} {}\n", tdx_factory::NOW);
    assert!(text.contains(&oldest), "{text}");
}

#[tokio::test]
async fn two_at_once_give_one_request_and_another_namespace_none() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()).held())]).await;
    let scene = Scene::new(&maker).await;
    let none = BTreeMap::new();
    for namespace in ["a", "a", "b"] {
        look_of(&scene.collector, namespace, "aws-snp", &[], &none);
    }
    maker.arrived(1).await;
    maker.release();
    scene.api.stored("a", 1).await;
    scene.api.stored("b", 1).await;
    look_of(&scene.collector, "c", "aws-snp", &[], &none);
    scene.api.stored("c", 1).await;
    assert_eq!(maker.asked().len(), 1);
    assert_eq!(scene.api.writes(), 3);
}

/// Each way to fail: nothing is stored, the good one that is there stays, and the owner is told why and what to do.
#[tokio::test]
async fn each_failure_is_told_by_its_cause_and_takes_nothing_away() {
    let mut template = snp_factory::Template::good(Product::Milan, KeyKind::Vcek);
    template.crl.signer = snp_factory::Who::Stranger;
    let stranger = Amd::made(&template).crl();
    let cases: [(&str, Reply, &str, &str); 11] = [
        ("throttled", Reply::status(429, "Retry-After: 600\r\n"), "too many requests", "mirror"),
        ("throttled", Reply::status(503, "Retry-After: 5\r\n"), "too many requests", "mirror"),
        ("status", Reply::status(500, ""), "status 500", "mirror"),
        ("status", Reply::status(403, ""), "status 403", "mirror"),
        ("absent", Reply::status(404, ""), "no such thing", "by hand"),
        ("redirected", Reply::status(302, "Location: /elsewhere\r\n"), "redirect, which isn't followed", "proxy"),
        ("cut", Reply::ok(AMD.crl()).cut(), "was cut", "proxy"),
        ("large", Reply::ok(vec![0; constellation_attestation::collateral::MAX_ENTRY + 1]), "too large", "proxy"),
        ("unfit", Reply::ok(b"<html>".to_vec()), "can't be believed", "proxy"),
        ("unfit", Reply::ok(stranger), "signature doesn't hold", "proxy"),
        ("slow", Reply::ok(AMD.crl()).held(), "didn't answer in time", "egress"),
    ];
    for (word, reply, cause, cure) in cases {
        let maker = Maker::with([(CRL, reply), ("/elsewhere", Reply::ok(AMD.crl()))]).await;
        let scene = Scene::new(&maker).await;
        let none = BTreeMap::new();
        look(&scene.collector, "aws-snp", &none);
        scene.failed(&crl()).await;
        let (reason, message) = look(&scene.collector, "aws-snp", &none).unwrap();
        assert_eq!(reason, "FetchFailed");
        assert!(message.starts_with("snp-crl.Milan is missing: ") && message.contains(cause), "{word}: {message}");
        assert!(message.contains(cure), "{message}");
        // An older one that is still good stays, and nobody is troubled until it is urgent.
        let good = texts(&crl(), AMD.crl(), days(21));
        assert_eq!(look(&scene.collector, "aws-snp", &good), None);
        let old = texts(&crl(), AMD.crl(), days(26));
        let (_, message) = look(&scene.collector, "aws-snp", &old).unwrap();
        assert!(message.starts_with("snp-crl.Milan will soon be too old: "), "{message}");
        scene.settle().await;
        assert_eq!((maker.asked(), scene.api.writes()), (vec![CRL.to_owned()], 0), "{word}: it rests");
        let text = scene.metrics.text().unwrap();
        assert!(text.contains(&format!("fetches_total{{vendor=\"amd\",outcome=\"{word}\"}} 1\n")), "{text}");
    }
}

#[tokio::test]
async fn the_list_for_keys_of_clouds_is_fetched_from_its_own_place() {
    let maker = Maker::with([("/kds/vlek/v1/Milan/crl", Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let of = |kind| Need::from(Key::SnpCrl { product: "Milan".into(), kind });
    let entry = scene.collector.get(&of(KeyKind::Vlek), None, now()).await.unwrap();
    assert_eq!(entry.bytes, AMD.crl());
    assert!(scene.collector.get(&of(KeyKind::Vcek), None, now()).await.is_err());
}

#[tokio::test]
async fn a_list_of_another_product_or_a_root_of_nobody_is_not_kept() {
    let maker = Maker::with([("/kds/vcek/v1/Genoa/crl", Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let genoa = Need::from(Key::SnpCrl { product: "Genoa".into(), kind: KeyKind::Vcek });
    let trouble = scene.collector.get(&genoa, None, now()).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Unfit { host, .. } if *host == maker.host()), "{trouble}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_pause_that_the_maker_asked_for_is_kept_and_then_it_is_asked_again() {
    let maker = Maker::with([(CRL, Reply::status(429, "Retry-After: 600\r\n"))]).await;
    let scene = Scene::new(&maker).await;
    let need = Need::from(crl());
    assert!(scene.collector.get(&need, None, now()).await.is_err());
    maker.answers(CRL, Reply::ok(AMD.crl()));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(matches!(scene.collector.get(&need, None, now()).await, Err(Trouble::Throttled { .. })));
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(scene.collector.get(&need, None, now()).await.unwrap().bytes, AMD.crl());
    assert_eq!(maker.asked().len(), 2);
}

#[tokio::test]
async fn what_ages_is_replaced_before_it_is_too_old_also_if_a_person_wrote_it() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let by_hand = texts(&crl(), AMD.crl(), days(21));
    assert_eq!(look(&scene.collector, "aws-snp", &by_hand), None);
    let stored = scene.api.stored("n", 1).await;
    assert_eq!(Entry::read(&stored["snp-crl.Milan"]).unwrap().fetched, now());
}

#[tokio::test]
async fn intels_four_answers_become_one_entry_that_holds() {
    let good = tdx_factory::Scene::good(4, 2);
    let maker = Maker::intel(&good).await;
    let scene = Scene::new(&maker).await;
    let entry = scene.collector.get(&Need::from(tdx()), Some("u"), now()).await.unwrap();
    assert!(scene.collector.anchors.check(&tdx(), &entry.bytes, now()).is_ok());
    assert_eq!(
        maker.asked(),
        [
            "/pcs/tdx/certification/v4/tcb?fmspc=b0c06f000000&update=standard",
            "/pcs/tdx/certification/v4/qe/identity?update=standard",
            "/pcs/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "/root/IntelSGXRootCA.der",
        ]
    );
}

#[tokio::test]
async fn intels_answers_by_another_root_or_about_another_family_are_not_kept() {
    let mut forged = tdx_factory::Scene::good(4, 2);
    forged.signed_by = tdx_factory::Who::Stranger;
    let mut other = tdx_factory::Scene::good(4, 2);
    other.tcb_info["fmspc"] = "00806F050000".into();
    for (wrong, why) in [(forged, "signature"), (other, "platform family 00806f050000")] {
        let maker = Maker::intel(&wrong).await;
        let scene = Scene::new(&maker).await;
        let trouble = scene.collector.get(&Need::from(tdx()), None, now()).await.unwrap_err();
        assert!(trouble.word() == "unfit" && trouble.to_string().contains(why), "{trouble}");
    }
}

#[tokio::test]
async fn an_issuer_of_googles_is_fetched_from_where_googles_are_and_from_nowhere_else() {
    let genuine = include_bytes!("../../../attestation/vectors/go-tpm-tools/ca/gcp_ek_ak_ca_intermediate_v3.crt");
    let bucket = "privateca-content-633beb94-0000-25c1-a9d7-001a114ba6e8.storage.googleapis.com";
    let path = format!("{bucket}/c59a22589ab43a57e3a4/ca.crt");
    let served = format!("/google/{path}");
    let maker = Maker::with([(served.as_str(), Reply::ok(genuine.to_vec()))]).await;
    let scene = Scene::new(&maker).await;
    let key = Key::GoogleIssuer { key: "e966735467661befdd65bfe5e85ce3910b9b0552".into() };
    for wrong in [
        format!("http://attacker.example/{path}"),
        format!("http://{}/c59a22589ab43a57e3a4/ca.crt", bucket.replace("633beb94", "633beb9g")),
        format!("http://x.{path}"),
        format!("http://a@{path}"),
        format!("http://{bucket}/../ca.crt"),
        format!("http://{path}?x"),
        format!("file://{path}"),
    ] {
        let need = Need { key: key.clone(), place: Some(wrong.clone()) };
        assert_eq!(scene.again().get(&need, None, now()).await, Err(Trouble::Place), "{wrong}");
    }
    assert_eq!(maker.asked(), [""; 0]);
    let need = Need { key: key.clone(), place: Some(format!("http://{path}")) };
    let entry = scene.collector.get(&need, None, now()).await.unwrap();
    assert!(scene.collector.anchors.check(&key, &entry.bytes, now()).is_ok());
    assert_eq!(maker.asked(), [served]);
}

#[tokio::test]
async fn the_environments_proxy_is_used_and_told_when_it_fails() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let (address, tunnels) = proxy().await;
    let through = |no: &str| Matcher::builder().https(format!("http://{address}")).no(no.to_owned()).build();
    let scene = Scene::through(&maker, through("")).await;
    scene.collector.get(&Need::from(crl()), None, now()).await.unwrap();
    assert_eq!(tunnels.lock().unwrap().clone(), [maker.host()]);
    let scene = Scene::through(&maker, through("localhost")).await;
    scene.collector.get(&Need::from(crl()), None, now()).await.unwrap();
    assert_eq!(tunnels.lock().unwrap().len(), 1, "NO_PROXY goes past it");
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let secret = Matcher::builder().https(format!("http://user:secret@{dead}")).build();
    let scene = Scene::through(&maker, secret).await;
    let trouble = scene.collector.get(&Need::from(crl()), None, now()).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Proxy { proxy, .. } if *proxy == dead.to_string()), "{trouble}");
    assert!(!trouble.to_string().contains("secret") && trouble.cure().contains("NO_PROXY"));
}

#[tokio::test]
async fn a_host_that_is_not_there_or_not_believed_is_told() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::believing(&maker, Matcher::builder().build(), &fakes::certificate().0).await;
    let trouble = scene.collector.get(&Need::from(crl()), None, now()).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Unreachable { why, .. } if why.contains("certificate")), "{trouble}");
    assert_eq!(maker.asked(), [""; 0]);
}

#[tokio::test]
async fn with_fetching_off_hand_written_entries_work_and_what_is_missing_is_told() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let off = scene.off();
    let (reason, message) = look(&off, "aws-snp", &BTreeMap::new()).unwrap();
    assert!(reason == "FetchingOff" && message.contains("--fetch-collateral"), "{message}");
    assert_eq!(look(&off, "aws-snp", &texts(&crl(), AMD.crl(), days(3))), None);
    let (_, message) = look(&off, "aws-snp", &texts(&crl(), AMD.crl(), days(31))).unwrap();
    assert!(message.contains("is too old"), "{message}");
    let (reason, message) = look(&off, "aws-snp", &BTreeMap::from([("x".into(), "y".into())])).unwrap();
    assert!(reason == "CollateralInvalid" && message.starts_with("x of ConfigMap"), "{message}");
    scene.settle().await;
    assert_eq!((maker.asked().len(), scene.api.writes()), (0, 0));
}

#[tokio::test]
async fn a_local_or_simulated_cluster_makes_no_call() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    for platform in ["qemu-vtpm", "simulated"] {
        let hints = [refused("snp-crl.Milan", None)];
        assert_eq!(look_of(&scene.collector, "n", platform, &hints, &BTreeMap::new()), None);
    }
    scene.settle().await;
    assert_eq!((maker.asked().len(), scene.api.calls()), (0, 0));
}

#[tokio::test]
async fn machines_of_a_cluster_cause_a_bounded_number_of_requests() {
    let maker = Maker::with([]).await;
    let scene = Scene::new(&maker).await;
    let mut refusals = Vec::new();
    for n in 0..40 {
        let need = Need::from(Key::SnpVcek {
            product: "Milan".into(),
            chip: format!("{n:0128x}"),
            tcb: hex::encode([4, 0, 0, 0, 0, 0, 24, 219]),
        });
        refusals.push(scene.collector.get(&need, Some("u"), now()).await.unwrap_err());
    }
    let asked = refusals.iter().filter(|trouble| **trouble == Trouble::Asked).count();
    assert_eq!((asked, maker.asked().len()), (16, 24));
    assert!(
        scene.collector.get(&Need::from(crl()), None, now()).await.is_err_and(|trouble| trouble.word() == "absent")
    );
}

#[tokio::test]
async fn a_conversation_gets_what_its_machine_needs_and_it_is_kept_for_the_others() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let report = Report::Snp { report: AMD.report(&[1; 64]), certificates: AMD.table() };
    let machine = Machine::Aws { document: Vec::new(), report: Some(report) };
    let known = scene.collector.anchors.clone();
    assert_eq!(known.lacking(&machine, now()).len(), 1);
    let known = scene.collector.complete(known, &machine, ("u", "n"), now()).await;
    assert_eq!(known.lacking(&machine, now()), []);
    assert_eq!(scene.api.stored("n", 1).await.len(), 1);
    // What can't be had leaves what is known as it is.
    let off = scene.off();
    let known = off.complete(off.anchors.clone(), &machine, ("u", "n"), now()).await;
    assert_eq!(known.lacking(&machine, now()).len(), 1);
}

#[tokio::test]
async fn a_full_or_forbidden_map_is_told() {
    let maker = Maker::with([(CRL, Reply::ok(AMD.crl()))]).await;
    let scene = Scene::new(&maker).await;
    let full: BTreeMap<_, _> =
        (0..MOST_ENTRIES).flat_map(|n| texts(&Key::Tdx { fmspc: format!("{n:012x}") }, vec![1], days(0))).collect();
    let (_, message) = look(&scene.collector, "aws-snp", &full).unwrap();
    assert!(message.contains("is full"), "{message}");
    let scene = Scene::new(&maker).await;
    scene.api.forbid();
    look(&scene.collector, "aws-snp", &BTreeMap::new());
    scene.failed(&crl()).await;
    let (_, message) = look(&scene.collector, "aws-snp", &BTreeMap::new()).unwrap();
    assert!(message.contains("can't be written") && message.contains("chart"), "{message}");
}
