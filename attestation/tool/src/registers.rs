//! Registers that a reference names: `FILE#KEY` is the object under a key of a JSON file, `FILE` the whole file.
//!
//! The object holds register numbers and hex values itself, or under `pcrs`, and there by bank or of one bank, which the
//! length of its values tells. Every bank that is accepted is kept; a bank that isn't (SHA-1) proves nothing.

use std::{collections::BTreeMap, path::Path};

use constellation_attestation::tpm::{Hash, quote::REGISTERS, quote::Values};
use serde_json::value::RawValue;

use crate::{
    input::{self, Error},
    strict::Members,
};

/// Banks by the name of their hash, and whether they prove something.
const BANKS: [(&str, Option<Hash>); 3] =
    [("sha1", None), ("sha256", Some(Hash::Sha256)), ("sha384", Some(Hash::Sha384))];

/// Values of registers, by bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banks(BTreeMap<Hash, Values>);

impl Banks {
    /// The values of a bank; of another one where it isn't named, so that none of them is met.
    #[must_use]
    pub fn of(&self, bank: Hash) -> Option<&Values> {
        self.0.get(&bank).or_else(|| self.0.values().next())
    }

    /// Every accepted bank that is named.
    pub fn all(&self) -> impl Iterator<Item = &Values> {
        self.0.values()
    }
}

/// Reads the registers that a reference names.
///
/// # Errors
/// When there is no such file or key, or what is there isn't registers of banks, each named once.
pub fn read(folder: &Path, reference: &str) -> Result<Banks, Error> {
    let (file, key) = match reference.rsplit_once('#') {
        Some((file, key)) => (file, Some(key)),
        None => (reference, None),
    };
    let mut object: Object = input::json(&folder.join(file), "a JSON object")?;
    if let Some(key) = key {
        object = inner(reference, &object, key)?.ok_or_else(|| Error::said(reference, "there is no such key"))?;
    }
    if let Some(pcrs) = inner(reference, &object, "pcrs")? {
        object = pcrs;
    }
    if BANKS.iter().any(|(name, _)| object.0.contains_key(*name)) {
        banks(reference, &object)
    } else {
        flat(reference, &object)
    }
}

/// An object whose members aren't looked at yet.
type Object = Members<Box<RawValue>>;

fn inner<T: serde::de::DeserializeOwned>(what: &str, object: &Object, key: &str) -> Result<Option<T>, Error> {
    let read =
        |value: &RawValue| serde_json::from_str(value.get()).map_err(|e| Error::value(format!("{what}: {key}"), &e));
    object.0.get(key).map(|value| read(value)).transpose()
}

fn banks(what: &str, object: &Object) -> Result<Banks, Error> {
    if let Some(register) = object.0.keys().find(|key| number(key).is_some()) {
        return Err(Error::said(what, format!("register {register} stands beside the banks and in none of them")));
    }
    if let Some(other) = object.0.keys().find(|key| !BANKS.iter().any(|(name, _)| name == key)) {
        return Err(Error::said(what, format!("{other:?} isn't a bank")));
    }
    let mut found = BTreeMap::new();
    for (name, bank) in BANKS {
        if let (Some(bank), Some(values)) = (bank, inner::<Members<String>>(what, object, name)?) {
            found.insert(bank, values_of(what, bank, &values)?);
        }
    }
    Ok(Banks(found))
}

/// Of one bank: values of 48 bytes are those of SHA-384.
fn flat(what: &str, object: &Object) -> Result<Banks, Error> {
    let text = |key: &String| Ok((key.clone(), inner::<String>(what, object, key)?.unwrap_or_default()));
    let values = Members(object.0.keys().map(text).collect::<Result<_, Error>>()?);
    let long = values.0.values().next().is_some_and(|value| value.len() == 2 * Hash::Sha384.size());
    let bank = if long { Hash::Sha384 } else { Hash::Sha256 };
    Ok(Banks(BTreeMap::from([(bank, values_of(what, bank, &values)?)])))
}

fn values_of(what: &str, bank: Hash, values: &Members<String>) -> Result<Values, Error> {
    let mut pcrs = BTreeMap::new();
    for (register, digits) in &values.0 {
        let number = number(register)
            .ok_or_else(|| Error::said(what, format!("{register:?} isn't a register of 0 to {}", REGISTERS - 1)))?;
        let value = input::hex(&format!("{what}: register {number}"), digits)?;
        if value.len() != bank.size() {
            return Err(Error::said(what, format!("{} bytes where {} are wanted", value.len(), bank.size())));
        }
        if pcrs.insert(number, value).is_some() {
            return Err(Error::said(what, format!("register {number} is there twice")));
        }
    }
    Ok(Values { bank, pcrs })
}

fn number(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < REGISTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, reference: &str) -> Result<Vec<(Hash, usize)>, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), json).unwrap();
        let banks = read(folder.path(), reference)?;
        Ok(banks.all().map(|values| (values.bank, values.pcrs.len())).collect())
    }

    #[test]
    fn every_accepted_bank_is_kept_and_of_an_unnamed_one_the_length_tells() {
        let (short, long) = ("00".repeat(32), "11".repeat(48));
        let both =
            format!(r#"{{"sha1":{{"0":"00"}},"sha256":{{"1":"{short}"}},"sha384":{{"1":"{long}","2":"{long}"}}}}"#);
        for (object, wanted) in [
            (format!(r#"{{"1":"{short}"}}"#), &[(Hash::Sha256, 1)][..]),
            (format!(r#"{{"1":"{long}","02":"{long}"}}"#), &[(Hash::Sha384, 2)]),
            (format!(r#"{{"pcrs":{{"1":"{long}"}}}}"#), &[(Hash::Sha384, 1)]),
            (both.clone(), &[(Hash::Sha256, 1), (Hash::Sha384, 2)]),
            (format!(r#"{{"pcrs":{both}}}"#), &[(Hash::Sha256, 1), (Hash::Sha384, 2)]),
            (r#"{"sha1":{"0":"00"}}"#.to_owned(), &[]),
        ] {
            assert_eq!(found(&format!(r#"{{"k":{object}}}"#), "f#k").unwrap(), wanted, "{object}");
            assert_eq!(found(&object, "f").unwrap(), wanted, "{object}");
        }
        assert_eq!(found(&format!(r#"{{"k":1,"pcrs":{both}}}"#), "f#pcrs").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_register_or_there_twice_or_of_two_banks_at_once_is_refused() {
        let (short, long) = ("00".repeat(32), "11".repeat(48));
        for wrong in [
            format!(r#"{{"1":"{short}","1":"{short}"}}"#),
            format!(r#"{{"1":"{short}","01":"{short}"}}"#),
            format!(r#"{{"sha256":{{"1":"{short}","1":"{short}"}}}}"#),
            format!(r#"{{"sha256":{{"1":"{short}"}},"sha256":{{"2":"{short}"}}}}"#),
            format!(r#"{{"sha384":{{"1":"{long}","001":"{long}"}}}}"#),
            format!(r#"{{"1":"{short}","2":"{long}"}}"#),
            format!(r#"{{"sha256":{{"1":"{short}"}},"2":"{short}"}}"#),
            format!(r#"{{"sha256":{{"1":"{long}"}}}}"#),
            format!(r#"{{"x":"{short}"}}"#),
            format!(r#"{{"+1":"{short}"}}"#),
            format!(r#"{{"24":"{short}"}}"#),
            format!(r#"{{"":"{short}"}}"#),
            r#"{"1":null}"#.to_owned(),
            r#"{"sha256":null}"#.to_owned(),
            r#"{"sha256":[]}"#.to_owned(),
            "[]".to_owned(),
        ] {
            assert!(found(&format!(r#"{{"k":{wrong}}}"#), "f#k").is_err(), "{wrong}");
        }
        assert!(found("{}", "f#k").is_err());
        assert!(found("{}", "absent#k").is_err());
    }
}
