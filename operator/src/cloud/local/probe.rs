//! What the host can do: the programs and firmware that are there, and whether KVM really works.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::qemu::Accelerator;
use crate::cloud::CloudError;

/// The programs and files that every VM needs.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) qemu: PathBuf,
    pub(super) swtpm: PathBuf,
    pub(super) swtpm_setup: PathBuf,
    pub(super) swtpm_localca: PathBuf,
    pub(super) ip: PathBuf,
    pub(super) unshare: PathBuf,
    /// OVMF's code, read-only.
    pub(super) firmware: PathBuf,
    /// OVMF's empty variables, copied for each VM.
    pub(super) variables: PathBuf,
}

impl Tools {
    /// Finds them all, or says everything that is missing and the Debian packages that hold it.
    pub(super) fn find() -> Result<Self, CloudError> {
        let mut missing = Vec::new();
        let mut program = |name: &str, package: &str| {
            which(name).unwrap_or_else(|| {
                missing.push(format!("{name} (package {package})"));
                PathBuf::new()
            })
        };
        let qemu = program("qemu-system-x86_64", "qemu-system-x86");
        let swtpm = program("swtpm", "swtpm");
        let swtpm_setup = program("swtpm_setup", "swtpm-tools");
        let swtpm_localca = program("swtpm_localca", "swtpm-tools");
        program("certtool", "gnutls-bin");
        let ip = program("ip", "iproute2");
        let unshare = program("unshare", "util-linux");
        let firmware =
            FIRMWARE.iter().find(|(code, variables)| Path::new(code).exists() && Path::new(variables).exists());
        if firmware.is_none() {
            missing.push("OVMF firmware, OVMF_CODE.fd and OVMF_VARS.fd (package ovmf)".to_owned());
        }
        if !Path::new("/dev/net/tun").exists() {
            missing.push("/dev/net/tun (load the kernel module tun)".to_owned());
        }
        match firmware {
            Some((code, variables)) if missing.is_empty() => Ok(Self {
                qemu,
                swtpm,
                swtpm_setup,
                swtpm_localca,
                ip,
                unshare,
                firmware: code.into(),
                variables: variables.into(),
            }),
            _ => Err(CloudError::Host(format!("local VMs need what is not here: {}", missing.join("; ")))),
        }
    }

    /// Asks QEMU and swtpm for their versions; refuses those too old for what we ask of them.
    pub(super) fn check_versions(&self) -> Result<String, CloudError> {
        let qemu = version_of(&self.qemu, "version ", (6, 0), "qemu-system-x86")?;
        let swtpm = version_of(&self.swtpm, "version ", (0, 6), "swtpm")?;
        Ok(format!("QEMU {}.{}, swtpm {}.{}, {}", qemu.0, qemu.1, swtpm.0, swtpm.1, self.firmware.display()))
    }
}

/// Pairs of code and variables; the 2 MiB build first: it boots 3 s faster in software.
const FIRMWARE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.fd", "/usr/share/edk2/x64/OVMF_VARS.fd"),
];

fn version_of(program: &Path, before: &str, least: (u32, u32), package: &str) -> Result<(u32, u32), CloudError> {
    let unusable = |why: String| CloudError::Host(format!("{} {why} (package {package})", program.display()));
    let output = Command::new(program).arg("--version").output().map_err(|e| unusable(format!("does not run: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text, before).ok_or_else(|| unusable("does not tell its version".to_owned()))?;
    if version < least {
        return Err(unusable(format!("is {}.{}, {}.{} or later is needed", version.0, version.1, least.0, least.1)));
    }
    Ok(version)
}

/// The two first numbers after `before`.
fn parse_version(text: &str, before: &str) -> Option<(u32, u32)> {
    let rest = &text[text.find(before)? + before.len()..];
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A program on the path, or where Debian keeps programs that are not on everybody's path.
pub(super) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// KVM if this host's KVM runs ordinary guests, else software.
///
/// `/dev/kvm` alone proves nothing: some hosts have a KVM that runs only paravirtual guests and hangs or aborts with
/// others. So the processor must offer VMX or SVM and the module for it must be loaded. QEMU's own behaviour is the
/// second judge, see `instance`.
pub(super) fn accelerator() -> Accelerator {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let module = ["/sys/module/kvm_intel", "/sys/module/kvm_amd"].iter().any(|path| Path::new(path).exists());
    let device = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    choose(&cpuinfo, module, device)
}

fn choose(cpuinfo: &str, module: bool, device: bool) -> Accelerator {
    let offered = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    if offered && module && device { Accelerator::Kvm } else { Accelerator::Tcg }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_the_flag_the_module_and_the_device() {
        let with = "processor : 0\nflags\t\t: fpu vmx sse2\n";
        let without = "processor : 0\nflags\t\t: fpu sse2 vmx_like\n";
        assert_eq!(choose(with, true, true), Accelerator::Kvm);
        assert_eq!(choose("flags : svm\n", true, true), Accelerator::Kvm);
        assert_eq!(choose(without, true, true), Accelerator::Tcg);
        assert_eq!(choose(with, false, true), Accelerator::Tcg);
        assert_eq!(choose(with, true, false), Accelerator::Tcg);
        assert_eq!(choose("model name : vmx\n", true, true), Accelerator::Tcg);
    }

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2)\n", "version "), Some((7, 2)));
        assert_eq!(parse_version("TPM emulator version 0.7.1, Copyright\n", "version "), Some((0, 7)));
        assert_eq!(parse_version("no number", "version "), None);
        assert_eq!(parse_version("version x", "version "), None);
    }
}
