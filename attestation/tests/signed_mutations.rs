//! What publishers and owners sign, with one thing wrong: an envelope and a list of measurements of the predecessor.

#![allow(clippy::unwrap_used, clippy::panic)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    dsse,
    owner::SigningKey,
    platform::Platform,
    policy::MANIFEST_TYPE,
    published::{self, Wanted},
};
use proptest::prelude::*;

mod mutate;

use mutate::Genuine;

const PAYLOAD: &[u8] = br#"{"revision": 1}"#;

#[test]
fn a_changed_envelope_holds_the_same_payload_or_none() {
    let key = SigningKey::generate().unwrap();
    let envelope = dsse::sign(MANIFEST_TYPE, PAYLOAD, &key);
    let verdict = |bytes: &[u8]| dsse::verify(std::str::from_utf8(bytes).ok()?, MANIFEST_TYPE, &key.public_spki()).ok();
    let genuine = Genuine::new("envelope", envelope.as_bytes());
    // Names of members that nobody needs, and the key's hint.
    genuine.gives_one_verdict(verdict, |_, payload| payload == PAYLOAD);
    let other = SigningKey::generate().unwrap();
    genuine.harms_nothing(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        assert!(dsse::verify(text, MANIFEST_TYPE, &other.public_spki()).is_err());
    });
}

#[test]
fn a_changed_list_of_measurements_is_not_imported() {
    let key = SigningKey::generate().unwrap();
    let value =
        |register: u8| format!(r#""{register}":{{"expected":"{}","warnOnly":false}}"#, hex::encode([register + 1; 32]));
    let file = format!(
        r#"{{"version":"v2.16.0","ref":"-","stream":"stable","list":[{{"csp":"QEMU","attestationVariant":"qemu-vtpm","measurements":{{{}}}}}]}}"#,
        [4, 8, 9, 11, 12, 13].map(value).join(",")
    );
    let signature = STANDARD.encode(key.sign(file.as_bytes()));
    let wanted = Wanted { version: "v2.16.0", reference: "-", stream: "stable", platform: Platform::QemuVtpm };
    let import = |file: &[u8], signature: &[u8]| {
        let signature = std::str::from_utf8(signature).ok()?;
        published::import(file, signature, &key.public_spki(), &wanted).ok()
    };
    let listed = Genuine::new("measurements.json", file.as_bytes());
    listed.is_the_only_one(|bytes| import(bytes, signature.as_bytes()).is_some());
    Genuine::new("signature", signature.as_bytes()).is_the_only_one(|bytes| import(file.as_bytes(), bytes).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_signed_comes_out(payload in prop::collection::vec(any::<u8>(), 0..512)) {
        let key = SigningKey::generate().unwrap();
        let envelope = dsse::sign(MANIFEST_TYPE, &payload, &key);
        prop_assert_eq!(dsse::verify(&envelope, MANIFEST_TYPE, &key.public_spki()).unwrap(), payload);
    }
}
