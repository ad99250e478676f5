//! Files and values that the commands are given, and what is said when one can't be used.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use x509_parser::pem::Pem;

/// Greatest file that is read, bytes: above every piece of evidence; images are read by [`crate::predict`].
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why an input can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("reading {path} failed")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than any that makes sense here.
    #[error("{path} is larger than {limit} bytes")]
    Large {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A file isn't the JSON that it should be.
    #[error("{path} isn't {what}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// A value can't be used.
    #[error("{what}: {problem}")]
    Value {
        /// Which.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// A value that can't be used, with all causes.
    pub fn value(what: impl Into<String>, problem: &dyn std::error::Error) -> Self {
        Self::Value { what: what.into(), problem: chain(problem) }
    }

    /// A value that can't be used, with the reason in words.
    pub fn said(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { what: what.into(), problem: problem.into() }
    }
}

/// An error and its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Reads a file of at most [`MAX_BYTES`].
///
/// # Errors
/// When it can't be read or is larger.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_up_to(path, MAX_BYTES)
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// When it can't be read or is larger.
pub fn read_up_to(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let refuse = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(refuse)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(refuse)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Large { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Reads a file of text.
///
/// # Errors
/// When it can't be read or isn't UTF-8.
pub fn text(path: &Path) -> Result<String, Error> {
    String::from_utf8(read(path)?).map_err(|e| Error::value(path.display().to_string(), &e))
}

/// Reads a file of JSON.
///
/// # Errors
/// When it can't be read or isn't of this form.
pub fn json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T, Error> {
    serde_json::from_slice(&read(path)?).map_err(|source| Error::Json { path: path.to_owned(), what, source })
}

/// Reads a file of one certificate, DER or PEM with whatever text before it; gives DER.
///
/// # Errors
/// When it can't be read, or is PEM of something else or of more than one.
pub fn certificate(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read(path)?;
    if !is_pem(&bytes) {
        return Ok(bytes);
    }
    let refuse = || Error::said(path.display().to_string(), "isn't one certificate in PEM");
    let mut all = Pem::iter_from_buffer(&bytes);
    let first = all.next().and_then(Result::ok).filter(|pem| pem.label == "CERTIFICATE").ok_or_else(refuse)?;
    // One that is cut off counts: whoever wrote it wanted it.
    if bytes.windows(MARK.len()).filter(|window| *window == MARK).count() > 1 {
        return Err(refuse());
    }
    Ok(first.contents)
}

/// Begins a block of PEM.
const MARK: &[u8] = b"-----BEGIN";

/// Whether a file is PEM. What stands before its first line is for people; DER begins with a length that no text has.
fn is_pem(bytes: &[u8]) -> bool {
    let is_der = matches!(bytes, [0x30, 0x80..=0xff, ..]);
    let line = |line: &[u8]| line.trim_ascii_start().starts_with(MARK);
    !is_der && bytes.split(|byte| *byte == b'\n').any(line)
}

/// Reads a file of a TDX quote: its bytes, or their hex digits as text. A quote begins with its version, which is none.
///
/// # Errors
/// When it can't be read.
pub fn quote(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read(path)?;
    let text = bytes.trim_ascii();
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    Ok(hex::decode(digits).ok().filter(|quote| !quote.is_empty()).unwrap_or(bytes))
}

/// Reads a file that should hold a certificate of the evidence; gives DER of the first, or the bytes as they are: what
/// they are worth is for the verifier to say.
///
/// # Errors
/// When it can't be read.
pub fn shown_certificate(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read(path)?;
    let first = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok);
    Ok(first.map_or(bytes, |pem| pem.contents))
}

/// Parses hex digits.
///
/// # Errors
/// When they aren't.
pub fn hex(what: &str, digits: &str) -> Result<Vec<u8>, Error> {
    hex::decode(digits).map_err(|e| Error::value(what, &e))
}

/// A point in time: RFC 3339 or Unix seconds, as text or number.
///
/// # Errors
/// When it is neither.
pub fn timestamp(text: &str) -> Result<Timestamp, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        let seconds = text.parse().map_err(|e: std::num::ParseIntError| e.to_string())?;
        return Timestamp::from_second(seconds).map_err(|e| e.to_string());
    }
    if !is_rfc_3339(text) {
        return Err("it is neither RFC 3339, as 2026-11-20T00:00:00Z, nor Unix seconds".to_owned());
    }
    text.parse().map_err(|e: jiff::Error| e.to_string())
}

/// Whether a text has the form of RFC 3339, 5.6, without its leap second: a reader that takes more forms may take another
/// time out of them.
fn is_rfc_3339(text: &str) -> bool {
    /// A `0` stands for any digit.
    fn is(text: &str, form: &str) -> bool {
        let same = |(c, f): (u8, u8)| if f == b'0' { c.is_ascii_digit() } else { c.eq_ignore_ascii_case(&f) };
        text.len() == form.len() && text.bytes().zip(form.bytes()).all(same)
    }
    const DATE_TIME: &str = "0000-00-00T00:00:00";
    let Some((date_time, rest)) = text.split_at_checked(DATE_TIME.len()) else { return false };
    let offset = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
    };
    let is_offset = is(offset, "Z")
        || ["+00:00", "-00:00"].iter().any(|form| is(offset, form)) && offset.get(1..3).is_some_and(|hour| hour < "24");
    is(date_time, DATE_TIME) && !date_time.ends_with("60") && is_offset
}

/// Reads a [`timestamp`] from a manifest.
pub(crate) fn deserialize_timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Seconds(i64),
        Text(String),
    }
    let parsed = match Option::<Form>::deserialize(from)? {
        None => return Ok(None),
        Some(Form::Seconds(seconds)) => Timestamp::from_second(seconds).map_err(|e| e.to_string()),
        Some(Form::Text(text)) => timestamp(&text),
    };
    parsed.map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_unix_seconds_and_nothing_else() {
        assert_eq!(timestamp("2026-11-20T00:00:00Z").unwrap(), timestamp("1795132800").unwrap());
        for same in ["2026-11-20t00:00:00z", "2026-11-20T01:00:00+01:00", "2026-11-20T00:00:00.000-00:00"] {
            assert_eq!(timestamp(same).unwrap(), timestamp("1795132800").unwrap(), "{same}");
        }
        assert_eq!(timestamp("-1").unwrap(), timestamp("1969-12-31T23:59:59Z").unwrap());
        for wrong in [
            "",
            "-",
            "yesterday",
            "2026-11-20",
            "1e9",
            "+1",
            "1.5",
            "99999999999999999999",
            "2026-11-20T00:00:60Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20 00:00:00Z",
            "20261120T000000Z",
            "2026-11-20T00:00Z",
            "2026-11-20T00:00:00",
            "2026-11-20T00:00:00.Z",
            "2026-11-20T00:00:00,5Z",
            "2026-11-20T00:00:00+01",
            "2026-11-20T00:00:00+0100",
            "2026-11-20T00:00:00+25:00",
            "2026-11-20T00:00:00Z[UTC]",
            "2026-11-20T00:00:00+00:00[UTC]",
            "2026-11-20T00:00:00[UTC]",
            "+002026-11-20T00:00:00Z",
            " 2026-11-20T00:00:00Z",
        ] {
            assert!(timestamp(wrong).is_err(), "{wrong}");
        }
    }

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_quote_in_hex_digits_is_the_same_quote() {
        let binary = [4, 0, 2, 0, 0x81];
        for text in ["0400020081", "0x0400020081\n", "  0400020081 \r\n"] {
            assert_eq!(quote(written(text.as_bytes()).path()).unwrap(), binary, "{text}");
        }
        for other in [&binary[..], b"", b"0x", b"040002008", b"0400020081zz", b"0x0x04", b"\x04\0"] {
            assert_eq!(quote(written(other).path()).unwrap(), other);
        }
    }

    #[test]
    fn a_certificate_in_pem_may_have_text_before_it_and_is_one() {
        let der = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../src/snp/ark_milan.der")).unwrap();
        let line = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{line}\n-----END CERTIFICATE-----\n");
        for good in [pem.clone(), format!("subject=CN = ARK-Milan\n0 text\r\n\n{pem}"), format!("{pem}text\n")] {
            assert_eq!(certificate(written(good.as_bytes()).path()).unwrap(), der, "{good}");
        }
        assert_eq!(certificate(written(&der).path()).unwrap(), der);
        let key = pem.replace("CERTIFICATE", "PRIVATE KEY");
        for wrong in [format!("text\n{pem}{pem}"), format!("text\n{key}"), format!("text\n{key}{pem}")] {
            assert!(certificate(written(wrong.as_bytes()).path()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 5]).unwrap();
        assert_eq!(read_up_to(file.path(), 5).unwrap().len(), 5);
        assert!(matches!(read_up_to(file.path(), 4), Err(Error::Large { .. })));
    }
}
