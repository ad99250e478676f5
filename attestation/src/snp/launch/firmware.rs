//! A firmware image, and what it says about itself: the table of identified entries near its end, and in it the sections
//! that a monitor has to prepare (edk2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` and `X64/OvmfSevMetadata.asm`).
//!
//! Total and bounded. Stricter than monitors are where a firmware that differs couldn't start: a predicted digest of
//! a machine that never runs helps nobody.

use super::{context::PAGE_BYTES, hashes};
use crate::bytes::{Reader, Short};

/// Greatest image, bytes: what QEMU maps below 4 GiB (`hw/i386/pc_sysfw.c`, `max_fw_size`, 8 MiB by default), doubled.
pub const MAX_BYTES: usize = 16 << 20;
/// Greatest number of sections; edk2's images have 7.
pub const MAX_SECTIONS: usize = 64;
/// Greatest sum of the sections' bytes: each of their pages is one more hash. edk2's images have 128 KiB.
pub const MAX_SECTION_BYTES: u64 = 16 << 20;

/// Where the image ends in memory.
const END: u64 = 1 << 32;
/// Bytes behind the table: the reset vector.
const RESET_BYTES: usize = 32;
/// Bytes of an entry's own end: length and identity.
const ENTRY_BYTES: usize = 2 + 16;
/// Greatest number of entries; edk2's images have 6.
const MAX_ENTRIES: usize = 64;

/// Identifies the table itself.
const TABLE: Guid = Guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
/// Identifies the address at which processors other than the first begin.
const RESET_BLOCK: Guid = Guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
/// Identifies the place of the sections' description.
const METADATA: Guid = Guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);
/// Identifies the place of a kernel's hashes.
const HASH_TABLE: Guid = Guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);

/// An identifier in the form of EFI: the first three parts little-endian (UEFI Specification 2.10, appendix A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub u32, pub u16, pub u16, pub u64);

impl Guid {
    /// As it stands in memory.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let Self(first, second, third, rest) = self;
        [&first.to_le_bytes()[..], &second.to_le_bytes(), &third.to_le_bytes(), &rest.to_be_bytes()].concat()
    }
}

/// What a section is for (edk2, `OvmfSevMetadata.asm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// 3: the page with the values of CPUID.
    Cpuid,
    /// 4: calling area of a secure service module.
    CallingArea,
    /// 0x10: the page with a kernel's hashes.
    KernelHashes,
    /// 1: memory that the firmware uses before it can accept any.
    Memory,
    /// 2: the page with secrets from the processor.
    Secrets,
}

/// Pages that the monitor prepares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What for.
    pub kind: SectionKind,
    /// Address of the first.
    pub address: u64,
    /// Their bytes, whole pages.
    pub bytes: u64,
}

/// Why a file isn't firmware that starts SEV-SNP guests.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file's size is of no image.
    #[error("{0} bytes: a firmware image has whole pages of 4096 bytes and at most {MAX_BYTES} bytes")]
    Size(usize),
    /// There is no table at its end.
    #[error("no OVMF image: its table isn't at the end; give the file that the machine starts with, whole (OVMF.fd)")]
    NoTable,
    /// The table lacks an entry.
    #[error(
        "this firmware can't start SEV-SNP guests: its table has no {0}; use one that is built for them, as edk2's OvmfPkg/AmdSev"
    )]
    Missing(&'static str),
    /// A part contradicts another or the image.
    #[error("the firmware is damaged: {0}")]
    Malformed(&'static str),
    /// A section is of a kind that isn't known here.
    #[error("the firmware has a section of kind {0:#x}, whose measurement isn't known here")]
    Kind(u32),
}

impl From<Short> for Error {
    fn from(Short(what): Short) -> Self {
        Self::Malformed(what)
    }
}

/// A firmware image that can start an SEV-SNP guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware<'a> {
    image: &'a [u8],
    reset_vector: u32,
    sections: Vec<Section>,
    hash_table: Option<u64>,
}

impl<'a> Firmware<'a> {
    /// Reads an image as it is mapped below 4 GiB.
    ///
    /// # Errors
    /// When it isn't one, contradicts itself, or is built without SEV-SNP.
    pub fn parse(image: &'a [u8]) -> Result<Self, Error> {
        if image.is_empty() || !image.len().is_multiple_of(4096) || image.len() > MAX_BYTES {
            return Err(Error::Size(image.len()));
        }
        let entries = entries(image)?;
        let find = |guid: Guid| entries.iter().find(|(known, _)| *known == guid.to_bytes()).map(|(_, data)| *data);
        let mut reset = Reader(find(RESET_BLOCK).ok_or(Error::Missing("reset block of SEV-ES"))?);
        let reset_vector = reset.u32("the reset block ends early")?;
        let place = find(METADATA).ok_or(Error::Missing("SEV metadata"))?;
        let sections = sections(image, place)?;
        let hash_table = find(HASH_TABLE).map(|place| hash_table(place, &sections)).transpose()?.flatten();
        Ok(Self { image, reset_vector, sections, hash_table })
    }

    /// Whether bytes end as an image does: for choosing what to do with a file, not for believing it.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        table(bytes).is_some()
    }

    /// The image.
    #[must_use]
    pub const fn image(&self) -> &'a [u8] {
        self.image
    }

    /// Address of its first byte.
    #[must_use]
    pub const fn address(&self) -> u64 {
        END - self.image.len() as u64
    }

    /// Where processors other than the first begin.
    #[must_use]
    pub const fn reset_vector(&self) -> u32 {
        self.reset_vector
    }

    /// What the monitor prepares, in the image's order.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where in its page the table with a kernel's hashes stands, when the firmware checks one.
    #[must_use]
    pub const fn hash_table_offset(&self) -> Option<u64> {
        self.hash_table
    }
}

/// Identity and data.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// What stands before the reset vector, and the table's length with its own end.
fn table(image: &[u8]) -> Option<(&[u8], usize)> {
    let end = image.len().checked_sub(RESET_BYTES)?;
    let (head, footer) = image.get(..end)?.split_at_checked(end.checked_sub(ENTRY_BYTES)?)?;
    let (length, guid) = footer.split_first_chunk()?;
    (guid == TABLE.to_bytes()).then_some((head, u16::from_le_bytes(*length).into()))
}

/// Entries of the table. It is read from its end, each entry's length and identity behind its data.
fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, Error> {
    const TRUNCATED: Error = Error::Malformed("an entry of its table is longer than the table");
    let (head, length) = table(image).ok_or(Error::NoTable)?;
    let start = length.checked_sub(ENTRY_BYTES).and_then(|length| head.len().checked_sub(length));
    let mut rest = start.and_then(|start| head.get(start..)).ok_or(TRUNCATED)?;
    let mut entries: Vec<Entry<'_>> = Vec::new();
    while !rest.is_empty() {
        let end = rest.len().checked_sub(ENTRY_BYTES).and_then(|end| rest.split_at_checked(end));
        let (before, own) = end.ok_or(TRUNCATED)?;
        let (length, guid) = own.split_first_chunk().ok_or(TRUNCATED)?;
        let length = usize::from(u16::from_le_bytes(*length)).checked_sub(ENTRY_BYTES);
        let start = length.and_then(|length| before.len().checked_sub(length));
        let (next, data) = start.and_then(|start| before.split_at_checked(start)).ok_or(TRUNCATED)?;
        if entries.iter().any(|(known, _)| *known == guid) {
            return Err(Error::Malformed("its table has an entry twice"));
        }
        if entries.len() == MAX_ENTRIES {
            return Err(Error::Malformed("its table has too many entries"));
        }
        entries.push((guid, data));
        rest = next;
    }
    Ok(entries)
}

/// The sections that the metadata name. The entry says how far before the image's end they stand.
fn sections(image: &[u8], place: &[u8]) -> Result<Vec<Section>, Error> {
    const HEADER_BYTES: usize = 16;
    const SECTION_BYTES: usize = 12;
    let distance = Reader(place).u32("the entry for its SEV metadata ends early")?;
    let start = usize::try_from(distance).ok().and_then(|distance| image.len().checked_sub(distance));
    let mut metadata = Reader(start.and_then(|start| image.get(start..)).unwrap_or_default());
    let signature: [u8; 4] = metadata.array("its SEV metadata aren't inside it")?;
    let length = metadata.u32("its SEV metadata end early")?;
    let version = metadata.u32("its SEV metadata end early")?;
    let count = metadata.u32("its SEV metadata end early")?;
    if signature != *b"ASEV" {
        return Err(Error::Malformed("its SEV metadata have no signature"));
    }
    if version != 1 {
        return Err(Error::Malformed("its SEV metadata are of another version than 1"));
    }
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_SECTIONS);
    let count = count.ok_or(Error::Malformed("its SEV metadata have too many sections"))?;
    if usize::try_from(length).ok() != Some(HEADER_BYTES + SECTION_BYTES * count) {
        return Err(Error::Malformed("its SEV metadata aren't as long as their sections"));
    }
    let mut sections = Vec::new();
    let mut total = 0_u64;
    for _ in 0..count {
        let section = section(&mut metadata)?;
        total = total.saturating_add(section.bytes);
        sections.push(section);
    }
    if total > MAX_SECTION_BYTES {
        return Err(Error::Malformed("its sections are larger than any firmware needs"));
    }
    Ok(sections)
}

fn section(metadata: &mut Reader<'_>) -> Result<Section, Error> {
    const SHORT: &str = "its SEV metadata end before their last section";
    let (address, bytes) = (u64::from(metadata.u32(SHORT)?), u64::from(metadata.u32(SHORT)?));
    let kind = match metadata.u32(SHORT)? {
        1 => SectionKind::Memory,
        2 => SectionKind::Secrets,
        3 => SectionKind::Cpuid,
        4 => SectionKind::CallingArea,
        0x10 => SectionKind::KernelHashes,
        other => return Err(Error::Kind(other)),
    };
    if address % PAGE_BYTES != 0 || bytes % PAGE_BYTES != 0 {
        return Err(Error::Malformed("a section isn't whole pages"));
    }
    let one_page = matches!(kind, SectionKind::Secrets | SectionKind::Cpuid | SectionKind::KernelHashes);
    if one_page && bytes != PAGE_BYTES {
        return Err(Error::Malformed("a section that is one page by its kind isn't one"));
    }
    Ok(Section { kind, address, bytes })
}

/// Where in its section's page the table of hashes stands. Firmware without one has the entry with zeros.
fn hash_table(place: &[u8], sections: &[Section]) -> Result<Option<u64>, Error> {
    let mut place = Reader(place);
    let address = u64::from(place.u32("the entry for a kernel's hashes ends early")?);
    let size = u64::from(place.u32("the entry for a kernel's hashes ends early")?);
    if address == 0 {
        return Ok(None);
    }
    let Some(page) = sections.iter().find(|section| section.kind == SectionKind::KernelHashes) else {
        return Ok(None);
    };
    let offset = address.checked_sub(page.address);
    let fits = |offset: &u64| size >= hashes::PADDED_BYTES && offset.saturating_add(hashes::PADDED_BYTES) <= PAGE_BYTES;
    let inside = offset.filter(fits).ok_or(Error::Malformed("a kernel's hashes stand outside their section"))?;
    Ok(Some(inside))
}
