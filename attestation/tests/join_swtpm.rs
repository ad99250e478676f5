//! A node with a real (software) TPM joins: keys, credential, quote and sealing, live.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests")]

#[path = "../../tests/src/swtpm.rs"]
#[allow(dead_code, reason = "shared with crate tests, which uses all of it")]
mod swtpm;

use std::collections::BTreeMap;

use constellation_attestation::{
    appraise::{
        Appraisal, LaunchRegister, Origin, Presented, appraise, pcr15_after_join, pcr15_before_join, pcr15_from_digest,
    },
    binding::VerifierRole,
    boot::BootSecrets,
    bytes::Hex,
    channel::{Channel, Identity, node_connect, verifier_accept},
    collateral::Cache,
    collect::Tpm,
    credential::make_credential,
    endorsers::Endorsers,
    owner::SigningKey,
    platform::{Platform, Tee},
    policy::{Hardware, MeasurementSet, TrustPolicy},
    protocol::{Hello, Purpose, RecoverKey, machine::Machine},
    reference::Requirement,
    session::{self, Attester as _, Proof},
    snp, tdx,
    tpm::attest::Attest,
};
use sha2::{Digest as _, Sha256};
use swtpm::Swtpm;
use tokio::io::{DuplexStream, duplex};
use tss_esapi::{
    Context, TctiNameConf,
    abstraction::{AsymmetricAlgorithmSelection, DefaultKey, ek::create_ek_object_2},
    constants::SessionType,
    handles::{AuthHandle, KeyHandle},
    interface_types::{
        algorithm::HashingAlgorithm, ecc::EccCurve, resource_handles::Hierarchy, session_handles::AuthSession,
    },
    structures::{
        Digest as TpmDigest, EccScheme, EncryptedSecret, HashScheme, IdObject, Nonce, PublicBuffer, SymmetricDefinition,
    },
    traits::Marshall as _,
    utils::create_unrestricted_signing_ecc_public,
};

/// A launch configuration, which nobody reads here.
const CONFIG: &[u8] = b"launch config";

fn extended(value: [u8; 32], digest: [u8; 32]) -> [u8; 32] {
    Sha256::digest([value, digest].concat()).into()
}

fn hello(tpm: &mut Tpm, boot: &BootSecrets) -> Hello {
    Hello {
        purpose: Purpose::Join,
        node_uid: "node-uid".into(),
        cluster_uid: "cluster-uid".into(),
        address: "10.77.0.11:9000".into(),
        keys: boot.keys(),
        ek_certificate: tpm.ek_certificate().unwrap(),
        ek_public: tpm.ek_public(),
        ak_public: tpm.ak_public(),
    }
}

async fn channels(owner: &SigningKey, boot: &BootSecrets) -> (Channel<DuplexStream>, Channel<DuplexStream>) {
    let (left, right) = duplex(64 * 1024);
    let (certificate, key) = Identity::issue_verifier_ca(owner).unwrap();
    let (server, owner) = (Identity::verifier(&certificate, &key).unwrap(), owner.public_spki());
    let (nodes, verifiers) = tokio::join!(node_connect(left, &boot.identity, &owner), verifier_accept(right, &server));
    (verifiers.unwrap(), nodes.unwrap())
}

/// The whole conversation; the node opens its secret at the end.
async fn join(tpm: &mut Tpm, boot: &BootSecrets, hello: &Hello) -> Proof {
    let secret = RecoverKey { disk_key: vec![3; 32], cluster_id: vec![4; 32] };
    let (mut ours, mut nodes) = channels(&SigningKey::generate().unwrap(), boot).await;
    let verifier = async {
        let hello: Hello = ours.receive().await.unwrap();
        let proof = session::challenge(&mut ours, hello, VerifierRole::Cluster, 1, Platform::QemuVtpm).await.unwrap();
        session::grant(&mut ours, &proof, &secret).await.unwrap();
        proof
    };
    let node = async {
        nodes.send(hello).await.unwrap();
        session::prove(&mut nodes, hello, VerifierRole::Cluster, tpm).await.unwrap()
    };
    let (proof, (verdict, binding)) = tokio::join!(verifier, node);
    assert!(session::unseal::<RecoverKey>(&verdict, &binding, &boot.opener).unwrap() == secret);
    proof
}

#[tokio::test]
async fn a_node_with_a_tpm_joins_and_its_evidence_is_about_this_conversation() {
    let swtpm = Swtpm::start().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let measured = Sha256::digest(b"launch config").into();
    tpm.extend_pcr15(&measured).unwrap();
    assert_eq!(tpm.read_pcr15().unwrap(), extended([0; 32], measured));

    let boot = BootSecrets::generate().unwrap();
    let hello = hello(&mut tpm, &boot);
    let proof = join(&mut tpm, &boot, &hello).await;

    assert_eq!(proof.evidence.activated, *proof.credential_secret);
    assert_eq!(proof.evidence.pcrs.len(), 16 * 32);
    assert_eq!(proof.evidence.pcrs[15 * 32..], extended([0; 32], measured));
    // TPMS_ATTEST (Part 2, 10.12.8): magic, type, and further behind the nonce and the digest of the values.
    assert_eq!(proof.evidence.quote[..6], [0xff, b'T', b'C', b'G', 0x80, 0x18]);
    let holds = |part: &[u8]| proof.evidence.quote.windows(part.len()).any(|window| window == part);
    assert!(holds(&proof.binding) && holds(&Sha256::digest(&proof.evidence.pcrs)));
}

/// Accepts what this proof shows.
fn policy(proof: &Proof, swtpm: &Swtpm) -> TrustPolicy {
    let value = |pcr: u8| hex::encode(&proof.evidence.pcrs[usize::from(pcr) * 32..][..32]);
    TrustPolicy {
        cluster_uid: "cluster-uid".into(),
        revision: 1,
        sets: vec![MeasurementSet::of_registers(
            "live".into(),
            Platform::QemuVtpm,
            BTreeMap::from([4, 11, 12, 13].map(|pcr| (pcr, vec![value(pcr)]))),
        )],
        endorsement_roots: swtpm.endorsement_roots().unwrap(),
        place: None,
        reattestation_interval_seconds: None,
    }
}

fn judge(proof: &Proof, expected_pcr15: &LaunchRegister, policy: &TrustPolicy) -> Appraisal {
    judge_on(Platform::QemuVtpm, proof, expected_pcr15, policy)
}

fn judge_on(platform: Platform, proof: &Proof, expected_pcr15: &LaunchRegister, policy: &TrustPolicy) -> Appraisal {
    let presented = Presented {
        hello: &proof.hello,
        evidence: &proof.evidence,
        binding: &proof.binding,
        credential_secret: &proof.credential_secret,
        platform,
        expected_pcr15,
    };
    appraise(&presented, policy, &Endorsers::pinned(Cache::default()), jiff::Timestamp::now())
}

/// A node that measured its launch configuration and has joined once.
struct Joined {
    _swtpm: Swtpm,
    tpm: Tpm,
    boot: BootSecrets,
    hello: Hello,
    proof: Proof,
    /// Accepts what the node showed.
    policy: TrustPolicy,
    before: LaunchRegister,
}

async fn joined() -> Joined {
    let swtpm = Swtpm::start().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    tpm.extend_pcr15(&Sha256::digest(CONFIG).into()).unwrap();
    let boot = BootSecrets::generate().unwrap();
    let hello = hello(&mut tpm, &boot);
    let proof = join(&mut tpm, &boot, &hello).await;
    let policy = policy(&proof, &swtpm);
    Joined { _swtpm: swtpm, tpm, boot, hello, proof, policy, before: pcr15_before_join(CONFIG) }
}

fn clauses(appraisal: &Appraisal) -> Vec<String> {
    appraisal.reasons().map(|reason| reason.clause).collect()
}

#[tokio::test]
async fn live_evidence_is_accepted_and_with_one_thing_wrong_refused() {
    let Joined { _swtpm, mut tpm, boot, hello, proof, policy, before } = joined().await;
    let appraisal = judge(&proof, &before, &policy);
    assert!(appraisal.accepted, "{:?}", appraisal.mismatches);
    assert_eq!(appraisal.set.as_deref(), Some("live"));
    assert_eq!(before, pcr15_from_digest(&Sha256::digest(CONFIG).into()));

    let only = |appraisal: Appraisal, clause: &str| {
        assert!(!appraisal.accepted);
        assert_eq!(clauses(&appraisal), [clause]);
    };
    only(judge(&proof, &pcr15_before_join(b"another node's"), &policy), "tpm.pcr.15");
    only(judge(&proof, &pcr15_after_join(&before, &[4; 32]), &policy), "tpm.pcr.15");
    let other_maker = Swtpm::start().unwrap().endorsement_roots().unwrap();
    let stranger = TrustPolicy { endorsement_roots: other_maker, ..policy.clone() };
    only(judge(&proof, &before, &stranger), "tpm.ek.certificate");

    let mut replayed = join(&mut tpm, &boot, &hello).await;
    let credential_secret = replayed.credential_secret.clone();
    replayed.evidence.clone_from(&proof.evidence);
    replayed.evidence.activated.clone_from(&credential_secret);
    only(judge(&replayed, &before, &policy), "tpm.quote.nonce");
    let mut unopened = join(&mut tpm, &boot, &hello).await;
    unopened.evidence.activated = vec![0; 32];
    only(judge(&unopened, &before, &policy), "tpm.ak.credential");

    let mut of_a_cloud = join(&mut tpm, &boot, &hello).await;
    of_a_cloud.evidence.machine = Some(Machine::Google { certificates: vec![], report: None });
    only(judge(&of_a_cloud, &before, &policy), "evidence.machine");

    // As a member it looks different, and can't look pristine again.
    tpm.extend_pcr15(&[4; 32]).unwrap();
    let member = join(&mut tpm, &boot, &hello).await;
    assert!(judge(&member, &pcr15_after_join(&before, &[4; 32]), &policy).accepted);
    only(judge(&member, &before, &policy), "tpm.pcr.15");
}

/// Changes one thing of what was shown.
type Alteration = fn(&mut Proof);

#[tokio::test]
async fn an_appraisal_says_whose_word_it_is_and_how_the_nearest_set_differs() {
    let Joined { _swtpm, mut tpm, boot, hello, proof: good, policy, before } = joined().await;
    let appraisal = judge(&good, &before, &policy);
    let attest = Attest::parse(&good.evidence.quote).unwrap();
    let counters = (appraisal.reset_count, appraisal.restart_count, appraisal.clock);
    assert_eq!(counters, (attest.reset_count, attest.restart_count, attest.clock));
    assert_eq!((appraisal.accepted, appraisal.origin, clauses(&appraisal)), (true, Origin::Machine, vec![]));

    // Whose word: the key's without its maker's, and nobody's without the key's own.
    let alterations: [(&str, Origin, Alteration); 7] = [
        ("tpm.ak.credential", Origin::Key, |proof| proof.evidence.activated[0] ^= 1),
        ("tpm.ak.credential", Origin::Key, |proof| {
            proof.evidence.activated.clear();
            proof.credential_secret.clear();
        }),
        ("tpm.ek.certificate", Origin::Key, |proof| proof.hello.ek_public.truncate(20)),
        ("tpm.ek.certificate", Origin::Key, |proof| proof.hello.ek_certificate.clear()),
        ("tpm.quote.nonce", Origin::Unknown, |proof| proof.binding[0] ^= 1),
        ("tpm.signature", Origin::Unknown, |proof| *proof.evidence.signature.last_mut().unwrap() ^= 1),
        ("tpm.ak.attributes", Origin::Unknown, |proof| proof.hello.ak_public.truncate(20)),
    ];
    for (clause, origin, alter) in alterations {
        let mut proof = join(&mut tpm, &boot, &hello).await;
        alter(&mut proof);
        let appraisal = judge(&proof, &before, &policy);
        assert_eq!((appraisal.accepted, appraisal.origin, &appraisal.set), (false, origin, &None), "{clause}");
        assert_eq!(clauses(&appraisal), [clause]);
        assert_eq!(appraisal.ak_name.is_empty(), clause == "tpm.ak.attributes");
    }

    let mut near = policy.sets[0].clone();
    near.pcrs.insert(4, vec!["a".repeat(64)]);
    let mut far = near.clone();
    far.pcrs.insert(11, vec!["b".repeat(64)]);
    let sets =
        |sets: &[&MeasurementSet]| TrustPolicy { sets: sets.iter().copied().cloned().collect(), ..policy.clone() };
    for sets in [sets(&[&far, &near]), sets(&[&near, &far])] {
        assert_eq!(clauses(&judge(&good, &before, &sets)), ["tpm.pcr.4"]);
    }
    assert!(judge(&good, &before, &sets(&[&far, &policy.sets[0], &near])).accepted);
    assert_eq!(clauses(&judge(&good, &before, &sets(&[]))), ["policy.empty"]);

    // Of another cluster, or of none.
    let other = TrustPolicy { cluster_uid: "other".into(), ..policy.clone() };
    assert_eq!(clauses(&judge(&good, &before, &other)), ["policy.cluster"]);
    let mut nowhere = good;
    nowhere.hello.cluster_uid.clear();
    let none = TrustPolicy { cluster_uid: String::new(), ..policy };
    assert_eq!(clauses(&judge(&nowhere, &before, &none)), ["policy.cluster"]);
}

/// A set as strict as its platform can have one, which a TPM's registers would satisfy if they were all.
fn set_for(platform: Platform, like: &MeasurementSet) -> MeasurementSet {
    let hardware = platform.tee().map(|tee| match tee {
        Tee::Snp => {
            let mut policy = snp::Policy::strict();
            policy.measurement = Requirement::Exact(Hex([1; 48]));
            let tcb = Requirement::AtLeast("bl=1,tee=0,snp=1,ucode=1".parse().unwrap());
            policy.reported_tcb = snp::tcb::PerProduct::every(&tcb);
            Hardware::Snp(Box::new(policy))
        }
        Tee::Tdx => {
            let mut policy = tdx::Policy::strict();
            policy.mrtd = Requirement::Exact(Hex([1; 48]));
            Hardware::Tdx(Box::new(policy))
        }
    });
    let mut set = MeasurementSet { platform, hardware, ..like.clone() };
    match platform.register_bytes() {
        None => set.pcrs.clear(),
        Some(bytes) => set.pcrs.values_mut().flatten().for_each(|value| *value = format!("{value:0<0$}", 2 * bytes)),
    }
    set
}

#[tokio::test]
async fn a_tpm_alone_is_enough_for_no_platform_but_a_machine_of_qemu() {
    let Joined { _swtpm, proof, policy, before, .. } = joined().await;
    assert!(judge(&proof, &before, &policy).accepted);
    for platform in Platform::ALL.into_iter().filter(|platform| *platform != Platform::QemuVtpm) {
        let policy = TrustPolicy { sets: vec![set_for(platform, &policy.sets[0])], ..policy.clone() };
        assert_eq!(policy.validate(), Ok(()), "{platform}");
        let appraisal = judge_on(platform, &proof, &before, &policy);
        assert!(!appraisal.accepted && appraisal.set.is_none(), "{platform}");
        let clauses = clauses(&appraisal);
        // Where a cloud has to speak for the TPM, the policy has to say first where its machines may be.
        let of_a_cloud = !platform.has_endorsement_key();
        assert!(
            clauses.iter().any(|clause| clause == if of_a_cloud { "policy.place" } else { "policy.platform" }),
            "{platform} {clauses:?}"
        );
    }
    // Nor does a set for QEMU's machines want what nothing could show.
    let Some(hardware) = set_for(Platform::GcpSnp, &policy.sets[0]).hardware else { unreachable!("SEV-SNP reports") };
    let mut more = policy.clone();
    more.sets[0].hardware = Some(hardware);
    assert!(!judge(&proof, &before, &more).accepted);
}

#[test]
fn the_keys_survive_a_reboot_and_pcr_15_does_not() {
    let mut swtpm = Swtpm::start().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    tpm.extend_pcr15(&[1; 32]).unwrap();
    let before = (tpm.ek_public(), tpm.ak_public(), tpm.ek_certificate().unwrap());
    drop(tpm);
    swtpm.reboot().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    assert_eq!((tpm.ek_public(), tpm.ak_public(), tpm.ek_certificate().unwrap()), before);
    assert_eq!(tpm.read_pcr15().unwrap(), [0; 32]);
}

#[test]
fn the_tpm_is_left_as_it_was_found() {
    let swtpm = Swtpm::start().unwrap();
    // A TPM has three slots for keys and three for sessions: what isn't given back is soon missed.
    for _ in 0..5 {
        let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
        for _ in 0..5 {
            let (credential, secret) = make_credential(&tpm.ek_public(), &tpm.ak_public(), &[5; 32]).unwrap();
            assert_eq!(tpm.activate(&credential, &secret).unwrap(), [5; 32]);
            tpm.evidence(&[7; 32], vec![]).unwrap();
        }
    }
}

#[test]
fn a_credential_for_another_key_or_altered_is_not_opened() {
    let swtpm = Swtpm::start().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let (ek, ak) = (tpm.ek_public(), tpm.ak_public());
    let mut other_ak = ak.clone();
    *other_ak.last_mut().unwrap() ^= 1;
    let (credential, secret) = make_credential(&ek, &other_ak, &[5; 32]).unwrap();
    assert!(tpm.activate(&credential, &secret).is_err());
    let (mut credential, secret) = make_credential(&ek, &ak, &[5; 32]).unwrap();
    *credential.last_mut().unwrap() ^= 1;
    assert!(tpm.activate(&credential, &secret).is_err());
    assert!(tpm.activate(&[], &secret).is_err());
    // And goes on working: sessions of failed attempts were given back.
    let (credential, secret) = make_credential(&ek, &ak, &[5; 32]).unwrap();
    assert_eq!(tpm.activate(&credential, &secret).unwrap(), [5; 32]);
}

#[test]
fn the_endorsement_certificate_is_for_the_endorsement_key_and_signed_by_the_maker() {
    let swtpm = Swtpm::start().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let certificate = tpm.ek_certificate().unwrap();
    let (rest, certificate) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    assert!(rest.is_empty());
    let ek = tpm.ek_public();
    let modulus = &ek[ek.len() - 256..];
    assert!(certificate.public_key().raw.windows(256).any(|window| window == modulus));
    let roots = swtpm.endorsement_roots().unwrap();
    let (_, issuer) = x509_parser::pem::parse_x509_pem(roots[0].as_bytes()).unwrap();
    assert_eq!(issuer.parse_x509().unwrap().subject(), certificate.issuer());
}

/// `TPM2B_PUBLIC` of a key in the TPM.
fn public(context: &mut Context, key: KeyHandle) -> Vec<u8> {
    let (public, ..) = context.read_public(key).unwrap();
    PublicBuffer::try_from(public).unwrap().marshall().unwrap()
}

#[test]
fn a_tpm_opens_a_credential_for_its_p256_endorsement_key() {
    let swtpm = Swtpm::start().unwrap();
    let mut context = Context::new(swtpm.tcti().parse::<TctiNameConf>().unwrap()).unwrap();
    let p256 = AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256);
    let ek = create_ek_object_2(&mut context, p256, DefaultKey).unwrap();
    let scheme = EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256));
    let template = create_unrestricted_signing_ecc_public(scheme, EccCurve::NistP256).unwrap();
    let key = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Owner, template, None, None, None, None)
        })
        .unwrap()
        .key_handle;
    let (ek_public, key_public) = (public(&mut context, ek), public(&mut context, key));
    let (credential, secret) = make_credential(&ek_public, &key_public, &[5; 32]).unwrap();

    let session = context
        .start_auth_session(
            None,
            None,
            None,
            SessionType::Policy,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
        .unwrap()
        .unwrap();
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            let (none, empty) = (Nonce::default(), TpmDigest::default());
            let session = session.try_into().unwrap();
            context.policy_secret(session, AuthHandle::Endorsement, none.clone(), empty, none, None)
        })
        .unwrap();
    let sessions = (Some(AuthSession::Password), Some(session), None);
    let credential = IdObject::try_from(credential[2..].to_vec()).unwrap();
    let secret = EncryptedSecret::try_from(secret[2..].to_vec()).unwrap();
    let opened = context
        .execute_with_sessions(sessions, |context| context.activate_credential(key, ek, credential, secret))
        .unwrap();
    assert_eq!(opened.as_slice(), [5; 32]);
}
