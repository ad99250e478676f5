//! A test's own AMD: root, intermediate, the key of a Milan processor (VCEK) or of a cloud (VLEK), a revocation list,
//! and reports. SIMULATED. Offsets are those of the report's ABI (AMD document 56860, table "`ATTESTATION_REPORT`").

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests")]

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384},
};
use constellation_attestation::snp::{Anchors, KeyKind, Product, parse::platform_info::ALIAS_CHECK_COMPLETE};

/// What a good report says was launched.
pub const MEASUREMENT: [u8; 48] = [0x5a; 48];
/// Its TCB as a policy writes it.
pub const TCB: &str = "bl=4,tee=0,snp=24,ucode=219";
/// The cloud that a VLEK is of.
pub const CSP: &str = "CN=cc-us-east-1.amazonaws.com";
const RAW_TCB: [u8; 8] = [4, 0, 0, 0, 0, 0, 24, 219];
const CHIP: [u8; 64] = [0xc1; 64];
const SIGNED: usize = 672;

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let head = match content.len() {
        0..=127 => vec![tag, length[7]],
        128..=255 => vec![tag, 0x81, length[7]],
        _ => vec![tag, 0x82, length[6], length[7]],
    };
    [head, content.to_vec()].concat()
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

fn bits(content: &[u8]) -> Vec<u8> {
    der(3, &[&[0], content].concat())
}

fn oid(hex: &str) -> Vec<u8> {
    der(6, &hex::decode(hex).unwrap())
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt (RFC 4055, 3.1).
fn pss() -> Vec<u8> {
    let sha384 = || sequence(&[oid("608648016503040202"), der(5, &[])]);
    let mask = sequence(&[oid("2a864886f70d010108"), sha384()]);
    let parameters = sequence(&[der(0xa0, &sha384()), der(0xa1, &mask), der(0xa2, &der(2, &[48]))]);
    sequence(&[oid("2a864886f70d01010a"), parameters])
}

fn name(common: &str) -> Vec<u8> {
    sequence(&[der(0x31, &sequence(&[oid("550403"), der(0x0c, common.as_bytes())]))])
}

fn time(text: &str) -> Vec<u8> {
    der(0x17, text.as_bytes())
}

fn extension(id: Vec<u8>, value: &[u8]) -> Vec<u8> {
    sequence(&[id, der(4, value)])
}

/// One of AMD's, 1.3.6.1.4.1.3704.1 and an arc.
fn amd(arc: &[u8], value: &[u8]) -> Vec<u8> {
    extension(der(6, &[&hex::decode("2b060104019c7801").unwrap(), arc].concat()), value)
}

struct Authority {
    common: String,
    key: RsaKeyPair,
}

impl Authority {
    fn new(common: String) -> Self {
        Self { common, key: RsaKeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    fn spki(&self) -> Vec<u8> {
        let algorithm = sequence(&[oid("2a864886f70d010101"), der(5, &[])]);
        sequence(&[algorithm, bits(self.key.public_key().as_ref())])
    }

    fn sign(&self, content: Vec<u8>) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &content, &mut signature).unwrap();
        sequence(&[content, pss(), bits(&signature)])
    }

    fn certify(&self, subject: &str, spki: Vec<u8>, extensions: &[Vec<u8>]) -> Vec<u8> {
        let validity = sequence(&[time("200101000000Z"), time("400101000000Z")]);
        let version = der(0xa0, &der(2, &[2]));
        let extensions = der(0xa3, &sequence(extensions));
        self.sign(sequence(&[
            version,
            der(2, &[1]),
            pss(),
            name(&self.common),
            validity,
            name(subject),
            spki,
            extensions,
        ]))
    }
}

/// AMD, and one key that signs reports.
pub struct Amd {
    kind: KeyKind,
    ark: Vec<u8>,
    ask: Vec<u8>,
    vek: Vec<u8>,
    crl: Vec<u8>,
    key: EcdsaKeyPair,
}

impl Amd {
    /// A processor's (VCEK) or a cloud's (VLEK), Milan.
    pub fn new(kind: KeyKind) -> Self {
        let ca =
            [extension(oid("551d13"), &sequence(&[der(1, &[0xff])])), extension(oid("551d0f"), &der(3, &[1, 0x06]))];
        let root = Authority::new("ARK-Milan".into());
        let issuer = match kind {
            KeyKind::Vcek => "SEV-Milan",
            KeyKind::Vlek => "SEV-VLEK-Milan",
        };
        let intermediate = Authority::new(issuer.into());
        let ark = root.certify("ARK-Milan", root.spki(), &ca);
        let ask = root.certify(issuer, intermediate.spki(), &ca);
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let p384 = sequence(&[oid("2a8648ce3d0201"), oid("2b81040022")]);
        let spki = sequence(&[p384, bits(key.public_key().as_ref())]);
        let whose = match kind {
            KeyKind::Vcek => amd(&[4], &CHIP),
            KeyKind::Vlek => amd(&[5], &der(22, CSP.as_bytes())),
        };
        let claims = [
            amd(&[2], &der(22, b"Milan-B0")),
            amd(&[3, 1], &[2, 1, 4]),
            amd(&[3, 2], &[2, 1, 0]),
            amd(&[3, 3], &[2, 1, 24]),
            amd(&[3, 8], &[2, 2, 0, 219]),
            whose,
        ];
        let vek = intermediate.certify(&format!("SEV-{kind}"), spki, &claims);
        let crl = root.sign(sequence(&[
            der(2, &[1]),
            pss(),
            name("ARK-Milan"),
            time("260101000000Z"),
            time("270101000000Z"),
        ]));
        Self { kind, ark, ask, vek, crl, key }
    }

    /// The root as the only anchor.
    pub fn anchors(&self) -> Anchors {
        Anchors::new([(Product::Milan, self.ark.as_slice())]).unwrap()
    }

    /// Certificate of the key that signs reports.
    pub fn vek(&self) -> Vec<u8> {
        self.vek.clone()
    }

    /// Certificate of its issuer.
    pub fn intermediate(&self) -> Vec<u8> {
        self.ask.clone()
    }

    /// The root's list, which revokes nothing.
    pub fn crl(&self) -> Vec<u8> {
        self.crl.clone()
    }

    /// The processor and TCB of a report, as a cache names them.
    pub fn names() -> (String, String) {
        (hex::encode(CHIP), hex::encode(RAW_TCB))
    }

    /// The host's table with both certificates (AMD document 56421, 4.1.8.1).
    pub fn table(&self) -> Vec<u8> {
        let vek = match self.kind {
            KeyKind::Vcek => 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128,
            KeyKind::Vlek => 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1,
        };
        let entries = [(vek, &self.vek), (0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782, &self.ask)];
        let (mut rows, mut bodies) = (Vec::new(), Vec::new());
        for (guid, body) in entries {
            let number = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
            rows.extend(guid.to_be_bytes());
            rows.extend(number(72 + bodies.len()));
            rows.extend(number(body.len()));
            bodies.extend(body);
        }
        [rows, vec![0; 24], bodies].concat()
    }

    /// A good report, about this.
    pub fn report(&self, data: &[u8; 64]) -> Vec<u8> {
        let mut report = vec![0; 1184];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[3]);
        put(8, &(1_u64 << 17).to_le_bytes());
        put(52, &[1]);
        put(64, &ALIAS_CHECK_COMPLETE.to_le_bytes());
        if self.kind == KeyKind::Vlek {
            put(72, &[1 << 2]);
        } else {
            put(416, &CHIP);
        }
        put(80, data);
        put(144, &MEASUREMENT);
        put(352, &[0xff; 32]);
        for at in [56, 384, 480, 496] {
            put(at, &RAW_TCB);
        }
        // Family 25, model 1: Milan.
        put(392, &[0x19, 1, 1]);
        self.sign(&mut report);
        report
    }

    /// Signs a report again that was changed.
    pub fn sign(&self, report: &mut [u8]) {
        let signature = self.key.sign(&SystemRandom::new(), &report[..SIGNED]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        for (at, number) in [(SIGNED, r), (SIGNED + 72, s)] {
            let little: Vec<_> = number.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&little);
        }
    }
}
