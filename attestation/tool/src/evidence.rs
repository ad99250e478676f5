//! `verify` and `appraise`: is this evidence genuine, and is it what a policy accepts?
//!
//! The platform is named by the caller, never read from the evidence. `verify` asks for nothing that only an owner can
//! know, but that nobody debugs or moves the guest; `appraise` compares with every set that the policy has for the
//! platform, and shows the nearest.

use std::path::PathBuf;

use clap::Args;
use constellation_attestation::{
    bytes::Hex,
    platform::Platform,
    policy::{Hardware, MeasurementSet, TrustPolicy},
    reference::Requirement,
    result::Checks,
    snp, tdx,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    input::{self, Error},
    vtpm,
};

/// Files and values of one machine's evidence. Each platform needs some of them and refuses the others.
#[derive(Args, Clone, Debug)]
pub struct Evidence {
    /// Platform that the evidence must be of.
    #[arg(long)]
    pub platform: Platform,
    /// TDX quote, its bytes or their hex digits; or a TPM's quote (`TPMS_ATTEST`).
    #[arg(long, value_name = "FILE")]
    pub quote: Option<PathBuf>,
    /// TDX collateral, JSON.
    #[arg(long, value_name = "FILE")]
    pub collateral: Option<PathBuf>,
    /// SEV-SNP report.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Certificate of the key that signed the report (VCEK or VLEK), DER or PEM.
    #[arg(long, value_name = "FILE")]
    pub vek: Option<PathBuf>,
    /// Certificate of its issuer (ASK or ASVK), DER or PEM.
    #[arg(long, value_name = "FILE")]
    pub intermediate: Option<PathBuf>,
    /// AMD's revocation list, DER.
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,
    /// Trust anchor (DER or PEM) instead of the vendor's own; of a TPM the CAs of endorsement keys (PEM).
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
    /// What the conversation wants attested, hex: report data or nonce in full length; of a TPM the whole qualifying data.
    #[arg(long, value_name = "HEX")]
    pub nonce: Option<String>,
    /// Time to verify at: RFC 3339 or Unix seconds. Default: the clock.
    #[arg(long, value_name = "TIME", value_parser = input::timestamp)]
    pub now: Option<Timestamp>,
    /// What a TPM's evidence is made of.
    #[command(flatten)]
    pub tpm: vtpm::Tpm,
}

/// What came out.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Platform that was asked for.
    pub platform: Platform,
    /// Whether every clause holds or is waived.
    pub accepted: bool,
    /// Set of the policy that the clauses are about; absent for `verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Every clause that was looked at.
    pub clauses: Checks,
}

impl Verdict {
    fn new(platform: Platform, set: Option<&MeasurementSet>, clauses: Checks) -> Self {
        Self { platform, accepted: clauses.accepted(), set: set.map(|set| set.name.clone()), clauses }
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let set = self.set.as_ref().map(|set| format!("set {set}\n")).unwrap_or_default();
        format!("platform {}\n{set}{}", self.platform, crate::output::checks(&self.clauses))
    }
}

/// Whether evidence is genuine.
///
/// # Errors
/// When a file can't be read, or the platform needs another one.
pub fn verify(evidence: &Evidence) -> Result<Verdict, Error> {
    Ok(Verdict::new(evidence.platform, None, evaluate(evidence, None, &[])?))
}

/// Whether evidence is genuine and of a set of the policy; else how it differs from the nearest.
///
/// # Errors
/// As [`verify`], and when the policy can't be used or has no set for the platform.
pub fn appraise(evidence: &Evidence, policy: &std::path::Path) -> Result<Verdict, Error> {
    let named = || policy.display().to_string();
    let trust: TrustPolicy = input::json(policy, "a trust policy")?;
    trust.validate().map_err(|e| Error::value(named(), &e))?;
    let mut nearest: Option<Verdict> = None;
    for set in trust.sets.iter().filter(|set| set.platform == evidence.platform) {
        let verdict =
            Verdict::new(evidence.platform, Some(set), evaluate(evidence, Some(set), &trust.endorsement_roots)?);
        let failures = |verdict: &Verdict| verdict.clauses.failures().count();
        if nearest.as_ref().is_none_or(|best| failures(&verdict) < failures(best)) {
            nearest = Some(verdict);
        }
    }
    nearest.ok_or_else(|| Error::said(named(), format!("it has no set for {}", evidence.platform)))
}

fn evaluate(evidence: &Evidence, set: Option<&MeasurementSet>, roots: &[String]) -> Result<Checks, Error> {
    if let Some(option) = stray(evidence) {
        return Err(Error::said(option, format!("nothing looks at it on {}: take it out", evidence.platform)));
    }
    match evidence.platform {
        Platform::QemuTdx => tdx(evidence, set),
        Platform::QemuVtpm => vtpm::evaluate(evidence, set, roots),
        Platform::Snp => snp(evidence, set),
        Platform::Simulated => Err(Error::said("simulated", "there is no evidence to look at")),
        other => Err(Error::said(other.as_str(), "its evidence can't be read from files yet")),
    }
}

/// An option that the platform has no use for.
fn stray(evidence: &Evidence) -> Option<&'static str> {
    let Evidence { quote, collateral, report, vek, intermediate, crl, tpm, .. } = evidence;
    let (of_tdx, of_tpm, of_snp) = match evidence.platform {
        Platform::QemuTdx => (true, false, false),
        Platform::QemuVtpm => (false, true, false),
        Platform::Snp => (false, false, true),
        _ => return None,
    };
    let given = [
        ("--quote", quote, of_tdx || of_tpm),
        ("--collateral", collateral, of_tdx),
        ("--report", report, of_snp),
        ("--vek", vek, of_snp),
        ("--intermediate", intermediate, of_snp),
        ("--crl", crl, of_snp),
    ];
    let file = given.into_iter().find(|(_, file, used)| file.is_some() && !used).map(|(option, ..)| option);
    file.or_else(|| tpm.stray().filter(|_| !of_tpm))
}

fn tdx(evidence: &Evidence, set: Option<&MeasurementSet>) -> Result<Checks, Error> {
    let anchors = match &evidence.root {
        Some(root) => crate::cases::tdx_anchor(root)?,
        None => tdx::Anchors::intel(),
    };
    let mut policy = match set.and_then(|set| set.hardware.as_ref()) {
        Some(Hardware::Tdx(policy)) => policy.as_ref().clone(),
        Some(Hardware::Snp(_)) => return Err(Error::said("--policy", "the set wants a report of other hardware")),
        None => genuine_tdx(),
    };
    policy.report_data = attested(evidence, set)?;
    let quote = input::quote(needed(evidence.quote.as_ref(), "--quote")?)?;
    let collateral = input::read(needed(evidence.collateral.as_ref(), "--collateral")?)?;
    let shown = tdx::Evidence { quote: &quote, collateral: &collateral };
    let now = evidence.now.unwrap_or_else(Timestamp::now);
    Ok(tdx::verify_and_appraise(&shown, &anchors, &policy, now).checks)
}

fn snp(evidence: &Evidence, set: Option<&MeasurementSet>) -> Result<Checks, Error> {
    if evidence.root.is_some() {
        return Err(Error::said("--root", "AMD's roots are part of the program"));
    }
    let mut policy = match set.and_then(|set| set.hardware.as_ref()) {
        Some(Hardware::Snp(policy)) => policy.as_ref().clone(),
        Some(Hardware::Tdx(_)) => return Err(Error::said("--policy", "the set wants a report of other hardware")),
        None => genuine_snp(),
    };
    policy.report_data = attested(evidence, set)?;
    let report = input::read(needed(evidence.report.as_ref(), "--report")?)?;
    let vek = input::shown_certificate(needed(evidence.vek.as_ref(), "--vek")?)?;
    let intermediate = input::shown_certificate(needed(evidence.intermediate.as_ref(), "--intermediate")?)?;
    let crl = evidence.crl.as_deref().map(input::read).transpose()?;
    let shown = snp::Evidence { report: &report, vek: &vek, intermediate: &intermediate, crl: crl.as_deref() };
    let now = evidence.now.unwrap_or_else(Timestamp::now);
    Ok(snp::verify_and_appraise(&shown, &snp::Anchors::amd(), &policy, now))
}

/// A genuine report is worth nothing if the host can read the guest, move it, or ask for the report itself: so much is
/// asked without an owner. Of a trust domain the verifier asks the same by its attributes.
fn genuine_snp() -> snp::Policy {
    use snp::clause;
    const ASKED: [&str; 4] = [clause::VMPL, clause::POLICY_DEBUG, clause::POLICY_MIGRATION, clause::REPORT_ID_MA];
    let mut policy = snp::Policy::strict();
    for name in clause::REFERENCE.into_iter().filter(|name| !ASKED.contains(name)) {
        policy.waive(name, NOT_ASKED);
    }
    policy
}

/// What the evidence must be about.
fn attested(evidence: &Evidence, set: Option<&MeasurementSet>) -> Result<Requirement<Hex<64>>, Error> {
    Ok(match (&evidence.nonce, set) {
        (Some(nonce), _) => Requirement::Exact(nonce.parse::<Hex<64>>().map_err(|e| Error::value("--nonce", &e))?),
        (None, None) => Requirement::Waived { reason: NOT_ASKED.to_owned() },
        // What isn't asked for can't be fresh.
        (None, Some(_)) => Requirement::AnyOf(Vec::new()),
    })
}

/// Why `verify` waives a clause.
pub(crate) const NOT_ASKED: &str = "only whether it is genuine is asked";

fn genuine_tdx() -> tdx::Policy {
    let mut policy = tdx::Policy::strict();
    for name in tdx::clause::REFERENCE {
        policy.waive(name, NOT_ASKED);
    }
    policy
}

pub(crate) fn needed<'a, T>(value: Option<&'a T>, option: &str) -> Result<&'a T, Error> {
    value.ok_or_else(|| Error::said(option, "the platform needs it"))
}
