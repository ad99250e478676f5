//! Evidence of clouds in the JSON that open-source attesters write. What an attester sent is judged and never an error
//! of the manifest, so whoever parses says what is wrong and no more; what they add to their forms is passed over.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use constellation_attestation::tpm::{Hash, attest::Attest, public::Key, quote::Values, signature::Signature};
use serde::Deserialize;

/// A quote with the values it is of.
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// Signature over it.
    pub signature: Signature,
    /// Register values.
    pub values: Values,
}

/// What a TPM with an ECC attestation key, and the cloud that vouches for it, said (form of `vaportpm`).
#[derive(Deserialize)]
pub struct Vapor {
    /// What the quote is about, hex.
    pub nonce: String,
    pcrs: BTreeMap<String, BTreeMap<u8, String>>,
    ak_pubkeys: Keys<Point>,
    attestation: Attestation,
}

#[derive(Deserialize)]
struct Keys<T> {
    ecc_p256: T,
}

#[derive(Deserialize)]
struct Point {
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Attestation {
    tpm: Keys<Signed>,
    gcp: Option<Gcp>,
    nitro: Option<Nitro>,
}

#[derive(Deserialize)]
struct Signed {
    attest_data: String,
    signature: String,
}

#[derive(Deserialize)]
struct Gcp {
    ak_cert_chain: String,
}

#[derive(Deserialize)]
struct Nitro {
    document: String,
}

impl Vapor {
    /// Reads it.
    ///
    /// # Errors
    /// What isn't as the form has it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|e| e.to_string())
    }

    /// What was asked for, as the attester remembers it.
    ///
    /// # Errors
    /// When it isn't hex.
    pub fn nonce(&self) -> Result<Vec<u8>, String> {
        unhex("nonce", &self.nonce)
    }

    /// The attestation key.
    ///
    /// # Errors
    /// When it isn't a point.
    pub fn key(&self) -> Result<Key, String> {
        let Point { x, y } = &self.ak_pubkeys.ecc_p256;
        let point = [vec![4], unhex("x", x)?, unhex("y", y)?].concat();
        Key::point(&point).map_err(|e| e.to_string())
    }

    /// The quote.
    ///
    /// # Errors
    /// When a member isn't there in its form.
    pub fn quote(&self) -> Result<Quote, String> {
        let Signed { attest_data, signature } = &self.attestation.tpm.ecc_p256;
        let attest = unhex("attest_data", attest_data)?;
        // Of the bank that is quoted; a quote that can't be read is refused whatever stands beside it.
        let quoted = Attest::parse(&attest).ok().and_then(|attest| Some(attest.selections.first()?.bank));
        let bank = if quoted == Some(Hash::Sha384.id()) { Hash::Sha384 } else { Hash::Sha256 };
        let name = if bank == Hash::Sha384 { "sha384" } else { "sha256" };
        let values = self.pcrs.get(name).ok_or("there are no values of the quoted bank")?;
        let pcrs = values.iter().map(|(pcr, value)| Ok((*pcr, unhex("pcrs", value)?)));
        Ok(Quote {
            attest,
            signature: Signature::parse_ecdsa_der(&unhex("signature", signature)?).map_err(|e| e.to_string())?,
            values: Values { bank, pcrs: pcrs.collect::<Result<_, String>>()? },
        })
    }

    /// The certificates of the key, PEM, from Google Cloud.
    #[must_use]
    pub fn chain(&self) -> Option<&str> {
        self.attestation.gcp.as_ref().map(|gcp| gcp.ak_cert_chain.as_str())
    }

    /// The document of AWS.
    ///
    /// # Errors
    /// When it isn't there, or isn't hex.
    pub fn document(&self) -> Result<Vec<u8>, String> {
        let nitro = self.attestation.nitro.as_ref().ok_or("there is no document")?;
        unhex("document", &nitro.document)
    }
}

/// What an Azure machine with SEV-SNP said (form of the Confidential Containers' attester): version 0 has byte lists,
/// 1 and 2 have text.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Azure {
    /// Version 0.
    Lists(Lists),
    /// Version 1 and 2.
    Texts(Texts),
}

/// Version 0.
#[derive(Deserialize)]
pub struct Lists {
    quote: ListQuote,
    report: Vec<u8>,
    vcek: String,
}

#[derive(Deserialize)]
struct ListQuote {
    message: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
    signature: Vec<u8>,
}

/// Version 1 and 2.
#[derive(Deserialize)]
pub struct Texts {
    version: u32,
    hcl_report: String,
    tpm_quote: TextQuote,
    vcek: String,
}

#[derive(Deserialize)]
struct TextQuote {
    message: String,
    pcrs: Vec<String>,
    signature: String,
}

/// The parts of it, as bytes.
pub struct AzureParts {
    /// Report of the paravisor (HCL).
    pub hcl: Vec<u8>,
    /// Certificate of the key that signed the hardware's report, DER.
    pub vcek: Vec<u8>,
    /// The virtual TPM's quote.
    pub quote: Quote,
}

impl Azure {
    /// Reads it.
    ///
    /// # Errors
    /// What isn't as the form has it.
    pub fn parse(json: &[u8]) -> Result<AzureParts, String> {
        match serde_json::from_slice(json).map_err(|e| e.to_string())? {
            Self::Lists(Lists { quote, report, vcek }) => Ok(AzureParts {
                hcl: report,
                vcek: constellation_attestation::x509::from_pem(vcek.as_bytes(), 8)
                    .map_err(|e| e.to_string())?
                    .into_iter()
                    .next()
                    .ok_or("there is no VCEK")?,
                quote: rsa_quote(quote.message, quote.signature, quote.pcrs),
            }),
            Self::Texts(Texts { version: 1 | 2, hcl_report, tpm_quote, vcek }) => {
                let pcrs = tpm_quote.pcrs.iter().map(|value| unhex("pcrs", value));
                Ok(AzureParts {
                    hcl: unbase64("hcl_report", &hcl_report)?,
                    vcek: unbase64("vcek", &vcek)?,
                    quote: rsa_quote(
                        unhex("message", &tpm_quote.message)?,
                        unhex("signature", &tpm_quote.signature)?,
                        pcrs.collect::<Result<_, String>>()?,
                    ),
                })
            }
            Self::Texts(Texts { version, .. }) => Err(format!("version {version} isn't known")),
        }
    }
}

/// The virtual TPM of Azure signs with PKCS #1 v1.5 and quotes all registers of the SHA-256 bank from 0.
fn rsa_quote(attest: Vec<u8>, signature: Vec<u8>, pcrs: Vec<Vec<u8>>) -> Quote {
    let pcrs = (0..=u8::MAX).zip(pcrs).collect();
    Quote { attest, signature: Signature::Rsassa(Hash::Sha256, signature), values: Values { bank: Hash::Sha256, pcrs } }
}

fn unhex(what: &str, digits: &str) -> Result<Vec<u8>, String> {
    hex::decode(digits).map_err(|e| format!("{what}: {e}"))
}

/// Both alphabets of RFC 4648, padded or not: attesters differ.
fn unbase64(what: &str, text: &str) -> Result<Vec<u8>, String> {
    let any = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['+', '/']) { alphabet::STANDARD } else { alphabet::URL_SAFE };
    GeneralPurpose::new(&alphabet, any).decode(text).map_err(|e| format!("{what}: {e}"))
}
