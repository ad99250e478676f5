//! Whether the key of a TPM is of a machine that Google names, and whether that is the wanted machine in the wanted state.

use jiff::Timestamp;
use x509_parser::{certificate::X509Certificate, oid_registry::Oid};

use super::{
    clause,
    instance::{self, Machine},
    policy::{Policy, Technology},
};
use crate::{
    bytes::Hex,
    machine,
    result::Checks,
    tpm::{
        attest::Attest,
        eventlog::{EV_NONHOST_INFO, EventLog},
        public::Key,
        quote::{self, Claim},
        replay::{self, is_separator},
    },
    verified::Verified,
    x509::{
        self, Algorithm,
        chain::{Anchors, Chain},
    },
};

/// What Google signs its certificates with.
const ALLOWED: &[Algorithm] = &Algorithm::COMMON;
/// Starts the event's data; one byte of technology and 15 reserved ones follow.
const NONHOST_INFO: &[u8] = b"GCE NonHostInfo\0";

pub use crate::tpm::quote::Certified as Evidence;

/// The key of a TPM, and the machine that Google says it is of.
#[derive(Clone, Debug)]
pub struct Tpm {
    /// The attestation key.
    pub key: Key,
    /// The machine.
    pub machine: Machine,
}

/// Verifies the certificate of an attestation key at a time. Looks at every clause it can get to, whatever the ones
/// before said; the TPM comes out only if all of them hold.
pub fn verify(chain: &[Vec<u8>], anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Verified<Tpm>> {
    let mut own = Checks::default();
    let Some((leaf, intermediates)) = chain.split_first() else {
        checks.fails(clause::AK_STRUCTURE, "there is no certificate of the attestation key");
        return None;
    };
    let tpm = certificate(leaf, &mut own);
    let names = [clause::AK_CHAIN, clause::AK_VALIDITY];
    Chain::check(leaf, intermediates.iter().map(Vec::as_slice), anchors, ALLOWED, now, names, &mut own);
    checks.prove(own, tpm, clause::AK_STRUCTURE).map(Verified::new)
}

fn certificate(der: &[u8], checks: &mut Checks) -> Option<Tpm> {
    let leaf = match crate::x509::certificate(der) {
        Ok(leaf) => leaf,
        Err(error) => {
            checks.fails(clause::AK_STRUCTURE, &error.to_string());
            return None;
        }
    };
    let key = Key::from_spki(leaf.public_key()).map_err(|error| error.to_string());
    let message = key.as_ref().err().map_or("a key that a TPM can have", String::as_str);
    checks.check(clause::AK_STRUCTURE, key.is_ok(), None, None, message);
    let usage = leaf.subject().to_string();
    checks.check(clause::AK_USAGE, x509::signs_only(&leaf), None, usage, "the key signs and does nothing else");
    let machine = machine_of(&leaf);
    let message = machine.as_ref().err().map_or("the certificate names the machine", String::as_str);
    checks.check(clause::AK_INSTANCE, machine.is_ok(), None, None, message);
    Some(Tpm { key: key.ok()?, machine: machine.ok()? })
}

fn machine_of(leaf: &X509Certificate<'_>) -> Result<Machine, String> {
    let refuse = || "the certificate doesn't name the machine exactly once".to_owned();
    let oid = Oid::from(&instance::OID).map_err(|_| refuse())?;
    let extension = leaf.get_extension_unique(&oid).map_err(|_| refuse())?.ok_or_else(refuse)?;
    Machine::parse(extension.value).map_err(|error| error.to_string())
}

/// Verifies the quote of a machine, and appraises machine and registers.
///
/// Never fails: what can't be parsed is a clause that doesn't hold. Registers that no quote proves aren't appraised.
#[must_use]
pub fn verify_and_appraise(evidence: &Evidence<'_>, anchors: &Anchors, policy: &Policy, now: Timestamp) -> Checks {
    let mut checks = Checks::default();
    examine(evidence, anchors, policy, now, &mut checks);
    checks
}

/// As [`verify_and_appraise`]; also gives the genuine machine and its quote, wanted or not.
pub fn examine(
    evidence: &Evidence<'_>,
    anchors: &Anchors,
    policy: &Policy,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<(Verified<Tpm>, Attest)> {
    let tpm = verify(evidence.chain, anchors, now, checks)?;
    appraise(&tpm, policy, checks);
    let Evidence { attest, signature, values, log, .. } = *evidence;
    let quote = quote::check(&Claim { attest, signature, key: &tpm.get().key, values, nonce: &policy.nonce }, checks)?;
    let log = log.and_then(|log| replay::check(log, &values.of_firmware(), checks));
    let said = log.as_ref().filter(|_| values.pcrs.contains_key(&0)).and_then(technology);
    let message = "how the host says that it encrypts memory";
    policy.technology.apply(checks, clause::TECHNOLOGY, said.as_ref(), |it| format!("{it:?}"), message);
    policy.registers.appraise(values, log.as_ref(), checks);
    Some((tpm, quote))
}

/// Appraises a machine against a policy.
pub fn appraise(tpm: &Verified<Tpm>, policy: &Policy, checks: &mut Checks) {
    let machine = &tpm.get().machine;
    let message = "a host of Google's production";
    policy.production.apply(checks, clause::PRODUCTION, machine.is_production.as_ref(), bool::to_string, message);
    for (name, requirement, said, message) in [
        (clause::PROJECT, &policy.project, &machine.project_id, "the project"),
        (clause::ZONE, &policy.zone, &machine.zone, "the zone"),
        (clause::INSTANCE_NAME, &policy.instance_name, &machine.instance_name, "the instance's name"),
    ] {
        requirement.apply(checks, name, Some(said), String::clone, message);
    }
    for (name, requirement, said, message) in [
        (clause::PROJECT_NUMBER, &policy.project_number, &machine.project_number, "the project's number"),
        (clause::INSTANCE_ID, &policy.instance_id, &machine.instance_id, "the instance's number"),
    ] {
        requirement.apply(checks, name, Some(said), u64::to_string, message);
    }
}

/// The technology that a log names which replays to the quoted PCR 0: in exactly one event, whose digest is its data's,
/// before the register was handed over. Whatever runs afterwards can extend it by anything; that an event is a separator
/// its digest says, and not its type, which isn't measured.
#[must_use]
pub fn technology(log: &EventLog) -> Option<Technology> {
    let firmware = log.of(0).take_while(|event| !is_separator(log.bank, event));
    let mut events = firmware.filter(|event| event.kind == EV_NONHOST_INFO || event.data.starts_with(NONHOST_INFO));
    let (event, None) = (events.next()?, events.next()) else { return None };
    if event.kind != EV_NONHOST_INFO {
        return None;
    }
    let said = event.data.strip_prefix(NONHOST_INFO)?;
    let genuine = log.bank.digest(&[&event.data]) == event.digest && said.len() == 16;
    said.first().filter(|_| genuine).and_then(|byte| Technology::from_byte(*byte))
}

/// Checks that a report of the processor (SEV-SNP report or TDX quote, already verified) is about this conversation and
/// the TPM's key. The TPM in turn names the report by its nonce, see [`machine::tpm_nonce`].
pub fn bind(tpm: &Verified<Tpm>, report_data: &Hex<64>, binding: &[u8; 32], checks: &mut Checks) {
    let wanted = Hex(machine::report_data(binding, &tpm.get().key.to_bytes()));
    let (expected, actual) = (wanted.to_string(), report_data.to_string());
    let message = "the report is about this conversation and the TPM's key";
    checks.check(clause::REPORT_DATA, wanted == *report_data, expected, actual, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::{Hash, eventlog::Event};

    #[test]
    fn a_technology_is_said_in_one_whole_event_whose_digest_is_of_its_data() {
        let words = |technology: u8| [NONHOST_INFO, &[technology], &[0; 15]].concat();
        let event = |kind: u32, data: &[u8], digested: &[u8]| Event {
            number: 1,
            pcr: 0,
            kind,
            digest: Hash::Sha256.digest(&[digested]),
            data: data.to_vec(),
        };
        let said = |events: &[Event]| {
            technology(&EventLog { bank: Hash::Sha256, events: events.to_vec(), startup_locality: 0 })
        };
        let good = || event(EV_NONHOST_INFO, &words(4), &words(4));
        let other = || event(0x08, b"version", b"version");
        let end = || event(0x04, &[0; 4], &[0; 4]);
        for events in [vec![good()], vec![other(), good(), other(), end()], vec![good(), end(), good()]] {
            assert_eq!(said(&events), Some(Technology::Snp), "{events:?}");
        }
        let (short, long) = (&words(4)[..31], [words(4), vec![0]].concat());
        for events in [
            vec![],
            vec![end(), good()],
            vec![good(), good()],
            vec![good(), event(EV_NONHOST_INFO, b"x", b"x")],
            vec![event(EV_NONHOST_INFO, b"x", b"x"), good()],
            vec![good(), event(0x08, &words(4), &words(4))],
            vec![event(0x08, &words(4), &words(4))],
            vec![event(EV_NONHOST_INFO, b"x", b"x")],
            vec![event(EV_NONHOST_INFO, &words(4), &words(3))],
            vec![event(EV_NONHOST_INFO, short, short)],
            vec![event(EV_NONHOST_INFO, &long, &long)],
            vec![event(EV_NONHOST_INFO, &words(5), &words(5))],
        ] {
            assert_eq!(said(&events), None, "{events:?}");
        }
    }
}
