//! `predict`: what a machine will measure, from files alone: registers of one that boots an image, launch digests of one
//! that is started with firmware.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use clap::Args;
use constellation_attestation::snp::launch::{self, Cpu, Firmware, Kernel, Launch, Vmm};
use constellation_image::inspect::{self, Report};
use serde::Serialize;

use crate::input::{self, Error};

/// Greatest boot executable, kernel or initial RAM disk that is read, bytes: the parser's own limit.
const MAX_EXECUTABLE: u64 = 1 << 30;

/// How a machine is started; for firmware only.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Firmware only: numbers of virtual processors; one digest for each.
    #[arg(long, value_name = "NUMBER,...", value_delimiter = ',')]
    vcpus: Vec<u32>,
    /// Firmware only: model of the virtual processors, QEMU's name (EPYC-v4) or a CPUID signature (0x00800f12). EC2 and
    /// Compute Engine don't measure it.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<Cpu>,
    /// Firmware only: who starts the machine: ec2, ec2-old (before about April 2026), gce, or qemu (default).
    #[arg(long, value_name = "MONITOR")]
    vmm: Option<Vmm>,
    /// Firmware only: the SEV features that the guest is started with, hexadecimal. Default: 0x1; a host that swaps debug registers
    /// has 0x21.
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    guest_features: Option<u64>,
    /// Firmware only: kernel that the monitor loads and whose hash the firmware checks (QEMU: -kernel, kernel-hashes=on).
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk of that kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Command line of that kernel, exactly as the monitor is given it.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
}

/// What a machine will measure.
#[derive(Serialize, Clone, Debug)]
#[serde(untagged)]
pub enum Predicted {
    /// Launch digests.
    Launch(Digests),
    /// Registers.
    Registers(Report),
}

/// The launch digests of one way to start a machine.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Who starts it.
    vmm: Vmm,
    /// `SEV_FEATURES`, hexadecimal.
    guest_features: String,
    /// Number of virtual processors to digest, hex.
    measurements: BTreeMap<u32, String>,
}

/// Predicts registers for a disk image or a unified kernel image, and launch digests for firmware.
///
/// # Errors
/// When the file is none of these, or holds what isn't known how to be measured; or when what is said about the machine
/// isn't enough, or isn't about it.
pub fn run(image: &Path, machine: &Machine) -> Result<Predicted, Error> {
    let named = |error: &dyn std::error::Error| Error::value(image.display().to_string(), error);
    let (start, end) = edges(image)?;
    if Firmware::is_one(&end) {
        return digests(image, machine).map(Predicted::Launch);
    }
    if !machine.is_unsaid() {
        let problem =
            "isn't an OVMF image, and only for firmware the options about a machine mean anything: leave them out";
        return Err(Error::said(image.display().to_string(), problem));
    }
    if !start.starts_with(b"MZ") {
        return inspect::predict(image).map(Predicted::Registers).map_err(|e| named(&e));
    }
    let executable = input::read_up_to(image, MAX_EXECUTABLE)?;
    Report::of(&executable).map(Predicted::Registers).map_err(|e| named(&e))
}

impl Machine {
    /// Nothing is said about a machine.
    const fn is_unsaid(&self) -> bool {
        let Self { vcpus, cpu, vmm, guest_features, kernel, initrd: _, cmdline: _ } = self;
        vcpus.is_empty() && cpu.is_none() && vmm.is_none() && guest_features.is_none() && kernel.is_none()
    }

    /// What the machine boots, when its monitor loads it.
    fn boots(&self) -> Result<Option<Kernel>, Error> {
        let Some(path) = &self.kernel else { return Ok(None) };
        let kernel = input::read_up_to(path, MAX_EXECUTABLE)?;
        let initrd = self.initrd.as_ref().map(|path| input::read_up_to(path, MAX_EXECUTABLE)).transpose()?;
        let line = self.cmdline.as_deref().unwrap_or_default();
        let kernel = Kernel::new(&kernel, &initrd.unwrap_or_default(), line);
        kernel.map(Some).map_err(|e| Error::value("--cmdline", &e))
    }
}

impl Predicted {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        match self {
            Self::Launch(found) => {
                for (vcpus, digest) in &found.measurements {
                    let _ = writeln!(text, "launch digest, {vcpus} vCPU: {digest}");
                }
            }
            Self::Registers(report) => {
                for (register, values) in &report.pcrs {
                    let _ = writeln!(text, "PCR {register:2} {}", values.join(" or "));
                }
                for (register, values) in &report.pcrs_sha384 {
                    let _ = writeln!(text, "PCR {register:2} SHA-384 {}", values.join(" or "));
                }
                let _ = writeln!(text, "authenticode {}\ncommand line {}", report.authenticode, report.command_line);
            }
        }
        text
    }
}

/// Launch digests of a machine that is started with firmware.
fn digests(image: &Path, machine: &Machine) -> Result<Digests, Error> {
    let named = |error: &dyn std::error::Error| Error::value(image.display().to_string(), error);
    let said = |problem: &str| Error::said(image.display().to_string(), problem);
    let bytes = input::read_up_to(image, launch::firmware::MAX_BYTES as u64)?;
    let firmware = Firmware::parse(&bytes).map_err(|e| named(&e))?;
    if machine.vcpus.is_empty() {
        return Err(said(
            "is firmware: give the machine's number of virtual processors too, as --vcpus 4 or --vcpus 2,4,8",
        ));
    }
    let vmm = machine.vmm.unwrap_or(Vmm::Qemu);
    let cpu = match machine.cpu {
        Some(cpu) => cpu,
        // These two don't show the guest its model before it asks.
        None if vmm != Vmm::Qemu => Cpu::of_signature(0),
        None => return Err(said("is firmware: give the model of the virtual processors too, as --cpu EPYC-v4")),
    };
    let features = machine.guest_features.unwrap_or(launch::SNP_ACTIVE);
    let kernel = machine.boots()?;
    let mut measurements = BTreeMap::new();
    for vcpus in &machine.vcpus {
        let launch = Launch { vmm, cpu, vcpus: *vcpus, features, kernel: kernel.as_ref() };
        measurements.insert(*vcpus, launch::predict(&firmware, &launch).map_err(|e| named(&e))?.to_string());
    }
    Ok(Digests { vmm, guest_features: format!("{features:#x}"), measurements })
}

/// The first and the last bytes of a file: what it is shows there.
fn edges(path: &Path) -> Result<(Vec<u8>, Vec<u8>), Error> {
    /// Enough for either mark.
    const BYTES: u64 = 64;
    let refuse = |source| Error::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(refuse)?;
    let (mut start, mut end) = (Vec::new(), Vec::new());
    (&mut file).take(BYTES).read_to_end(&mut start).map_err(refuse)?;
    let length = file.metadata().map_err(refuse)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES))).map_err(refuse)?;
    file.take(BYTES).read_to_end(&mut end).map_err(refuse)?;
    Ok((start, end))
}

/// A number, hexadecimal with `0x` before it.
fn hexadecimal(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").ok_or("a hexadecimal number begins with 0x, as 0x21")?;
    u64::from_str_radix(digits, 16).map_err(|e| e.to_string())
}
