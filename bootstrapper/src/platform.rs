//! Which cloud the machine seems to run in. The firmware's tables are the host's word: a lie makes the node ask another
//! service of the same host, and what that says is measured before it is used.

use std::{fs, path::Path};

/// Where Linux shows the firmware's tables.
pub const TABLES: &str = "/sys/class/dmi/id";

/// Who delivers the launch configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// EC2.
    Aws,
    /// Azure.
    Azure,
    /// Compute Engine.
    Gcp,
    /// The operator's own host, and everything that names no cloud.
    Local,
}

impl Platform {
    /// Reads the tables in a folder.
    ///
    /// Sources: EC2 "Detect whether a host is an EC2 instance" (system vendor); Compute Engine "Detect if a VM is running
    /// in Compute Engine" (product name); Azure's chassis asset tag as cloud-init's `ds-identify` has it, since other
    /// Hyper-V machines have the same vendor.
    #[must_use]
    pub fn detect(tables: &Path) -> Self {
        let entry = |name: &str| fs::read_to_string(tables.join(name)).unwrap_or_default().trim().to_owned();
        if entry("sys_vendor") == "Amazon EC2" {
            Self::Aws
        } else if entry("product_name") == "Google Compute Engine" {
            Self::Gcp
        } else if entry("chassis_asset_tag") == "7783-7084-3265-9085-8269-3286-77" {
            Self::Azure
        } else {
            Self::Local
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cloud_is_known_by_its_table_and_everything_else_is_local() {
        let folder = std::env::temp_dir().join(format!("constellation-dmi-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let cases = [
            ("sys_vendor", "Amazon EC2\n", Platform::Aws),
            ("product_name", "Google Compute Engine\n", Platform::Gcp),
            ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n", Platform::Azure),
            ("sys_vendor", "QEMU\n", Platform::Local),
            ("sys_vendor", "Microsoft Corporation\n", Platform::Local),
            ("product_name", "Amazon EC2\n", Platform::Local),
        ];
        for (name, text, platform) in cases {
            fs::write(folder.join(name), text).unwrap();
            assert_eq!(Platform::detect(&folder), platform, "{name}: {text}");
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::remove_dir(&folder).unwrap();
        assert_eq!(Platform::detect(&folder), Platform::Local);
    }
}
