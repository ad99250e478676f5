//! SHA-256 of bytes and files.

use std::io::Read;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use crate::error::{Result, io};
use crate::tool;

/// SHA-256 of bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    finish(start(bytes))
}

/// SHA-256 of bytes, hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(sha256(bytes))
}

/// SHA-256 of a file's content, hex.
///
/// # Errors
/// When the file can't be read.
pub fn file_hex(path: &Path) -> Result<String> {
    let mut file = tool::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(io("read", path))?;
        if count == 0 {
            return Ok(hex::encode(finish(context)));
        }
        context.update(buffer.get(..count).unwrap_or_default());
    }
}

fn start(bytes: &[u8]) -> Context {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    context
}

fn finish(context: Context) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
