//! The three forms of a manifest of cases. Paths are relative to the manifest; an unknown key is an error.
//!
//! The keys are those of the vectors' `README.md`. A policy key that is absent waives its clause for the case; one that is
//! null is an error. A case is read when its turn comes, so one that can't be read spoils no other.

use std::path::PathBuf;

use constellation_attestation::tdx::TcbStatus;
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    input::deserialize_timestamp,
    strict::{Members, Object, object, stated},
};

/// A manifest, told apart by its outer shape.
#[derive(Debug)]
pub enum Manifest {
    /// An object with `trust_anchors`: SEV-SNP reports.
    Snp(SnpManifest),
    /// An object with `trust_anchor`: TDX quotes.
    Tdx(TdxManifest),
    /// A list: cases of several kinds.
    Mixed(Vec<Stated>),
}

/// A case as it stands in the manifest.
#[derive(Deserialize, Debug)]
#[serde(transparent)]
pub struct Stated(Box<RawValue>);

impl Stated {
    /// Reads it.
    ///
    /// # Errors
    /// When it holds a key or a value that its form doesn't have.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get()).map(|Object(case)| case)
    }

    /// Its name, if it says one, whatever else is wrong with it.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let case: serde_json::Value = serde_json::from_str(self.0.get()).ok()?;
        case.get("name")?.as_str().map(str::to_owned)
    }
}

/// What cases of every form say.
pub trait Case: DeserializeOwned {
    /// Its name.
    fn name(&self) -> &str;
    /// The verdict that it must have.
    fn expect(&self) -> Expect;
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// When it is of none of the forms, or holds a key that its form doesn't have. Its cases aren't looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        // Read again from the bytes: the error then says the line.
        if value.is_array() {
            serde_json::from_slice(bytes).map(Self::Mixed)
        } else if value.get("trust_anchors").is_some() {
            serde_json::from_slice(bytes).map(|Object(manifest)| Self::Snp(manifest))
        } else {
            serde_json::from_slice(bytes).map(|Object(manifest)| Self::Tdx(manifest))
        }
    }

    /// Whether it has no cases.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Snp(manifest) => manifest.cases.is_empty(),
            Self::Tdx(manifest) => manifest.cases.is_empty(),
            Self::Mixed(cases) => cases.is_empty(),
        }
    }
}

/// The verdict that a case must have.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Every clause holds or is waived.
    Accept,
    /// Genuine, but a strict policy refuses it; with exactly the clauses waived that it names, it is accepted.
    Policy,
    /// A clause fails.
    Reject,
}

impl Expect {
    /// As in the manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Policy => "policy",
            Self::Reject => "reject",
        }
    }
}

/// SEV-SNP reports.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct SnpManifest {
    /// Product to its root (ARK).
    pub trust_anchors: Members<PathBuf>,
    /// The cases.
    pub cases: Vec<Stated>,
}

/// One SEV-SNP report.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct SnpCase {
    /// Name.
    pub name: String,
    /// The report.
    pub report: PathBuf,
    /// Certificate of the key that signed it.
    #[serde(default)]
    pub vek: Option<PathBuf>,
    /// Certificate of that certificate's issuer.
    #[serde(default)]
    pub intermediate: Option<PathBuf>,
    /// What the attester sent as root; a hint, never an anchor.
    #[serde(default)]
    pub ark: Option<PathBuf>,
    /// Revocation list.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// Time to verify at.
    #[serde(default, deserialize_with = "deserialize_timestamp")]
    pub now: Option<Timestamp>,
    /// What is wanted.
    #[serde(default, deserialize_with = "object")]
    pub policy: SnpPolicy,
    /// Verdict.
    pub expect: Expect,
    /// For people.
    #[serde(default)]
    pub reason: String,
}

/// What is wanted of a SEV-SNP report.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct SnpPolicy {
    /// Launch measurement, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub measurement: Option<OneOrMore>,
    /// Report data, 64 bytes.
    #[serde(deserialize_with = "stated")]
    pub report_data: Option<String>,
    /// Host data, 32 bytes.
    #[serde(deserialize_with = "stated")]
    pub host_data: Option<OneOrMore>,
    /// Privilege level.
    #[serde(deserialize_with = "stated")]
    pub vmpl: Option<u32>,
    /// Whether the host may read the guest.
    #[serde(deserialize_with = "stated")]
    pub allow_debug: Option<bool>,
    /// Whether a migration agent may be bound.
    #[serde(deserialize_with = "stated")]
    pub allow_migration: Option<bool>,
    /// Whether the committed TCB may be below the current one.
    #[serde(deserialize_with = "stated")]
    pub allow_provisional: Option<bool>,
    /// Whether a cloud's key may have signed.
    #[serde(deserialize_with = "stated")]
    pub allow_vlek: Option<bool>,
    /// Whether the firmware must have checked for memory aliases.
    #[serde(deserialize_with = "stated")]
    pub require_alias_check: Option<bool>,
    /// Whether a revocation list in date must be there.
    #[serde(deserialize_with = "stated")]
    pub require_crl: Option<bool>,
    /// Product to floor of the reported TCB.
    #[serde(deserialize_with = "stated")]
    pub min_reported_tcb: Option<Members<String>>,
    /// Product to floor of the TCB at launch.
    #[serde(deserialize_with = "stated")]
    pub min_launch_tcb: Option<Members<String>>,
    /// Product to floor of the committed TCB.
    #[serde(deserialize_with = "stated")]
    pub min_committed_tcb: Option<Members<String>>,
    /// Clouds whose key may have signed.
    #[serde(deserialize_with = "stated")]
    pub csp_ids: Option<Vec<String>>,
    /// Digests of keys that may have signed the guest's identity, 48 bytes each.
    #[serde(deserialize_with = "stated")]
    pub id_key_digests: Option<Vec<String>>,
}

/// TDX quotes.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct TdxManifest {
    /// The root.
    pub trust_anchor: PathBuf,
    /// The cases.
    pub cases: Vec<Stated>,
}

/// One TDX quote.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct TdxCase {
    /// Name.
    pub name: String,
    /// The quote.
    pub quote: PathBuf,
    /// TCB info, QE identity and revocation lists.
    #[serde(default)]
    pub collateral: Option<PathBuf>,
    /// Time to verify at.
    #[serde(default, deserialize_with = "deserialize_timestamp")]
    pub now: Option<Timestamp>,
    /// TCB status that the evaluation must yield.
    #[serde(default)]
    pub tcb_status: Option<TcbStatus>,
    /// What is wanted.
    #[serde(default, deserialize_with = "object")]
    pub policy: TdxPolicy,
    /// Verdict.
    pub expect: Expect,
    /// For people.
    #[serde(default)]
    pub reason: String,
}

/// What is wanted of a TDX quote, besides the strict default.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct TdxPolicy {
    /// Measurement of the TD's initial memory, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub mrtd: Option<OneOrMore>,
    /// Runtime register 0, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub rtmr0: Option<OneOrMore>,
    /// Runtime register 1, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub rtmr1: Option<OneOrMore>,
    /// Runtime register 2, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub rtmr2: Option<OneOrMore>,
    /// Runtime register 3, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub rtmr3: Option<OneOrMore>,
    /// Identity of the configuration, 48 bytes.
    #[serde(deserialize_with = "stated")]
    pub mrconfigid: Option<OneOrMore>,
    /// Report data, 64 bytes.
    #[serde(deserialize_with = "stated")]
    pub report_data: Option<OneOrMore>,
}

/// One case of a mixed manifest.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct MixedCase {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Verdict.
    pub expect: Expect,
    /// For people.
    #[serde(default)]
    pub reason: String,
    /// Time to verify at.
    #[serde(default, deserialize_with = "deserialize_timestamp")]
    pub now: Option<Timestamp>,
    /// TDX quote.
    #[serde(default)]
    pub quote: Option<PathBuf>,
    /// Its collateral.
    #[serde(default)]
    pub collateral: Option<PathBuf>,
    /// Evidence as JSON.
    #[serde(default)]
    pub evidence: Option<PathBuf>,
    /// Signed document.
    #[serde(default)]
    pub document: Option<PathBuf>,
    /// Event log.
    #[serde(default, deserialize_with = "stated")]
    pub log: Option<PathBuf>,
    /// Expected nonce, hex.
    #[serde(default, deserialize_with = "stated")]
    pub nonce: Option<String>,
    /// Trust anchor.
    #[serde(default, deserialize_with = "stated")]
    pub root: Option<PathBuf>,
    /// Expected registers, `file#key`.
    #[serde(default, deserialize_with = "stated")]
    pub pcrs: Option<String>,
}

macro_rules! cases {
    ($($form:ty),*) => { $(impl Case for $form {
        fn name(&self) -> &str {
            &self.name
        }

        fn expect(&self) -> Expect {
            self.expect
        }
    })* };
}

cases!(SnpCase, TdxCase, MixedCase);

impl MixedCase {
    /// The first key that the case states and that says nothing about its kind: nothing would look at it.
    #[must_use]
    pub fn stray(&self) -> Option<&'static str> {
        let of_kind: &[&str] = match self.kind {
            Kind::AzSnpVtpm | Kind::GcpVtpm => &["evidence", "log", "nonce", "pcrs", "root"],
            Kind::Eventlog => &["log", "pcrs"],
            Kind::Nitrotpm => &["document", "evidence", "nonce", "pcrs", "root"],
            Kind::Tdx => &["collateral", "log", "nonce", "quote", "root"],
        };
        let stated = [
            ("collateral", self.collateral.is_some()),
            ("document", self.document.is_some()),
            ("evidence", self.evidence.is_some()),
            ("log", self.log.is_some()),
            ("nonce", self.nonce.is_some()),
            ("pcrs", self.pcrs.is_some()),
            ("quote", self.quote.is_some()),
            ("root", self.root.is_some()),
        ];
        stated.into_iter().find(|(key, stated)| *stated && !of_kind.contains(key)).map(|(key, _)| key)
    }
}

/// What a case of a mixed manifest is.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Azure SEV-SNP: HCL report, quote of the virtual TPM, VCEK.
    AzSnpVtpm,
    /// A firmware's event log and the registers it explains.
    Eventlog,
    /// GCP: quote of the virtual TPM and its key's certificates.
    GcpVtpm,
    /// AWS: signed `NitroTPM` document.
    Nitrotpm,
    /// A TDX quote under Intel's root.
    Tdx,
}

/// A hex value, or a list of accepted ones.
#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Any of these.
    More(Vec<String>),
}

impl OneOrMore {
    /// All of them.
    #[must_use]
    pub fn values(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNP: &str = r#"{"trust_anchors": {"Milan": "a"}, "cases": [
        {"name": "n", "report": "r", "policy": {"vmpl": 0}, "now": 1, "expect": "accept"}]}"#;
    const TDX: &str = r#"{"trust_anchor": "a", "cases": [
        {"name": "n", "quote": "q", "policy": {"mrtd": ["00"]}, "now": "2026-01-01T00:00:00Z", "expect": "policy"}]}"#;
    const MIXED: &str = r#"[{"name": "n", "kind": "az-snp-vtpm", "evidence": "e", "nonce": "00", "expect": "reject"}]"#;

    /// What is wrong with a manifest and its cases.
    fn wrong(json: &str) -> Option<String> {
        fn each<T: Case>(cases: &[Stated]) -> Result<(), serde_json::Error> {
            cases.iter().try_for_each(|case| case.read::<T>().map(drop))
        }
        let read = Manifest::parse(json.as_bytes()).and_then(|manifest| match manifest {
            Manifest::Snp(manifest) => each::<SnpCase>(&manifest.cases),
            Manifest::Tdx(manifest) => each::<TdxCase>(&manifest.cases),
            Manifest::Mixed(cases) => each::<MixedCase>(&cases),
        });
        read.err().map(|error| error.to_string())
    }

    #[test]
    fn each_form_is_told_by_its_shape() {
        assert!(matches!(Manifest::parse(SNP.as_bytes()), Ok(Manifest::Snp(_))));
        assert!(matches!(Manifest::parse(TDX.as_bytes()), Ok(Manifest::Tdx(_))));
        assert!(matches!(Manifest::parse(MIXED.as_bytes()), Ok(Manifest::Mixed(_))));
        assert_eq!([SNP, TDX, MIXED].map(wrong), [None, None, None]);
    }

    #[test]
    fn an_unknown_key_anywhere_is_an_error_that_names_it() {
        for (form, at) in [
            (SNP, "{\"trust"),
            (SNP, "{\"name"),
            (SNP, "{\"vmpl"),
            (TDX, "{\"trust"),
            (TDX, "{\"mrtd"),
            (MIXED, "{\"name"),
        ] {
            let changed = form.replacen(at, &at.replacen('{', "{\"surprise\": 1, ", 1), 1);
            assert_ne!(changed, form);
            let error = wrong(&changed).unwrap();
            assert!(error.contains("surprise"), "{error}");
        }
    }

    #[test]
    fn values_of_another_kind_are_an_error() {
        for (form, from, to) in [
            (SNP, "\"accept\"", "\"maybe\""),
            (SNP, "\"now\": 1", "\"now\": \"yesterday\""),
            (SNP, "\"vmpl\": 0", "\"vmpl\": -1"),
            (MIXED, "az-snp-vtpm", "sgx"),
            (MIXED, "[{", "[[{"),
            (MIXED, "\"n\"", "\"n\", \"name\": \"n\""),
            (SNP, "\"Milan\": \"a\"", "\"Milan\": \"a\", \"Milan\": \"b\""),
        ] {
            assert!(wrong(&form.replacen(from, to, 1)).is_some(), "{to}");
        }
        assert!(Manifest::parse(b"{}").is_err());
        assert!(Manifest::parse(b"").is_err());
    }

    #[test]
    fn a_list_is_no_object_and_null_waives_nothing() {
        for (form, from, to) in [
            (SNP, r#"{"vmpl": 0}"#, "[]"),
            (SNP, r#"{"vmpl": 0}"#, "null"),
            (SNP, r#"{"vmpl": 0}"#, r#"{"vmpl": null}"#),
            (SNP, r#"{"vmpl": 0}"#, r#"{"report_data": null}"#),
            (SNP, r#"{"vmpl": 0}"#, r#"{"min_reported_tcb": {"Milan": null}}"#),
            (SNP, r#"{"Milan": "a"}"#, r#"["a"]"#),
            (TDX, r#"{"mrtd": ["00"]}"#, r#"[["00"]]"#),
            (TDX, r#"{"mrtd": ["00"]}"#, r#"{"mrtd": null}"#),
            (TDX, r#"{"mrtd": ["00"]}"#, r#"{"report_data": null}"#),
            (TDX, r#"{"mrtd": ["00"]}"#, r#"{"mrtd": [null]}"#),
            (MIXED, r#""nonce": "00""#, r#""nonce": null"#),
            (MIXED, r#""nonce": "00""#, r#""pcrs": null"#),
        ] {
            let changed = form.replacen(from, to, 1);
            assert!(changed != form && wrong(&changed).is_some(), "{to}");
        }
        let case: &str = r#"["n", "q", null, 1, null, {}, "accept", ""]"#;
        assert!(wrong(&format!(r#"{{"trust_anchor": "a", "cases": [{case}]}}"#)).is_some());
        assert!(wrong(&format!("[{case}]")).is_some());
    }

    #[test]
    fn a_case_that_can_not_be_read_still_has_its_name() {
        let Ok(Manifest::Mixed(cases)) = Manifest::parse(br#"[{"name": "n", "surprise": 1}, ["n"]]"#) else {
            panic!("it is a list")
        };
        assert_eq!(cases.iter().map(Stated::name).collect::<Vec<_>>(), [Some("n".to_owned()), None]);
    }
}
