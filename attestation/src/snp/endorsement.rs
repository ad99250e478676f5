//! Who endorses the key that signs reports: root (ARK, an anchor), intermediate (ASK or ASVK), and the key's certificate
//! (VCEK or VLEK) with what it says about the machine.
//!
//! Sources: AMD documents 57230 (VCEK Certificate and KDS Interface Specification, table "VCEK Certificate Extensions")
//! and 58369 for VLEK. All three are signed with RSA-PSS, SHA-384, MGF1 with SHA-384, 48 bytes of salt. VCEKs have
//! serial number zero and no authority key identifier.

use std::collections::BTreeMap;

use jiff::Timestamp;
use x509_parser::{certificate::X509Certificate, oid_registry::Oid};

use super::{
    Evidence, clause,
    product::{KeyKind, Product},
    tcb::Tcb,
};
use crate::{
    result::Checks,
    x509::{self, Algorithm, Curve, Revocation, RevocationList},
};

/// The only algorithm of AMD's certificates and revocation lists.
const ALLOWED: &[Algorithm] = &[Algorithm::RsaPssSha384];
/// Root of Milan, valid 2020-10-22 to 2045-10-22; SHA-256 of the certificate starts with `69d063b4`.
const MILAN: &[u8] = include_bytes!("ark_milan.der");
/// Root of Genoa, valid 2022-01-26 to 2047-01-26; SHA-256 of the certificate starts with `4c6598d1`.
const GENOA: &[u8] = include_bytes!("ark_genoa.der");
/// Root of Turin, valid 2023-05-15 to 2048-05-15; SHA-256 of the certificate starts with `1f084161`.
const TURIN: &[u8] = include_bytes!("ark_turin.der");

/// Intermediates of AMD, by what they issue. They prove nothing: the root does.
const INTERMEDIATES: [(Product, KeyKind, &[u8]); 6] = [
    (Product::Milan, KeyKind::Vcek, include_bytes!("ask_milan.der")),
    (Product::Genoa, KeyKind::Vcek, include_bytes!("ask_genoa.der")),
    (Product::Turin, KeyKind::Vcek, include_bytes!("ask_turin.der")),
    (Product::Milan, KeyKind::Vlek, include_bytes!("asvk_milan.der")),
    (Product::Genoa, KeyKind::Vlek, include_bytes!("asvk_genoa.der")),
    (Product::Turin, KeyKind::Vlek, include_bytes!("asvk_turin.der")),
];

/// AMD's intermediate that says to have issued a certificate, for evidence that doesn't bring it.
#[must_use]
pub fn intermediate_of(vek: &[u8]) -> Option<&'static [u8]> {
    let vek = x509::certificate(vek).ok()?;
    let issuer = Product::of_intermediate(x509::common_name(vek.issuer())?)?;
    INTERMEDIATES.into_iter().find(|(product, kind, _)| issuer == (*product, *kind)).map(|(.., der)| der)
}

/// Why a certificate can't be an anchor.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is none.
    #[error("no trust anchor")]
    Empty,
    /// It is called otherwise than the product's root.
    #[error("the root of {0} isn't called ARK-{0}")]
    Name(Product),
    /// It isn't a root.
    #[error("the root of {product} can't be used")]
    Root {
        /// Whose root it was to be.
        product: Product,
        /// Why not.
        source: x509::Error,
    },
}

/// The trust anchors: product to its roots. An argument of the verifier, never of the evidence or the collateral.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors(BTreeMap<Product, Vec<Vec<u8>>>);

impl Anchors {
    /// The given roots, DER. Several for one product are for the time of a rotation.
    ///
    /// # Errors
    /// When there is none, or one isn't a root of the product that it is given for.
    pub fn new<'a>(roots: impl IntoIterator<Item = (Product, &'a [u8])>) -> Result<Self, Error> {
        let mut anchors = BTreeMap::<_, Vec<_>>::new();
        for (product, der) in roots {
            let refuse = |source| Error::Root { product, source };
            let root = x509::certificate(der).map_err(refuse)?;
            if x509::common_name(root.subject()) != Some(&product.root_name()) {
                return Err(Error::Name(product));
            }
            x509::issued(&root, &root, ALLOWED).map_err(refuse)?;
            anchors.entry(product).or_default().push(der.to_vec());
        }
        if anchors.is_empty() { Err(Error::Empty) } else { Ok(Self(anchors)) }
    }

    /// AMD's roots for all products.
    #[must_use]
    pub fn amd() -> Self {
        let all = [(Product::Milan, MILAN), (Product::Genoa, GENOA), (Product::Turin, TURIN)];
        Self(all.into_iter().map(|(product, der)| (product, vec![der.to_vec()])).collect())
    }

    /// Parses the revocation list of a product's root.
    ///
    /// # Errors
    /// When no root of the product signed it.
    pub fn list<'a>(&self, product: Product, der: &'a [u8]) -> Result<RevocationList<'a>, x509::Error> {
        let mut refused = x509::Error::Malformed("list of trust anchors");
        for root in self.of(product) {
            match RevocationList::verify(der, &root, ALLOWED) {
                Ok(list) => return Ok(list),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn of(&self, product: Product) -> impl Iterator<Item = X509Certificate<'_>> {
        self.0.get(&product).into_iter().flatten().filter_map(|der| x509::certificate(der).ok())
    }
}

/// What the certificate of a signing key says about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub product: Option<Product>,
    /// None when a part is greater than a report can name.
    pub tcb: Option<Tcb>,
    /// The processor, exactly as many bytes as the certificate has; none in a VLEK.
    pub hwid: Option<Vec<u8>>,
    /// The cloud; none in a VCEK.
    pub csp_id: Option<String>,
}

/// An endorsement, as far as it could be followed. It counts only if no check failed.
#[derive(Clone, Debug)]
pub(crate) struct Endorsement {
    /// The product that the intermediate is for: the root of that product signed that.
    pub product: Product,
    pub kind: KeyKind,
    pub claims: Claims,
    /// The signing key, a point on P-384.
    pub key: Vec<u8>,
    pub revocation: Revocation,
}

/// Follows the chain from an anchor to the signing key.
pub(crate) fn verify(
    evidence: &Evidence<'_>,
    anchors: &Anchors,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<Endorsement> {
    let intermediate = parsed(checks, clause::INTERMEDIATE_STRUCTURE, x509::certificate(evidence.intermediate))?;
    checks.holds(clause::INTERMEDIATE_STRUCTURE, "a certificate");
    let named = x509::common_name(intermediate.subject()).and_then(Product::of_intermediate);
    checks.check(
        clause::INTERMEDIATE_NAME,
        named.is_some(),
        "SEV-<product> or SEV-VLEK-<product>".to_owned(),
        intermediate.subject().to_string(),
        "the intermediate names what it is for",
    );
    let (product, issues) = named?;
    let revocation = root(evidence, &intermediate, product, anchors, now, checks);
    dated(checks, clause::INTERMEDIATE_VALIDITY, &intermediate, now);

    let vek = parsed(checks, clause::VEK_STRUCTURE, x509::certificate(evidence.vek))?;
    let usage = x509::authority(&intermediate);
    // Who is no CA issues nothing; whether it signed says no more.
    let link = usage.is_ok().then(|| x509::issued(&vek, &intermediate, ALLOWED));
    holds(checks, clause::INTERMEDIATE_USAGE, usage, "a CA");
    if let Some(link) = link {
        holds(checks, clause::VEK_ISSUER, link, "the intermediate issued it");
    }
    dated(checks, clause::VEK_VALIDITY, &vek, now);
    let kind = x509::common_name(vek.subject()).and_then(KeyKind::of_certificate).filter(|_| x509::is_leaf(&vek));
    checks.check(
        clause::VEK_KIND,
        kind == Some(issues),
        format!("SEV-{issues}"),
        vek.subject().to_string(),
        "the certificate is of the kind that its issuer issues",
    );
    let key = parsed(checks, clause::VEK_STRUCTURE, x509::ec_key(vek.public_key(), Curve::P384))?.to_vec();
    checks.holds(clause::VEK_STRUCTURE, "a key on P-384");
    let kind = kind?;
    // One that isn't of its issuer's kind says what keys of either kind say; that it isn't is said above.
    let said = claims(&vek, kind, product);
    let claims = match said.or_else(|lacking| claims(&vek, issues, product).map_err(|_| lacking)) {
        Ok(claims) => claims,
        Err(lacking) => {
            checks.fails(clause::VEK_EXTENSIONS, &format!("{lacking} isn't there exactly once in its exact form"));
            return None;
        }
    };
    checks.holds(clause::VEK_EXTENSIONS, "product, TCB and whose key it is are there");
    checks.check(
        clause::VEK_PRODUCT,
        claims.product == Some(product),
        product.to_string(),
        claims.product.map(|product| product.to_string()),
        "the key is of the product that its issuer is for",
    );
    Some(Endorsement { product, kind, claims, key, revocation })
}

/// Checks the intermediate against the roots of its product, and against the root's revocation list.
fn root(
    evidence: &Evidence<'_>,
    intermediate: &X509Certificate<'_>,
    product: Product,
    anchors: &Anchors,
    now: Timestamp,
    checks: &mut Checks,
) -> Revocation {
    let roots: Vec<_> = anchors.of(product).collect();
    let Some(root) = roots.iter().find(|root| x509::issued(intermediate, root, ALLOWED).is_ok()) else {
        let why = match roots.first().map(|root| x509::issued(intermediate, root, ALLOWED)) {
            Some(Err(error)) => error.to_string(),
            _ => format!("there is no trust anchor for {product}"),
        };
        checks.fails(clause::INTERMEDIATE_ISSUER, &why);
        return Revocation::Unknown;
    };
    checks.holds(clause::INTERMEDIATE_ISSUER, "a trust anchor issued it");
    dated(checks, clause::ARK_VALIDITY, root, now);
    let list = match evidence.crl.map(|der| RevocationList::verify(der, root, ALLOWED)) {
        None => return Revocation::Unknown,
        Some(Err(_)) => return Revocation::Unbelieved,
        Some(Ok(list)) => list,
    };
    for (name, certificate) in [(clause::ARK_REVOKED, root), (clause::INTERMEDIATE_REVOKED, intermediate)] {
        let message = format!("{}: {}", certificate.subject(), list.dates());
        checks.check(name, !list.revokes(certificate), "not revoked".to_owned(), None, &message);
    }
    if list.in_date(now).is_ok() { Revocation::Current } else { Revocation::OutOfDate }
}

fn holds(checks: &mut Checks, name: &str, result: Result<(), x509::Error>, message: &str) {
    match result {
        Ok(()) => checks.holds(name, message),
        Err(error) => checks.fails(name, &error.to_string()),
    }
}

fn dated(checks: &mut Checks, name: &str, certificate: &X509Certificate<'_>, now: Timestamp) {
    let in_date = x509::in_date(certificate, now).is_ok();
    checks.check(name, in_date, None, now.to_string(), &x509::dates(certificate));
}

fn parsed<T>(checks: &mut Checks, name: &str, result: Result<T, x509::Error>) -> Option<T> {
    result.map_err(|error| checks.fails(name, &error.to_string())).ok()
}

/// The TCB that a processor's certificate says it is of. Nothing about it is verified: a hint for whoever picks one.
pub(crate) fn tcb_of(vek: &[u8]) -> Option<Tcb> {
    let vek = x509::certificate(vek).ok()?;
    let named = Product::ALL.into_iter().find_map(|product| {
        let claims = claims(&vek, KeyKind::Vcek, product).ok()?;
        (claims.product == Some(product)).then_some(claims)
    });
    named?.tcb
}

/// AMD's arc of extensions: 1.3.6.1.4.1.3704.1. What a key of the issuer's product has must be there. The error is the
/// name of what is lacking.
fn claims(vek: &X509Certificate<'_>, kind: KeyKind, issuer: Product) -> Result<Claims, &'static str> {
    let value = |arc: &[u64], what| {
        let oid = Oid::from(&[&[1, 3, 6, 1, 4, 1, 3704, 1], arc].concat()).map_err(|_| what)?;
        vek.get_extension_unique(&oid).map_err(|_| what)
    };
    // RFC 5280, 4.2: no extension twice, whether or not it says anything here.
    vek.extensions_map().map_err(|_| "one of its extensions")?;
    let version = |arc, what| security_version(value(&[3, arc], what)?.ok_or(what)?.value).map_err(|NoInteger| what);
    let none = |arc, what| {
        let named = value(&[3, arc], what)?.map(|extension| security_version(extension.value));
        if named.is_none_or(|version| version == Ok(Some(0))) { Ok(()) } else { Err(what) }
    };
    // The parts that had no meaning yet when the certificate was made.
    for (arc, what) in [(4, "spl4"), (5, "spl5"), (6, "spl6"), (7, "spl7")] {
        none(arc, what)?;
    }
    let product = value(&[2], "productName")?.and_then(|e| ia5(e.value)).ok_or("productName")?;
    let product = Product::of_certificate(product);
    // Only Turin has an FMC; another product's certificate that names one is for a part that isn't there. Of one that isn't
    // of its issuer's product the product is what is wrong.
    let fmc = match (product, issuer) {
        (Some(Product::Turin), Product::Turin) => version(9, "fmcSPL")?,
        (Some(Product::Turin), _) | (_, Product::Turin) => version(9, "fmcSPL").unwrap_or(Some(0)),
        _ => none(9, "fmcSPL").map(|()| Some(0))?,
    };
    let (bl, tee) = (version(1, "blSPL")?, version(2, "teeSPL")?);
    let (snp, ucode) = (version(3, "snpSPL")?, version(8, "ucodeSPL")?);
    let tcb = || Some(Tcb { fmc: fmc?, bl: bl?, tee: tee?, snp: snp?, ucode: ucode? });
    let tcb = tcb();
    // A key is of a processor or of a cloud, and says nothing of the other.
    let (hwid, csp_id) = match (kind, value(&[4], "hwID")?, value(&[5], "cspID")?) {
        (KeyKind::Vcek, hwid, None) => (Some(hardware_id(hwid.ok_or("hwID")?.value).to_vec()), None),
        (KeyKind::Vlek, None, csp_id) => (None, Some(csp_id.and_then(|e| ia5(e.value)).ok_or("cspID")?.to_owned())),
        (KeyKind::Vcek, _, Some(_)) => return Err("hwID without cspID"),
        (KeyKind::Vlek, Some(_), _) => return Err("cspID without hwID"),
    };
    Ok(Claims { product, tcb, hwid, csp_id })
}

/// An INTEGER (tag 2) of 0 or more in DER: the shortest form, where what begins with 0x80 or above has a zero byte before
/// it. None: a greater one than a report can name.
fn security_version(der: &[u8]) -> Result<Option<u8>, NoInteger> {
    let [2, length @ ..=8, value @ ..] = der else { return Err(NoInteger) };
    let shortest = match value {
        [] => false,
        [0, next, ..] => *next >= 0x80,
        [first, ..] => *first < 0x80,
    };
    match value {
        _ if !shortest || usize::from(*length) != value.len() => Err(NoInteger),
        [version] | [0, version] => Ok(Some(*version)),
        _ => Ok(None),
    }
}

/// Not an INTEGER of 0 or more in DER.
#[derive(Debug, PartialEq, Eq)]
struct NoInteger;

/// An `IA5String` (tag 22) of at most 127 bytes.
fn ia5(der: &[u8]) -> Option<&str> {
    match der {
        [22, length @ ..=127, text @ ..] if usize::from(*length) == text.len() && text.is_ascii() => {
            std::str::from_utf8(text).ok()
        }
        _ => None,
    }
}

/// The identity of a processor: 64 bytes, on Turin 8; bare, or as an OCTET STRING. Of another length it is nobody's.
fn hardware_id(value: &[u8]) -> &[u8] {
    match (value.len(), value) {
        (10 | 66, [4, length, id @ ..]) if usize::from(*length) == id.len() => id,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    /// A certificate of a VCEK of a product, with an FMC's version if one is given.
    fn vcek(product: &str, fmc: Option<u8>) -> Vec<u8> {
        let mut extensions =
            vec![(vec![2], [&[22, u8::try_from(product.len()).unwrap()], product.as_bytes()].concat())];
        extensions.extend([1, 2, 3, 8].map(|part| (vec![3, part], vec![2, 1, 4])));
        extensions.push((vec![4], vec![7; if product == "Turin" { 8 } else { 64 }]));
        extensions.extend(fmc.map(|fmc| (vec![3, 9], vec![2, 1, fmc])));
        let mut params = CertificateParams::default();
        params.custom_extensions = extensions
            .into_iter()
            .map(|(arc, value)| {
                let oid = [&[1, 3, 6, 1, 4, 1, 3704, 1], arc.as_slice()].concat();
                CustomExtension::from_oid_content(&oid, value)
            })
            .collect();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn an_fmc_is_named_where_there_is_one_and_only_there() {
        let claimed = |product, fmc, issuer| {
            let der = vcek(product, fmc);
            let claims = claims(&x509::certificate(&der).unwrap(), KeyKind::Vcek, issuer);
            claims.map(|claims| claims.tcb.unwrap().fmc)
        };
        assert_eq!(claimed("Turin", Some(1), Product::Turin), Ok(1));
        assert_eq!(claimed("Turin", None, Product::Turin), Err("fmcSPL"));
        assert_eq!(claimed("Milan-B0", None, Product::Milan), Ok(0));
        assert_eq!(claimed("Milan-B0", Some(0), Product::Milan), Ok(0));
        assert_eq!(claimed("Milan-B0", Some(1), Product::Milan), Err("fmcSPL"));
        // Of another product than its issuer's: that is what is wrong, and said elsewhere.
        assert_eq!(claimed("Turin", None, Product::Milan), Ok(0));
        assert_eq!(claimed("Milan", None, Product::Turin), Ok(0));
        assert_eq!(tcb_of(&vcek("Turin", Some(1))).map(|tcb| tcb.fmc), Some(1));
        assert_eq!(tcb_of(&vcek("Milan", None)).map(|tcb| tcb.fmc), Some(0));
        assert_eq!(tcb_of(&vcek("Turin", None)), None);
    }

    #[test]
    fn a_security_version_is_the_shortest_integer_and_may_be_too_great() {
        for (der, wanted) in [
            (&[2, 1, 0][..], Ok(Some(0))),
            (&[2, 1, 0x7f], Ok(Some(0x7f))),
            (&[2, 2, 0, 0xdb], Ok(Some(0xdb))),
            (&[2, 2, 1, 0xdb], Ok(None)),
            (&[2, 3, 0, 0x80, 1], Ok(None)),
            (&[2, 1, 0x80], Err(NoInteger)),
            (&[2, 2, 0, 0x7f], Err(NoInteger)),
            (&[2, 3, 0, 0, 0xdb], Err(NoInteger)),
            (&[2, 2, 0xff, 0xdb], Err(NoInteger)),
            (&[2, 3, 1, 0xdb], Err(NoInteger)),
            (&[4, 1, 1], Err(NoInteger)),
            (&[], Err(NoInteger)),
        ] {
            assert_eq!(security_version(der), wanted, "{der:?}");
        }
    }
}
