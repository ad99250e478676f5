//! Reads a disk image: what it will measure, and a changed copy to show a refusal.

use std::collections::BTreeMap;
use std::path::Path;

use constellation_attestation::predict::{self, pe};
use constellation_attestation::tpm::Hash;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Result, invalid};
use crate::fat;

/// The word of the command line that names the version. Nothing in the node reads it: a change there changes the
/// registers, not the boot.
pub const VERSION_WORD: &str = "constellation.version=";

/// What a machine that boots an image will measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Register number to accepted values, hex, of the SHA-256 bank.
    pub pcrs: BTreeMap<u8, Vec<String>>,
    /// The same of the SHA-384 bank, which AWS's TPM signs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pcrs_sha384: BTreeMap<u8, Vec<String>>,
    /// Register number to the digests of the events that lead to it, hex, of the SHA-256 bank.
    pub events: BTreeMap<u8, Vec<String>>,
    /// Authenticode hash of the boot executable, hex.
    pub authenticode: String,
    /// Kernel command line.
    pub command_line: String,
}

/// Predicts the registers from the disk image alone.
///
/// # Errors
/// When the image is damaged or holds a boot stub whose measurements are not known.
pub fn predict(image: &Path) -> Result<Report> {
    let (_, partition) = disk::boot_partition(image)?;
    let executable = fat::find(&partition, &fat::BOOT_PATH)?.read(&partition)?;
    Ok(Report::of(&executable)?)
}

impl Report {
    /// Of a unified kernel image, in both banks.
    ///
    /// # Errors
    /// As [`predict::predict`].
    pub fn of(executable: &[u8]) -> std::result::Result<Self, predict::Error> {
        let found = predict::predict(executable, Hash::Sha256)?;
        Ok(Self {
            pcrs: found.to_hex(),
            pcrs_sha384: predict::predict(executable, Hash::Sha384)?.to_hex(),
            events: found.events_to_hex(),
            authenticode: hex::encode(found.authenticode),
            command_line: found.command_line,
        })
    }
}

/// Copies a disk image with one byte of its kernel command line changed: the last character of the version. The copy
/// boots like the original.
///
/// # Errors
/// When the image is damaged or its command line names no version.
pub fn tamper(image: &Path, target: &Path) -> Result<()> {
    let (start, partition) = disk::boot_partition(image)?;
    let file = fat::find(&partition, &fat::BOOT_PATH)?;
    let executable = file.read(&partition)?;
    let parsed = pe::Image::parse(&executable).map_err(|error| invalid("boot executable", error.to_string()))?;
    let row = parsed
        .sections()
        .iter()
        .find(|each| each.name == ".cmdline")
        .ok_or_else(|| invalid("boot executable", "no command line"))?;
    let line = parsed.section(".cmdline").map_err(|error| invalid("boot executable", error.to_string()))?;
    let line = std::str::from_utf8(line).map_err(|_| invalid("command line", "not text"))?;
    let word = line.find(VERSION_WORD).ok_or_else(|| invalid("command line", format!("no {VERSION_WORD}")))?;
    let begin = word + VERSION_WORD.len();
    let rest = line.get(begin..).unwrap_or_default();
    let length = rest.find([' ', '\0', '\n']).unwrap_or(rest.len());
    let old = rest
        .get(..length)
        .and_then(|each| each.bytes().last())
        .ok_or_else(|| invalid("command line", "an empty version"))?;
    let at =
        file.position(row.raw_offset + begin + length - 1).ok_or_else(|| invalid("boot partition", "it is cut off"))?;
    disk::copy(image, target)?;
    disk::poke(target, start + at as u64, changed(old))
}

/// The next digit or letter of the same kind, so that the word stays a plain word.
fn changed(old: u8) -> u8 {
    match old {
        b'9' => b'0',
        b'z' => b'a',
        b'Z' => b'A',
        other => other + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_character_stays_of_its_kind() {
        assert_eq!([b'1', b'9', b'a', b'z'].map(changed), [b'2', b'0', b'b', b'a']);
    }

    /// A whole disk with a small root and a boot executable made of the smallest stub.
    fn disk(folder: &Path, line: &str) -> std::path::PathBuf {
        let stub = crate::uki::tests::stub();
        let sections: [(&str, &[u8]); 4] =
            [(".osrel", b"ID=x\n"), (".cmdline", line.as_bytes()), (".linux", &stub), (".initrd", b"initrd")];
        let executable = crate::uki::build(&stub, &sections).unwrap();
        let root = folder.join("root");
        std::fs::write(&root, vec![3; 64 * 1024]).unwrap();
        let tree = crate::verity::tree(&root, &[1; 32], &[2; 16]).unwrap();
        let image = folder.join("image.raw");
        disk::assemble(&executable, &root, &tree, 1 << 20, &image).unwrap();
        image
    }

    #[test]
    fn two_disks_of_the_same_inputs_are_the_same() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let digests = folders.each_ref().map(|folder| crate::digest::file_hex(&disk(folder.path(), "quiet")).unwrap());
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn a_changed_copy_has_other_registers_4_9_and_11_and_one_other_byte() {
        let folder = tempfile::tempdir().unwrap();
        let image = disk(folder.path(), "quiet constellation.version=v1 more=x");
        let copy = folder.path().join("copy.raw");
        tamper(&image, &copy).unwrap();
        let (before, after) = (predict(&image).unwrap(), predict(&copy).unwrap());
        assert_eq!(after.command_line, "quiet constellation.version=v2 more=x");
        let changed: Vec<u8> =
            before.pcrs.iter().filter(|(index, value)| after.pcrs[index] != **value).map(|(index, _)| *index).collect();
        assert_eq!(changed, [4, 9, 11]);
        let bytes = [&image, &copy].map(|path| std::fs::read(path).unwrap());
        assert_eq!(bytes[0].iter().zip(&bytes[1]).filter(|(a, b)| a != b).count(), 1);
        assert_eq!(bytes[0].len(), bytes[1].len());
    }

    #[test]
    fn an_image_without_a_version_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let image = disk(folder.path(), "quiet");
        let copy = folder.path().join("copy.raw");
        assert!(tamper(&image, &copy).is_err());
        assert!(!copy.exists());
    }

    #[test]
    fn something_else_than_a_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.raw");
        std::fs::write(&path, vec![0; 64 * 1024]).unwrap();
        assert!(predict(&path).is_err());
        assert!(tamper(&path, &folder.path().join("copy.raw")).is_err());
    }
}
