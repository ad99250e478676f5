//! Chains of the synthetic SEV-SNP vectors: a real shape, RSA-4096 with PSS.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize,
};

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

#[test]
fn who_is_out_of_date_is_told_with_the_dates() {
    let der = read("ok_milan_v3/vek.der");
    let leaf = certificate(&der).unwrap();
    let Err(Error::Time(said)) = in_date(&leaf, "2032-01-01T00:00:00Z".parse().unwrap()) else { panic!("in date") };
    for part in [leaf.subject().to_string().as_str(), " is valid from Jan  1 00:00:00 2025", " to Dec 31 00:00:00 2031"]
    {
        assert!(said.contains(part), "{said}: {part}");
    }
    let (ark, list) = (read("ark_milan.pem"), read("crl_milan_expired.der"));
    let list = RevocationList::verify(&list, &certificate(&ark).unwrap(), PSS).unwrap();
    let Err(Error::Time(said)) = list.in_date(NOW.parse().unwrap()) else { panic!("in date") };
    let (made, next) = (list.0.last_update().to_string(), list.0.next_update().unwrap().to_string());
    assert!(said.contains(&made) && said.ends_with(&next) && made != next, "{said}");
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = if content.len() < 0x80 { vec![tag, low] } else { vec![tag, 0x82, high, low] };
    [head, content.to_vec()].concat()
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn oid(oid: &Oid<'_>) -> Vec<u8> {
    tlv(6, oid.as_bytes())
}

#[test]
fn an_algorithm_with_salt_has_one_hash_and_the_salt_and_trailer_that_belong_to_it() {
    let mgf: Oid<'_> = OID_MGF1.parse().unwrap();
    let sha1: Oid<'_> = "1.3.14.3.2.26".parse().unwrap();
    let (sha256, sha384) = (OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384);
    for (hash, mask, mask_hash, salt, trailer, wanted) in [
        (&sha256, &mgf, &sha256, 32, 1, Some(Algorithm::RsaPssSha256)),
        (&sha384, &mgf, &sha384, 48, 1, Some(Algorithm::RsaPssSha384)),
        (&sha256, &mgf, &sha384, 32, 1, None),
        (&sha384, &mgf, &sha256, 48, 1, None),
        (&sha384, &mgf, &sha256, 32, 1, None),
        (&sha256, &mgf, &sha256, 48, 1, None),
        (&sha384, &mgf, &sha384, 32, 1, None),
        (&sha384, &sha384, &sha384, 48, 1, None),
        (&sha384, &mgf, &sha384, 48, 2, None),
        (&sha384, &sha384, &sha384, 48, 2, None),
        (&sha1, &mgf, &sha1, 20, 1, None),
        (&sha1, &mgf, &sha384, 48, 1, None),
    ] {
        let parameters = [
            tlv(0xa0, &sequence(&[oid(hash)])),
            tlv(0xa1, &sequence(&[oid(mask), sequence(&[oid(mask_hash)])])),
            tlv(0xa2, &[2, 1, salt]),
            tlv(0xa3, &[2, 1, trailer]),
        ];
        let der = sequence(&[oid(&OID_PKCS1_RSASSAPSS), sequence(&parameters)]);
        let (_, identifier) = AlgorithmIdentifier::from_der(&der).unwrap();
        assert_eq!(Algorithm::of(&identifier), wanted, "{hash} {mask} {mask_hash} {salt} {trailer}");
    }
    for absent in [sequence(&[oid(&OID_PKCS1_RSASSAPSS), sequence(&[])]), sequence(&[oid(&OID_PKCS1_RSASSAPSS)])] {
        assert_eq!(Algorithm::of(&AlgorithmIdentifier::from_der(&absent).unwrap().1), None);
    }
}

#[test]
fn each_algorithm_takes_keys_of_its_kind_and_size_only() {
    use Algorithm::{EcdsaP256, EcdsaP384, RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512, RsaPssSha256, RsaPssSha384};
    let ask = read("ask_milan.pem");
    let keys = [
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().subject_public_key_info(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().subject_public_key_info(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap().subject_public_key_info(),
        certificate(&ask).unwrap().public_key().raw.to_vec(),
    ];
    for (algorithm, taken) in [
        (EcdsaP256, [true, false, false, false]),
        (EcdsaP384, [false, true, false, false]),
        (RsaPkcs1Sha256, [false, false, true, true]),
        (RsaPkcs1Sha384, [false, false, true, true]),
        (RsaPkcs1Sha512, [false, false, true, true]),
        (RsaPssSha256, [false, false, true, true]),
        (RsaPssSha384, [false, false, false, true]),
    ] {
        let takes = |key: &Vec<u8>| algorithm.key(&SubjectPublicKeyInfo::from_der(key).unwrap().1).is_ok();
        assert_eq!(keys.each_ref().map(takes), taken, "{algorithm:?}");
    }
}

#[test]
fn a_point_is_uncompressed_and_on_the_curve_that_its_key_names() {
    let (p256, p384) = ([&[4], [1; 64].as_slice()].concat(), [&[4], [1; 96].as_slice()].concat());
    let (ec, rsa) = (OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION);
    for (kind, on, point, wanted) in [
        (&ec, &OID_EC_P256, p256.clone(), Some(Curve::P256)),
        (&ec, &OID_NIST_EC_P384, p384.clone(), Some(Curve::P384)),
        (&ec, &OID_NIST_EC_P384, p256.clone(), None),
        (&ec, &OID_EC_P256, p384, None),
        (&rsa, &OID_EC_P256, p256.clone(), None),
        (&ec, &OID_EC_P256, [&[6], &p256[1..]].concat(), None),
        (&ec, &OID_EC_P256, [&[2], &p256[1..33]].concat(), None),
        (&ec, &OID_EC_P256, p256[..64].to_vec(), None),
        (&ec, &OID_EC_P256, [p256.as_slice(), &[1]].concat(), None),
    ] {
        let key = tlv(3, &[&[0], point.as_slice()].concat());
        let der = sequence(&[sequence(&[oid(kind), oid(on)]), key]);
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).unwrap();
        for curve in [Curve::P256, Curve::P384] {
            let found = ec_key(&info, curve).ok();
            assert_eq!(found, (wanted == Some(curve)).then_some(point.as_slice()), "{kind} {on} {point:?}");
        }
    }
}

#[test]
fn only_zeros_behind_a_certificate_are_padding() {
    let whole = read("ok_milan_v3/vek.der");
    let with = |more: &[u8]| [whole.as_slice(), more].concat();
    for (der, length) in [
        (with(&[]), whole.len()),
        (with(&[0]), whole.len()),
        (with(&[0; 300]), whole.len()),
        (with(&[1]), whole.len() + 1),
        (with(&[0, 1]), whole.len() + 2),
        (with(&[1, 0]), whole.len() + 2),
        (whole[..9].to_vec(), 9),
        (vec![], 0),
    ] {
        assert_eq!(unpadded(&der), &der[..length]);
    }
}

#[test]
fn a_key_that_signs_only_is_a_leafs_with_that_use_alone() {
    use KeyUsagePurpose::{ContentCommitment, DigitalSignature, KeyCertSign, KeyEncipherment};
    let authority = IsCa::Ca(BasicConstraints::Unconstrained);
    for (usages, is_ca, wanted) in [
        (&[DigitalSignature][..], IsCa::NoCa, true),
        (&[DigitalSignature], IsCa::ExplicitNoCa, true),
        (&[DigitalSignature], authority, false),
        (&[DigitalSignature, KeyEncipherment], IsCa::NoCa, false),
        (&[DigitalSignature, KeyCertSign], authority, false),
        (&[KeyEncipherment], IsCa::NoCa, false),
        (&[ContentCommitment], IsCa::NoCa, false),
        (&[], IsCa::NoCa, false),
    ] {
        let mut params = CertificateParams::default();
        params.key_usages = usages.to_vec();
        params.is_ca = is_ca;
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(signs_only(&certificate(made.der()).unwrap()), wanted, "{usages:?} {is_ca:?}");
    }
}
