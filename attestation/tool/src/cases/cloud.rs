//! Evidence of clouds: a TPM's quote or document, and who vouches for its key. A manifest of this form names a root, a
//! nonce, registers and their log; what it doesn't or can't name (the machine) is waived, what is right for every machine
//! isn't.

use std::path::{Path, PathBuf};

use constellation_attestation::{
    azure,
    bytes::Bytes,
    gcp, nitro,
    reference::Requirement,
    result::Checks,
    snp, tdx,
    tpm::{self, quote::Claim, registers::Registers},
    x509::{self, chain::Anchors},
};
use jiff::Timestamp;

use super::{
    ABSENT, WAIVED,
    form::{Azure, AzureParts, Quote, Vapor},
    manifest::{Kind, MixedCase, SnpPolicy},
    mixed::needed,
    snp::wanted as wanted_of_snp,
};
use crate::input::{self, Error};

/// Most certificates of an attestation key's chain.
const MAX_CHAIN: usize = 8;

/// What a case wants, besides its anchors, and the time.
struct Wanted<'a> {
    nonce: Option<Vec<u8>>,
    registers: Registers,
    log: Option<Vec<u8>>,
    now: Timestamp,
    /// Clauses that are waived besides those that these manifests can't name. What makes evidence genuine can't be.
    waived: &'a [String],
}

/// Evaluates one case, with these clauses waived.
pub(super) fn evaluate(folder: &Path, case: &MixedCase, now: Timestamp, waived: &[String]) -> Result<Checks, Error> {
    let file = |path: Option<&PathBuf>| path.map(|path| input::read(&folder.join(path))).transpose();
    let root = case.root.as_ref().map(|path| input::certificate(&folder.join(path))).transpose()?;
    let named = |error: &dyn std::error::Error| Error::value("root", error);
    let anchor = |root: &[u8]| Anchors::new([root]).map_err(|e| named(&e));
    let wanted = Wanted {
        nonce: case.nonce.as_deref().map(|digits| input::hex("nonce", digits)).transpose()?,
        registers: registers(folder, case.pcrs.as_deref())?,
        log: file(case.log.as_ref())?,
        now: case.now.unwrap_or(now),
        waived,
    };
    let mut checks = Checks::default();
    match case.kind {
        Kind::Nitrotpm => {
            let anchors = root.as_deref().map(anchor).transpose()?.unwrap_or_else(nitro::aws);
            match (file(case.document.as_ref())?, file(case.evidence.as_ref())?) {
                (Some(document), None) => drop(document_of(&document, &anchors, &wanted, &mut checks)),
                (None, Some(evidence)) => {
                    let wrong = nitro(&evidence, &anchors, wanted, &mut checks).err();
                    structure(nitro::clause::STRUCTURE, wrong, &mut checks);
                }
                _ => return Err(Error::said("document", "this kind needs it, or else evidence")),
            }
        }
        Kind::GcpVtpm => {
            let anchors = root.as_deref().map(anchor).transpose()?.unwrap_or_else(gcp::google);
            let evidence = input::read(&folder.join(needed(case.evidence.as_deref(), "evidence")?))?;
            let wrong = gcp(&evidence, &anchors, wanted, &mut checks).err();
            structure(gcp::clause::AK_STRUCTURE, wrong, &mut checks);
        }
        Kind::AzSnpVtpm => {
            let anchors = match &root {
                Some(root) => snp::Anchors::new([(product(root)?, root.as_slice())]).map_err(|e| named(&e))?,
                None => snp::Anchors::amd(),
            };
            let evidence = input::read(&folder.join(needed(case.evidence.as_deref(), "evidence")?))?;
            match Azure::parse(&evidence) {
                Ok(sent) => checks.extend(azure(&sent, &anchors, wanted)?),
                Err(wrong) => checks.fails(azure::clause::STRUCTURE, &wrong),
            }
        }
        Kind::Tdx | Kind::Eventlog => return Err(Error::said("kind", "it isn't evidence of a cloud")),
    }
    Ok(checks)
}

/// What the registers must be that a case names; of those that a program can set back it has nothing to say.
fn registers(folder: &Path, reference: Option<&str>) -> Result<Registers, Error> {
    /// The last register that only a reset of the TPM sets back (TCG PC Client Platform TPM Profile 1.06, 4.6.2).
    const LAST: u8 = 15;
    let mut wanted = Registers::waived(ABSENT);
    let Some(reference) = reference else { return Ok(wanted) };
    let values = input::registers(folder, reference)?.pcrs;
    if values.keys().all(|pcr| *pcr > LAST) {
        return Err(Error::said(
            reference,
            format!("names no register of 0 to {LAST} in a bank that proves something"),
        ));
    }
    let lasting = values.iter().filter(|(pcr, _)| **pcr <= LAST);
    wanted.0.extend(lasting.map(|(pcr, value)| (*pcr, Requirement::Exact(hex::encode(value)))));
    Ok(wanted)
}

/// Whose root it is.
fn product(root: &[u8]) -> Result<snp::Product, Error> {
    let certificate = x509::certificate(root).map_err(|e| Error::value("root", &e))?;
    let name = x509::common_name(certificate.subject()).unwrap_or_default();
    let product = snp::Product::ALL.into_iter().find(|product| product.root_name() == name);
    product.ok_or_else(|| Error::said("root", format!("{name:?} isn't a root of SEV-SNP")))
}

/// Evidence that isn't in its form is refused.
fn structure(name: &str, wrong: Option<String>, checks: &mut Checks) {
    if let Some(wrong) = wrong {
        checks.fails(name, &wrong);
    }
}

/// What a quote or a document must be about; a case that names nothing isn't about freshness.
fn about(nonce: Option<Vec<u8>>) -> Requirement<Bytes> {
    nonce.map_or_else(|| Requirement::Waived { reason: ABSENT.into() }, |nonce| Requirement::Exact(Bytes(nonce)))
}

fn document_of(
    document: &[u8],
    anchors: &Anchors,
    wanted: &Wanted<'_>,
    checks: &mut Checks,
) -> Option<constellation_attestation::verified::Verified<nitro::Tpm>> {
    let mut policy = nitro::Policy::strict();
    for name in nitro::clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    policy.nonce = about(wanted.nonce.clone());
    policy.registers = wanted.registers.clone();
    for name in wanted.waived {
        policy.waive(name, WAIVED);
    }
    let tpm = nitro::verify(document, anchors, wanted.now, checks)?;
    nitro::appraise(&tpm, &policy, wanted.now, checks);
    Some(tpm)
}

/// A document with the TPM's own quote, each held against the other.
fn nitro(evidence: &[u8], anchors: &Anchors, wanted: Wanted<'_>, checks: &mut Checks) -> Result<(), String> {
    let sent = Vapor::parse(evidence)?;
    let (Quote { attest, signature, values }, key) = (sent.quote()?, sent.key()?);
    let nonce = remembered(&sent, wanted.nonce.as_deref(), checks)?;
    let wanted = Wanted { nonce: Some(nonce.clone()), ..wanted };
    if let Some(tpm) = document_of(&sent.document()?, anchors, &wanted, checks) {
        let claim =
            Claim { attest: &attest, signature: &signature, key: &key, values: &values, nonce: &about(Some(nonce)) };
        nitro::bind::quote(&tpm, &claim, checks);
    }
    Ok(())
}

fn gcp(evidence: &[u8], anchors: &Anchors, wanted: Wanted<'_>, checks: &mut Checks) -> Result<(), String> {
    let sent = Vapor::parse(evidence)?;
    let chain = sent.chain().ok_or("there are no certificates of the attestation key")?;
    let chain = x509::from_pem(chain.as_bytes(), MAX_CHAIN).map_err(|e| e.to_string())?;
    let (Quote { attest, signature, values }, key) = (sent.quote()?, sent.key()?);
    let mut policy = gcp::Policy::strict();
    for name in gcp::clause::REFERENCE {
        if name != gcp::clause::PRODUCTION {
            policy.waive(name, ABSENT);
        }
    }
    policy.nonce = about(Some(remembered(&sent, wanted.nonce.as_deref(), checks)?));
    policy.registers = wanted.registers;
    for name in wanted.waived {
        policy.waive(name, WAIVED);
    }
    let log = wanted.log.as_deref();
    let evidence = gcp::Evidence { chain: &chain, attest: &attest, signature: &signature, values: &values, log };
    checks.extend(gcp::verify_and_appraise(&evidence, anchors, &policy, wanted.now));
    // The key that is sent beside its certificate is no hint of another one.
    if let Some(tpm) = gcp::verify(&chain, anchors, wanted.now, &mut Checks::default())
        && tpm.get().key != key
    {
        return Err("the attestation key isn't the one of its certificate".into());
    }
    Ok(())
}

/// What is right for every machine: a guest that nobody debugs, in front of whom the paravisor stands. The evidence
/// brings no intermediate; AMD's are known.
fn azure(sent: &AzureParts, anchors: &snp::Anchors, wanted: Wanted<'_>) -> Result<Checks, Error> {
    let mut hardware = wanted_of_snp(&SnpPolicy { allow_debug: Some(false), ..SnpPolicy::default() })?;
    hardware.vmpl = Requirement::Exact(0);
    for name in wanted.waived {
        hardware.waive(name, WAIVED);
    }
    let mut policy = azure::Policy::strict(azure::Hardware::Snp(Box::new(hardware)));
    for name in azure::clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    for name in wanted.waived {
        policy.waive(name, WAIVED);
    }
    policy.nonce = about(wanted.nonce);
    policy.registers = wanted.registers;
    let AzureParts { hcl, vcek, quote: Quote { attest, signature, values } } = sent;
    let intermediate = snp::intermediate_of(vcek).unwrap_or_default();
    let endorsement = azure::Endorsement::Snp { vek: vcek, intermediate, crl: None };
    let intel = tdx::Anchors::intel();
    let log = wanted.log.as_deref();
    let evidence = azure::Evidence { hcl, endorsement, attest, signature, values, log };
    Ok(azure::verify_and_appraise(&evidence, azure::Anchors { snp: anchors, tdx: &intel }, &policy, wanted.now))
}

/// The nonce that evidence must be about: what the case says, and else what the attester remembers. That these two are the
/// same is a clause of its own evidence: who remembers another conversation was in another one.
fn remembered(sent: &Vapor, nonce: Option<&[u8]>, checks: &mut Checks) -> Result<Vec<u8>, String> {
    let own = sent.nonce()?;
    if nonce.is_some_and(|nonce| nonce != own) {
        checks.fails(tpm::clause::NONCE, "the attester remembers another nonce");
    }
    Ok(own)
}
