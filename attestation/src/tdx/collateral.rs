//! What Intel says about platforms, as its Provisioning Certification Service hands it out: bytes in, nothing fetched.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::pck::Platform;

/// Greatest collateral, bytes: genuine ones are 10 to 20 KB; the revocation list of a PCK CA grows.
pub const MAX_BYTES: usize = 512 * 1024;

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
    /// Not the wanted JSON.
    #[error("isn't the JSON of collateral")]
    Json(#[from] serde_json::Error),
    /// More than [`MAX_BYTES`].
    #[error("{0} bytes are more than collateral can have")]
    Size(usize),
}

impl Collateral {
    /// Parses collateral from JSON. Members we don't know are ignored: they are about other verifiers.
    ///
    /// # Errors
    /// When it is too large or not such JSON.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_BYTES {
            return Err(Error::Size(json.len()));
        }
        Ok(serde_json::from_slice(json)?)
    }
}

/// One thing that is needed to verify quotes of a platform, and where Intel's Provisioning Certification Service (API
/// v4) or a cache of it has it. The library never fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Member of [`Collateral`] that it becomes; the issuer chain stands in a header of the answer.
    pub member: &'static str,
    /// Path and query below the service, or the whole address of the root's revocation list.
    pub path: String,
}

/// What is needed to verify quotes of a platform whose PCK certificate this CA issued.
#[must_use]
pub fn needs(platform: &Platform, ca: PckCa) -> [Need; 4] {
    let ca = match ca {
        PckCa::Platform => "platform",
        PckCa::Processor => "processor",
    };
    [
        Need { member: "tcb_info", path: format!("/tdx/certification/v4/tcb?fmspc={}", platform.fmspc) },
        Need { member: "qe_identity", path: "/tdx/certification/v4/qe/identity".to_owned() },
        Need { member: "pck_crl", path: format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der") },
        Need {
            member: "root_ca_crl",
            path: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der".to_owned(),
        },
    ]
}

/// Which of Intel's CAs issued a PCK certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PckCa {
    /// For platforms of several packages; all TDX platforms so far.
    Platform,
    /// For platforms of one package.
    Processor,
}

/// Whether `now` is inside, ends included.
#[must_use]
pub(super) fn in_date(issued: Timestamp, next: Timestamp, now: Timestamp) -> bool {
    issued <= now && now <= next
}
