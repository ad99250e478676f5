//! What a guest writes into a `NitroTPM`'s buffer to be given an attestation document, and what it reads from there.
//!
//! Source: AWS, `aws-nitro-enclaves-nsm-api`, `Request::Attestation` and `Response`, in CBOR (RFC 8949): the enclaves'
//! interface, which a `NitroTPM` speaks as well.

/// Greatest member, bytes (EC2 User Guide, "`NitroTPM` attestation document").
pub const MAX_MEMBER: usize = 1024;
/// Longest name of a mistake that is repeated; those that are known are shorter.
const MAX_WORD: usize = 64;

/// Major types (RFC 8949, 3.1), in the upper three bits of the first byte.
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const MAP: u8 = 5;
const NULL: u8 = 0xf6;

/// What the document is to say.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Anything.
    pub user_data: Option<&'a [u8]>,
    /// What freshness is proved with.
    pub nonce: Option<&'a [u8]>,
    /// A key.
    pub public_key: Option<&'a [u8]>,
}

/// Why there is no document.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The answer has another form.
    #[error("the answer isn't an attestation")]
    Form,
    /// A member is longer than a document takes.
    #[error("{0} is empty or has more than {MAX_MEMBER} bytes")]
    Member(&'static str),
    /// The TPM says no.
    #[error("the NitroTPM refused: {0}")]
    Refused(String),
}

impl Request<'_> {
    /// Its bytes.
    ///
    /// # Errors
    /// [`Error::Member`]
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        head(&mut bytes, MAP, 1);
        text(&mut bytes, "Attestation");
        head(&mut bytes, MAP, 3);
        for (name, value) in [("user_data", self.user_data), ("nonce", self.nonce), ("public_key", self.public_key)] {
            text(&mut bytes, name);
            match value {
                None => bytes.push(NULL),
                Some(value) if value.is_empty() || value.len() > MAX_MEMBER => return Err(Error::Member(name)),
                Some(value) => {
                    head(&mut bytes, BYTES, value.len());
                    bytes.extend_from_slice(value);
                }
            }
        }
        Ok(bytes)
    }
}

/// The document in an answer. What follows in the buffer is left over from before, and isn't looked at.
///
/// # Errors
/// When the TPM refused, or answered with something else.
pub fn document(answer: &[u8]) -> Result<&[u8], Error> {
    let (kind, rest) = string(map_of_one(answer)?, TEXT)?;
    match kind {
        b"Attestation" => {
            let (name, rest) = string(map_of_one(rest)?, TEXT)?;
            let (document, _) = string(rest, BYTES)?;
            if name == b"document" && !document.is_empty() { Ok(document) } else { Err(Error::Form) }
        }
        b"Error" => {
            let (word, _) = string(rest, TEXT)?;
            let is_word = word.len() <= MAX_WORD && word.iter().all(u8::is_ascii_alphanumeric);
            let word = std::str::from_utf8(word).ok().filter(|_| is_word).ok_or(Error::Form)?;
            Err(Error::Refused(word.to_owned()))
        }
        _ => Err(Error::Form),
    }
}

/// The shortest head for a number below 65536.
fn head(bytes: &mut Vec<u8>, major: u8, number: usize) {
    let [low, high, ..] = number.to_le_bytes();
    match number {
        0..=23 => bytes.push(major << 5 | low),
        24..=255 => bytes.extend_from_slice(&[major << 5 | 0x18, low]),
        _ => bytes.extend_from_slice(&[major << 5 | 0x19, high, low]),
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    head(bytes, TEXT, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

/// A head of this type: its number, and what follows.
fn number(bytes: &[u8], major: u8) -> Result<(usize, &[u8]), Error> {
    let (first, rest) = bytes.split_first().ok_or(Error::Form)?;
    if first >> 5 != major {
        return Err(Error::Form);
    }
    match (first & 0x1f, rest) {
        (short @ 0..=23, rest) => Ok((usize::from(short), rest)),
        (24, [number, rest @ ..]) => Ok((usize::from(*number), rest)),
        (25, [high, low, rest @ ..]) => Ok((usize::from(u16::from_be_bytes([*high, *low])), rest)),
        _ => Err(Error::Form),
    }
}

/// What a map with one member holds; AWS writes maps of known and of indefinite length.
fn map_of_one(bytes: &[u8]) -> Result<&[u8], Error> {
    match bytes {
        [0xa1 | 0xbf, rest @ ..] => Ok(rest),
        _ => Err(Error::Form),
    }
}

fn string(bytes: &[u8], major: u8) -> Result<(&[u8], &[u8]), Error> {
    let (length, rest) = number(bytes, major)?;
    rest.split_at_checked(length).ok_or(Error::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nitro::{
        cbor::{self, Value},
        document::Signed,
    };

    /// A genuine document (`vectors/vaportpm`).
    const DOCUMENT: &[u8] = include_bytes!("../../vectors/vaportpm/nitrotpm_attestation_doc.cbor");

    fn answer(document: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xa1];
        text(&mut bytes, "Attestation");
        bytes.push(0xa1);
        text(&mut bytes, "document");
        head(&mut bytes, BYTES, document.len());
        bytes.extend_from_slice(document);
        bytes
    }

    #[test]
    fn a_request_is_the_map_that_the_interface_describes() {
        let request = Request { user_data: None, nonce: Some(&[7; 32]), public_key: Some(&[9; 300]) };
        let bytes = request.to_bytes().unwrap();
        let Value::Map(outer) = cbor::parse(&bytes).unwrap() else { panic!("no map") };
        let [(Value::Text("Attestation"), Value::Map(members))] = outer.as_slice() else { panic!("{outer:?}") };
        let wanted = [
            (Value::Text("user_data"), Value::Null),
            (Value::Text("nonce"), Value::Bytes(&[7; 32])),
            (Value::Text("public_key"), Value::Bytes(&[9; 300])),
        ];
        assert_eq!(members.as_slice(), wanted);
    }

    #[test]
    fn a_member_that_is_empty_or_too_long_is_not_asked_for() {
        let long = [0; MAX_MEMBER + 1];
        let ask = |nonce| Request { user_data: None, nonce: Some(nonce), public_key: None }.to_bytes();
        assert!(ask(&long[..MAX_MEMBER]).is_ok());
        assert_eq!(ask(&long), Err(Error::Member("nonce")));
        assert_eq!(ask(&[]), Err(Error::Member("nonce")));
    }

    #[test]
    fn a_genuine_document_comes_out_whatever_follows_it_in_the_buffer() {
        for rest in [&[][..], &[0xff; 100], b"\xa1kAttestation"] {
            let buffer = [&answer(DOCUMENT), rest].concat();
            assert_eq!(document(&buffer), Ok(DOCUMENT));
        }
        assert!(Signed::parse(DOCUMENT).is_ok());
    }

    #[test]
    fn a_refusal_is_told_and_everything_else_is_no_answer() {
        let error = [b"\xa1eErroro".as_slice(), b"InvalidArgument"].concat();
        assert_eq!(document(&error), Err(Error::Refused("InvalidArgument".into())));
        let good = answer(&[1; 300]);
        assert!(document(&good).is_ok());
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        for (bytes, why) in [
            (Vec::new(), "nothing"),
            (vec![0xff; 8192], "an empty buffer"),
            (good[..good.len() - 1].to_vec(), "cut off"),
            (changed(0, 0xa2), "two members"),
            (changed(2, b'x'), "another kind"),
            (changed(15, b'x'), "another name"),
            (changed(23, 0x79), "text instead of bytes"),
            (changed(23, 0x5b), "a length of eight bytes"),
            (answer(&[]), "an empty document"),
            (b"\xa1eErrorc\x1b[2".to_vec(), "control characters as a reason"),
        ] {
            assert_eq!(document(&bytes), Err(Error::Form), "{why}");
        }
    }
}
