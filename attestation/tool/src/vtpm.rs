//! `verify` and `appraise` of a TPM's quote from files, on QEMU with a software TPM.
//!
//! In the order it happens: the attestation key signed the quote, of this nonce and of all registers that only a reset
//! sets back; somebody speaks for that key (the endorsement key's certificate leads to a CA that the caller names, and the
//! TPM of that key opened the credential for the attestation key), or the caller waives that by name; the firmware's log
//! replays; the boot is the one of an earlier quote; a set's registers are met.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use constellation_attestation::{
    appraise::QUOTED,
    bytes::Bytes,
    endorsement,
    policy::{LAUNCH_PCR, MeasurementSet},
    reference::Requirement,
    result::Checks,
    tpm::{
        Hash,
        attest::Attest,
        clause,
        clock::Clock,
        public::Public,
        quote::{self, Claim, Values},
        registers::Registers,
        replay,
        signature::Signature,
    },
};
use jiff::Timestamp;

use crate::{
    evidence::{Evidence, NOT_ASKED, needed},
    input::{self, Error},
    registers,
};

/// Files and values of a TPM's quote; the quote itself is `TPMS_ATTEST`.
#[derive(Args, Clone, Debug, Default)]
pub struct Tpm {
    /// TPM: signature of the quote (`TPMT_SIGNATURE`).
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// TPM: public area of the attestation key (`TPM2B_PUBLIC` or `TPMT_PUBLIC`).
    #[arg(long, value_name = "FILE")]
    ak: Option<PathBuf>,
    /// TPM: register values of the SHA-256 bank, one after the other; or FILE#KEY, JSON as for explain-eventlog. The quote
    /// must cover exactly registers 0 to 15.
    #[arg(long, value_name = "FILE[#KEY]")]
    pcrs: Option<String>,
    /// TPM: registers whose values the file of --pcrs holds, ascending. Those above 15 aren't looked at. Default: 0 to 15.
    #[arg(long, value_name = "NUMBER,...", value_delimiter = ',')]
    pcr_order: Vec<u8>,
    /// TPM: the firmware's event log, which must replay to registers 0 to 7.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// TPM: an earlier quote (`TPMS_ATTEST`), verified then: the TPM must not have been reset since.
    #[arg(long, value_name = "FILE")]
    earlier_quote: Option<PathBuf>,
    /// TPM: public area of the endorsement key.
    #[arg(long, value_name = "FILE")]
    ek: Option<PathBuf>,
    /// TPM: certificate of the endorsement key, DER or PEM. Its issuer must stand in --root (PEM), or in the policy.
    #[arg(long, value_name = "FILE")]
    ek_certificate: Option<PathBuf>,
    /// TPM: the secret that was sealed to the endorsement key for the attestation key (`TPM2_MakeCredential`).
    #[arg(long, value_name = "FILE")]
    credential_secret: Option<PathBuf>,
    /// TPM: what the TPM gave for it (`TPM2_ActivateCredential`).
    #[arg(long, value_name = "FILE")]
    activated: Option<PathBuf>,
    /// TPM, appraise: value that PCR 15 must have, hex: the node's launch configuration.
    #[arg(long, value_name = "HEX")]
    launch_register: Option<String>,
    /// TPM: accept the quote without this clause; it stands in the output as waived.
    #[arg(long, value_name = "CLAUSE")]
    waive: Vec<Waivable>,
}

/// A clause about who speaks for a quote, that can't be proven from every recording.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Waivable {
    /// That the TPM of the endorsement key has the attestation key.
    #[value(name = clause::AK_CREDENTIAL)]
    Credential,
    /// That a CA speaks for the endorsement key.
    #[value(name = clause::EK_CERTIFICATE)]
    Certificate,
    /// What PCR 15 must be.
    #[value(name = "tpm.pcr.15")]
    LaunchRegister,
}

/// Bytes of a sealed secret: at most a digest (TPM 2.0 Part 1, 24.3), and none that could be guessed.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// Why a clause is waived that the caller names.
const WAIVED: &str = "waived on the command line";

impl Tpm {
    /// An option that only a TPM's evidence has, if one is given.
    #[must_use]
    pub fn stray(&self) -> Option<&'static str> {
        let files = [
            ("--signature", &self.signature),
            ("--ak", &self.ak),
            ("--log", &self.log),
            ("--earlier-quote", &self.earlier_quote),
            ("--ek", &self.ek),
            ("--ek-certificate", &self.ek_certificate),
            ("--credential-secret", &self.credential_secret),
            ("--activated", &self.activated),
        ];
        let values = [
            ("--pcrs", self.pcrs.is_some()),
            ("--pcr-order", !self.pcr_order.is_empty()),
            ("--launch-register", self.launch_register.is_some()),
            ("--waive", !self.waive.is_empty()),
        ];
        let files = files.into_iter().map(|(option, file)| (option, file.is_some()));
        files.chain(values).find(|(_, given)| *given).map(|(option, _)| option)
    }

    /// Refuses what nothing would look at, because the clause that it is for is waived.
    fn refuse_unseen(&self, root: bool, appraised: bool) -> Result<(), Error> {
        if !appraised && (self.launch_register.is_some() || self.waives(Waivable::LaunchRegister)) {
            return Err(Error::said("tpm.pcr.15", "verify asks nothing of it: take --launch-register and --waive out"));
        }
        if appraised && root {
            return Err(Error::said("--root", "the policy says who may speak for a TPM: take it out"));
        }
        let same = self.credential_secret.as_ref().zip(self.activated.as_ref());
        if same.is_some_and(|(secret, activated)| {
            std::fs::canonicalize(secret).ok() == std::fs::canonicalize(activated).ok()
        }) {
            return Err(Error::said(
                "--activated",
                "it is the file of the secret itself: the TPM's own answer is wanted",
            ));
        }
        let given = [
            ("--ek", self.ek.is_some(), Waivable::Certificate),
            ("--ek-certificate", self.ek_certificate.is_some(), Waivable::Certificate),
            ("--root", root, Waivable::Certificate),
            ("--credential-secret", self.credential_secret.is_some(), Waivable::Credential),
            ("--activated", self.activated.is_some(), Waivable::Credential),
            ("--launch-register", self.launch_register.is_some(), Waivable::LaunchRegister),
        ];
        match given.into_iter().find(|(_, given, clause)| *given && self.waives(*clause)) {
            Some((option, ..)) => Err(Error::said(option, "its clause is waived: take one of both out")),
            None => Ok(()),
        }
    }

    fn waives(&self, clause: Waivable) -> bool {
        self.waive.contains(&clause)
    }
}

/// Evaluates a quote; `roots` are the CAs of endorsement keys that a policy names.
///
/// # Errors
/// When a file can't be read, or one is missing that there is no verdict without.
pub fn evaluate(evidence: &Evidence, set: Option<&MeasurementSet>, roots: &[String]) -> Result<Checks, Error> {
    let tpm = &evidence.tpm;
    tpm.refuse_unseen(evidence.root.is_some(), set.is_some())?;
    let mut checks = Checks::default();
    let values = values(tpm)?;
    let quoted = quote(evidence, values.as_ref(), set.is_some(), &mut checks)?;
    endorsed(evidence, roots, &mut checks)?;
    let log = tpm.log.as_deref().map(input::read).transpose()?;
    let log =
        log.zip(values.as_ref()).and_then(|(log, values)| replay::check(&log, &values.of_firmware(), &mut checks));
    if let Some(earlier) = &tpm.earlier_quote {
        let named = |e| Error::value(earlier.display().to_string(), &e);
        let earlier = Attest::parse(&input::read(earlier)?).map_err(named)?;
        if let Some(quoted) = &quoted {
            Clock::from(&earlier).check_same_boot(&Clock::from(quoted), &mut checks);
        }
    }
    if let (Some(values), Some(_)) = (&values, &quoted) {
        wanted(tpm, set)?.appraise(values, log.as_ref(), &mut checks);
    }
    Ok(checks)
}

/// The quote, if every clause of it holds.
fn quote(
    evidence: &Evidence,
    values: Option<&Values>,
    fresh: bool,
    checks: &mut Checks,
) -> Result<Option<Attest>, Error> {
    let tpm = &evidence.tpm;
    let attest = input::read(needed(evidence.quote.as_ref(), "--quote")?)?;
    let signature = Signature::parse(&input::read(needed(tpm.signature.as_ref(), "--signature")?)?);
    let ak = public(needed(tpm.ak.as_ref(), "--ak")?)?;
    let nonce = match &evidence.nonce {
        Some(digits) => Requirement::Exact(Bytes(input::hex("--nonce", digits)?)),
        None if fresh => Requirement::AnyOf(Vec::new()),
        None => Requirement::Waived { reason: NOT_ASKED.to_owned() },
    };
    if let Err(error) = &ak {
        checks.fails(clause::AK_ATTRIBUTES, &format!("the attestation key can't be read: {error}"));
    }
    if let Err(error) = &signature {
        checks.fails(clause::SIGNATURE, &format!("the signature can't be read: {error}"));
    }
    let (Ok(ak), Ok(signature)) = (ak, signature) else { return Ok(None) };
    let restricted = quote::check_attributes(&ak, checks);
    // Values that aren't there can't be the quoted ones, whatever was selected.
    let absent = Values { bank: Hash::Sha256, pcrs: QUOTED.into_iter().map(|pcr| (pcr, Vec::new())).collect() };
    let values = values.unwrap_or(&absent);
    let claim = Claim { attest: &attest, signature: &signature, key: &ak.key, values, nonce: &nonce };
    Ok(quote::check(&claim, checks).filter(|_| restricted))
}

/// Values of exactly the registers that must be quoted, if the file holds them.
fn values(tpm: &Tpm) -> Result<Option<Values>, Error> {
    let reference = needed(tpm.pcrs.as_ref(), "--pcrs")?;
    let shown = if reference.contains('#') {
        if !tpm.pcr_order.is_empty() {
            return Err(Error::said("--pcr-order", "the file of --pcrs names its registers itself"));
        }
        registers::read(Path::new(""), reference)?.of(Hash::Sha256).cloned()
    } else {
        let order = if tpm.pcr_order.is_empty() { &QUOTED[..] } else { &tpm.pcr_order };
        Values::cut(Hash::Sha256, order, &input::read(Path::new(reference))?)
    };
    Ok(shown
        .map(|Values { bank, mut pcrs }| {
            pcrs.retain(|pcr, _| QUOTED.contains(pcr));
            Values { bank, pcrs }
        })
        .filter(|values| values.bank == Hash::Sha256 && values.pcrs.len() == QUOTED.len()))
}

/// Who speaks for the attestation key.
fn endorsed(evidence: &Evidence, roots: &[String], checks: &mut Checks) -> Result<(), Error> {
    let tpm = &evidence.tpm;
    let root = evidence.root.as_deref().map(input::text).transpose()?;
    let roots = root.map_or_else(|| roots.to_vec(), |root| vec![root]);
    if tpm.waives(Waivable::Certificate) {
        checks.waived(clause::EK_CERTIFICATE, WAIVED);
    } else if let (Some(ek), Some(certificate)) = (&tpm.ek, &tpm.ek_certificate) {
        let certificate = input::shown_certificate(certificate)?;
        let now = evidence.now.unwrap_or_else(Timestamp::now);
        let verified = match public(ek)? {
            Ok(ek) => endorsement::verify(&certificate, &ek, &roots, now).map_err(|e| e.to_string()),
            Err(error) => Err(format!("the endorsement key can't be read: {error}")),
        };
        let message = verified.as_ref().err().map_or("a CA that was named issued it", String::as_str);
        checks.check(clause::EK_CERTIFICATE, verified.is_ok(), None, None, message);
    } else {
        checks.fails(clause::EK_CERTIFICATE, "nobody speaks for the TPM: give --ek, --ek-certificate and --root");
    }
    if tpm.waives(Waivable::Credential) {
        checks.waived(clause::AK_CREDENTIAL, WAIVED);
    } else if let (Some(secret), Some(activated)) = (&tpm.credential_secret, &tpm.activated) {
        let (secret, activated) = (input::read(secret)?, input::read(activated)?);
        let opened = SECRET_BYTES.contains(&secret.len()) && secret == activated;
        let message = "the TPM gave back, as the caller says, what was sealed for the attestation key";
        checks.check(clause::AK_CREDENTIAL, opened, None, None, message);
    } else {
        let message = "nothing ties the attestation key to the TPM: give --credential-secret and --activated";
        checks.fails(clause::AK_CREDENTIAL, message);
    }
    Ok(())
}

/// What the registers must be.
fn wanted(tpm: &Tpm, set: Option<&MeasurementSet>) -> Result<Registers, Error> {
    let Some(set) = set else { return Ok(Registers::waived(NOT_ASKED)) };
    let launch = match &tpm.launch_register {
        Some(digits) => Requirement::Exact(hex::encode(input::hex("--launch-register", digits)?)),
        None if tpm.waives(Waivable::LaunchRegister) => Requirement::Waived { reason: WAIVED.to_owned() },
        None => Requirement::AnyOf(Vec::new()),
    };
    let named = set.pcrs.iter().map(|(pcr, values)| (*pcr, Requirement::AnyOf(values.clone())));
    Ok(Registers(named.chain([(LAUNCH_PCR, launch)]).collect()))
}

/// A public area, in the form that is sent or in the one that is stored.
fn public(path: &Path) -> Result<Result<Public, String>, Error> {
    let bytes = input::read(path)?;
    let sized = || Some([&u16::try_from(bytes.len()).ok()?.to_be_bytes(), bytes.as_slice()].concat());
    Ok(Public::parse(&bytes)
        .or_else(|error| sized().and_then(|area| Public::parse(&area).ok()).ok_or_else(|| error.to_string())))
}
