//! Holds a genuine document against other evidence of the same machine: the TPM's own quote, and the SEV-SNP report.

use super::{clause, verify::Tpm};
use crate::{
    bytes::Hex,
    machine,
    result::Checks,
    snp,
    tpm::{
        attest::Attest,
        public::Key,
        quote::{self, Claim, Values},
    },
    verified::Verified,
};

/// Starts the cloud's name in a VLEK (`cspID`) of EC2; the region and `.amazonaws.com` follow.
const CSP_PREFIX: &str = "CN=cc-";
const CSP_SUFFIX: &str = ".amazonaws.com";

/// Checks a quote of the document's TPM: under the key that the document names, of the values that it says. Registers
/// that only one of them has aren't compared; there must be some that both have. Gives what the quote says, if it holds.
pub fn quote(tpm: &Verified<Tpm>, claim: &Claim<'_>, checks: &mut Checks) -> Option<Attest> {
    let document = &tpm.get().document;
    let attest = quote::check(claim, checks);
    let named = document.public_key.as_deref().is_some_and(|bytes| is_key(bytes, claim.key));
    checks.check(clause::QUOTE_KEY, named, None, None, "the document names the key that signed the quote");
    let Values { bank, pcrs } = &document.registers;
    let both: Vec<_> = pcrs.iter().filter_map(|(pcr, value)| Some((pcr, value, claim.values.pcrs.get(pcr)?))).collect();
    let differing: Vec<_> =
        both.iter().filter(|(_, said, quoted)| said != quoted).map(|(pcr, ..)| pcr.to_string()).collect();
    checks.check(
        clause::QUOTE_REGISTERS,
        *bank == claim.values.bank && !both.is_empty() && differing.is_empty(),
        None,
        (!differing.is_empty()).then(|| differing.join(", ")),
        "the quote is of the registers that the document says",
    );
    attest
}

/// Whether bytes are a key: an uncompressed point (SEC 1, 2.3.3) or a `SubjectPublicKeyInfo`.
fn is_key(bytes: &[u8], key: &Key) -> bool {
    Key::point(bytes).is_ok_and(|named| named == *key) || Key::from_spki_der(bytes).is_ok_and(|named| named == *key)
}

/// What a genuine SEV-SNP report says about the cloud and the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// The cloud whose key signed.
    pub csp_id: Option<&'a str>,
    /// What the guest wanted to have attested.
    pub report_data: &'a Hex<64>,
}

impl<'a> From<&'a Verified<snp::Guest>> for Reported<'a> {
    fn from(guest: &'a Verified<snp::Guest>) -> Self {
        let guest = guest.get();
        Self { csp_id: guest.csp_id.as_deref(), report_data: &guest.report.report_data }
    }
}

/// Checks that a SEV-SNP report and a document are of one machine in one conversation: the cloud's key is of the
/// document's region, and the guest had this conversation and the document's key attested. The document in turn names
/// the report by its nonce, see [`machine::tpm_nonce`].
pub fn snp(tpm: &Verified<Tpm>, reported: Reported<'_>, binding: &[u8; 32], checks: &mut Checks) {
    let Tpm { document, region, .. } = tpm.get();
    let wanted = format!("{CSP_PREFIX}{region}{CSP_SUFFIX}");
    let said = reported.csp_id;
    let same = said == Some(wanted.as_str());
    checks.check(clause::SNP_REGION, same, wanted, said.map(str::to_owned), "report and document are of one region");
    let wanted = document.public_key.as_deref().map(|key| Hex(machine::report_data(binding, key)));
    checks.check(
        clause::SNP_REPORT_DATA,
        wanted.is_some_and(|wanted| wanted == *reported.report_data),
        wanted.map(|wanted| wanted.to_string()),
        reported.report_data.to_string(),
        "the report is about this conversation and the document's key",
    );
}
