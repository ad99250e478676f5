//! A good file is imported; with one thing wrong it is refused for that.

use super::*;
use crate::owner::SigningKey;

const WANTED: Wanted<'_> =
    Wanted { version: "v2.16.0", reference: "-", stream: "stable", platform: Platform::QemuVtpm };

fn value(register: u8, bytes: usize, warn_only: bool) -> String {
    let digits = hex::encode(vec![if matches!(register, 12 | 13 | 15) { 0 } else { register + 1 }; bytes]);
    format!(r#""{register}":{{"expected":"{digits}","warnOnly":{warn_only}}}"#)
}

fn file() -> String {
    let enforced = [4, 8, 9, 11, 12, 13, 15].map(|register| value(register, 32, false)).join(",");
    let warned = value(14, 32, true);
    let tdx = [0, 1, 2, 3, 4].map(|register| value(register, 48, false)).join(",");
    format!(
        r#"{{"version":"v2.16.0","ref":"-","stream":"stable","list":[
        {{"csp":"Azure","attestationVariant":"azure-sev-snp","measurements":{{{enforced},{warned}}}}},
        {{"csp":"QEMU","attestationVariant":"qemu-tdx","measurements":{{{tdx}}}}},
        {{"csp":"QEMU","attestationVariant":"qemu-vtpm","measurements":{{{enforced},{warned}}}}}]}}"#
    )
}

fn run(file: &str, wanted: &Wanted<'_>) -> Result<MeasurementSet, Error> {
    let key = SigningKey::generate().unwrap();
    let signature = STANDARD.encode(key.sign(file.as_bytes())) + "\n";
    import(file.as_bytes(), &signature, &key.public_spki(), wanted)
}

#[test]
fn enforced_registers_become_a_set_and_warnings_do_not() {
    let set = run(&file(), &WANTED).unwrap();
    assert_eq!(set.validate(), Ok(()));
    assert_eq!((set.name.as_str(), set.platform), ("v2.16.0-qemu-vtpm", Platform::QemuVtpm));
    assert_eq!(set.pcrs.keys().copied().collect::<Vec<_>>(), [4, 8, 9, 11, 12, 13]);
    assert_eq!(set.pcrs[&4], ["05".repeat(32)]);
}

#[test]
fn a_trust_domain_gets_its_launch_clause() {
    let set = run(&file(), &Wanted { platform: Platform::QemuTdx, ..WANTED }).unwrap();
    assert_eq!(set.validate(), Ok(()));
    let Some(Hardware::Tdx(policy)) = set.hardware else { unreachable!("a trust domain's set") };
    assert_eq!((policy.mrtd, policy.rtmr3), (Requirement::Exact(Hex([1; 48])), Requirement::Exact(Hex([5; 48]))));
}

#[test]
fn of_a_trust_domain_only_what_no_system_is_told_by_may_be_warned_about() {
    let warned = |register: u8| {
        let file = file().replace(&value(register, 48, false), &value(register, 48, true));
        run(&file, &Wanted { platform: Platform::QemuTdx, ..WANTED })
    };
    for told in [0, 2, 3] {
        assert!(matches!(warned(told), Err(Error::Register { register, .. }) if register == told), "{told}");
    }
    for register in [1, 4] {
        let set = warned(register).unwrap();
        assert_eq!(set.validate(), Ok(()), "{register}");
        let Some(Hardware::Tdx(policy)) = set.hardware else { unreachable!("a trust domain's set") };
        let waived = [&policy.rtmr0, &policy.rtmr1, &policy.rtmr2, &policy.rtmr3]
            .map(|requirement| matches!(requirement, Requirement::Waived { .. }));
        assert_eq!(waived, [register == 1, false, false, register == 4]);
    }
}

#[test]
fn a_set_for_snp_waits_for_its_launch_clause() {
    let set = run(&file(), &Wanted { platform: Platform::AzureSnp, ..WANTED }).unwrap();
    assert!(matches!(set.validate(), Err(policy::Error::Hardware { .. })));
}

#[test]
fn a_signature_of_another_key_or_over_another_file_is_refused() {
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let signature = STANDARD.encode(key.sign(file().as_bytes()));
    let with =
        |file: &str, signature: &str, key: &SigningKey| import(file.as_bytes(), signature, &key.public_spki(), &WANTED);
    assert!(with(&file(), &signature, &key).is_ok());
    assert!(matches!(with(&file(), &signature, &other), Err(Error::Signature)));
    assert!(matches!(with(&file().replace("05", "06"), &signature, &key), Err(Error::Signature)));
    assert!(matches!(with(&file(), "", &key), Err(Error::Signature)));
    assert!(matches!(with(&file(), "?", &key), Err(Error::Base64(_))));
}

#[test]
fn a_signed_file_of_something_else_is_refused() {
    for (wanted, what) in [
        (Wanted { version: "v2.15.0", ..WANTED }, "version"),
        (Wanted { reference: "main", ..WANTED }, "ref"),
        (Wanted { stream: "debug", ..WANTED }, "stream"),
    ] {
        assert!(matches!(run(&file(), &wanted), Err(Error::Other { what: found, .. }) if found == what), "{what}");
    }
    for platform in [Platform::GcpSevEs, Platform::AzureTdx] {
        assert!(matches!(run(&file(), &Wanted { platform, ..WANTED }), Err(Error::Listed { count: 0, .. })));
    }
    assert!(matches!(run(&file(), &Wanted { platform: Platform::Snp, ..WANTED }), Err(Error::Platform(_))));
    let twice = file().replace("azure-sev-snp", "qemu-vtpm").replace("Azure", "QEMU");
    assert!(matches!(run(&twice, &WANTED), Err(Error::Listed { count: 2, .. })));
}

#[test]
fn values_that_can_not_be_reference_values_are_refused() {
    let four = value(4, 32, false);
    for (register, changed) in [
        (4, format!(r#""4":{{"expected":"{}","warnOnly":false}}"#, "1234".repeat(16))),
        (4, value(4, 48, false)),
        (4, value(4, 0, false)),
        (16, format!("{four},{}", value(16, 32, false))),
    ] {
        let found = run(&file().replace(&four, &changed), &WANTED);
        assert!(matches!(found, Err(Error::Register { register: found, .. }) if found == register), "{found:?}");
    }
    for (register, problem) in [(15, "isn't zero before a node joins"), (16, "can be reset"), (17, "can be reset")] {
        let others = file().replace(&format!(",{}", value(15, 32, false)), "");
        let digits = hex::encode([1; 32]);
        let more = format!(r#"{four},"{register}":{{"expected":"{digits}","warnOnly":false}}"#);
        let found = run(&others.replace(&four, &more), &WANTED);
        assert!(matches!(found, Err(Error::Register { problem: found, .. }) if found == problem), "{register}");
    }
    let member = file().replace(&value(15, 32, false), &value(15, 32, false).replacen("00", "01", 1));
    assert!(matches!(run(&member, &WANTED), Err(Error::Register { register: 15, .. })));
    let warned = file().replace(&four, &value(4, 32, true));
    assert!(matches!(run(&warned, &WANTED), Err(Error::Set(policy::Error::Missing { pcr: 4, .. }))));
    let unknown = file().replacen('{', "{\"more\":1,", 1);
    assert!(matches!(run(&unknown, &WANTED), Err(Error::Json(_))));
}

#[test]
fn a_trust_domain_without_a_launch_clause_is_no_set() {
    let open = file().replace(&format!("{},", value(0, 48, false)), "");
    let found = run(&open, &Wanted { platform: Platform::QemuTdx, ..WANTED });
    assert!(matches!(found, Err(Error::Set(policy::Error::Hardware { .. }))), "{found:?}");
}

#[test]
fn a_file_is_as_long_as_the_bound_says_or_shorter() {
    let padded = |length: usize| format!("{}{}", file(), " ".repeat(length - file().len()));
    assert!(run(&padded(MAX_BYTES), &WANTED).is_ok());
    for more in [1, 2] {
        assert!(matches!(run(&padded(MAX_BYTES + more), &WANTED), Err(Error::Large)));
    }
}
