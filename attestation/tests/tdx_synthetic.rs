//! One thing wrong at a time, on platforms that a test's own Intel makes: each is refused, and for that reason only.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use constellation_attestation::tdx::{Outcome, Policy, TcbStatus, clause};
use rcgen::{CustomExtension, KeyUsagePurpose};
use serde_json::json;

mod tdx_factory;

use tdx_factory::{Scene, Template, Who, isv_level, level, place};

fn policy() -> Policy {
    let mut policy = Policy::strict();
    for name in clause::REFERENCE {
        assert!(policy.waive(name, "the test has no value for it"));
    }
    policy
}

fn failures(outcome: &Outcome) -> BTreeSet<&str> {
    outcome.checks.failures().map(|clause| clause.name.as_str()).collect()
}

/// Makes one thing wrong with an otherwise good platform; exactly these clauses must fail.
fn refused(what: &str, wrong: impl Fn(&mut Scene), wanted: &[&str]) {
    let mut scene = Scene::good(5, 4);
    wrong(&mut scene);
    let outcome = scene.run(&policy());
    assert_eq!(failures(&outcome), wanted.iter().copied().collect(), "{what}");
}

#[test]
fn each_version_and_body_is_accepted_when_nothing_is_wrong() {
    for (version, kind) in [(4, 2), (5, 2), (5, 3), (5, 4)] {
        let outcome = Scene::good(version, kind).run(&policy());
        assert!(outcome.checks.accepted(), "{version} {kind}: {:?}", failures(&outcome));
        assert_eq!(outcome.tcb_status, Some(TcbStatus::UpToDate));
        assert_eq!(outcome.td.unwrap().get().evaluation_number, 20);
    }
}

#[test]
fn attributes_are_refused_each_by_its_name() {
    let with = |bit: usize| move |scene: &mut Scene| scene.body[place::ATTRIBUTES + bit / 8] ^= 1 << (bit % 8);
    refused("debug", with(0), &[clause::DEBUG]);
    for bit in 4..7 {
        refused("profiling", with(bit), &[clause::PROFILING]);
    }
    refused("no SEPT_VE_DISABLE", with(28), &[clause::SEPT_VE_DISABLE]);
    refused("migratable", with(29), &[clause::MIGRATABLE]);
    for bit in [30, 31, 63] {
        refused("PKS, Key Locker, PERFMON", with(bit), &[]);
    }
    for bit in (1..4).chain(7..28).chain(32..63) {
        refused(&format!("reserved {bit}"), with(bit), &[clause::RESERVED]);
    }
}

#[test]
fn service_tds_are_refused_whenever_they_were_bound() {
    refused("bound at start", |s| s.body[place::MRSERVICETD] = 1, &[clause::MRSERVICETD]);
    refused("bound when it was made", |s| s.body[place::INIT_SERVICE_TD] = 1, &[clause::MRSERVICETD]);
    refused("bound later", |s| s.body[place::CURRENT_SERVICE_TD] = 1, &[clause::MRSERVICETD]);
}

#[test]
fn the_tdx_module_is_the_one_of_the_tcb_info() {
    refused("signer", |s| s.body[place::MRSIGNERSEAM] = 1, &[clause::MRSIGNERSEAM]);
    refused("attributes", |s| s.body[place::SEAM_ATTRIBUTES] = 1, &[clause::SEAM_ATTRIBUTES]);
    let svn = |svn: [u8; 3]| move |s: &mut Scene| s.body[place::TEE_TCB_SVN..][..3].copy_from_slice(&svn);
    refused("a version nobody knows", svn([6, 2, 3]), &[clause::TCB_MODULE]);
    refused(
        "a version without levels",
        |s| s.tcb_info["tdxModuleIdentities"][0]["tcbLevels"] = json!([]),
        &[clause::TCB_MODULE],
    );
    refused("below every level of its version", svn([3, 1, 3]), &[clause::TCB_MODULE]);
    refused("an old one of its version", svn([5, 1, 3]), &[clause::TCB_STATUS]);
    refused("version 0 is compared as a component", svn([4, 0, 3]), &[clause::TCB_LEVEL]);
    refused("version 0, good", svn([5, 0, 3]), &[]);
    let now = |svn: [u8; 3]| move |s: &mut Scene| s.body[place::TEE_TCB_SVN_2..][..3].copy_from_slice(&svn);
    refused("as it is now, no level", now([6, 1, 1]), &[clause::TCB_LEVEL]);
    refused("as it is now, out of date", now([6, 1, 2]), &[clause::TCB_STATUS]);
    refused("as it is now, an unknown module", now([6, 9, 3]), &[clause::TCB_MODULE]);
}

#[test]
fn the_worst_of_platform_module_and_quoting_enclave_is_the_status() {
    for (platform, module, qe, wanted) in [
        ("UpToDate", "UpToDate", "UpToDate", TcbStatus::UpToDate),
        ("SWHardeningNeeded", "UpToDate", "UpToDate", TcbStatus::SWHardeningNeeded),
        ("ConfigurationNeeded", "UpToDate", "OutOfDate", TcbStatus::OutOfDateConfigurationNeeded),
        ("ConfigurationAndSWHardeningNeeded", "UpToDate", "UpToDate", TcbStatus::ConfigurationAndSWHardeningNeeded),
        ("UpToDate", "OutOfDate", "UpToDate", TcbStatus::OutOfDate),
        ("UpToDate", "UpToDate", "OutOfDate", TcbStatus::OutOfDate),
        ("UpToDate", "Revoked", "UpToDate", TcbStatus::Revoked),
        ("Revoked", "UpToDate", "OutOfDate", TcbStatus::Revoked),
    ] {
        let mut scene = Scene::good(4, 2);
        scene.tcb_info["tcbLevels"][0]["tcbStatus"] = platform.into();
        scene.tcb_info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcbStatus"] = module.into();
        scene.qe_identity["tcbLevels"][0]["tcbStatus"] = qe.into();
        let outcome = scene.run(&policy());
        assert_eq!(outcome.tcb_status, Some(wanted));
        let good = wanted == TcbStatus::UpToDate;
        assert_eq!(failures(&outcome).contains(clause::TCB_STATUS), !good);
        // A waiver accepts all of them but one.
        let mut lax = policy();
        lax.waive(clause::TCB_STATUS, "test");
        assert_eq!(scene.run(&lax).checks.accepted(), wanted != TcbStatus::Revoked, "{wanted}");
    }
}

#[test]
fn a_platform_meets_a_level_in_every_component_or_not_at_all() {
    for index in 0..16 {
        refused("SGX component", |s| s.extension.components[index] = 1, &[clause::TCB_LEVEL]);
        refused("one level down", |s| s.extension.components[index] = 2, &[clause::TCB_LEVEL, clause::TCB_STATUS][1..]);
    }
    refused("PCESVN", |s| s.extension.pce_svn = 10, &[clause::TCB_LEVEL]);
    for index in 2..16 {
        let mut need = [0; 16];
        need[index] = 7;
        let wrong = |s: &mut Scene| s.tcb_info["tcbLevels"] = json!([level(3, &need, "UpToDate")]);
        refused("TDX component", wrong, &[clause::TCB_LEVEL]);
    }
    // The best level stands first and counts.
    let wrong =
        |s: &mut Scene| s.tcb_info["tcbLevels"] = json!([level(0, &[], "OutOfDate"), level(0, &[], "UpToDate")]);
    refused("first match", wrong, &[clause::TCB_STATUS]);
}

#[test]
fn collateral_of_another_kind_platform_or_time_is_refused() {
    let info = |key: &'static str, value: serde_json::Value| move |s: &mut Scene| s.tcb_info[key] = value.clone();
    refused("FMSPC", info("fmspc", "00806F050000".into()), &[clause::TCB_FMSPC]);
    refused("PCE-ID", info("pceId", "0001".into()), &[clause::TCB_PCE_ID]);
    refused("for SGX", info("id", "SGX".into()), &[clause::TCB_INFO_STRUCTURE]);
    refused("version", info("version", 2.into()), &[clause::TCB_INFO_STRUCTURE]);
    refused("type", info("tcbType", 1.into()), &[clause::TCB_INFO_STRUCTURE]);
    refused("no module", info("tdxModule", json!(null)), &[clause::TCB_INFO_STRUCTURE]);
    refused("no such day", info("nextUpdate", "2026-13-01T00:00:00Z".into()), &[clause::TCB_INFO_STRUCTURE]);
    refused("too old", info("nextUpdate", "2026-11-19T23:59:59Z".into()), &[clause::TCB_INFO_VALIDITY]);
    refused("too new", info("issueDate", "2026-11-20T00:00:01Z".into()), &[clause::TCB_INFO_VALIDITY]);
    refused("unknown status", info("tcbLevels", json!([level(3, &[], "Fine")])), &[clause::TCB_INFO_STRUCTURE]);
    let old = info("tcbEvaluationDataNumber", 16.into());
    refused("from before a recovery", old, &[clause::TCB_EVALUATION_NUMBER]);

    let identity =
        |key: &'static str, value: serde_json::Value| move |s: &mut Scene| s.qe_identity[key] = value.clone();
    refused("of the SGX QE", identity("id", "QE".into()), &[clause::QE_IDENTITY_STRUCTURE]);
    refused("version", identity("version", 1.into()), &[clause::QE_IDENTITY_STRUCTURE]);
    refused("too old", identity("nextUpdate", "2026-11-19T00:00:00Z".into()), &[clause::QE_IDENTITY_VALIDITY]);
    let old = identity("tcbEvaluationDataNumber", 16.into());
    refused("from before a recovery", old, &[clause::TCB_EVALUATION_NUMBER]);
}

#[test]
fn the_quoting_enclave_is_intels_and_speaks_of_the_key() {
    let at = |place: usize, value: u8| move |s: &mut Scene| s.qe[place] = value;
    refused("signer", at(place::QE_MRSIGNER, 1), &[clause::QE_MRSIGNER]);
    refused("product", at(place::QE_PRODUCT, 1), &[clause::QE_PRODUCT]);
    refused("MISCSELECT", at(place::QE_MISCSELECT, 1), &[clause::QE_MISCSELECT]);
    refused("attributes", at(place::QE_ATTRIBUTES, 0x31), &[clause::QE_ATTRIBUTES]);
    refused("attribute outside of the mask", at(place::QE_ATTRIBUTES, 0x15), &[]);
    refused("debug", at(place::QE_ATTRIBUTES, 0x13), &[clause::QE_DEBUG]);
    refused("below every level", at(place::QE_SVN, 1), &[clause::QE_LEVEL]);
    refused("out of date", at(place::QE_SVN, 3), &[clause::TCB_STATUS]);
    refused("no levels", |s| s.qe_identity["tcbLevels"] = json!([]), &[clause::QE_LEVEL]);
    let better = |s: &mut Scene| s.qe_identity["tcbLevels"] = json!([isv_level(4, "UpToDate")]);
    refused("one level", better, &[]);
    refused("another key", |s| s.bound = false, &[clause::QE_KEY]);
    refused("something behind the hash", at(place::QE_REPORT_DATA + 63, 1), &[clause::QE_KEY]);
    refused("signed by a stranger", |s| s.qe_signed_by = Who::Stranger, &[clause::QE_SIGNATURE]);
    refused("quote signed by a stranger", |s| s.quote_signed_by = Who::Stranger, &[clause::SIGNATURE]);
}

#[test]
fn only_intels_tcb_signer_speaks_for_platforms() {
    let both = &[clause::TCB_INFO_ISSUER, clause::QE_IDENTITY_ISSUER];
    refused("another name", |s| s.signer.name = "Intel SGX PCK Certificate", both);
    refused("a CA", |s| s.signer = s.ca.clone(), both);
    refused("a CA of that name", |s| s.signer.ca = true, both);
    refused("issued by the PCK's CA", |s| s.signer.issuer = Who::PlatformCa, both);
    refused("not for signatures", |s| s.signer.usages = vec![KeyUsagePurpose::KeyEncipherment], both);
    let unknown = |s: &mut Scene| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
        extension.set_criticality(true);
        s.signer.extensions.push(extension);
    };
    refused("a critical extension nobody knows", unknown, both);
    let validity = &[clause::TCB_INFO_ISSUER_VALIDITY, clause::QE_IDENTITY_ISSUER_VALIDITY];
    refused("expired", |s| s.signer.years = [2020, 2026], validity);
    refused("not yet", |s| s.signer.years = [2027, 2049], validity);
    let revoked = &[clause::TCB_INFO_ISSUER_REVOKED, clause::QE_IDENTITY_ISSUER_REVOKED];
    refused("revoked", |s| s.root_crl.revoked = vec![s.signer.serial], revoked);
    let signatures = &[clause::TCB_INFO_SIGNATURE, clause::QE_IDENTITY_SIGNATURE];
    refused("another key", |s| s.signed_by = Who::Pck, signatures);
}

#[test]
fn the_platforms_certificate_is_of_intels_ca_in_date_and_not_revoked() {
    refused("another name", |s| s.pck.name = "Intel SGX TCB Signing", &[clause::PCK_CHAIN]);
    refused("a CA", |s| s.pck.ca = true, &[clause::PCK_CHAIN]);
    refused("of a stranger", |s| s.pck.issuer = Who::Stranger, &[clause::PCK_CHAIN]);
    refused("another CA's name", |s| s.ca.name = "Intel SGX CA", &[clause::PCK_CHAIN]);
    let no_ca = |s: &mut Scene| s.ca.usages = vec![KeyUsagePurpose::DigitalSignature];
    refused("a CA that mustn't issue", no_ca, &[clause::PCK_CHAIN]);
    // Whose signature nobody could check: nothing after it is looked at, and nothing of it is believed.
    let unusable = |s: &mut Scene| {
        (s.pck.key, s.qe_signed_by, s.quote_signed_by, s.bound) = (Who::Large, Who::Stranger, Who::Stranger, false);
        s.body[place::ATTRIBUTES] = 1;
    };
    refused("a key on another curve, and everything below it forged", unusable, &[clause::PCK_CHAIN]);
    refused("expired", |s| s.pck.years = [2020, 2026], &[clause::PCK_VALIDITY]);
    refused("CA expired", |s| s.ca.years = [2020, 2026], &[clause::PCK_VALIDITY]);
    refused("revoked", |s| s.pck_crl.revoked = vec![s.pck.serial], &[clause::PCK_REVOKED]);
    refused("CA revoked", |s| s.root_crl.revoked = vec![s.ca.serial], &[clause::PCK_REVOKED]);
    refused("root revoked", |s| s.root_crl.revoked = vec![s.root.serial], &[clause::ROOT_REVOKED]);
    let twice = |s: &mut Scene| {
        s.pck.extensions.push(CustomExtension::from_oid_content(&[1, 2, 840, 113_741, 1, 13, 1], vec![0x30, 0]));
    };
    let outcome = {
        let mut scene = Scene::good(4, 2);
        twice(&mut scene);
        scene.run(&policy())
    };
    assert!(failures(&outcome).iter().any(|name| [clause::PCK_EXTENSION, clause::PCK_CHAIN].contains(name)));
}

#[test]
fn revocation_lists_are_there_in_date_and_of_the_right_ca() {
    refused("root's too old", |s| s.root_crl.next_year = 2026, &[clause::ROOT_CRL_VALIDITY]);
    refused("PCK CA's too old", |s| s.pck_crl.next_year = 2026, &[clause::PCK_CRL_VALIDITY]);
    refused("of a stranger with the name", |s| s.pck_crl.issuer = Who::Stranger, &[clause::PCK_CRL_SIGNATURE]);
    refused("of the other CA", |s| s.pck_crl.issuer = Who::ProcessorCa, &[clause::PCK_CRL_SIGNATURE]);
    refused("of the CA for the root", |s| s.root_crl.issuer = Who::PlatformCa, &[clause::ROOT_CRL_SIGNATURE]);
    let scene = Scene::good(4, 2);
    for (member, name) in [
        ("root_ca_crl", clause::ROOT_CRL_SIGNATURE),
        ("pck_crl", clause::PCK_CRL_SIGNATURE),
        ("pck_crl_issuer_chain", clause::PCK_CRL_ISSUER),
    ] {
        let mut collateral = scene.collateral();
        collateral[member] = "".into();
        assert_eq!(failures(&scene.run_with(&collateral, &policy())), BTreeSet::from([name]));
    }
}

#[test]
fn what_comes_with_a_chain_leads_to_the_anchor() {
    let scene = Scene::good(4, 2);
    let pem = |template: &Template| scene.certificate(template).pem();
    let root = pem(&scene.root);
    let stranger = pem(&Template { key: Who::Stranger, issuer: Who::Stranger, ..scene.root.clone() });
    // The anchor's key and name, and somebody else's signature.
    let forged = pem(&Template { issuer: Who::Stranger, ..scene.root.clone() });
    let renewed = pem(&Template { serial: 99, ..scene.root.clone() });
    let ca = pem(&scene.ca);
    let other = |years| pem(&Template { serial: 98, years, ..scene.ca.clone() });
    let issuer = BTreeSet::from([clause::PCK_CRL_ISSUER]);
    for (what, member, chain, wanted) in [
        ("renewed root", "pck_crl_issuer_chain", ca.clone() + &renewed, BTreeSet::new()),
        ("no root", "pck_crl_issuer_chain", ca.clone(), BTreeSet::new()),
        ("renewed CA", "pck_crl_issuer_chain", other([2020, 2049]) + &root, BTreeSet::new()),
        ("expired CA with its key", "pck_crl_issuer_chain", other([2020, 2026]) + &root, issuer.clone()),
        ("root of a stranger", "pck_crl_issuer_chain", ca.clone() + &stranger, issuer.clone()),
        ("root that a stranger signed", "pck_crl_issuer_chain", ca.clone() + &forged, issuer.clone()),
        ("one too many", "pck_crl_issuer_chain", ca.clone() + &root + &root, issuer.clone()),
        ("renewed root", "tcb_info_issuer_chain", pem(&scene.signer) + &renewed, BTreeSet::new()),
        (
            "root that a stranger signed",
            "tcb_info_issuer_chain",
            pem(&scene.signer) + &forged,
            BTreeSet::from([clause::TCB_INFO_ISSUER]),
        ),
        ("nothing", "pck_certificate_chain", String::new(), BTreeSet::new()),
        (
            "no certificate",
            "pck_certificate_chain",
            "nothing of that kind".to_owned(),
            BTreeSet::from([clause::PCK_CERTIFICATION_DATA]),
        ),
    ] {
        let mut collateral = scene.collateral();
        collateral[member] = chain.into();
        assert_eq!(failures(&scene.run_with(&collateral, &policy())), wanted, "{member}: {what}");
    }
    let mut revoked = Scene::good(4, 2);
    revoked.root_crl.revoked = vec![98];
    let mut collateral = revoked.collateral();
    collateral["pck_crl_issuer_chain"] = (other([2020, 2049]) + &root).into();
    assert_eq!(failures(&revoked.run_with(&collateral, &policy())), issuer);
}

#[test]
fn an_expired_anchor_is_none() {
    let mut scene = Scene::good(4, 2);
    scene.root.years = [2020, 2026];
    let (quote, collateral) = (scene.quote(), serde_json::to_vec(&scene.collateral()).unwrap());
    let evidence = constellation_attestation::tdx::Evidence { quote: &quote, collateral: &collateral };
    let now = jiff::Timestamp::from_second(tdx_factory::NOW).unwrap();
    let outcome = constellation_attestation::tdx::verify_and_appraise(&evidence, &scene.anchors(), &policy(), now);
    assert_eq!(failures(&outcome), BTreeSet::from([clause::ROOT_VALIDITY]));
}

#[test]
fn a_scene_of_another_root_is_refused_whole() {
    let mut scene = Scene::good(4, 2);
    scene.root.key = Who::Stranger;
    scene.root.issuer = Who::Stranger;
    let outcome = scene.run(&policy());
    assert!(!outcome.checks.accepted());
    assert!(outcome.td.is_none());
}
