//! What is looked at before a VM is made: its image, the disk and the memory it will need.

use std::{fs, path::Path};

use super::layout::Shape;
use crate::cloud::CloudError;

/// Refuses an image that QEMU could not open.
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
    Ok(())
}

/// Refuses a VM that would soon stop for want of disk or memory. State disks are sparse and rarely filled: a fresh
/// node writes under 1 GiB, so 2 GiB of each is asked for at most.
pub(super) fn check_room(dir: &Path, state_disk_bytes: u64, shape: Shape) -> Result<(), CloudError> {
    const MOST: u64 = 2 << 30;
    const SPARE: u64 = 256 << 20;
    if state_disk_bytes == 0 {
        return Err(CloudError::Unsupported("a node needs a state disk: its size is 0".to_owned()));
    }
    let disk = rustix::fs::statvfs(dir)
        .map_err(|e| CloudError::Transient(format!("looking for free space in {} failed: {e}", dir.display())))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let wanted = state_disk_bytes.min(MOST) + SPARE;
    if free < wanted {
        return Err(CloudError::Capacity(format!(
            "{} has {} MiB free, {} MiB are needed for a node",
            dir.display(),
            free >> 20,
            wanted >> 20
        )));
    }
    let available = available_memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    match available {
        Some(available) if available < shape.memory_mib => Err(CloudError::Capacity(format!(
            "the host has {available} MiB of memory left, the node asks for {} MiB",
            shape.memory_mib
        ))),
        _ => Ok(()),
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
