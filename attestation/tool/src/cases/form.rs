//! Evidence of clouds in the JSON that open-source attesters write. What an attester sent is judged and never an error
//! of the manifest, so whoever parses says which clause fails; what they add to their forms is passed over.

use std::fmt::Display;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use constellation_attestation::{
    azure, nitro, snp,
    tpm::{self, Hash, attest::Attest, clause, public::Key, quote::Values, signature::Signature},
    x509,
};
use serde::Deserialize;

use crate::strict::{Members, Object};

/// What is wrong with a part of the evidence.
#[derive(Debug)]
pub struct Fault {
    /// The clause that fails.
    pub clause: &'static str,
    /// In words.
    pub text: String,
}

impl Fault {
    /// Of this clause.
    pub fn of<E: Display>(clause: &'static str) -> impl Fn(E) -> Self {
        move |error| Self { clause, text: error.to_string() }
    }
}

/// A quote with the values it is of.
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// Signature over it.
    pub signature: Signature,
    /// Register values.
    pub values: Values,
}

impl Quote {
    /// Of its parts; with a part missing, what is wrong with each.
    fn of(
        attest: Result<Vec<u8>, Fault>,
        signature: Result<Signature, Fault>,
        values: Result<Values, Fault>,
    ) -> Result<Self, Vec<Fault>> {
        match (attest, signature, values) {
            (Ok(attest), Ok(signature), Ok(values)) => Ok(Self { attest, signature, values }),
            (attest, signature, values) => {
                let attest = attest.and_then(|bytes| Attest::parse(&bytes).map(drop).map_err(unreadable)).err();
                Err([attest, signature.err(), values.err()].into_iter().flatten().collect())
            }
        }
    }
}

/// The clause of a quote that can't be read, as the verifier names it.
fn unreadable(error: tpm::Error) -> Fault {
    let clause = match error {
        tpm::Error::Value { what: "magic", .. } => clause::MAGIC,
        tpm::Error::Value { what: "type", .. } => clause::TYPE,
        _ => clause::STRUCTURE,
    };
    Fault::of(clause)(error)
}

/// What a TPM with an ECC attestation key, and the cloud that vouches for it, said (form of `vaportpm`).
#[derive(Deserialize)]
pub struct Vapor {
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    pcrs: Members<Members<String>>,
    ak_pubkeys: Object<Keys<Point>>,
    attestation: Object<Attestation>,
}

#[derive(Deserialize)]
struct Keys<T> {
    ecc_p256: Object<T>,
}

#[derive(Deserialize)]
struct Point {
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Attestation {
    tpm: Object<Keys<Signed>>,
    gcp: Option<Object<Gcp>>,
    nitro: Option<Object<Nitro>>,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(default)]
    attest_data: String,
    #[serde(default)]
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
        serde_json::from_slice(json).map(|Object(sent)| sent).map_err(|e| e.to_string())
    }

    /// What was asked for, as the attester remembers it.
    ///
    /// # Errors
    /// When it isn't hex.
    pub fn nonce(&self) -> Result<Vec<u8>, Fault> {
        unhex(clause::NONCE, &self.nonce)
    }

    /// The attestation key.
    ///
    /// # Errors
    /// When it isn't a point.
    pub fn key(&self) -> Result<Key, String> {
        let Point { x, y } = &self.ak_pubkeys.0.ecc_p256.0;
        let half = |digits: &String| hex::decode(digits).map_err(|e| e.to_string());
        let point = [vec![4], half(x)?, half(y)?].concat();
        Key::point(&point).map_err(|e| e.to_string())
    }

    /// The quote.
    ///
    /// # Errors
    /// What is wrong with each part that can't be read.
    pub fn quote(&self) -> Result<Quote, Vec<Fault>> {
        let Signed { attest_data, signature } = &self.attestation.0.tpm.0.ecc_p256.0;
        let attest = unhex(clause::STRUCTURE, attest_data);
        let signature = unhex(clause::SIGNATURE, signature)
            .and_then(|der| Signature::parse_ecdsa_der(&der).map_err(Fault::of(clause::SIGNATURE)));
        let values = self.values(attest.as_deref().ok().and_then(|bytes| Attest::parse(bytes).ok()).as_ref());
        Quote::of(attest, signature, values)
    }

    /// Values of the bank that is quoted. A quote that can't be read is refused whatever stands beside it.
    fn values(&self, quoted: Option<&Attest>) -> Result<Values, Fault> {
        const BANKS: [(&str, Hash); 2] = [("sha384", Hash::Sha384), ("sha256", Hash::Sha256)];
        let refuse = |text: &str| Fault { clause: clause::SELECTION, text: text.to_owned() };
        let is_quoted = |bank: Hash| {
            quoted.is_none_or(|attest| attest.selections.first().is_some_and(|selection| selection.bank == bank.id()))
        };
        let mut shown = BANKS
            .iter()
            .filter(|(_, bank)| is_quoted(*bank))
            .filter_map(|(name, bank)| Some((*bank, self.pcrs.0.get(*name)?)));
        let (bank, values) = shown.next().ok_or_else(|| refuse("no values of a quoted bank that proves something"))?;
        let register = |(number, digits): (&String, &String)| {
            let parsed = number.parse::<u8>().ok().filter(|parsed| parsed.to_string() == *number);
            let register = parsed.ok_or_else(|| refuse(&format!("{number:?} isn't a register")))?;
            Ok((register, unhex(clause::DIGEST, digits)?))
        };
        Ok(Values { bank, pcrs: values.0.iter().map(register).collect::<Result<_, Fault>>()? })
    }

    /// The certificates of the key, PEM, from Google Cloud.
    #[must_use]
    pub fn chain(&self) -> Option<&str> {
        self.attestation.0.gcp.as_ref().map(|gcp| gcp.0.ak_cert_chain.as_str())
    }

    /// The document of AWS.
    ///
    /// # Errors
    /// When it isn't there, or isn't hex.
    pub fn document(&self) -> Result<Vec<u8>, Fault> {
        const CLAUSE: &str = nitro::clause::STRUCTURE;
        let nitro = self.attestation.0.nitro.as_ref().ok_or("there is no document").map_err(Fault::of(CLAUSE))?;
        unhex(CLAUSE, &nitro.0.document)
    }
}

/// What an Azure machine with SEV-SNP said (form of the Confidential Containers' attester), in parts: version 0 has byte
/// lists, 1 and 2 have text.
pub struct Azure {
    /// Report of the paravisor (HCL).
    pub hcl: Result<Vec<u8>, Fault>,
    /// Certificate of the key that signed the hardware's report, DER.
    pub vcek: Result<Vec<u8>, Fault>,
    /// The virtual TPM's quote.
    pub quote: Result<Quote, Vec<Fault>>,
}

#[derive(Deserialize)]
struct Version {
    version: Option<u32>,
}

#[derive(Deserialize)]
struct Lists {
    quote: Object<ListQuote>,
    report: Vec<u8>,
    vcek: String,
}

#[derive(Deserialize)]
struct ListQuote {
    message: Vec<u8>,
    #[serde(default)]
    pcrs: Vec<Vec<u8>>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Texts {
    hcl_report: String,
    tpm_quote: Object<TextQuote>,
    vcek: String,
}

#[derive(Deserialize)]
struct TextQuote {
    message: String,
    #[serde(default)]
    pcrs: Vec<String>,
    signature: String,
}

impl Azure {
    /// Reads it.
    ///
    /// # Errors
    /// What isn't as the form has it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        fn form<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
            serde_json::from_slice(json).map(|Object(form)| form).map_err(|e| e.to_string())
        }
        let Version { version } = form(json)?;
        match version {
            None | Some(0) => form(json).map(Lists::parts),
            Some(1 | 2) => form(json).map(Texts::parts),
            Some(version) => Err(format!("version {version} isn't known")),
        }
    }
}

impl Lists {
    fn parts(self) -> Azure {
        let Self { quote: Object(ListQuote { message, pcrs, signature }), report, vcek } = self;
        let refuse = Fault::of(snp::clause::VEK_STRUCTURE);
        let vcek = x509::from_pem(vcek.as_bytes(), 8).map_err(|e| refuse(e.to_string()));
        let vcek = vcek.and_then(|all| all.into_iter().next().ok_or_else(|| refuse("there is no VCEK".to_owned())));
        Azure { hcl: Ok(report), vcek, quote: rsa_quote(Ok(message), Ok(signature), pcrs.into_iter().map(Ok)) }
    }
}

impl Texts {
    fn parts(self) -> Azure {
        let Self { hcl_report, tpm_quote: Object(TextQuote { message, pcrs, signature }), vcek } = self;
        Azure {
            hcl: unbase64(azure::clause::STRUCTURE, &hcl_report),
            vcek: unbase64(snp::clause::VEK_STRUCTURE, &vcek),
            quote: rsa_quote(
                unhex(clause::STRUCTURE, &message),
                unhex(clause::SIGNATURE, &signature),
                pcrs.iter().map(|digits| unhex(clause::DIGEST, digits)),
            ),
        }
    }
}

/// The virtual TPM of Azure signs with PKCS #1 v1.5 and quotes all registers of the SHA-256 bank from 0.
fn rsa_quote(
    attest: Result<Vec<u8>, Fault>,
    signature: Result<Vec<u8>, Fault>,
    pcrs: impl Iterator<Item = Result<Vec<u8>, Fault>>,
) -> Result<Quote, Vec<Fault>> {
    let pcrs = (0..=u8::MAX).zip(pcrs).map(|(pcr, value)| Ok((pcr, value?))).collect::<Result<_, Fault>>();
    let values = pcrs.map(|pcrs| Values { bank: Hash::Sha256, pcrs });
    Quote::of(attest, signature.map(|bytes| Signature::Rsassa(Hash::Sha256, bytes)), values)
}

fn unhex(clause: &'static str, digits: &str) -> Result<Vec<u8>, Fault> {
    hex::decode(digits).map_err(Fault::of(clause))
}

/// Both alphabets of RFC 4648, padded or not: attesters differ.
fn unbase64(clause: &'static str, text: &str) -> Result<Vec<u8>, Fault> {
    let any = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['+', '/']) { alphabet::STANDARD } else { alphabet::URL_SAFE };
    GeneralPurpose::new(&alphabet, any).decode(text).map_err(Fault::of(clause))
}
