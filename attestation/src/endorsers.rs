//! Whom a verifier believes about machines, and what it keeps of their words: makers of processors and clouds
//! (Endorsers in RATS, RFC 9334, 7.4).
//!
//! Roots are pinned and come from nobody else. Everything below them may come from the evidence or from who fetched it:
//! it is verified each time, and what isn't there refuses a machine and never admits one.

pub mod check;
pub mod needs;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

pub use self::needs::{Need, google_need, snp_needs, tdx_needs};
use self::needs::{brought, fmspc, google_issuer, vcek};
use crate::{
    collateral::{self, Cache, Key},
    gcp,
    guest::certificates::{Kind, Table},
    nitro,
    snp::{self, KeyKind, Product},
    tdx,
    x509::{self, chain},
};

/// How old collateral may be: Intel and AMD date theirs for 30 days and more, and a list's own dates are clauses.
pub const GREATEST_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Anchors, and what was fetched.
#[derive(Clone, Debug)]
pub struct Endorsers {
    /// Of AMD's processors.
    pub amd: snp::Anchors,
    /// Of Intel's processors.
    pub intel: tdx::Anchors,
    /// Of the keys of Google's TPMs.
    pub google: chain::Anchors,
    /// Of AWS's documents.
    pub aws: chain::Anchors,
    /// What was fetched.
    pub collateral: Cache,
    /// How old what was fetched may be.
    pub greatest_age: SignedDuration,
}

/// Why there is nothing to verify a report of a processor with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It wasn't fetched, or long ago.
    #[error(transparent)]
    Collateral(#[from] collateral::Error),
    /// The report doesn't say whose word is needed.
    #[error("the report doesn't say which processor it is of, and came without its certificate")]
    Unnamed,
}

/// What AMD says about the processor of a report.
#[derive(Clone, Debug)]
pub struct Amd<'a> {
    /// Certificate of the key that signed, DER.
    pub vek: &'a [u8],
    /// Certificate of its issuer, DER; empty when nobody brought one that is known.
    pub intermediate: &'a [u8],
    /// Revocation list of the root, DER.
    pub crl: Option<&'a [u8]>,
}

impl Endorsers {
    /// The pinned roots, with what was fetched.
    #[must_use]
    pub fn pinned(collateral: Cache) -> Self {
        Self {
            amd: snp::Anchors::amd(),
            intel: tdx::Anchors::intel(),
            google: gcp::google(),
            aws: nitro::aws(),
            collateral,
            greatest_age: GREATEST_AGE,
        }
    }

    /// The pinned roots, with the texts of a cache: a `ConfigMap`'s data, or a trust bundle's. Also says what of them can't
    /// be read, which is as good as absent.
    #[must_use]
    pub fn read(texts: &BTreeMap<String, String>) -> (Self, Vec<collateral::Error>) {
        let (cache, errors) = Cache::read(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        (Self::pinned(cache), errors)
    }

    /// What AMD says about the processor of a report: the certificate that came with it (a table of the host's) where it is
    /// the report's key's, else the one that was fetched.
    ///
    /// # Errors
    /// When there is no certificate.
    pub fn amd<'a>(&'a self, report: &[u8], table: &'a [u8], now: Timestamp) -> Result<Amd<'a>, Error> {
        // A table that can't be read is none: what it holds are hints.
        let table = Table::parse(table).unwrap_or_default();
        let vek = match brought(report, &table) {
            Some(vek) => vek,
            None => self.collateral.get(&vcek(report).ok_or(Error::Unnamed)?.1, now, self.greatest_age)?,
        };
        Ok(self.amd_of(vek, table.of(Kind::Ask).unwrap_or_default(), now))
    }

    /// The same, for a certificate that is there already, with what came as its issuer's: used where it is.
    #[must_use]
    pub fn amd_of<'a>(&'a self, vek: &'a [u8], intermediate: &'a [u8], now: Timestamp) -> Amd<'a> {
        let intermediate = snp::intermediate_of(vek).filter(|_| !issues(intermediate, vek)).unwrap_or(intermediate);
        Amd { vek, intermediate, crl: self.list(vek, intermediate, now) }
    }

    /// The revocation list for a key: one that names its issuer, for whichever kind of key and of whatever age, else the one
    /// for its kind. What was revoked once stays it.
    fn list(&self, vek: &[u8], intermediate: &[u8], now: Timestamp) -> Option<&[u8]> {
        let wanted = list_of(vek)?;
        let Key::SnpCrl { product, .. } = &wanted else { return None };
        let all = [KeyKind::Vcek, KeyKind::Vlek].map(|kind| Key::SnpCrl { product: product.clone(), kind });
        let mut lists = all.iter().filter_map(|key| self.collateral.kept(key));
        let own = || self.collateral.get(&wanted, now, self.greatest_age).ok();
        lists.find(|list| x509::is_listed(list, intermediate)).or_else(own)
    }

    /// The chain of a TPM's key of Google's: what came, and what was fetched of its issuer. A TPM holds its own
    /// certificate only.
    #[must_use]
    pub fn google(&self, certificates: &[Vec<u8>], now: Timestamp) -> Vec<Vec<u8>> {
        let mut chain = certificates.to_vec();
        let key = certificates.last().and_then(|last| google_issuer(last));
        let issuers = key.and_then(|key| self.collateral.get(&key, now, self.greatest_age).ok()).unwrap_or_default();
        let room = chain::MAX_CHAIN.saturating_sub(chain.len());
        chain.extend(self::certificates(issuers).take(room).map(<[u8]>::to_vec));
        chain
    }

    /// What Intel says about the platform of a quote.
    ///
    /// # Errors
    /// When it isn't there, or the quote doesn't say which platform it is of.
    pub fn intel(&self, quote: &[u8], now: Timestamp) -> Result<&[u8], Error> {
        Ok(self.collateral.get(&fmspc(quote).ok_or(Error::Unnamed)?, now, self.greatest_age)?)
    }
}

/// Certificates in DER, one after the other, until something else comes.
fn certificates(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (after, _) = x509_parser::parse_x509_certificate(bytes).ok()?;
        let (certificate, rest) = bytes.split_at(bytes.len() - after.len());
        bytes = rest;
        Some(certificate)
    })
}

/// Whether a certificate says that it is the issuer's of another one.
fn issues(issuer: &[u8], certificate: &[u8]) -> bool {
    match (x509::certificate(issuer), x509::certificate(certificate)) {
        (Ok(issuer), Ok(certificate)) => issuer.subject().as_raw() == certificate.issuer().as_raw(),
        _ => false,
    }
}

/// The revocation list for a key of this certificate's issuer.
fn list_of(vek: &[u8]) -> Option<Key> {
    let vek = x509::certificate(vek).ok()?;
    let (product, kind) = Product::of_intermediate(x509::common_name(vek.issuer())?)?;
    Some(Key::SnpCrl { product: product.to_string(), kind })
}
