//! Looks for secrets where none may be: in logs, in what the API shows to whom may not read Secrets, and in what
//! processes show of themselves. Each secret is looked for in every form that a careless hand gives it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, verbs},
};
use x509_parser::pem::Pem;

/// Shorter ones are found by chance.
const LEAST: usize = 16;
/// Before a P-256 key's scalar in SEC1 and PKCS#8 (RFC 5915, 3): an OCTET STRING of 32 bytes.
const SCALAR: &[u8] = &[0x04, 0x20];
const SCALAR_BYTES: usize = 32;

/// A secret in all its forms.
pub struct Secret {
    name: String,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Secret {
    /// Bytes that nobody may see.
    ///
    /// # Errors
    /// When they are so few that they would be found by chance.
    pub fn new(name: &str, bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= LEAST, "{name} has {} bytes only", bytes.len());
        let text = hex::encode(bytes);
        let mut forms = vec![
            ("raw", bytes.to_vec()),
            ("hex", text.to_uppercase().into_bytes()),
            ("hex", text.into_bytes()),
            ("debug", format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
        ];
        for shift in 0..3 {
            forms.push(("base64", inside(bytes, shift, |all| STANDARD_NO_PAD.encode(all))));
            forms.push(("base64url", inside(bytes, shift, |all| URL_SAFE_NO_PAD.encode(all))));
        }
        Ok(Self { name: name.to_owned(), forms })
    }

    /// The private scalar in a P-256 key, PEM, whatever is around it.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_key(name: &str, pem: &str) -> Result<Self> {
        let blocks = Pem::iter_from_buffer(pem.as_bytes()).filter_map(Result::ok);
        let keys = blocks.filter(|block| block.label.ends_with("PRIVATE KEY"));
        let scalar = keys.map(|block| block.contents).find_map(|der| {
            let start = der.windows(SCALAR.len()).position(|window| window == SCALAR)? + SCALAR.len();
            der.get(start..start + SCALAR_BYTES).map(<[u8]>::to_vec)
        });
        Self::new(name, &scalar.with_context(|| format!("{name} is no key"))?)
    }
}

/// The characters that encode `bytes` alone, with `shift` bytes of something before them.
fn inside(bytes: &[u8], shift: usize, encode: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let whole = (shift + bytes.len()) / 3 * 3 - shift;
    let text = encode(&[&vec![0; shift], &bytes[..whole]].concat()).into_bytes();
    // The first characters also hold bits of what is before.
    text[(shift * 8).div_ceil(6)..].to_vec()
}

/// What is looked through, by name.
#[derive(Default)]
pub struct Places(BTreeMap<String, Vec<u8>>);

impl Places {
    /// Something by name.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.insert(name.to_owned(), bytes.to_vec());
    }

    /// A file: a log.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        self.add(&path.display().to_string(), &bytes);
        Ok(())
    }

    /// Command line and environment of every process.
    ///
    /// # Errors
    /// When `/proc` can't be listed.
    pub fn add_processes(&mut self) -> Result<()> {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())) {
                continue;
            }
            for what in ["cmdline", "environ"] {
                // It may have ended.
                if let Ok(bytes) = fs::read(path.join(what)) {
                    self.add(&path.join(what).display().to_string(), &bytes);
                }
            }
        }
        Ok(())
    }

    /// Every object that the API server has, Events among them, but Secrets.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn add_objects(&mut self, client: &Client) -> Result<()> {
        let discovery = Discovery::new(client.clone()).run().await?;
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                if resource.kind == "Secret" || !capabilities.supports_operation(verbs::LIST) {
                    continue;
                }
                let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                let list = api.list(&ListParams::default()).await.with_context(|| resource.plural.clone())?;
                let name = format!("{} of {}", resource.plural, resource.api_version);
                self.add(&name, &serde_json::to_vec(&list.items)?);
            }
        }
        Ok(())
    }

    /// Names of all places.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Where the secrets are.
    #[must_use]
    pub fn find(&self, secrets: &[Secret]) -> Vec<String> {
        let mut found = Vec::new();
        for (place, bytes) in &self.0 {
            // PEM breaks its lines; in JSON the breaks are two characters.
            let joined = String::from_utf8_lossy(bytes).replace("\\n", "").replace(['\n', ' '], "").into_bytes();
            for secret in secrets {
                for (form, needle) in &secret.forms {
                    let whole = |hay: &[u8]| contains(hay, needle);
                    let spaced: Vec<u8> = needle.iter().copied().filter(|byte| *byte != b' ').collect();
                    if whole(bytes) || (*form != "raw" && contains(&joined, &spaced)) {
                        found.push(format!("{} as {form} in {place}", secret.name));
                    }
                }
            }
        }
        found.dedup();
        found
    }
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut hay = hay;
    while let Some(place) = hay.iter().position(|byte| byte == first) {
        hay = &hay[place + 1..];
        if hay.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8; 32] = b"\x00\x01secret with 32 bytes or some\xfe\xff";

    fn found(place: &[u8]) -> bool {
        let mut places = Places::default();
        places.add("place", place);
        !places.find(&[Secret::new("secret", SECRET).unwrap()]).is_empty()
    }

    #[test]
    fn a_secret_is_found_in_each_form_at_each_place_and_something_else_is_not() {
        use base64::engine::general_purpose::STANDARD;
        for before in [&b""[..], b"a", b"ab", b"abc", b"abcd"] {
            let embedded = [before, SECRET, b"behind"].concat();
            for place in [
                embedded.clone(),
                hex::encode(&embedded).into_bytes(),
                hex::encode_upper(&embedded).into_bytes(),
                STANDARD.encode(&embedded).into_bytes(),
                URL_SAFE_NO_PAD.encode(&embedded).into_bytes(),
                format!("{embedded:?}").into_bytes(),
                format!("{embedded:#?}").into_bytes(),
                serde_json::to_vec(&embedded).unwrap(),
            ] {
                assert!(found(&place), "{}", String::from_utf8_lossy(&place));
            }
            let broken: Vec<_> = STANDARD.encode(&embedded).into_bytes().chunks(7).collect::<Vec<_>>().join(&b'\n');
            assert!(found(&broken));
        }
        assert!(
            !found(&[&SECRET[..31], b"x"].concat()) && !found(b"") && !found(&hex::encode(&SECRET[1..]).into_bytes())
        );
    }

    #[test]
    fn the_secret_of_a_key_is_its_scalar() {
        let key = rcgen::KeyPair::generate().unwrap();
        let (pem, der) = (key.serialize_pem(), key.serialize_der());
        let secret = [Secret::of_key("key", &pem).unwrap()];
        for (place, expected) in [
            (pem.clone().into_bytes(), true),
            (serde_json::to_vec(&pem).unwrap(), true),
            (der, true),
            (key.public_key_pem().into_bytes(), false),
        ] {
            let mut places = Places::default();
            places.add("place", &place);
            assert_eq!(!places.find(&secret).is_empty(), expected);
        }
        assert!(Secret::of_key("no key", &key.public_key_pem()).is_err() && Secret::new("short", b"short").is_err());
    }
}
