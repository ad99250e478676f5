//! Evidence of clouds: a TPM's quote or document, and who vouches for its key. A manifest of this form names a root and a
//! nonce; what it can't name (the machine, its registers) is waived, what is right for every machine isn't.

use std::path::Path;

use constellation_attestation::{
    azure,
    bytes::Bytes,
    gcp, nitro,
    reference::Requirement,
    result::Checks,
    snp, tdx,
    tpm::{quote::Claim, registers::Registers},
    x509::{self, chain::Anchors},
};
use jiff::Timestamp;

use super::{
    ABSENT,
    form::{Azure, AzureParts, Quote, Vapor},
    manifest::{Kind, MixedCase, SnpPolicy},
    mixed::needed,
    snp::wanted as wanted_of_snp,
};
use crate::input::{self, Error};

/// Most certificates of an attestation key's chain.
const MAX_CHAIN: usize = 8;

/// Evaluates one case. Nothing that these manifests can name is a matter of policy alone.
pub(super) fn evaluate(folder: &Path, case: &MixedCase, now: Timestamp) -> Result<Checks, Error> {
    let now = case.now.unwrap_or(now);
    let nonce = case.nonce.as_deref().map(|digits| input::hex("nonce", digits)).transpose()?;
    let file = |path: Option<&std::path::PathBuf>| {
        path.map(|path| input::read(&folder.join(path))).transpose()?.map_or(Ok(None), |bytes| Ok(Some(bytes)))
    };
    let root = case.root.as_ref().map(|path| anchor(&folder.join(path))).transpose()?;
    let mut checks = Checks::default();
    match case.kind {
        Kind::Nitrotpm => {
            let anchors = root.unwrap_or_else(nitro::aws);
            match (file(case.document.as_ref())?, file(case.evidence.as_ref())?) {
                (Some(document), None) => drop(document_of(&document, &anchors, nonce, now, &mut checks)),
                (None, Some(evidence)) => {
                    let wrong = nitro(&evidence, &anchors, nonce, now, &mut checks).err();
                    structure(nitro::clause::STRUCTURE, wrong, &mut checks);
                }
                _ => return Err(Error::said("document", "this kind needs it, or else evidence")),
            }
        }
        Kind::GcpVtpm => {
            let evidence = input::read(&folder.join(needed(case.evidence.as_deref(), "evidence")?))?;
            let wrong = gcp(&evidence, &root.unwrap_or_else(gcp::google), nonce, now, &mut checks).err();
            structure(gcp::clause::AK_STRUCTURE, wrong, &mut checks);
        }
        Kind::AzSnpVtpm => {
            let evidence = input::read(&folder.join(needed(case.evidence.as_deref(), "evidence")?))?;
            let policy = azure_policy(nonce)?;
            match Azure::parse(&evidence) {
                Ok(sent) => checks.extend(azure(&sent, &policy, now)),
                Err(wrong) => checks.fails(azure::clause::STRUCTURE, &wrong),
            }
        }
        Kind::Tdx | Kind::Eventlog => return Err(Error::said("kind", "it isn't evidence of a cloud")),
    }
    Ok(checks)
}

/// Evidence that isn't in its form is refused.
fn structure(name: &str, wrong: Option<String>, checks: &mut Checks) {
    if let Some(wrong) = wrong {
        checks.fails(name, &wrong);
    }
}

fn anchor(path: &Path) -> Result<Anchors, Error> {
    let root = input::certificate(path)?;
    Anchors::new([root.as_slice()]).map_err(|e| Error::value(path.display().to_string(), &e))
}

/// What a quote or a document must be about; a case that names nothing isn't about freshness.
fn wanted(nonce: Option<Vec<u8>>) -> Requirement<Bytes> {
    nonce.map_or_else(|| Requirement::Waived { reason: ABSENT.into() }, |nonce| Requirement::Exact(Bytes(nonce)))
}

fn document_of(
    document: &[u8],
    anchors: &Anchors,
    nonce: Option<Vec<u8>>,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<constellation_attestation::verified::Verified<nitro::Tpm>> {
    let mut policy = nitro::Policy::strict();
    for name in nitro::clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    policy.nonce = wanted(nonce);
    policy.registers = Registers::waived(ABSENT);
    let tpm = nitro::verify(document, anchors, now, checks)?;
    nitro::appraise(&tpm, &policy, now, checks);
    Some(tpm)
}

/// A document with the TPM's own quote, each held against the other.
fn nitro(
    evidence: &[u8],
    anchors: &Anchors,
    nonce: Option<Vec<u8>>,
    now: Timestamp,
    checks: &mut Checks,
) -> Result<(), String> {
    let sent = Vapor::parse(evidence)?;
    let (Quote { attest, signature, values }, key) = (sent.quote()?, sent.key()?);
    let nonce = remembered(&sent, nonce)?;
    if let Some(tpm) = document_of(&sent.document()?, anchors, Some(nonce.clone()), now, checks) {
        let claim =
            Claim { attest: &attest, signature: &signature, key: &key, values: &values, nonce: &wanted(Some(nonce)) };
        nitro::bind::quote(&tpm, &claim, checks);
    }
    Ok(())
}

fn gcp(
    evidence: &[u8],
    anchors: &Anchors,
    nonce: Option<Vec<u8>>,
    now: Timestamp,
    checks: &mut Checks,
) -> Result<(), String> {
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
    policy.nonce = wanted(Some(remembered(&sent, nonce)?));
    policy.registers = Registers::waived(ABSENT);
    let evidence = gcp::Evidence { chain: &chain, attest: &attest, signature: &signature, values: &values, log: None };
    checks.extend(gcp::verify_and_appraise(&evidence, anchors, &policy, now));
    // The key that is sent beside its certificate is no hint of another one.
    if let Some(tpm) = gcp::verify(&chain, anchors, now, &mut Checks::default())
        && tpm.get().key != key
    {
        return Err("the attestation key isn't the one of its certificate".into());
    }
    Ok(())
}

/// What is right for every machine: a guest that nobody debugs, in front of whom the paravisor stands.
fn azure_policy(nonce: Option<Vec<u8>>) -> Result<azure::Policy, Error> {
    let mut hardware = wanted_of_snp(&SnpPolicy { allow_debug: Some(false), ..SnpPolicy::default() })?;
    hardware.vmpl = Requirement::Exact(0);
    let mut policy = azure::Policy::strict(azure::Hardware::Snp(Box::new(hardware)));
    for name in azure::clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    policy.nonce = wanted(nonce);
    policy.registers = Registers::waived(ABSENT);
    Ok(policy)
}

/// The evidence brings no intermediate; AMD's are known.
fn azure(sent: &AzureParts, policy: &azure::Policy, now: Timestamp) -> Checks {
    let AzureParts { hcl, vcek, quote: Quote { attest, signature, values } } = sent;
    let intermediate = snp::intermediate_of(vcek).unwrap_or_default();
    let endorsement = azure::Endorsement::Snp { vek: vcek, intermediate, crl: None };
    let (amd, intel) = (snp::Anchors::amd(), tdx::Anchors::intel());
    let anchors = azure::Anchors { snp: &amd, tdx: &intel };
    azure::verify_and_appraise(
        &azure::Evidence { hcl, endorsement, attest, signature, values, log: None },
        anchors,
        policy,
        now,
    )
}

/// The nonce that evidence must be about: what the case says, and else what the attester remembers. They may not differ.
fn remembered(sent: &Vapor, nonce: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    let own = sent.nonce()?;
    match nonce {
        Some(nonce) if nonce != own => Err("the attester remembers another nonce".into()),
        _ => Ok(own),
    }
}
