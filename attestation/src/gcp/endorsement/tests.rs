//! Endorsements made here, by keys of ours: no genuine one is published with a certificate in date.

use aws_lc_rs::{rand::SystemRandom, signature::RSA_PSS_SHA256};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::*;

const NOW: i64 = 1_795_400_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut length = value.len();
    let mut out = vec![number << 3 | 2];
    while length >= 0x80 {
        out.push(0x80 | length.to_le_bytes()[0]);
        length >>= 7;
    }
    out.push(length.to_le_bytes()[0]);
    [out, value.to_vec()].concat()
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

struct Made {
    endorsement: Vec<u8>,
    anchors: Anchors,
}

/// An endorsement of SEV-SNP for 2 and 4 processors and of TDX, both with security version 3.
fn made() -> Made {
    made_by(&[], IsCa::ExplicitNoCa)
}

/// The same, by a signer whose certificate is for this use.
fn made_by(usages: &[KeyUsagePurpose], is_ca: IsCa) -> Made {
    let params = |name: &str, is_ca| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params
    };
    let authority = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params("root", authority), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut signer = params("signer", is_ca);
    signer.key_usages = usages.to_vec();
    let leaf = signer.signed_by(&key, &root).unwrap();
    let entry = |count, value: u8| bytes(2, &[number(1, count), bytes(2, &[value; 48])].concat());
    let snp = [number(1, 3), entry(2, 0x22), entry(4, 0x44), bytes(3, &[9; 16])].concat();
    let tdx = [number(1, 3), bytes(2, &[number(1, 16), bytes(3, &[0x66; 48])].concat())].concat();
    let golden =
        [bytes(4, leaf.der()), bytes(5, &[0x55; 48]), bytes(6, root.pem().as_bytes()), bytes(7, &snp), bytes(8, &tdx)]
            .concat();
    let pair = aws_lc_rs::rsa::KeyPair::from_pkcs8(&key.serialize_der()).unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), &golden, &mut signature).unwrap();
    Made {
        endorsement: [bytes(1, &golden), bytes(2, &signature)].concat(),
        anchors: Anchors::new([root.der().as_ref()]).unwrap(),
    }
}

fn evaluate(made: &Made, measurement: u8, svn: u32) -> Vec<String> {
    let mut checks = Checks::default();
    if let Some(golden) = verify(&made.endorsement, &made.anchors, now(), &mut checks) {
        check_snp(&golden, &Hex([measurement; 48]), &Requirement::AtLeast(svn), &mut checks);
    }
    checks.failures().map(|c| c.name.clone()).collect()
}

#[test]
fn a_measurement_is_accepted_only_if_it_is_endorsed_by_firmware_at_the_floor() {
    let made = made();
    assert_eq!(evaluate(&made, 0x22, 3), [""; 0]);
    assert_eq!(evaluate(&made, 0x44, 1), [""; 0]);
    assert_eq!(evaluate(&made, 0x66, 3), [clause::ENDORSEMENT_MEASUREMENT]);
    assert_eq!(evaluate(&made, 0x22, 4), [clause::ENDORSEMENT_SVN]);
    let mut checks = Checks::default();
    let golden = verify(&made.endorsement, &made.anchors, now(), &mut checks).unwrap();
    check_tdx(&golden, &Hex([0x66; 48]), &Requirement::AtLeast(3), &mut checks);
    assert!(checks.accepted());
    check_tdx(&golden, &Hex([0x22; 48]), &Requirement::AtLeast(3), &mut checks);
    assert!(!checks.accepted());
    let two = Requirement::AnyOf(vec![Hex([0x22; 48])]);
    assert_eq!(golden.get().snp_measurement(Some(2)), two);
    assert_eq!(golden.get().snp_measurement(Some(3)), Requirement::AnyOf(vec![]));
    assert_eq!(golden.get().tdx_mrtd(), Requirement::AnyOf(vec![Hex([0x66; 48])]));
}

#[test]
fn an_endorsement_of_another_signer_or_time_or_with_other_bytes_is_refused() {
    let (good, other) = (made(), made());
    let anchors = Made { endorsement: good.endorsement.clone(), anchors: other.anchors };
    assert_eq!(evaluate(&anchors, 0x22, 3), [clause::ENDORSEMENT_CHAIN]);
    let mut checks = Checks::default();
    let late = Timestamp::from_second(NOW * 50).unwrap();
    assert!(verify(&good.endorsement, &good.anchors, late, &mut checks).is_none());
    assert_eq!(checks.failures().map(|c| c.name.as_str()).collect::<Vec<_>>(), [clause::ENDORSEMENT_VALIDITY]);
    let place = good.endorsement.windows(48).position(|part| part == [0x22; 48]).unwrap();
    let mut changed = Made { endorsement: good.endorsement.clone(), anchors: good.anchors.clone() };
    changed.endorsement[place] ^= 1;
    assert_eq!(evaluate(&changed, 0x44, 3), [clause::ENDORSEMENT_SIGNATURE]);
    for place in (0..good.endorsement.len()).step_by(7) {
        changed.endorsement.clone_from(&good.endorsement);
        changed.endorsement[place] ^= 0x40;
        assert!(!evaluate(&changed, 0x22, 3).is_empty(), "{place}");
        changed.endorsement.truncate(place);
        assert!(!evaluate(&changed, 0x22, 3).is_empty(), "{place}");
    }
}

#[test]
fn a_member_that_stands_twice_or_has_another_type_is_refused() {
    let golden = [bytes(4, &[1]), bytes(5, &[0; 48])].concat();
    let whole = |golden: &[u8]| [bytes(1, golden), bytes(2, &[1])].concat();
    assert!(Signed::parse(&whole(&golden)).is_ok());
    for wrong in [
        [golden.clone(), bytes(5, &[0; 48])].concat(),
        [golden.clone(), number(6, 1)].concat(),
        [golden.clone(), bytes(7, &[number(1, 1), number(1, 1)].concat())].concat(),
        [golden.clone(), bytes(7, &bytes(2, &bytes(2, &[0; 47])))].concat(),
        [golden.clone(), vec![0x80; 11]].concat(),
        [golden.clone(), vec![3]].concat(),
        bytes(4, &[1]),
    ] {
        assert!(Signed::parse(&whole(&wrong)).is_err(), "{wrong:?}");
    }
    assert!(Signed::parse(&[]).is_err());
    // What came after this code is passed over.
    for more in [&[0x79, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0x7d, 0, 0, 0, 0], &[0x78, 0], &[0x7a, 1, 0]] {
        assert!(Signed::parse(&whole(&[golden.as_slice(), more].concat())).is_ok(), "{more:?}");
    }
    // Nothing has the number 0.
    for none in [&[1, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0], &[2, 1, 0], &[5, 0, 0, 0, 0]] {
        assert!(Signed::parse(&whole(&[golden.as_slice(), none].concat())).is_err(), "{none:?}");
    }
}

#[test]
fn a_security_version_that_is_not_said_is_0() {
    let golden = [bytes(4, &[1]), bytes(5, &[0; 48]), bytes(7, &[]), bytes(8, &[])].concat();
    let whole = [bytes(1, &golden), bytes(2, &[1])].concat();
    let Golden { snp, tdx, .. } = Signed::parse(&whole).unwrap().golden;
    assert_eq!((snp.map(|snp| snp.svn), tdx.map(|tdx| tdx.svn)), (Some(0), Some(0)));
}

#[test]
fn a_signer_is_nobodys_issuer_and_may_sign() {
    use KeyUsagePurpose::{DigitalSignature, KeyCertSign, KeyEncipherment};
    let authority = || IsCa::Ca(BasicConstraints::Unconstrained);
    for (usages, is_ca, good) in [
        (&[][..], IsCa::NoCa, true),
        (&[DigitalSignature], IsCa::ExplicitNoCa, true),
        (&[KeyEncipherment], IsCa::ExplicitNoCa, false),
        (&[], authority(), false),
        (&[DigitalSignature, KeyCertSign], authority(), false),
    ] {
        let failed = evaluate(&made_by(usages, is_ca), 0x22, 3);
        assert_eq!(failed, if good { vec![] } else { vec![clause::ENDORSEMENT_SIGNATURE] }, "{usages:?} {is_ca:?}");
    }
}

#[test]
fn an_endorsement_is_as_long_and_has_as_many_members_as_the_bounds_say_or_fewer() {
    let of =
        |length: usize| [bytes(1, &[bytes(4, &[1]), bytes(5, &[0; 48])].concat()), bytes(2, &vec![1; length])].concat();
    let most = MAX_BYTES - (of(100_000).len() - 100_000);
    assert_eq!(of(most).len(), MAX_BYTES);
    assert!(Signed::parse(&of(most)).is_ok());
    for more in [1, 2] {
        assert_eq!(Signed::parse(&of(most + more)), Err(Error::Member("an endorsement of at most 256 KiB")));
    }
    for (count, good) in [(MAX_MEASUREMENTS, true), (MAX_MEASUREMENTS + 1, false), (MAX_MEASUREMENTS + 2, false)] {
        assert_eq!(Fields::parse(&number(9, 1).repeat(count)).is_ok(), good, "{count}");
    }
}
