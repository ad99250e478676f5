//! Whom a verifier believes about machines, and what it keeps of their words: makers of processors and clouds
//! (Endorsers in RATS, RFC 9334, 7.4).
//!
//! Roots are pinned and come from nobody else. Everything below them may come from the evidence or from who fetched it:
//! it is verified each time, and what isn't there refuses a machine and never admits one.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use x509_parser::extensions::ParsedExtension;

use crate::{
    collateral::{self, Cache, Key},
    gcp,
    guest::certificates::{Kind, Table},
    nitro,
    snp::{self, Product},
    tdx::{self, collateral::Hint, quote::Quote},
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

    /// The pinned roots, with the texts of a cache: a `ConfigMap`'s data, or a trust bundle's.
    ///
    /// # Errors
    /// As [`Cache::read`].
    pub fn read(texts: &BTreeMap<String, String>) -> Result<Self, collateral::Error> {
        Cache::read(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))).map(Self::pinned)
    }

    /// What AMD says about the processor of a report: the certificate that came with it (a table of the host's), else
    /// the one that was fetched.
    ///
    /// # Errors
    /// When there is no certificate.
    pub fn amd<'a>(&'a self, report: &[u8], table: &'a [u8], now: Timestamp) -> Result<Amd<'a>, Error> {
        // A table that can't be read is none: what it holds are hints.
        let table = Table::parse(table).unwrap_or_default();
        let vek = match table.of(Kind::Vcek).or_else(|| table.of(Kind::Vlek)) {
            Some(vek) => vek,
            None => self.collateral.get(&vcek(report).ok_or(Error::Unnamed)?.1, now, self.greatest_age)?,
        };
        Ok(self.amd_of(vek, table.of(Kind::Ask).unwrap_or_default(), now))
    }

    /// The same, for a certificate that is there already, with what came as its issuer's.
    #[must_use]
    pub fn amd_of<'a>(&'a self, vek: &'a [u8], intermediate: &'a [u8], now: Timestamp) -> Amd<'a> {
        let intermediate = snp::intermediate_of(vek).filter(|_| intermediate.is_empty()).unwrap_or(intermediate);
        let crl = product(vek).map(|product| Key::SnpCrl { product: product.to_string() });
        let crl = crl.and_then(|key| self.collateral.get(&key, now, self.greatest_age).ok());
        Amd { vek, intermediate, crl }
    }

    /// The chain of a TPM's key of Google's: what came, and what was fetched of its issuer. A TPM holds its own
    /// certificate only.
    #[must_use]
    pub fn google(&self, certificates: &[Vec<u8>], now: Timestamp) -> Vec<Vec<u8>> {
        let mut chain = certificates.to_vec();
        let key = certificates.last().and_then(|last| google_issuer(last));
        let mut rest = key.and_then(|key| self.collateral.get(&key, now, self.greatest_age).ok()).unwrap_or_default();
        while let (Ok((after, _)), true) = (x509_parser::parse_x509_certificate(rest), chain.len() < chain::MAX_CHAIN) {
            let (certificate, after) = rest.split_at(rest.len() - after.len());
            chain.push(certificate.to_vec());
            rest = after;
        }
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

/// What is needed for a SEV-SNP report beside what came with it: its key's certificate, and the root's revocation list.
/// Empty when the report doesn't say its product (version 2).
#[must_use]
pub fn snp_needs(report: &[u8], table: &[u8]) -> Vec<Key> {
    let table = Table::parse(table).unwrap_or_default();
    let crl = |product| Key::SnpCrl { product };
    let brought = table.of(Kind::Vcek).or_else(|| table.of(Kind::Vlek)).and_then(product);
    match (brought, vcek(report)) {
        (Some(product), _) => vec![crl(product.to_string())],
        (None, Some((product, key))) => vec![key, crl(product.to_string())],
        (None, None) => Vec::new(),
    }
}

/// What is needed for a TDX quote. Empty when it doesn't say its platform.
#[must_use]
pub fn tdx_needs(quote: &[u8]) -> Vec<Key> {
    fmspc(quote).into_iter().collect()
}

/// What is needed for the certificate of a TPM's key of Google's: its issuer. Empty when it names none.
#[must_use]
pub fn google_needs(certificate: &[u8]) -> Vec<Key> {
    google_issuer(certificate).into_iter().collect()
}

fn google_issuer(certificate: &[u8]) -> Option<Key> {
    let certificate = x509::certificate(certificate).ok()?;
    let named = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(issuer) => issuer.key_identifier.as_ref(),
        _ => None,
    })?;
    // A digest; a longer one would be no name of a cache.
    (named.0.len() <= 64).then(|| Key::GoogleIssuer { key: hex::encode(named.0) })
}

fn vcek(report: &[u8]) -> Option<(Product, Key)> {
    let report = snp::Report::parse(report).ok()?;
    let product = Product::of_cpuid(report.cpuid?)?;
    let (chip, tcb) = (report.chip_id.to_string(), report.reported_tcb.to_string());
    Some((product, Key::SnpVcek { product: product.to_string(), chip, tcb }))
}

fn product(vek: &[u8]) -> Option<Product> {
    let vek = x509::certificate(vek).ok()?;
    Some(Product::of_intermediate(x509::common_name(vek.issuer())?)?.0)
}

fn fmspc(quote: &[u8]) -> Option<Key> {
    let hint = Hint::of(&Quote::parse(quote).ok()?).ok()?;
    Some(Key::Tdx { fmspc: hint.platform.fmspc.to_string() })
}
