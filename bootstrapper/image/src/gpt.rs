//! The GUID partition table of the disk image: writing ours, finding partitions in one.
//!
//! UEFI specification 2.10, section 5.3.

use crate::error::{Result, invalid};

/// Size of a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Partitions begin at whole mebibytes.
pub const ALIGNMENT_SECTORS: u64 = 2048;

const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
const TABLE_SECTORS: u64 = 32;

/// EFI system partition.
pub const TYPE_ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Root of x86-64 (UAPI Discoverable Partitions Specification).
pub const TYPE_ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// Hash tree of that root.
pub const TYPE_VERITY: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Kind, a GUID in text form.
    pub kind: String,
    /// Its own GUID in text form.
    pub guid: String,
    /// Label.
    pub name: String,
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub sectors: u64,
}

/// Both copies of a table.
pub struct Table {
    /// First 34 sectors: protective MBR, header, entries.
    pub head: Vec<u8>,
    /// Last 33 sectors: entries, header.
    pub tail: Vec<u8>,
}

/// Makes the tables for a disk.
///
/// # Errors
/// When a GUID is malformed or the disk too small.
pub fn build(disk_guid: &str, partitions: &[Partition], disk_sectors: u64) -> Result<Table> {
    let mut entries = vec![0; ENTRIES * ENTRY_BYTES];
    let last_usable = disk_sectors.checked_sub(TABLE_SECTORS + 2).ok_or_else(|| invalid("disk", "it is too small"))?;
    for (partition, entry) in partitions.iter().zip(entries.chunks_exact_mut(ENTRY_BYTES)) {
        let last = partition.first + partition.sectors - 1;
        if last > last_usable || partition.first < TABLE_SECTORS + 2 {
            return Err(invalid("disk", format!("partition {} lies outside of it", partition.name)));
        }
        let mut row = Vec::with_capacity(ENTRY_BYTES);
        row.extend_from_slice(&guid_bytes(&partition.kind)?);
        row.extend_from_slice(&guid_bytes(&partition.guid)?);
        row.extend_from_slice(&partition.first.to_le_bytes());
        row.extend_from_slice(&last.to_le_bytes());
        row.extend_from_slice(&[0; 8]);
        row.extend(partition.name.encode_utf16().take(36).flat_map(u16::to_le_bytes));
        row.resize(ENTRY_BYTES, 0);
        entry.copy_from_slice(&row);
    }
    let guid = guid_bytes(disk_guid)?;
    let last_sector = disk_sectors - 1;
    let header = |mine: u64, other: u64, table: u64| {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(b"EFI PART");
        bytes.extend_from_slice(&0x0001_0000_u32.to_le_bytes());
        bytes.extend_from_slice(&92_u32.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]); // checksum, and four bytes that stay zero
        for value in [mine, other, TABLE_SECTORS + 2, last_usable] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&guid);
        bytes.extend_from_slice(&table.to_le_bytes());
        bytes.extend_from_slice(&128_u32.to_le_bytes());
        bytes.extend_from_slice(&128_u32.to_le_bytes());
        bytes.extend_from_slice(&crc32(&entries).to_le_bytes());
        let sum = crc32(&bytes);
        bytes.splice(16..20, sum.to_le_bytes());
        bytes.resize(512, 0);
        bytes
    };
    let mut head = protective(disk_sectors);
    head.extend(header(1, last_sector, 2));
    head.extend_from_slice(&entries);
    let mut tail = entries.clone();
    tail.extend(header(last_sector, 1, last_sector - TABLE_SECTORS));
    Ok(Table { head, tail })
}

/// Reads the first copy of a table: the first 34 sectors of a disk.
///
/// # Errors
/// When it is not there, or its checksums are wrong.
pub fn parse(head: &[u8]) -> Result<Vec<Partition>> {
    let header = head.get(512..604).ok_or_else(|| invalid("disk", "it is too small"))?;
    if !header.starts_with(b"EFI PART") {
        return Err(invalid("disk", "it has no GUID partition table"));
    }
    let mut blank = header.to_vec();
    blank.splice(16..20, [0; 4]);
    let entries = head.get(1024..1024 + ENTRIES * ENTRY_BYTES).ok_or_else(|| invalid("disk", "it is too small"))?;
    let usual = word(header, 72) == 2 && word(header, 80) == (128 | 128 << 32);
    if !usual || half(header, 16) != crc32(&blank) || half(header, 88) != crc32(entries) {
        return Err(invalid("disk", "its partition table is damaged"));
    }
    let mut found = Vec::new();
    for entry in entries.chunks_exact(ENTRY_BYTES).filter(|entry| entry.iter().take(16).any(|byte| *byte != 0)) {
        let (first, last) = (word(entry, 32), word(entry, 40));
        let wide: Vec<u16> = entry
            .iter()
            .skip(56)
            .step_by(2)
            .zip(entry.iter().skip(57).step_by(2))
            .map(|(low, high)| u16::from_le_bytes([*low, *high]))
            .collect();
        let name = String::from_utf16_lossy(&wide).trim_end_matches('\0').to_owned();
        let sectors = last
            .checked_sub(first)
            .and_then(|size| size.checked_add(1))
            .ok_or_else(|| invalid("disk", "a partition ends before it begins"))?;
        found.push(Partition {
            kind: guid_text(entry),
            guid: guid_text(entry.get(16..).unwrap_or_default()),
            name,
            first,
            sectors,
        });
    }
    Ok(found)
}

/// A GUID made of 16 bytes of a digest, marked as version 8 (RFC 9562).
#[must_use]
pub fn guid_from(digest: &[u8; 16]) -> String {
    let mut bytes = *digest;
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    plain_guid(&bytes)
}

/// 16 bytes in the text form of a GUID, unchanged.
#[must_use]
pub fn plain_guid(bytes: &[u8; 16]) -> String {
    let text = hex::encode(bytes);
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Text form to the mixed-endian form on disk.
fn guid_bytes(text: &str) -> Result<[u8; 16]> {
    let bytes = hex::decode(text.replace('-', "")).map_err(|_| invalid("GUID", text))?;
    swap(&bytes).ok_or_else(|| invalid("GUID", text))
}

fn guid_text(bytes: &[u8]) -> String {
    swap(bytes.get(..16).unwrap_or_default()).map(|bytes| plain_guid(&bytes)).unwrap_or_default()
}

/// The first three fields are little-endian on disk; the exchange is its own inverse.
fn swap(bytes: &[u8]) -> Option<[u8; 16]> {
    let mut out: [u8; 16] = bytes.try_into().ok()?;
    out[..4].reverse();
    out[4..6].reverse();
    out[6..8].reverse();
    Some(out)
}

/// A master boot record that says: all of this disk is taken.
fn protective(disk_sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let size = u32::try_from(disk_sectors - 1).unwrap_or(u32::MAX);
    let row: Vec<u8> = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0].into_iter().chain(size.to_le_bytes()).collect();
    bytes.splice(446..462, row);
    bytes.splice(510..512, [0x55, 0xaa]);
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(half(bytes, at)) | u64::from(half(bytes, at + 4)) << 32
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.iter().skip(at).take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// CRC-32 (ISO-HDLC), bit by bit: sixteen kilobytes once per image.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |value, byte| {
        (0..8).fold(
            value ^ u32::from(*byte),
            |value, _| {
                if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        Partition {
            kind: TYPE_ESP.to_owned(),
            guid: guid_from(&[0xab; 16]),
            name: "esp".to_owned(),
            first: 2048,
            sectors: 100,
        }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let table = build(&guid_from(&[1; 16]), &[partition()], 4096).unwrap();
        assert_eq!((table.head.len(), table.tail.len()), (34 * 512, 33 * 512));
        assert_eq!(parse(&table.head).unwrap(), [partition()]);
    }

    #[test]
    fn a_changed_table_is_refused() {
        let mut head = build(&guid_from(&[1; 16]), &[partition()], 4096).unwrap().head;
        head[1024 + 32] ^= 1;
        assert!(parse(&head).is_err());
        assert!(parse(&head[..600]).is_err());
    }

    #[test]
    fn a_partition_outside_of_the_disk_is_refused() {
        assert!(build(&guid_from(&[1; 16]), &[partition()], 2100).is_err());
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
