//! What differs between images: where they boot decides on kernel, drivers, command line and how they get an address.

use clap::ValueEnum;

/// Where an image boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Flavor {
    /// In QEMU beside the operator, also without hardware virtualisation: Debian's own kernel.
    #[default]
    Local,
    /// In a cloud: a kernel that shows the processor's reports to the node agent, the clouds' disks and networks, DHCP.
    Cloud,
}

/// A file of an image: path, mode, content.
pub(crate) type File = (&'static str, u32, &'static str);

/// Words that hold everywhere. `systemd.import_credentials` and `efi=noruntime` close the host's ways to give systemd
/// settings that are not measured. A kernel that is stuck for 60 s (twice `watchdog_thresh`) panics, and a panic restarts
/// the machine, which proves itself and joins again. A processor whose timer is lost looks after nothing any more; the
/// others miss it (RCU) after as long.
const COMMON: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 systemd.show_status=0 systemd.import_credentials=no \
     efi=noruntime softlockup_panic=1 watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60 \
     sysctl.kernel.panic_on_rcu_stall=1";
/// The clock and tick words are for machines without hardware virtualisation, where each look at the clock is expensive.
const SLOW: &str = "tsc=reliable clocksource=tsc highres=off nohz=off mitigations=off";

/// What stands between the firmware and the verified root. The SIMD variants of SHA-256 stay out on purpose: without
/// hardware virtualisation they verify at half the speed of the generic one (25 against 50 MB/s, measured).
const ROOT_MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "dm_mod", "dm_verity", "erofs", "overlay"];
/// Disks of EC2 and of newer machine types of all clouds (`NVMe`), of Compute Engine and of Azure (SCSI).
const CLOUD_DISKS: [&str; 5] = ["nvme", "virtio_scsi", "hv_vmbus", "hv_storvsc", "sd_mod"];

impl Flavor {
    /// Name, as in file names and keys of the cache.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
        }
    }

    /// Debian's package of the kernel, and the suite beside this machine's own that it comes from. Reports of the
    /// processor need Linux 6.7 (`CONFIG_TSM_REPORTS`, in the kernel's `Documentation/ABI/testing/configfs-tsm-report`);
    /// Debian 12 has 6.1, its backports have a newer one.
    pub(crate) const fn kernel(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Local => ("linux-image-cloud-amd64", None),
            Self::Cloud => ("linux-image-cloud-amd64", Some("backports")),
        }
    }

    /// The kernel command line, before version and root hash.
    pub(crate) fn command_line(self) -> String {
        match self {
            Self::Local => format!("{COMMON} {SLOW}"),
            Self::Cloud => COMMON.to_owned(),
        }
    }

    /// Modules of the initial RAM disk.
    pub(crate) fn modules(self) -> Vec<&'static str> {
        match self {
            Self::Local => ROOT_MODULES.to_vec(),
            Self::Cloud => [&CLOUD_DISKS[..], &ROOT_MODULES[..]].concat(),
        }
    }

    /// What the size of the disk image is a multiple of, bytes: whole GiB for Compute Engine ("Manually import boot disks"),
    /// whole MiB for Azure ("Prepare a Windows VHD or VHDX", fixed size).
    pub(crate) const fn granule(self) -> u64 {
        match self {
            Self::Local => 1 << 20,
            Self::Cloud => 1 << 30,
        }
    }

    /// Files of this flavour only.
    pub(crate) const fn files(self) -> &'static [File] {
        match self {
            Self::Local => &[],
            Self::Cloud => &[
                (
                    "etc/systemd/system/constellation-drivers.service",
                    0o644,
                    include_str!("../files/units/constellation-drivers.service"),
                ),
                (
                    "etc/systemd/system/constellation-network.service",
                    0o644,
                    include_str!("../files/units/constellation-network.service"),
                ),
                ("usr/lib/constellation/dhcp", 0o755, include_str!("../files/dhcp.sh")),
            ],
        }
    }

    /// Units of this flavour that start with the machine.
    pub(crate) const fn units(self) -> &'static [&'static str] {
        match self {
            Self::Local => &[],
            Self::Cloud => &["constellation-drivers.service", "constellation-network.service"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flavour_lets_the_host_pass_settings_to_systemd() {
        for flavor in Flavor::value_variants() {
            let line = flavor.command_line();
            assert!(line.contains("systemd.import_credentials=no") && line.contains("efi=noruntime"), "{line}");
        }
    }

    #[test]
    fn what_only_a_slow_host_needs_stays_out_of_a_clouds_image() {
        assert!(!Flavor::Cloud.command_line().contains("mitigations"));
        assert!(Flavor::Local.command_line().contains("mitigations=off"));
    }

    #[test]
    fn what_starts_is_a_file_and_says_when() {
        for flavor in Flavor::value_variants() {
            for unit in flavor.units() {
                let path = format!("etc/systemd/system/{unit}");
                let (_, _, content) = flavor.files().iter().find(|file| file.0 == path).unwrap();
                assert!(content.contains("[Install]"), "{unit}");
            }
        }
    }
}
