//! TD quotes, version 4 and 5 (Intel TDX DCAP Quoting Library API, appendix A.3 and A.4): bytes to members, nothing judged.

use super::{
    bytes::{Hex, Measurement, Reader, Short},
    clause,
};

/// Greatest quote, bytes: genuine ones are 5 to 8 KB, the PCK chain is most of it.
pub const MAX_BYTES: usize = 32 * 1024;
/// Header, bytes.
const HEADER: usize = 48;
/// `TEE_TYPE` of TDX.
const TEE_TDX: u32 = 0x81;
/// Attestation key type: ECDSA-256-with-P-256 curve, the only one Intel's quoting enclave makes for TDX.
const KEY_ECDSA_P256: u16 = 2;
/// QE vendor identifier of Intel.
const VENDOR_INTEL: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
/// Bodies of version 5: type and size in bytes. Type 1 is an SGX enclave.
const BODY_TD_1_0: (u16, u32) = (2, 584);
const BODY_TD_1_5: (u16, u32) = (3, 648);
const BODY_TD_1_5_EX: (u16, u32) = (4, 885);
/// Certification data type of the outer structure: QE report certification data.
const CERTIFICATION_QE_REPORT: u16 = 6;
/// Certification data type: the PCK certificate chain as PEM.
pub const CERTIFICATION_PCK_CHAIN: u16 = 5;

/// Why bytes aren't a TD quote.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Version 5 only.
    #[error("body of type {kind} and {size} bytes isn't one of a trust domain")]
    Body {
        /// Its type.
        kind: u16,
        /// Its size as stated, bytes.
        size: u32,
    },
    /// The part about the quoting enclave isn't where it must be.
    #[error("outer certification data is of type {0} instead of 6")]
    CertificationType(u16),
    /// Not ECDSA P-256.
    #[error("attestation key type {0} instead of 2 (ECDSA P-256)")]
    KeyType(u16),
    /// A part is longer than what it holds.
    #[error("{0} is longer than its members")]
    Long(&'static str),
    /// It ends inside a part.
    #[error("ends in {0}")]
    Short(&'static str),
    /// More than [`MAX_BYTES`].
    #[error("{0} bytes are more than a quote can have")]
    Size(usize),
    /// Another TEE, for example an SGX enclave.
    #[error("TEE type {0:#x} instead of 0x81 (TDX)")]
    TeeType(u32),
    /// Not Intel's quoting enclave.
    #[error("made by the quoting enclave of vendor {0}")]
    Vendor(Hex<16>),
    /// Neither 4 nor 5.
    #[error("version {0} instead of 4 or 5")]
    Version(u16),
}

impl Error {
    /// The clause that doesn't hold.
    #[must_use]
    pub fn clause(&self) -> &'static str {
        match self {
            Self::KeyType(_) => clause::QUOTE_KEY_TYPE,
            Self::TeeType(_) => clause::QUOTE_TEE_TYPE,
            Self::Vendor(_) => clause::QUOTE_VENDOR,
            Self::Version(_) => clause::QUOTE_VERSION,
            Self::Body { .. } | Self::CertificationType(_) | Self::Long(_) | Self::Short(_) | Self::Size(_) => {
                clause::QUOTE_STRUCTURE
            }
        }
    }
}

impl From<Short> for Error {
    fn from(Short(what): Short) -> Self {
        Self::Short(what)
    }
}

/// A quote as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote<'a> {
    /// 4 or 5.
    pub version: u16,
    /// What it says about the trust domain.
    pub td: TdReport,
    /// The bytes the attestation key signed: header and body.
    pub signed: &'a [u8],
    /// Signature over them, `r || s`.
    pub signature: &'a [u8; 64],
    /// The attestation key, `x || y` on P-256.
    pub attestation_key: &'a [u8; 64],
    /// The quoting enclave's report about that key, as signed.
    pub qe_report: &'a [u8; 384],
    /// The platform's signature over the report, `r || s`.
    pub qe_report_signature: &'a [u8; 64],
    /// What the quoting enclave hashed together with the key.
    pub qe_auth_data: &'a [u8],
    /// Type of the certification data.
    pub certification_kind: u16,
    /// Certification data: with type 5 the PCK certificate chain, PEM.
    pub certification_data: &'a [u8],
    /// Length without what follows the signature data, bytes. Attesters hand over the whole buffer of the driver, so
    /// bytes after it are common; nothing looks at them.
    pub length: usize,
}

impl<'a> Quote<'a> {
    /// Parses a quote. Total: refuses, never panics, and never reads past a stated length.
    ///
    /// # Errors
    /// When it isn't one of a trust domain, or a length disagrees with what it holds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Size(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let version = header(&mut reader)?;
        let (kind, size) = match version {
            4 => BODY_TD_1_0,
            _ => (reader.u16("body type")?, reader.u32("body size")?),
        };
        if ![BODY_TD_1_0, BODY_TD_1_5, BODY_TD_1_5_EX].contains(&(kind, size)) {
            return Err(Error::Body { kind, size });
        }
        let body = reader.take(usize::try_from(size).map_err(|_| Error::Body { kind, size })?, "body")?;
        let td = TdReport::parse(body)?;
        let signed = before(bytes, &reader);
        let mut data = Reader(reader.part32("signature data")?);
        let length = before(bytes, &reader).len();

        let signature = fixed(&mut data, "signature")?;
        let attestation_key = fixed(&mut data, "attestation key")?;
        let outer = data.u16("type of the certification data")?;
        if outer != CERTIFICATION_QE_REPORT {
            return Err(Error::CertificationType(outer));
        }
        let mut qe = Reader(data.part32("certification data")?);
        end(data, "signature data")?;
        let qe_report = fixed(&mut qe, "QE report")?;
        let qe_report_signature = fixed(&mut qe, "signature of the QE report")?;
        let qe_auth_data = qe.part16("QE authentication data")?;
        let certification_kind = qe.u16("type of the PCK certification data")?;
        let certification_data = qe.part32("PCK certification data")?;
        end(qe, "certification data")?;
        Ok(Self {
            version,
            td,
            signed,
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            certification_kind,
            certification_data,
            length,
        })
    }
}

/// Reads the header; gives the version.
fn header(reader: &mut Reader<'_>) -> Result<u16, Error> {
    let mut header = Reader(reader.take(HEADER, "header")?);
    let version = header.u16("version")?;
    let key_type = header.u16("attestation key type")?;
    let tee_type = header.u32("TEE type")?;
    // Security versions of QE and PCE as the host tells them: the signed ones are in the QE report and the PCK certificate.
    header.take(4, "SVNs")?;
    let vendor = header.array("QE vendor")?;
    if tee_type != TEE_TDX {
        return Err(Error::TeeType(tee_type));
    }
    if version != 4 && version != 5 {
        return Err(Error::Version(version));
    }
    if key_type != KEY_ECDSA_P256 {
        return Err(Error::KeyType(key_type));
    }
    if vendor != VENDOR_INTEL {
        return Err(Error::Vendor(Hex(vendor)));
    }
    Ok(version)
}

fn fixed<'a, const N: usize>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a [u8; N], Error> {
    reader.take(N, what)?.try_into().map_err(|_| Error::Short(what))
}

fn end(reader: Reader<'_>, what: &'static str) -> Result<(), Error> {
    if reader.0.is_empty() { Ok(()) } else { Err(Error::Long(what)) }
}

/// What a reader has read of `bytes`.
fn before<'a>(bytes: &'a [u8], reader: &Reader<'_>) -> &'a [u8] {
    bytes.get(..bytes.len() - reader.0.len()).unwrap_or_default()
}

/// What a quote says about a trust domain: `TDREPORT` as the quoting enclave copies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// `TEE_TCB_SVN`: security versions of the TDX module and what loads it, when the trust domain started.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mrseam: Measurement,
    /// Signer of the TDX module: zero is Intel.
    pub mrsignerseam: Measurement,
    /// Attributes of the TDX module.
    pub seam_attributes: Hex<8>,
    /// Attributes of the trust domain, see [`attribute`].
    pub attributes: u64,
    /// Extended features the trust domain may use.
    pub xfam: u64,
    /// Measurement of its initial contents.
    pub mrtd: Measurement,
    /// Configuration the host gave it; not measured by the module, only reported.
    pub mrconfigid: Measurement,
    /// Owner, as the host says.
    pub mrowner: Measurement,
    /// Owner's configuration, as the host says.
    pub mrownerconfig: Measurement,
    /// Run-time measurement registers.
    pub rtmr: [Measurement; 4],
    /// What the trust domain wanted to have attested.
    pub report_data: Hex<64>,
    /// TD 1.5 and later.
    pub v1_5: Option<TdReport15>,
}

/// What TD 1.5 adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport15 {
    /// `TEE_TCB_SVN_2`: security versions as they are now; differs after an update that preserved the trust domain.
    pub tee_tcb_svn_2: [u8; 16],
    /// Hash of the service TDs, for example a migration TD; zero when there is none.
    pub mrservicetd: Measurement,
    /// Body type 4.
    pub extended: Option<TdReportEx>,
}

/// What body type 4 adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReportEx {
    /// 0, or the number of the L2 VM.
    pub vm_id: u8,
    /// Unique identifier of the trust domain.
    pub td_id: Hex<32>,
    /// Hash of the information about devices.
    pub dev_info: Measurement,
    /// Service TDs when the trust domain was made.
    pub init_servtd: ServiceTd,
    /// `CPUSVN`, `TEE_TCB_SVN` and model of the platform it was made on.
    pub init_platform: Hex<44>,
    /// Service TDs now.
    pub current_servtd: ServiceTd,
}

/// Service TDs bound to a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTd {
    /// `SERVTD_HASH`.
    pub hash: Measurement,
    /// Attributes of the service TD.
    pub attributes: Hex<8>,
}

impl TdReport {
    /// Parses a body; what it holds follows from its length, which the caller checked.
    fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(body);
        let mut report = Self {
            tee_tcb_svn: reader.array("TEE_TCB_SVN")?,
            mrseam: reader.hex("MRSEAM")?,
            mrsignerseam: reader.hex("MRSIGNERSEAM")?,
            seam_attributes: reader.hex("SEAMATTRIBUTES")?,
            attributes: reader.u64("TDATTRIBUTES")?,
            xfam: reader.u64("XFAM")?,
            mrtd: reader.hex("MRTD")?,
            mrconfigid: reader.hex("MRCONFIGID")?,
            mrowner: reader.hex("MROWNER")?,
            mrownerconfig: reader.hex("MROWNERCONFIG")?,
            rtmr: [reader.hex("RTMR0")?, reader.hex("RTMR1")?, reader.hex("RTMR2")?, reader.hex("RTMR3")?],
            report_data: reader.hex("REPORTDATA")?,
            v1_5: None,
        };
        if !reader.0.is_empty() {
            report.v1_5 = Some(TdReport15 {
                tee_tcb_svn_2: reader.array("TEE_TCB_SVN_2")?,
                mrservicetd: reader.hex("MRSERVICETD")?,
                extended: if reader.0.is_empty() { None } else { Some(TdReportEx::parse(&mut reader)?) },
            });
        }
        end(reader, "body")?;
        Ok(report)
    }

    /// Whether a bit of [`attribute`] is set.
    #[must_use]
    pub fn has(&self, attribute: u64) -> bool {
        self.attributes & attribute != 0
    }
}

impl TdReportEx {
    /// Parses what follows TD 1.5 in body type 4 (`sgx_report2_body_v1_5_ex_t`, Intel's `sgx_quote_5.h`).
    fn parse(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            vm_id: reader.u8("VM id")?,
            td_id: reader.hex("TD id")?,
            dev_info: reader.hex("device information")?,
            init_servtd: ServiceTd::parse(reader)?,
            init_platform: reader.hex("initial platform")?,
            current_servtd: ServiceTd::parse(reader)?,
        })
    }
}

impl ServiceTd {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { hash: reader.hex("SERVTD_HASH")?, attributes: reader.hex("service TD's attributes")? })
    }
}

/// Bits of `TDATTRIBUTES` (Intel TDX Module ABI Reference Specification, "TD attributes").
pub mod attribute {
    /// The host can read and change the trust domain.
    pub const DEBUG: u64 = 1;
    /// `HGS_PLUS_PROF`, `PERF_PROF` and `PMT_PROF`: the host can profile the trust domain.
    pub const PROFILING: u64 = 0b111 << 4;
    /// The guest gets no `#VE` for pages the host took away.
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
    /// A migration TD can move it to another platform.
    pub const MIGRATABLE: u64 = 1 << 29;
    /// Supervisor protection keys.
    pub const PKS: u64 = 1 << 30;
    /// Key Locker.
    pub const KEY_LOCKER: u64 = 1 << 31;
    /// Performance monitoring.
    pub const PERFMON: u64 = 1 << 63;
    /// All that this verifier knows the meaning of. Later ones (for example `SERVTD_EXT`, `TPA`) let others take part
    /// in the trust domain and are refused until it does.
    pub const KNOWN: u64 = DEBUG | PROFILING | SEPT_VE_DISABLE | MIGRATABLE | PKS | KEY_LOCKER | PERFMON;
}
