//! Models of virtual processors: what of a model a launch digest depends on.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The signature of a model: `CPUID` function 1, `EAX` (AMD document 25481, "Family, Model, Stepping Identifiers").
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(u32);

/// Models by the names that QEMU gives them (`target/i386/cpu.c`, `builtin_x86_defs`): family, model, stepping. Versions of
/// one, as `-v4`, differ in features, which aren't part of the signature.
const MODELS: [(&str, u32, u32, u32); 6] = [
    ("EPYC", 23, 1, 2),
    ("EPYC-IBPB", 23, 1, 2),
    ("EPYC-Rome", 23, 49, 0),
    ("EPYC-Milan", 25, 1, 1),
    ("EPYC-Genoa", 25, 17, 0),
    ("EPYC-Turin", 26, 0, 0),
];

/// Text that names no model.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error(
    "{0:?} is no model of a processor: give QEMU's name of one (EPYC, EPYC-IBPB, EPYC-Rome, EPYC-Milan, EPYC-Genoa or EPYC-Turin, \
     with a version as in EPYC-v4 or without) or its CPUID signature as a number (0x00800f12)"
)]
pub struct Unknown(String);

impl Cpu {
    /// The model with a signature.
    #[must_use]
    pub const fn of_signature(signature: u32) -> Self {
        Self(signature)
    }

    /// The model of a family, model and stepping, each at most what the signature has place for.
    #[must_use]
    pub const fn new(family: u32, model: u32, stepping: u32) -> Self {
        let (base, extended) = if family > 15 { (15, (family - 15) & 0xff) } else { (family, 0) };
        Self(extended << 20 | (model >> 4 & 15) << 16 | base << 8 | (model & 15) << 4 | stepping & 15)
    }

    /// Its signature.
    #[must_use]
    pub const fn signature(self) -> u32 {
        self.0
    }
}

impl FromStr for Cpu {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let refuse = || Unknown(name.to_owned());
        if let Some(digits) = name.strip_prefix("0x") {
            return u32::from_str_radix(digits, 16).map(Self).map_err(|_| refuse());
        }
        let model = match name.rsplit_once("-v") {
            Some((model, version)) if matches!(version.as_bytes(), [b'1'..=b'9']) => model,
            _ => name,
        };
        let known = MODELS.iter().find(|(known, ..)| *known == model);
        known.map(|(_, family, model, stepping)| Self::new(*family, *model, *stepping)).ok_or_else(refuse)
    }
}
