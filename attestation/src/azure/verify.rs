//! Whether the key of a TPM is kept by a genuine paravisor of a genuine processor, and whether both are the wanted ones.

use jiff::Timestamp;

use super::{
    clause,
    hcl::{Kind, Report, Runtime},
    policy::{Hardware, Policy},
};
use crate::{
    bytes::Bytes,
    reference::Requirement,
    result::Checks,
    snp, tdx,
    tpm::{
        attest::Attest,
        quote::{self, Claim, Values},
        replay,
        signature::Signature,
    },
    verified::Verified,
};

/// Who endorses the processor's report. None of it is trusted.
#[derive(Clone, Copy, Debug)]
pub enum Endorsement<'a> {
    /// For the SEV-SNP report in the paravisor's.
    Snp {
        /// Certificate of the key that signed it, DER.
        vek: &'a [u8],
        /// Certificate of that certificate's issuer, DER.
        intermediate: &'a [u8],
        /// Revocation list of the root, DER.
        crl: Option<&'a [u8]>,
    },
    /// For a TDX report, which only its own machine can check.
    Tdx {
        /// The quote that was made from it.
        quote: &'a [u8],
        /// Intel's word about the platform, JSON.
        collateral: &'a [u8],
    },
}

/// Trust anchors of both makers.
#[derive(Clone, Copy, Debug)]
pub struct Anchors<'a> {
    /// AMD's.
    pub snp: &'a snp::Anchors,
    /// Intel's.
    pub tdx: &'a tdx::Anchors,
}

/// What an attester sent. None of it is trusted.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The paravisor's report.
    pub hcl: &'a [u8],
    /// Who endorses the processor's report in it.
    pub endorsement: Endorsement<'a>,
    /// `TPMS_ATTEST`.
    pub attest: &'a [u8],
    /// Signature over it.
    pub signature: &'a Signature,
    /// Register values.
    pub values: &'a Values,
    /// The firmware's event log.
    pub log: Option<&'a [u8]>,
}

/// A machine, as a genuine processor lets its paravisor describe it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What the paravisor says, the TPM's key among it.
    pub runtime: Runtime,
}

/// Verifies the paravisor's report at a time: the processor speaks for its runtime data, and is the wanted one. Looks at
/// every clause it can get to, whatever the ones before said; the machine comes out only if all of them hold.
pub fn verify(
    hcl: &[u8],
    endorsement: &Endorsement<'_>,
    anchors: Anchors<'_>,
    wanted: &Hardware,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<Verified<Machine>> {
    let report = match Report::parse(hcl) {
        Ok(report) => report,
        Err(error) => {
            checks.fails(clause::STRUCTURE, &error.to_string());
            return None;
        }
    };
    let mut own = Checks::default();
    own.holds(clause::STRUCTURE, "a report of the paravisor");
    hardware(&report, endorsement, anchors, wanted, now, &mut own);
    let runtime = report.runtime().map_err(|error| error.to_string());
    let message = runtime.as_ref().err().map_or("one attestation key and one machine", String::as_str);
    own.check(clause::RUNTIME, runtime.is_ok(), None, None, message);
    checks.prove(own, runtime.ok(), clause::RUNTIME).map(|runtime| Verified::new(Machine { runtime }))
}

/// The processor's report: genuine, wanted, and about exactly these runtime data.
fn hardware(
    report: &Report<'_>,
    endorsement: &Endorsement<'_>,
    anchors: Anchors<'_>,
    wanted: &Hardware,
    now: Timestamp,
    checks: &mut Checks,
) {
    let report_data = Requirement::Exact(report.report_data());
    match (report.kind, *endorsement, wanted) {
        (Kind::Snp, Endorsement::Snp { vek, intermediate, crl }, Hardware::Snp(policy)) => {
            checks.holds(clause::KIND, "SEV-SNP");
            let policy = snp::Policy { report_data, ..*policy.clone() };
            let evidence = snp::Evidence { report: report.hardware, vek, intermediate, crl };
            checks.extend(snp::verify_and_appraise(&evidence, anchors.snp, &policy, now));
        }
        (Kind::Tdx, Endorsement::Tdx { quote, collateral }, Hardware::Tdx(policy)) => {
            checks.holds(clause::KIND, "TDX");
            // The quote's data, not those of the report it was made from: only the quote is signed.
            let policy = tdx::Policy { report_data, ..*policy.clone() };
            let evidence = tdx::Evidence { quote, collateral };
            checks.extend(tdx::verify_and_appraise(&evidence, anchors.tdx, &policy, now).checks);
        }
        (kind, ..) => checks.fails(clause::KIND, &format!("the report is of {kind:?}; endorsement or policy isn't")),
    }
}

/// Verifies the paravisor's report and the TPM's quote, and appraises machine and registers.
///
/// Never fails: what can't be parsed is a clause that doesn't hold. Registers that no quote proves aren't appraised.
#[must_use]
pub fn verify_and_appraise(evidence: &Evidence<'_>, anchors: Anchors<'_>, policy: &Policy, now: Timestamp) -> Checks {
    let mut checks = Checks::default();
    examine(evidence, anchors, policy, now, &mut checks);
    checks
}

/// As [`verify_and_appraise`]; also gives the genuine machine and its quote, wanted or not.
pub fn examine(
    evidence: &Evidence<'_>,
    anchors: Anchors<'_>,
    policy: &Policy,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<(Verified<Machine>, Attest)> {
    let Evidence { hcl, endorsement, attest, signature, values, log } = *evidence;
    let machine = verify(hcl, &endorsement, anchors, &policy.hardware, now, checks)?;
    appraise(&machine, policy, checks);
    let claim = Claim { attest, signature, key: &machine.get().runtime.key, values, nonce: &policy.nonce };
    let quote = quote::check(&claim, checks)?;
    let log = log.and_then(|log| replay::check(log, &values.of_firmware(), checks));
    policy.registers.appraise(values, log.as_ref(), checks);
    Some((machine, quote))
}

/// Appraises a machine against a policy.
pub fn appraise(machine: &Verified<Machine>, policy: &Policy, checks: &mut Checks) {
    let Runtime { secure_boot, console, vm_id, user_data, .. } = &machine.get().runtime;
    let message = "signatures are checked at boot";
    policy.secure_boot.apply(checks, clause::SECURE_BOOT, Some(secure_boot), bool::to_string, message);
    policy.console.apply(checks, clause::CONSOLE, Some(console), bool::to_string, "a console that the host can use");
    policy.vm_id.apply(checks, clause::VM_ID, Some(vm_id), String::clone, "the machine");
    let said = Some(user_data).filter(|data| !data.0.is_empty());
    policy.user_data.apply(checks, clause::USER_DATA, said, Bytes::to_string, "what the guest asked to have said");
}
