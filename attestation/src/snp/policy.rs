//! What a guest must be: a closed set of requirements, none of which can be left out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    clause,
    parse::Firmware,
    product::{KeyKind, Product},
    tcb::PerProduct,
};
use crate::{
    bytes::{Hex, Measurement},
    reference::Requirement,
    x509::Revocation,
};

/// A set of bits; `AtLeast` such a set is every set that contains it. Hex in text.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Bits(pub u64);

impl PartialOrd for Bits {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        let common = self.0 & other.0;
        match (common == other.0, common == self.0) {
            (true, true) => Some(std::cmp::Ordering::Equal),
            (true, false) => Some(std::cmp::Ordering::Greater),
            (false, true) => Some(std::cmp::Ordering::Less),
            (false, false) => None,
        }
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// What a guest and its platform must be.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Products that are accepted. Milan's root seed can be had by software (arXiv 2605.12990), so a policy may leave
    /// it out.
    pub product: Requirement<Product>,
    /// Kind of the key that signs. A cloud's key (VLEK) proves no processor.
    pub key: Requirement<KeyKind>,
    /// The cloud that a VLEK is of; not looked at with a VCEK.
    pub csp_id: Requirement<String>,
    /// The processor that a VCEK is of, as in the inventory; not looked at with a VLEK.
    pub chip_id: Requirement<Hex<64>>,
    /// Revocation list. A certificate that a list revokes isn't accepted whatever stands here.
    pub revocation: Requirement<Revocation>,
    /// Privilege level; a report the host asked for isn't accepted whatever stands here.
    pub vmpl: Requirement<u32>,
    /// The host can read and change the guest.
    pub debug: Requirement<bool>,
    /// A migration agent can be bound, or is.
    pub migration: Requirement<bool>,
    /// The guest may share cores.
    pub smt_allowed: Requirement<bool>,
    /// The guest runs on one socket only.
    pub single_socket: Requirement<bool>,
    /// CXL devices may be there.
    pub cxl_allowed: Requirement<bool>,
    /// The guest wants AES-256-XTS.
    pub aes_256_xts: Requirement<bool>,
    /// The guest wants power measurement off.
    pub rapl_disabled: Requirement<bool>,
    /// The guest wants its ciphertext hidden.
    pub ciphertext_hiding: Requirement<bool>,
    /// The guest wants its pages left where they are.
    pub page_swap_disabled: Requirement<bool>,
    /// Bits of the guest's policy that came after this code.
    pub unknown_policy_bits: Requirement<Bits>,
    /// Two threads share a core.
    pub platform_smt: Requirement<bool>,
    /// All memory is encrypted.
    pub platform_tsme: Requirement<bool>,
    /// Memory corrects errors.
    pub platform_ecc: Requirement<bool>,
    /// Power measurement is off.
    pub platform_rapl_disabled: Requirement<bool>,
    /// Ciphertext is hidden.
    pub platform_ciphertext_hiding: Requirement<bool>,
    /// Memory was checked for aliases.
    pub platform_alias_check: Requirement<bool>,
    /// Trusted I/O is on.
    pub platform_tio: Requirement<bool>,
    /// The TCB that the signing key stands for.
    pub reported_tcb: PerProduct,
    /// The TCB below which the platform can't be rolled back.
    pub committed_tcb: PerProduct,
    /// The TCB when the guest was launched.
    pub launch_tcb: PerProduct,
    /// The firmware can be rolled back.
    pub provisional: Requirement<bool>,
    /// Firmware below which it can't be rolled back.
    pub firmware: Requirement<Firmware>,
    /// Mitigations at launch. Reports before version 5 don't say and then meet no requirement.
    pub launch_mitigations: Requirement<Bits>,
    /// Mitigations now.
    pub current_mitigations: Requirement<Bits>,
    /// The launch clause: digest of what the guest's memory held when it started.
    pub measurement: Requirement<Measurement>,
    /// What the host told the launch.
    pub host_data: Requirement<Hex<32>>,
    /// Digest of the key that signed the guest's identity; zero without one.
    pub id_key_digest: Requirement<Measurement>,
    /// Digest of the key that signed that key; zero without one.
    pub author_key_digest: Requirement<Measurement>,
    /// Family in the guest's identity.
    pub family_id: Requirement<Hex<16>>,
    /// Image in the guest's identity.
    pub image_id: Requirement<Hex<16>>,
    /// Security version in the guest's identity.
    pub guest_svn: Requirement<u32>,
    /// What the conversation wants attested.
    pub report_data: Requirement<Hex<64>>,
}

/// Why a policy isn't one to admit nodes by.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A clause that says what runs, or for whom, is waived or names nothing.
    #[error("{0} must name what it wants")]
    Open(&'static str),
}

impl Policy {
    /// The default: everything that has a right value for all guests has it, and the rest refuses every value until the
    /// owner names one.
    #[must_use]
    pub fn strict() -> Self {
        let either = || Requirement::AnyOf(vec![false, true]);
        let nothing = || PerProduct(std::collections::BTreeMap::new());
        Self {
            product: Requirement::AnyOf(Product::ALL.to_vec()),
            key: Requirement::Exact(KeyKind::Vcek),
            csp_id: Requirement::AnyOf(Vec::new()),
            chip_id: waived("any processor that AMD endorses"),
            revocation: Requirement::Exact(Revocation::Current),
            vmpl: Requirement::Exact(0),
            debug: Requirement::Exact(false),
            migration: Requirement::Exact(false),
            smt_allowed: either(),
            single_socket: either(),
            cxl_allowed: Requirement::Exact(false),
            aes_256_xts: either(),
            rapl_disabled: either(),
            ciphertext_hiding: either(),
            page_swap_disabled: either(),
            unknown_policy_bits: Requirement::Exact(Bits(0)),
            platform_smt: either(),
            platform_tsme: either(),
            platform_ecc: either(),
            platform_rapl_disabled: either(),
            platform_ciphertext_hiding: either(),
            platform_alias_check: Requirement::Exact(true),
            platform_tio: either(),
            reported_tcb: nothing(),
            committed_tcb: nothing(),
            launch_tcb: nothing(),
            provisional: Requirement::Exact(false),
            firmware: waived("the SNP part of the TCB is the firmware's security version"),
            launch_mitigations: waived("only reports of version 5 say"),
            current_mitigations: waived("only reports of version 5 say"),
            measurement: Requirement::AnyOf(Vec::new()),
            host_data: Requirement::Exact(Hex::ZERO),
            id_key_digest: Requirement::Exact(Hex::ZERO),
            author_key_digest: Requirement::Exact(Hex::ZERO),
            family_id: waived("part of an identity that its key's digest pins"),
            image_id: waived("part of an identity that its key's digest pins"),
            guest_svn: waived("part of an identity that its key's digest pins"),
            report_data: Requirement::AnyOf(Vec::new()),
        }
    }

    /// Waives the requirement of a clause (see [`clause::REFERENCE`]); false when it has none: what makes a report
    /// genuine can't be waived.
    pub fn waive(&mut self, name: &str, reason: &str) -> bool {
        match name {
            clause::PRODUCT => self.product = waived(reason),
            clause::KEY_KIND => self.key = waived(reason),
            clause::CSP_ID => self.csp_id = waived(reason),
            clause::CHIP_ID => self.chip_id = waived(reason),
            clause::CRL => self.revocation = waived(reason),
            clause::VMPL => self.vmpl = waived(reason),
            clause::POLICY_UNKNOWN => self.unknown_policy_bits = waived(reason),
            clause::TCB_REPORTED => self.reported_tcb = PerProduct::every(&waived(reason)),
            clause::TCB_COMMITTED => self.committed_tcb = PerProduct::every(&waived(reason)),
            clause::TCB_LAUNCH => self.launch_tcb = PerProduct::every(&waived(reason)),
            clause::FIRMWARE => self.firmware = waived(reason),
            clause::MITIGATION_LAUNCH => self.launch_mitigations = waived(reason),
            clause::MITIGATION_CURRENT => self.current_mitigations = waived(reason),
            clause::MEASUREMENT => self.measurement = waived(reason),
            clause::HOST_DATA => self.host_data = waived(reason),
            clause::ID_KEY_DIGEST => self.id_key_digest = waived(reason),
            clause::AUTHOR_KEY_DIGEST => self.author_key_digest = waived(reason),
            clause::FAMILY_ID => self.family_id = waived(reason),
            clause::IMAGE_ID => self.image_id = waived(reason),
            clause::GUEST_SVN => self.guest_svn = waived(reason),
            clause::REPORT_DATA => self.report_data = waived(reason),
            _ => match self.switch(name) {
                Some(requirement) => *requirement = waived(reason),
                None => return false,
            },
        }
        true
    }

    /// The requirement of a clause that is yes or no.
    pub fn switch(&mut self, name: &str) -> Option<&mut Requirement<bool>> {
        Some(match name {
            clause::POLICY_DEBUG => &mut self.debug,
            clause::POLICY_MIGRATION | clause::REPORT_ID_MA => &mut self.migration,
            clause::POLICY_SMT => &mut self.smt_allowed,
            clause::POLICY_SINGLE_SOCKET => &mut self.single_socket,
            clause::POLICY_CXL => &mut self.cxl_allowed,
            clause::POLICY_AES_256_XTS => &mut self.aes_256_xts,
            clause::POLICY_RAPL_DISABLED => &mut self.rapl_disabled,
            clause::POLICY_CIPHERTEXT_HIDING => &mut self.ciphertext_hiding,
            clause::POLICY_PAGE_SWAP_DISABLED => &mut self.page_swap_disabled,
            clause::PLATFORM_SMT => &mut self.platform_smt,
            clause::PLATFORM_TSME => &mut self.platform_tsme,
            clause::PLATFORM_ECC => &mut self.platform_ecc,
            clause::PLATFORM_RAPL_DISABLED => &mut self.platform_rapl_disabled,
            clause::PLATFORM_CIPHERTEXT_HIDING => &mut self.platform_ciphertext_hiding,
            clause::PLATFORM_ALIAS_CHECK => &mut self.platform_alias_check,
            clause::PLATFORM_TIO => &mut self.platform_tio,
            clause::TCB_PROVISIONAL => &mut self.provisional,
            _ => return None,
        })
    }

    /// Whether nodes may be admitted by it: it says what was launched, under which TCB, and for which conversation.
    ///
    /// # Errors
    /// The clause that is open; the conversation's comes last, because a set of reference values can't have it yet.
    pub fn validate(&self) -> Result<(), Error> {
        if !names(&self.measurement) {
            return Err(Error::Open(clause::MEASUREMENT));
        }
        if self.reported_tcb.0.is_empty() || !self.reported_tcb.0.values().all(names) {
            return Err(Error::Open(clause::TCB_REPORTED));
        }
        match self.report_data {
            Requirement::Exact(_) => Ok(()),
            _ => Err(Error::Open(clause::REPORT_DATA)),
        }
    }
}

fn names<T>(requirement: &Requirement<T>) -> bool {
    match requirement {
        Requirement::AnyOf(values) => !values.is_empty(),
        Requirement::Exact(_) | Requirement::AtLeast(_) => true,
        Requirement::Waived { .. } => false,
    }
}

fn waived<T>(reason: &str) -> Requirement<T> {
    Requirement::Waived { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snp::Tcb;

    #[test]
    fn a_policy_without_a_launch_clause_or_a_floor_admits_nobody() {
        let mut policy = Policy::strict();
        assert_eq!(policy.validate(), Err(Error::Open(clause::MEASUREMENT)));
        policy.measurement = Requirement::Exact(Hex([1; 48]));
        assert_eq!(policy.validate(), Err(Error::Open(clause::TCB_REPORTED)));
        let floor: Tcb = "bl=4,tee=0,snp=24,ucode=219".parse().unwrap();
        policy.reported_tcb = PerProduct::at_least([(Product::Milan, floor)]);
        assert_eq!(policy.validate(), Err(Error::Open(clause::REPORT_DATA)));
        policy.report_data = Requirement::Exact(Hex([2; 64]));
        assert_eq!(policy.validate(), Ok(()));
        for name in [clause::MEASUREMENT, clause::TCB_REPORTED, clause::REPORT_DATA] {
            let mut open = policy.clone();
            assert!(open.waive(name, "test"));
            assert_eq!(open.validate(), Err(Error::Open(name)));
        }
    }

    #[test]
    fn what_makes_a_report_genuine_cannot_be_waived() {
        for name in [clause::SIGNATURE, clause::INTERMEDIATE_REVOKED, clause::VEK_TCB, clause::VEK_HWID, "snp.unknown"]
        {
            assert!(!Policy::strict().waive(name, "test"), "{name}");
        }
        for name in clause::REFERENCE {
            assert!(Policy::strict().waive(name, "test"), "{name}");
        }
    }

    #[test]
    fn a_policy_survives_json_and_refuses_unknown_or_missing_members() {
        let mut policy = Policy::strict();
        policy.reported_tcb = PerProduct::every(&Requirement::AtLeast("bl=1,tee=0,snp=2,ucode=3".parse().unwrap()));
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert!(serde_json::from_str::<Policy>(&json.replace("\"vmpl\"", "\"level\"")).is_err());
        assert!(serde_json::from_str::<Policy>(&json.replace("\"cxlAllowed\":{\"exact\":false},", "")).is_err());
    }

    #[test]
    fn mitigations_are_a_set_that_may_be_larger() {
        assert!(Bits(7) >= Bits(5));
        assert_eq!(Bits(8).partial_cmp(&Bits(5)), None);
        assert_eq!(Bits(4).partial_cmp(&Bits(5)), Some(std::cmp::Ordering::Less));
    }

    #[test]
    fn bits_are_told_by_all_their_digits() {
        assert_eq!(Bits(0x1f).to_string(), "0x000000000000001f");
    }
}
