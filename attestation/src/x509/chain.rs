//! Chains of any length up to an anchor, as clouds send them (RFC 5280, 6.1, without policies and name constraints, which
//! [`certificate`] refuses where they are critical).

use jiff::Timestamp;
use x509_parser::{certificate::X509Certificate, oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS};

use super::{Algorithm, Error, Revocation, RevocationList, authority, certificate, in_date, issued, not_after};
use crate::result::Checks;

/// Most certificates of a chain, leaf and anchor included; AWS sends five.
pub const MAX_CHAIN: usize = 8;

/// Trust anchors of one kind: an argument of the verifier, never of the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors(Vec<Vec<u8>>);

impl Anchors {
    /// The given certificates of CAs, DER. Several are for the time of a rotation.
    ///
    /// # Errors
    /// When there is none, or one isn't the certificate of a CA.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Error> {
        let anchors: Vec<_> = certificates.into_iter().map(<[u8]>::to_vec).collect();
        for der in &anchors {
            authority(&certificate(der)?)?;
        }
        if anchors.is_empty() { Err(Error::Malformed("empty list of trust anchors")) } else { Ok(Self(anchors)) }
    }

    /// One that is part of the program, and parsed by a test.
    pub(crate) fn pinned(der: &[u8]) -> Self {
        Self(vec![der.to_vec()])
    }
}

/// A chain whose every link holds. Whether it is in date is asked separately.
#[derive(Clone, Debug)]
pub struct Chain<'a>(Vec<X509Certificate<'a>>);

impl<'a> Chain<'a> {
    /// Follows a chain from its leaf through the given intermediates, in order, to an anchor. The last one may be an
    /// anchor itself: it is believed for standing among `anchors`, not for being sent.
    ///
    /// # Errors
    /// The first link that doesn't hold, or a chain that is too long.
    pub fn follow<'i: 'a>(
        leaf: &'a [u8],
        intermediates: impl IntoIterator<Item = &'i [u8]>,
        anchors: &'a Anchors,
        allowed: &[Algorithm],
    ) -> Result<Self, Error> {
        let mut chain = vec![certificate(leaf)?];
        for der in intermediates {
            // A root that is sent along ends the chain only if it is ours.
            if anchors.0.iter().any(|anchor| anchor == der) {
                break;
            }
            if chain.len() + 1 >= MAX_CHAIN {
                return Err(Error::Malformed("chain"));
            }
            link(&mut chain, certificate(der)?, allowed)?;
        }
        let mut refused = None;
        let mut found: Option<X509Certificate<'a>> = None;
        for der in &anchors.0 {
            match link(&mut chain, certificate(der)?, allowed) {
                // A root that was renewed stands beside its predecessor: the one that lasts longer.
                Ok(()) => found = found.into_iter().chain(chain.pop()).max_by_key(not_after),
                // Of several anchors, the one of the wanted name says best what is wrong.
                Err(error @ Error::Issuer { .. }) => refused = refused.or(Some(error)),
                Err(error) => refused = Some(error),
            }
        }
        chain.push(found.ok_or(refused.unwrap_or(Error::Malformed("empty list of trust anchors")))?);
        Ok(Self(chain))
    }

    /// As [`Self::follow`], and whether all of it is in date, as clauses of these names.
    pub(crate) fn check<'i: 'a>(
        leaf: &'a [u8],
        intermediates: impl IntoIterator<Item = &'i [u8]>,
        anchors: &'a Anchors,
        allowed: &[Algorithm],
        now: Timestamp,
        [name, validity]: [&str; 2],
        checks: &mut Checks,
    ) -> Option<Self> {
        let chain = Self::follow(leaf, intermediates, anchors, allowed);
        let chain = chain.map_err(|error| checks.fails(name, &error.to_string())).ok()?;
        checks.holds(name, "a trust anchor");
        let dated = chain.in_date(now).map_err(|error| error.to_string());
        let message = dated.as_ref().err().map_or("certificates in date", String::as_str);
        checks.check(validity, dated.is_ok(), None, now.to_string(), message);
        Some(chain)
    }

    /// What lists say of the certificates below the anchor: what is known of the one of which the least is, and one that is
    /// revoked. A list that its issuer didn't sign is none; of a certificate that names no place of a list none is wanted.
    pub(crate) fn revocation(
        &self,
        lists: &[Vec<u8>],
        allowed: &[Algorithm],
        now: Timestamp,
    ) -> (Revocation, Option<String>) {
        let (mut known, mut revoked) = (Revocation::Current, None);
        for (certificate, issuer) in self.0.iter().zip(self.0.iter().skip(1)) {
            let lists: Vec<_> =
                lists.iter().filter_map(|der| RevocationList::verify(der, issuer, allowed).ok()).collect();
            let current = lists.iter().any(|list| list.in_date(now).is_ok());
            let of_one = match (lists.is_empty(), current) {
                (true, _) => Revocation::Unknown,
                (false, false) => Revocation::OutOfDate,
                (false, true) => Revocation::Current,
            };
            let listed = certificate.extensions().iter().any(|e| e.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
            if listed {
                known = known.min(of_one);
            }
            let is_named = lists.iter().any(|list| list.revokes(certificate));
            revoked = revoked.or_else(|| is_named.then(|| certificate.subject().to_string()));
        }
        (known, revoked)
    }

    /// The certificate that the chain is about.
    #[must_use]
    pub fn leaf(&self) -> Option<&X509Certificate<'a>> {
        self.0.first()
    }

    /// When the first of its certificates ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.0.iter().map(not_after).min().unwrap_or(Timestamp::MIN)
    }

    /// Checks that every certificate, the anchor's too, is in date.
    ///
    /// # Errors
    /// [`Error::Time`] of the first that isn't.
    pub fn in_date(&self, now: Timestamp) -> Result<(), Error> {
        self.0.iter().try_for_each(|certificate| in_date(certificate, now))
    }
}

/// Adds the issuer of the last certificate, if it is that and may have so many CAs below it.
fn link<'a>(
    chain: &mut Vec<X509Certificate<'a>>,
    issuer: X509Certificate<'a>,
    allowed: &[Algorithm],
) -> Result<(), Error> {
    let last = chain.last().ok_or(Error::Malformed("chain"))?;
    issued(last, &issuer, allowed)?;
    let below = u32::try_from(chain.len() - 1).map_err(|_| Error::Malformed("chain"))?;
    let most = issuer.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
    if most.is_some_and(|most| most < below) {
        return Err(Error::Usage(issuer.subject().to_string()));
    }
    chain.push(issuer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CrlDistributionPoint,
        DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
    };

    use super::*;

    const ALLOWED: &[Algorithm] = &[Algorithm::EcdsaP256];

    fn params(name: &str, is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params
    }

    fn key() -> KeyPair {
        KeyPair::generate().unwrap()
    }

    /// Root, two CAs below it and a leaf; the root lets `below` CAs be below it.
    fn chain(below: BasicConstraints) -> [Vec<u8>; 4] {
        let root = CertifiedIssuer::self_signed(params("root", IsCa::Ca(below)), key()).unwrap();
        let any = || IsCa::Ca(BasicConstraints::Unconstrained);
        let upper = CertifiedIssuer::signed_by(params("upper", any()), key(), &root).unwrap();
        let lower = CertifiedIssuer::signed_by(params("lower", any()), key(), &upper).unwrap();
        let leaf = params("leaf", IsCa::ExplicitNoCa).signed_by(&key(), &lower).unwrap();
        [leaf.der().to_vec(), lower.der().to_vec(), upper.der().to_vec(), root.der().to_vec()]
    }

    fn follow(leaf: &[u8], rest: &[&[u8]], anchors: &Anchors) -> Result<usize, Error> {
        Chain::follow(leaf, rest.iter().copied(), anchors, ALLOWED).map(|chain| chain.0.len())
    }

    #[test]
    fn a_chain_holds_to_an_anchor_whether_or_not_the_anchor_is_sent() {
        let [leaf, lower, upper, root] = chain(BasicConstraints::Unconstrained);
        let anchors = Anchors::new([root.as_slice()]).unwrap();
        assert_eq!(follow(&leaf, &[&lower, &upper, &root], &anchors), Ok(4));
        assert_eq!(follow(&leaf, &[&lower, &upper], &anchors), Ok(4));
        let inner = Anchors::new([upper.as_slice()]).unwrap();
        assert_eq!(follow(&leaf, &[&lower], &inner), Ok(3));
    }

    #[test]
    fn a_chain_with_a_gap_another_order_or_another_root_is_refused() {
        let [leaf, lower, upper, root] = chain(BasicConstraints::Unconstrained);
        let anchors = Anchors::new([root.as_slice()]).unwrap();
        assert!(matches!(follow(&leaf, &[&upper, &root], &anchors), Err(Error::Issuer { .. })));
        assert!(matches!(follow(&leaf, &[&upper, &lower], &anchors), Err(Error::Issuer { .. })));
        assert!(matches!(follow(&leaf, &[], &anchors), Err(Error::Issuer { .. })));
        let [_, _, _, stranger] = chain(BasicConstraints::Unconstrained);
        // The same names, another key: what is sent as root proves nothing.
        let others = Anchors::new([stranger.as_slice()]).unwrap();
        assert_eq!(follow(&leaf, &[&lower, &upper, &root], &others), Err(Error::Signature));
        assert_eq!(follow(&leaf, &[&lower, &upper], &others), Err(Error::Signature));
        assert!(Anchors::new([]).is_err() && Anchors::new([leaf.as_slice()]).is_err());
    }

    #[test]
    fn of_a_root_and_its_successor_the_one_that_lasts_longer_is_the_anchor() {
        let root_key = key();
        let root = |year| {
            let mut params = params("root", IsCa::Ca(BasicConstraints::Unconstrained));
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params
        };
        let old = root(2020).self_signed(&root_key).unwrap();
        let renewed = CertifiedIssuer::self_signed(root(2040), root_key).unwrap();
        let leaf = params("leaf", IsCa::ExplicitNoCa).signed_by(&key(), &renewed).unwrap();
        let [old, renewed] = [old.der().to_vec(), renewed.der().to_vec()];
        for both in [[&old, &renewed], [&renewed, &old]] {
            let anchors = Anchors::new(both.map(Vec::as_slice)).unwrap();
            let chain = Chain::follow(leaf.der(), [], &anchors, ALLOWED).unwrap();
            assert!(chain.in_date(Timestamp::from_second(1_800_000_000).unwrap()).is_ok());
        }
        let anchors = Anchors::new([old.as_slice()]).unwrap();
        let chain = Chain::follow(leaf.der(), [], &anchors, ALLOWED).unwrap();
        assert!(chain.in_date(Timestamp::from_second(1_800_000_000).unwrap()).is_err());
    }

    #[test]
    fn a_ca_has_no_more_cas_below_it_than_it_may() {
        for (most, held) in [(2, true), (1, false), (0, false)] {
            let [leaf, lower, upper, root] = chain(BasicConstraints::Constrained(most));
            let anchors = Anchors::new([root.as_slice()]).unwrap();
            assert_eq!(follow(&leaf, &[&lower, &upper], &anchors).is_ok(), held, "{most}");
        }
    }

    #[test]
    fn a_chain_has_at_most_eight_certificates_with_its_leaf_and_its_anchor() {
        let any = || IsCa::Ca(BasicConstraints::Unconstrained);
        let of = |intermediates: usize| {
            let root = CertifiedIssuer::self_signed(params("root", any()), key()).unwrap();
            let anchors = Anchors::new([root.der().as_ref()]).unwrap();
            let (mut issuer, mut chain) = (root, Vec::new());
            for place in 0..intermediates {
                issuer = CertifiedIssuer::signed_by(params(&format!("{place}"), any()), key(), &issuer).unwrap();
                chain.insert(0, issuer.der().to_vec());
            }
            let leaf = params("leaf", IsCa::ExplicitNoCa).signed_by(&key(), &issuer).unwrap();
            follow(leaf.der(), &chain.iter().map(Vec::as_slice).collect::<Vec<_>>(), &anchors)
        };
        assert_eq!(of(6), Ok(8));
        assert_eq!(of(7), Err(Error::Malformed("chain")));
    }

    #[test]
    fn of_revocation_the_least_is_known_that_is_of_a_certificate_that_wants_a_list() {
        type Ca = CertifiedIssuer<'static, KeyPair>;
        let any = || IsCa::Ca(BasicConstraints::Unconstrained);
        let listed = |name: &str, is_ca, listed: bool| {
            let mut params = params(name, is_ca);
            if listed {
                params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec!["http://a/b".into()] }];
            }
            params
        };
        let root = CertifiedIssuer::self_signed(params("root", any()), key()).unwrap();
        let list = |issuer: &Ca, year, revoked: Option<u64>| {
            let entry = |serial: u64| RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            };
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2020, 1, 1),
                next_update: date_time_ymd(year, 1, 1),
                crl_number: 1_u64.into(),
                issuing_distribution_point: None,
                revoked_certs: revoked.into_iter().map(entry).collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(issuer).unwrap().der().to_vec()
        };
        let said = |wanted: [bool; 2], lists: &dyn Fn(&Ca, &Ca) -> Vec<Vec<u8>>| {
            let mut params = listed("upper", any(), wanted[0]);
            params.serial_number = Some(7_u64.into());
            let upper = CertifiedIssuer::signed_by(params, key(), &root).unwrap();
            let mut params = listed("leaf", IsCa::ExplicitNoCa, wanted[1]);
            params.serial_number = Some(8_u64.into());
            let leaf = params.signed_by(&key(), &upper).unwrap();
            let anchors = Anchors::new([root.der().as_ref()]).unwrap();
            let chain = Chain::follow(leaf.der(), [upper.der().as_ref()], &anchors, ALLOWED).unwrap();
            assert_eq!(chain.leaf().map(|leaf| leaf.raw_serial()), Some(&[8][..]));
            chain.revocation(&lists(&root, &upper), ALLOWED, Timestamp::from_second(1_800_000_000).unwrap())
        };
        let (both, none) = ([true, true], |_: &Ca, _: &Ca| vec![]);
        let named = |name: &str| Some(format!("CN={name}"));
        assert_eq!(said([false, false], &none), (Revocation::Current, None));
        assert_eq!(said([true, false], &none), (Revocation::Unknown, None));
        assert_eq!(said([false, true], &none), (Revocation::Unknown, None));
        let lists = |one, two| move |root: &Ca, upper: &Ca| vec![list(root, one, None), list(upper, two, None)];
        assert_eq!(said(both, &lists(2040, 2040)), (Revocation::Current, None));
        assert_eq!(said(both, &lists(2025, 2040)), (Revocation::OutOfDate, None));
        assert_eq!(said(both, &lists(2040, 2025)), (Revocation::OutOfDate, None));
        assert_eq!(said([false, true], &lists(2025, 2040)), (Revocation::Current, None));
        assert_eq!(said(both, &|root, _| vec![list(root, 2025, None)]), (Revocation::Unknown, None));
        assert_eq!(said(both, &|_, upper| vec![list(upper, 2025, None)]), (Revocation::Unknown, None));
        // Whoever is named is revoked, also by a list that is out of date or that its certificate doesn't want.
        let revoked = |serials: [Option<u64>; 2]| {
            move |root: &Ca, upper: &Ca| vec![list(root, 2025, serials[0]), list(upper, 2040, serials[1])]
        };
        assert_eq!(said(both, &revoked([Some(7), None])).1, named("upper"));
        assert_eq!(said(both, &revoked([None, Some(8)])).1, named("leaf"));
        assert_eq!(said([false, false], &revoked([None, Some(8)])), (Revocation::Current, named("leaf")));
        assert_eq!(said(both, &revoked([Some(8), Some(7)])).1, None);
        assert_eq!(said(both, &revoked([Some(7), Some(8)])).1, named("leaf"));
    }

    #[test]
    fn a_chain_longer_than_any_cloud_sends_is_refused() {
        let [leaf, lower, _, root] = chain(BasicConstraints::Unconstrained);
        let anchors = Anchors::new([root.as_slice()]).unwrap();
        assert!(follow(&leaf, &vec![lower.as_slice(); 100], &anchors).is_err());
    }
}
