//! Where makers of processors and clouds have what they say, and whether an answer is what was asked for.
//!
//! Hosts are the settings' or in a fixed form. What evidence names becomes part of a path, after it was read as an
//! identifier of its exact length.
//!
//! Sources: AMD document 57230 ("VCEK Certificate and KDS Interface Specification"); Intel, "API for Intel SGX and TDX
//! Provisioning Certification Service", version 4; RFC 5280, 4.2.2.1 for issuers of Google.

use constellation_attestation::{
    bytes::Hex,
    collateral::Key,
    endorsers::{Endorsers, Need, needs},
    snp::{KeyKind, Product, tcb::RawTcb},
    tdx::collateral::{Collateral, PckCa, ROOT_CRL},
    x509,
};
use hyper::Uri;
use jiff::Timestamp;

use super::{
    http::{Answer, Http},
    settings::{Sources, Update},
    trouble::Trouble,
};

/// Issuers between a key of Google's and its root: one so far.
const MOST_ISSUERS: usize = 3;
/// What the names of Google's buckets of issuers begin and end with; between them stands a UUID.
const BUCKET: (&str, &str) = ("privateca-content-", ".storage.googleapis.com");
/// Its file in each folder.
const ISSUER: &str = "/ca.crt";

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vendor {
    /// AMD.
    Amd,
    /// Google.
    Google,
    /// Intel.
    Intel,
}

impl Vendor {
    /// Who says a thing.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        match key {
            Key::SnpCrl { .. } | Key::SnpVcek { .. } => Self::Amd,
            Key::GoogleIssuer { .. } => Self::Google,
            Key::Tdx { .. } => Self::Intel,
        }
    }

    /// For metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd => "amd",
            Self::Google => "google",
            Self::Intel => "intel",
        }
    }
}

/// Fetches from all of them.
pub struct Vendors {
    http: Http,
    sources: Sources,
    anchors: Endorsers,
}

impl Vendors {
    /// Believes what leads to the anchors of `anchors`.
    #[must_use]
    pub fn new(http: Http, sources: Sources, anchors: Endorsers) -> Self {
        Self { http, sources, anchors }
    }

    /// Fetches a thing and checks it; gives its bytes.
    ///
    /// # Errors
    /// Why it isn't there, or can't be believed.
    pub async fn fetch(&self, need: &Need, now: Timestamp) -> Result<Vec<u8>, Trouble> {
        match &need.key {
            Key::SnpCrl { product, kind: KeyKind::Vcek } => {
                self.amd(&need.key, &format!("vcek/v1/{product}/crl"), now).await
            }
            // AMD document 57230, "VLEK CRL".
            Key::SnpCrl { product, kind: KeyKind::Vlek } => {
                self.amd(&need.key, &format!("vlek/v1/{product}/crl"), now).await
            }
            Key::SnpVcek { product, chip, tcb } => {
                let path = vcek(product, chip, tcb).ok_or_else(|| Trouble::Absent("the TCB".into()))?;
                self.amd(&need.key, &format!("vcek/v1/{path}"), now).await
            }
            Key::GoogleIssuer { .. } => self.google(need, now).await,
            Key::Tdx { fmspc } => self.intel(&need.key, fmspc, now).await,
        }
    }

    async fn amd(&self, key: &Key, path: &str, now: Timestamp) -> Result<Vec<u8>, Trouble> {
        let (url, answer) = self.get(format!("{}/{path}", self.sources.amd)).await?;
        self.fit(key, answer.body, &url, now)
    }

    async fn intel(&self, key: &Key, fmspc: &str, now: Timestamp) -> Result<Vec<u8>, Trouble> {
        let family: Hex<6> = fmspc.parse().map_err(|_| Trouble::Absent("the platform family".into()))?;
        let mut collateral = Collateral::default();
        let mut last = Uri::default();
        // Trust domains run on platforms of several packages only.
        for need in constellation_attestation::tdx::collateral::needs(&family, PckCa::Platform) {
            let (url, answer) = self.get(self.intels(&need.path)).await?;
            let chain = need.chain.map(|name| answer.decoded(name)).unwrap_or_default();
            let taken = collateral.take(&need, &answer.body, chain);
            taken.map_err(|error| unfit(&url, error.to_string()))?;
            last = url;
        }
        let json = serde_json::to_vec(&collateral).map_err(|error| unfit(&last, error.to_string()))?;
        self.fit(key, json, &last, now)
    }

    /// The address of something of Intel's.
    fn intels(&self, path: &str) -> String {
        if let Some(path) = path.strip_prefix(ROOT_CRL) {
            return format!("{}{path}", self.sources.intel_root);
        }
        // Revocation lists have no early form.
        let update = match self.sources.update {
            _ if path.contains("/pckcrl") => "",
            Update::Early if path.contains('?') => "&update=early",
            Update::Early => "?update=early",
            Update::Standard if path.contains('?') => "&update=standard",
            Update::Standard => "?update=standard",
        };
        format!("{}{path}{update}", self.sources.intel)
    }

    /// Follows issuers up to one that Google's root issued.
    async fn google(&self, need: &Need, now: Timestamp) -> Result<Vec<u8>, Trouble> {
        let (mut place, mut found) = (need.place.clone(), Vec::new());
        let mut refused = Trouble::Place;
        for _ in 0..MOST_ISSUERS {
            let Some(url) = place.as_deref().and_then(|place| self.googles(place)) else { break };
            let (url, answer) = self.get(url).await?;
            let certificate = certificate(answer.body).ok_or_else(|| unfit(&url, "no certificate".into()))?;
            place = needs::place(&certificate);
            found.extend(certificate);
            match self.fit(&need.key, found.clone(), &url, now) {
                Ok(bytes) => return Ok(bytes),
                Err(trouble) => refused = trouble,
            }
        }
        Err(refused)
    }

    /// The address of an issuer, if a certificate names one of Google's: always over HTTPS.
    fn googles(&self, place: &str) -> Option<String> {
        let rest = place.strip_prefix("http://").or_else(|| place.strip_prefix("https://"))?;
        let (host, path) = rest.split_at(rest.find('/')?);
        let uuid = host.strip_prefix(BUCKET.0)?.strip_suffix(BUCKET.1)?;
        let folder = path.strip_prefix('/')?.strip_suffix(ISSUER)?;
        let hex = |text: &str| !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        if lengths != [8, 4, 4, 4, 12] || !uuid.split('-').all(hex) || !hex(folder) {
            return None;
        }
        Some(match &self.sources.google {
            Some(mirror) => format!("{mirror}/{host}{path}"),
            None => format!("https://{host}{path}"),
        })
    }

    async fn get(&self, url: String) -> Result<(Uri, Answer), Trouble> {
        let url: Uri =
            url.parse().map_err(|_| Trouble::Unreachable { host: url.clone(), why: "it is no address".into() })?;
        let answer = self.http.get(&url).await?;
        Ok((url, answer))
    }

    fn fit(&self, key: &Key, bytes: Vec<u8>, from: &Uri, now: Timestamp) -> Result<Vec<u8>, Trouble> {
        match self.anchors.check(key, &bytes, now) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(unfit(from, error.to_string())),
        }
    }
}

fn unfit(from: &Uri, why: String) -> Trouble {
    Trouble::Unfit { host: from.authority().map(ToString::to_string).unwrap_or_default(), why }
}

/// The certificate in DER or PEM: Google's CA service hands out both.
#[must_use]
pub fn certificate(bytes: Vec<u8>) -> Option<Vec<u8>> {
    if bytes.starts_with(b"-----BEGIN") {
        return x509::from_pem(&bytes, 1).ok()?.pop();
    }
    x509::certificate(&bytes).is_ok().then_some(bytes)
}

/// Path and query of a processor's certificate; nothing when the TCB isn't one of its product.
fn vcek(product: &str, chip: &str, tcb: &str) -> Option<String> {
    let family: Product = product.parse().ok()?;
    let raw: Hex<8> = tcb.parse().ok()?;
    let tcb = RawTcb(raw.0).of(family)?;
    let chip = chip.get(..family.hwid_bytes() * 2)?;
    let fmc = if family == Product::Turin { format!("fmcSPL={:02}&", tcb.fmc) } else { String::new() };
    Some(format!(
        "{product}/{chip}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        tcb.bl, tcb.tee, tcb.snp, tcb.ucode
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_asked_for_as_its_product_wants_it() {
        let chip = format!("6bb1229b7692b710{}", "0".repeat(112));
        assert_eq!(
            vcek("Turin", &chip, "0101010400000052").as_deref(),
            Some("Turin/6bb1229b7692b710?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=82")
        );
        let milan = vcek("Milan", &chip, "04000000000018db").unwrap();
        assert_eq!(milan, format!("Milan/{chip}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"));
        assert_eq!(vcek("Milan", &chip, "04000100000018db"), None, "no part of Milan's TCB");
    }
}
