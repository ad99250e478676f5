//! What a machine of a cloud shows beside its TPM's quote: raw bytes that speak for the TPM's key, each form with its tag.
//!
//! Who names whom, so that no piece can be of another machine or conversation (`binding` is [`crate::binding`]'s digest,
//! the two functions are [`crate::machine`]'s, `key` is [`Key::to_bytes`](crate::tpm::public::Key::to_bytes)):
//!
//! ```text
//! Google  report of the processor  report_data = report_data(binding, key)
//!         certificate of Google    its key is `key`, its subject the instance
//!         quote of the TPM         by `key`; nonce = tpm_nonce(binding, report), or binding where there is no report
//! Azure   paravisor's report       its user data = report_data(binding, key), its attestation key is `key`
//!         report of the processor  report_data = digest of the paravisor's runtime data (part of the paravisor's report)
//!         quote of the TPM         by `key`; nonce = tpm_nonce(binding, paravisor's report)
//! Aws     report of the processor  report_data = report_data(binding, key)
//!         document of AWS          its public key = `key`, its nonce as the quote's, its registers are the TPM's
//!         quote of the TPM         by `key`, of the document's bank; nonce = tpm_nonce(binding, report), or binding
//! ```
//!
//! The node says which form it sends, and the verifier which it wants: another one, or none, is refused.

use serde::{Deserialize, Serialize};

use super::base64_bytes;

/// What speaks for a machine's TPM, by cloud.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Machine {
    /// EC2.
    Aws {
        /// The `NitroTPM`'s attestation document, COSE; AWS signs it.
        #[serde(with = "base64_bytes")]
        document: Vec<u8>,
        /// The processor's report; only on platforms whose processor reports.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Report>,
    },
    /// Azure.
    Azure {
        /// The paravisor's report (HCL), with the processor's report and the TPM's key in it.
        #[serde(with = "base64_bytes")]
        report: Vec<u8>,
        /// What endorses the processor's report in it.
        endorsement: Endorsement,
    },
    /// Google Cloud.
    Google {
        /// Google's certificate for the TPM's key, then its issuers, DER.
        #[serde(with = "base64_list")]
        certificates: Vec<Vec<u8>>,
        /// The processor's report; only on platforms whose processor reports.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Report>,
    },
}

/// What a processor attests to, and what its host added.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Report {
    /// AMD SEV-SNP.
    Snp {
        /// The report.
        #[serde(with = "base64_bytes")]
        report: Vec<u8>,
        /// The host's table of certificates ([`crate::guest::certificates`]): hints that nobody has to believe. Empty
        /// when the host gives none.
        #[serde(with = "base64_bytes")]
        certificates: Vec<u8>,
    },
    /// Intel TDX.
    Tdx {
        /// The quote.
        #[serde(with = "base64_bytes")]
        quote: Vec<u8>,
        /// The firmware's log (CCEL), which explains mismatches and proves nothing. Empty when there is none.
        #[serde(with = "base64_bytes")]
        event_log: Vec<u8>,
    },
}

impl Report {
    /// The bytes that the TPM's nonce names: what the processor signed, without what its host added.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        match self {
            Self::Snp { report, .. } => report,
            Self::Tdx { quote, .. } => quote,
        }
    }
}

/// What endorses the processor's report inside the paravisor's.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Endorsement {
    /// AMD's certificates of the processor, as Azure's service has them, DER: hints that nobody has to believe.
    Snp {
        /// Of the key that signs reports.
        #[serde(with = "base64_bytes")]
        vek: Vec<u8>,
        /// Of its issuer.
        #[serde(with = "base64_bytes")]
        intermediate: Vec<u8>,
    },
    /// The quote that was made of a TDX report, which only its own machine can check.
    Tdx {
        /// The quote.
        #[serde(with = "base64_bytes")]
        quote: Vec<u8>,
    },
}

/// A list of bytes as a list of base64 in JSON.
mod base64_list {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|bytes| STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| STANDARD.decode(text).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Evidence;

    fn evidence(machine: Option<Machine>) -> Evidence {
        Evidence { quote: vec![1], signature: vec![2], pcrs: vec![3], event_log: vec![], activated: vec![], machine }
    }

    #[test]
    fn a_machine_of_qemu_says_what_it_always_said() {
        let json = r#"{"quote":"AQ==","signature":"Ag==","pcrs":"Aw==","eventLog":"","activated":""}"#;
        assert_eq!(serde_json::to_string(&evidence(None)).unwrap(), json);
        assert_eq!(serde_json::from_str::<Evidence>(json).unwrap(), evidence(None));
    }

    #[test]
    fn each_form_has_its_tag_and_refuses_members_that_it_has_not() {
        let snp = || Some(Report::Snp { report: vec![1], certificates: vec![] });
        let tdx = || Some(Report::Tdx { quote: vec![1], event_log: vec![2] });
        let endorsement = Endorsement::Snp { vek: vec![1], intermediate: vec![2] };
        for (machine, json) in [
            (Machine::Aws { document: vec![1], report: None }, r#"{"aws":{"document":"AQ=="}}"#),
            (
                Machine::Aws { document: vec![1], report: snp() },
                r#"{"aws":{"document":"AQ==","report":{"snp":{"report":"AQ==","certificates":""}}}}"#,
            ),
            (
                Machine::Google { certificates: vec![vec![1], vec![2]], report: tdx() },
                r#"{"google":{"certificates":["AQ==","Ag=="],"report":{"tdx":{"quote":"AQ==","eventLog":"Ag=="}}}}"#,
            ),
            (
                Machine::Azure { report: vec![3], endorsement },
                r#"{"azure":{"report":"Aw==","endorsement":{"snp":{"vek":"AQ==","intermediate":"Ag=="}}}}"#,
            ),
            (
                Machine::Azure { report: vec![3], endorsement: Endorsement::Tdx { quote: vec![1] } },
                r#"{"azure":{"report":"Aw==","endorsement":{"tdx":{"quote":"AQ=="}}}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&machine).unwrap(), json);
            assert_eq!(serde_json::from_str::<Machine>(json).unwrap(), machine);
            let more = format!("{},\"more\":1}}}}", &json[..json.len() - 2]);
            assert!(serde_json::from_str::<Machine>(&more).is_err(), "{more}");
        }
        assert!(serde_json::from_str::<Machine>(r#"{"other":{"document":"AQ=="}}"#).is_err());
    }

    #[test]
    fn the_tpm_names_what_the_processor_signed_without_what_its_host_added() {
        assert_eq!(Report::Snp { report: vec![1, 2], certificates: vec![3] }.signed(), [1, 2]);
        assert_eq!(Report::Tdx { quote: vec![4, 5], event_log: vec![6] }.signed(), [4, 5]);
    }
}
