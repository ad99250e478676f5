//! What a machine of a cloud shows in one conversation: two pieces, each of which names the other
//! ([`machine`](crate::machine)), and what endorses them. Nothing of it is judged here.

use super::{
    Error as TpmError, Tpm,
    nitro::{self, NitroTpm},
    report::{self, Attested, Provider, Reporter},
    transport::Wire,
};
use crate::{
    azure::hcl::{self, Kind},
    guest::{nsm::Request, thim::Certificates},
    machine::{quote_nonce, report_data, tpm_nonce},
    protocol::machine::{self as protocol, Machine, Report},
    tpm::public::Public,
};

/// An error of a service, whatever it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The paravisor's report can't be read.
    #[error("the paravisor's report: {0}")]
    Hcl(#[from] hcl::Error),
    /// The TPM's attestation key has another form.
    #[error("the TPM's attestation key isn't one")]
    Key,
    /// No document of AWS.
    #[error("the NitroTPM gave no document")]
    Nitro(#[from] nitro::Error),
    /// No report of the processor.
    #[error("the processor gave no report")]
    Report(#[from] report::Error),
    /// The cloud's service didn't help.
    #[error("{0} failed")]
    Service(&'static str, #[source] BoxError),
    /// The TPM failed.
    #[error("the TPM failed")]
    Tpm(#[from] TpmError),
}

/// A quote of the TPM, and the values that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// `TPM2B_PUBLIC` of the key.
    pub key: Vec<u8>,
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// Values of PCR 0 to 15 of the TPM's bank.
    pub pcrs: Vec<u8>,
}

/// A machine of Google Cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Google {
    /// Google's certificate for the TPM's key, DER.
    pub certificate: Vec<u8>,
    /// The quote, about the conversation and the report.
    pub quote: Quoted,
    /// The processor's report, about the conversation and the key; none where memory is only encrypted (SEV-ES).
    pub report: Option<Attested>,
}

/// A machine of Azure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Azure {
    /// The paravisor's report, about the conversation and the key.
    pub hcl: Vec<u8>,
    /// What endorses the processor's report in it.
    pub endorsement: Endorsement,
    /// The quote, about the conversation and the paravisor's report.
    pub quote: Quoted,
}

/// What Azure's services add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endorsement {
    /// Certificates of a SEV-SNP report.
    Snp(Certificates),
    /// The quote that was made from a TDX report.
    Tdx(Vec<u8>),
}

/// A machine of EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aws {
    /// AWS's document, about the conversation, the key and the report.
    pub document: Vec<u8>,
    /// The quote, about the same.
    pub quote: Quoted,
    /// The SEV-SNP report, about the conversation and the key; none on machines without.
    pub report: Option<Attested>,
}

/// Azure's services for its guests. Calls block.
pub trait Service {
    /// Certificates of this machine's processor.
    fn certificates(&mut self) -> Result<Certificates, BoxError>;
    /// A quote of a TDX report.
    fn quote(&mut self, report: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// Who speaks for a machine's TPM, and what has to be asked for that.
pub enum Cloud {
    /// AWS, by the TPM's vendor command; the SEV-SNP processor, if it reports.
    Aws {
        /// The way to the TPM itself, see [`nitro::DEVICE`].
        wire: Box<dyn Wire + Send>,
        /// The processor.
        reporter: Option<Box<dyn Reporter>>,
    },
    /// Azure's paravisor, and the services that endorse the processor's report.
    Azure(Box<dyn Service + Send>),
    /// Google, by a certificate; the processor, if it reports.
    Google(Option<Box<dyn Reporter>>),
}

/// What the machine shows in one conversation, in the form of our protocol.
///
/// # Errors
/// As [`google`].
pub fn show(tpm: &mut Tpm, cloud: &mut Cloud, binding: &[u8; 32]) -> Result<(Quoted, Machine), Error> {
    fn some(reporter: &mut Option<Box<dyn Reporter>>) -> Option<&mut (dyn Reporter + '_)> {
        reporter.as_mut().map(|reporter| &mut **reporter as &mut (dyn Reporter + '_))
    }
    Ok(match cloud {
        Cloud::Aws { wire, reporter } => {
            let mut nitro = NitroTpm::new(&mut **wire);
            let Aws { document, quote, report } = aws(tpm, &mut nitro, some(reporter), binding)?;
            (quote, Machine::Aws { document, report: report.map(Report::from) })
        }
        Cloud::Azure(service) => {
            let Azure { hcl, endorsement, quote } = azure(tpm, &mut **service, binding)?;
            let endorsement = match endorsement {
                Endorsement::Snp(Certificates { vcek, ask }) => {
                    protocol::Endorsement::Snp { vek: vcek, intermediate: ask }
                }
                Endorsement::Tdx(quote) => protocol::Endorsement::Tdx { quote },
            };
            (quote, Machine::Azure { report: hcl, endorsement })
        }
        Cloud::Google(reporter) => {
            let Google { certificate, quote, report } = google(tpm, some(reporter), binding)?;
            (quote, Machine::Google { certificates: vec![certificate], report: report.map(Report::from) })
        }
    })
}

impl From<Attested> for Report {
    fn from(Attested { provider, report, certificates }: Attested) -> Self {
        match provider {
            Provider::Snp => Self::Snp { report, certificates },
            Provider::Tdx => Self::Tdx { quote: report, event_log: Vec::new() },
        }
    }
}

/// A machine of Google Cloud, of which the TPM was opened with Google's key.
///
/// # Errors
/// When either piece can't be had: one alone proves nothing.
pub fn google(tpm: &mut Tpm, reporter: Option<&mut (dyn Reporter + '_)>, binding: &[u8; 32]) -> Result<Google, Error> {
    let report = attested(tpm, reporter, binding)?;
    let certificate = tpm.google_certificate()?;
    let quote = quoted(tpm, &nonce(binding, report.as_ref()))?;
    Ok(Google { certificate, quote, report })
}

/// A machine of Azure, of which the TPM was opened with the paravisor's key.
///
/// # Errors
/// As [`google`].
pub fn azure(tpm: &mut Tpm, service: &mut dyn Service, binding: &[u8; 32]) -> Result<Azure, Error> {
    let hcl = tpm.paravisor_report(&report_data(binding, &key(tpm)?))?;
    let parsed = hcl::Report::parse(&hcl)?;
    let endorsement = match parsed.kind {
        Kind::Snp => {
            Endorsement::Snp(service.certificates().map_err(|e| Error::Service("asking for certificates", e))?)
        }
        Kind::Tdx => {
            let quote = service.quote(parsed.hardware).map_err(|e| Error::Service("asking for a quote", e))?;
            Endorsement::Tdx(quote)
        }
    };
    let quote = quoted(tpm, &tpm_nonce(binding, &hcl))?;
    Ok(Azure { hcl, endorsement, quote })
}

/// A machine of EC2, of which the TPM was opened with a key of ours.
///
/// # Errors
/// As [`google`].
pub fn aws<W: Wire>(
    tpm: &mut Tpm,
    nitro: &mut NitroTpm<W>,
    reporter: Option<&mut (dyn Reporter + '_)>,
    binding: &[u8; 32],
) -> Result<Aws, Error> {
    let report = attested(tpm, reporter, binding)?;
    let (nonce, key) = (nonce(binding, report.as_ref()), key(tpm)?);
    let quote = quoted(tpm, &nonce)?;
    let request = Request { user_data: None, nonce: Some(&nonce), public_key: Some(&key) };
    let document = nitro.document(&request)?;
    Ok(Aws { document, quote, report })
}

/// What the TPM attests to: the report, or the conversation alone where there is none.
#[must_use]
pub fn nonce(binding: &[u8; 32], report: Option<&Attested>) -> [u8; 32] {
    quote_nonce(binding, report.map(|report| report.report.as_slice()))
}

fn attested(
    tpm: &mut Tpm,
    reporter: Option<&mut (dyn Reporter + '_)>,
    binding: &[u8; 32],
) -> Result<Option<Attested>, Error> {
    let data = report_data(binding, &key(tpm)?);
    Ok(reporter.map(|reporter| reporter.attest(&data)).transpose()?)
}

fn key(tpm: &Tpm) -> Result<Vec<u8>, Error> {
    Public::parse(&tpm.ak_public()).map(|public| public.key.to_bytes()).map_err(|_| Error::Key)
}

fn quoted(tpm: &mut Tpm, nonce: &[u8; 32]) -> Result<Quoted, Error> {
    let quote = tpm.quote(nonce)?;
    Ok(Quoted { key: tpm.ak_public(), attest: quote.attest, signature: quote.signature, pcrs: quote.pcrs })
}
