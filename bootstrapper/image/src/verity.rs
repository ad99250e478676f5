//! The dm-verity hash tree of a root file system.
//!
//! Format: linux/Documentation/admin-guide/device-mapper/verity.rst, version 1 (salt first), SHA-256, 4 KiB blocks; a
//! superblock as cryptsetup writes it comes first, so that `veritysetup verify` reads the result.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use crate::error::{Result, invalid, io};
use crate::tool;

/// Size of data and hash blocks.
pub const BLOCK_BYTES: usize = 4096;

/// A hash tree.
pub struct Tree {
    /// What the measured command line names.
    pub root: [u8; 32],
    /// Number of data blocks.
    pub blocks: u64,
    /// Superblock and tree: content of the verity partition.
    pub bytes: Vec<u8>,
}

/// Computes the hash tree of a file whose size is a multiple of the block size.
///
/// # Errors
/// When the file can't be read or is not whole blocks.
pub fn tree(data: &Path, salt: &[u8; 32], uuid: &[u8; 16]) -> Result<Tree> {
    let file = tool::open(data)?;
    let size = file.metadata().map_err(io("look at", data))?.len();
    if size == 0 || size % BLOCK_BYTES as u64 != 0 {
        return Err(invalid(data.display().to_string(), "not a whole number of blocks"));
    }
    let blocks = size / BLOCK_BYTES as u64;
    let mut level = leaves(file, data, blocks, salt)?;
    let mut levels = Vec::new();
    loop {
        let full = level.len().next_multiple_of(BLOCK_BYTES);
        level.resize(full, 0);
        let above: Vec<u8> = level.chunks_exact(BLOCK_BYTES).flat_map(|block| salted(salt, block)).collect();
        levels.push(level);
        if above.len() == 32 {
            let mut root = [0; 32];
            root.copy_from_slice(&above);
            let mut bytes = superblock(blocks, salt, uuid);
            levels.iter().rev().for_each(|each| bytes.extend_from_slice(each));
            return Ok(Tree { root, blocks, bytes });
        }
        level = above;
    }
}

fn leaves(file: File, path: &Path, blocks: u64, salt: &[u8; 32]) -> Result<Vec<u8>> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut block = [0; BLOCK_BYTES];
    let mut level = Vec::new();
    for _ in 0..blocks {
        reader.read_exact(&mut block).map_err(io("read", path))?;
        level.extend_from_slice(&salted(salt, &block));
    }
    Ok(level)
}

fn salted(salt: &[u8; 32], block: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(block);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// cryptsetup's `struct verity_sb`, one block long.
fn superblock(blocks: u64, salt: &[u8; 32], uuid: &[u8; 16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    bytes.extend_from_slice(b"verity\0\0");
    bytes.extend_from_slice(&1_u32.to_le_bytes()); // version of the superblock
    bytes.extend_from_slice(&1_u32.to_le_bytes()); // type of the hash: normal
    bytes.extend_from_slice(uuid);
    bytes.extend_from_slice(b"sha256");
    bytes.resize(64, 0);
    bytes.extend_from_slice(&4096_u32.to_le_bytes());
    bytes.extend_from_slice(&4096_u32.to_le_bytes());
    bytes.extend_from_slice(&blocks.to_le_bytes());
    bytes.extend_from_slice(&32_u16.to_le_bytes());
    bytes.resize(88, 0);
    bytes.extend_from_slice(salt);
    bytes.resize(BLOCK_BYTES, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &[u8]) -> Tree {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, data).unwrap();
        tree(&path, &[7; 32], &[1; 16]).unwrap()
    }

    #[test]
    fn one_changed_byte_changes_the_root_hash() {
        let mut data = vec![0; BLOCK_BYTES * 200];
        let first = of(&data);
        assert_eq!(first.bytes.len(), BLOCK_BYTES * (1 + 1 + 2));
        *data.last_mut().unwrap() = 1;
        assert_ne!(of(&data).root, first.root);
    }

    #[test]
    fn the_tree_is_the_one_that_veritysetup_makes() {
        let folder = tempfile::tempdir().unwrap();
        let (data, hashes) = (folder.path().join("data"), folder.path().join("hashes"));
        let content: Vec<u8> = (0..BLOCK_BYTES * 300).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(&data, content).unwrap();
        let mine = tree(&data, &[7; 32], &[1; 16]).unwrap();
        let Ok(output) = tool::run(
            tool::command("veritysetup")
                .args([
                    "format",
                    "--uuid=01010101-0101-0101-0101-010101010101",
                    &format!("--salt={}", hex::encode([7; 32])),
                ])
                .args([&data, &hashes]),
        ) else {
            eprintln!("veritysetup is not installed: only the shape was checked");
            return;
        };
        assert!(output.contains(&hex::encode(mine.root)), "{output}");
        assert!(std::fs::read(&hashes).unwrap() == mine.bytes);
    }
}
