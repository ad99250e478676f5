//! What a LUKS2 header must say before its disk is opened: the host can write it, and so choose the cipher. Pure.
//!
//! Sources: "LUKS2 On-Disk Format Specification" 1.1.1, section 3 (the JSON area); CVE-2025-59054 and CVE-2025-58356
//! (a header that names the null cipher makes a guest write in clear, or accept a volume that it did not make).

use std::collections::BTreeMap;

use serde::Deserialize;

/// The only cipher, of the data and of the key's slot.
pub const CIPHER: &str = "aes-xts-plain64";
/// Bytes of its two keys (AES-256).
const CIPHER_KEY: u32 = 64;
/// What authenticates sectors, as the header writes it; its key is the hash's size.
const INTEGRITY: &str = "hmac(sha256)";
const INTEGRITY_KEY: u32 = 32;
/// Bytes of a sector: one page, so that a whole page is never read to be changed in part.
pub const SECTOR: u32 = 4096;
/// Bytes before the data: both copies of the header and the slots (cryptsetup's default for LUKS2).
pub const SIZE: u64 = 16 << 20;
/// Type of the token that is written when a new volume holds its file system.
pub const COMPLETE: &str = "constellation-complete";

/// What a header that may be used says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether sectors are authenticated.
    pub integrity: bool,
    /// Whether formatting went to its end. If not, nothing was ever stored.
    pub complete: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    keyslots: BTreeMap<String, Keyslot>,
    tokens: BTreeMap<String, Token>,
    segments: BTreeMap<String, Segment>,
    digests: BTreeMap<String, Digest>,
    #[serde(rename = "config")]
    _config: Config,
}

#[derive(Deserialize)]
struct Keyslot {
    r#type: String,
    key_size: u32,
    area: Area,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    r#type: String,
    encryption: String,
    key_size: u32,
    #[serde(rename = "offset")]
    _offset: String,
    #[serde(rename = "size")]
    _size: String,
}

#[derive(Deserialize)]
struct Token {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Segment {
    r#type: String,
    offset: String,
    size: String,
    iv_tweak: String,
    encryption: String,
    sector_size: u32,
    integrity: Option<Tag>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tag {
    r#type: String,
    #[serde(rename = "journal_encryption")]
    _journal_encryption: String,
    #[serde(rename = "journal_integrity")]
    _journal_integrity: String,
}

#[derive(Deserialize)]
struct Digest {
    keyslots: Vec<String>,
    segments: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "json_size")]
    _json_size: String,
    #[serde(rename = "keyslots_size")]
    _keyslots_size: String,
}

/// Reads the JSON area as `cryptsetup luksDump --dump-json-metadata` prints it.
///
/// # Errors
/// What differs from the one form that this program writes.
pub fn check(json: &str) -> Result<Header, String> {
    let metadata: Metadata = serde_json::from_str(json).map_err(|error| error.to_string())?;
    // Power went while it was made: the key slot comes after the rest. Nothing was ever on it that somebody could read.
    if metadata.keyslots.is_empty() && metadata.tokens.is_empty() {
        return Ok(Header { integrity: false, complete: false });
    }
    let segment = only(&metadata.segments, "segment")?;
    let keyslot = only(&metadata.keyslots, "key slot")?;
    let digest = only(&metadata.digests, "digest")?;
    let integrity = match &segment.integrity {
        None => false,
        Some(found) if found.r#type == INTEGRITY => true,
        Some(found) => return Err(format!("integrity {:?}, not {INTEGRITY}", found.r#type)),
    };
    let key = CIPHER_KEY + if integrity { INTEGRITY_KEY } else { 0 };
    let wanted: [(&str, bool); 10] = [
        ("the segment isn't encrypted", segment.r#type == "crypt"),
        ("the data has another cipher", segment.encryption == CIPHER),
        ("the data starts elsewhere", segment.offset == SIZE.to_string()),
        ("the data ends elsewhere", segment.size == "dynamic" && segment.iv_tweak == "0"),
        ("sectors have another size", segment.sector_size == SECTOR),
        ("the key slot has another type", keyslot.r#type == "luks2" && keyslot.area.r#type == "raw"),
        ("the key slot has another cipher", keyslot.area.encryption == CIPHER),
        ("the key slot's cipher has another key size", keyslot.area.key_size == CIPHER_KEY),
        ("the key has another size", keyslot.key_size == key),
        ("the digest isn't of the key and the data", digest.keyslots == ["0"] && digest.segments == ["0"]),
    ];
    if let Some((problem, _)) = wanted.iter().find(|(_, holds)| !holds) {
        return Err((*problem).to_owned());
    }
    Ok(Header { integrity, complete: metadata.tokens.values().any(|token| token.r#type == COMPLETE) })
}

fn only<'a, T>(entries: &'a BTreeMap<String, T>, what: &str) -> Result<&'a T, String> {
    match entries.get("0") {
        Some(entry) if entries.len() == 1 => Ok(entry),
        _ => Err(format!("{} {what}s, not the one with number 0", entries.len())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As cryptsetup 2.6.1 writes it.
    fn written(integrity: bool) -> Value {
        let mut metadata = json!({
            "keyslots": {"0": {
                "type": "luks2", "key_size": 64,
                "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
                "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": CIPHER, "key_size": 64},
                "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": "UaZ8qdqHvzgEQuvhU4jOGg=="}
            }},
            "tokens": {},
            "segments": {"0": {
                "type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0", "encryption": CIPHER,
                "sector_size": 4096
            }},
            "digests": {"0": {
                "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": 1000,
                "salt": "jWxuzPGcVG/JWjI+TiC5Yw==", "digest": "oYMpNE9AyyjGpK+lKpBd+g=="
            }},
            "config": {"json_size": "12288", "keyslots_size": "16744448"}
        });
        if integrity {
            metadata["keyslots"]["0"]["key_size"] = json!(96);
            metadata["segments"]["0"]["integrity"] =
                json!({"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"});
        }
        metadata
    }

    #[test]
    fn what_cryptsetup_writes_for_us_is_taken_with_and_without_integrity() {
        for integrity in [false, true] {
            let mut metadata = written(integrity);
            assert_eq!(check(&metadata.to_string()), Ok(Header { integrity, complete: false }));
            metadata["tokens"]["0"] = json!({"type": COMPLETE, "keyslots": []});
            assert_eq!(check(&metadata.to_string()), Ok(Header { integrity, complete: true }));
        }
    }

    #[test]
    fn a_header_with_exactly_one_thing_changed_is_refused() {
        for (pointer, value) in [
            ("/segments/0/encryption", json!("cipher_null-ecb")),
            ("/segments/0/type", json!("linear")),
            ("/segments/0/offset", json!("33554432")),
            ("/segments/0/size", json!("4096")),
            ("/segments/0/iv_tweak", json!("8")),
            ("/segments/0/sector_size", json!(512)),
            ("/segments/0/integrity/type", json!("none")),
            ("/segments/0/integrity", Value::Null),
            ("/keyslots/0/type", json!("reencrypt")),
            ("/keyslots/0/key_size", json!(64)),
            ("/keyslots/0/area/encryption", json!("cipher_null-ecb")),
            ("/keyslots/0/area/type", json!("none")),
            ("/keyslots/0/area/key_size", json!(32)),
            ("/digests/0/keyslots", json!([])),
            ("/digests/0/segments", json!(["1"])),
        ] {
            let mut metadata = written(true);
            *metadata.pointer_mut(pointer).unwrap() = value;
            assert!(check(&metadata.to_string()).is_err(), "{pointer}");
        }
    }

    #[test]
    fn a_header_whose_making_was_cut_off_holds_nothing() {
        let mut metadata = written(true);
        metadata["keyslots"] = json!({});
        assert_eq!(check(&metadata.to_string()), Ok(Header { integrity: false, complete: false }));
        metadata["tokens"]["0"] = json!({"type": COMPLETE, "keyslots": []});
        assert!(check(&metadata.to_string()).is_err(), "a whole one that lost its key");
    }

    #[test]
    fn one_thing_more_is_refused() {
        for (pointer, name) in [
            ("/segments", "1"),
            ("/keyslots", "1"),
            ("/digests", "1"),
            ("/segments/0", "flags"),
            ("/config", "requirements"),
            ("", "more"),
        ] {
            let mut metadata = written(false);
            let copy = metadata.pointer("/segments/0").unwrap().clone();
            metadata.pointer_mut(pointer).unwrap()[name] = copy;
            assert!(check(&metadata.to_string()).is_err(), "{pointer}/{name}");
        }
        assert!(check("").is_err() && check("{}").is_err());
    }
}
