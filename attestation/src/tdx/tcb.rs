//! Which TCB level of Intel's TCB info a platform meets, and what that level says (Intel PCS API v4, "Get TCB info").

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bytes::{Hex, Measurement};

/// What Intel says about a TCB level. Greater is better.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcbStatus {
    /// Its keys are no longer to be trusted. Never accepted.
    Revoked,
    /// Lacks security updates, and its configuration needs care.
    OutOfDateConfigurationNeeded,
    /// Lacks security updates.
    OutOfDate,
    /// Its configuration and its software need care.
    ConfigurationAndSWHardeningNeeded,
    /// Its configuration needs care, for example hyper-threading off.
    ConfigurationNeeded,
    /// Software in the TEE needs care.
    SWHardeningNeeded,
    /// Has all security updates.
    UpToDate,
}

impl TcbStatus {
    /// Both together: each flaw of one is a flaw of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        use TcbStatus::{
            ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded, Revoked,
            SWHardeningNeeded, UpToDate,
        };
        let any = |wanted: &[Self]| wanted.contains(&self) || wanted.contains(&other);
        let configuration =
            any(&[ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDateConfigurationNeeded]);
        let hardening = any(&[SWHardeningNeeded, ConfigurationAndSWHardeningNeeded]);
        if any(&[Revoked]) {
            Revoked
        } else if any(&[OutOfDate, OutOfDateConfigurationNeeded]) {
            if configuration { OutOfDateConfigurationNeeded } else { OutOfDate }
        } else {
            match (configuration, hardening) {
                (true, true) => ConfigurationAndSWHardeningNeeded,
                (true, false) => ConfigurationNeeded,
                (false, true) => SWHardeningNeeded,
                (false, false) => UpToDate,
            }
        }
    }

    /// Whether security updates are missing.
    #[must_use]
    pub fn is_out_of_date(self) -> bool {
        matches!(self, Self::OutOfDate | Self::OutOfDateConfigurationNeeded)
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Intel's TCB info for one platform family.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TcbInfo {
    /// `TDX`.
    pub id: String,
    /// 3.
    pub version: u32,
    /// Not good before.
    pub issue_date: Timestamp,
    /// Not good after.
    pub next_update: Timestamp,
    /// The family.
    pub fmspc: Hex<6>,
    /// The provisioning certification enclave.
    pub pce_id: Hex<2>,
    /// 0: the components of a level are compared one by one.
    pub tcb_type: u32,
    /// Counts Intel's TCB recoveries.
    pub tcb_evaluation_data_number: u32,
    /// What the TDX module of version 0 must be.
    pub tdx_module: TdxModule,
    /// What TDX modules of later versions must be.
    #[serde(default)]
    pub tdx_module_identities: Vec<TdxModuleIdentity>,
    /// Levels, best first.
    pub tcb_levels: Vec<Level<Tcb>>,
}

/// Signer and attributes of a TDX module.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TdxModule {
    /// Signer; zero is Intel.
    pub mrsigner: Measurement,
    /// Attributes.
    pub attributes: Hex<8>,
    /// Which of them count.
    pub attributes_mask: Hex<8>,
}

/// A TDX module of a version above 0.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TdxModuleIdentity {
    /// `TDX_` and the version, two hex digits.
    pub id: String,
    /// Signer; zero is Intel.
    pub mrsigner: Measurement,
    /// Attributes.
    pub attributes: Hex<8>,
    /// Which of them count.
    pub attributes_mask: Hex<8>,
    /// Levels, best first.
    pub tcb_levels: Vec<Level<Isv>>,
}

/// A level: what is needed for it, and what it says.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Level<T> {
    /// What is needed.
    pub tcb: T,
    /// Status.
    pub tcb_status: TcbStatus,
    /// Everything Intel published until then is in it.
    pub tcb_date: Timestamp,
    /// What isn't.
    #[serde(default, rename = "advisoryIDs")]
    pub advisory_ids: Vec<String>,
}

/// Security version of a module or an enclave.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isv {
    /// `ISVSVN`.
    pub isvsvn: u16,
}

/// Security versions of a platform.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Tcb {
    /// Of the SGX components.
    pub sgxtcbcomponents: [Component; 16],
    /// Of the provisioning certification enclave.
    pub pcesvn: u16,
    /// Of the TDX components.
    pub tdxtcbcomponents: [Component; 16],
}

/// Security version of one component.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Security version.
    pub svn: u8,
}

/// What a level, or several together, say about what meets them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Status.
    pub status: TcbStatus,
    /// Everything Intel published until then is in it.
    pub date: Timestamp,
    /// What isn't.
    pub advisories: Vec<String>,
}

impl<T> From<&Level<T>> for Verdict {
    fn from(level: &Level<T>) -> Self {
        Self { status: level.tcb_status, date: level.tcb_date, advisories: level.advisory_ids.clone() }
    }
}

impl Verdict {
    /// Both together: the worse status, the older date, all advisories.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.status = self.status.and(other.status);
        self.date = self.date.min(other.date);
        let new: Vec<_> = other.advisories.iter().filter(|id| !self.advisories.contains(id)).cloned().collect();
        self.advisories.extend(new);
        self
    }
}

/// Intel's identity of the quoting enclave for trust domains.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QeIdentity {
    /// `TD_QE`.
    pub id: String,
    /// 2.
    pub version: u32,
    /// Not good before.
    pub issue_date: Timestamp,
    /// Not good after.
    pub next_update: Timestamp,
    /// Counts Intel's TCB recoveries.
    pub tcb_evaluation_data_number: u32,
    /// Extended state saved on exits.
    pub miscselect: Hex<4>,
    /// Which of its bits count.
    pub miscselect_mask: Hex<4>,
    /// Enclave attributes.
    pub attributes: Hex<16>,
    /// Which of them count.
    pub attributes_mask: Hex<16>,
    /// Signer.
    pub mrsigner: Hex<32>,
    /// Product.
    pub isvprodid: u16,
    /// Levels, best first.
    pub tcb_levels: Vec<Level<Isv>>,
}

/// Whether `actual` is `wanted` in the bits of `mask`.
#[must_use]
pub fn masked<const N: usize>(actual: &[u8; N], wanted: &Hex<N>, mask: &Hex<N>) -> bool {
    actual.iter().zip(wanted.0).zip(mask.0).all(|((actual, wanted), mask)| actual & mask == wanted & mask)
}

/// The first, and so best, level that a security version meets.
#[must_use]
pub fn isv_level(levels: &[Level<Isv>], svn: u16) -> Option<Verdict> {
    levels.iter().find(|level| svn >= level.tcb.isvsvn).map(Verdict::from)
}

impl TcbInfo {
    /// What the TDX module with these security versions must be; `None` when its version isn't known.
    ///
    /// `TEE_TCB_SVN[1]` is the module's version and `[0]` its security version.
    #[must_use]
    pub fn module(&self, tee_tcb_svn: &[u8; 16]) -> Option<(TdxModule, &[Level<Isv>])> {
        match tee_tcb_svn[1] {
            0 => Some((self.tdx_module, &[])),
            version => {
                let id = format!("TDX_{version:02X}");
                let identity = self.tdx_module_identities.iter().find(|i| i.id.eq_ignore_ascii_case(&id))?;
                let TdxModuleIdentity { mrsigner, attributes, attributes_mask, .. } = *identity;
                Some((TdxModule { mrsigner, attributes, attributes_mask }, &identity.tcb_levels))
            }
        }
    }

    /// The first, and so best, level that all components of a platform meet.
    ///
    /// The module's own two components aren't compared when its version is above 0: [`TcbInfo::module`] judges them.
    #[must_use]
    pub fn level(&self, sgx: &[u8; 16], pce_svn: u16, tee_tcb_svn: &[u8; 16]) -> Option<Verdict> {
        let own = if tee_tcb_svn[1] > 0 { 2 } else { 0 };
        let meets = |have: &[u8; 16], need: &[Component; 16], from: usize| {
            have.iter().zip(need).skip(from).all(|(have, need)| *have >= need.svn)
        };
        let level = self.tcb_levels.iter().find(|level| {
            meets(sgx, &level.tcb.sgxtcbcomponents, 0)
                && pce_svn >= level.tcb.pcesvn
                && meets(tee_tcb_svn, &level.tcb.tdxtcbcomponents, own)
        });
        level.map(Verdict::from)
    }
}

#[cfg(test)]
mod tests {
    use super::{TcbStatus::*, *};

    #[test]
    fn a_flaw_of_one_part_is_a_flaw_of_the_whole() {
        for (one, other, both) in [
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, OutOfDate, OutOfDate),
            (SWHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (ConfigurationNeeded, SWHardeningNeeded, ConfigurationAndSWHardeningNeeded),
            (UpToDate, Revoked, Revoked),
            (OutOfDateConfigurationNeeded, UpToDate, OutOfDateConfigurationNeeded),
        ] {
            assert_eq!(one.and(other), both);
            assert_eq!(other.and(one), both);
        }
    }

    #[test]
    fn only_masked_bits_count() {
        assert!(masked(&[0b101], &Hex([0b001]), &Hex([0b011])));
        assert!(!masked(&[0b101], &Hex([0b011]), &Hex([0b011])));
    }

    #[test]
    fn updates_are_missing_where_the_status_says_so() {
        for (status, out_of_date, name) in [
            (Revoked, false, "Revoked"),
            (OutOfDateConfigurationNeeded, true, "OutOfDateConfigurationNeeded"),
            (OutOfDate, true, "OutOfDate"),
            (ConfigurationAndSWHardeningNeeded, false, "ConfigurationAndSWHardeningNeeded"),
            (ConfigurationNeeded, false, "ConfigurationNeeded"),
            (SWHardeningNeeded, false, "SWHardeningNeeded"),
            (UpToDate, false, "UpToDate"),
        ] {
            assert_eq!((status.is_out_of_date(), status.to_string().as_str()), (out_of_date, name));
        }
    }

    #[test]
    fn two_verdicts_are_the_worse_status_the_older_date_and_each_advisory_once() {
        let verdict = |status, date: &str, advisories: &[&str]| Verdict {
            status,
            date: date.parse().unwrap(),
            advisories: advisories.iter().map(ToString::to_string).collect(),
        };
        let (old, new) = ("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        let both = verdict(UpToDate, new, &["1", "2"]).and(&verdict(OutOfDate, old, &["2", "3"]));
        assert_eq!(both, verdict(OutOfDate, old, &["1", "2", "3"]));
        let both = verdict(OutOfDate, old, &["1"]).and(&verdict(UpToDate, new, &[]));
        assert_eq!(both, verdict(OutOfDate, old, &["1"]));
    }
}
