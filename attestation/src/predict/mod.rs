//! What a machine that boots a given unified kernel image will measure.
//!
//! The story, in the order it happens when the firmware starts a disk (TCG PC Client Platform Firmware Profile 1.05;
//! systemd-stub 252, `src/boot/efi/{stub,measure}.c`):
//! 1. the firmware hands over register 2 by a separator, which holds nothing else: no driver ran that isn't the firmware's
//!    own, from an adapter or by a variable that names one;
//! 2. it measures that it starts a boot option, a separator, and the [Authenticode](pe::Image::authenticode) hash of the
//!    image into register 4;
//! 3. the stub measures each of its sections, by name and by content, into register 11; a command line that somebody
//!    passes besides the embedded one into 12, system extensions beside it into 13: for us both stay zero;
//! 4. the stub starts the kernel inside it, which the firmware measures into register 4 again;
//! 5. the kernel's own stub measures command line and initial RAM disk into register 9.
//!
//! A TPM has a bank of registers for each hash, and the firmware measures into all of them: `NitroTPM` documents hold SHA-384.
//! Pure functions over bytes. Registers 0, 1, 3, 5 to 8 and 10 depend on firmware and machine and are not predicted.

pub mod pe;

use std::collections::BTreeMap;

pub use pe::Error;

use crate::tpm::Hash;

/// Value of a register: a digest of its bank's hash.
pub type Register = Vec<u8>;

/// Sections that the stub measures, in its own order (not the file's), and whether it measures them.
const MEASURED_SECTIONS: &[&str] = &[".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"];

/// The release of systemd-stub whose rules are known here.
const STUB_RELEASE: &str = "252";

/// The registers that a boot of an image determines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Register number to value.
    pub registers: BTreeMap<u8, Register>,
    /// Register number to the digests that lead to its value, in order; a register that nothing is measured into has none.
    pub events: BTreeMap<u8, Vec<Register>>,
    /// Authenticode hash of the image.
    pub authenticode: Register,
    /// The embedded kernel command line.
    pub command_line: String,
}

impl Prediction {
    /// Register numbers to hex values, as a measurement set wants them.
    #[must_use]
    pub fn to_hex(&self) -> BTreeMap<u8, Vec<String>> {
        self.registers.iter().map(|(index, value)| (*index, vec![hex::encode(value)])).collect()
    }

    /// Register numbers to the digests of their events, hex, as a measurement set wants them.
    #[must_use]
    pub fn events_to_hex(&self) -> BTreeMap<u8, Vec<String>> {
        let events = self.events.iter().filter(|(_, list)| !list.is_empty());
        events.map(|(index, list)| (*index, list.iter().map(hex::encode).collect())).collect()
    }
}

/// Predicts registers 2, 4, 9, 11, 12 and 13 of a bank for a unified kernel image with systemd-stub 252, booted without Secure
/// Boot from the default boot path, and with nothing in user space that extends register 11.
///
/// # Errors
/// When the image is malformed, lacks a section, or holds another release of the stub: other releases measure other
/// sections, and a guess would be a wrong reference value.
pub fn predict(image: &[u8], bank: Hash) -> Result<Prediction, Error> {
    let parsed = pe::Image::parse(image)?;
    let marker = parsed.section(".sdmagic")?;
    let release = stub_release(marker).ok_or(Error::Stub { found: "unknown".to_owned() })?;
    if release != STUB_RELEASE {
        return Err(Error::Stub { found: release });
    }
    let linux = parsed.section(".linux")?;
    let command_line = parsed.section(".cmdline")?;
    let initrd = parsed.section(".initrd")?;
    let text = std::str::from_utf8(command_line).map_err(|_| Error::CommandLine)?;
    let authenticode = parsed.authenticode(bank);
    let kernel = pe::Image::parse(linux)?.authenticode(bank);

    let mut sections = Vec::new();
    for name in MEASURED_SECTIONS {
        if let Some(content) = parsed.find(name)? {
            sections.push((*name, bank.digest(&[content])));
        }
    }
    let events = BTreeMap::from([
        (2, vec![separator(bank)]),
        (4, boot_applications(bank, &authenticode, &kernel)),
        (9, kernel_inputs(bank, text, &bank.digest(&[initrd]))),
        (11, stub_sections(bank, &sections)),
        (12, Vec::new()),
        (13, Vec::new()),
    ]);
    let registers = events.iter().map(|(index, list)| (*index, replay(bank, list))).collect();
    Ok(Prediction { registers, events, authenticode, command_line: text.trim_end_matches('\0').to_owned() })
}

/// Events of register 4: the firmware starts the image from a boot option, and the image starts the kernel inside it.
#[must_use]
pub fn boot_applications(bank: Hash, image: &[u8], kernel: &[u8]) -> Vec<Register> {
    let option = bank.digest(&[b"Calling EFI Application from Boot Option"]);
    vec![option, separator(bank), image.to_vec(), kernel.to_vec()]
}

/// What the firmware measures when it hands a register over.
fn separator(bank: Hash) -> Register {
    bank.digest(&[&[0; 4]])
}

/// Events of register 11: the stub's sections, name and content, in the order it measures them.
#[must_use]
pub fn stub_sections(bank: Hash, sections: &[(&str, Register)]) -> Vec<Register> {
    let events = sections.iter().map(|(name, content)| [bank.digest(&[name.as_bytes(), &[0]]), content.clone()]);
    events.flatten().collect()
}

/// Events of register 9: the kernel's EFI stub measures the command line, as the boot stub passed it (UTF-16, trailing blanks
/// off, control characters as blanks), and the initial RAM disk.
#[must_use]
pub fn kernel_inputs(bank: Hash, command_line: &str, initrd: &[u8]) -> Vec<Register> {
    let clean: String = command_line.chars().map(|each| if each < ' ' { ' ' } else { each }).collect();
    let wide: Vec<u8> = clean.trim_end_matches(' ').encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    vec![bank.digest(&[&wide]), initrd.to_vec()]
}

/// The value that events lead to from zero: each new value is the hash of the old one and the digest.
#[must_use]
pub fn replay(bank: Hash, events: &[impl AsRef<[u8]>]) -> Register {
    events.iter().fold(vec![0; bank.size()], |value, digest| bank.digest(&[&value, digest.as_ref()]))
}

/// The release in the stub's marker `#### LoaderInfo: systemd-stub 252.39-1 ####`.
fn stub_release(marker: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(marker).ok()?;
    let (_, rest) = text.split_once("systemd-stub ")?;
    let release: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!release.is_empty()).then_some(release)
}

#[cfg(test)]
mod tests;
