//! What Intel says about platforms, as its Provisioning Certification Service hands it out: bytes in, nothing fetched.

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::Error as _};

use super::{
    bytes::Hex,
    pck::{self, Platform},
    pki::{self, Chain},
    quote::{CERTIFICATION_PCK_CHAIN, Quote},
};

/// Greatest collateral, bytes: genuine ones are 10 to 20 KB; the revocation list of a PCK CA grows.
pub const MAX_BYTES: usize = 512 * 1024;

/// Where Intel has the revocation list of its root.
pub const ROOT_CRL: &str = "https://certificates.trustedservices.intel.com";

/// Members of [`Collateral`] that are asked for one by one.
const PCK_CRL: &str = "pck_crl";
const QE_IDENTITY: &str = "qe_identity";
const ROOT_CA_CRL: &str = "root_ca_crl";
const TCB_INFO: &str = "tcb_info";

/// Collateral for one platform family. All of it is signed by Intel and nothing in it is an anchor, so where it comes
/// from doesn't matter. What is absent is empty, and the clause about it then fails.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Collateral {
    /// Chain of the CA that issues PCK certificates, PEM.
    pub pck_crl_issuer_chain: String,
    /// Revocation list of the root, DER in hex.
    pub root_ca_crl: String,
    /// Revocation list of the CA that issues PCK certificates, DER in hex.
    pub pck_crl: String,
    /// Chain of the certificate that signed the TCB info, PEM.
    pub tcb_info_issuer_chain: String,
    /// TCB info: the very bytes that are signed.
    pub tcb_info: String,
    /// Signature over them, `r || s` in hex.
    pub tcb_info_signature: String,
    /// Chain of the certificate that signed the QE identity, PEM.
    pub qe_identity_issuer_chain: String,
    /// QE identity: the very bytes that are signed.
    pub qe_identity: String,
    /// Signature over them, `r || s` in hex.
    pub qe_identity_signature: String,
    /// PCK certificate chain, PEM, for quotes that don't carry it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pck_certificate_chain: Option<String>,
}

/// Why bytes aren't collateral.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// Not an answer of Intel's service.
    #[error("the answer about {0} hasn't the form of Intel's")]
    Answer(&'static str),
    /// Not the wanted JSON.
    #[error("isn't the JSON of collateral")]
    Json(#[from] serde_json::Error),
    /// More than [`MAX_BYTES`].
    #[error("{0} bytes are more than collateral can have")]
    Size(usize),
}

impl Collateral {
    /// Parses collateral from a JSON object; a list of its members in their order isn't one. Members we don't know are
    /// ignored: they are about other verifiers.
    ///
    /// # Errors
    /// When it is too large or not such JSON.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_BYTES {
            return Err(Error::Size(json.len()));
        }
        if json.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(serde_json::Error::custom("it isn't an object").into());
        }
        Ok(serde_json::from_slice(json)?)
    }

    /// Takes an answer of Intel's service, or of a cache of it, as the member that was needed, with the chain that stood in
    /// its header, decoded. A list in hex, as caches have it, is as good as one in DER. Nothing is verified.
    ///
    /// # Errors
    /// When it has another form.
    pub fn take(&mut self, need: &Need, answer: &[u8], chain: String) -> Result<(), Error> {
        let malformed = || Error::Answer(need.member);
        let text = std::str::from_utf8(answer).map_err(|_| malformed());
        let list = || match text.as_ref().ok().and_then(|text| hex::decode(text.trim()).ok()) {
            Some(der) => hex::encode(der),
            None => hex::encode(answer),
        };
        match need.member {
            PCK_CRL => (self.pck_crl, self.pck_crl_issuer_chain) = (list(), chain),
            QE_IDENTITY => {
                let (text, signature) = signed_part(text?, "enclaveIdentity").ok_or_else(malformed)?;
                (self.qe_identity, self.qe_identity_signature) = (text.to_owned(), signature.to_owned());
                self.qe_identity_issuer_chain = chain;
            }
            ROOT_CA_CRL => self.root_ca_crl = list(),
            TCB_INFO => {
                let (text, signature) = signed_part(text?, "tcbInfo").ok_or_else(malformed)?;
                (self.tcb_info, self.tcb_info_signature) = (text.to_owned(), signature.to_owned());
                self.tcb_info_issuer_chain = chain;
            }
            _ => return Err(malformed()),
        }
        Ok(())
    }
}

/// Cuts an answer of Intel's service, `{"<member>":{...},"signature":"..."}`, into the very bytes that are signed and
/// their signature. A wrong cut is harmless: the signature then doesn't hold.
#[must_use]
pub fn signed_part<'a>(answer: &'a str, member: &str) -> Option<(&'a str, &'a str)> {
    const SIGNATURE: &str = "\"signature\"";
    let named = answer.trim().strip_prefix('{')?.trim_start().strip_prefix(&format!("\"{member}\""))?;
    let (text, rest) = named.trim_start().strip_prefix(':')?.trim_start().rsplit_once(SIGNATURE)?;
    let signature = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let (signature, end) = signature.split_once('"')?;
    let text = text.trim_end().strip_suffix(',')?.trim_end();
    (end.trim() == "}").then_some((text, signature))
}

/// Which platform a quote says it is of. Nothing of it is verified: it is good for looking collateral up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The platform.
    pub platform: Platform,
    /// Which of Intel's CAs issued its PCK certificate.
    pub ca: PckCa,
}

/// Which of Intel's CAs issued a PCK certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PckCa {
    /// For platforms of several packages; all TDX platforms so far.
    Platform,
    /// For platforms of one package.
    Processor,
}

/// One thing that is needed to verify a quote, and where Intel's Provisioning Certification Service (API v4), or a
/// cache of it, has it. The library never fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Member of [`Collateral`] that it becomes.
    pub member: &'static str,
    /// Path and query below the service, or the whole address of the root's revocation list.
    pub path: String,
    /// Header of the answer with the chain of who signed it, PEM, percent-encoded.
    pub chain: Option<&'static str>,
}

impl Hint {
    /// Reads the PCK certificate that comes with a quote.
    ///
    /// # Errors
    /// When there is none, or it doesn't name a platform.
    pub fn of(quote: &Quote<'_>) -> Result<Self, HintError> {
        if quote.certification_kind != CERTIFICATION_PCK_CHAIN {
            return Err(HintError::Kind(quote.certification_kind));
        }
        let chain = Chain::from_pem(quote.certification_data)?;
        let leaf = chain.leaf()?;
        let processor = pki::is_called(leaf.issuer(), &[pki::PCK_PROCESSOR_CA]).is_ok();
        let ca = if processor { PckCa::Processor } else { PckCa::Platform };
        Ok(Self { platform: Platform::of(&leaf)?, ca })
    }

    /// What is needed to verify the quote.
    #[must_use]
    pub fn needs(&self) -> [Need; 4] {
        needs(&self.platform.fmspc, self.ca)
    }
}

/// What is needed of a platform family. The QE identity and the root's revocation list are the same for all.
#[must_use]
pub fn needs(fmspc: &Hex<6>, ca: PckCa) -> [Need; 4] {
    let ca = match ca {
        PckCa::Platform => "platform",
        PckCa::Processor => "processor",
    };
    [
        Need {
            member: TCB_INFO,
            path: format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            chain: Some("TCB-Info-Issuer-Chain"),
        },
        Need {
            member: QE_IDENTITY,
            path: "/tdx/certification/v4/qe/identity".to_owned(),
            chain: Some("SGX-Enclave-Identity-Issuer-Chain"),
        },
        Need {
            member: PCK_CRL,
            path: format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"),
            chain: Some("SGX-PCK-CRL-Issuer-Chain"),
        },
        Need { member: ROOT_CA_CRL, path: format!("{ROOT_CRL}/IntelSGXRootCA.der"), chain: None },
    ]
}

/// Why a quote doesn't say which platform it is of.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum HintError {
    /// It carries no PCK chain.
    #[error("certification data of type {0} holds no PCK certificate")]
    Kind(u16),
    /// The certificate can't be read.
    #[error(transparent)]
    Certificate(#[from] pki::Error),
    /// It names no platform.
    #[error(transparent)]
    Platform(#[from] pck::Error),
}

/// Whether `now` is inside, ends included.
#[must_use]
pub(super) fn in_date(issued: Timestamp, next: Timestamp, now: Timestamp) -> bool {
    issued <= now && now <= next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collateral_is_as_long_as_the_bound_says_or_shorter() {
        let padded = |length| [b"{}".as_slice(), &vec![b' '; length - 2]].concat();
        assert_eq!(Collateral::parse(&padded(MAX_BYTES)).unwrap(), Collateral::default());
        for more in [1, 2] {
            let found = Collateral::parse(&padded(MAX_BYTES + more));
            assert!(matches!(found, Err(Error::Size(length)) if length == MAX_BYTES + more));
        }
    }
}
