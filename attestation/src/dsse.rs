//! DSSE envelopes (github.com/secure-systems-lab/dsse, protocol 1.0.2): a payload, its type, and P-256 signatures over both.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::owner::{self, SigningKey};

/// Greatest envelope, bytes: an object of the Kubernetes API can't be larger than etcd's request limit of 1.5 MiB.
pub const MAX_ENVELOPE: usize = 1024 * 1024;

/// Why an envelope is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It isn't an envelope.
    #[error("not a DSSE envelope")]
    Envelope(#[source] serde_json::Error),
    /// It is larger than [`MAX_ENVELOPE`].
    #[error("the envelope is larger than {MAX_ENVELOPE} bytes")]
    Large,
    /// The payload isn't base64.
    #[error("the payload isn't base64")]
    Base64(#[source] base64::DecodeError),
    /// The payload is of another type.
    #[error("the payload's type is {actual}, wanted {expected}")]
    Type {
        /// What was wanted.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The public key can't be used.
    #[error("the public key isn't a P-256 key")]
    Key,
    /// No signature is by the key.
    #[error("no signature of the envelope is by the expected key")]
    Signature,
}

/// The JSON of an envelope. Members that we don't know are passed over, as the protocol wants: nothing signs them, and nothing
/// reads them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

/// One signature; `keyid` is a hint and decides nothing.
#[derive(Serialize, Deserialize)]
struct Signature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// Signs a payload; gives the envelope as JSON.
///
/// # Panics
/// Never: a struct of strings serialises.
#[must_use]
pub fn sign(payload_type: &str, payload: &[u8], key: &SigningKey) -> String {
    let signature = key.sign(&encoding(payload_type, payload));
    serde_json::to_string(&Envelope {
        payload: STANDARD.encode(payload),
        payload_type: payload_type.to_owned(),
        signatures: vec![Signature { keyid: owner::fingerprint(&key.public_spki()), sig: STANDARD.encode(signature) }],
    })
    .expect("a struct of strings serialises")
}

/// Gives the payload of an envelope of this type that bears a signature of this key (SPKI, DER).
///
/// # Errors
/// When it is anything else.
pub fn verify(envelope: &str, payload_type: &str, public_key_spki: &[u8]) -> Result<Vec<u8>, Error> {
    if envelope.len() > MAX_ENVELOPE {
        return Err(Error::Large);
    }
    let envelope: Envelope = serde_json::from_str(envelope).map_err(Error::Envelope)?;
    if envelope.payload_type != payload_type {
        return Err(Error::Type { expected: payload_type.to_owned(), actual: envelope.payload_type });
    }
    let payload = decode(&envelope.payload).map_err(Error::Base64)?;
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key_spki).map_err(|_| Error::Key)?;
    let signed = encoding(payload_type, &payload);
    for signature in &envelope.signatures {
        // What can't be read is somebody else's.
        if decode(&signature.sig).is_ok_and(|bytes| key.verify_sig(&signed, &bytes).is_ok()) {
            return Ok(payload);
        }
    }
    Err(Error::Signature)
}

/// Base64 of either alphabet (RFC 4648, 4 and 5).
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text.replace('-', "+").replace('_', "/"))
}

/// DSSE's pre-authentication encoding.
fn encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_of_the_right_type_and_key_gives_its_payload_and_no_other_does() {
        let key = SigningKey::generate().unwrap();
        let spki = key.public_spki();
        let envelope = sign("application/x-test", b"payload", &key);
        assert_eq!(verify(&envelope, "application/x-test", &spki).unwrap(), b"payload");
        assert!(matches!(verify(&envelope, "application/x-other", &spki), Err(Error::Type { .. })));
        let other = SigningKey::generate().unwrap().public_spki();
        assert!(matches!(verify(&envelope, "application/x-test", &other), Err(Error::Signature)));
        let edited = envelope.replace(&STANDARD.encode(b"payload"), &STANDARD.encode(b"PAYLOAD"));
        assert!(matches!(verify(&edited, "application/x-test", &spki), Err(Error::Signature)));
        let unknown = envelope.replace('{', "{\"more\":1,");
        assert_eq!(verify(&unknown, "application/x-test", &spki).unwrap(), b"payload");
        let twice = envelope.replacen('{', "{\"payload\":\"\",", 1);
        assert!(matches!(verify(&twice, "application/x-test", &spki), Err(Error::Envelope(_))));
        let one_more = envelope.replace('[', "[{\"sig\":\"?\"},{\"sig\":\"MA==\"},");
        assert_eq!(verify(&one_more, "application/x-test", &spki).unwrap(), b"payload");
        // In base64 this payload has both characters in which the alphabets differ.
        let envelope = sign("application/x-test", &[0xfb, 0xff, 0xfe], &key);
        let url_safe = envelope.replace(&STANDARD.encode([0xfb, 0xff, 0xfe]), "-__-");
        assert_ne!(url_safe, envelope);
        assert_eq!(verify(&url_safe, "application/x-test", &spki).unwrap(), [0xfb, 0xff, 0xfe]);
        let unsigned = r#"{"payload":"","payloadType":"application/x-test","signatures":[]}"#;
        assert!(matches!(verify(unsigned, "application/x-test", &spki), Err(Error::Signature)));
    }

    #[test]
    fn an_envelope_is_as_long_as_the_bound_says_or_shorter() {
        let key = SigningKey::generate().unwrap();
        let mut envelope = sign("application/x-test", b"payload", &key);
        envelope.extend(std::iter::repeat_n(' ', MAX_ENVELOPE - envelope.len()));
        assert_eq!(verify(&envelope, "application/x-test", &key.public_spki()).unwrap(), b"payload");
        for _ in 0..2 {
            envelope.push(' ');
            assert!(matches!(verify(&envelope, "application/x-test", &key.public_spki()), Err(Error::Large)));
        }
    }
}
