//! Security versions of a platform's parts. Compared part by part: as one number, an old boot loader would hide behind
//! new microcode.

use std::{cmp::Ordering, collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::product::Product;
use crate::reference::Requirement;

/// A TCB as it stands in a report. Which byte means what depends on the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTcb(pub [u8; 8]);

/// A TCB: the security version of each part. Text: `bl=4,tee=0,snp=24,ucode=219`, on Turin with `fmc=` too; decimal.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub struct Tcb {
    /// Firmware management controller; zero before Turin, which had none.
    pub fmc: u8,
    /// Boot loader.
    pub bl: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub ucode: u8,
}

impl RawTcb {
    /// Reads the versions by the product's layout (AMD document 56860, table "`TCB_VERSION`"; Turin's has the FMC first).
    /// `None` when a byte that no part has is set.
    #[must_use]
    pub const fn of(self, product: Product) -> Option<Tcb> {
        match (product, self.0) {
            (Product::Milan | Product::Genoa, [bl, tee, 0, 0, 0, 0, snp, ucode]) => {
                Some(Tcb { fmc: 0, bl, tee, snp, ucode })
            }
            (Product::Turin, [fmc, bl, tee, snp, 0, 0, 0, ucode]) => Some(Tcb { fmc, bl, tee, snp, ucode }),
            _ => None,
        }
    }
}

impl fmt::Display for RawTcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A partial order: one TCB is at least another only if each part is.
impl PartialOrd for Tcb {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let parts = |tcb: &Self| [tcb.fmc, tcb.bl, tcb.tee, tcb.snp, tcb.ucode];
        let (ours, theirs) = (parts(self), parts(other));
        let all = |holds: fn(&u8, &u8) -> bool| ours.iter().zip(&theirs).all(|(a, b)| holds(a, b));
        if ours == theirs {
            Some(Ordering::Equal)
        } else if all(|a, b| a >= b) {
            Some(Ordering::Greater)
        } else if all(|a, b| a <= b) {
            Some(Ordering::Less)
        } else {
            None
        }
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fmc, bl, tee, snp, ucode } = self;
        write!(f, "bl={bl},tee={tee},snp={snp},ucode={ucode}")?;
        if *fmc > 0 { write!(f, ",fmc={fmc}") } else { Ok(()) }
    }
}

/// Text that isn't a TCB.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("{0:?} isn't a TCB of the form bl=,tee=,snp=,ucode=[,fmc=]")]
pub struct NoTcb(String);

impl FromStr for Tcb {
    type Err = NoTcb;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NoTcb(text.chars().take(64).collect());
        let mut parts = BTreeMap::new();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(refuse)?;
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let value = value.parse::<u8>().ok().filter(|_| digits).ok_or_else(refuse)?;
            if parts.insert(name, value).is_some() {
                return Err(refuse());
            }
        }
        let fmc = parts.remove("fmc").unwrap_or(0);
        let mut take = |name: &str| parts.remove(name).ok_or_else(refuse);
        let tcb = Self { fmc, bl: take("bl")?, tee: take("tee")?, snp: take("snp")?, ucode: take("ucode")? };
        if parts.is_empty() { Ok(tcb) } else { Err(refuse()) }
    }
}

impl TryFrom<String> for Tcb {
    type Error = NoTcb;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Tcb> for String {
    fn from(tcb: Tcb) -> Self {
        tcb.to_string()
    }
}

/// What a TCB must be, product by product. A product that isn't named is refused.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct PerProduct(pub BTreeMap<Product, Requirement<Tcb>>);

impl PerProduct {
    /// The same for every product.
    #[must_use]
    pub fn every(requirement: &Requirement<Tcb>) -> Self {
        Self(Product::ALL.into_iter().map(|product| (product, requirement.clone())).collect())
    }

    /// Floors.
    #[must_use]
    pub fn at_least(floors: impl IntoIterator<Item = (Product, Tcb)>) -> Self {
        Self(floors.into_iter().map(|(product, floor)| (product, Requirement::AtLeast(floor))).collect())
    }

    /// What is required of a product; nothing is accepted of one that isn't named.
    #[must_use]
    pub fn of(&self, product: Product) -> Requirement<Tcb> {
        self.0.get(&product).cloned().unwrap_or(Requirement::AnyOf(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_counts_and_none_makes_up_for_another() {
        let floor: Tcb = "bl=4,tee=0,snp=24,ucode=219".parse().unwrap();
        assert!(floor >= floor);
        for (text, holds) in [
            ("bl=4,tee=0,snp=24,ucode=220", true),
            ("bl=3,tee=0,snp=24,ucode=255", false),
            ("bl=255,tee=0,snp=23,ucode=255", false),
            ("bl=4,tee=0,snp=24,ucode=218", false),
            ("bl=4,tee=1,snp=24,ucode=219,fmc=1", true),
        ] {
            assert_eq!(text.parse::<Tcb>().unwrap() >= floor, holds, "{text}");
            assert_eq!(text.parse::<Tcb>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_layout_is_the_products_own() {
        let turin = RawTcb([1, 2, 3, 4, 0, 0, 0, 81]);
        assert_eq!(turin.of(Product::Turin).unwrap().to_string(), "bl=2,tee=3,snp=4,ucode=81,fmc=1");
        assert_eq!(turin.of(Product::Milan), None);
        let milan = RawTcb([4, 0, 0, 0, 0, 0, 24, 219]);
        assert_eq!(milan.of(Product::Milan).unwrap().to_string(), "bl=4,tee=0,snp=24,ucode=219");
        assert_eq!(milan.of(Product::Turin), None);
    }

    #[test]
    fn text_that_is_nearly_a_tcb_is_refused() {
        for text in [
            "",
            "bl=4,tee=0,snp=24",
            "bl=4,tee=0,snp=24,ucode=256",
            "bl=4,tee=0,snp=24,ucode=+1",
            "bl=4,bl=4,tee=0,snp=24,ucode=1",
            "bl=4,tee=0,snp=24,ucode=1,x=1",
            "bl=4,tee=0,snp=24,ucode=1,",
        ] {
            assert!(text.parse::<Tcb>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tcb_as_it_came_is_told_byte_by_byte() {
        assert_eq!(RawTcb([1, 2, 3, 4, 5, 6, 7, 0xff]).to_string(), "01020304050607ff");
    }
}
