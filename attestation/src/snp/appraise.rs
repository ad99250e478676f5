//! Whether a genuine guest is the wanted one. Looks at every clause, whatever the ones before it said.

use super::{
    clause,
    parse::{Report, guest_policy as guest, platform_info as platform},
    policy::{Bits, Policy},
    product::{KeyKind, Product},
    verify::Guest,
};
use crate::{bytes::Hex, reference::Requirement, result::Checks, verified::Verified, x509::Revocation};

/// Highest privilege level number of a guest.
const LAST_VMPL: u32 = 3;

/// Appraises a genuine guest against a policy.
pub fn appraise(guest: &Verified<Guest>, policy: &Policy, checks: &mut Checks) {
    let guest = guest.get();
    endorsement(guest, policy, checks);
    guest_policy(&guest.report, policy, checks);
    platform_info(&guest.report, policy, checks);
    tcb(guest, policy, checks);
    identity(&guest.report, policy, checks);
}

fn endorsement(guest: &Guest, policy: &Policy, checks: &mut Checks) {
    policy.product.apply(checks, clause::PRODUCT, Some(&guest.product), Product::to_string, "product of the processor");
    policy.key.apply(checks, clause::KEY_KIND, Some(&guest.key), KeyKind::to_string, "kind of key that signed");
    match guest.key {
        KeyKind::Vcek => policy.chip_id.apply(
            checks,
            clause::CHIP_ID,
            Some(&guest.report.chip_id),
            Hex::to_string,
            "the processor it runs on",
        ),
        KeyKind::Vlek => policy.csp_id.apply(
            checks,
            clause::CSP_ID,
            guest.csp_id.as_ref(),
            Clone::clone,
            "the cloud whose key signed; it names no processor",
        ),
    };
    if guest.revocation == Revocation::Unbelieved {
        // Whatever the policy says: it may be the one that would have revoked.
        checks.fails(clause::CRL, "what was given isn't a revocation list that the root signed");
        return;
    }
    policy.revocation.apply(
        checks,
        clause::CRL,
        Some(&guest.revocation),
        |state| format!("{state:?}"),
        "revocation list that the root signed",
    );
}

fn guest_policy(report: &Report, policy: &Policy, checks: &mut Checks) {
    if report.vmpl > LAST_VMPL {
        // Whatever the policy says: the host may ask for a report with any report data.
        let message = "the host asked for this report, not the guest";
        checks.check(clause::VMPL, false, "0 to 3".to_owned(), report.vmpl.to_string(), message);
    } else if matches!(policy.vmpl, Requirement::AtLeast(_)) {
        let message = "a greater number is a lesser privilege: a floor means nothing";
        checks.check(clause::VMPL, false, None, report.vmpl.to_string(), message);
    } else {
        policy.vmpl.apply(checks, clause::VMPL, Some(&report.vmpl), u32::to_string, "privilege level of who asked");
    }
    checks.check(
        clause::POLICY_RESERVED,
        report.allows(guest::RESERVED_ONE),
        None,
        None,
        "bit 17 of the guest's policy is one in every guest that was launched",
    );
    let apply = |checks: &mut Checks, name: &str, requirement: &Requirement<bool>, actual: bool, message: &str| {
        requirement.apply(checks, name, Some(&actual), bool::to_string, message);
    };
    let bound = report.report_id_ma != Hex([0xff; 32]);
    apply(checks, clause::REPORT_ID_MA, &policy.migration, bound, "a migration agent is bound to the guest");
    for (name, requirement, bit, message) in [
        (clause::POLICY_DEBUG, &policy.debug, guest::DEBUG, "the host can read and change a guest under debug"),
        (clause::POLICY_MIGRATION, &policy.migration, guest::MIGRATE_MA, "a migration agent can move the guest"),
        (clause::POLICY_SMT, &policy.smt_allowed, guest::SMT, "the guest may share cores"),
        (
            clause::POLICY_SINGLE_SOCKET,
            &policy.single_socket,
            guest::SINGLE_SOCKET,
            "the guest runs on one socket only",
        ),
        (clause::POLICY_CXL, &policy.cxl_allowed, guest::CXL_ALLOW, "the guest lets CXL devices be there"),
        (clause::POLICY_AES_256_XTS, &policy.aes_256_xts, guest::MEM_AES_256_XTS, "the guest wants AES-256-XTS"),
        (clause::POLICY_RAPL_DISABLED, &policy.rapl_disabled, guest::RAPL_DIS, "the guest wants RAPL off"),
        (
            clause::POLICY_CIPHERTEXT_HIDING,
            &policy.ciphertext_hiding,
            guest::CIPHERTEXT_HIDING,
            "the guest wants its ciphertext hidden",
        ),
        (
            clause::POLICY_PAGE_SWAP_DISABLED,
            &policy.page_swap_disabled,
            guest::PAGE_SWAP_DISABLE,
            "the guest wants its pages left where they are",
        ),
    ] {
        apply(checks, name, requirement, report.allows(bit), message);
    }
    let unknown = Bits(report.policy & !guest::KNOWN);
    let message = "bits of the guest's policy whose meaning isn't known";
    policy.unknown_policy_bits.apply(checks, clause::POLICY_UNKNOWN, Some(&unknown), Bits::to_string, message);
}

fn platform_info(report: &Report, policy: &Policy, checks: &mut Checks) {
    for (name, requirement, bit, message) in [
        (clause::PLATFORM_SMT, &policy.platform_smt, platform::SMT, "two threads share a core"),
        (clause::PLATFORM_TSME, &policy.platform_tsme, platform::TSME, "all memory is encrypted"),
        (clause::PLATFORM_ECC, &policy.platform_ecc, platform::ECC, "memory corrects errors"),
        (clause::PLATFORM_RAPL_DISABLED, &policy.platform_rapl_disabled, platform::RAPL_DIS, "RAPL is off"),
        (
            clause::PLATFORM_CIPHERTEXT_HIDING,
            &policy.platform_ciphertext_hiding,
            platform::CIPHERTEXT_HIDING,
            "ciphertext is hidden from the host",
        ),
        (
            clause::PLATFORM_ALIAS_CHECK,
            &policy.platform_alias_check,
            platform::ALIAS_CHECK_COMPLETE,
            "memory was checked for aliases (BadRAM, AMD-SB-3015)",
        ),
        (clause::PLATFORM_TIO, &policy.platform_tio, platform::TIO, "trusted I/O is on"),
    ] {
        requirement.apply(checks, name, Some(&report.platform(bit)), bool::to_string, message);
    }
}

fn tcb(guest: &Guest, policy: &Policy, checks: &mut Checks) {
    let Guest { report, product, .. } = guest;
    for (name, wanted, raw, message) in [
        (clause::TCB_REPORTED, &policy.reported_tcb, report.reported_tcb, "the TCB that the key stands for"),
        (clause::TCB_COMMITTED, &policy.committed_tcb, report.committed_tcb, "the TCB it can't be rolled back below"),
        (clause::TCB_LAUNCH, &policy.launch_tcb, report.launch_tcb, "the TCB that the guest was launched under"),
    ] {
        wanted.of(*product).apply(checks, name, raw.of(*product).as_ref(), ToString::to_string, message);
    }
    let provisional = report.current_tcb != report.committed_tcb;
    let message = format!("current TCB {}, committed {}", report.current_tcb, report.committed_tcb);
    policy.provisional.apply(checks, clause::TCB_PROVISIONAL, Some(&provisional), bool::to_string, &message);
    let message = "firmware of the secure processor that it can't be rolled back below";
    policy.firmware.apply(checks, clause::FIRMWARE, Some(&report.committed_firmware), ToString::to_string, message);
    for (name, requirement, bits) in [
        (clause::MITIGATION_LAUNCH, &policy.launch_mitigations, report.launch_mit_vector),
        (clause::MITIGATION_CURRENT, &policy.current_mitigations, report.current_mit_vector),
    ] {
        requirement.apply(checks, name, bits.map(Bits).as_ref(), Bits::to_string, "mitigations of the firmware");
    }
}

fn identity(report: &Report, policy: &Policy, checks: &mut Checks) {
    /// `AUTHOR_KEY_EN` of `KEY_INFO`: there is a digest of the author's key.
    const AUTHOR_KEY_EN: u32 = 1;
    let show = Hex::<48>::to_string;
    let asked = !matches!(policy.author_key_digest, Requirement::Waived { .. });
    if asked && (report.key_info & AUTHOR_KEY_EN != 0) != (report.author_key_digest != Hex::ZERO) {
        let actual = report.author_key_digest.to_string();
        let message = "the report says otherwise of whether there is an author's key";
        checks.check(clause::AUTHOR_KEY_DIGEST, false, None, actual, message);
    }
    for (name, requirement, actual, message) in [
        (clause::MEASUREMENT, &policy.measurement, &report.measurement, "what the guest's memory held at launch"),
        (clause::ID_KEY_DIGEST, &policy.id_key_digest, &report.id_key_digest, "key that signed the guest's identity"),
        (clause::AUTHOR_KEY_DIGEST, &policy.author_key_digest, &report.author_key_digest, "key that signed that key"),
    ] {
        requirement.apply(checks, name, Some(actual), show, message);
    }
    policy.host_data.apply(checks, clause::HOST_DATA, Some(&report.host_data), Hex::to_string, "what the host told");
    for (name, requirement, actual) in [
        (clause::FAMILY_ID, &policy.family_id, &report.family_id),
        (clause::IMAGE_ID, &policy.image_id, &report.image_id),
    ] {
        requirement.apply(checks, name, Some(actual), Hex::to_string, "identity that the guest was launched with");
    }
    let message = "security version in the guest's identity";
    policy.guest_svn.apply(checks, clause::GUEST_SVN, Some(&report.guest_svn), u32::to_string, message);
    let message = "the guest attests to something else than this conversation";
    policy.report_data.apply(checks, clause::REPORT_DATA, Some(&report.report_data), Hex::to_string, message);
}
