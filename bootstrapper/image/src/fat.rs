//! The FAT32 file system of the boot partition: writing one file into a new one, finding a file in one.
//!
//! Microsoft FAT file system specification (fatgen103), sections on the boot sector, the table and directories.

use crate::error::{Result, invalid};

const SECTOR: usize = 512;
const RESERVED_SECTORS: usize = 32;
/// A FAT with fewer clusters is FAT16 by definition.
const LEAST_CLUSTERS: usize = 65_525;
const END: u32 = 0x0fff_ffff;
const FOLDER: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const LABEL: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// 1 January 1980: the first day that the format knows.
const FIRST_DAY: u16 = 0x0021;

/// Where UEFI firmware looks on a disk without a boot entry.
pub const BOOT_PATH: [&str; 3] = ["EFI", "BOOT", "BOOTX64.EFI"];

/// Makes a file system of the given size that holds one file at [`BOOT_PATH`].
///
/// # Errors
/// When the size is too small for the file or for FAT32.
pub fn build(sectors: usize, file: &[u8]) -> Result<Vec<u8>> {
    let table_sectors = (sectors.saturating_sub(RESERVED_SECTORS) + 128).div_ceil(129);
    let data = RESERVED_SECTORS + 2 * table_sectors;
    let clusters = sectors.saturating_sub(data);
    let wanted = file.len().div_ceil(SECTOR);
    if clusters < LEAST_CLUSTERS.max(wanted + 3) {
        return Err(invalid("boot partition", "it is too small"));
    }
    let mut image = vec![0; sectors * SECTOR];
    let boot = boot_sector(sectors, table_sectors)?;
    let information = information_sector(clusters - wanted - 3)?;
    for copy in [0, 6] {
        place(&mut image, copy * SECTOR, &boot)?;
        place(&mut image, (copy + 1) * SECTOR, &information)?;
    }

    // Clusters: 2 root, 3 EFI, 4 BOOT, 5 and on the file, in one piece.
    let mut table: Vec<u32> = vec![0x0fff_fff8, END, END, END, END];
    for index in 0..wanted {
        table.push(if index + 1 == wanted { END } else { small(6 + index)? });
    }
    let table: Vec<u8> = table.into_iter().flat_map(u32::to_le_bytes).collect();
    for copy in 0..2 {
        place(&mut image, (RESERVED_SECTORS + copy * table_sectors) * SECTOR, &table)?;
    }

    let cluster = |number: usize| (data + number - 2) * SECTOR;
    let root = [entry(b"ESP        ", LABEL, 0, 0), entry(b"EFI        ", FOLDER, 3, 0)].concat();
    let efi =
        [entry(b".          ", FOLDER, 3, 0), entry(b"..         ", FOLDER, 0, 0), entry(b"BOOT       ", FOLDER, 4, 0)]
            .concat();
    let size = small(file.len())?;
    let inner = [
        entry(b".          ", FOLDER, 4, 0),
        entry(b"..         ", FOLDER, 3, 0),
        entry(b"BOOTX64 EFI", ARCHIVE, 5, size),
    ]
    .concat();
    place(&mut image, cluster(2), &root)?;
    place(&mut image, cluster(3), &efi)?;
    place(&mut image, cluster(4), &inner)?;
    place(&mut image, cluster(5), file)?;
    Ok(image)
}

/// A file found: its size, and the pieces of the file system that hold it, as (offset, length).
#[derive(Debug)]
pub struct Found {
    /// Pieces in the order of the file. The last may be longer than what is left of the file.
    pub pieces: Vec<(usize, usize)>,
    /// Size of the file.
    pub size: usize,
}

impl Found {
    /// The file's content.
    ///
    /// # Errors
    /// When the file system is cut off.
    pub fn read(&self, image: &[u8]) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(self.size.min(image.len()));
        for (at, size) in &self.pieces {
            content.extend_from_slice(
                image.get(*at..at + size).ok_or_else(|| invalid("boot partition", "it is cut off"))?,
            );
        }
        content.truncate(self.size);
        Ok(content)
    }

    /// Where in the file system a byte of the file is.
    #[must_use]
    pub fn position(&self, mut offset: usize) -> Option<usize> {
        for (at, size) in &self.pieces {
            if offset < *size {
                return Some(at + offset);
            }
            offset -= size;
        }
        None
    }
}

/// Finds a file by its path of short names.
///
/// # Errors
/// When the file system is not FAT32, damaged, or has no such file.
pub fn find(image: &[u8], path: &[&str]) -> Result<Found> {
    let volume = Volume::parse(image)?;
    let mut cluster = volume.root;
    for (depth, name) in path.iter().enumerate() {
        let pieces = volume.chain(cluster)?;
        let content = Found { size: pieces.iter().map(|piece| piece.1).sum(), pieces }.read(image)?;
        let row = content
            .chunks_exact(32)
            .take_while(|row| row.first() != Some(&0))
            .find(|row| short_name(row).is_some_and(|each| each.eq_ignore_ascii_case(name)))
            .ok_or_else(|| invalid("boot partition", format!("no {}", path.join("/"))))?;
        cluster = value(row, 26, 2) | value(row, 20, 2) << 16;
        if depth + 1 == path.len() {
            let pieces = volume.chain(cluster)?;
            let size = value(row, 28, 4);
            if pieces.iter().map(|piece| piece.1).sum::<usize>() < size {
                return Err(invalid("boot partition", "a file is shorter than its entry says"));
            }
            return Ok(Found { pieces, size });
        }
    }
    Err(invalid("boot partition", "an empty path"))
}

struct Volume<'a> {
    table: &'a [u8],
    data: usize,
    cluster_bytes: usize,
    root: usize,
}

impl<'a> Volume<'a> {
    fn parse(image: &'a [u8]) -> Result<Self> {
        let bad = |why: &str| invalid("boot partition", why);
        if image.get(510..512) != Some(&[0x55, 0xaa]) || value(image, 11, 2) != SECTOR {
            return Err(bad("no FAT32 file system"));
        }
        let (reserved, tables, table_sectors) = (value(image, 14, 2), value(image, 16, 1), value(image, 36, 4));
        if table_sectors == 0 || value(image, 22, 2) != 0 {
            return Err(bad("no FAT32 file system"));
        }
        let table =
            image.get(reserved * SECTOR..(reserved + table_sectors) * SECTOR).ok_or_else(|| bad("it is cut off"))?;
        Ok(Self {
            table,
            data: (reserved + tables * table_sectors) * SECTOR,
            cluster_bytes: value(image, 13, 1) * SECTOR,
            root: value(image, 44, 4),
        })
    }

    /// The pieces of a chain of clusters; neighbours are joined. A chain longer than the table is a circle.
    fn chain(&self, mut cluster: usize) -> Result<Vec<(usize, usize)>> {
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        for _ in 0..self.table.len() / 4 {
            if cluster < 2 || self.cluster_bytes == 0 {
                return Err(invalid("boot partition", "a chain leads outside"));
            }
            let at = self.data + (cluster - 2) * self.cluster_bytes;
            match pieces.last_mut() {
                Some(last) if last.0 + last.1 == at => last.1 += self.cluster_bytes,
                _ => pieces.push((at, self.cluster_bytes)),
            }
            if cluster * 4 + 4 > self.table.len() {
                return Err(invalid("boot partition", "a chain leads outside"));
            }
            cluster = value(self.table, cluster * 4, 4) & 0x0fff_ffff;
            if cluster >= 0x0fff_fff8 {
                return Ok(pieces);
            }
        }
        Err(invalid("boot partition", "a chain is a circle"))
    }
}

/// `BOOTX64 EFI` to `BOOTX64.EFI`; nothing for labels, long names and deleted entries.
fn short_name(row: &[u8]) -> Option<String> {
    let kind = *row.get(11)?;
    if row.first() == Some(&0xe5) || kind == LONG_NAME || kind & LABEL != 0 {
        return None;
    }
    let stem = std::str::from_utf8(row.get(..8)?).ok()?.trim_end();
    let extension = std::str::from_utf8(row.get(8..11)?).ok()?.trim_end();
    Some(if extension.is_empty() { stem.to_owned() } else { format!("{stem}.{extension}") })
}

fn boot_sector(sectors: usize, table_sectors: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0xeb, 0x58, 0x90];
    bytes.extend_from_slice(b"MSWIN4.1");
    bytes.extend_from_slice(&512_u16.to_le_bytes());
    bytes.push(1); // sectors in a cluster
    bytes.extend_from_slice(&32_u16.to_le_bytes());
    bytes.push(2); // tables
    bytes.extend_from_slice(&[0, 0, 0, 0, 0xf8, 0, 0]);
    bytes.extend_from_slice(&32_u16.to_le_bytes());
    bytes.extend_from_slice(&64_u16.to_le_bytes());
    bytes.extend_from_slice(&2048_u32.to_le_bytes());
    bytes.extend_from_slice(&small(sectors)?.to_le_bytes());
    bytes.extend_from_slice(&small(table_sectors)?.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&2_u32.to_le_bytes()); // cluster of the root folder
    bytes.extend_from_slice(&1_u16.to_le_bytes()); // sector of the information
    bytes.extend_from_slice(&6_u16.to_le_bytes()); // sector of the copy
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&[0x80, 0, 0x29]);
    bytes.extend_from_slice(&0x0c04_5e11_u32.to_le_bytes()); // serial number
    bytes.extend_from_slice(b"ESP        FAT32   ");
    bytes.resize(510, 0);
    bytes.extend_from_slice(&[0x55, 0xaa]);
    Ok(bytes)
}

fn information_sector(free: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; SECTOR];
    place(&mut bytes, 0, b"RRaA")?;
    place(&mut bytes, 484, b"rrAa")?;
    place(&mut bytes, 488, &small(free)?.to_le_bytes())?;
    place(&mut bytes, 492, &[0xff; 4])?;
    place(&mut bytes, 508, &[0, 0, 0x55, 0xaa])?;
    Ok(bytes)
}

fn entry(name: &[u8; 11], kind: u8, cluster: u16, size: u32) -> Vec<u8> {
    let mut row = name.to_vec();
    row.extend_from_slice(&[kind, 0, 0, 0, 0]);
    row.extend_from_slice(&FIRST_DAY.to_le_bytes());
    row.extend_from_slice(&FIRST_DAY.to_le_bytes());
    row.extend_from_slice(&[0; 4]);
    row.extend_from_slice(&FIRST_DAY.to_le_bytes());
    row.extend_from_slice(&cluster.to_le_bytes());
    row.extend_from_slice(&size.to_le_bytes());
    row
}

fn place(image: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    image
        .get_mut(at..at + bytes.len())
        .ok_or_else(|| invalid("boot partition", "it is too small"))?
        .copy_from_slice(bytes);
    Ok(())
}

fn small(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| invalid("boot partition", "it is larger than the format allows"))
}

fn value(bytes: &[u8], at: usize, size: usize) -> usize {
    bytes.iter().skip(at).take(size).rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: usize = 98_304;

    #[test]
    fn the_file_is_found_where_firmware_looks() {
        let file: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
        let image = build(SECTORS, &file).unwrap();
        let found = find(&image, &BOOT_PATH).unwrap();
        assert_eq!(found.read(&image).unwrap(), file);
        assert_eq!(image[found.position(4 * 1000).unwrap()], 0xe8);
        assert!(find(&image, &["EFI", "BOOT", "OTHER.EFI"]).is_err());
    }

    #[test]
    fn mtools_reads_it_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        std::fs::write(&path, build(SECTORS, b"hello").unwrap()).unwrap();
        let Ok(text) =
            crate::tool::run(crate::tool::command("mtype").arg("-i").arg(&path).arg("::/EFI/BOOT/BOOTX64.EFI"))
        else {
            eprintln!("mtools is not installed: only our own reader was used");
            return;
        };
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_chain_that_is_a_circle_is_refused() {
        let mut image = build(SECTORS, &[1; 2000]).unwrap();
        let at = RESERVED_SECTORS * SECTOR + 4 * 6;
        image[at..at + 4].copy_from_slice(&5_u32.to_le_bytes());
        assert!(find(&image, &BOOT_PATH).is_err());
    }

    #[test]
    fn too_small_a_partition_is_refused() {
        assert!(build(4096, b"x").is_err());
        assert!(build(SECTORS, &vec![0; SECTORS * SECTOR]).is_err());
    }
}
