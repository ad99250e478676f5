//! Chains of the synthetic SEV-SNP vectors: a real shape, RSA-4096 with PSS.

use std::path::PathBuf;

use super::*;

const NOW: &str = "2026-11-20T00:00:00Z";

fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/synthetic-snp").join(name);
    let bytes = std::fs::read(&path).unwrap();
    if name.to_ascii_lowercase().ends_with("pem") { from_pem(&bytes, 1).unwrap().remove(0) } else { bytes }
}

fn link(leaf: &str, issuer: &str, allowed: &[Algorithm]) -> Result<(), Error> {
    let (leaf, issuer) = (read(leaf), read(issuer));
    issued(&certificate(&leaf).unwrap(), &certificate(&issuer).unwrap(), allowed)
}

const PSS: &[Algorithm] = &[Algorithm::RsaPssSha384];

#[test]
fn a_link_holds_only_under_its_issuer_and_an_allowed_algorithm() {
    assert_eq!(link("ask_milan.pem", "ark_milan.pem", PSS), Ok(()));
    assert_eq!(link("ok_milan_v3/vek.der", "ask_milan.pem", PSS), Ok(()));
    assert_eq!(link("ask_milan.pem", "ark_milan.pem", &Algorithm::COMMON), Err(Error::Algorithm));
    assert_eq!(link("neg_cert_pkcs1/vek.der", "ask_milan.pem", PSS), Err(Error::Algorithm));
    assert_eq!(link("neg_cert_pkcs1/vek.der", "ask_milan.pem", &Algorithm::COMMON), Ok(()));
    assert!(matches!(link("ask_milan.pem", "ark_genoa.pem", PSS), Err(Error::Issuer { .. })));
    assert_eq!(link("ask_milan.pem", "evil_ark.pem", PSS), Err(Error::Signature));
    assert!(matches!(link("ok_milan_v3/vek.der", "nonca_ask.pem", PSS), Err(Error::Usage(_))));
}

#[test]
fn a_revocation_list_counts_only_if_its_issuer_signed_it() {
    let (ark, ask) = (read("ark_milan.pem"), read("ask_milan.pem"));
    let (ark, ask) = (certificate(&ark).unwrap(), certificate(&ask).unwrap());
    let now: Timestamp = NOW.parse().unwrap();
    for (name, revoked, dated) in [
        ("crl_milan_empty.der", false, true),
        ("crl_milan_ask_revoked.der", true, true),
        ("crl_milan_asvk_revoked.der", false, true),
        ("crl_milan_expired.der", false, false),
    ] {
        let der = read(name);
        let list = RevocationList::verify(&der, &ark, PSS).unwrap();
        assert_eq!(list.revokes(&ask), revoked, "{name}");
        assert_eq!(list.in_date(now).is_ok(), dated, "{name}");
    }
    assert!(RevocationList::verify(&read("crl_milan_wrong_signer.der"), &ark, PSS).is_err());
    assert!(RevocationList::verify(&read("crl_genoa_empty.der"), &ark, PSS).is_err());
}

#[test]
fn dates_hold_at_both_ends_and_not_a_second_beyond() {
    let der = read("ok_milan_v3/vek.der");
    let leaf = certificate(&der).unwrap();
    for (time, holds) in [
        ("2024-12-31T23:59:59Z", false),
        ("2025-01-01T00:00:00Z", true),
        ("2031-12-31T00:00:00Z", true),
        ("2031-12-31T00:00:01Z", false),
    ] {
        assert_eq!(in_date(&leaf, time.parse().unwrap()).is_ok(), holds, "{time}");
    }
}

#[test]
fn no_truncation_or_trailing_byte_is_a_certificate() {
    let mut der = read("ok_milan_v3/vek.der");
    assert!((0..der.len()).all(|end| certificate(&der[..end]).is_err()));
    der.push(0);
    assert!(matches!(certificate(&der), Err(Error::Malformed(_))));
}
