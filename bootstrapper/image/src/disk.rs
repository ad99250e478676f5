//! Assembles the disk image: boot partition, root, hash tree.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::digest;
use crate::error::{Result, invalid, io};
use crate::fat;
use crate::gpt::{self, ALIGNMENT_SECTORS, Partition, SECTOR_BYTES};
use crate::tool;
use crate::verity::Tree;

/// Label of the root partition: where the node's first program looks.
pub const ROOT_NAME: &str = "constellation-root";
/// Label of the partition with the hash tree.
pub const VERITY_NAME: &str = "constellation-verity";

/// FAT32 needs 32 MiB; kernel and initial RAM disk take under 20.
const LEAST_ESP_SECTORS: u64 = 48 * 2048;
const CHUNK_BYTES: usize = 1 << 20;

/// Writes the disk image, whose size is a multiple of `granule` bytes. It appears under its name only when it is whole.
pub(crate) fn assemble(uki: &[u8], root: &Path, tree: &Tree, granule: u64, target: &Path) -> Result<()> {
    let root_bytes = fs::metadata(root).map_err(io("look at", root))?.len();
    let esp_sectors = aligned(uki.len() as u64 / SECTOR_BYTES + 4096).max(LEAST_ESP_SECTORS);
    let (root_id, tree_id) = halves(&tree.root);
    let mut next = ALIGNMENT_SECTORS;
    let mut partition = |kind: &str, guid: String, name: &str, sectors: u64| {
        let first = next;
        next += aligned(sectors);
        Partition { kind: kind.to_owned(), guid, name: name.to_owned(), first, sectors }
    };
    let partitions = [
        partition(gpt::TYPE_ESP, derived("esp", &tree.root), "esp", esp_sectors),
        partition(gpt::TYPE_ROOT, root_id, ROOT_NAME, root_bytes.div_ceil(SECTOR_BYTES)),
        partition(gpt::TYPE_VERITY, tree_id, VERITY_NAME, (tree.bytes.len() as u64).div_ceil(SECTOR_BYTES)),
    ];
    let disk_sectors = (next + ALIGNMENT_SECTORS).next_multiple_of(granule / SECTOR_BYTES);
    let table = gpt::build(&derived("disk", &tree.root), &partitions, disk_sectors)?;
    let esp = fat::build(usize::try_from(esp_sectors).map_err(|_| invalid("disk", "it is too large"))?, uki)?;

    let draft = target.with_extension("draft");
    let mut file = File::create(&draft).map_err(io("create", &draft))?;
    file.set_len(disk_sectors * SECTOR_BYTES).map_err(io("grow", &draft))?;
    let mut write = |sector: u64, bytes: &[u8]| -> Result<()> {
        file.seek(SeekFrom::Start(sector * SECTOR_BYTES)).map_err(io("seek in", &draft))?;
        write_sparse(&mut file, bytes).map_err(io("write", &draft))
    };
    write(0, &table.head)?;
    write(disk_sectors - table.tail.len() as u64 / SECTOR_BYTES, &table.tail)?;
    write(partitions[0].first, &esp)?;
    write(partitions[2].first, &tree.bytes)?;
    file.seek(SeekFrom::Start(partitions[1].first * SECTOR_BYTES)).map_err(io("seek in", &draft))?;
    std::io::copy(&mut tool::open(root)?, &mut file).map_err(io("write", &draft))?;
    drop(file);
    fs::rename(&draft, target).map_err(io("rename", &draft))
}

/// Copies an image, leaving holes where it is empty.
pub(crate) fn copy(source: &Path, target: &Path) -> Result<()> {
    let mut input = tool::open(source)?;
    let size = input.metadata().map_err(io("look at", source))?.len();
    let mut output = File::create(target).map_err(io("create", target))?;
    output.set_len(size).map_err(io("grow", target))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = input.read(&mut buffer).map_err(io("read", source))?;
        if count == 0 {
            return Ok(());
        }
        write_sparse(&mut output, buffer.get(..count).unwrap_or_default()).map_err(io("write", target))?;
    }
}

/// The boot partition of an image: where it begins, and its bytes.
pub(crate) fn boot_partition(image: &Path) -> Result<(u64, Vec<u8>)> {
    let mut file = tool::open(image)?;
    let mut head = vec![0; 34 * 512];
    file.read_exact(&mut head).map_err(io("read", image))?;
    let partition = gpt::parse(&head)?
        .into_iter()
        .find(|each| each.kind == gpt::TYPE_ESP)
        .ok_or_else(|| invalid(image.display().to_string(), "no boot partition"))?;
    let length = file.metadata().map_err(io("look at", image))?.len();
    let (start, size) = (partition.first.saturating_mul(SECTOR_BYTES), partition.sectors.saturating_mul(SECTOR_BYTES));
    if start.saturating_add(size) > length {
        return Err(invalid(image.display().to_string(), "its boot partition is cut off"));
    }
    file.seek(SeekFrom::Start(start)).map_err(io("seek in", image))?;
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| invalid("boot partition", "it is too large"))?];
    file.read_exact(&mut bytes).map_err(io("read", image))?;
    Ok((start, bytes))
}

/// Overwrites one byte of a file.
pub(crate) fn poke(path: &Path, at: u64, byte: u8) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(io("open", path))?;
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&[byte])).map_err(io("write", path))
}

fn write_sparse(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    for chunk in bytes.chunks(64 * 1024) {
        if chunk.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(chunk.len()).unwrap_or_default()))?;
        } else {
            file.write_all(chunk)?;
        }
    }
    Ok(())
}

fn aligned(sectors: u64) -> u64 {
    sectors.next_multiple_of(ALIGNMENT_SECTORS)
}

/// Both halves of the root hash: the ids that the discoverable partitions specification gives root and hash tree.
fn halves(root: &[u8; 32]) -> (String, String) {
    let (mut first, mut second) = ([0; 16], [0; 16]);
    first.copy_from_slice(&root[..16]);
    second.copy_from_slice(&root[16..]);
    (gpt::plain_guid(&first), gpt::plain_guid(&second))
}

fn derived(label: &str, root: &[u8; 32]) -> String {
    let mut short = [0; 16];
    short.copy_from_slice(&digest::sha256(&[label.as_bytes(), root].concat())[..16]);
    gpt::guid_from(&short)
}
