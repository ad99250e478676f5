//! What is looked at before a cluster or a VM is made: its image, the disk and the memory it will need.

use std::{fs, io, os::unix::fs::FileExt as _, path::Path};

use super::layout::Shape;
use crate::cloud::CloudError;

/// A sector of a raw disk.
const SECTOR: u64 = 512;
/// Where the header of a GPT begins, in its second sector, and with what (UEFI 2.10, 5.3.2, table 5-5).
const SIGNATURE: &[u8] = b"EFI PART";
/// Offset in the header of the number of the sector with the other header: the last one of the disk.
const ALTERNATE: usize = 32;

/// Refuses an image that QEMU could not open, or that was cut off: its VM would start, and never be heard from.
pub(super) fn check_image(image: &Path) -> Result<(), CloudError> {
    let wrong = |why: &str| CloudError::Unsupported(format!("image {} {why}", image.display()));
    if !image.is_absolute() {
        return Err(wrong("is not an absolute path to a disk image on this host"));
    }
    let file = fs::File::open(image).map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    let metadata = file.metadata().map_err(|e| wrong(&format!("cannot be read: {e}")))?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(wrong("is not a file, or is empty"));
    }
    match whole(&file).map_err(|e| wrong(&format!("cannot be read: {e}")))? {
        Some(whole) if metadata.len() < whole => {
            Err(wrong(&format!("is cut off: it has {} of {whole} bytes; copy it again", metadata.len())))
        }
        _ => Ok(()),
    }
}

/// Bytes that a disk has by its own partition table; nothing where it has no such table.
fn whole(file: &fs::File) -> io::Result<Option<u64>> {
    let mut header = [0; ALTERNATE + 8];
    match file.read_exact_at(&mut header, SECTOR) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let last = header.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Ok(header.starts_with(SIGNATURE).then(|| last.saturating_add(1).saturating_mul(SECTOR)))
}

/// Refuses a VM that would soon stop for want of disk or memory. State disks are sparse and rarely filled: a fresh
/// node writes under 1 GiB, so 2 GiB of each is asked for at most.
pub(super) fn check_room(dir: &Path, state_disk_bytes: u64, shape: Shape) -> Result<(), CloudError> {
    const MOST: u64 = 2 << 30;
    const SPARE: u64 = 256 << 20;
    if state_disk_bytes == 0 {
        return Err(CloudError::Unsupported("a node needs a state disk: its size is 0".to_owned()));
    }
    check_free(dir, state_disk_bytes.min(MOST) + SPARE, "a node")?;
    let available = available_memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    match available {
        Some(available) if available < shape.memory_mib => Err(CloudError::Capacity(format!(
            "the host has not the {} MiB of memory left that the node asks for",
            shape.memory_mib
        ))),
        _ => Ok(()),
    }
}

/// Refuses a folder whose disk has not so much room.
pub(super) fn check_free(dir: &Path, wanted_bytes: u64, what: &str) -> Result<(), CloudError> {
    let disk = rustix::fs::statvfs(dir)
        .map_err(|e| CloudError::Transient(format!("looking for free space in {} failed: {e}", dir.display())))?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < wanted_bytes {
        let (dir, wanted) = (dir.display(), wanted_bytes >> 20);
        return Err(CloudError::Host(format!(
            "{dir} has not the {wanted} MiB free that are needed for {what}: make room on its disk"
        )));
    }
    Ok(())
}

/// What went wrong with files on the host's disk. One that is full is for a person to see to; what else it is may pass.
pub(super) fn files(dir: &Path, error: &io::Error) -> CloudError {
    let what = format!("files in {} can't be read or written: {error}", dir.display());
    match error.kind() {
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => {
            CloudError::Host(format!("{what}: make room on its disk"))
        }
        _ => CloudError::Transient(what),
    }
}

fn available_memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_relative_or_empty_image_is_refused_by_its_path() {
        for wrong in ["node.img", "/nonexistent/node.img", "/dev/null", "/"] {
            let Err(CloudError::Unsupported(message)) = check_image(Path::new(wrong)) else {
                panic!("{wrong} was taken")
            };
            assert!(message.contains(wrong), "{message}");
        }
        assert!(check_image(&std::env::current_exe().unwrap()).is_ok());
    }

    #[test]
    fn an_image_that_was_cut_off_is_refused_with_both_lengths() {
        let path = std::env::temp_dir().join(format!("constellation-image-{}", std::process::id()));
        let mut disk = vec![0; 2048];
        disk[512..520].copy_from_slice(SIGNATURE);
        disk[512 + ALTERNATE..][..8].copy_from_slice(&3_u64.to_le_bytes());
        fs::write(&path, &disk).unwrap();
        assert!(check_image(&path).is_ok());
        fs::write(&path, &disk[..2047]).unwrap();
        let refused = check_image(&path).unwrap_err().to_string();
        assert!(refused.contains("is cut off: it has 2047 of 2048 bytes"), "{refused}");
        // A file that is no such disk is QEMU's matter.
        disk[512] = 0;
        fs::write(&path, &disk[..2047]).unwrap();
        assert!(check_image(&path).is_ok());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_disk_without_room_is_named_with_what_is_needed() {
        let small = Shape { vcpus: 1, memory_mib: 1 };
        // A filesystem that never has any room.
        let refused = check_room(Path::new("/proc"), 1, small);
        let Err(CloudError::Host(message)) = refused else { panic!("{refused:?}") };
        assert_eq!(message, "/proc has not the 256 MiB free that are needed for a node: make room on its disk");
        let full = files(Path::new("/x"), &io::Error::from_raw_os_error(28));
        assert!(matches!(&full, CloudError::Host(message) if message.ends_with("make room on its disk")), "{full:?}");
        assert!(matches!(files(Path::new("/x"), &io::Error::from_raw_os_error(5)), CloudError::Transient(_)));
        assert!(check_room(&std::env::temp_dir(), 1, small).is_ok());
    }

    #[test]
    fn a_vm_larger_than_the_host_is_a_matter_of_capacity() {
        let dir = std::env::temp_dir();
        let huge = Shape { vcpus: 1, memory_mib: 1 << 40 };
        assert!(matches!(check_room(&dir, 1, huge), Err(CloudError::Capacity(_))));
        let small = Shape { vcpus: 1, memory_mib: 1 };
        assert!(check_room(&dir, 1, small).is_ok());
        assert!(matches!(check_room(&dir, 0, small), Err(CloudError::Unsupported(_))));
    }

    #[test]
    fn available_memory_is_read_in_mebibytes() {
        assert_eq!(available_memory_mib("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2));
        assert_eq!(available_memory_mib("MemTotal: 9 kB\n"), None);
    }
}
