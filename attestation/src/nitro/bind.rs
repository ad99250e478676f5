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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use rcgen::{KeyPair, PublicKeyData as _};

    use super::*;
    use crate::{bytes::Bytes, nitro::Document, reference::Requirement, tpm::Hash, tpm::signature::Signature};

    fn values(bank: Hash, pcrs: &[(u8, u8)]) -> Values {
        Values { bank, pcrs: pcrs.iter().map(|(pcr, byte)| (*pcr, vec![*byte; 48])).collect::<BTreeMap<_, _>>() }
    }

    /// What of a quote of these registers isn't as a document with this key and these registers says.
    fn differing(named: &[u8], said: Values, key: &Key, quoted: &Values) -> Vec<String> {
        let document = Document {
            module_id: "i-0-tpm0".into(),
            timestamp: Timestamp::UNIX_EPOCH,
            registers: said,
            certificate: vec![],
            cabundle: vec![],
            public_key: Some(named.to_vec()),
            user_data: None,
            nonce: None,
        };
        let tpm = Verified::new(Tpm { document, instance: "i-0".into(), region: "eu".into() });
        let (signature, nonce) = (Signature::Ecdsa([0; 64]), Requirement::Exact(Bytes(vec![1])));
        let mut checks = Checks::default();
        quote(&tpm, &Claim { attest: &[], signature: &signature, key, values: quoted, nonce: &nonce }, &mut checks);
        let own =
            checks.failures().filter(|clause| [clause::QUOTE_KEY, clause::QUOTE_REGISTERS].contains(&&*clause.name));
        own.map(|clause| format!("{} {}", clause.name, clause.actual.as_deref().unwrap_or_default())).collect()
    }

    #[test]
    fn a_quote_is_of_the_documents_bank_and_of_registers_that_both_have() {
        let key = Key::P256 { x: [1; 32], y: [2; 32] };
        let said = || values(Hash::Sha384, &[(4, 1), (7, 2), (9, 3)]);
        let of = |quoted: &Values| differing(&key.to_bytes(), said(), &key, quoted);
        let wrong = |pcrs: &str| vec![format!("{} {pcrs}", clause::QUOTE_REGISTERS)];
        assert_eq!(of(&said()), [""; 0]);
        assert_eq!(of(&values(Hash::Sha384, &[(7, 2), (8, 9)])), [""; 0]);
        assert_eq!(of(&values(Hash::Sha384, &[(8, 9)])), wrong(""));
        assert_eq!(of(&values(Hash::Sha256, &[(4, 1), (7, 2), (9, 3)])), wrong(""));
        assert_eq!(of(&values(Hash::Sha384, &[(4, 9), (7, 2), (9, 9)])), wrong("4, 9"));
    }

    #[test]
    fn a_document_names_a_key_as_a_point_or_as_a_certificate_does() {
        let [one, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let key = Key::point(one.public_key_raw()).unwrap();
        for (named, same) in [
            (one.public_key_raw().to_vec(), true),
            (one.subject_public_key_info(), true),
            (other.public_key_raw().to_vec(), false),
            (other.subject_public_key_info(), false),
            (vec![1], false),
        ] {
            let values = values(Hash::Sha384, &[(4, 1)]);
            let wrong = differing(&named, values.clone(), &key, &values);
            assert_eq!(wrong, if same { vec![] } else { vec![format!("{} ", clause::QUOTE_KEY)] }, "{named:?}");
        }
    }
}
