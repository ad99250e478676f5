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
pub mod tsm;

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use sha2::{Digest as _, Sha256, Sha384};
use tss_esapi::{
    Context, TctiNameConf,
    abstraction::{AsymmetricAlgorithmSelection, ek::retrieve_ek_pubcert},
    constants::SessionType,
    handles::{AuthHandle, KeyHandle, PcrHandle, SessionHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        key_bits::RsaKeyBits,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        AttestInfo, Data, Digest, DigestValues, EncryptedSecret, IdObject, Nonce, PcrSelectionList,
        PcrSelectionListBuilder, PcrSlot, SignatureScheme, SymmetricDefinition,
    },
    traits::Marshall as _,
};

use crate::{
    protocol::Evidence,
    session::{Attester, BoxError},
    tpm::Hash,
};

/// Where Linux shows the firmware's event log.
pub const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// An event log in base64 must fit into a frame beside the rest of the evidence.
const EVENT_LOG_MAX: usize = 700 * 1024;
/// A PCR that is extended between reading and quoting makes them differ; boot is over, so once is already rare.
const QUOTE_ATTEMPTS: usize = 5;
/// `TPML_DIGEST` holds eight digests, so that is what one `TPM2_PCR_Read` returns.
const PCRS_PER_READ: usize = 8;

const PCRS: [PcrSlot; 16] = [
    PcrSlot::Slot0,
    PcrSlot::Slot1,
    PcrSlot::Slot2,
    PcrSlot::Slot3,
    PcrSlot::Slot4,
    PcrSlot::Slot5,
    PcrSlot::Slot6,
    PcrSlot::Slot7,
    PcrSlot::Slot8,
    PcrSlot::Slot9,
    PcrSlot::Slot10,
    PcrSlot::Slot11,
    PcrSlot::Slot12,
    PcrSlot::Slot13,
    PcrSlot::Slot14,
    PcrSlot::Slot15,
];

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
        source: tss_esapi::Error,
    },
    /// The TPM answered with something that it wasn't asked for.
    #[error("the TPM's answer to {0} makes no sense")]
    Unexpected(&'static str),
}

/// Says what we were doing when the TPM failed.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for tss_esapi::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Tpm { doing, source })
    }
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
    context: Context,
    ek: KeyHandle,
    ek_public: Vec<u8>,
    ek_certificate: Option<Vec<u8>>,
    ak: KeyHandle,
    ak_public: Vec<u8>,
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
        let tcti = TctiNameConf::from_str(tcti).doing("reading the TPM's address")?;
        let mut context = Context::new(tcti).doing("connecting to the TPM")?;
        let (ek, ek_public) = keys::endorsement_key(&mut context)?;
        let (ak, ak_public) = match key {
            AttestationKey::Azure => keys::persistent(&mut context, azure::KEY)?,
            AttestationKey::Google => google::key(&mut context)?,
            AttestationKey::Aws | AttestationKey::Own => keys::attestation_key(&mut context)?,
        };
        let bank = match key {
            AttestationKey::Aws => Hash::Sha384,
            AttestationKey::Azure | AttestationKey::Google | AttestationKey::Own => Hash::Sha256,
        };
        Ok(Self {
            context,
            ek,
            ek_public,
            ek_certificate: None,
            ak,
            ak_public,
            bank,
            event_log: EVENT_LOG.into(),
            cloud: None,
        })
    }

    /// With a cloud that speaks for its key, instead of its maker.
    #[must_use]
    pub fn in_cloud(self, cloud: machine::Cloud) -> Self {
        Self { cloud: Some(cloud), ..self }
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
        let digest = |bytes: &[u8]| Digest::try_from(bytes).doing("extending PCR 15");
        let mut values = DigestValues::new();
        values.set(HashingAlgorithm::Sha256, digest(event)?);
        if self.bank == Hash::Sha384 {
            values.set(HashingAlgorithm::Sha384, digest(&Sha384::digest(event))?);
        }
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(PcrHandle::Pcr15, values))
            .doing("extending PCR 15")
    }

    /// Reads PCR 15 of the quoted bank.
    pub fn read_pcr15(&mut self) -> Result<Vec<u8>, Error> {
        self.read(&[PcrSlot::Slot15])
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
        if !keys::exists(&mut self.context, keys::EK_CERTIFICATE)? {
            return Err(Error::NoEkCertificate);
        }
        let rsa = AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048);
        let mut certificate =
            retrieve_ek_pubcert(&mut self.context, rsa).doing("reading the endorsement key's certificate")?;
        // Some makers define the index larger than the certificate.
        let padding = x509_parser::parse_x509_certificate(&certificate).map_err(|_| Error::NoEkCertificate)?.0.len();
        certificate.truncate(certificate.len() - padding);
        self.ek_certificate = Some(certificate.clone());
        Ok(certificate)
    }

    /// `TPM2B_PUBLIC` of the endorsement key.
    #[must_use]
    pub fn ek_public(&self) -> Vec<u8> {
        self.ek_public.clone()
    }

    /// `TPM2B_PUBLIC` of the attestation key.
    #[must_use]
    pub fn ak_public(&self) -> Vec<u8> {
        self.ak_public.clone()
    }

    /// Values of these PCRs, one after the other.
    fn read(&mut self, slots: &[PcrSlot]) -> Result<Vec<u8>, Error> {
        let length = slots.len() * self.bank.size();
        let mut values = Vec::with_capacity(length);
        for slots in slots.chunks(PCRS_PER_READ) {
            let selection = selection(self.bank, slots)?;
            let (_, read, digests) = self.context.pcr_read(selection.clone()).doing("reading PCRs")?;
            // A TPM without the bank answers with nothing and no error.
            if read != selection || digests.len() != slots.len() {
                return Err(Error::NoBank(self.bank));
            }
            for digest in digests.value() {
                values.extend_from_slice(digest);
            }
        }
        if values.len() == length { Ok(values) } else { Err(Error::NoBank(self.bank)) }
    }

    /// A quote of PCR 0 to 15 with `binding` as extra data, beside the very values it is about.
    fn quote(&mut self, binding: &[u8; 32]) -> Result<Quote, Error> {
        for _ in 0..QUOTE_ATTEMPTS {
            let values = self.read(&PCRS)?;
            let data = Data::try_from(binding.as_slice()).doing("quoting")?;
            let (selection, ak) = (selection(self.bank, &PCRS)?, self.ak);
            let (attest, signature) = self
                .context
                .execute_with_session(Some(AuthSession::Password), |context| {
                    context.quote(ak, data, SignatureScheme::Null, selection)
                })
                .doing("quoting")?;
            let AttestInfo::Quote { info } = attest.attested() else {
                return Err(Error::Unexpected("a quote"));
            };
            if info.pcr_digest().as_slice() == Sha256::digest(&values).as_slice() {
                return Ok(Quote {
                    attest: attest.marshall().doing("writing the quote")?,
                    signature: signature.marshall().doing("writing the quote")?,
                    pcrs: values,
                });
            }
        }
        Err(Error::PcrsChange)
    }

    /// `TPM2_ActivateCredential`: `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET` to the secret.
    fn open_credential(&mut self, credential: &[u8], secret: &[u8]) -> Result<Vec<u8>, Error> {
        let credential = IdObject::try_from(keys::unsized_exact(credential)?).doing("reading the credential")?;
        let secret = EncryptedSecret::try_from(keys::unsized_exact(secret)?).doing("reading the credential")?;
        let (ak, ek) = (self.ak, self.ek);
        let session = self
            .context
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .doing("starting a policy session")?
            .ok_or(Error::Unexpected("a new session"))?;
        let opened = match PolicySession::try_from(session) {
            Ok(policy) => self
                .context
                .execute_with_session(Some(AuthSession::Password), |context| {
                    // The policy of EK templates L-1 and L-2: PolicySecret of the endorsement hierarchy.
                    context.policy_secret(
                        policy,
                        AuthHandle::Endorsement,
                        Nonce::default(),
                        Digest::default(),
                        Nonce::default(),
                        None,
                    )
                })
                .and_then(|_| {
                    let sessions = (Some(AuthSession::Password), Some(session), None);
                    self.context.execute_with_sessions(sessions, |context| {
                        context.activate_credential(ak, ek, credential, secret)
                    })
                }),
            Err(error) => Err(error),
        };
        // The TPM has few sessions, so this one goes whatever happened.
        let flushed = self.context.flush_context(SessionHandle::from(session).into());
        let opened = opened.doing("opening the credential")?;
        flushed.doing("ending the policy session")?;
        Ok(opened.to_vec())
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

/// `TPMS_ATTEST`, `TPMT_SIGNATURE` and the PCRs' values.
struct Quote {
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: Vec<u8>,
}

fn selection(bank: Hash, slots: &[PcrSlot]) -> Result<PcrSelectionList, Error> {
    let bank = match bank {
        Hash::Sha256 => HashingAlgorithm::Sha256,
        Hash::Sha384 => HashingAlgorithm::Sha384,
    };
    PcrSelectionListBuilder::new().with_selection(bank, slots).build().doing("selecting PCRs")
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
