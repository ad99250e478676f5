//! A `NitroTPM` attestation document: `COSE_Sign1` (RFC 9052, 4.2) over a CBOR map.
//!
//! Source: AWS, "`NitroTPM` attestation document" (EC2 User Guide): members, their types and greatest lengths. Enclaves'
//! documents have `pcrs` where a TPM's have `nitrotpm_pcrs`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    cbor::{self, Value},
    clause,
};
use crate::tpm::{Hash, quote::REGISTERS, quote::Values};

/// Greatest document, bytes: the TPM hands it out through a buffer of 8 KiB.
pub const MAX_BYTES: usize = 16 * 1024;
/// Greatest certificate, bytes.
const MAX_CERTIFICATE: usize = 1024;
/// Most certificates of `cabundle`.
const MAX_BUNDLE: usize = 6;
/// Greatest `public_key`, `user_data` and `nonce`, bytes.
const MAX_CALLERS: usize = 1024;
/// Bytes of an ES384 signature: r and s (RFC 9053, 2.1).
const SIGNATURE: usize = 96;
/// The protected header `{1: -35}`: algorithm ES384 (RFC 9053, 2.1), the only member.
const ES384: &[u8] = &[0xa1, 0x01, 0x38, 0x22];

/// Tag 18, `COSE_Sign1` (RFC 9052, 2): a document may have it or not, and nothing signs it.
const TAG: &[u8] = &[0xd2];

/// Why bytes aren't the document of a TPM.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not CBOR as it is accepted.
    #[error(transparent)]
    Cbor(#[from] cbor::Error),
    /// A member isn't there, or not in its form.
    #[error("{0} isn't there in its form")]
    Member(&'static str),
    /// Another header than the one of ES384.
    #[error("the protected header isn't the one of ES384")]
    Algorithm,
    /// The document of an enclave, or of nothing that we know.
    #[error("it isn't the document of a TPM but of {0:?}")]
    Kind(String),
}

impl Error {
    /// The clause that doesn't hold.
    #[must_use]
    pub const fn clause(&self) -> &'static str {
        match self {
            Self::Cbor(_) | Self::Member(_) => clause::STRUCTURE,
            Self::Algorithm => clause::ALGORITHM,
            Self::Kind(_) => clause::KIND,
        }
    }
}

/// What the document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The module: instance and TPM, for example `i-01cfb383223e42522-tpm0000000000000000`.
    pub module_id: String,
    /// When it was made.
    pub timestamp: Timestamp,
    /// Values of the SHA-384 bank.
    pub registers: Values,
    /// Certificate of the key that signed it, DER.
    pub certificate: Vec<u8>,
    /// Certificates from the root to the issuer of that one, DER.
    pub cabundle: Vec<Vec<u8>>,
    /// A key that the caller named.
    pub public_key: Option<Vec<u8>>,
    /// What the caller wanted to have said.
    pub user_data: Option<Vec<u8>>,
    /// What the caller was asked to prove freshness with.
    pub nonce: Option<Vec<u8>>,
}

/// A document with its signature, which nobody has looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub document: Document,
    /// The bytes that are signed (RFC 9052, 4.4 `Sig_structure`).
    pub message: Vec<u8>,
    /// r and s.
    pub signature: [u8; SIGNATURE],
}

impl Signed {
    /// Parses a document.
    ///
    /// # Errors
    /// When the bytes are anything else, an enclave's document in particular.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Member("a document of at most 16 KiB"));
        }
        let Value::Array(parts) = cbor::parse(bytes.strip_prefix(TAG).unwrap_or(bytes))? else {
            return Err(Error::Member("COSE_Sign1"));
        };
        let [Value::Bytes(protected), Value::Map(unprotected), Value::Bytes(payload), Value::Bytes(signature)] =
            parts.as_slice()
        else {
            return Err(Error::Member("COSE_Sign1"));
        };
        if *protected != ES384 || !unprotected.is_empty() {
            return Err(Error::Algorithm);
        }
        let signature = (*signature).try_into().map_err(|_| Error::Member("signature"))?;
        Ok(Self { document: document(payload)?, message: message(protected, payload), signature })
    }
}

/// The `Sig_structure`: an array of "Signature1", the protected header, no external data, and the payload.
fn message(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0x84, 0x6a];
    message.extend_from_slice(b"Signature1");
    for part in [protected, &[], payload] {
        // A byte string in the shortest form; a document isn't longer than 16 KiB.
        match part.len() {
            length @ 0..=23 => message.push(0x40 | length.to_le_bytes()[0]),
            length @ 24..=255 => message.extend_from_slice(&[0x58, length.to_le_bytes()[0]]),
            length => message.extend_from_slice(&[0x59, length.to_le_bytes()[1], length.to_le_bytes()[0]]),
        }
        message.extend_from_slice(part);
    }
    message
}

fn document(payload: &[u8]) -> Result<Document, Error> {
    let Value::Map(members) = cbor::parse(payload)? else { return Err(Error::Member("payload")) };
    let mut named = BTreeMap::new();
    for (key, value) in members {
        let Value::Text(key) = key else { return Err(Error::Member("name of a member")) };
        named.insert(key, value);
    }
    let Some(Value::Text(module_id)) = named.remove("module_id") else { return Err(Error::Member("module_id")) };
    if named.contains_key("pcrs") || instance_of(module_id).is_none() {
        return Err(Error::Kind(module_id.to_owned()));
    }
    if named.remove("digest") != Some(Value::Text("SHA384")) {
        return Err(Error::Member("digest SHA384"));
    }
    let Some(Value::Unsigned(milliseconds)) = named.remove("timestamp") else { return Err(Error::Member("timestamp")) };
    let timestamp = i64::try_from(milliseconds).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let registers = registers(named.remove("nitrotpm_pcrs").as_ref())?;
    let certificate = bytes(named.remove("certificate").as_ref(), MAX_CERTIFICATE, "certificate")?;
    let Some(Value::Array(bundle)) = named.remove("cabundle") else { return Err(Error::Member("cabundle")) };
    if bundle.is_empty() || bundle.len() > MAX_BUNDLE {
        return Err(Error::Member("cabundle"));
    }
    let cabundle = bundle.iter().map(|der| bytes(Some(der), MAX_CERTIFICATE, "cabundle")).collect::<Result<_, _>>()?;
    let mut callers = |name| match named.remove(name) {
        None | Some(Value::Null) => Ok(None),
        // `user_data` and `nonce` may be there and empty; nobody is satisfied by that.
        Some(Value::Bytes([])) if name != "public_key" => Ok(None),
        value => bytes(value.as_ref(), MAX_CALLERS, name).map(Some),
    };
    let (public_key, user_data, nonce) = (callers("public_key")?, callers("user_data")?, callers("nonce")?);
    if !named.is_empty() {
        return Err(Error::Member("a list of members that are all known"));
    }
    Ok(Document {
        module_id: module_id.to_owned(),
        timestamp: timestamp.ok_or(Error::Member("timestamp"))?,
        registers,
        certificate,
        cabundle,
        public_key,
        user_data,
        nonce,
    })
}

/// The instance that a module's name is of: `i-<hex>-tpm<hex>`; an enclave's is `i-<hex>-enc<hex>`.
#[must_use]
pub fn instance_of(module_id: &str) -> Option<&str> {
    let (instance, tpm) = module_id.split_once("-tpm")?;
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex(instance.strip_prefix("i-")?) && is_hex(tpm)).then_some(instance)
}

fn registers(value: Option<&Value<'_>>) -> Result<Values, Error> {
    const WHAT: Error = Error::Member("nitrotpm_pcrs");
    let Some(Value::Map(values)) = value else { return Err(WHAT) };
    let mut pcrs = BTreeMap::new();
    for value in values {
        let (Value::Unsigned(number), Value::Bytes(value)) = value else { return Err(WHAT) };
        let number = u8::try_from(*number).ok().filter(|number| *number < REGISTERS).ok_or(WHAT)?;
        if value.len() != Hash::Sha384.size() {
            return Err(WHAT);
        }
        pcrs.insert(number, value.to_vec());
    }
    if pcrs.is_empty() { Err(WHAT) } else { Ok(Values { bank: Hash::Sha384, pcrs }) }
}

fn bytes(value: Option<&Value<'_>>, most: usize, what: &'static str) -> Result<Vec<u8>, Error> {
    match value {
        Some(Value::Bytes(bytes)) if !bytes.is_empty() && bytes.len() <= most => Ok(bytes.to_vec()),
        _ => Err(Error::Member(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: u8, length: usize) -> Vec<u8> {
        let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
        match length {
            0..=23 => vec![kind << 5 | low],
            24..=255 => vec![kind << 5 | 0x18, low],
            _ => vec![kind << 5 | 0x19, high, low],
        }
    }

    fn byte_string(bytes: &[u8]) -> Vec<u8> {
        [head(2, bytes.len()), bytes.to_vec()].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [head(3, text.len()), text.as_bytes().to_vec()].concat()
    }

    fn list(items: &[Vec<u8>]) -> Vec<u8> {
        [head(4, items.len()), items.concat()].concat()
    }

    fn map(members: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let members: Vec<_> = members.iter().flat_map(|(key, value)| [key.as_slice(), value]).collect();
        [head(5, members.len() / 2), members.concat()].concat()
    }

    fn pcrs(number: u8, length: usize) -> Vec<u8> {
        map(&[(head(0, number.into()), byte_string(&vec![1; length]))])
    }

    /// A payload with nothing wrong but these members, which are left out where there is no value.
    fn payload(changes: &[(&'static str, Option<Vec<u8>>)]) -> Vec<u8> {
        let mut members = BTreeMap::from([
            ("module_id", text("i-0a-tpm00")),
            ("digest", text("SHA384")),
            ("timestamp", head(0, 1000)),
            ("nitrotpm_pcrs", pcrs(4, 48)),
            ("certificate", byte_string(&[1])),
            ("cabundle", list(&[byte_string(&[1])])),
        ]);
        for (name, value) in changes {
            members.remove(name);
            members.extend(value.clone().map(|value| (*name, value)));
        }
        map(&members.into_iter().map(|(name, value)| (text(name), value)).collect::<Vec<_>>())
    }

    /// The member that isn't in its form, or the kind of machine.
    fn refused(name: &'static str, value: Vec<u8>) -> Option<String> {
        match document(&payload(&[(name, Some(value))])) {
            Ok(_) => None,
            Err(Error::Member(member)) => Some(member.to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn each_member_is_there_in_its_form_and_within_its_bounds() {
        let one = || byte_string(&[1]);
        let of = |length| byte_string(&vec![1; length]);
        for (name, good, wrong) in [
            ("certificate", vec![one(), of(1024)], vec![of(0), of(1025), text("x")]),
            (
                "cabundle",
                vec![list(&[one()]), list(&vec![of(1024); 6])],
                vec![list(&[]), list(&vec![one(); 7]), list(&vec![one(); 8]), list(&[of(0)]), list(&[of(1025)]), one()],
            ),
            ("nitrotpm_pcrs", vec![pcrs(0, 48), pcrs(23, 48)], vec![pcrs(24, 48), pcrs(4, 47), pcrs(4, 49), map(&[])]),
            ("timestamp", vec![head(0, 0)], vec![one()]),
            ("digest", vec![], vec![text("SHA512")]),
            ("public_key", vec![vec![0xf6], one(), of(1024)], vec![of(0), of(1025), text("x")]),
            ("user_data", vec![vec![0xf6], one(), of(0), of(1024)], vec![of(1025), text("x")]),
            ("nonce", vec![vec![0xf6], one(), of(0), of(1024)], vec![of(1025), text("x")]),
        ] {
            for value in good {
                assert_eq!(refused(name, value.clone()), None, "{name} {value:?}");
            }
            for value in wrong {
                assert!(refused(name, value.clone()).is_some_and(|said| said.starts_with(name)), "{name} {value:?}");
            }
        }
        for name in ["module_id", "digest", "timestamp", "nitrotpm_pcrs", "certificate", "cabundle"] {
            assert!(document(&payload(&[(name, None)])).is_err(), "{name}");
        }
        assert!(refused("more", one()).is_some());
    }

    #[test]
    fn what_is_empty_or_nothing_was_not_said() {
        let said = |value: &[u8]| {
            let value = Some(value.to_vec());
            let Document { user_data, nonce, .. } =
                document(&payload(&[("user_data", value.clone()), ("nonce", value)])).unwrap();
            (user_data, nonce)
        };
        assert_eq!(said(&byte_string(&[7])), (Some(vec![7]), Some(vec![7])));
        assert_eq!(said(&byte_string(&[])), (None, None));
        assert_eq!(said(&[0xf6]), (None, None));
    }

    #[test]
    fn a_document_is_one_of_a_tpm_by_its_module_and_by_its_registers() {
        let wrong = |module: &str| Some(Error::Kind(module.to_owned()).to_string());
        for (module, instance) in [
            ("i-01cfb383223e42522-tpm0000000000000000", Some("i-01cfb383223e42522")),
            ("i-a-tpm0", Some("i-a")),
            ("i--tpm0", None),
            ("i-a-tpm", None),
            ("i-A-tpm0", None),
            ("i-a-tpmG", None),
            ("i-a-b-tpm0", None),
            ("a-tpm0", None),
            ("i-a-enc0", None),
        ] {
            assert_eq!(instance_of(module), instance, "{module}");
            assert_eq!(refused("module_id", text(module)), instance.map_or(wrong(module), |_| None), "{module}");
        }
        assert_eq!(refused("pcrs", pcrs(4, 48)), wrong("i-0a-tpm00"));
    }

    #[test]
    fn a_document_is_as_long_as_the_bound_says_or_shorter() {
        let of = |hex: usize| {
            let module = ("module_id", Some(text(&format!("i-0-tpm{}", "0".repeat(hex)))));
            list(&[byte_string(ES384), map(&[]), byte_string(&payload(&[module])), byte_string(&[1; SIGNATURE])])
        };
        let most = MAX_BYTES - (of(10_000).len() - 10_000);
        assert_eq!(of(most).len(), MAX_BYTES);
        assert!(Signed::parse(&of(most)).is_ok());
        for more in [1, 2] {
            assert_eq!(Signed::parse(&of(most + more)), Err(Error::Member("a document of at most 16 KiB")), "{more}");
        }
    }
}
