//! What is needed for evidence beside what came with it, as a list for whoever fetches.

use jiff::Timestamp;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, Oid},
};

use super::{Endorsers, list_of};
use crate::{
    appraise::clause,
    collateral::{ISSUER_BYTES, Key},
    gcp,
    guest::certificates::{Kind, Table},
    protocol::machine::{Endorsement, Machine, Report},
    snp::{self, KeyKind, Product},
    tdx::{self, collateral::Hint, quote::Quote},
    x509::{self, Algorithm, chain::Chain},
};

/// Longest place that is passed on, bytes; those of Google have 110.
const MAX_PLACE: usize = 256;
/// Clauses that don't hold when something is missing.
const WANTING: [&str; 5] = [
    clause::COLLATERAL,
    gcp::clause::AK_CHAIN,
    snp::clause::CRL,
    snp::clause::VEK_STRUCTURE,
    tdx::clause::COLLATERAL_STRUCTURE,
];

/// A thing that is needed. Nothing about it is verified: evidence that isn't genuine may name anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(into = "(String, Option<String>)", try_from = "(String, Option<String>)")]
pub struct Need {
    /// What.
    pub key: Key,
    /// Where its maker has it, as the evidence says; absent where the name alone says it.
    pub place: Option<String>,
}

impl From<Key> for Need {
    fn from(key: Key) -> Self {
        Self { key, place: None }
    }
}

impl From<Need> for (String, Option<String>) {
    fn from(need: Need) -> Self {
        (need.key.to_string(), need.place)
    }
}

impl TryFrom<(String, Option<String>)> for Need {
    type Error = crate::collateral::Unnamed;

    fn try_from((key, place): (String, Option<String>)) -> Result<Self, Self::Error> {
        Ok(Self { key: key.parse()?, place })
    }
}

impl Endorsers {
    /// What of a machine's needs isn't there.
    #[must_use]
    pub fn lacking(&self, machine: &Machine, now: Timestamp) -> Vec<Need> {
        let mut needs = self.needs(machine);
        needs.retain(|need| self.collateral.get(&need.key, now, self.greatest_age).is_err());
        needs
    }

    fn needs(&self, machine: &Machine) -> Vec<Need> {
        let of_report = |report: &Option<Report>| match report {
            Some(Report::Snp { report, certificates }) => snp_needs(report, certificates),
            Some(Report::Tdx { quote, .. }) => tdx_needs(quote),
            None => Vec::new(),
        };
        let keys = match machine {
            Machine::Azure { endorsement: Endorsement::Snp { vek, .. }, .. } => list_of(vek).into_iter().collect(),
            Machine::Azure { endorsement: Endorsement::Tdx { quote }, .. } => tdx_needs(quote),
            Machine::Aws { report, .. } | Machine::Google { report, .. } => of_report(report),
        };
        let mut needs: Vec<Need> = keys.into_iter().map(Need::from).collect();
        if let Machine::Google { certificates, .. } = machine
            && let Some((leaf, rest)) = certificates.split_first()
            && Chain::follow(leaf, rest.iter().map(Vec::as_slice), &self.google, &Algorithm::COMMON).is_err()
        {
            needs.extend(certificates.last().and_then(|last| google_need(last)));
        }
        needs
    }
}

/// Whether clauses that don't hold are only such as don't when something is missing.
#[must_use]
pub fn only_wanting<'a>(clauses: impl IntoIterator<Item = &'a str>) -> bool {
    clauses.into_iter().all(|clause| WANTING.contains(&clause))
}

/// What is needed for a SEV-SNP report beside what came with it: its key's certificate, and the root's revocation list.
/// Empty when the report doesn't say its product (version 2). A cloud's key (VLEK) has no certificate but the one that
/// its host gives.
#[must_use]
pub fn snp_needs(report: &[u8], table: &[u8]) -> Vec<Key> {
    let table = Table::parse(table).unwrap_or_default();
    match (brought(report, &table).and_then(list_of), vcek(report)) {
        (Some(list), _) => vec![list],
        (None, Some((product, key))) => {
            vec![key, Key::SnpCrl { product: product.to_string(), kind: KeyKind::Vcek }]
        }
        (None, None) => Vec::new(),
    }
}

/// What is needed for a TDX quote. Empty when it doesn't say its platform.
#[must_use]
pub fn tdx_needs(quote: &[u8]) -> Vec<Key> {
    fmspc(quote).into_iter().collect()
}

/// What is needed for the certificate of a TPM's key of Google's: its issuer, and where that is. Nothing when it names
/// none.
#[must_use]
pub fn google_need(certificate: &[u8]) -> Option<Need> {
    Some(Need { key: google_issuer(certificate)?, place: place(certificate) })
}

pub(super) fn google_issuer(certificate: &[u8]) -> Option<Key> {
    let certificate = x509::certificate(certificate).ok()?;
    let named = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(issuer) => issuer.key_identifier.as_ref(),
        _ => None,
    })?;
    (1..=ISSUER_BYTES).contains(&named.0.len()).then(|| Key::GoogleIssuer { key: hex::encode(named.0) })
}

/// Where the issuer of a certificate is (RFC 5280, 4.2.2.1).
#[must_use]
pub fn place(certificate: &[u8]) -> Option<String> {
    let certificate = x509::certificate(certificate).ok()?;
    let is_issuer = |method: &Oid<'_>| *method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS;
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else { return None };
        access.iter().find_map(|description| match &description.access_location {
            GeneralName::URI(place) if is_issuer(&description.access_method) && place.len() <= MAX_PLACE => {
                Some((*place).to_owned())
            }
            _ => None,
        })
    })
}

/// The certificate of a report's key that its host gave: of the kind that the report names. After an update a host may
/// still give a processor's certificate of the TCB before; it is left out where the right one can be fetched.
pub(super) fn brought<'a>(report: &[u8], table: &Table<'a>) -> Option<&'a [u8]> {
    let fetchable = vcek(report).map(|(product, _)| product);
    let report = snp::Report::parse(report).ok()?;
    let current =
        |vek: &&[u8]| fetchable.is_none_or(|product| report.reported_tcb.of(product) == snp::endorsement::tcb_of(vek));
    match KeyKind::of_report(report.key_info) {
        Some(KeyKind::Vcek) => table.of(Kind::Vcek).filter(current),
        Some(KeyKind::Vlek) => table.of(Kind::Vlek),
        None => None,
    }
}

pub(super) fn vcek(report: &[u8]) -> Option<(Product, Key)> {
    let report = snp::Report::parse(report).ok()?;
    let product = Product::of_cpuid(report.cpuid?)?;
    // Who hides the processor, or signs with another key, has to bring the certificate.
    let named = report.chip_id.0.iter().any(|byte| *byte != 0);
    if !named || KeyKind::of_report(report.key_info) != Some(KeyKind::Vcek) {
        return None;
    }
    let (chip, tcb) = (report.chip_id.to_string(), report.reported_tcb.to_string());
    Some((product, Key::SnpVcek { product: product.to_string(), chip, tcb }))
}

pub(super) fn fmspc(quote: &[u8]) -> Option<Key> {
    let hint = Hint::of(&Quote::parse(quote).ok()?).ok()?;
    Some(Key::Tdx { fmspc: hint.platform.fmspc.to_string() })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};

    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, high, low], content].concat()
    }

    #[test]
    fn a_place_is_the_first_uri_of_an_issuer_that_is_not_too_long() {
        const OCSP: u8 = 1;
        const ISSUER: u8 = 2;
        const URI: u8 = 0x86;
        const MAIL: u8 = 0x81;
        let longest = "x".repeat(MAX_PLACE);
        let too_long = "x".repeat(MAX_PLACE + 1);
        for (access, wanted) in [
            (&[(ISSUER, URI, "a")][..], Some("a")),
            (&[(ISSUER, URI, &longest)], Some(longest.as_str())),
            (&[(ISSUER, URI, &too_long)], None),
            (&[(OCSP, URI, "a")], None),
            (&[(OCSP, URI, &too_long)], None),
            (&[(ISSUER, MAIL, "a")], None),
            (&[(OCSP, URI, "a"), (ISSUER, URI, "b"), (ISSUER, URI, "c")], Some("b")),
            (&[(ISSUER, URI, &too_long), (ISSUER, URI, "b")], Some("b")),
            (&[], None),
        ] {
            let description = |(method, kind, place): &(u8, u8, &str)| {
                let method = [&[6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, *method][..], &tlv(*kind, place.as_bytes())].concat();
                tlv(0x30, &method)
            };
            let content = tlv(0x30, &access.iter().flat_map(description).collect::<Vec<_>>());
            let mut params = CertificateParams::default();
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content)];
            let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(place(made.der()).as_deref(), wanted, "{access:?}");
        }
    }

    #[test]
    fn a_need_is_its_name_and_its_place_in_json() {
        let key = Key::Tdx { fmspc: "00806f050000".into() };
        for (place, json) in
            [(None, r#"["tdx-00806f050000",null]"#), (Some("a".to_owned()), r#"["tdx-00806f050000","a"]"#)]
        {
            let need = Need { key: key.clone(), place };
            assert_eq!(serde_json::to_string(&need).unwrap(), json.replace("tdx-00806f050000", &key.to_string()));
            assert_eq!(serde_json::from_str::<Need>(&serde_json::to_string(&need).unwrap()).unwrap(), need);
        }
    }
}
