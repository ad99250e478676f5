//! Whether a quote is genuine: an unbroken line of signatures from the trust anchor to the trust domain's report, all
//! in date and none revoked, and Intel's verdict about the platform. Makes the proof that [`appraise`](super::appraise) takes.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;
use x509_parser::certificate::X509Certificate;

use super::{
    Evidence,
    bytes::{Hex, Reader},
    clause,
    collateral::{Collateral, in_date},
    pck::Platform,
    pki::{self, Anchors, Chain},
    quote::{CERTIFICATION_PCK_CHAIN, Quote, TdReport},
    tcb::{QeIdentity, TcbInfo, Verdict, isv_level, masked},
};
use crate::{
    result::Checks,
    verified::Verified,
    x509::{self, RevocationList},
};

/// A trust domain that is what its quote says, on a platform that Intel made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Td {
    /// What the TDX module reported.
    pub report: TdReport,
    /// The platform.
    pub platform: Platform,
    /// What Intel says about platform, TDX module and quoting enclave together.
    pub tcb: Verdict,
    /// The TCB recovery that this is based on: the older one of TCB info and QE identity.
    pub evaluation_number: u32,
}

/// Verifies a quote with its collateral. Records every clause it could look at; gives the proof when all hold.
pub fn verify(evidence: &Evidence<'_>, anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Verified<Td>> {
    let mut own = Checks::default();
    let td = chain(evidence, anchors, now, &mut own);
    checks.prove(own, td, clause::QUOTE_STRUCTURE).map(Verified::new)
}

/// What all steps look at.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) anchor: &'a X509Certificate<'a>,
    pub(super) root_crl: Option<&'a RevocationList<'a>>,
    pub(super) now: Timestamp,
}

fn chain(evidence: &Evidence<'_>, anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Td> {
    let quote = Quote::parse(evidence.quote).map_err(|error| checks.fails(error.clause(), &error.to_string())).ok();
    if quote.is_some() {
        checks.holds(clause::QUOTE_STRUCTURE, "a TD quote");
    }
    let collateral = recorded(Collateral::parse(evidence.collateral), clause::COLLATERAL_STRUCTURE, checks)?;
    let roots = anchors.parsed().map_err(|error| checks.fails(clause::ROOT_VALIDITY, &error.to_string())).ok()?;
    let root_crl_der = hex::decode(&collateral.root_ca_crl).unwrap_or_default();
    let (anchor, root_crl) = root(&roots, &root_crl_der, now, checks)?;
    let context = Context { anchor, root_crl: root_crl.as_ref(), now };

    let (tcb_info, qe_identity) = documents(&collateral, context, checks);
    let quote = quote?;
    let pck_chain = pck_chain(&quote, &collateral, checks)?;
    let pck = pck(&pck_chain, &collateral, context, checks);
    let (platform, key) = pck?;
    let qe_report = quoting_enclave(&quote, &key, checks)?;
    let (tcb_info, qe_identity) = (tcb_info?, qe_identity?);
    let qe = qe_verdict(&qe_report, &qe_identity, checks);
    let tcb = platform_verdict(&quote.td, &platform, &tcb_info, checks);
    Some(Td {
        report: quote.td,
        platform,
        tcb: tcb?.and(&qe?),
        evaluation_number: tcb_info.tcb_evaluation_data_number.min(qe_identity.tcb_evaluation_data_number),
    })
}

/// What Intel says of a platform family and of quoting enclaves, each if it could be believed.
pub(super) fn documents(
    collateral: &Collateral,
    context: Context<'_>,
    checks: &mut Checks,
) -> (Option<TcbInfo>, Option<QeIdentity>) {
    let tcb_signer = Signer::find(&collateral.tcb_info_issuer_chain, context);
    // Intel signs both with the same certificate.
    let qe_signer = if collateral.qe_identity_issuer_chain == collateral.tcb_info_issuer_chain {
        tcb_signer.clone()
    } else {
        Signer::find(&collateral.qe_identity_issuer_chain, context)
    };
    let tcb_info = tcb_info(collateral, tcb_signer, context.now, checks);
    (tcb_info, qe_identity(collateral, qe_signer, context.now, checks))
}

/// Records an error under a clause, and that it holds otherwise.
pub(super) fn recorded<T, E: std::fmt::Display>(result: Result<T, E>, name: &str, checks: &mut Checks) -> Option<T> {
    match result {
        Ok(value) => {
            checks.holds(name, "as it must be");
            Some(value)
        }
        Err(error) => {
            checks.fails(name, &error.to_string());
            None
        }
    }
}

/// Finds the anchor that signed the root's revocation list; without one the first stands in for the other clauses.
pub(super) fn root<'a>(
    roots: &'a [X509Certificate<'a>],
    der: &'a [u8],
    now: Timestamp,
    checks: &mut Checks,
) -> Option<(&'a X509Certificate<'a>, Option<RevocationList<'a>>)> {
    let found = roots.iter().find_map(|root| Some((root, pki::revocation_list(der, root).ok()?)));
    let (anchor, crl) = match found {
        Some((root, list)) => (root, Ok(list)),
        None => (roots.first()?, pki::revocation_list(der, roots.first()?)),
    };
    checks.check(
        clause::ROOT_VALIDITY,
        x509::in_date(anchor, now).is_ok(),
        now.to_string(),
        anchor.validity().not_after.to_string(),
        "validity of the trust anchor",
    );
    let crl = recorded(crl, clause::ROOT_CRL_SIGNATURE, checks);
    if let Some(crl) = &crl {
        dated(crl, clause::ROOT_CRL_VALIDITY, now, checks);
        checks.check(clause::ROOT_REVOKED, !crl.revokes(anchor), None, None, "the trust anchor in its own list");
    }
    Some((anchor, crl))
}

pub(super) fn dated(crl: &RevocationList<'_>, name: &str, now: Timestamp, checks: &mut Checks) {
    checks.check(name, crl.in_date(now).is_ok(), now.to_string(), crl.dates(), "dates of the revocation list");
}

/// Names of the clauses about a signed document of the collateral.
struct Signed {
    issuer: &'static str,
    issuer_validity: &'static str,
    issuer_revoked: &'static str,
    signature: &'static str,
    structure: &'static str,
    validity: &'static str,
}

/// The certificate that signed a document: the anchor issued it to sign TCB data.
#[derive(Clone, Debug)]
struct Signer {
    key: Vec<u8>,
    in_date: bool,
    dates: String,
    /// `None` when the root's revocation list is no good.
    revoked: Option<bool>,
}

impl Signer {
    fn find(chain: &str, context: Context<'_>) -> Result<Self, pki::Error> {
        let chain = Chain::from_pem(chain.as_bytes())?;
        let below = chain.below(1, context.anchor)?;
        let signer = below.first().ok_or(pki::Error::ChainLength(0))?;
        pki::is_signer(signer, pki::TCB_SIGNING)?;
        pki::issued(signer, context.anchor)?;
        Ok(Self {
            key: pki::key(signer)?.to_vec(),
            in_date: x509::in_date(signer, context.now).is_ok(),
            dates: x509::dates(signer),
            revoked: context.root_crl.map(|crl| crl.revokes(signer)),
        })
    }
}

fn tcb_info(
    collateral: &Collateral,
    signer: Result<Signer, pki::Error>,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<TcbInfo> {
    let names = Signed {
        issuer: clause::TCB_INFO_ISSUER,
        issuer_validity: clause::TCB_INFO_ISSUER_VALIDITY,
        issuer_revoked: clause::TCB_INFO_ISSUER_REVOKED,
        signature: clause::TCB_INFO_SIGNATURE,
        structure: clause::TCB_INFO_STRUCTURE,
        validity: clause::TCB_INFO_VALIDITY,
    };
    let parts = [&*collateral.tcb_info, &collateral.tcb_info_signature];
    let info: TcbInfo = document(parts, signer, &names, now, checks)?;
    let known = info.id == "TDX" && info.version == 3 && info.tcb_type == 0;
    let actual = format!("{} version {} type {}", info.id, info.version, info.tcb_type);
    let known = checks.check(names.structure, known, "TDX version 3 type 0".to_owned(), actual, "form of the TCB info");
    let dates = (info.issue_date, info.next_update);
    issue(dates, names.validity, now, checks);
    known.then_some(info)
}

fn qe_identity(
    collateral: &Collateral,
    signer: Result<Signer, pki::Error>,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<QeIdentity> {
    let names = Signed {
        issuer: clause::QE_IDENTITY_ISSUER,
        issuer_validity: clause::QE_IDENTITY_ISSUER_VALIDITY,
        issuer_revoked: clause::QE_IDENTITY_ISSUER_REVOKED,
        signature: clause::QE_IDENTITY_SIGNATURE,
        structure: clause::QE_IDENTITY_STRUCTURE,
        validity: clause::QE_IDENTITY_VALIDITY,
    };
    let parts = [&*collateral.qe_identity, &collateral.qe_identity_signature];
    let identity: QeIdentity = document(parts, signer, &names, now, checks)?;
    let known = identity.id == "TD_QE" && identity.version == 2;
    let actual = format!("{} version {}", identity.id, identity.version);
    let known = checks.check(names.structure, known, "TD_QE version 2".to_owned(), actual, "form of the QE identity");
    let dates = (identity.issue_date, identity.next_update);
    issue(dates, names.validity, now, checks);
    known.then_some(identity)
}

/// Checks who signed a document and that he did, over its very bytes; only then it is parsed.
fn document<T: DeserializeOwned>(
    [text, signature]: [&str; 2],
    signer: Result<Signer, pki::Error>,
    names: &Signed,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<T> {
    let signer = recorded(signer, names.issuer, checks)?;
    checks.check(names.issuer_validity, signer.in_date, now.to_string(), signer.dates, "validity of the signer");
    if let Some(revoked) = signer.revoked {
        checks.check(names.issuer_revoked, !revoked, None, None, "the signer in the root's list");
    }
    let holds = hex::decode(signature).is_ok_and(|signature| pki::signed(&signer.key, text.as_bytes(), &signature));
    checks.check(names.signature, holds, None, None, "signature over the bytes as they came").then_some(())?;
    serde_json::from_str(text).map_err(|error| checks.fails(names.structure, &error.to_string())).ok()
}

fn issue((issued, next): (Timestamp, Timestamp), name: &str, now: Timestamp, checks: &mut Checks) {
    checks.check(
        name,
        in_date(issued, next, now),
        now.to_string(),
        format!("{issued} to {next}"),
        "dates of the document",
    );
}

/// The PCK chain: from the collateral when it has one (what is empty is absent), else from the quote.
fn pck_chain(quote: &Quote<'_>, collateral: &Collateral, checks: &mut Checks) -> Option<Chain> {
    let name = clause::PCK_CERTIFICATION_DATA;
    let pem = match collateral.pck_certificate_chain.as_deref().filter(|chain| !chain.is_empty()) {
        Some(chain) => chain.as_bytes(),
        None if quote.certification_kind == CERTIFICATION_PCK_CHAIN => quote.certification_data,
        None => {
            let actual = format!("type {}", quote.certification_kind);
            checks.check(name, false, "type 5".to_owned(), actual, "no PCK chain in the quote, nor in the collateral");
            return None;
        }
    };
    let there = |chain: Chain| if chain.is_empty() { Err(pki::Error::ChainLength(0)) } else { Ok(chain) };
    recorded(Chain::from_pem(pem).and_then(there), name, checks)
}

/// Checks the PCK chain and the revocation list of its CA; gives the platform and the PCK.
fn pck(
    chain: &Chain,
    collateral: &Collateral,
    context: Context<'_>,
    checks: &mut Checks,
) -> Option<(Platform, Vec<u8>)> {
    let Context { anchor, root_crl, now } = context;
    let path = chain.below(2, anchor).and_then(|mut below| {
        let ca = below.pop().ok_or(pki::Error::ChainLength(0))?;
        let leaf = below.pop().ok_or(pki::Error::ChainLength(1))?;
        pki::is_signer(&leaf, pki::PCK)?;
        pki::is_authority(&ca, &[pki::PCK_PLATFORM_CA, pki::PCK_PROCESSOR_CA])?;
        pki::issued(&ca, anchor)?;
        pki::issued(&leaf, &ca)?;
        let key = pki::key(&leaf)?.to_vec();
        Ok((leaf, ca, key))
    });
    let (leaf, ca, key) = recorded(path, clause::PCK_CHAIN, checks)?;
    let bad = [&leaf, &ca].into_iter().find(|certificate| x509::in_date(certificate, now).is_err()).map(x509::dates);
    checks.check(clause::PCK_VALIDITY, bad.is_none(), now.to_string(), bad, "validity of PCK certificate and its CA");

    pck_crl_issuer(collateral, &ca, context, checks);
    let der = hex::decode(&collateral.pck_crl).unwrap_or_default();
    let crl = recorded(pki::revocation_list(&der, &ca), clause::PCK_CRL_SIGNATURE, checks);
    if let Some(crl) = &crl {
        dated(crl, clause::PCK_CRL_VALIDITY, now, checks);
    }
    if let (Some(crl), Some(root_crl)) = (&crl, root_crl) {
        let revoked = crl.revokes(&leaf) || root_crl.revokes(&ca);
        checks.check(clause::PCK_REVOKED, !revoked, None, None, "PCK certificate and its CA in the revocation lists");
    }

    let platform = recorded(Platform::of(&leaf), clause::PCK_EXTENSION, checks)?;
    Some((platform, key))
}

/// The chain that came with the PCK CA's revocation list must be of the same CA and lead to the anchor.
fn pck_crl_issuer(collateral: &Collateral, ca: &X509Certificate<'_>, context: Context<'_>, checks: &mut Checks) {
    let chain = Chain::from_pem(collateral.pck_crl_issuer_chain.as_bytes());
    let issuer = chain.as_ref().map_err(Clone::clone).and_then(|chain| {
        let below = chain.below(1, context.anchor)?;
        let issuer = below.first().ok_or(pki::Error::ChainLength(0))?;
        // The very certificate of the PCK chain needn't be verified twice.
        if issuer.as_raw() == ca.as_raw() {
            return Ok(());
        }
        pki::is_authority(issuer, &[pki::PCK_PLATFORM_CA, pki::PCK_PROCESSOR_CA])?;
        pki::issued(issuer, context.anchor)?;
        x509::in_date(issuer, context.now)?;
        let revoked = context.root_crl.is_some_and(|list| list.revokes(issuer));
        if revoked || issuer.public_key().raw != ca.public_key().raw {
            return Err(pki::Error::Purpose(issuer.subject().to_string()));
        }
        Ok(())
    });
    recorded(issuer, clause::PCK_CRL_ISSUER, checks);
}

/// The quoting enclave's report (`sgx_report_body_t`, Intel SDM volume 3D, table 36-21).
struct QeReport {
    miscselect: [u8; 4],
    attributes: [u8; 16],
    mrsigner: Hex<32>,
    product: u16,
    svn: u16,
    report_data: Hex<64>,
}

impl QeReport {
    fn parse(bytes: &[u8; 384]) -> Option<Self> {
        let mut reader = Reader(bytes);
        reader.take(16, "CPUSVN").ok()?;
        let miscselect = reader.array("MISCSELECT").ok()?;
        reader.take(28, "reserved").ok()?;
        let attributes = reader.array("ATTRIBUTES").ok()?;
        reader.take(32 + 32, "MRENCLAVE, reserved").ok()?;
        let mrsigner = reader.hex("MRSIGNER").ok()?;
        reader.take(96, "reserved").ok()?;
        let product = reader.u16("ISVPRODID").ok()?;
        let svn = reader.u16("ISVSVN").ok()?;
        reader.take(60, "reserved").ok()?;
        let report_data = reader.hex("REPORTDATA").ok()?;
        Some(Self { miscselect, attributes, mrsigner, product, svn, report_data })
    }
}

/// From the platform's key to the trust domain: it signed the quoting enclave's report, that names the attestation
/// key, and that key signed the quote.
fn quoting_enclave(quote: &Quote<'_>, pck: &[u8], checks: &mut Checks) -> Option<QeReport> {
    let holds = pki::signed(pck, quote.qe_report, quote.qe_report_signature);
    checks.check(clause::QE_SIGNATURE, holds, None, None, "the PCK's signature over the QE report").then_some(())?;
    let report = QeReport::parse(quote.qe_report)?;
    let hash = digest(&SHA256, &[quote.attestation_key.as_slice(), quote.qe_auth_data].concat());
    let mut wanted = [0; 64];
    wanted[..32].copy_from_slice(hash.as_ref());
    let holds = bool::from(report.report_data.0.ct_eq(&wanted));
    checks
        .check(
            clause::QE_KEY,
            holds,
            Hex(wanted).to_string(),
            report.report_data.to_string(),
            "the attestation key in the QE report",
        )
        .then_some(())?;
    let key = [&[4], quote.attestation_key.as_slice()].concat();
    let holds = pki::signed(&key, quote.signed, quote.signature);
    checks.check(clause::SIGNATURE, holds, None, None, "the attestation key's signature over header and body");
    Some(report)
}

/// Compares the quoting enclave with its identity; gives what Intel says about its security version.
fn qe_verdict(report: &QeReport, identity: &QeIdentity, checks: &mut Checks) -> Option<Verdict> {
    /// `ATTRIBUTES.DEBUG`.
    const DEBUG: u8 = 1 << 1;
    checks.check(clause::QE_DEBUG, report.attributes[0] & DEBUG == 0, None, None, "debug attribute of the QE");
    checks.check(
        clause::QE_MRSIGNER,
        report.mrsigner == identity.mrsigner,
        identity.mrsigner.to_string(),
        report.mrsigner.to_string(),
        "signer of the QE",
    );
    checks.check(
        clause::QE_PRODUCT,
        report.product == identity.isvprodid,
        identity.isvprodid.to_string(),
        report.product.to_string(),
        "product of the QE",
    );
    checks.check(
        clause::QE_MISCSELECT,
        masked(&report.miscselect, &identity.miscselect, &identity.miscselect_mask),
        identity.miscselect.to_string(),
        hex::encode(report.miscselect),
        "MISCSELECT of the QE under the identity's mask",
    );
    // Of that attribute another clause speaks.
    let mut mask = identity.attributes_mask;
    mask.0[0] &= !DEBUG;
    checks.check(
        clause::QE_ATTRIBUTES,
        masked(&report.attributes, &identity.attributes, &mask),
        identity.attributes.to_string(),
        hex::encode(report.attributes),
        "attributes of the QE under the identity's mask",
    );
    let level = isv_level(&identity.tcb_levels, report.svn);
    checks.check(clause::QE_LEVEL, level.is_some(), None, report.svn.to_string(), "security version of the QE");
    level
}

/// Finds Intel's verdict about the platform and its TDX module.
fn platform_verdict(td: &TdReport, platform: &Platform, info: &TcbInfo, checks: &mut Checks) -> Option<Verdict> {
    let same = checks.check(
        clause::TCB_FMSPC,
        info.fmspc == platform.fmspc,
        platform.fmspc.to_string(),
        info.fmspc.to_string(),
        "the TCB info's platform family",
    );
    let same = checks.check(
        clause::TCB_PCE_ID,
        info.pce_id == platform.pce_id,
        platform.pce_id.to_string(),
        info.pce_id.to_string(),
        "the TCB info's provisioning certification enclave",
    ) && same;
    if !same {
        return None;
    }
    seam(td, info, checks);
    // As it was when the trust domain started and, for TD 1.5, as it is now: both must be good.
    let svns = [Some(&td.tee_tcb_svn), td.v1_5.as_ref().map(|v1_5| &v1_5.tee_tcb_svn_2)];
    let mut verdict: Option<Verdict> = None;
    for svn in svns.into_iter().flatten() {
        let level = info.level(&platform.components, platform.pce_svn, svn);
        let actual =
            format!("SGX {} PCE {} TDX {}", hex::encode(platform.components), platform.pce_svn, hex::encode(svn));
        checks.check(clause::TCB_LEVEL, level.is_some(), None, actual, "a TCB level that the platform meets");
        let module = match info.module(svn) {
            Some((_, [])) if svn[1] == 0 => level.clone(),
            Some((_, levels)) => isv_level(levels, svn[0].into()),
            None => None,
        };
        if svn[1] != 0 {
            let actual = format!("version {} security version {}", svn[1], svn[0]);
            checks.check(clause::TCB_MODULE, module.is_some(), None, actual, "a level that the TDX module meets");
        }
        let both = level?.and(&module?);
        verdict = Some(match verdict {
            Some(before) => before.and(&both),
            None => both,
        });
    }
    verdict
}

/// Compares signer and attributes of the TDX module with what the TCB info says.
fn seam(td: &TdReport, info: &TcbInfo, checks: &mut Checks) {
    let Some((module, _)) = info.module(&td.tee_tcb_svn) else { return };
    checks.check(
        clause::MRSIGNERSEAM,
        td.mrsignerseam == module.mrsigner,
        module.mrsigner.to_string(),
        td.mrsignerseam.to_string(),
        "signer of the TDX module",
    );
    checks.check(
        clause::SEAM_ATTRIBUTES,
        masked(&td.seam_attributes.0, &module.attributes, &module.attributes_mask),
        module.attributes.to_string(),
        td.seam_attributes.to_string(),
        "attributes of the TDX module under the TCB info's mask",
    );
}
