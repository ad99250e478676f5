//! Whether collateral is any good before there is a quote: all of it signed under an anchor, in date, not revoked, and of
//! one platform family. Whoever fetches keeps nothing else.

use jiff::Timestamp;

use super::{
    bytes::Hex,
    clause,
    collateral::Collateral,
    pki::{self, Anchors, Chain, PCK_PLATFORM_CA, PCK_PROCESSOR_CA},
    verify::{self, Context},
};
use crate::{result::Checks, x509};

/// Collateral that Intel made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endorsement {
    /// The platform family that its TCB info is about.
    pub fmspc: Hex<6>,
    /// When the first of its parts is replaced by a newer one.
    pub next_update: Timestamp,
}

/// Verifies collateral at a time; records every clause it could look at, and gives nothing unless all hold.
pub fn verify(collateral: &[u8], anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Endorsement> {
    let mut own = Checks::default();
    let found = parts(collateral, anchors, now, &mut own);
    checks.prove(own, found, clause::COLLATERAL_STRUCTURE)
}

fn parts(collateral: &[u8], anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Endorsement> {
    let collateral = verify::recorded(Collateral::parse(collateral), clause::COLLATERAL_STRUCTURE, checks)?;
    let roots = anchors.parsed().map_err(|error| checks.fails(clause::ROOT_VALIDITY, &error.to_string())).ok()?;
    let list = hex::decode(&collateral.root_ca_crl).unwrap_or_default();
    let (anchor, root_crl) = verify::root(&roots, &list, now, checks)?;
    let context = Context { anchor, root_crl: root_crl.as_ref(), now };
    let (tcb_info, qe_identity) = verify::documents(&collateral, context, checks);
    let pck_next = pck_list(&collateral, context, checks);
    let (tcb_info, qe_identity) = (tcb_info?, qe_identity?);
    let next = [tcb_info.next_update, qe_identity.next_update, pck_next?, root_crl?.next_update()?];
    Some(Endorsement { fmspc: tcb_info.fmspc, next_update: next.into_iter().min()? })
}

/// Checks the revocation list of a PCK CA that the anchor issued; gives when the next one comes.
fn pck_list(collateral: &Collateral, context: Context<'_>, checks: &mut Checks) -> Option<Timestamp> {
    let chain = Chain::from_pem(collateral.pck_crl_issuer_chain.as_bytes());
    let chain = verify::recorded(chain, clause::PCK_CRL_ISSUER, checks)?;
    let issuer = chain.below(1, context.anchor).and_then(|mut below| {
        let ca = below.pop().ok_or(pki::Error::ChainLength(0))?;
        pki::is_authority(&ca, &[PCK_PLATFORM_CA, PCK_PROCESSOR_CA])?;
        pki::issued(&ca, context.anchor)?;
        Ok(ca)
    });
    let ca = verify::recorded(issuer, clause::PCK_CRL_ISSUER, checks)?;
    let in_date = x509::in_date(&ca, context.now).is_ok();
    checks.check(clause::PCK_VALIDITY, in_date, context.now.to_string(), x509::dates(&ca), "validity of the PCK CA");
    if let Some(list) = context.root_crl {
        checks.check(clause::PCK_REVOKED, !list.revokes(&ca), None, None, "the PCK CA in the root's revocation list");
    }
    let der = hex::decode(&collateral.pck_crl).unwrap_or_default();
    let list = verify::recorded(pki::revocation_list(&der, &ca), clause::PCK_CRL_SIGNATURE, checks)?;
    verify::dated(&list, clause::PCK_CRL_VALIDITY, context.now, checks);
    list.next_update()
}
