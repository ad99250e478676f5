//! Builds the measured node image and predicts its registers.
//!
//! The story of a build ([`build`]), in the order it happens, for the place where it boots ([`flavor`]): Debian's part of the root is made or found ([`rootfs`]);
//! the container images of the static pods are made ([`oci`]) and unpacked once ([`seed`]); programs and settings are
//! added ([`tree`]) and the whole becomes a read-only file system with a hash tree ([`verity`]); kernel, initial RAM
//! disk ([`initrd`]) and a command line with the tree's root hash become one executable ([`uki`]), which a disk image
//! carries ([`disk`]). What a machine will measure follows from that file alone ([`inspect`]), and is signed ([`manifest`]).
//!
//! Stages are cached by the hash of their inputs, so an image that differs in its command line takes seconds.

mod bolt;
pub mod build;
mod cache;
pub mod digest;
pub mod disk;
mod elf;
pub mod error;
pub mod fat;
pub mod flavor;
pub mod gpt;
mod initrd;
pub mod inspect;
pub mod manifest;
pub mod oci;
mod rootfs;
mod seed;
mod tar;
mod tool;
mod tree;
pub mod uki;
pub mod verity;

pub use error::{Error, Result};

/// The time that files of an image bear: `SOURCE_DATE_EPOCH`, else the start of 2026.
#[must_use]
pub fn epoch() -> u64 {
    const DEFAULT: u64 = 1_767_225_600;
    std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT)
}
