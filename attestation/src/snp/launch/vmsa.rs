//! The state in which a virtual processor begins: its save area, a page that is measured.
//!
//! Layout: AMD64 Architecture Programmer's Manual (24593), volume 2, table B-4. Values: those of a processor after reset
//! (volume 2, table 14-1), where monitors differ as virtee's sev-snp-measure 0.0.13 has them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::cpu::Cpu;

/// Where the first virtual processor begins: the reset vector (24593, volume 2, 14.1.5).
pub const RESET: u32 = 0xffff_fff0;

/// A virtual machine monitor: the one that builds the guest decides in which state it begins.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// Amazon's Nitro hypervisor, since April 2026 or somewhat before (virtee/sev-snp-measure pull request 60, held against a
    /// machine there).
    Ec2,
    /// Amazon's Nitro hypervisor before that, back to 2023: `RDX` begins as zero. What was started then and still runs has
    /// this digest.
    Ec2Old,
    /// Google Compute Engine's.
    Gce,
    /// QEMU with KVM.
    Qemu,
}

/// Text that names no monitor.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("{0:?} is no monitor whose first state is known: give ec2, ec2-old (before about April 2026), gce or qemu")]
pub struct Unknown(String);

impl FromStr for Vmm {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "ec2" => Ok(Self::Ec2),
            "ec2-old" => Ok(Self::Ec2Old),
            "gce" => Ok(Self::Gce),
            "qemu" => Ok(Self::Qemu),
            _ => Err(Unknown(name.to_owned())),
        }
    }
}

/// Values in which monitors differ.
struct Differences {
    code: u16,
    stack: u16,
    task: u16,
    page_attributes: u64,
    rdx: u64,
    mxcsr: u32,
    x87_control: u16,
}

/// The save area of a virtual processor that begins at an address in the last 64 KiB below 4 GiB or elsewhere below it.
#[must_use]
pub fn page(vmm: Vmm, cpu: Cpu, features: u64, entry: u32) -> Vec<u8> {
    let own = differences(vmm, cpu, entry);
    let [low, high] = [entry & 0xffff, entry & 0xffff_0000];
    let data = Segment::new(0, 0x93, 0);
    let mut page = Page(Vec::with_capacity(4096));
    page.segment(0x00, data); // ES
    page.segment(0x10, Segment::new(0xf000, own.code, high.into())); // CS
    page.segment(0x20, Segment::new(0, own.stack, 0)); // SS
    page.segment(0x30, data); // DS
    page.segment(0x40, data); // FS
    page.segment(0x50, data); // GS
    page.segment(0x60, Segment::new(0, 0, 0)); // GDTR
    page.segment(0x70, Segment::new(0, 0x82, 0)); // LDTR
    page.segment(0x80, Segment::new(0, 0, 0)); // IDTR
    page.segment(0x90, Segment::new(0, own.task, 0)); // TR
    page.quad(0xd0, 0x1000); // EFER: KVM sets SVME
    page.quad(0x148, 0x40); // CR4: KVM sets MCE
    page.quad(0x158, 0x10); // CR0: ET
    page.quad(0x160, 0x400); // DR7
    page.quad(0x168, 0xffff_0ff0); // DR6
    page.quad(0x170, 2); // RFLAGS
    page.quad(0x178, low.into()); // RIP
    page.quad(0x268, own.page_attributes); // G_PAT
    page.quad(0x310, own.rdx); // RDX
    page.quad(0x3b0, features); // SEV_FEATURES
    page.quad(0x3e8, 1); // XCR0: x87
    page.at(0x408, &own.mxcsr.to_le_bytes()); // MXCSR
    page.at(0x410, &own.x87_control.to_le_bytes()); // x87 FCW
    page.at(4096, &[]);
    page.0
}

const fn differences(vmm: Vmm, cpu: Cpu, entry: u32) -> Differences {
    /// PAT after reset (24593, volume 2, 7.8.2).
    const PAGE_ATTRIBUTES: u64 = 0x0007_0406_0007_0406;
    match vmm {
        Vmm::Qemu => Differences {
            code: 0x9b,
            stack: 0x93,
            task: 0x8b,
            page_attributes: PAGE_ATTRIBUTES,
            rdx: cpu.signature() as u64,
            mxcsr: 0x1f80,
            x87_control: 0x37f,
        },
        Vmm::Ec2 | Vmm::Ec2Old => Differences {
            code: if entry == RESET { 0x9a } else { 0x9b },
            stack: 0x92,
            task: 0x83,
            page_attributes: PAGE_ATTRIBUTES,
            rdx: if matches!(vmm, Vmm::Ec2) { 0x600 } else { 0 },
            mxcsr: 0,
            x87_control: 0,
        },
        Vmm::Gce => Differences {
            code: 0x9b,
            stack: 0x93,
            task: 0x8b,
            page_attributes: 0x0007_0106,
            rdx: 0x600,
            mxcsr: 0,
            x87_control: 0,
        },
    }
}

/// A segment register whose limit is 64 KiB.
#[derive(Clone, Copy)]
struct Segment {
    selector: u16,
    attributes: u16,
    base: u64,
}

impl Segment {
    const fn new(selector: u16, attributes: u16, base: u64) -> Self {
        Self { selector, attributes, base }
    }
}

/// A page that is written from its start to its end.
struct Page(Vec<u8>);

impl Page {
    /// Zeros up to an offset, then bytes.
    fn at(&mut self, offset: usize, bytes: &[u8]) {
        self.0.resize(offset, 0);
        self.0.extend(bytes);
    }

    fn quad(&mut self, offset: usize, value: u64) {
        self.at(offset, &value.to_le_bytes());
    }

    fn segment(&mut self, offset: usize, segment: Segment) {
        let limit = 0xffff_u32;
        self.at(offset, &segment.selector.to_le_bytes());
        self.at(offset + 2, &segment.attributes.to_le_bytes());
        self.at(offset + 4, &limit.to_le_bytes());
        self.at(offset + 8, &segment.base.to_le_bytes());
    }
}
