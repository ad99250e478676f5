//! The guest's TPM: its keys, PCR 15, and evidence. Calls block, for a TPM is slow.
//!
//! The endorsement key is the one the TPM's maker certified; the attestation key is a primary key in the same
//! hierarchy, made from a fixed template, so that a TPM has the same one after each reboot. Nothing secret is kept.
//! In a cloud it is the key that the cloud vouches for ([`AttestationKey`]).
//!
//! [`machine`] puts together what a machine of a cloud shows: the processor's report ([`tsm`], [`sev_guest`]), the TPM's
//! quote, and what speaks for its key ([`azure`], [`google`], [`nitro`]), each naming the other.

pub mod azure;
pub mod google;
mod keys;
pub mod machine;
pub mod nitro;
mod nv;
pub mod report;
pub mod sev_guest;
pub mod transport;
pub mod tsm;

use std::{
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256, Sha384};

use self::{
    keys::Key,
    transport::{Answered, Wire},
};
use crate::{
    guest::{
        commands::{self, PCRS_PER_READ},
        wire::{Command, unsized_exact},
    },
    protocol::Evidence,
    session::{Attester, BoxError},
    tpm::{Hash, attest::Attest},
};

/// Where Linux shows the firmware's event log.
pub const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// An event log in base64 must fit into a frame beside the rest of the evidence.
const EVENT_LOG_MAX: usize = 700 * 1024;
/// A PCR that is extended between reading and quoting makes them differ; boot is over, so once is already rare.
const QUOTE_ATTEMPTS: usize = 5;
/// The registers that are quoted.
const PCRS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// The one that says who the machine is.
const PCR_15: u32 = 15;

/// Why the TPM didn't do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event log is there and can't be read.
    #[error("reading the event log at {path} failed")]
    EventLog {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The event log doesn't fit into a message.
    #[error("the event log has {0} bytes, more than {EVENT_LOG_MAX}")]
    EventLogTooLong(usize),
    /// NV index 0x01c00002 holds no certificate.
    #[error("the TPM holds no certificate for its endorsement key")]
    NoEkCertificate,
    /// There is no such NV index.
    #[error("the TPM has no NV index {0:#010x}")]
    NoIndex(u32),
    /// The bank isn't complete.
    #[error("the TPM has no {0:?} bank of PCRs")]
    NoBank(Hash),
    /// The PCRs kept changing.
    #[error("the PCRs changed during each of {QUOTE_ATTEMPTS} quotes")]
    PcrsChange,
    /// A TPM command failed.
    #[error("{doing} failed")]
    Tpm {
        /// What we were doing.
        doing: &'static str,
        /// What the TPM said.
        #[source]
        source: transport::Error,
    },
    /// The TPM answered with something that it wasn't asked for.
    #[error("the TPM's answer to {0} makes no sense")]
    Unexpected(&'static str),
}

/// Says what we were doing when the TPM failed.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<transport::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Tpm { doing, source: error.into() })
    }
}

fn send(wire: &mut dyn Wire, doing: &'static str, command: &Command) -> Result<Answered, Error> {
    transport::send(wire, command).doing(doing)
}

/// Which key quotes, and of which bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestationKey {
    /// One of our own, which AWS's document names; it quotes the SHA-384 bank, as the document does.
    Aws,
    /// The one that Azure's paravisor made and speaks for.
    Azure,
    /// The one that Google certified.
    Google,
    /// One of our own, which [`Attester::activate`] shows to lie beside the endorsed one.
    Own,
}

/// A connection to one TPM with its two keys. Keys that were made here are flushed when it is dropped.
pub struct Tpm {
    wire: Box<dyn Wire + Send>,
    ek: Key,
    ek_certificate: Option<Vec<u8>>,
    ak: Key,
    bank: Hash,
    event_log: PathBuf,
    cloud: Option<machine::Cloud>,
}

impl Tpm {
    /// Connects, for example to `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`, and finds or makes the keys.
    pub fn open(tcti: &str) -> Result<Self, Error> {
        Self::open_with(tcti, AttestationKey::Own)
    }

    /// The same, with this key to quote.
    pub fn open_with(tcti: &str, key: AttestationKey) -> Result<Self, Error> {
        let mut wire = transport::open(tcti).doing("connecting to the TPM")?;
        let ek = keys::endorsement_key(&mut *wire)?;
        let ak = match key {
            AttestationKey::Azure => keys::persistent(&mut *wire, azure::KEY),
            AttestationKey::Google => google::key(&mut *wire),
            AttestationKey::Aws | AttestationKey::Own => keys::attestation_key(&mut *wire),
        };
        let ak = ak.inspect_err(|_| ek.flush(&mut *wire))?;
        let bank = match key {
            AttestationKey::Aws => Hash::Sha384,
            AttestationKey::Azure | AttestationKey::Google | AttestationKey::Own => Hash::Sha256,
        };
        Ok(Self { wire, ek, ek_certificate: None, ak, bank, event_log: EVENT_LOG.into(), cloud: None })
    }

    /// With a cloud that speaks for its key, instead of its maker.
    #[must_use]
    pub fn in_cloud(mut self, cloud: machine::Cloud) -> Self {
        self.cloud = Some(cloud);
        self
    }

    /// Takes the event log from elsewhere than [`EVENT_LOG`].
    pub fn set_event_log(&mut self, path: impl Into<PathBuf>) {
        self.event_log = path.into();
    }

    /// The bank that is quoted.
    #[must_use]
    pub const fn bank(&self) -> Hash {
        self.bank
    }

    /// Extends PCR 15 of the SHA-256 bank, and of the quoted bank where that is another one: as
    /// [`LaunchRegister::extended`](crate::appraise::LaunchRegister::extended) says.
    pub fn extend_pcr15(&mut self, event: &[u8; 32]) -> Result<(), Error> {
        let wide = Sha384::digest(event);
        let mut digests = vec![(Hash::Sha256, event.as_slice())];
        if self.bank == Hash::Sha384 {
            digests.push((Hash::Sha384, &wide));
        }
        send(&mut *self.wire, "extending PCR 15", &commands::extend(PCR_15, &digests)).map(|_| ())
    }

    /// Reads PCR 15 of the quoted bank.
    pub fn read_pcr15(&mut self) -> Result<Vec<u8>, Error> {
        self.read(&PCRS[15..])
    }

    /// What endorses the attestation key: the endorsement key's certificate and `TPM2B_PUBLIC`; both are empty where a
    /// cloud speaks for it.
    pub fn endorsement(&mut self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        if self.cloud.is_some() {
            return Ok((Vec::new(), Vec::new()));
        }
        Ok((self.ek_certificate()?, self.ek_public()))
    }

    /// The certificate of the endorsement key, DER.
    pub fn ek_certificate(&mut self) -> Result<Vec<u8>, Error> {
        if let Some(certificate) = &self.ek_certificate {
            return Ok(certificate.clone());
        }
        let mut certificate = match self.read_nv(keys::EK_CERTIFICATE) {
            Err(Error::NoIndex(_)) => return Err(Error::NoEkCertificate),
            read => read?,
        };
        unpad(&mut certificate).ok_or(Error::NoEkCertificate)?;
        self.ek_certificate = Some(certificate.clone());
        Ok(certificate)
    }

    /// `TPM2B_PUBLIC` of the endorsement key.
    #[must_use]
    pub fn ek_public(&self) -> Vec<u8> {
        self.ek.public.clone()
    }

    /// `TPM2B_PUBLIC` of the attestation key.
    #[must_use]
    pub fn ak_public(&self) -> Vec<u8> {
        self.ak.public.clone()
    }

    /// Values of these PCRs, one after the other.
    fn read(&mut self, pcrs: &[u8]) -> Result<Vec<u8>, Error> {
        const DOING: &str = "reading PCRs";
        let mut values = Vec::with_capacity(pcrs.len() * self.bank.size());
        for some in pcrs.chunks(PCRS_PER_READ) {
            let read = send(&mut *self.wire, DOING, &commands::read_registers(self.bank, some))?;
            let read = commands::registers(&read.parameters, self.bank, some).doing(DOING)?;
            values.extend(read.ok_or(Error::NoBank(self.bank))?);
        }
        Ok(values)
    }

    /// A quote of PCR 0 to 15 with `binding` as extra data, beside the very values it is about.
    fn quote(&mut self, binding: &[u8; 32]) -> Result<Quote, Error> {
        for _ in 0..QUOTE_ATTEMPTS {
            let values = self.read(&PCRS)?;
            let quote = commands::quote(self.ak.handle, binding, self.bank, &PCRS);
            let quoted = send(&mut *self.wire, "quoting", &quote)?;
            let (attest, signature) = commands::quoted(&quoted.parameters).doing("quoting")?;
            let said = Attest::parse(&attest).map_err(|_| Error::Unexpected("a quote"))?;
            if said.pcr_digest == Sha256::digest(&values).as_slice() {
                return Ok(Quote { attest, signature, pcrs: values });
            }
        }
        Err(Error::PcrsChange)
    }

    /// `TPM2_ActivateCredential`: `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET` to the secret.
    fn open_credential(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, Error> {
        const DOING: &str = "opening the credential";
        let (wire, ak, ek) = (&mut *self.wire, self.ak.handle, self.ek.handle);
        let session = send(wire, "starting a policy session", &commands::start_policy())?.handle;
        // The policy of EK templates L-1 and L-2: PolicySecret of the endorsement hierarchy.
        let opened = send(wire, DOING, &commands::policy_secret(session)).and_then(|_| {
            let activate = commands::activate_credential(ak, ek, session, credential, secret).doing(DOING)?;
            let opened = send(wire, DOING, &activate)?;
            Ok(unsized_exact(&opened.parameters).doing(DOING)?.to_vec())
        });
        // The TPM has few sessions, so this one goes whatever happened.
        let flushed = send(wire, "ending the policy session", &commands::flush(session));
        let opened = opened?;
        flushed?;
        Ok(opened)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.ak.flush(&mut *self.wire);
        self.ek.flush(&mut *self.wire);
    }
}

impl Attester for Tpm {
    fn activate(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.open_credential(credential, secret)?)
    }

    fn evidence(&mut self, binding: &[u8; 32], activated: Vec<u8>) -> Result<Evidence, BoxError> {
        let event_log = read_event_log(&self.event_log)?;
        let Some(mut cloud) = self.cloud.take() else {
            let Quote { attest, signature, pcrs } = self.quote(binding)?;
            return Ok(Evidence { quote: attest, signature, pcrs, event_log, activated, machine: None });
        };
        let shown = machine::show(self, &mut cloud, binding);
        self.cloud = Some(cloud);
        let (machine::Quoted { attest, signature, pcrs, .. }, machine) = shown?;
        Ok(Evidence { quote: attest, signature, pcrs, event_log, activated, machine: Some(machine) })
    }
}

/// Cuts off what follows a certificate: some makers define its index larger. Nothing where there is none.
fn unpad(certificate: &mut Vec<u8>) -> Option<()> {
    let padding = x509_parser::parse_x509_certificate(certificate).ok()?.0.len();
    certificate.truncate(certificate.len() - padding);
    Some(())
}

/// `TPMS_ATTEST`, `TPMT_SIGNATURE` and the PCRs' values.
struct Quote {
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: Vec<u8>,
}

/// No file means no log, as on a firmware without one; anything else that goes wrong is an error.
fn read_event_log(path: &Path) -> Result<Vec<u8>, Error> {
    match std::fs::read(path) {
        Ok(log) if log.len() > EVENT_LOG_MAX => Err(Error::EventLogTooLong(log.len())),
        Ok(log) => Ok(log),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::EventLog { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_event_log_is_empty_and_an_unreadable_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_event_log(&folder.path().join("none")).unwrap(), Vec::<u8>::new());
        assert!(matches!(read_event_log(folder.path()), Err(Error::EventLog { .. })));
    }

    #[test]
    fn an_event_log_that_fits_no_message_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(EVENT_LOG_MAX as u64 + 1).unwrap();
        assert!(matches!(read_event_log(file.path()), Err(Error::EventLogTooLong(_))));
    }
}
