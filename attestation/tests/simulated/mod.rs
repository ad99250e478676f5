//! What a cloud's own parts do, done by a test: the paravisor's key and report. SIMULATED, and said so in them.

#![allow(clippy::unwrap_used, dead_code, reason = "a test's helpers are tests, and each uses some of them")]

pub mod provider;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use constellation_attestation::tpm::public::Key;
use tss_esapi::{
    Context, TctiNameConf,
    attributes::{ObjectAttributes, ObjectAttributesBuilder},
    handles::PersistentTpmHandle,
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm, RsaSchemeAlgorithm},
        dynamic_handles::Persistent,
        key_bits::RsaKeyBits,
        resource_handles::{Hierarchy, Provision},
        session_handles::AuthSession,
    },
    structures::{
        PublicBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme, SymmetricDefinitionObject,
    },
};

/// `type of report` in a paravisor's: SEV-SNP.
pub const SNP: u32 = 2;
/// The same: TDX.
pub const TDX: u32 = 4;

/// Of an attestation key.
pub fn attributes() -> ObjectAttributes {
    let builder = ObjectAttributesBuilder::new().with_fixed_tpm(true).with_fixed_parent(true);
    let builder = builder.with_sensitive_data_origin(true).with_user_with_auth(true).with_no_da(true);
    builder.with_restricted(true).with_sign_encrypt(true).build().unwrap()
}

/// The paravisor's key, made persistent where it keeps it.
pub fn make_paravisor_key(tcti: &str) {
    let scheme = RsaScheme::create(RsaSchemeAlgorithm::RsaSsa, Some(HashingAlgorithm::Sha256)).unwrap();
    let parameters = PublicRsaParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_scheme(scheme)
        .with_key_bits(RsaKeyBits::Rsa2048)
        .with_exponent(RsaExponent::default())
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()
        .unwrap();
    let template = PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes())
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::default())
        .build()
        .unwrap();
    let mut context = Context::new(tcti.parse::<TctiNameConf>().unwrap()).unwrap();
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            let made = context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)?;
            let place = Persistent::Persistent(PersistentTpmHandle::new(0x8100_0003)?);
            context.evict_control(Provision::Owner, made.key_handle.into(), place)
        })
        .unwrap();
}

/// A paravisor's report about a key and what the guest wants to have said: SIMULATED, as short as a report can be,
/// because an index of a software TPM holds 2048 bytes.
pub fn hcl_report(kind: u32, key: &Key, user_data: &[u8]) -> Vec<u8> {
    let n = BASE64_URL_SAFE_NO_PAD.encode(key.to_bytes());
    let runtime = format!(
        r#"{{"keys":[{{"kid":"HCLAkPub","kty":"RSA","n":"{n}","e":"AQAB"}}],"vm-configuration":{{"secure-boot":true,"console-enabled":false,"vmUniqueId":"SIMULATED"}},"user-data":"{}"}}"#,
        hex::encode_upper(user_data)
    );
    let length = |bytes: usize| u32::try_from(bytes).unwrap();
    let mut report = vec![0; 0x4c0];
    let whole = length(0x4c0 + 20 + runtime.len());
    report[..4].copy_from_slice(b"HCLA");
    for (at, number) in [(4, 1), (8, whole), (12, 2)] {
        report[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
    }
    for number in [length(20 + runtime.len()), 1, kind, 1, length(runtime.len())] {
        report.extend_from_slice(&number.to_le_bytes());
    }
    [report, runtime.into_bytes()].concat()
}
