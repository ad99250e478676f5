//! A test's own AMD: root, intermediate, the key of a processor (VCEK) or of a cloud (VLEK), a revocation list, and
//! reports. SIMULATED. Starts out right; a test makes one thing of a [`Template`] wrong. Offsets are those of the report's
//! ABI (AMD document 56860, table "`ATTESTATION_REPORT`").

#![allow(clippy::unwrap_used, dead_code, reason = "a test's helpers are tests, and not every test needs all of them")]

use std::sync::LazyLock;

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA384, RSA_PSS_SHA384, RsaEncoding,
    },
};
use constellation_attestation::snp::{Anchors, KeyKind, Product, parse::platform_info::ALIAS_CHECK_COMPLETE};

/// What a good report says was launched.
pub const MEASUREMENT: [u8; 48] = [0x5a; 48];
/// Its TCB as a policy writes it.
pub const TCB: &str = "bl=4,tee=0,snp=24,ucode=219";
/// The cloud that a VLEK is of.
pub const CSP: &str = "CN=cc-us-east-1.amazonaws.com";
/// As it stands in a report of a Milan processor.
const RAW_TCB: [u8; 8] = [4, 0, 0, 0, 0, 0, 24, 219];
const CHIP: [u8; 64] = [0xc1; 64];
/// Bytes that a report's signature is over.
pub const SIGNED: usize = 672;

/// DER of this tag and content.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
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

/// Who has an RSA key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Root,
    Intermediate,
    Stranger,
    /// Has a key of 2048 bits, where all others have AMD's 4096.
    Small,
}

static KEYS: LazyLock<[RsaKeyPair; 4]> = LazyLock::new(|| {
    [KeySize::Rsa4096, KeySize::Rsa4096, KeySize::Rsa4096, KeySize::Rsa2048]
        .map(|size| RsaKeyPair::generate(size).unwrap())
});

fn key(who: Who) -> &'static RsaKeyPair {
    &KEYS[who as usize]
}

fn spki(who: Who) -> Vec<u8> {
    sequence(&[sequence(&[oid("2a864886f70d010101"), der(5, &[])]), bits(key(who).public_key().as_ref())])
}

/// How something is signed: RSA-PSS as AMD does, or PKCS #1 v1.5 with the same hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Pss,
    Pkcs1,
}

impl Scheme {
    fn identifier(self) -> Vec<u8> {
        match self {
            Self::Pss => pss(),
            Self::Pkcs1 => sequence(&[oid("2a864886f70d01010c"), der(5, &[])]),
        }
    }

    fn sign(self, who: Who, content: Vec<u8>) -> Vec<u8> {
        let encoding: &dyn RsaEncoding = match self {
            Self::Pss => &RSA_PSS_SHA384,
            Self::Pkcs1 => &RSA_PKCS1_SHA384,
        };
        let mut signature = vec![0; key(who).public_modulus_len()];
        key(who).sign(encoding, &SystemRandom::new(), &content, &mut signature).unwrap();
        sequence(&[content, self.identifier(), bits(&signature)])
    }
}

/// A certificate to be made.
#[derive(Clone)]
pub struct Certificate {
    pub name: String,
    pub issuer: String,
    pub signer: Who,
    pub scheme: Scheme,
    pub serial: u8,
    /// First and last second, as `UTCTime`.
    pub dates: [&'static str; 2],
    pub ca: bool,
}

impl Certificate {
    fn new(name: &str, issuer: &str, signer: Who, serial: u8, ca: bool) -> Self {
        let dates = ["200101000000Z", "400101000000Z"];
        Self { name: name.into(), issuer: issuer.into(), signer, scheme: Scheme::Pss, serial, dates, ca }
    }

    fn der(&self, spki: Vec<u8>, mut extensions: Vec<Vec<u8>>) -> Vec<u8> {
        if self.ca {
            extensions.push(extension(oid("551d13"), &sequence(&[der(1, &[0xff])])));
            extensions.push(extension(oid("551d0f"), &der(3, &[1, 0x06])));
        }
        let content = sequence(&[
            der(0xa0, &der(2, &[2])),
            der(2, &[self.serial]),
            self.scheme.identifier(),
            name(&self.issuer),
            sequence(&self.dates.map(time)),
            name(&self.name),
            spki,
            if extensions.is_empty() { Vec::new() } else { der(0xa3, &sequence(&extensions)) },
        ]);
        self.scheme.sign(self.signer, content)
    }
}

/// A revocation list to be made.
#[derive(Clone)]
pub struct List {
    pub issuer: String,
    pub signer: Who,
    pub scheme: Scheme,
    /// This update and, if it says so, the next one, as `UTCTime`.
    pub dates: Vec<&'static str>,
    pub revoked: Vec<u8>,
    /// Says to be for some certificates only (RFC 5280, 5.2.5).
    pub partial: bool,
}

impl List {
    fn der(&self) -> Vec<u8> {
        let entry = |serial: &u8| sequence(&[der(2, &[*serial]), time("260101000000Z")]);
        let revoked: Vec<_> = self.revoked.iter().map(entry).collect();
        let partial = sequence(&[oid("551d1c"), der(1, &[0xff]), der(4, &sequence(&[der(0x81, &[0xff])]))]);
        let mut parts = vec![der(2, &[1]), self.scheme.identifier(), name(&self.issuer)];
        parts.extend(self.dates.iter().map(|date| time(date)));
        parts.extend((!revoked.is_empty()).then(|| sequence(&revoked)));
        parts.extend(self.partial.then(|| der(0xa0, &sequence(&[partial]))));
        self.scheme.sign(self.signer, sequence(&parts))
    }
}

/// AMD, one key that signs reports, and what its certificate says.
#[derive(Clone)]
pub struct Template {
    pub product: Product,
    pub kind: KeyKind,
    pub intermediate: Certificate,
    pub intermediate_key: Who,
    pub vek: Certificate,
    /// Arc below 1.3.6.1.4.1.3704.1 to the extension's value.
    pub claims: Vec<(Vec<u8>, Vec<u8>)>,
    pub crl: List,
}

/// An INTEGER from 0 to 255, as AMD's certificates have security versions.
fn version(value: u8) -> Vec<u8> {
    if value < 0x80 { der(2, &[value]) } else { der(2, &[0, value]) }
}

impl Template {
    /// With nothing wrong.
    pub fn good(product: Product, kind: KeyKind) -> Self {
        let root = format!("ARK-{product}");
        let issuer = match kind {
            KeyKind::Vcek => format!("SEV-{product}"),
            KeyKind::Vlek => format!("SEV-VLEK-{product}"),
        };
        let tcb = raw_tcb(product);
        let (parts, called) = match product {
            Product::Milan => ([tcb[0], tcb[1], tcb[6], tcb[7]], "Milan-B0"),
            Product::Genoa => ([tcb[0], tcb[1], tcb[6], tcb[7]], "Genoa"),
            Product::Turin => ([tcb[1], tcb[2], tcb[3], tcb[7]], "Turin"),
        };
        let mut claims = vec![(vec![2], der(22, called.as_bytes()))];
        claims.extend([1, 2, 3, 8].into_iter().zip(parts).map(|(arc, part)| (vec![3, arc], version(part))));
        if product == Product::Turin {
            claims.push((vec![3, 9], version(tcb[0])));
        }
        claims.push(match kind {
            KeyKind::Vcek => (vec![4], CHIP[..product.hwid_bytes()].to_vec()),
            KeyKind::Vlek => (vec![5], der(22, CSP.as_bytes())),
        });
        Self {
            product,
            kind,
            intermediate: Certificate::new(&issuer, &root, Who::Root, 2, true),
            intermediate_key: Who::Intermediate,
            vek: Certificate::new(&format!("SEV-{kind}"), &issuer, Who::Intermediate, 0, false),
            claims,
            crl: List {
                issuer: root,
                signer: Who::Root,
                scheme: Scheme::Pss,
                dates: vec!["260101000000Z", "270101000000Z"],
                revoked: Vec::new(),
                partial: false,
            },
        }
    }

    /// What the extension of an arc says.
    pub fn claim(&mut self, arc: &[u8]) -> &mut Vec<u8> {
        &mut self.claims.iter_mut().find(|(known, _)| known == arc).unwrap().1
    }
}

/// A TCB that holds every floor, in the product's layout.
fn raw_tcb(product: Product) -> [u8; 8] {
    match product {
        Product::Milan => RAW_TCB,
        Product::Genoa => [10, 0, 0, 0, 0, 0, 23, 84],
        Product::Turin => [1, 1, 1, 4, 0, 0, 0, 81],
    }
}

/// AMD, and one key that signs reports.
pub struct Amd {
    product: Product,
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
        Self::made(&Template::good(Product::Milan, kind))
    }

    /// As the template says.
    pub fn made(template: &Template) -> Self {
        let Template { product, kind, intermediate, intermediate_key, vek, claims, crl } = template;
        let root = format!("ARK-{product}");
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let p384 = sequence(&[oid("2a8648ce3d0201"), oid("2b81040022")]);
        let point = sequence(&[p384, bits(key.public_key().as_ref())]);
        Self {
            product: *product,
            kind: *kind,
            ark: Certificate::new(&root, &root, Who::Root, 1, true).der(spki(Who::Root), Vec::new()),
            ask: intermediate.der(spki(*intermediate_key), Vec::new()),
            vek: vek.der(point, claims.iter().map(|(arc, value)| amd(arc, value)).collect()),
            crl: crl.der(),
            key,
        }
    }

    /// The root as the only anchor.
    pub fn anchors(&self) -> Anchors {
        Anchors::new([(self.product, self.ark.as_slice())]).unwrap()
    }

    /// The root.
    pub fn ark(&self) -> Vec<u8> {
        self.ark.clone()
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
        Self::table_of([&self.vek_entry(), &self.ask_entry()])
    }

    /// The row of the table that the certificate of the key that signs reports has.
    pub fn vek_entry(&self) -> (u128, Vec<u8>) {
        let guid = match self.kind {
            KeyKind::Vcek => 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128,
            KeyKind::Vlek => 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1,
        };
        (guid, self.vek.clone())
    }

    /// The row of its issuer's, whose name is the same for both kinds.
    pub fn ask_entry(&self) -> (u128, Vec<u8>) {
        (0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782, self.ask.clone())
    }

    /// A table of these rows.
    pub fn table_of<'a>(entries: impl IntoIterator<Item = &'a (u128, Vec<u8>), IntoIter: Clone>) -> Vec<u8> {
        let entries = entries.into_iter();
        let (mut rows, mut bodies) = (Vec::new(), Vec::new());
        let begin = 24 * (entries.clone().count() + 1);
        for (guid, body) in entries {
            let number = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
            rows.extend(guid.to_be_bytes());
            rows.extend(number(begin + bodies.len()));
            rows.extend(number(body.len()));
            bodies.extend(body);
        }
        [rows, vec![0; 24], bodies].concat()
    }

    /// A good report, about this.
    pub fn report(&self, data: &[u8; 64]) -> Vec<u8> {
        let mut report = self.unsigned(3, data);
        self.sign(&mut report);
        report
    }

    /// A good report of a version, about this, before it is signed.
    pub fn unsigned(&self, version: u8, data: &[u8; 64]) -> Vec<u8> {
        let mut report = vec![0; 1184];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[version]);
        put(8, &(1_u64 << 17).to_le_bytes());
        put(52, &[1]);
        put(64, &ALIAS_CHECK_COMPLETE.to_le_bytes());
        if self.kind == KeyKind::Vlek {
            put(72, &[1 << 2]);
        } else {
            put(416, &CHIP[..self.product.hwid_bytes()]);
        }
        put(80, data);
        put(144, &MEASUREMENT);
        put(352, &[0xff; 32]);
        for at in [56, 384, 480, 496] {
            put(at, &raw_tcb(self.product));
        }
        let family_and_model = match self.product {
            Product::Milan => [0x19, 0x01],
            Product::Genoa => [0x19, 0x11],
            Product::Turin => [0x1a, 0x02],
        };
        // Version 2 has no such member.
        if version > 2 {
            put(392, &family_and_model);
        }
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
