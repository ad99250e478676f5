//! Whether what was fetched is worth keeping: it is what its name says, signed under a pinned root, and in date. An entry
//! that isn't would refuse machines for as long as it stands there.

use jiff::Timestamp;
use x509_parser::extensions::ParsedExtension;

use super::{Endorsers, certificates};
use crate::{
    bytes::Hex,
    collateral::Key,
    result::Checks,
    snp::{self, KeyKind, Product},
    tdx,
    x509::{self, Algorithm, chain::Chain},
};

/// Why bytes aren't worth keeping under a name.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It isn't signed as it must be, or not in date.
    #[error(transparent)]
    Certificate(#[from] x509::Error),
    /// Clauses that don't hold, each with its reason.
    #[error("{0}")]
    Clauses(String),
    /// It is about something else.
    #[error("it is of {0}")]
    Other(String),
}

impl Endorsers {
    /// Checks bytes that were fetched under a name; gives until when they are good.
    ///
    /// # Errors
    /// What of it isn't as it must be.
    pub fn check(&self, key: &Key, bytes: &[u8], now: Timestamp) -> Result<Timestamp, Unfit> {
        match key {
            Key::SnpCrl { product, .. } => self.amd_list(product, bytes, now),
            Key::SnpVcek { product, chip, tcb } => self.vcek([product, chip, tcb], bytes, now),
            Key::GoogleIssuer { key } => self.issuer(key, bytes, now),
            Key::Tdx { fmspc } => self.platform_family(fmspc, bytes, now),
        }
    }

    fn amd_list(&self, product: &str, bytes: &[u8], now: Timestamp) -> Result<Timestamp, Unfit> {
        let list = self.amd.list(product.parse().map_err(|_| named(product))?, bytes)?;
        list.in_date(now)?;
        Ok(list.next_update().unwrap_or(now))
    }

    fn vcek(&self, [product, chip, tcb]: [&String; 3], bytes: &[u8], now: Timestamp) -> Result<Timestamp, Unfit> {
        let wanted: Product = product.parse().map_err(|_| named(product))?;
        let intermediate = snp::intermediate_of(bytes).unwrap_or_default();
        let evidence = snp::Evidence { report: &[], vek: bytes, intermediate, crl: None };
        let mut checks = Checks::default();
        let found = snp::endorsement::verify(&evidence, &self.amd, now, &mut checks).filter(|_| checks.accepted());
        let found = found.ok_or_else(|| failed(&checks))?;
        if found.product != wanted || found.kind != KeyKind::Vcek {
            return Err(Unfit::Other(format!("a {} of {}", found.kind, found.product)));
        }
        let hwid = hex::encode(found.claims.hwid.unwrap_or_default());
        let raw: Option<Hex<8>> = tcb.parse().ok();
        let tcb = raw.and_then(|raw| snp::tcb::RawTcb(raw.0).of(wanted));
        let named = found.claims.tcb;
        if chip.get(..wanted.hwid_bytes() * 2) != Some(hwid.as_str()) || named.is_none() || tcb != named {
            let named = named.map_or_else(|| "no TCB".to_owned(), |tcb| tcb.to_string());
            return Err(Unfit::Other(format!("processor {hwid} at {named}")));
        }
        Ok(x509::not_after(&x509::certificate(bytes)?))
    }

    fn issuer(&self, key: &str, bytes: &[u8], now: Timestamp) -> Result<Timestamp, Unfit> {
        let mut all = certificates(bytes);
        let issuer = all.next().ok_or(x509::Error::Malformed("certificate"))?;
        let rest: Vec<_> = all.collect();
        let chain = Chain::follow(issuer, rest, &self.google, &Algorithm::COMMON)?;
        chain.in_date(now)?;
        let until = chain.not_after();
        let issuer = x509::certificate(issuer)?;
        x509::authority(&issuer)?;
        let own = issuer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(own) => Some(hex::encode(own.0)),
            _ => None,
        });
        if own.as_deref() != Some(key) {
            return Err(Unfit::Other(format!("key {}", own.as_deref().unwrap_or("without a name"))));
        }
        Ok(until)
    }

    fn platform_family(&self, fmspc: &str, bytes: &[u8], now: Timestamp) -> Result<Timestamp, Unfit> {
        let mut checks = Checks::default();
        let found = tdx::endorsement::verify(bytes, &self.intel, now, &mut checks).ok_or_else(|| failed(&checks))?;
        if found.fmspc.to_string() != fmspc {
            return Err(Unfit::Other(format!("platform family {}", found.fmspc)));
        }
        Ok(found.next_update)
    }
}

fn named(product: &str) -> Unfit {
    Unfit::Other(format!("product {product}"))
}

fn failed(checks: &Checks) -> Unfit {
    let all: Vec<_> = checks.failures().map(|clause| format!("{}: {}", clause.name, clause.message)).collect();
    Unfit::Clauses(all.join("; "))
}
