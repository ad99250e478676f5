//! Settling a case against an API that others write to as well: nothing leaves before it is recorded.

mod members;
mod renewals;

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use constellation_attestation::{
    appraise::{self, Origin},
    owner::SigningKey,
    protocol::{BootKeys, Evidence},
};
use constellation_crds::{NodeAdmissionStatus, TrustBundleSpec, node::AttestationResult, trust::Admission};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::{
    refusals::{self, News},
    watched::AtHand,
};

/// What happens at a write.
enum Write {
    /// Somebody else wrote this first.
    Conflict(Box<NodeAdmission>),
    Fail,
    Succeed,
}

struct FakeStore {
    node: Mutex<NodeAdmission>,
    script: Mutex<VecDeque<Write>>,
    writes: Mutex<Vec<NodeAdmissionStatus>>,
    told: Mutex<Vec<News>>,
    bundle: Mutex<Option<TrustBundleSpec>>,
    requests: Mutex<Vec<CertificateSigningRequest>>,
    rounds: AtomicU32,
}

impl Store for FakeStore {
    async fn node(&self, _uid: &str) -> Result<Option<NodeAdmission>, store::Error> {
        Ok(Some(self.node.lock().unwrap().clone()))
    }

    async fn nodes(&self) -> Result<Vec<NodeAdmission>, store::Error> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        Ok(vec![self.node.lock().unwrap().clone()])
    }

    async fn record(&self, node: &NodeAdmission) -> Result<(), store::Error> {
        match self.script.lock().unwrap().pop_front().unwrap_or(Write::Succeed) {
            Write::Conflict(other) => {
                *self.node.lock().unwrap() = *other;
                Err(store::Error::Conflict)
            }
            Write::Fail => Err(store::Error::Timeout("recording an admission")),
            Write::Succeed => {
                *self.node.lock().unwrap() = node.clone();
                self.writes.lock().unwrap().push(node.status.clone().unwrap());
                Ok(())
            }
        }
    }

    async fn refused(&self, news: &News) -> Result<(), store::Error> {
        self.told.lock().unwrap().push(news.clone());
        Ok(())
    }

    fn at_hand(&self, _uid: &str) -> Option<AtHand> {
        None
    }

    async fn is_current(&self, _version: &Version) -> Result<bool, store::Error> {
        unreachable!("nothing is at hand")
    }

    async fn bundle(&self) -> Result<TrustBundleSpec, store::Error> {
        self.bundle.lock().unwrap().clone().ok_or(store::Error::Missing("TrustBundle constellation"))
    }

    async fn kubelet_config(&self) -> Result<String, store::Error> {
        Err(store::Error::Missing("ConfigMap kubelet-config"))
    }

    async fn requests(&self) -> Result<Vec<CertificateSigningRequest>, store::Error> {
        Ok(self.requests.lock().unwrap().clone())
    }

    async fn answer(&self, request: &CertificateSigningRequest) -> Result<(), store::Error> {
        let mut requests = self.requests.lock().unwrap();
        let is = |known: &&mut CertificateSigningRequest| known.metadata.name == request.metadata.name;
        let known = requests.iter_mut().find(is).ok_or(store::Error::Missing("the request"))?;
        if known.metadata.resource_version != request.metadata.resource_version {
            return Err(store::Error::Conflict);
        }
        known.status.clone_from(&request.status);
        known.metadata.resource_version = Some("answered".to_owned());
        Ok(())
    }
}

impl Promise for &'static str {
    fn kubelet_certificate(&self) -> Option<&str> {
        None
    }
}

struct Given {
    verifier: Verifier<FakeStore>,
    node: NodeAdmission,
    case: Case,
    owner: SigningKey,
    begun: Instant,
    _dir: TempDir,
}

fn given(script: impl IntoIterator<Item = Write>) -> Given {
    let (dir, owner) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
    let home = Home::load(&home::tests::given_files(dir.path(), &owner)).unwrap();
    let trust =
        Trust::open(&home.owner_spki, "cluster-1", Platform::QemuVtpm, &dir.path().join("trust-revision")).unwrap();
    let mut spec = admit::tests::given_spec();
    let launch = admit::launch_digest(&spec, &home.launch);
    spec.launch_config_digest = hex::encode(launch);
    let node = NodeAdmission::new("uid-1", spec);
    let store = FakeStore {
        node: Mutex::new(node.clone()),
        script: Mutex::new(script.into_iter().collect()),
        writes: Mutex::default(),
        told: Mutex::default(),
        bundle: Mutex::default(),
        requests: Mutex::default(),
        rounds: AtomicU32::default(),
    };
    let verifier = Verifier::new(home, trust, store, Platform::QemuVtpm);
    Given { verifier, node, case: given_case(launch), owner, begun: Instant::now(), _dir: dir }
}

fn given_case(launch: [u8; 32]) -> Case {
    let hello = Hello {
        purpose: Purpose::Join,
        node_uid: "uid-1".to_owned(),
        cluster_uid: "cluster-1".to_owned(),
        address: "10.77.0.11".to_owned(),
        keys: BootKeys { csr: Vec::new(), encryption: vec![2; 32], wireguard: vec![3; 32] },
        ek_certificate: Vec::new(),
        ek_public: Vec::new(),
        ak_public: Vec::new(),
    };
    let evidence = Evidence {
        quote: Vec::new(),
        signature: Vec::new(),
        pcrs: Vec::new(),
        event_log: Vec::new(),
        activated: Vec::new(),
        machine: None,
    };
    let appraisal = Appraisal {
        accepted: true,
        origin: Origin::Machine,
        set: Some("good".to_owned()),
        mismatches: Vec::new(),
        lacking: Vec::new(),
        ak_name: "000b01".to_owned(),
        ek_certificate_digest: "ee".to_owned(),
        reset_count: 7,
        restart_count: 0,
        clock: 1,
        evidence_digest: "dd".to_owned(),
    };
    let proof = Proof { hello, evidence, binding: [0; 32], credential_secret: Zeroizing::new(Vec::new()) };
    Case { proof, appraisal, launch, revision: 3, door: Door::Join }
}

fn with_admission(node: &NodeAdmission, ak_name: &str) -> Box<NodeAdmission> {
    let admission = Admission {
        ak_name: ak_name.to_owned(),
        ek_certificate_digest: "ee".to_owned(),
        reset_count: 7,
        ..Admission::default()
    };
    let status = NodeAdmissionStatus { admission: Some(admission), ..NodeAdmissionStatus::default() };
    Box::new(NodeAdmission { status: Some(status), ..node.clone() })
}

/// Genuine, and not what is wanted.
fn another_image(good: Appraisal) -> Appraisal {
    let mismatch = appraise::Mismatch {
        clause: "tpm.pcr.11".to_owned(),
        expected: None,
        actual: None,
        message: "another image".to_owned(),
    };
    Appraisal { accepted: false, mismatches: vec![mismatch], ..good }
}

fn granted<T>(settled: &Result<Settled<T>, Error>) -> bool {
    matches!(settled, Ok(Settled::Granted(_)))
}

fn refused<T>(settled: &Result<Settled<T>, Error>) -> bool {
    matches!(settled, Ok(Settled::Refused(_)))
}

#[test]
fn a_hello_is_checked_before_anybody_is_asked() {
    let given = given([]);
    let good = || given.case.proof.hello.clone();
    let said = |hello: Hello| introduction(&hello, &given.verifier.home.launch, Purpose::Join).map_err(|m| m.clause);
    assert_eq!(said(good()), Ok(()));
    for (clause, hello) in [
        ("hello.purpose", Hello { purpose: Purpose::Reattest, ..good() }),
        ("hello.node", Hello { node_uid: "../uid-1".to_owned(), ..good() }),
        ("hello.node", Hello { node_uid: String::new(), ..good() }),
        ("hello.cluster", Hello { cluster_uid: "cluster-2".to_owned(), ..good() }),
        ("hello.address", Hello { address: "10.77.0.11:9000".to_owned(), ..good() }),
    ] {
        assert_eq!(said(hello), Err(clause.to_owned()));
    }
}

#[test]
fn an_error_is_told_with_its_causes_each_once() {
    let cause = || store::Error::Timeout("recording an admission");
    assert_eq!(chain(&cause()), "recording an admission took too long");
    let told = chain(&Error::Store(cause()));
    assert_eq!(told, "the Kubernetes API gave no answer: recording an admission took too long");
    let told = chain(&Repeating(cause()));
    assert_eq!(told, "recording an admission took too long, again");
}

/// Says what its cause says.
#[derive(Debug, thiserror::Error)]
#[error("{0}, again")]
struct Repeating(#[source] store::Error);

#[test]
fn each_refusal_has_an_id_of_its_own() {
    let ids: std::collections::BTreeSet<_> = (0..100).map(|_| fresh_id().unwrap()).collect();
    assert!(ids.len() == 100 && ids.iter().all(|id| id.len() == 2 * ID_BYTES));
}

#[tokio::test]
async fn what_is_granted_was_recorded_first() {
    let given = given([]);
    let settled = given.verifier.settle(given.node, &given.case, |_| Ok("ticket")).await;
    assert!(granted(&settled));
    let writes = given.verifier.store.writes.lock().unwrap();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].admission.as_ref().unwrap().ak_name, "000b01");
    assert_eq!(writes[0].last_appraisal.as_ref().unwrap().verdict, record::ACCEPTED);
}

#[tokio::test]
async fn nothing_is_granted_when_it_cannot_be_recorded() {
    let given = given([Write::Fail]);
    let settled = given.verifier.settle(given.node, &given.case, |_| Ok(())).await;
    assert!(matches!(settled, Err(Error::Store(_))));
}

#[tokio::test]
async fn of_two_machines_that_race_for_one_node_only_one_wins() {
    for (winner, expected) in [("000b01", true), ("000b02", false)] {
        let mut given = given([]);
        let other = with_admission(&given.node, winner);
        given.verifier.store.script = Mutex::new(VecDeque::from([Write::Conflict(other)]));
        let settled = given.verifier.settle(given.node, &given.case, |_| Ok(())).await;
        assert_eq!((granted(&settled), refused(&settled)), (expected, !expected), "{winner}");
        let after = given.verifier.store.node.lock().unwrap().clone().status.unwrap();
        assert_eq!(after.admission.unwrap().ak_name, winner);
    }
}

#[tokio::test]
async fn an_eviction_that_comes_in_between_counts() {
    let mut given = given([]);
    let mut evicted = given.node.clone();
    evicted.spec.evicted = Some(true);
    given.verifier.store.script = Mutex::new(VecDeque::from([Write::Conflict(Box::new(evicted))]));
    let settled = given.verifier.settle(given.node, &given.case, |_| Ok(())).await;
    assert!(refused(&settled));
    assert!(given.verifier.store.writes.lock().unwrap().iter().all(|status| status.admission.is_none()));
}

#[tokio::test]
async fn endless_conflicts_end_without_a_grant() {
    let mut given = given([]);
    let conflicts = (0..ATTEMPTS).map(|_| Write::Conflict(Box::new(given.node.clone()))).collect();
    given.verifier.store.script = Mutex::new(conflicts);
    let settled = given.verifier.settle(given.node, &given.case, |_| Ok(())).await;
    assert!(matches!(settled, Err(Error::Contended)));
}

#[tokio::test]
async fn a_ticket_that_cannot_be_made_records_no_admission() {
    let given = given([]);
    let failed = |_: &NodeAdmissionSpec| Err::<(), _>(ticket::Error::Name("Worker".to_owned()));
    let settled = given.verifier.settle(given.node.clone(), &given.case, failed).await;
    assert!(refused(&settled));
    let broken = |_: &NodeAdmissionSpec| Err::<(), _>(ticket::Error::Authority(crate::authority::Error::Random));
    let settled = given.verifier.settle(given.node, &given.case, broken).await;
    assert!(matches!(settled, Err(Error::Ticket(_))));
    let writes = given.verifier.store.writes.lock().unwrap();
    assert!(writes.iter().all(|status| status.admission.is_none()));
}

#[tokio::test]
async fn a_refusal_is_recorded_once_and_its_id_is_told_again() {
    let mut given = given([]);
    given.case.appraisal = another_image(given.case.appraisal);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let node = given.verifier.store.node.lock().unwrap().clone();
        let Ok(Settled::Refused(id)) = given.verifier.settle(node, &given.case, |_| Ok(())).await else {
            panic!("bad evidence is refused")
        };
        ids.push(id);
    }
    let writes = given.verifier.store.writes.lock().unwrap();
    assert_eq!(writes.len(), 1);
    let recorded: AttestationResult = writes[0].last_appraisal.clone().unwrap();
    assert!(ids.iter().all(|id| Some(id) == recorded.refusal_id.as_ref()));
}

#[tokio::test]
async fn a_refusal_is_recorded_whoever_writes_of_the_node_meanwhile() {
    for writes in [1, ATTEMPTS - 1] {
        let mut given = given([]);
        let member = with_admission(&given.node, "000b01");
        given.case.appraisal = another_image(given.case.appraisal);
        let conflicts = (0..writes).map(|_| Write::Conflict(member.clone())).collect();
        given.verifier.store.script = Mutex::new(conflicts);
        assert!(refused(&given.verifier.settle(*member, &given.case, |_| Ok(())).await));
        let after = given.verifier.store.node.lock().unwrap().clone().status.unwrap();
        assert_eq!(after.last_appraisal.unwrap().verdict, record::REFUSED, "{writes}");
        assert!(given.verifier.ledger.due(Instant::now()).is_empty(), "{writes}");
    }
}

#[tokio::test]
async fn an_older_bundle_admits_nobody_however_often_it_is_tried_and_is_no_fault_of_the_node() {
    let good: fn(Appraisal) -> Appraisal = |good| good;
    for appraised in [good, another_image] {
        let mut given = given([]);
        let mut member = with_admission(&given.node, "000b01");
        let last = record::accepted(&given.case.appraisal, Platform::QemuVtpm, 6, Timestamp::now());
        member.status.as_mut().unwrap().last_appraisal = Some(last);
        given.verifier.store.node = Mutex::new(*member);
        given.case.appraisal = appraised(given.case.appraisal);
        given.case.revision = 5;
        for _ in 0..2 {
            let node = given.verifier.store.node.lock().unwrap().clone();
            assert!(refused(&given.verifier.settle(node, &given.case, |_| Ok(())).await));
            let after = given.verifier.store.node.lock().unwrap().clone().status.unwrap().last_appraisal.unwrap();
            let verdict = if given.case.appraisal.accepted { record::ACCEPTED } else { record::REFUSED };
            assert_eq!((after.verdict.as_str(), after.trust_revision), (verdict, Some(6)));
        }
    }
}

#[tokio::test]
async fn refusals_that_alternate_are_not_written_each_time() {
    let mut given = given([]);
    given.case.appraisal = another_image(given.case.appraisal);
    for revision in 3..9 {
        given.case.revision = revision;
        let node = given.verifier.store.node.lock().unwrap().clone();
        assert!(refused(&given.verifier.settle(node, &given.case, |_| Ok(())).await));
    }
    assert_eq!(given.verifier.store.writes.lock().unwrap().len(), 1);
    let counted: u64 = given.verifier.ledger.due(Instant::now()).iter().map(|news| news.count).sum();
    assert_eq!(counted, 5, "what isn't written at once is counted");
}

#[tokio::test]
async fn a_stranger_with_nonsense_says_nothing_about_a_node_that_was_not_admitted_yet() {
    for (origin, own) in [(Origin::Machine, true), (Origin::Key, false), (Origin::Unknown, false)] {
        let mut given = given([]);
        given.case.appraisal = Appraisal { origin, ..another_image(given.case.appraisal) };
        assert!(refused(&given.verifier.settle(given.node, &given.case, |_| Ok(())).await));
        assert_eq!(given.verifier.store.writes.lock().unwrap().len(), usize::from(own), "{origin:?}");
        assert_eq!(given.verifier.ledger.due(Instant::now()).len(), usize::from(!own), "{origin:?}");
    }
}

#[tokio::test]
async fn an_eviction_counts_also_where_nothing_is_left_to_be_written() {
    for evicted in [false, true] {
        let given = given([]);
        assert!(granted(&given.verifier.settle(given.node, &given.case, |_| Ok(())).await));
        let known = given.verifier.store.node.lock().unwrap().clone();
        if evicted {
            let mut now = given.verifier.store.node.lock().unwrap();
            now.spec.evicted = Some(true);
            now.metadata.resource_version = Some("2".to_owned());
        }
        let again = given.verifier.settle(known, &given.case, |_| Ok(())).await;
        assert_eq!((granted(&again), refused(&again)), (!evicted, evicted));
        let admissions = given
            .verifier
            .store
            .writes
            .lock()
            .unwrap()
            .iter()
            .filter(|status| status.last_appraisal.as_ref().is_some_and(|last| last.verdict == record::ACCEPTED))
            .count();
        assert_eq!(admissions, 1, "nothing was written for the second ticket");
    }
}

#[test]
fn what_is_our_own_fault_is_told_of_the_cluster_and_what_is_a_peers_is_not() {
    let io = || std::io::Error::other("no");
    let expired = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
    let expired = std::io::Error::new(std::io::ErrorKind::InvalidData, expired);
    let faults = [
        (Error::Home(home::Error::Malformed("launch.json".into())), Some("verifier.files")),
        (Error::Channel(channel::Error::Handshake(expired)), Some("verifier.clock")),
        (Error::Channel(channel::Error::Handshake(io())), None),
        (Error::Channel(channel::Error::Closed), None),
        (Error::Ticket(ticket::Error::Name("x".to_owned())), Some("verifier.ticket")),
        (Error::Trust(trust::Error::Floor("trust-revision".into(), io())), Some("verifier.trust")),
        (Error::Store(store::Error::Missing(store::TRUST)), Some("verifier.trust")),
        (Error::Store(store::Error::Missing("ConfigMap kubelet-config")), Some("verifier.api")),
        (Error::Store(store::Error::Timeout("reading")), None),
        (Error::Gone, None),
    ];
    for (fault, clause) in faults {
        let given = given([]);
        given.verifier.own_fault(&fault);
        let told = given.verifier.ledger.due(Instant::now());
        let clauses: Vec<_> = told.iter().flat_map(|news| &news.reasons).flat_map(|told| &told.mismatches).collect();
        assert!(clauses.iter().map(|mismatch| mismatch.clause.as_str()).eq(clause), "{fault}: {clauses:?}");
        assert!(told.iter().all(|news| news.name == Name::Nobody));
        let clock = clauses.iter().any(|mismatch| mismatch.message.contains("our clock is wrong, or the caller's"));
        assert_eq!(clock, clause == Some("verifier.clock"), "{clauses:?}");
    }
}

#[test]
fn a_stranger_is_told_an_id_under_which_the_owner_finds_why() {
    let given = given([]);
    let id = given.verifier.refuse_stranger(&"x".repeat(1000), reason("hello.node", None, None, "why")).unwrap();
    let told = given.verifier.ledger.due(Instant::now()).remove(0);
    assert_eq!((told.name, told.reasons[0].refusal_id.as_deref()), (Name::Nobody, Some(id.as_str())));
}

#[test]
fn a_peer_that_gives_nothing_to_appraise_is_refused_where_that_is_its_own_fault() {
    let late = || session::Error::Channel(channel::Error::Timeout("receiving a message"));
    for (error, door, clause) in [
        (session::Error::Hello("attestation key"), Door::Join, Some("hello.keys")),
        (session::Error::Hello("attestation key"), Door::Member, Some("hello.keys")),
        (late(), Door::Join, Some("evidence.late")),
        (late(), Door::Member, None),
        (session::Error::Channel(channel::Error::Closed), Door::Join, None),
    ] {
        let said = unproven(&error, door);
        assert_eq!(said.as_ref().map(|mismatch| mismatch.clause.as_str()), clause, "{error}");
        assert!(said.is_none_or(|mismatch| mismatch.message.starts_with(&error.to_string())));
    }
}

/// Time stands still as long as there is something to do.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_when_it_is_due_while_another_name_waits() {
    let given = given([]);
    let refusals = async {
        for uid in ["a", "a", "b"] {
            given.verifier.refuse_unproven(uid, reason("hello.purpose", None, None, "")).unwrap();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        () = refusals::tell(&given.verifier.ledger, &given.verifier.store) => panic!("it tells for ever"),
        () = refusals => {}
    }
    let told: Vec<_> = given.verifier.store.told.lock().unwrap().iter().map(|news| news.name.clone()).collect();
    assert_eq!(told, ["a", "b"].map(|uid| Name::Node(uid.to_owned())));
}
