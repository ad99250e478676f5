//! Whether a document is genuine, and whether it is the wanted one.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use jiff::{SignedDuration, Timestamp};
use x509_parser::certificate::X509Certificate;

use super::{
    clause,
    document::{Document, Signed, instance_of},
    policy::{Age, Policy},
};
use crate::{
    bytes::Bytes,
    result::Checks,
    verified::Verified,
    x509::{
        self, Algorithm, Curve,
        chain::{Anchors, Chain},
    },
};

/// The only algorithm of AWS's certificates.
const ALLOWED: &[Algorithm] = &[Algorithm::EcdsaP384];
/// Ends the common name of a TPM's certificate: `<module>.<region>.aws`.
const SUFFIX: &str = ".aws";
/// By how much the clocks of AWS and of the verifier may differ.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// A TPM of an EC2 instance, as a genuine document describes it.
#[derive(Clone, Debug)]
pub struct Tpm {
    /// What the document says.
    pub document: Document,
    /// The instance.
    pub instance: String,
    /// The region that the certificate is of.
    pub region: String,
}

/// Verifies a document at a time. Looks at every clause it can get to, whatever the ones before said; the TPM comes out
/// only if all of them hold.
pub fn verify(document: &[u8], anchors: &Anchors, now: Timestamp, checks: &mut Checks) -> Option<Verified<Tpm>> {
    let Signed { document, message, signature } = match Signed::parse(document) {
        Ok(signed) => signed,
        Err(error) => {
            checks.fails(error.clause(), &error.to_string());
            return None;
        }
    };
    let mut own = Checks::default();
    own.holds(clause::STRUCTURE, "COSE_Sign1 over the members of an attestation");
    own.holds(clause::KIND, "the document of a TPM");
    own.holds(clause::ALGORITHM, "ES384");
    let region = signer(&document, &message, &signature, &mut own);
    // The bundle begins with the root; a chain begins with the leaf.
    let intermediates = document.cabundle.iter().rev().map(Vec::as_slice);
    let names = [clause::CHAIN, clause::VALIDITY];
    Chain::check(&document.certificate, intermediates, anchors, ALLOWED, now, names, &mut own);
    let found = instance_of(&document.module_id).map(str::to_owned).zip(region);
    let (instance, region) = checks.prove(own, found, clause::MODULE)?;
    Some(Verified::new(Tpm { document, instance, region }))
}

/// Checks the signature, and that the signer's certificate is of the module; gives the region that it names.
fn signer(document: &Document, message: &[u8], signature: &[u8], checks: &mut Checks) -> Option<String> {
    let certificate = match x509::certificate(&document.certificate) {
        Ok(certificate) => certificate,
        Err(error) => {
            checks.fails(clause::CHAIN, &error.to_string());
            return None;
        }
    };
    let key = x509::ec_key(certificate.public_key(), Curve::P384).ok();
    let signed =
        key.is_some_and(|key| UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(message, signature).is_ok());
    checks.check(clause::SIGNATURE, signed, None, None, "the document is signed by its certificate's key");
    let region = region(&certificate, &document.module_id);
    checks.check(
        clause::MODULE,
        region.is_some(),
        format!("{}.<region>{SUFFIX}", document.module_id),
        certificate.subject().to_string(),
        "the certificate is for signatures of exactly this module",
    );
    region
}

fn region(certificate: &X509Certificate<'_>, module_id: &str) -> Option<String> {
    let signs = certificate.key_usage().ok()?.is_some_and(|usage| usage.value.digital_signature());
    let name = x509::common_name(certificate.subject())?;
    let region = name.strip_prefix(module_id)?.strip_prefix('.')?.strip_suffix(SUFFIX)?;
    let is_region = !region.is_empty() && region.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    (signs && x509::is_leaf(certificate) && is_region).then(|| region.to_owned())
}

/// Appraises a genuine document against a policy at a time.
pub fn appraise(tpm: &Verified<Tpm>, policy: &Policy, now: Timestamp, checks: &mut Checks) {
    let Tpm { document, instance, region } = tpm.get();
    let age = now.duration_since(document.timestamp);
    let said = if age > policy.recent {
        Age::Old
    } else if age < -SKEW {
        Age::Future
    } else {
        Age::Recent
    };
    let message = format!("made on {}, looked at on {now}", document.timestamp);
    policy.age.apply(checks, clause::TIMESTAMP, Some(&said), |age| format!("{age:?}"), &message);
    for (name, requirement, said, message) in [
        (clause::NONCE, &policy.nonce, &document.nonce, "the document is about this conversation"),
        (clause::USER_DATA, &policy.user_data, &document.user_data, "what the node wanted to have said"),
        (clause::PUBLIC_KEY, &policy.public_key, &document.public_key, "the key that the node named"),
    ] {
        let said = said.as_deref().map(Bytes::from);
        requirement.apply(checks, name, said.as_ref(), Bytes::to_string, message);
    }
    policy.instance.apply(checks, clause::INSTANCE, Some(instance), String::clone, "the instance");
    policy.region.apply(checks, clause::REGION, Some(region), String::clone, "the region");
    policy.registers.appraise(&document.registers, None, checks);
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

    use super::*;
    use crate::{
        nitro::clause,
        tpm::{Hash, quote::Values},
    };

    #[test]
    fn a_certificate_names_a_region_if_it_signs_is_nobodys_issuer_and_is_of_exactly_the_module() {
        use KeyUsagePurpose::{DigitalSignature, KeyAgreement};
        let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
        for (name, usages, is_ca, wanted) in [
            ("m.us-east-1.aws", &[DigitalSignature][..], IsCa::NoCa, Some("us-east-1")),
            ("m.eu.aws", &[DigitalSignature, KeyAgreement], IsCa::ExplicitNoCa, Some("eu")),
            ("m.us-east-1.aws", &[KeyAgreement], IsCa::NoCa, None),
            ("m.us-east-1.aws", &[], IsCa::NoCa, None),
            ("m.us-east-1.aws", &[DigitalSignature], authority(), None),
            ("m..aws", &[DigitalSignature], IsCa::NoCa, None),
            ("m.aws", &[DigitalSignature], IsCa::NoCa, None),
            ("m.US.aws", &[DigitalSignature], IsCa::NoCa, None),
            ("m.a.b.aws", &[DigitalSignature], IsCa::NoCa, None),
            ("m.us-east-1.com", &[DigitalSignature], IsCa::NoCa, None),
            ("mm.us-east-1.aws", &[DigitalSignature], IsCa::NoCa, None),
            ("n.us-east-1.aws", &[DigitalSignature], IsCa::NoCa, None),
        ] {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = usages.to_vec();
            params.is_ca = is_ca;
            let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let found = region(&x509::certificate(made.der()).unwrap(), "m");
            assert_eq!(found.as_deref(), wanted, "{name} {usages:?} {is_ca:?}");
        }
    }

    #[test]
    fn a_document_is_recent_for_as_long_as_the_policy_says_and_from_the_future_as_far_as_clocks_differ() {
        let made = Timestamp::from_second(1_000_000).unwrap();
        let document = Document {
            module_id: "i-0-tpm0".into(),
            timestamp: made,
            registers: Values { bank: Hash::Sha384, pcrs: [].into() },
            certificate: vec![],
            cabundle: vec![],
            public_key: None,
            user_data: None,
            nonce: None,
        };
        let tpm = Verified::new(Tpm { document, instance: "i-0".into(), region: "eu".into() });
        for (later, age) in [
            (SignedDuration::ZERO, Age::Recent),
            (SignedDuration::from_secs(300), Age::Recent),
            (SignedDuration::from_millis(300_001), Age::Old),
            (SignedDuration::from_hours(9), Age::Old),
            (SignedDuration::from_secs(-60), Age::Recent),
            (SignedDuration::from_millis(-60_001), Age::Future),
            (SignedDuration::from_hours(-9), Age::Future),
        ] {
            let mut checks = Checks::default();
            appraise(&tpm, &Policy::strict(), made + later, &mut checks);
            let said = checks.clauses().iter().find(|found| found.name == clause::TIMESTAMP).unwrap();
            assert_eq!(said.actual.as_deref(), Some(format!("{age:?}").as_str()), "{later}");
        }
    }
}
