//! Disks that fill up, and disks that lose what was never synced to them. Both need root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// Bytes of a [`Lasting`] disk: a node's files are small here.
const SIZE: u64 = 16 << 20;
/// Nothing is on the disk by itself while a test runs: only what was synced is.
const SELDOM: &str = "loop,commit=3600";

/// A filesystem in memory, which ends with the test.
pub struct Disk(PathBuf);

impl Disk {
    /// One that is full: of a file `taken` and nothing else.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn full(at: PathBuf) -> Result<Self> {
        const BLOCK: usize = 4096;
        fs::create_dir_all(&at)?;
        mount(&["-t", "tmpfs", "-o", &format!("size={BLOCK}"), "none"], &at)?;
        let disk = Self(at);
        fs::write(disk.0.join("taken"), [0; BLOCK])?;
        Ok(disk)
    }

    /// Takes one away that a test left which was killed; a folder with it can't be removed.
    pub fn release(at: &Path) {
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(at).status();
    }

    /// Gives it another size. Nothing of it is taken before it is written.
    ///
    /// # Errors
    /// When it can't have that.
    pub fn resize(&self, size: &str) -> Result<()> {
        mount(&["-o", &format!("remount,size={size}")], &self.0)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Self::release(&self.0);
    }
}

/// ext4 in a file, as on a node's state disk: it outlives a power cut as a disk does, with what was synced.
pub struct Lasting {
    image: PathBuf,
    at: PathBuf,
}

impl Lasting {
    /// An empty one in the file `image`, mounted.
    ///
    /// # Errors
    /// When it can't be made or mounted.
    pub fn new(image: PathBuf, at: PathBuf) -> Result<Self> {
        fs::File::create(&image)?.set_len(SIZE)?;
        let status = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status()?;
        ensure!(status.success(), "mkfs.ext4 {}", image.display());
        fs::create_dir_all(&at)?;
        let disk = Self { image, at };
        disk.attach()?;
        Ok(disk)
    }

    /// Takes its power and gives it again. Nobody may write to it meanwhile.
    ///
    /// # Errors
    /// When it can't be copied, or not be mounted any more.
    pub fn power_cut(&self) -> Result<()> {
        // What the kernel hasn't written to the image by now is in its memory alone; unmounting writes it, to what is no
        // image any more.
        let held = self.image.with_extension("held");
        fs::copy(&self.image, &held)?;
        fs::rename(held, &self.image)?;
        Disk::release(&self.at);
        self.attach()
    }

    fn attach(&self) -> Result<()> {
        mount(&["-o", SELDOM, &self.image.display().to_string()], &self.at)
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        Disk::release(&self.at);
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<()> {
    let status = Command::new("mount").args(arguments).arg(at).status()?;
    ensure!(status.success(), "mount {arguments:?} {} (needs root)", at.display());
    Ok(())
}
