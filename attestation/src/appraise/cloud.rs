//! Evidence of a machine of a cloud, by one set of reference values: who speaks for the TPM's key, what the processor
//! reports, what was booted, and that all of it is of one machine in one conversation.
//!
//! Which piece names which stands in [`crate::protocol::machine`].

use jiff::Timestamp;

use super::{LaunchRegister, Presented, QUOTED, clause};
use crate::{
    azure,
    bytes::{Bytes, Hex},
    endorsers::{Amd, Endorsers},
    gcp::{self, Technology},
    machine::{quote_nonce, report_data, tpm_nonce},
    nitro,
    place::{self, Place},
    platform::{Platform, Tee},
    policy::{Hardware, LAUNCH_PCR, MeasurementSet},
    protocol::machine::{Endorsement, Machine, Report},
    reference::Requirement,
    result::Checks,
    snp, tdx,
    tpm::{
        Hash,
        attest::Attest,
        public::Public,
        quote::{Claim, Values, check_attributes},
        registers::Registers,
        replay,
        signature::Signature,
    },
    verified::Verified,
};

/// A machine of a cloud whose evidence is genuine, wanted or not.
pub(super) struct Genuine {
    /// What its TPM said.
    pub(super) attest: Attest,
    /// The cloud's name for it, which no other machine has.
    pub(super) name: String,
}

/// What all clouds' evidence is looked at with.
struct Case<'a> {
    platform: Platform,
    set: &'a MeasurementSet,
    place: &'a Place,
    endorsers: &'a Endorsers,
    now: Timestamp,
    binding: &'a [u8; 32],
    ak: Public,
    attest: &'a [u8],
    signature: Signature,
    values: Values,
    log: Option<&'a [u8]>,
    registers: Registers,
}

/// Looks at every clause it can get to. What is genuine comes out only with all clauses about that holding.
pub(super) fn examine(
    presented: &Presented<'_>,
    set: &MeasurementSet,
    place: Option<&Place>,
    endorsers: &Endorsers,
    now: Timestamp,
    checks: &mut Checks,
) -> Option<Genuine> {
    let evidence = presented.evidence;
    let Some(place) = place else {
        checks.fails(clause::POLICY_PLACE, "the trust policy doesn't say where machines of this cloud may be");
        return None;
    };
    let bank = match presented.platform.register_bytes() {
        Some(48) => Hash::Sha384,
        _ => Hash::Sha256,
    };
    let ak = Public::parse(&presented.hello.ak_public)
        .map_err(|e| checks.fails(clause::AK_ATTRIBUTES, &format!("the attestation key can't be parsed: {e}")));
    let signature = Signature::parse(&evidence.signature)
        .map_err(|e| checks.fails(clause::SIGNATURE, &format!("the signature can't be accepted: {e}")));
    let values = Values::cut(bank, &QUOTED, &evidence.pcrs);
    if values.is_none() {
        checks.fails(clause::SELECTION, "the register values haven't the length of PCR 0 to 15 of the wanted bank");
    }
    let (Ok(ak), Ok(signature), Some(values)) = (ak, signature, values) else { return None };
    check_attributes(&ak, checks);
    let case = Case {
        platform: presented.platform,
        set,
        place,
        endorsers,
        now,
        binding: presented.binding,
        ak,
        attest: &evidence.quote,
        signature,
        values,
        log: Some(evidence.event_log.as_slice()).filter(|log| !log.is_empty()),
        registers: registers(set, presented.expected_pcr15, bank),
    };
    match (presented.platform, &evidence.machine) {
        (Platform::GcpSevEs | Platform::GcpSnp | Platform::GcpTdx, Some(Machine::Google { certificates, report })) => {
            case.google(certificates, report.as_ref(), checks)
        }
        (Platform::AzureSnp | Platform::AzureTdx, Some(Machine::Azure { report, endorsement })) => {
            case.azure(report, endorsement, checks)
        }
        (Platform::AwsNitroTpm | Platform::AwsSnp, Some(Machine::Aws { document, report })) => {
            case.aws(document, report.as_ref(), checks)
        }
        _ => {
            checks.fails(clause::MACHINE, "the evidence isn't of a machine of the wanted cloud");
            None
        }
    }
}

/// What a set wants of registers, and of the one that says which node it is.
fn registers(set: &MeasurementSet, launch: &LaunchRegister, bank: Hash) -> Registers {
    let mut wanted: std::collections::BTreeMap<_, _> =
        set.pcrs.iter().map(|(pcr, values)| (*pcr, Requirement::AnyOf(values.clone()))).collect();
    wanted.insert(LAUNCH_PCR, Requirement::Exact(hex::encode(launch.of(bank))));
    Registers(wanted)
}

impl Case<'_> {
    fn google(&self, certificates: &[Vec<u8>], report: Option<&Report>, checks: &mut Checks) -> Option<Genuine> {
        let nonce = self.nonce(report);
        let technology = match self.platform {
            Platform::GcpSevEs => Requirement::Exact(Technology::SevEs),
            _ => Requirement::Waived { reason: "the processor's report says it better".into() },
        };
        let Some(policy) = place::google(self.place, technology, nonce, self.registers.clone()) else {
            self.elsewhere(checks);
            return None;
        };
        let chain = self.endorsers.google(certificates, self.now);
        let evidence = gcp::Evidence {
            chain: &chain,
            attest: self.attest,
            signature: &self.signature,
            values: &self.values,
            log: self.log(),
        };
        let machine = gcp::examine(&evidence, &self.endorsers.google, &policy, self.now, checks);
        let reported = self.report(report, checks);
        let (tpm, attest) = machine?;
        self.same_key(tpm.get().key == self.ak.key, checks);
        if let Some(reported) = reported.ok()? {
            gcp::bind(&tpm, &reported.data, self.binding, checks);
        }
        Some(Genuine { attest, name: format!("google/{}", tpm.get().machine.instance_id) })
    }

    /// The event log, where it decides or explains: elsewhere than with Google's word on how memory is encrypted, registers
    /// decide, and a log that doesn't replay to them explains nothing.
    fn log(&self) -> Option<&[u8]> {
        let explains = |log: &&[u8]| {
            let mut checks = Checks::default();
            replay::check(log, &self.values.of_firmware(), &mut checks);
            checks.accepted()
        };
        if self.platform == Platform::GcpSevEs { self.log } else { self.log.filter(explains) }
    }

    fn azure(&self, report: &[u8], endorsement: &Endorsement, checks: &mut Checks) -> Option<Genuine> {
        let Place::Azure { secure_boot, console, vm_id } = self.place.clone() else {
            self.elsewhere(checks);
            return None;
        };
        let hardware = match self.set.hardware.clone() {
            Some(Hardware::Snp(policy)) => azure::Hardware::Snp(policy),
            Some(Hardware::Tdx(policy)) => azure::Hardware::Tdx(policy),
            None => {
                self.formless(checks);
                return None;
            }
        };
        let policy = azure::Policy {
            hardware,
            secure_boot,
            console,
            vm_id,
            user_data: Requirement::Exact(Bytes(report_data(self.binding, &self.ak.key.to_bytes()).to_vec())),
            nonce: Requirement::Exact(Bytes(tpm_nonce(self.binding, report).to_vec())),
            registers: self.registers.clone(),
        };
        let endorsement = match (endorsement, self.platform) {
            (Endorsement::Snp { vek, intermediate }, Platform::AzureSnp) => {
                let Amd { vek, intermediate, crl } = self.endorsers.amd_of(vek, intermediate, self.now);
                azure::Endorsement::Snp { vek, intermediate, crl }
            }
            (Endorsement::Tdx { quote }, Platform::AzureTdx) => match self.endorsers.intel(quote, self.now) {
                Ok(collateral) => azure::Endorsement::Tdx { quote, collateral },
                Err(error) => {
                    checks.fails(tdx::clause::COLLATERAL_STRUCTURE, &error.to_string());
                    return None;
                }
            },
            _ => {
                self.formless(checks);
                return None;
            }
        };
        let evidence = azure::Evidence {
            hcl: report,
            endorsement,
            attest: self.attest,
            signature: &self.signature,
            values: &self.values,
            log: self.log(),
        };
        let anchors = azure::Anchors { snp: &self.endorsers.amd, tdx: &self.endorsers.intel };
        let (machine, attest) = azure::examine(&evidence, anchors, &policy, self.now, checks)?;
        self.same_key(machine.get().runtime.key == self.ak.key, checks);
        Some(Genuine { attest, name: format!("azure/{}", machine.get().runtime.vm_id) })
    }

    fn aws(&self, document: &[u8], report: Option<&Report>, checks: &mut Checks) -> Option<Genuine> {
        let key = Bytes(self.ak.key.to_bytes());
        let nonce = self.nonce(report);
        let Some(policy) = place::aws(self.place, nonce.clone(), key, self.registers.clone()) else {
            self.elsewhere(checks);
            return None;
        };
        let tpm = nitro::verify(document, &self.endorsers.aws, self.now, checks);
        let reported = self.report(report, checks);
        let tpm = tpm?;
        nitro::appraise(&tpm, &policy, self.now, checks);
        let nonce = Requirement::Exact(nonce);
        let claim = Claim {
            attest: self.attest,
            signature: &self.signature,
            key: &self.ak.key,
            values: &self.values,
            nonce: &nonce,
        };
        let attest = nitro::bind::quote(&tpm, &claim, checks);
        if let Some(reported) = reported.ok()? {
            let Reported { data, csp_id } = &reported;
            let reported = nitro::bind::Reported { csp_id: csp_id.as_deref(), report_data: data };
            nitro::bind::snp(&tpm, reported, self.binding, checks);
        }
        Some(Genuine { attest: attest?, name: format!("aws/{}", tpm.get().instance) })
    }

    /// What the TPM must be asked with.
    fn nonce(&self, report: Option<&Report>) -> Bytes {
        Bytes(quote_nonce(self.binding, report.map(Report::signed)).to_vec())
    }

    /// The processor's report where the platform has one: genuine, and what the set wants.
    fn report(&self, report: Option<&Report>, checks: &mut Checks) -> Result<Option<Reported>, Refused> {
        match (self.platform.tee(), report, &self.set.hardware) {
            (None, None, None) => Ok(None),
            (Some(Tee::Snp), Some(Report::Snp { report, certificates }), Some(Hardware::Snp(policy))) => {
                self.snp(report, certificates, policy, checks).map(Some)
            }
            (Some(Tee::Tdx), Some(Report::Tdx { quote, .. }), Some(Hardware::Tdx(policy))) => {
                self.tdx(quote, policy, checks).map(Some)
            }
            _ => Err(self.formless(checks)),
        }
    }

    fn snp(&self, report: &[u8], table: &[u8], policy: &snp::Policy, checks: &mut Checks) -> Result<Reported, Refused> {
        let Amd { vek, intermediate, crl } = match self.endorsers.amd(report, table, self.now) {
            Ok(amd) => amd,
            Err(error) => {
                checks.fails(snp::clause::VEK_STRUCTURE, &error.to_string());
                return Err(Refused);
            }
        };
        let evidence = snp::Evidence { report, vek, intermediate, crl };
        let guest = snp::verify(&evidence, &self.endorsers.amd, self.now, checks).ok_or(Refused)?;
        let policy = snp::Policy { report_data: bound_below(), ..policy.clone() };
        snp::appraise::appraise(&guest, &policy, checks);
        let guest = guest.get();
        Ok(Reported { data: guest.report.report_data, csp_id: guest.csp_id.clone() })
    }

    fn tdx(&self, quote: &[u8], policy: &tdx::Policy, checks: &mut Checks) -> Result<Reported, Refused> {
        let collateral = match self.endorsers.intel(quote, self.now) {
            Ok(collateral) => collateral,
            Err(error) => {
                checks.fails(tdx::clause::COLLATERAL_STRUCTURE, &error.to_string());
                return Err(Refused);
            }
        };
        let policy = tdx::Policy { report_data: bound_below(), ..policy.clone() };
        let evidence = tdx::Evidence { quote, collateral };
        let outcome = tdx::verify_and_appraise(&evidence, &self.endorsers.intel, &policy, self.now);
        checks.extend(outcome.checks);
        let data = outcome.td.as_ref().map(Verified::get).ok_or(Refused)?.report.report_data;
        Ok(Reported { data, csp_id: None })
    }

    fn same_key(&self, same: bool, checks: &mut Checks) {
        let message = "the cloud speaks for the key that the node names";
        checks.check(clause::MACHINE_KEY, same, None, hex::encode(&self.ak.name), message);
    }

    fn elsewhere(&self, checks: &mut Checks) -> Refused {
        let message = "the trust policy says where machines of another cloud may be";
        checks.check(clause::POLICY_PLACE, false, self.platform.to_string(), None, message);
        Refused
    }

    fn formless(&self, checks: &mut Checks) -> Refused {
        let message = "the report isn't of the wanted hardware: one is missing, or there where none belongs";
        checks.check(clause::MACHINE, false, self.platform.to_string(), None, message);
        Refused
    }
}

/// What the processor attests to is a clause of the cloud: it names the key that the cloud speaks for.
fn bound_below<T>() -> Requirement<T> {
    Requirement::Waived { reason: "held against the key that the cloud speaks for".into() }
}

/// Nothing good came out, and the clause that says why is recorded.
struct Refused;

/// What is left of a genuine report.
struct Reported {
    /// What the guest wanted to have attested.
    data: Hex<64>,
    /// The cloud whose key signed.
    csp_id: Option<String>,
}
