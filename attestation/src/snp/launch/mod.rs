//! What an SEV-SNP guest that a given firmware image starts will measure: the launch digest, from the files alone.
//!
//! The story, in the order a virtual machine monitor builds a guest (SEV Secure Nested Paging Firmware ABI
//! Specification, AMD document 56860, revision 1.58, 8.17 `SNP_LAUNCH_UPDATE`):
//! 1. the [firmware] image ends at 4 GiB, and every page of it is measured with its address and content;
//! 2. sections that the image's own metadata names follow: memory that begins as zeros, the page of secrets, the page of
//!    CPUID values, and, when the machine is started from a kernel directly, a page with the [hashes] of that kernel, its
//!    initial RAM disk and its command line;
//! 3. each virtual processor begins in a state that is measured as a [save area](vmsa), the first other than the rest.
//!
//! The [digest](context) is a chain over all of that. Monitors differ in the state they begin with and in what they
//! measure, and another number or model of processors is another digest: a reference set has one for each that it
//! allows. Pure functions over bytes; nothing here trusts or is trusted.

pub mod context;
pub mod cpu;
pub mod firmware;
pub mod hashes;
pub mod vmsa;

use self::{
    context::{Context, PAGE_BYTES, PageKind},
    firmware::SectionKind,
};
pub use self::{cpu::Cpu, firmware::Firmware, hashes::Kernel, vmsa::Vmm};
use crate::bytes::Measurement;

/// Greatest number of virtual processors: what KVM allows (`KVM_MAX_VCPUS`, Linux 6.12, arch/x86).
pub const MAX_VCPUS: u32 = 4096;

/// `SEV_FEATURES` of a guest that has no feature but SEV-SNP itself (AMD64 Architecture Programmer's Manual 24593, volume
/// 2, table B-4: bit 0, `SNPActive`).
pub const SNP_ACTIVE: u64 = 1;

/// Address at which the save areas are measured (document 56860, 8.17: the page is put there for its measurement).
const SAVE_AREA: u64 = 0xffff_ffff_f000;

/// How a machine is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch<'a> {
    /// The monitor that starts it.
    pub vmm: Vmm,
    /// Model of its virtual processors.
    pub cpu: Cpu,
    /// How many it has: 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// `SEV_FEATURES` of its save areas; [`SNP_ACTIVE`] is always among them.
    pub features: u64,
    /// What it boots when the monitor, not the firmware, loads a kernel.
    pub kernel: Option<&'a Kernel>,
}

/// Why there is no launch digest.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// `SNPActive` is off.
    #[error(
        "guest features {0:#x} lack bit 0 (SNPActive), without which the guest isn't SEV-SNP: give them with it, as 0x1"
    )]
    Features(u64),
    /// A kernel is given for firmware that can't check one.
    #[error(
        "this firmware has no page for a kernel's hashes, so a kernel that is given to it isn't measured: build OvmfPkg/AmdSev, \
         or let the firmware load the kernel from a disk and give none"
    )]
    KernelHashes,
    /// No such number of processors.
    #[error("{0} virtual processors: a machine has 1 to {MAX_VCPUS}")]
    Vcpus(u32),
}

/// Predicts the launch digest of a machine that is started with a firmware image.
///
/// # Errors
/// When the machine can't be an SEV-SNP guest, or the firmware can't measure the kernel that it is given.
pub fn predict(firmware: &Firmware<'_>, launch: &Launch<'_>) -> Result<Measurement, Error> {
    if launch.features & SNP_ACTIVE == 0 {
        return Err(Error::Features(launch.features));
    }
    if !(1..=MAX_VCPUS).contains(&launch.vcpus) {
        return Err(Error::Vcpus(launch.vcpus));
    }
    let mut context = Context::default();
    context.contents(PageKind::Normal, firmware.address(), firmware.image());
    sections(&mut context, firmware, launch)?;
    let area = |entry| vmsa::page(launch.vmm, launch.cpu, launch.features, entry);
    context.contents(PageKind::SaveArea, SAVE_AREA, &area(vmsa::RESET));
    let other = area(firmware.reset_vector());
    for _ in 1..launch.vcpus {
        context.contents(PageKind::SaveArea, SAVE_AREA, &other);
    }
    Ok(context.digest())
}

/// Measures what the firmware's metadata name.
fn sections(context: &mut Context, firmware: &Firmware<'_>, launch: &Launch<'_>) -> Result<(), Error> {
    let mut late = Vec::new();
    let mut hashed = false;
    for section in firmware.sections() {
        let (address, bytes) = (section.address, section.bytes);
        match (section.kind, launch.kernel) {
            (SectionKind::Memory, _) if launch.vmm == Vmm::Gce => {
                context.without_contents(PageKind::Unmeasured, address, bytes);
            }
            (SectionKind::Memory | SectionKind::CallingArea, _) | (SectionKind::KernelHashes, None) => {
                context.without_contents(PageKind::Zero, address, bytes);
            }
            (SectionKind::Secrets, _) => context.without_contents(PageKind::Secrets, address, PAGE_BYTES),
            // EC2 gives the processor its CPUID page after all other sections.
            (SectionKind::Cpuid, _) if matches!(launch.vmm, Vmm::Ec2 | Vmm::Ec2Old) => late.push(address),
            (SectionKind::Cpuid, _) => context.without_contents(PageKind::Cpuid, address, PAGE_BYTES),
            (SectionKind::KernelHashes, Some(kernel)) => {
                let offset = firmware.hash_table_offset().ok_or(Error::KernelHashes)?;
                context.contents(PageKind::Normal, address, &kernel.page(offset));
                hashed = true;
            }
        }
    }
    for address in late {
        context.without_contents(PageKind::Cpuid, address, PAGE_BYTES);
    }
    if launch.kernel.is_some() && !hashed {
        return Err(Error::KernelHashes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
