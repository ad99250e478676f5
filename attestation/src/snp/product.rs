//! Products: processors that share a root, a chain and a layout of the TCB.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::parse::Cpuid;

/// A family of processors, named as in AMD's certificates.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004, with Bergamo and Siena.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// What kind of key signs reports.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub enum KeyKind {
    /// Versioned Chip Endorsement Key: of one processor.
    Vcek,
    /// Versioned Loaded Endorsement Key: of one cloud, the same on all its processors of a product.
    Vlek,
}

/// Text that names no product.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("{0:?} isn't a product; known are Milan, Genoa and Turin")]
pub struct Unknown(String);

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product of a processor (AMD document 57230, "CPUID to product name").
    #[must_use]
    pub const fn of_cpuid(cpuid: Cpuid) -> Option<Self> {
        match (cpuid.family, cpuid.model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product that a certificate names, with a stepping or without: `Milan-B0`, `Milan`.
    #[must_use]
    pub fn of_certificate(name: &str) -> Option<Self> {
        name.split('-').next().and_then(|product| product.parse().ok())
    }

    /// Common name of its root, AMD Root Key.
    #[must_use]
    pub fn root_name(self) -> String {
        format!("ARK-{self}")
    }

    /// Bytes of the processor's identity; the rest of the report's member is zero.
    #[must_use]
    pub const fn hwid_bytes(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }

    /// The product and the kind of key that an intermediate is for: `SEV-Milan` issues VCEKs, `SEV-VLEK-Milan` VLEKs.
    #[must_use]
    pub fn of_intermediate(common_name: &str) -> Option<(Self, KeyKind)> {
        let name = common_name.strip_prefix("SEV-")?;
        match name.strip_prefix("VLEK-") {
            Some(product) => Some((product.parse().ok()?, KeyKind::Vlek)),
            None => Some((name.parse().ok()?, KeyKind::Vcek)),
        }
    }
}

impl KeyKind {
    /// The kind that a report says signed it: `SIGNING_KEY`, bits 4 to 2 of `KEY_INFO`. None, and reserved values, are
    /// no kind; nor is a processor's key that is masked (`MASK_CHIP_KEY`, bit 1): firmware signs nothing with that.
    #[must_use]
    pub const fn of_report(key_info: u32) -> Option<Self> {
        const MASK_CHIP_KEY: u32 = 1 << 1;
        match key_info >> 2 & 7 {
            0 if key_info & MASK_CHIP_KEY == 0 => Some(Self::Vcek),
            1 => Some(Self::Vlek),
            _ => None,
        }
    }

    /// The kind that a certificate is for.
    #[must_use]
    pub fn of_certificate(common_name: &str) -> Option<Self> {
        match common_name {
            "SEV-VCEK" => Some(Self::Vcek),
            "SEV-VLEK" => Some(Self::Vlek),
            _ => None,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        })
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Product {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|product| product.as_str() == name).ok_or_else(|| Unknown(name.to_owned()))
    }
}
