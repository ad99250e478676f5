//! Which block device is the state disk: the one whole disk that has no partitions. Clouds give disks no fixed names.
//!
//! It is no matter of trust which one the host shows: a disk is opened with the key of the ticket and a checked header,
//! and one that isn't blank and isn't ours is never formatted.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::error::Error;

/// Where Linux lists block devices.
const DISKS: &str = "/sys/block";
/// A disk is there when the node agent starts, except where its bus is still being searched.
const APPEARS: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(200);
/// Disks of the physical host, which EC2 adds to some types of instances and empties at each stop (EC2's
/// user guide, "Identify `NVMe` instance store volumes").
const EPHEMERAL: &str = "Amazon EC2 NVMe Instance Storage";

/// The state disk, as soon as it is there.
///
/// # Errors
/// [`Error::StateDisk`] when after a minute there isn't exactly one disk that it could be.
pub async fn state_disk() -> Result<String, Error> {
    let end = Instant::now() + APPEARS;
    loop {
        match one(candidates(Path::new(DISKS))?) {
            Err(_) if Instant::now() < end => sleep(LOOK).await,
            found => return found,
        }
    }
}

fn one(mut found: Vec<String>) -> Result<String, Error> {
    match (found.pop(), found.is_empty()) {
        (Some(name), true) => Ok(format!("/dev/{name}")),
        (Some(name), false) => {
            found.push(name);
            Err(Error::StateDisk(format!("{} could each be it", found.join(", "))))
        }
        (None, _) => Err(Error::StateDisk("there is no disk without partitions".into())),
    }
}

/// Names of the disks that could be it, in order.
fn candidates(disks: &Path) -> Result<Vec<String>, Error> {
    let failed = |e| Error::File(format!("listing {}", disks.display()), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(disks).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if could_be(&entry.path()) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// A disk behind a real bus (a loop or a mapped device has no `device`) that can be written, stays, and is whole.
fn could_be(disk: &Path) -> bool {
    let says = |name: &str| fs::read_to_string(disk.join(name)).unwrap_or_default().trim().to_owned();
    let is_set = |name: &str| !matches!(says(name).as_str(), "" | "0");
    disk.join("device").exists()
        && is_set("size")
        && !is_set("removable")
        && !is_set("ro")
        // One path of several to an NVMe disk that has an entry of its own.
        && !is_set("hidden")
        && says("device/model") != EPHEMERAL
        && !is_partitioned(disk)
}

fn is_partitioned(disk: &Path) -> bool {
    let parts = fs::read_dir(disk).into_iter().flatten().flatten().map(|entry| entry.path());
    parts.map(|path: PathBuf| path.join("partition")).any(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk as the kernel shows it: attributes, and whether it has a partition.
    fn disk(root: &Path, name: &str, attributes: &[(&str, &str)], partitioned: bool) {
        let folder = root.join(name);
        fs::create_dir_all(folder.join("device")).unwrap();
        for (file, text) in [("size", "2097152"), ("removable", "0"), ("ro", "0"), ("hidden", "0")] {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        for (file, text) in attributes {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        if partitioned {
            fs::create_dir_all(folder.join(format!("{name}p1"))).unwrap();
            fs::write(folder.join(format!("{name}p1/partition")), "1\n").unwrap();
        }
    }

    fn found(root: &Path) -> Result<String, String> {
        one(candidates(root).unwrap()).map_err(|e| e.to_string())
    }

    /// A cloud, what makes its disks, and which is the state disk.
    type Cloud = (&'static str, fn(&Path), &'static str);

    #[test]
    fn the_state_disk_of_each_cloud_is_found_among_its_disks() {
        let folder = tempfile::tempdir().unwrap();
        let clouds: [Cloud; 4] = [
            (
                "qemu",
                |root| {
                    disk(root, "vda", &[], true);
                    disk(root, "vdb", &[], false);
                },
                "/dev/vdb",
            ),
            (
                "aws",
                |root| {
                    disk(root, "nvme0n1", &[("device/model", EPHEMERAL)], false);
                    disk(root, "nvme1n1", &[("device/model", "Amazon Elastic Block Store")], false);
                    disk(root, "nvme1c1n1", &[("hidden", "1")], false);
                    disk(root, "nvme2n1", &[("device/model", "Amazon Elastic Block Store")], true);
                },
                "/dev/nvme1n1",
            ),
            (
                "azure",
                |root| {
                    disk(root, "sda", &[("device/model", "Virtual Disk")], true);
                    disk(root, "sdb", &[("device/model", "Virtual Disk")], true);
                    disk(root, "sdc", &[("device/model", "Virtual Disk")], false);
                    disk(root, "sr0", &[("removable", "1")], false);
                },
                "/dev/sdc",
            ),
            (
                "gcp",
                |root| {
                    disk(root, "nvme0n1", &[("device/model", "nvme_card-pd")], true);
                    disk(root, "nvme0n2", &[("device/model", "nvme_card-pd")], false);
                    fs::create_dir_all(root.join("dm-0")).unwrap();
                    fs::write(root.join("dm-0/size"), "8\n").unwrap();
                },
                "/dev/nvme0n2",
            ),
        ];
        for (cloud, make, wanted) in clouds {
            let root = folder.path().join(cloud);
            make(&root);
            assert_eq!(found(&root).as_deref(), Ok(wanted), "{cloud}");
        }
    }

    #[test]
    fn none_and_two_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        disk(folder.path(), "sda", &[], true);
        disk(folder.path(), "sdb", &[("size", "0")], false);
        disk(folder.path(), "sdc", &[("ro", "1")], false);
        assert!(found(folder.path()).unwrap_err().contains("no disk without partitions"));
        disk(folder.path(), "sdd", &[], false);
        assert_eq!(found(folder.path()).as_deref(), Ok("/dev/sdd"));
        disk(folder.path(), "sde", &[], false);
        assert!(found(folder.path()).unwrap_err().contains("sdd, sde could each be it"));
    }
}
