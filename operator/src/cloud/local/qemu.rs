//! The command line of QEMU: a function of what a VM shall be; and what QEMU tells on its monitor.

use std::{net::Ipv4Addr, path::PathBuf};

use serde_json::{Value, json};

use super::layout::{Shape, Subnet};

/// How the guest's instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The host's virtualisation.
    Kvm,
    /// In software; works everywhere, about ten times slower.
    Tcg,
}

/// Everything that QEMU's command line depends on. Relative paths are relative to the instance's directory, which is
/// QEMU's working directory: so a long state directory never makes a socket's path too long.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) accelerator: Accelerator,
    pub(super) shape: Shape,
    pub(super) firmware: PathBuf,
    pub(super) image: PathBuf,
    pub(super) tap: String,
    pub(super) address: Ipv4Addr,
    pub(super) subnet: Subnet,
}

/// File names inside the instance's directory.
pub(super) const CONSOLE: &str = "console.log";
pub(super) const STATE_DISK: &str = "state.img";
pub(super) const VARIABLES: &str = "vars.fd";
pub(super) const TPM_SOCKET: &str = "tpm.sock";
/// What the guest is told about itself: launch configuration and hints, in the form that clouds deliver
/// ([`constellation_attestation::delivery`]).
pub(super) const USER_DATA: &str = "user-data";

/// The arguments after the program's name.
pub(super) fn arguments(machine: &Machine) -> Vec<String> {
    let mut args: Vec<String> =
        ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(String::from).into();
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("-name", format!("guest={}", doubled(&machine.name)));
    add("-machine", "q35,smm=off".into());
    match machine.accelerator {
        Accelerator::Kvm => {
            add("-accel", "kvm".into());
            add("-cpu", "host".into());
        }
        Accelerator::Tcg => {
            add("-accel", "tcg,thread=multi".into());
            // Fast strings are slow where they are emulated, byte by byte; kernels clear and copy pages by them.
            add("-cpu", "max,erms=off,fsrm=off".into());
        }
    }
    add("-smp", machine.shape.vcpus.to_string());
    add("-m", machine.shape.memory_mib.to_string());
    add("-rtc", "base=utc".into());
    // The monitor is QEMU's standard input and output: no socket to name, to leak, or to find open.
    add("-chardev", "stdio,id=monitor,signal=off".into());
    add("-mon", "chardev=monitor,mode=control".into());
    add("-chardev", format!("file,id=console,path={CONSOLE},append=on"));
    add("-serial", "chardev:console".into());
    add("-drive", format!("if=pflash,format=raw,unit=0,readonly=on,file={}", path(&machine.firmware)));
    add("-drive", format!("if=pflash,format=raw,unit=1,file={VARIABLES}"));
    add("-drive", format!("if=none,id=image,format=raw,readonly=on,file={}", path(&machine.image)));
    add("-device", "virtio-blk-pci,drive=image,bootindex=1".into());
    // The state disk ends with its VM, so nothing is gained by flushing it to the host's disk.
    add("-drive", format!("if=none,id=state,format=raw,cache=unsafe,discard=unmap,file={STATE_DISK}"));
    add("-device", "virtio-blk-pci,drive=state".into());
    add("-chardev", format!("socket,id=tpm,path={TPM_SOCKET}"));
    add("-tpmdev", "emulator,id=tpm0,chardev=tpm".into());
    add("-device", "tpm-crb,tpmdev=tpm0".into());
    add("-device", "virtio-rng-pci".into());
    add("-netdev", format!("tap,id=net,ifname={},script=no,downscript=no", machine.tap));
    add("-device", format!("virtio-net-pci,netdev=net,mac={},romfile=", mac(machine.address)));
    add("-fw_cfg", format!("name=opt/constellation/network,string={}", doubled(&network_hint(machine).to_string())));
    add("-fw_cfg", format!("name=opt/constellation/user-data,file={USER_DATA}"));
    args
}

/// What the guest needs to reach its cluster. Untrusted, like everything the host says.
fn network_hint(machine: &Machine) -> Value {
    json!({
        "address": machine.subnet.with_prefix(machine.address),
        "gateway": machine.subnet.gateway().to_string(),
    })
}

/// A locally administered address that follows from the IPv4 address, so it is unique in the cluster and stable.
fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// QEMU's options end at a comma unless it is doubled.
fn doubled(value: &str) -> String {
    value.replace(',', ",,")
}

fn path(path: &std::path::Path) -> String {
    doubled(&path.to_string_lossy())
}

/// The line that opens the monitor for business; QEMU answers it after its greeting.
pub(super) const OPEN_MONITOR: &str = "{\"execute\":\"qmp_capabilities\"}\n";

/// The line after which a guest goes on that QEMU has stopped; what it couldn't write then is written again.
pub(super) const GO_ON: &str = "{\"execute\":\"cont\"}\n";

/// Whether QEMU has stopped the guest because its disk's file has no room, if this line of the monitor says so.
pub(super) fn wants_room(line: &str) -> bool {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    let is = |key: &str, value: Value| event.pointer(key) == Some(&value);
    is("/event", "BLOCK_IO_ERROR".into()) && is("/data/nospace", true.into()) && is("/data/action", "stop".into())
}

/// Why the guest ended, if this line of the monitor says so: `guest-reset`, `guest-shutdown`, `guest-panic`, …
#[must_use]
pub fn shutdown_reason(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event.get("event")?.as_str()? != "SHUTDOWN" {
        return None;
    }
    Some(event.get("data")?.get("reason")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_is_stopped_for_want_of_room_is_told_from_one_whose_disk_failed() {
        // QEMU 7.2 says this.
        let line = |nospace: bool, action: &str| {
            format!(
                r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "BLOCK_IO_ERROR", "data": {{"device": "state",
                "nospace": {nospace}, "node-name": "b", "reason": "x", "operation": "write", "action": "{action}"}}}}"#
            )
        };
        assert!(wants_room(&line(true, "stop")));
        for other in [&line(false, "report"), &line(true, "report"), r#"{"event": "STOP"}"#, r#"{"return": {}}"#, ""] {
            assert!(!wants_room(other), "{other}");
        }
    }

    fn machine() -> Machine {
        Machine {
            name: "workers-1".into(),
            accelerator: Accelerator::Tcg,
            shape: Shape { vcpus: 2, memory_mib: 2048 },
            firmware: "/fw/OVMF_CODE.fd".into(),
            image: "/images/node.img".into(),
            tap: "tap1".into(),
            address: Ipv4Addr::new(10, 77, 0, 11),
            subnet: Subnet::parse("10.77.0.0/24").unwrap(),
        }
    }

    fn values<'a>(args: &'a [String], option: &str) -> Vec<&'a str> {
        args.windows(2).filter(|w| w[0] == option).map(|w| w[1].as_str()).collect()
    }

    #[test]
    fn the_image_is_the_first_disk_read_only_and_the_state_disk_the_second() {
        let args = arguments(&machine());
        let drives = values(&args, "-drive");
        assert_eq!(drives[0], "if=pflash,format=raw,unit=0,readonly=on,file=/fw/OVMF_CODE.fd");
        assert_eq!(drives[2], "if=none,id=image,format=raw,readonly=on,file=/images/node.img");
        assert_eq!(drives[3], "if=none,id=state,format=raw,cache=unsafe,discard=unmap,file=state.img");
        let devices = values(&args, "-device");
        assert_eq!(devices[..2], ["virtio-blk-pci,drive=image,bootindex=1", "virtio-blk-pci,drive=state"]);
    }

    #[test]
    fn the_guest_gets_its_network_as_json_with_doubled_commas_and_its_user_data_as_a_file() {
        let args = arguments(&machine());
        assert_eq!(
            values(&args, "-fw_cfg"),
            [
                r#"name=opt/constellation/network,string={"address":"10.77.0.11/24",,"gateway":"10.77.0.1"}"#,
                "name=opt/constellation/user-data,file=user-data"
            ]
        );
    }

    #[test]
    fn the_card_sits_on_its_tap_with_an_address_of_its_own() {
        let args = arguments(&machine());
        assert_eq!(values(&args, "-netdev"), ["tap,id=net,ifname=tap1,script=no,downscript=no"]);
        assert!(values(&args, "-device").contains(&"virtio-net-pci,netdev=net,mac=52:54:0a:4d:00:0b,romfile="));
    }

    #[test]
    fn the_accelerator_chooses_the_processor() {
        let tcg = arguments(&machine());
        assert_eq!(
            (values(&tcg, "-accel"), values(&tcg, "-cpu")),
            (vec!["tcg,thread=multi"], vec!["max,erms=off,fsrm=off"])
        );
        let kvm = arguments(&Machine { accelerator: Accelerator::Kvm, ..machine() });
        assert_eq!((values(&kvm, "-accel"), values(&kvm, "-cpu")), (vec!["kvm"], vec!["host"]));
    }

    #[test]
    fn a_comma_in_a_path_or_name_does_not_start_a_new_option() {
        let args = arguments(&Machine {
            image: "/a,readonly=off/b.img".into(),
            name: "x,debug-threads=on".into(),
            ..machine()
        });
        assert!(values(&args, "-drive")[2].ends_with("file=/a,,readonly=off/b.img"));
        assert_eq!(values(&args, "-name"), ["guest=x,,debug-threads=on"]);
    }

    #[test]
    fn a_guest_that_resets_or_powers_off_says_so_on_the_monitor() {
        let reset = r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#;
        assert_eq!(shutdown_reason(reset).as_deref(), Some("guest-reset"));
        assert_eq!(shutdown_reason(r#"{"event":"RESET","data":{"guest":true,"reason":"guest-reset"}}"#), None);
        assert_eq!(shutdown_reason(r#"{"return":{}}"#), None);
        assert_eq!(shutdown_reason("not json"), None);
    }
}
