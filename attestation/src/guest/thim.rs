//! What Azure's instance metadata service says about a machine's processor: its certificates, and quotes.
//!
//! Source: Microsoft, "Trusted Hardware Identity Management", "How do I request collateral in a confidential virtual
//! machine?"; the quote: azure-cvm-tooling, `az-tdx-vtpm`, `imds`.

use base64::{Engine as _, prelude::BASE64_URL_SAFE, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::x509;

/// Where the certificates are asked for (GET).
pub const CERTIFICATES: &str = "/metadata/THIM/amd/certification";
/// Where a report becomes a quote (POST of [`quote_request`]).
pub const QUOTE: &str = "/acc/tdquote";
/// Greatest answer, bytes: three certificates or one quote in text are below 16 KiB.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most certificates above the chip's.
const MAX_CHAIN: usize = 4;
/// Least quote that has all its parts: header, body, length (Intel, "TDX DCAP Quoting Library API", appendix A).
const MIN_QUOTE: usize = 48 + 584 + 4;

/// Why an answer can't be used.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is longer than such an answer.
    #[error("the answer has {0} bytes, more than {MAX_BYTES}")]
    Long(usize),
    /// It isn't the JSON that is described.
    #[error("the answer can't be read")]
    Form,
    /// A certificate, or the quote, isn't one.
    #[error("the answer's {0} isn't one")]
    Member(&'static str),
}

/// Certificates that endorse a SEV-SNP report, DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Of the key that signs reports.
    pub vcek: Vec<u8>,
    /// Of its issuer.
    pub ask: Vec<u8>,
}

/// The service adds members with its releases, so unknown ones are passed over; nothing of it is believed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    vcek_cert: String,
    certificate_chain: String,
}

impl Certificates {
    /// Reads an answer.
    ///
    /// # Errors
    /// When it doesn't hold exactly one certificate of the chip, and some above it.
    pub fn parse(answer: &[u8]) -> Result<Self, Error> {
        let Answer { vcek_cert, certificate_chain } = json(answer)?;
        let pem = |text: &str, most, what| x509::from_pem(text.as_bytes(), most).map_err(|_| Error::Member(what));
        let [vcek] =
            <[Vec<u8>; 1]>::try_from(pem(&vcek_cert, 1, "certificate")?).map_err(|_| Error::Member("certificate"))?;
        let ask = pem(&certificate_chain, MAX_CHAIN, "chain")?.into_iter().next().ok_or(Error::Member("chain"))?;
        Ok(Self { vcek, ask })
    }
}

/// What is sent to have a quote made of a TDX report.
///
/// # Panics
/// Never: a string serialises.
#[must_use]
pub fn quote_request(report: &[u8]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Request {
        report: String,
    }
    serde_json::to_vec(&Request { report: BASE64_URL_SAFE_NO_PAD.encode(report) }).expect("a string serialises")
}

/// The quote in an answer.
///
/// # Errors
/// When there is none.
pub fn quote(answer: &[u8]) -> Result<Vec<u8>, Error> {
    #[derive(Deserialize)]
    struct Answer {
        quote: String,
    }
    let Answer { quote } = json(answer)?;
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(&quote).or_else(|_| BASE64_URL_SAFE.decode(&quote));
    decoded.ok().filter(|quote| quote.len() >= MIN_QUOTE).ok_or(Error::Member("quote"))
}

fn json<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Error> {
    if answer.len() > MAX_BYTES {
        return Err(Error::Long(answer.len()));
    }
    serde_json::from_slice(answer).map_err(|_| Error::Form)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A genuine certificate of a chip of Azure's and the two above it (`vectors/trustee-az-snp`).
    const PEM: &str = include_str!("../../vectors/trustee-az-snp/vcek.pem");
    const QUOTED: &[u8] = include_bytes!("../../vectors/trustee-az-tdx/td-quote.bin");

    /// The service's answer: the file's first certificate, and the rest.
    fn answer() -> serde_json::Value {
        const END: &str = "-----END CERTIFICATE-----\n";
        let (vcek, chain) = PEM.split_once(END).unwrap();
        json!({"vcekCert": format!("{vcek}{END}"), "tcbm": "DB18000000000004", "certificateChain": chain,
            "cacheControl": "86400"})
    }

    #[test]
    fn genuine_certificates_come_out_as_der() {
        let Certificates { vcek, ask } = Certificates::parse(answer().to_string().as_bytes()).unwrap();
        let names =
            [&vcek, &ask].map(|der| x509::common_name(x509::certificate(der).unwrap().subject()).unwrap().to_owned());
        assert_eq!(names, ["SEV-VCEK", "SEV-Milan"]);
    }

    #[test]
    fn an_answer_with_one_thing_wrong_has_no_certificates() {
        let changed = |name: &str, value: serde_json::Value| {
            let mut answer = answer();
            answer[name] = value;
            answer.to_string().into_bytes()
        };
        let two = answer()["certificateChain"].clone();
        for (bytes, error) in [
            (changed("vcekCert", json!("")), Error::Member("certificate")),
            (changed("vcekCert", two), Error::Member("certificate")),
            (changed("vcekCert", json!(7)), Error::Form),
            (changed("certificateChain", json!("none")), Error::Member("chain")),
            (changed("certificateChain", json!(PEM.repeat(3))), Error::Member("chain")),
            (b"{}".to_vec(), Error::Form),
            (b"\xff\xfe".to_vec(), Error::Form),
            (vec![b' '; MAX_BYTES + 1], Error::Long(MAX_BYTES + 1)),
        ] {
            assert_eq!(Certificates::parse(&bytes), Err(error));
        }
    }

    #[test]
    fn a_report_is_sent_as_text_and_a_genuine_quote_comes_back() {
        assert_eq!(quote_request(&[0xfb, 0xff]), br#"{"report":"-_8"}"#);
        for text in [BASE64_URL_SAFE_NO_PAD.encode(QUOTED), BASE64_URL_SAFE.encode(QUOTED)] {
            assert_eq!(quote(json!({"quote": text}).to_string().as_bytes()).unwrap(), QUOTED);
        }
        for (bytes, error) in [
            (json!({"quote": "!"}).to_string(), Error::Member("quote")),
            (json!({"quote": ""}).to_string(), Error::Member("quote")),
            (json!({"report": ""}).to_string(), Error::Form),
            ("<html>".into(), Error::Form),
        ] {
            assert_eq!(quote(bytes.as_bytes()), Err(error), "{bytes}");
        }
    }
}
