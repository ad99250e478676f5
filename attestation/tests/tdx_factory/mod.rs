//! Plays Intel: a root with its CAs, and a platform that quotes trust domains. Starts out right; a test makes one thing
//! wrong and builds.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use constellation_attestation::tdx::{Anchors, Evidence, Outcome, Policy, verify_and_appraise};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use serde_json::{Value, json};

/// 2026-11-20: the time that everything is good at.
pub const NOW: i64 = 1_795_132_800;

/// Places in a body, bytes.
pub mod place {
    pub const TEE_TCB_SVN: usize = 0;
    pub const MRSIGNERSEAM: usize = 64;
    pub const SEAM_ATTRIBUTES: usize = 112;
    pub const ATTRIBUTES: usize = 120;
    pub const MRTD: usize = 136;
    pub const TEE_TCB_SVN_2: usize = 584;
    pub const MRSERVICETD: usize = 600;
    pub const INIT_SERVICE_TD: usize = 729;
    pub const CURRENT_SERVICE_TD: usize = 829;
    /// In the QE report.
    pub const QE_MISCSELECT: usize = 16;
    pub const QE_ATTRIBUTES: usize = 48;
    pub const QE_MRSIGNER: usize = 128;
    pub const QE_PRODUCT: usize = 256;
    pub const QE_SVN: usize = 258;
    pub const QE_REPORT_DATA: usize = 320;
}

/// Who has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    PlatformCa,
    ProcessorCa,
    TcbSigner,
    Pck,
    Attestation,
    Stranger,
    /// Has a key on P-384, which Intel gives nobody.
    Large,
}

static KEYS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let mut keys: Vec<_> = (0..Who::Large as usize).map(|_| KeyPair::generate().unwrap()).collect();
    keys.push(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    keys
});
/// Certificates by what they say: one that stands in two places is the same, which a second signature would make another.
static MADE: Mutex<Option<HashMap<String, rcgen::Certificate>>> = Mutex::new(None);

fn key(who: Who) -> &'static KeyPair {
    &KEYS[who as usize]
}

/// A certificate to be made.
#[derive(Clone, Debug)]
pub struct Template {
    pub name: &'static str,
    pub key: Who,
    pub issuer: Who,
    pub serial: u8,
    pub ca: bool,
    pub years: [i32; 2],
    pub usages: Vec<KeyUsagePurpose>,
    pub extensions: Vec<CustomExtension>,
}

impl Template {
    fn new(name: &'static str, key: Who, issuer: Who, ca: bool) -> Self {
        let usages = if ca {
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
        } else {
            vec![KeyUsagePurpose::DigitalSignature]
        };
        Self { name, key, issuer, serial: key as u8 + 1, ca, years: [2020, 2049], usages, extensions: vec![] }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name);
        params.not_before = date_time_ymd(self.years[0], 1, 1);
        params.not_after = date_time_ymd(self.years[1], 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(&[self.serial]));
        params.is_ca = if self.ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages.clone_from(&self.usages);
        params.custom_extensions.clone_from(&self.extensions);
        params
    }
}

/// What a PCK certificate says about its platform.
#[derive(Clone)]
pub struct Extension {
    pub components: [u8; 16],
    pub pce_svn: u8,
    pub pce_id: [u8; 2],
    pub fmspc: [u8; 6],
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    match content.len() {
        0..0x80 => [&[tag, length[1]], content].concat(),
        _ => [&[tag, 0x82, length[0], length[1]], content].concat(),
    }
}

impl Extension {
    fn der(&self) -> Vec<u8> {
        const BASE: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
        let member = |arcs: &[u8], value: Vec<u8>| der(0x30, &[der(0x06, &[&BASE, arcs].concat()), value].concat());
        let mut tcb = Vec::new();
        for (arc, svn) in (1..).zip(self.components) {
            tcb.extend(member(&[2, arc], der(0x02, &[svn])));
        }
        tcb.extend(member(&[2, 17], der(0x02, &[self.pce_svn])));
        tcb.extend(member(&[2, 18], der(0x04, &self.components)));
        let members = [
            member(&[1], der(0x04, &[7; 16])),
            member(&[2], der(0x30, &tcb)),
            member(&[3], der(0x04, &self.pce_id)),
            member(&[4], der(0x04, &self.fmspc)),
            member(&[5], der(0x0a, &[1])),
        ];
        der(0x30, &members.concat())
    }
}

/// A revocation list to be made.
#[derive(Clone)]
pub struct List {
    pub issuer: Who,
    pub revoked: Vec<u8>,
    pub next_year: i32,
}

/// A platform, its collateral and a quote of it.
#[derive(Clone)]
pub struct Scene {
    pub root: Template,
    pub ca: Template,
    pub signer: Template,
    pub pck: Template,
    pub extension: Extension,
    pub root_crl: List,
    pub pck_crl: List,
    pub tcb_info: Value,
    pub qe_identity: Value,
    pub signed_by: Who,
    pub version: u16,
    pub kind: u16,
    pub body: Vec<u8>,
    pub qe: Vec<u8>,
    pub qe_signed_by: Who,
    pub quote_signed_by: Who,
    /// Whether the QE report is about the attestation key.
    pub bound: bool,
}

fn components(svns: &[u8]) -> Value {
    (0..16).map(|i| json!({"svn": svns.get(i).copied().unwrap_or(0)})).collect()
}

/// A platform level.
pub fn level(sgx: u8, tdx: &[u8], status: &str) -> Value {
    json!({
        "tcb": {"sgxtcbcomponents": components(&[sgx; 16]), "pcesvn": 11, "tdxtcbcomponents": components(tdx)},
        "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": status, "advisoryIDs": ["INTEL-SA-00001"],
    })
}

/// A level of a module or an enclave.
pub fn isv_level(svn: u8, status: &str) -> Value {
    json!({"tcb": {"isvsvn": svn}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": status})
}

impl Scene {
    /// A platform with nothing wrong and a quote of this version and body type.
    pub fn good(version: u16, kind: u16) -> Self {
        let size = [584, 648, 885][usize::from(kind) - 2];
        let mut body = vec![0; size];
        for svn in [place::TEE_TCB_SVN, place::TEE_TCB_SVN_2] {
            if let Some(svn) = body.get_mut(svn..svn + 3) {
                svn.copy_from_slice(&[6, 1, 3]);
            }
        }
        body[place::ATTRIBUTES + 3] = 0x10;
        body[place::MRTD] = 9;
        let mut qe = vec![0; 384];
        qe[place::QE_ATTRIBUTES] = 0x11;
        qe[place::QE_MRSIGNER..][..32].fill(0xa8);
        qe[place::QE_PRODUCT] = 2;
        qe[place::QE_SVN] = 4;
        let zero = "00".repeat(48);
        let module = json!({"mrsigner": zero, "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"});
        let mut later = module.clone();
        later["id"] = "TDX_01".into();
        later["tcbLevels"] = json!([isv_level(6, "UpToDate"), isv_level(4, "OutOfDate")]);
        Self {
            root: Template::new("Intel SGX Root CA", Who::Root, Who::Root, true),
            ca: Template::new("Intel SGX PCK Platform CA", Who::PlatformCa, Who::Root, true),
            signer: Template::new("Intel SGX TCB Signing", Who::TcbSigner, Who::Root, false),
            pck: Template::new("Intel SGX PCK Certificate", Who::Pck, Who::PlatformCa, false),
            extension: Extension {
                components: [3; 16],
                pce_svn: 11,
                pce_id: [0; 2],
                fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
            },
            root_crl: List { issuer: Who::Root, revoked: vec![], next_year: 2027 },
            pck_crl: List { issuer: Who::PlatformCa, revoked: vec![0x77], next_year: 2027 },
            tcb_info: json!({
                "id": "TDX", "version": 3, "issueDate": "2026-11-01T00:00:00Z", "nextUpdate": "2026-12-01T00:00:00Z",
                "fmspc": "B0C06F000000", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 20,
                "tdxModule": module, "tdxModuleIdentities": [later],
                "tcbLevels": [level(3, &[5, 0, 3], "UpToDate"), level(2, &[5, 0, 2], "OutOfDate")],
            }),
            qe_identity: json!({
                "id": "TD_QE", "version": 2, "issueDate": "2026-11-01T00:00:00Z", "nextUpdate": "2026-12-01T00:00:00Z",
                "tcbEvaluationDataNumber": 20, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": "A8".repeat(32), "isvprodid": 2,
                "tcbLevels": [isv_level(4, "UpToDate"), isv_level(2, "OutOfDate")],
            }),
            signed_by: Who::TcbSigner,
            version,
            kind,
            body,
            qe,
            qe_signed_by: Who::Pck,
            quote_signed_by: Who::Attestation,
            bound: true,
        }
    }

    fn template(&self, who: Who) -> Template {
        match who {
            Who::Root => self.root.clone(),
            Who::ProcessorCa => Template::new("Intel SGX PCK Processor CA", who, Who::Root, true),
            Who::Stranger => Template::new(self.ca.name, who, Who::Root, true),
            _ => self.ca.clone(),
        }
    }

    /// The certificate that a template is of.
    pub fn certificate(&self, template: &Template) -> rcgen::Certificate {
        let issuer = self.template(template.issuer);
        let make = || {
            let params = template.params();
            if template.issuer == template.key {
                return params.self_signed(key(template.key)).unwrap();
            }
            let issuer = Issuer::new(issuer.params(), key(template.issuer));
            params.signed_by(key(template.key), &issuer).unwrap()
        };
        let mut certificates = MADE.lock().unwrap();
        certificates.get_or_insert_default().entry(format!("{template:?} {}", issuer.name)).or_insert_with(make).clone()
    }

    fn list(&self, list: &List) -> String {
        let revoked = list.revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(list.next_year, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let mut issuer = self.template(list.issuer).params();
        // What the list says is up to the test; what its issuer may, the issuer's certificate says.
        issuer.key_usages.push(KeyUsagePurpose::CrlSign);
        let issuer = Issuer::new(issuer, key(list.issuer));
        hex::encode(params.signed_by(&issuer).unwrap().der())
    }

    /// The anchor that this scene's root is.
    pub fn anchors(&self) -> Anchors {
        Anchors::new([self.certificate(&self.root).der().as_ref()]).unwrap()
    }

    /// The collateral.
    pub fn collateral(&self) -> Value {
        let root = self.certificate(&self.root).pem();
        let signer = self.certificate(&self.signer).pem() + &root;
        let [tcb_info, qe_identity] = [&self.tcb_info, &self.qe_identity].map(Value::to_string);
        json!({
            "pck_crl_issuer_chain": self.certificate(&self.ca).pem() + &root,
            "root_ca_crl": self.list(&self.root_crl),
            "pck_crl": self.list(&self.pck_crl),
            "tcb_info_issuer_chain": signer,
            "tcb_info_signature": hex::encode(sign(self.signed_by, tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": signer,
            "qe_identity_signature": hex::encode(sign(self.signed_by, qe_identity.as_bytes())),
            "qe_identity": qe_identity,
        })
    }

    /// The quote.
    pub fn quote(&self) -> Vec<u8> {
        let mut pck = self.pck.clone();
        pck.extensions.push(CustomExtension::from_oid_content(&[1, 2, 840, 113_741, 1, 13, 1], self.extension.der()));
        let chain = [&pck, &self.ca, &self.root].map(|template| self.certificate(template).pem()).concat();

        let mut quote = [&self.version.to_le_bytes()[..], &[2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]].concat();
        quote.extend(hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap());
        quote.extend([0; 20]);
        if self.version == 5 {
            quote.extend(self.kind.to_le_bytes());
            quote.extend(u32::try_from(self.body.len()).unwrap().to_le_bytes());
        }
        quote.extend(&self.body);
        let signature = sign(self.quote_signed_by, &quote);
        let ak = &key(Who::Attestation).public_key_raw()[1..];

        let mut qe = self.qe.clone();
        let auth = [5; 32];
        if self.bound {
            let hash = digest(&SHA256, &[ak, &auth].concat());
            qe[place::QE_REPORT_DATA..][..32].copy_from_slice(hash.as_ref());
        }
        let inner =
            [&*qe, &sign(self.qe_signed_by, &qe), &part(2, &auth), &[5, 0], &part(4, chain.as_bytes())].concat();
        let data = [&*signature, ak, &[6, 0], &part(4, &inner)].concat();
        quote.extend(part(4, &data));
        quote
    }

    /// Verifies and appraises it as it stands.
    pub fn run(&self, policy: &Policy) -> Outcome {
        self.run_with(&self.collateral(), policy)
    }

    /// The same with collateral that was changed after it was made.
    pub fn run_with(&self, collateral: &Value, policy: &Policy) -> Outcome {
        let (quote, collateral) = (self.quote(), serde_json::to_vec(collateral).unwrap());
        let evidence = Evidence { quote: &quote, collateral: &collateral };
        // The anchor is the good root: a scene may play with another.
        let anchors = Scene::good(4, 2).anchors();
        verify_and_appraise(&evidence, &anchors, policy, Timestamp::from_second(NOW).unwrap())
    }
}

fn part(width: usize, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&length[..width], content].concat()
}

fn sign(who: Who, message: &[u8]) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key(who).serialized_der()).unwrap();
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}
