//! The node's own files: programs, units, settings, and what is switched off.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::elf;
use crate::error::{Result, invalid, io};
use crate::flavor::{File, Flavor};
use crate::rootfs;
use crate::tool;

/// Files written into every image: path, mode, content.
const FILES: &[File] = &[
    ("etc/.updated", 0o644, ""),
    ("etc/containerd/config.toml", 0o644, include_str!("../files/containerd.toml")),
    ("etc/fstab", 0o644, ""),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
    // Empty: systemd makes one in memory at each boot, so no two nodes share one.
    ("etc/machine-id", 0o444, ""),
    ("etc/modules-load.d/constellation.conf", 0o644, MODULES),
    ("etc/resolv.conf", 0o644, ""),
    ("etc/sysctl.d/90-constellation.conf", 0o644, SYSCTLS),
    (
        "etc/systemd/journald.conf.d/constellation.conf",
        0o644,
        "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\nForwardToConsole=no\nAudit=no\n",
    ),
    ("etc/systemd/system/cseed.service", 0o644, include_str!("../files/units/cseed.service")),
    (
        "etc/systemd/system/constellation-bootstrapper.service",
        0o644,
        include_str!("../files/units/constellation-bootstrapper.service"),
    ),
    (
        "etc/systemd/system/constellation-modules.service",
        0o644,
        include_str!("../files/units/constellation-modules.service"),
    ),
    (
        "etc/systemd/system/constellation-verifier.service",
        0o644,
        include_str!("../files/units/constellation-verifier.service"),
    ),
    ("etc/systemd/system/containerd.service", 0o644, include_str!("../files/units/containerd.service")),
    ("etc/systemd/system/kubelet.service", 0o644, include_str!("../files/units/kubelet.service")),
    ("etc/systemd/system/kubelet.service.d/10-kubeadm.conf", 0o644, include_str!("../files/units/10-kubeadm.conf")),
    ("usr/lib/constellation/seed", 0o755, include_str!("../files/seed.sh")),
    (
        "usr/lib/os-release",
        0o644,
        "ID=constellation\nID_LIKE=debian\nNAME=\"Constellation node\"\nPRETTY_NAME=\"Constellation node\"\n",
    ),
    ("var/.updated", 0o644, ""),
];

/// Folders that must be there: mount points, and folders that programs expect.
const FOLDERS: &[&str] = &[
    "dev",
    "etc/cni/net.d",
    "etc/kubernetes",
    "opt/cni/bin",
    "proc",
    "ro",
    "run",
    "sys",
    "tmp",
    "var/lib/containerd",
    "var/lib/etcd",
    "var/lib/kubelet",
    "var/log",
    "var/tmp",
];

/// What the node agent needs at once: there is no udev that would load a driver when its device appears. The rest is
/// loaded by `constellation-modules.service` once the node has its ticket: without hardware virtualisation that takes seconds of a
/// processor, which the verifier's host may lack meanwhile.
const MODULES: &str = "virtio_net\nvirtio_rng\nqemu_fw_cfg\n";

const SYSCTLS: &str = "\
net.ipv4.ip_forward=1\nnet.ipv4.conf.all.rp_filter=0\nvm.overcommit_memory=1\nkernel.panic=10\nkernel.panic_on_oops=1\n";

/// Programs of Kubernetes and the container runtime.
const PROGRAMS: &[&str] = &["containerd", "containerd-shim-runc-v2", "ctr", "kubeadm", "kubectl", "kubelet"];
const NETWORK_PLUGINS: &[&str] = &["bridge", "host-local", "loopback", "portmap"];

/// Units that start with every machine; the node agent starts the others when it is time.
const STARTED: &[&str] = &["constellation-bootstrapper.service"];

/// Units that must never run. Three kinds: ways to a shell; things that would extend register 11 or wait for udev;
/// housekeeping of a system that lives longer than a boot.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "autovt@.service",
    "console-getty.service",
    "container-getty@.service",
    "debug-shell.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "emergency.service",
    "fstrim.timer",
    "getty.target",
    "getty@.service",
    "kmod-static-nodes.service",
    "ldconfig.service",
    "logrotate.timer",
    "modprobe@.service",
    "nftables.service",
    "proc-sys-fs-binfmt_misc.automount",
    "rescue.service",
    "serial-getty@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-boot-update.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-networkd.service",
    "systemd-pcrmachine.service",
    "systemd-pcrphase-initrd.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysext.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-settle.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
];

/// Our two programs and where the others are.
pub(crate) struct Programs {
    pub(crate) kubernetes: PathBuf,
    pub(crate) bootstrapper: PathBuf,
    pub(crate) verifier: PathBuf,
}

impl Programs {
    /// Every program, with its place in the image.
    pub(crate) fn list(&self) -> Vec<(PathBuf, String)> {
        let ours = [
            (&self.bootstrapper, "usr/bin/constellation-bootstrapper"),
            (&self.verifier, "usr/bin/constellation-verifier"),
        ];
        let ours = ours.into_iter().map(|(path, place)| (path.clone(), place.to_owned()));
        let programs = PROGRAMS.iter().map(|name| (self.kubernetes.join(name), format!("usr/bin/{name}")));
        let plugins = NETWORK_PLUGINS.iter().map(|name| (self.kubernetes.join(name), format!("opt/cni/bin/{name}")));
        ours.chain(programs).chain(plugins).collect()
    }
}

/// Everything in this file that decides what is in an image, for the key of the cache.
pub(crate) fn fingerprint(flavor: Flavor) -> String {
    format!("{FILES:?}{:?}{FOLDERS:?}{MASKED:?}", flavor.files())
}

/// Fills an unpacked Debian root with programs, files and preloaded images.
pub(crate) fn fill(root: &Path, flavor: Flavor, programs: &Programs, seed: &Path) -> Result<()> {
    for folder in FOLDERS {
        tool::make_folder(&root.join(folder))?;
    }
    for (path, mode, content) in FILES.iter().chain(flavor.files()) {
        let path = root.join(path);
        // A link, such as os-release or resolv.conf, must not be followed out of the root.
        tool::remove(&path)?;
        tool::write(&path, content)?;
        fs::set_permissions(&path, Permissions::from_mode(*mode)).map_err(io("set mode of", &path))?;
    }
    link(root, "etc/os-release", "../usr/lib/os-release")?;
    link(root, "etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")?;
    for unit in STARTED.iter().chain(flavor.units()) {
        link(root, &format!("etc/systemd/system/multi-user.target.wants/{unit}"), &format!("../{unit}"))?;
    }
    for unit in MASKED {
        link(root, &format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    // A host can set EFI variables, and generators would turn one (SystemdOptions) into units: without generators and,
    // by the command line, without variables there is no such way in. None of them has work to do in a node.
    for generator in rootfs::glob(&root.join("usr/lib/systemd/system-generators/*"))? {
        tool::remove(&generator)?;
    }
    lock_accounts(root)?;
    for (source, place) in programs.list() {
        install(&source, root, &place)?;
    }
    let seed_folder = root.join("usr/lib/cseed");
    tool::run(tool::command("cp").arg("-a").arg(seed).arg(&seed_folder)).map(drop)
}

/// Copies a program without its symbols, and checks that the image has the libraries it needs.
fn install(source: &Path, root: &Path, place: &str) -> Result<()> {
    let target = root.join(place);
    tool::remove(&target)?;
    fs::copy(source, &target).map_err(io("copy", source))?;
    tool::run(tool::command("strip").arg("--strip-all").arg(&target))?;
    fs::set_permissions(&target, Permissions::from_mode(0o755)).map_err(io("set mode of", &target))?;
    elf::libraries(&target, root).map(drop)
}

/// No account has a password, and every entry for one is marked as locked.
fn lock_accounts(root: &Path) -> Result<()> {
    let path = root.join("etc/shadow");
    let text = String::from_utf8(tool::read(&path)?).map_err(|_| invalid("etc/shadow", "not text"))?;
    let mut locked = String::new();
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(password) = fields.get_mut(1) {
            *password = "!*";
        }
        locked.push_str(&fields.join(":"));
        locked.push('\n');
    }
    fs::write(&path, locked).map_err(io("write", &path))
}

fn link(root: &Path, path: &str, target: &str) -> Result<()> {
    let path = root.join(path);
    if let Some(folder) = path.parent() {
        tool::make_folder(folder)?;
    }
    tool::remove(&path)?;
    symlink(target, &path).map_err(io("link", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_agent_starts_by_itself() {
        for (path, _, content) in FILES.iter().filter(|each| each.0.ends_with(".service")) {
            assert_eq!(content.contains("[Install]"), path.contains("constellation-bootstrapper"), "{path}");
        }
    }

    #[test]
    fn files_and_masks_are_named_once() {
        let mut names: Vec<&str> = FILES.iter().map(|each| each.0).chain(MASKED.iter().copied()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(FILES.iter().all(|each| !each.0.starts_with('/')));
    }

    #[test]
    fn every_account_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        tool::write(&folder.path().join("etc/shadow"), "root:$6$secret:20000:0:99999:7:::\nbin:*:1::::::\n").unwrap();
        lock_accounts(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join("etc/shadow")).unwrap();
        assert_eq!(text, "root:!*:20000:0:99999:7:::\nbin:!*:1::::::\n");
    }
}
