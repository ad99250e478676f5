//! Evidence of clouds: a TPM's quote or document, and who vouches for its key. A manifest of this form names a root, a
//! nonce, registers and their log; what it doesn't or can't name (the machine) is waived, what is right for every machine
//! isn't.

use std::path::{Path, PathBuf};

use constellation_attestation::{
    azure,
    bytes::Bytes,
    gcp,
    nitro::{self, cbor, document::Signed, policy::Age},
    reference::Requirement,
    result::Checks,
    snp, tdx,
    tpm::{self, Hash, public::Key, quote::Claim, registers::Registers},
    verified::Verified,
    x509::{self, chain::Anchors},
};
use jiff::Timestamp;

use super::{
    ABSENT, WAIVED,
    form::{Azure, Fault, Quote, Vapor},
    manifest::{Kind, MixedCase, SnpPolicy},
    mixed::needed,
    snp::wanted as wanted_of_snp,
};
use crate::{
    input::{self, Error},
    registers::{self, Banks},
};

/// Most certificates of an attestation key's chain.
const MAX_CHAIN: usize = 8;

/// What a case wants, besides its anchors, and the time.
struct Wanted<'a> {
    nonce: Option<Vec<u8>>,
    named: Option<Banks>,
    /// How the case names them.
    reference: &'a str,
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
        named: case.pcrs.as_deref().map(|reference| registers::read(folder, reference)).transpose()?,
        reference: case.pcrs.as_deref().unwrap_or_default(),
        log: file(case.log.as_ref())?,
        now: case.now.unwrap_or(now),
        waived,
    };
    let mut checks = Checks::default();
    match case.kind {
        Kind::Nitrotpm => {
            let anchors = root.as_deref().map(anchor).transpose()?.unwrap_or_else(nitro::aws);
            match (file(case.document.as_ref())?, file(case.evidence.as_ref())?) {
                (Some(document), None) => drop(document_of(&document, &anchors, &wanted, &mut checks)?),
                (None, Some(evidence)) => match Vapor::parse(&evidence) {
                    Ok(sent) => nitro(&sent, &anchors, wanted, &mut checks)?,
                    Err(wrong) => checks.fails(nitro::clause::STRUCTURE, &wrong),
                },
                _ => return Err(Error::said("document", "this kind needs it, or else evidence")),
            }
        }
        Kind::GcpVtpm => {
            let anchors = root.as_deref().map(anchor).transpose()?.unwrap_or_else(gcp::google);
            let evidence = input::read(&folder.join(needed(case.evidence.as_deref(), "evidence")?))?;
            match Vapor::parse(&evidence) {
                Ok(sent) => gcp(&sent, &anchors, &wanted, &mut checks)?,
                Err(wrong) => checks.fails(gcp::clause::AK_STRUCTURE, &wrong),
            }
        }
        Kind::AzSnpVtpm => {
            let anchors = match &root {
                Some(root) => snp::Anchors::new([(product(root)?, root.as_slice())]).map_err(|e| named(&e))?,
                None => snp::Anchors::amd(),
            };
            let evidence = input::read(&folder.join(needed(case.evidence.as_deref(), "evidence")?))?;
            match Azure::parse(&evidence) {
                Ok(sent) => azure(sent, &anchors, wanted, &mut checks)?,
                Err(wrong) => checks.fails(azure::clause::STRUCTURE, &wrong),
            }
        }
        Kind::Tdx | Kind::Eventlog => return Err(Error::said("kind", "it isn't evidence of a cloud")),
    }
    Ok(checks)
}

impl Wanted<'_> {
    /// What the registers must be that the case names, in the bank that the evidence is of; of those that a program can
    /// set back it has nothing to say.
    fn registers(&self, bank: Hash) -> Result<Registers, Error> {
        /// The last register that only a reset of the TPM sets back (TCG PC Client Platform TPM Profile 1.06, 4.6.2).
        const LAST: u8 = 15;
        let mut wanted = Registers::waived(ABSENT);
        let Some(named) = &self.named else { return Ok(wanted) };
        let lasting = named.of(bank).into_iter().flat_map(|values| values.pcrs.range(0..=LAST));
        let mut lasting = lasting.map(|(pcr, value)| (*pcr, Requirement::Exact(hex::encode(value)))).peekable();
        if lasting.peek().is_none() {
            let problem = format!("names no register of 0 to {LAST} in a bank that proves something");
            return Err(Error::said(self.reference, problem));
        }
        wanted.0.extend(lasting);
        let waived = self.waived.iter().filter_map(|name| name.strip_prefix(tpm::clause::PCR)?.parse().ok());
        wanted.0.extend(waived.map(|pcr| (pcr, Requirement::Waived { reason: WAIVED.into() })));
        Ok(wanted)
    }
}

/// Whose root it is.
fn product(root: &[u8]) -> Result<snp::Product, Error> {
    let certificate = x509::certificate(root).map_err(|e| Error::value("root", &e))?;
    let name = x509::common_name(certificate.subject()).unwrap_or_default();
    let product = snp::Product::ALL.into_iter().find(|product| product.root_name() == name);
    product.ok_or_else(|| Error::said("root", format!("{name:?} isn't a root of SEV-SNP")))
}

/// The part of the evidence, if it could be read; else its clauses fail.
fn read<T>(part: Result<T, impl IntoIterator<Item = Fault>>, checks: &mut Checks) -> Option<T> {
    match part {
        Ok(part) => Some(part),
        Err(faults) => {
            for Fault { clause, text } in faults {
                checks.fails(clause, &text);
            }
            None
        }
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
) -> Result<Option<Verified<nitro::Tpm>>, Error> {
    let policy = document_policy(wanted)?;
    if let Some(kind) = framed(document) {
        checks.fails(nitro::clause::KIND, &format!("behind other bytes: {kind}"));
    }
    let Some(tpm) = nitro::verify(document, anchors, wanted.now, checks) else { return Ok(None) };
    nitro::appraise(&tpm, &policy, wanted.now, checks);
    Ok(Some(tpm))
}

fn document_policy(wanted: &Wanted<'_>) -> Result<nitro::Policy, Error> {
    let mut policy = nitro::Policy::strict();
    for name in nitro::clause::REFERENCE {
        policy.waive(name, ABSENT);
    }
    // What is recorded may be old; nothing is from later than now.
    policy.age = Requirement::AnyOf(vec![Age::Recent, Age::Old]);
    policy.nonce = about(wanted.nonce.clone());
    policy.registers = wanted.registers(Hash::Sha384)?;
    for name in wanted.waived {
        policy.waive(name, WAIVED);
    }
    Ok(policy)
}

/// What a document is, besides refused, that stands in a frame (a few bytes before it, any after it) and is none of a TPM.
fn framed(document: &[u8]) -> Option<nitro::document::Error> {
    /// Most bytes before it; the frame of `dstack` has four.
    const MOST: usize = 8;
    /// `COSE_Sign1` of ES384 (RFC 9052, 4.2): an array of four, and its protected header.
    const START: &[u8] = &[0x84, 0x44, 0xa1, 0x01, 0x38, 0x22];
    let outer = Signed::parse(document).err()?;
    let mut inner = (1..=MOST).filter_map(|length| document.get(length..)).find(|rest| rest.starts_with(START))?;
    if let Err(cbor::Error::Trailing(length)) = cbor::parse(inner) {
        inner = inner.get(..inner.len().checked_sub(length)?)?;
    }
    let kind = Signed::parse(inner).err()?;
    (outer.clause() == nitro::clause::STRUCTURE && kind.clause() == nitro::clause::KIND).then_some(kind)
}

/// A document with the TPM's own quote, each held against the other.
fn nitro(sent: &Vapor, anchors: &Anchors, wanted: Wanted<'_>, checks: &mut Checks) -> Result<(), Error> {
    let key = read(sent.key().map_err(Fault::of(nitro::clause::STRUCTURE)).map_err(Some), checks);
    let quote = read(sent.quote(), checks);
    let nonce = remembered(sent, wanted.nonce.as_deref(), checks);
    let wanted = Wanted { nonce: nonce.clone().or(wanted.nonce), ..wanted };
    let Some(document) = read(sent.document().map_err(Some), checks) else { return Ok(()) };
    let tpm = document_of(&document, anchors, &wanted, checks)?;
    if let (Some(tpm), Some(key), Some(Quote { attest, signature, values })) = (tpm, key, quote) {
        let nonce = about(wanted.nonce);
        let claim = Claim { attest: &attest, signature: &signature, key: &key, values: &values, nonce: &nonce };
        nitro::bind::quote(&tpm, &claim, checks);
    }
    Ok(())
}

fn gcp(sent: &Vapor, anchors: &Anchors, wanted: &Wanted<'_>, checks: &mut Checks) -> Result<(), Error> {
    let structure = Fault::of(gcp::clause::AK_STRUCTURE);
    let chain = sent.chain().ok_or_else(|| "there are no certificates of the attestation key".to_owned());
    let chain = chain.and_then(|pem| x509::from_pem(pem.as_bytes(), MAX_CHAIN).map_err(|e| e.to_string()));
    let chain = read(chain.map_err(|wrong| Some(structure(wrong))), checks);
    let key = read(sent.key().map_err(|wrong| Some(structure(wrong))), checks);
    let quote = read(sent.quote(), checks);
    let nonce = remembered(sent, wanted.nonce.as_deref(), checks).or(wanted.nonce.clone());
    let mut policy = gcp::Policy::strict();
    for name in gcp::clause::REFERENCE {
        if name != gcp::clause::PRODUCTION {
            policy.waive(name, ABSENT);
        }
    }
    policy.nonce = about(nonce);
    policy.registers = wanted.registers(quote.as_ref().map_or(Hash::Sha256, |quote| quote.values.bank))?;
    for name in wanted.waived {
        policy.waive(name, WAIVED);
    }
    let Some(chain) = chain else { return Ok(()) };
    match &quote {
        Some(Quote { attest, signature, values }) => {
            let log = wanted.log.as_deref();
            let evidence = gcp::Evidence { chain: &chain, attest, signature, values, log };
            checks.extend(gcp::verify_and_appraise(&evidence, anchors, &policy, wanted.now));
        }
        None => drop(gcp::verify(&chain, anchors, wanted.now, checks)),
    }
    certified(&chain, key.as_ref(), anchors, wanted.now, checks);
    Ok(())
}

/// The key that is sent beside its certificate is no hint of another one.
fn certified(chain: &[Vec<u8>], key: Option<&Key>, anchors: &Anchors, now: Timestamp, checks: &mut Checks) {
    if let Some(tpm) = gcp::verify(chain, anchors, now, &mut Checks::default())
        && key.is_some_and(|key| *key != tpm.get().key)
    {
        checks.fails(gcp::clause::AK_STRUCTURE, "the attestation key isn't the one of its certificate");
    }
}

/// What is right for every machine: a guest that nobody debugs, in front of whom the paravisor stands.
fn azure(sent: Azure, anchors: &snp::Anchors, wanted: Wanted<'_>, checks: &mut Checks) -> Result<(), Error> {
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
    policy.registers = wanted.registers(Hash::Sha256)?;
    policy.nonce = about(wanted.nonce);
    let hcl = read(sent.hcl.map_err(Some), checks);
    let vcek = read(sent.vcek.map_err(Some), checks);
    let quote = read(sent.quote, checks);
    let Some(hcl) = hcl else { return Ok(()) };
    let Some((vcek, intermediate)) =
        vcek.and_then(|vcek| read(issuer(&vcek).map_err(Some), checks).map(|issuer| (vcek, issuer)))
    else {
        let report = azure::hcl::Report::parse(&hcl).map(drop);
        read(report.map_err(|e| Some(Fault::of(azure::clause::STRUCTURE)(e))), checks);
        return Ok(());
    };
    let endorsement = azure::Endorsement::Snp { vek: &vcek, intermediate, crl: None };
    let anchors = azure::Anchors { snp: anchors, tdx: &tdx::Anchors::intel() };
    match &quote {
        Some(Quote { attest, signature, values }) => {
            let log = wanted.log.as_deref();
            let evidence = azure::Evidence { hcl: &hcl, endorsement, attest, signature, values, log };
            checks.extend(azure::verify_and_appraise(&evidence, anchors, &policy, wanted.now));
        }
        None => drop(azure::verify(&hcl, &endorsement, anchors, &policy.hardware, wanted.now, checks)),
    }
    Ok(())
}

/// AMD's intermediate that issued a VCEK: the evidence brings none. Without one, the VCEK is what is wrong.
fn issuer(vcek: &[u8]) -> Result<&'static [u8], Fault> {
    if let Some(intermediate) = snp::intermediate_of(vcek) {
        return Ok(intermediate);
    }
    let certificate = x509::certificate(vcek).map_err(Fault::of(snp::clause::VEK_STRUCTURE))?;
    let subject = certificate.subject();
    let kind = x509::common_name(subject).and_then(snp::KeyKind::of_certificate);
    Err(match kind {
        None => Fault::of(snp::clause::VEK_KIND)(format!("it is the certificate of {subject}")),
        Some(_) => Fault::of(snp::clause::VEK_ISSUER)(format!("{} isn't an intermediate of AMD", certificate.issuer())),
    })
}

/// The nonce that evidence must be about: what the case says, and else what the attester remembers. That these two are the
/// same is a clause of its own evidence: who remembers another conversation was in another one.
fn remembered(sent: &Vapor, nonce: Option<&[u8]>, checks: &mut Checks) -> Option<Vec<u8>> {
    let own = read(sent.nonce().map_err(Some), checks)?;
    if nonce.is_some_and(|nonce| nonce != own) {
        checks.fails(tpm::clause::NONCE, "the attester remembers another nonce");
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_be_old_and_not_from_the_future() {
        let wanted =
            Wanted { nonce: None, named: None, reference: "", log: None, now: Timestamp::UNIX_EPOCH, waived: &[] };
        let age = document_policy(&wanted).unwrap().age;
        assert!(age.allows(&Age::Recent) && age.allows(&Age::Old) && !age.allows(&Age::Future));
    }
}
