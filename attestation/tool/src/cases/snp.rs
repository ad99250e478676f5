//! SEV-SNP reports: what a case's policy names must be met, what it doesn't name is waived.

use std::path::Path;

use constellation_attestation::{
    reference::Requirement,
    snp::{Anchors, Evidence, KeyKind, Policy, Product, Revocation, clause, tcb::PerProduct, verify_and_appraise},
};
use jiff::Timestamp;

use super::{
    ABSENT, Evaluated, WAIVED, any_of,
    manifest::{SnpCase, SnpManifest, SnpPolicy},
};
use crate::{
    input::{self, Error},
    strict::Members,
};

/// The anchors that a manifest names.
pub(super) fn anchors(folder: &Path, manifest: &SnpManifest) -> Result<Anchors, Error> {
    let mut roots = Vec::new();
    for (product, file) in &manifest.trust_anchors.0 {
        roots.push((parse::<Product>("trust_anchors", product)?, input::certificate(&folder.join(file))?));
    }
    Anchors::new(roots.iter().map(|(product, root)| (*product, root.as_slice())))
        .map_err(|e| Error::value("trust_anchors", &e))
}

/// Evaluates one case, with these clauses waived.
pub(super) fn evaluate(
    folder: &Path,
    case: &SnpCase,
    anchors: &Anchors,
    now: Timestamp,
    waived: &[String],
) -> Result<Evaluated, Error> {
    let mut policy = wanted(&case.policy)?;
    for name in waived {
        // What makes a report genuine can't be waived; it then fails again.
        policy.waive(name, WAIVED);
    }
    let report = input::read(&folder.join(&case.report))?;
    // What isn't sent is empty, and what needs it fails. The root that is sent is there, and never looked at.
    case.ark.as_ref().map(|file| input::read(&folder.join(file))).transpose()?;
    let certificate = |file: Option<&std::path::PathBuf>| match file {
        Some(file) => input::shown_certificate(&folder.join(file)),
        None => Ok(Vec::new()),
    };
    let (vek, intermediate) = (certificate(case.vek.as_ref())?, certificate(case.intermediate.as_ref())?);
    let crl = case.crl.as_ref().map(|file| input::read(&folder.join(file))).transpose()?;
    // A manifest that wants no list wants nothing of the file either: what isn't a root's list is as good as not sent.
    let believed = |der: &Vec<u8>| Product::ALL.into_iter().any(|product| anchors.list(product, der).is_ok());
    let crl = crl.filter(|der| case.policy.require_crl == Some(true) || believed(der));
    let evidence = Evidence { report: &report, vek: &vek, intermediate: &intermediate, crl: crl.as_deref() };
    Ok(verify_and_appraise(&evidence, anchors, &policy, case.now.unwrap_or(now)).into())
}

pub(super) fn wanted(case: &SnpPolicy) -> Result<Policy, Error> {
    let mut policy = Policy::strict();
    for name in clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    // Each of these says whether something may be; where it may, it needn't.
    for (name, allowed) in [
        (clause::POLICY_DEBUG, case.allow_debug),
        (clause::POLICY_MIGRATION, case.allow_migration),
        (clause::TCB_PROVISIONAL, case.allow_provisional),
    ] {
        if let (Some(requirement), Some(false)) = (policy.switch(name), allowed) {
            *requirement = Requirement::Exact(false);
        }
    }
    if case.allow_vlek == Some(false) {
        policy.key = Requirement::Exact(KeyKind::Vcek);
    }
    if case.require_alias_check == Some(true) {
        policy.platform_alias_check = Requirement::Exact(true);
    }
    if case.require_crl == Some(true) {
        policy.revocation = Requirement::Exact(Revocation::Current);
    }
    if let Some(vmpl) = case.vmpl {
        policy.vmpl = Requirement::Exact(vmpl);
    }
    if let Some(clouds) = &case.csp_ids {
        policy.csp_id = Requirement::AnyOf(clouds.clone());
    }
    for (floors, requirement) in [
        (&case.min_reported_tcb, &mut policy.reported_tcb),
        (&case.min_launch_tcb, &mut policy.launch_tcb),
        (&case.min_committed_tcb, &mut policy.committed_tcb),
    ] {
        if let Some(floors) = floors {
            *requirement = per_product(floors)?;
        }
    }
    if let Some(values) = &case.measurement {
        policy.measurement = any_of(clause::MEASUREMENT, values.values())?;
    }
    if let Some(values) = &case.host_data {
        policy.host_data = any_of(clause::HOST_DATA, values.values())?;
    }
    if let Some(values) = &case.id_key_digests {
        policy.id_key_digest = any_of(clause::ID_KEY_DIGEST, values)?;
    }
    if let Some(value) = &case.report_data {
        policy.report_data = any_of(clause::REPORT_DATA, std::slice::from_ref(value))?;
    }
    Ok(policy)
}

fn per_product(floors: &Members<String>) -> Result<PerProduct, Error> {
    let floor = |(product, floor): (&String, &String)| Ok((parse("product", product)?, parse("TCB", floor)?));
    Ok(PerProduct::at_least(floors.0.iter().map(floor).collect::<Result<Vec<_>, Error>>()?))
}

fn parse<T: std::str::FromStr<Err = impl std::error::Error>>(what: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|e| Error::value(format!("{what} {text:?}"), &e))
}
