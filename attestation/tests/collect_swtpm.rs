//! What a machine of a cloud shows, from a real (software) TPM that was given what each cloud puts into its own: keys,
//! certificates and reports in NV memory. SIMULATED are the processor, the paravisor and AWS's command.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers are tests")]

mod simulated;
#[path = "../../tests/src/swtpm.rs"]
#[allow(dead_code, reason = "shared with crate tests, which uses all of it")]
mod swtpm;

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use constellation_attestation::{
    azure::hcl,
    bytes::Bytes,
    collect::{
        AttestationKey, Error, Tpm,
        machine::{self, BoxError, Endorsement, Quoted, Service},
        nitro::{self, NitroTpm},
        report::{self, Attested, Provider, Reporter},
        transport::{self, Wire, send},
    },
    credential::make_credential,
    guest::{commands::Buffer, nsm::Request, thim::Certificates, wire},
    machine::{report_data, tpm_nonce},
    reference::Requirement,
    result::Checks,
    session::Attester as _,
    tpm::{
        Hash,
        public::{Key, Public},
        quote::{self, Claim, Values},
        signature::Signature,
    },
};
use swtpm::Swtpm;
use tss_esapi::{
    Context, TctiNameConf,
    handles::{PersistentTpmHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        dynamic_handles::Persistent,
        ecc::EccCurve,
        resource_handles::{Hierarchy, Provision},
        session_handles::AuthSession,
    },
    structures::{
        EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public as Template, PublicBuffer, PublicBuilder,
        PublicEccParametersBuilder, SymmetricDefinitionObject,
    },
    traits::Marshall as _,
};

const BINDING: [u8; 32] = [7; 32];

/// A processor that says what it was asked: SIMULATED.
struct Processor;

impl Reporter for Processor {
    fn attest(&mut self, data: &[u8; 64]) -> Result<Attested, report::Error> {
        Ok(Attested { provider: Provider::Snp, report: [b"simulated".as_slice(), data].concat(), certificates: vec![] })
    }
}

/// A processor that gives nothing.
struct Broken;

impl Reporter for Broken {
    fn attest(&mut self, _: &[u8; 64]) -> Result<Attested, report::Error> {
        Err(report::Error::Conflict)
    }
}

/// Google's template: another unique field than our own key's.
fn googles_template() -> Template {
    let [x, y] = [vec![1; 32], vec![2; 32]].map(|part| part.try_into().unwrap());
    ecc_template(EccPoint::new(x, y))
}

/// Restricted signing, with this unique field.
fn ecc_template(unique: EccPoint) -> Template {
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()
        .unwrap();
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(simulated::attributes())
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(unique)
        .build()
        .unwrap()
}

/// `TPM2B_PUBLIC` of our attestation key as another implementation makes it.
fn attestation_key(tcti: &str) -> Vec<u8> {
    let template = ecc_template(EccPoint::default());
    let mut context = Context::new(tcti.parse::<TctiNameConf>().unwrap()).unwrap();
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            let made = context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)?;
            PublicBuffer::try_from(made.out_public)?.marshall()
        })
        .unwrap()
}

/// Takes the endorsement key away that the TPM's maker left in it.
fn forget_endorsement_key(tcti: &str) {
    let place = PersistentTpmHandle::new(0x8101_0001).unwrap();
    let mut context = Context::new(tcti.parse::<TctiNameConf>().unwrap()).unwrap();
    let handle = context.tr_from_tpm_public(TpmHandle::Persistent(place)).unwrap();
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.evict_control(Provision::Owner, handle, Persistent::Persistent(place))
        })
        .unwrap();
}

#[test]
fn keys_are_those_of_the_maker_and_of_another_implementation() {
    let swtpm = Swtpm::start().unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let (certificate, endorsed) = tpm.endorsement().unwrap();
    assert_eq!(tpm.ak_public(), attestation_key(&swtpm.tcti()));
    drop(tpm);
    forget_endorsement_key(&swtpm.tcti());
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    assert_eq!(tpm.endorsement().unwrap(), (certificate, endorsed.clone()), "the same key, from its template");
    // It is used like the one before, as often as there are conversations: no session is left in the TPM.
    let secret = [9; 32];
    let (credential, encrypted) = make_credential(&endorsed, &tpm.ak_public(), &secret).unwrap();
    for _ in 0..10 {
        assert_eq!(tpm.activate(&credential, &encrypted).unwrap(), secret);
        assert!(tpm.activate(&encrypted, &credential).is_err(), "one that was made for nobody");
    }
}

/// The quote is by this key, about this nonce, of these values.
fn assert_quotes(quoted: &Quoted, key: &Key, nonce: [u8; 32]) {
    let signature = Signature::parse(&quoted.signature).unwrap();
    let numbers: Vec<u8> = (0..16).collect();
    let values = Values::cut(Hash::Sha256, &numbers, &quoted.pcrs).unwrap();
    let check = |nonce: [u8; 32]| {
        let mut checks = Checks::default();
        let claim = Claim {
            attest: &quoted.attest,
            signature: &signature,
            key,
            values: &values,
            nonce: &Requirement::Exact(Bytes(nonce.to_vec())),
        };
        quote::check(&claim, &mut checks);
        checks.accepted()
    };
    assert!(check(nonce));
    assert!(!check([0; 32]));
}

#[test]
fn a_machine_of_google_shows_its_certified_key_and_report_and_quote_name_each_other() {
    let swtpm = Swtpm::start().unwrap();
    assert!(matches!(Tpm::open_with(&swtpm.tcti(), AttestationKey::Google), Err(Error::NoIndex(0x01c1_0002))));
    let certificate = rcgen::generate_simple_self_signed(vec!["simulated".into()]).unwrap().cert.der().to_vec();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let own = tpm.ak_public();
    tpm.write_nv(0x01c1_0002, &[certificate.as_slice(), &[0; 100]].concat()).unwrap();
    tpm.write_nv(0x01c1_0003, &[googles_template().marshall().unwrap(), vec![0; 20]].concat()).unwrap();
    drop(tpm);
    let mut tpm = Tpm::open_with(&swtpm.tcti(), AttestationKey::Google).unwrap();
    assert_ne!(tpm.ak_public(), own);
    let public = Public::parse(&tpm.ak_public()).unwrap();
    assert!(public.is_attestation_key());
    let shown = machine::google(&mut tpm, Some(&mut Processor), &BINDING).unwrap();
    assert_eq!(shown.certificate, certificate, "without what pads the index");
    let report = shown.report.unwrap();
    assert_eq!(report.report[9..], report_data(&BINDING, &public.key.to_bytes()));
    assert_quotes(&shown.quote, &public.key, tpm_nonce(&BINDING, &report.report));
    assert!(matches!(machine::google(&mut tpm, Some(&mut Broken), &BINDING), Err(machine::Error::Report(_))));
    let alone = machine::google(&mut tpm, None, &BINDING).unwrap();
    assert_quotes(&alone.quote, &public.key, BINDING);
}

/// Azure's services: SIMULATED.
struct Services;

impl Service for Services {
    fn certificates(&mut self) -> Result<Certificates, BoxError> {
        Ok(Certificates { vcek: b"vcek".to_vec(), ask: b"ask".to_vec() })
    }

    fn quote(&mut self, _: &[u8]) -> Result<Vec<u8>, BoxError> {
        Err("a machine with SEV-SNP has no quote".into())
    }
}

#[test]
fn a_machine_of_azure_shows_a_report_about_this_conversation_and_never_an_older_one() {
    let swtpm = Swtpm::start().unwrap();
    assert!(Tpm::open_with(&swtpm.tcti(), AttestationKey::Azure).is_err(), "a TPM that is no paravisor's");
    simulated::make_paravisor_key(&swtpm.tcti());
    let mut tpm = Tpm::open_with(&swtpm.tcti(), AttestationKey::Azure).unwrap();
    let key = Public::parse(&tpm.ak_public()).unwrap().key;
    let data = report_data(&BINDING, &key.to_bytes());
    let report = simulated::hcl_report(simulated::SNP, &key, &data);
    tpm.write_nv(0x0140_0001, &report).unwrap();
    let shown = machine::azure(&mut tpm, &mut Services, &BINDING).unwrap();
    assert_eq!(tpm.read_nv(0x0140_0002).unwrap(), data, "what the paravisor is asked to say");
    assert_eq!(shown.hcl, report);
    assert!(matches!(shown.endorsement, Endorsement::Snp(_)));
    let runtime = hcl::Report::parse(&shown.hcl).unwrap().runtime().unwrap();
    assert_eq!(runtime.key, key);
    assert_quotes(&shown.quote, &runtime.key, tpm_nonce(&BINDING, &shown.hcl));
    let older = machine::azure(&mut tpm, &mut Services, &[8; 32]);
    assert!(matches!(older, Err(machine::Error::Tpm(Error::Unexpected("a new report of the paravisor")))));
}

/// The software TPM, with AWS's command before it: SIMULATED. It reads the request and leaves an answer by NV commands of
/// its own, with the password of the command.
struct Nitro {
    stream: TcpStream,
    answer: fn(&[u8]) -> Vec<u8>,
}

impl Nitro {
    fn connect(swtpm: &Swtpm, answer: fn(&[u8]) -> Vec<u8>) -> Self {
        let port = swtpm.tcti().rsplit('=').next().unwrap().parse().unwrap();
        Self { stream: TcpStream::connect(("127.0.0.1", port)).unwrap(), answer }
    }

    fn raw(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(command)?;
        let mut response = vec![0; wire::HEADER];
        self.stream.read_exact(&mut response)?;
        let length = u32::from_be_bytes(response[2..6].try_into().unwrap());
        response.resize(usize::try_from(length).unwrap(), 0);
        self.stream.read_exact(&mut response[wire::HEADER..])?;
        Ok(response)
    }
}

impl Wire for Nitro {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        if command[6..10] != [0x20, 0, 0, 1] {
            return self.raw(command);
        }
        let (index, auth) = (u32::from_be_bytes(command[10..14].try_into().unwrap()), command[31..].to_vec());
        let (buffer, mut bare) = (Buffer { index, auth: &auth }, Bare(self));
        let request = send(&mut bare, &buffer.read(256, 0)).unwrap().parameters;
        let answer = (bare.0.answer)(wire::unsized_exact(&request).unwrap());
        for (number, chunk) in answer.chunks(512).enumerate() {
            send(&mut bare, &buffer.write(chunk, u16::try_from(number * 512).unwrap())).unwrap();
        }
        Ok(vec![0x80, 0x02, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }
}

/// `{"Attestation": {"document": ...}}`, where the document is the request, padded to 1500 bytes.
fn echo(request: &[u8]) -> Vec<u8> {
    let mut document = request.to_vec();
    document.resize(1500, 0);
    [b"\xa1kAttestation\xa1hdocumentY\x05\xdc".as_slice(), &document].concat()
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_machine_of_ec2_has_its_key_and_report_named_by_the_document() {
    let (keys, memory) = (Swtpm::start().unwrap(), Swtpm::start().unwrap());
    let mut tpm = Tpm::open(&keys.tcti()).unwrap();
    let mut nitro = NitroTpm::new(Nitro::connect(&memory, echo)).with_buffer(2048);
    let shown = machine::aws(&mut tpm, &mut nitro, Some(&mut Processor), &BINDING).unwrap();
    let key = Public::parse(&tpm.ak_public()).unwrap().key.to_bytes();
    let report = shown.report.unwrap();
    assert_eq!(report.report[9..], report_data(&BINDING, &key));
    assert!(holds(&shown.document, &key), "{}", hex::encode(&shown.document));
    assert!(holds(&shown.document, &tpm_nonce(&BINDING, &report.report)));
    // The buffer is gone, so the same works again.
    let alone = machine::aws(&mut tpm, &mut nitro, None, &BINDING).unwrap();
    assert!(holds(&alone.document, &BINDING) && alone.report.is_none());
}

#[test]
fn a_tpm_without_the_command_gives_no_document_and_keeps_no_buffer() {
    let swtpm = Swtpm::start().unwrap();
    let mut tpm = Nitro::connect(&swtpm, echo);
    let request = Request { user_data: None, nonce: Some(&[1; 32]), public_key: None };
    let refused = NitroTpm::new(Bare(&mut tpm)).with_buffer(2048).document(&request);
    // TPM_RC_COMMAND_CODE (part 2, 6.6.3).
    let unknown = transport::Error::Answer(wire::Error::Refused(0x143)).to_string();
    assert!(
        matches!(&refused, Err(nitro::Error::Tpm("asking for a document", error)) if error.to_string() == unknown),
        "{refused:?}"
    );
    let mut refusing = Nitro { answer: |_| b"\xa1eErroroInvalidArgument".to_vec(), ..tpm };
    let refused = NitroTpm::new(&mut refusing).with_buffer(2048).document(&request);
    assert!(matches!(refused, Err(nitro::Error::Nsm(_))), "{refused:?}");
}

/// Passes every command on.
struct Bare<'a>(&'a mut Nitro);

impl Wire for Bare<'_> {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.raw(command)
    }
}
