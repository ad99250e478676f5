//! The state disk: LUKS2 under the key of the ticket, ext4, and the folders that live on it.

use std::{fs, io::Read as _, path::Path, time::Duration};

use zeroize::Zeroizing;

use super::command::{output, run, succeeds, with_input};
use crate::{error::Error, progress::Log};

/// The second virtio disk.
pub const DEVICE: &str = "/dev/vdb";
const NAME: &str = "state";
const MAPPED: &str = "/dev/mapper/state";
/// Where it is mounted.
pub const MOUNT: &str = "/run/state";
/// Folders that live on it.
const FOLDERS: [&str; 5] = ["/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log", "/etc/kubernetes"];
/// A disk that was never written to starts with this many zeros; LUKS2's own header is 16 MiB (its specification, 2.1).
const BLANK: usize = 1024 * 1024;
/// Wiping for dm-integrity takes about 24 s for 512 MiB without KVM.
const WIPE: Duration = Duration::from_hours(1);

/// Opens the disk; formats it only if it was never written to. May run twice.
pub async fn open(integrity: bool, key: &Zeroizing<Vec<u8>>, log: &Log) -> Result<(), Error> {
    if !Path::new(MAPPED).exists() {
        if !succeeds(&["cryptsetup", "isLuks", DEVICE]).await {
            if !is_blank(Path::new(DEVICE))? {
                return Err(Error::ForeignDisk(DEVICE.into()));
            }
            log.line("formatting the state disk");
            // The key is 256 random bits, so stretching it would only cost time.
            let mut words = vec![
                "cryptsetup",
                "luksFormat",
                "--type",
                "luks2",
                "--batch-mode",
                "--pbkdf",
                "pbkdf2",
                "--pbkdf-force-iterations",
                "1000",
                "--key-file",
                "-",
            ];
            if integrity {
                words.extend(["--integrity", "hmac-sha256"]);
            }
            words.push(DEVICE);
            with_input(&words, key, WIPE).await?;
        }
        with_input(
            &["cryptsetup", "open", "--type", "luks2", "--key-file", "-", DEVICE, NAME],
            key,
            Duration::from_mins(1),
        )
        .await?;
    }
    if !has_ext4(Path::new(MAPPED))? {
        run(&["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard", MAPPED]).await?;
    }
    let mounts = output(&["cat", "/proc/mounts"], Duration::from_secs(10)).await?;
    let is_mounted = |path: &str| mounts.lines().any(|line| line.split(' ').nth(1) == Some(path));
    if !is_mounted(MOUNT) {
        make(MOUNT)?;
        run(&["mount", "-o", "noatime", MAPPED, MOUNT]).await?;
    }
    for folder in FOLDERS {
        let source = format!("{MOUNT}{folder}");
        make(&source)?;
        make(folder)?;
        if !is_mounted(folder) {
            run(&["mount", "--bind", &source, folder]).await?;
        }
    }
    Ok(())
}

fn make(folder: &str) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|e| Error::File(format!("making {folder}"), e))
}

/// Whether the disk's start was never written to.
fn is_blank(device: &Path) -> Result<bool, Error> {
    Ok(start(device, BLANK)?.iter().all(|byte| *byte == 0))
}

/// Whether there is an ext4 file system: its magic is at byte 1080 (kernel documentation, ext4 super block).
fn has_ext4(device: &Path) -> Result<bool, Error> {
    Ok(start(device, 1082)?.get(1080..) == Some([0x53, 0xef].as_slice()))
}

fn start(device: &Path, length: usize) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::File(format!("reading {}", device.display()), e);
    let mut bytes = Vec::new();
    fs::File::open(device).map_err(failed)?.take(length as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_that_was_never_written_to_is_blank() {
        let folder = std::env::temp_dir().join(format!("constellation-disk-{}", std::process::id()));
        fs::write(&folder, vec![0; BLANK + 1]).unwrap();
        assert!(is_blank(&folder).unwrap());
        let mut bytes = vec![0; BLANK + 1];
        bytes[BLANK - 1] = 1;
        fs::write(&folder, bytes).unwrap();
        assert!(!is_blank(&folder).unwrap());
        fs::remove_file(&folder).unwrap();
    }
}
