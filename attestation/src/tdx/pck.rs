//! What a PCK certificate says about its platform (Intel SGX PCK Certificate and CRL Profile Specification 1.5, 1.3.5).

use x509_parser::{
    asn1_rs::{Any, FromDer, Oid, Tag},
    certificate::X509Certificate,
};

use super::bytes::Hex;

/// The SGX extension, 1.2.840.113741.1.13.1, as DER. Its members are below it.
const SGX_EXTENSION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
/// Members of the extension.
const PPID: u8 = 1;
const TCB: u8 = 2;
const PCE_ID: u8 = 3;
const FMSPC: u8 = 4;
const SGX_TYPE: u8 = 5;
const PLATFORM_INSTANCE_ID: u8 = 6;
const CONFIGURATION: u8 = 7;
/// Members of the TCB beside the 16 components.
const TCB_PCE_SVN: u8 = 17;
const TCB_CPU_SVN: u8 = 18;
/// Most members of a sequence: the TCB has 18.
const MAX_MEMBERS: usize = 32;

/// A platform as Intel's PCK certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Identifier of the package, the same for all its certificates.
    pub ppid: Hex<16>,
    /// Security versions of the SGX components the certificate was issued for.
    pub components: [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub pce_svn: u16,
    /// The raw `CPUSVN`.
    pub cpu_svn: Hex<16>,
    /// Provisioning certification enclave.
    pub pce_id: Hex<2>,
    /// Family, model, stepping, platform type, customer SKU.
    pub fmspc: Hex<6>,
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// Identifier of a platform of several packages.
    pub platform_instance_id: Option<Hex<16>>,
}

/// Why an extension doesn't name a platform.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not the wanted DER.
    #[error("{0} isn't as the profile says")]
    Malformed(&'static str),
    /// A member that must be there isn't, or stands there twice.
    #[error("{0} doesn't stand there exactly once")]
    Count(&'static str),
}

impl Platform {
    /// Reads the SGX extension of a PCK certificate.
    ///
    /// # Errors
    /// As [`Platform::parse`], or when there isn't exactly one such extension.
    pub fn of(certificate: &X509Certificate<'_>) -> Result<Self, Error> {
        let mut found = certificate.extensions().iter().filter(|extension| extension.oid.as_bytes() == SGX_EXTENSION);
        match (found.next(), found.next()) {
            (Some(extension), None) => Self::parse(extension.value),
            _ => Err(Error::Count("SGX extension")),
        }
    }

    /// Parses the value of the SGX extension.
    ///
    /// # Errors
    /// When a member is missing, doubled or of another form.
    pub fn parse(extension: &[u8]) -> Result<Self, Error> {
        let members = members(extension, SGX_EXTENSION)?;
        let tcb_prefix = [SGX_EXTENSION, &[TCB]].concat();
        let tcb = sequence(one(&members, TCB, "TCB")?, "TCB").and_then(|content| entries(content, &tcb_prefix))?;
        let mut components = [0; 16];
        for (component, id) in components.iter_mut().zip(1..) {
            let svn = integer(one(&tcb, id, "TCB component")?)?;
            *component = u8::try_from(svn).map_err(|_| Error::Malformed("TCB component"))?;
        }
        let instance = members.iter().any(|(id, _)| *id == PLATFORM_INSTANCE_ID);
        if members.iter().any(|(id, _)| !(PPID..=CONFIGURATION).contains(id)) {
            return Err(Error::Malformed("member of the SGX extension"));
        }
        Ok(Self {
            ppid: octets(one(&members, PPID, "PPID")?)?,
            components,
            pce_svn: integer(one(&tcb, TCB_PCE_SVN, "PCESVN")?)?,
            cpu_svn: octets(one(&tcb, TCB_CPU_SVN, "CPUSVN")?)?,
            pce_id: octets(one(&members, PCE_ID, "PCE-ID")?)?,
            fmspc: octets(one(&members, FMSPC, "FMSPC")?)?,
            sgx_type: enumerated(one(&members, SGX_TYPE, "SGX type")?)?,
            platform_instance_id: instance
                .then(|| octets(one(&members, PLATFORM_INSTANCE_ID, "platform instance id")?))
                .transpose()?,
        })
    }
}

/// Members of a sequence of (identifier, value); gives the arc below `prefix` and the value.
fn members<'a>(der: &'a [u8], prefix: &[u8]) -> Result<Vec<(u8, Any<'a>)>, Error> {
    let (rest, any) = Any::from_der(der).map_err(|_| Error::Malformed("SGX extension"))?;
    if !rest.is_empty() {
        return Err(Error::Malformed("end of the SGX extension"));
    }
    entries(sequence(&any, "SGX extension")?, prefix)
}

fn entries<'a>(mut content: &'a [u8], prefix: &[u8]) -> Result<Vec<(u8, Any<'a>)>, Error> {
    const WHAT: &str = "member of the SGX extension";
    let mut entries = Vec::new();
    while !content.is_empty() {
        if entries.len() == MAX_MEMBERS {
            return Err(Error::Malformed("number of members"));
        }
        let (rest, entry) = Any::from_der(content).map_err(|_| Error::Malformed(WHAT))?;
        let (value, oid) = Oid::from_der(sequence(&entry, WHAT)?).map_err(|_| Error::Malformed(WHAT))?;
        let (end, value) = Any::from_der(value).map_err(|_| Error::Malformed(WHAT))?;
        let [id] = oid.as_bytes().strip_prefix(prefix).unwrap_or_default() else {
            return Err(Error::Malformed("identifier of a member"));
        };
        if !end.is_empty() {
            return Err(Error::Malformed(WHAT));
        }
        entries.push((*id, value));
        content = rest;
    }
    Ok(entries)
}

fn one<'a, 'b>(members: &'b [(u8, Any<'a>)], id: u8, what: &'static str) -> Result<&'b Any<'a>, Error> {
    let mut found = members.iter().filter(|(member, _)| *member == id);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => Ok(value),
        _ => Err(Error::Count(what)),
    }
}

fn sequence<'a>(any: &Any<'a>, what: &'static str) -> Result<&'a [u8], Error> {
    if any.tag() == Tag::Sequence { Ok(any.data) } else { Err(Error::Malformed(what)) }
}

fn octets<const N: usize>(any: &Any<'_>) -> Result<Hex<N>, Error> {
    match (any.tag(), any.data.try_into()) {
        (Tag::OctetString, Ok(bytes)) => Ok(Hex(bytes)),
        _ => Err(Error::Malformed("octet string")),
    }
}

/// A non-negative integer of at most 16 bits, in its one DER form.
fn integer(any: &Any<'_>) -> Result<u16, Error> {
    match (any.tag(), any.data) {
        (Tag::Integer, [low @ 0..=0x7f] | [0, low @ 0x80..=0xff]) => Ok(u16::from(*low)),
        (Tag::Integer, [high @ 1..=0x7f, low] | [0, high @ 0x80..=0xff, low]) => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(Error::Malformed("integer")),
    }
}

fn enumerated(any: &Any<'_>) -> Result<u8, Error> {
    match (any.tag(), any.data) {
        (Tag::Enumerated, [value]) => Ok(*value),
        _ => Err(Error::Malformed("SGX type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(der: &[u8]) -> Any<'_> {
        Any::from_der(der).unwrap().1
    }

    #[test]
    fn integers_are_of_16_bits_in_their_one_form() {
        for (der, number) in [
            (&[2, 1, 0][..], Some(0)),
            (&[2, 1, 0x7f], Some(0x7f)),
            (&[2, 2, 0, 0x80], Some(0x80)),
            (&[2, 2, 1, 0], Some(0x100)),
            (&[2, 2, 0x7f, 0xff], Some(0x7fff)),
            (&[2, 3, 0, 0x80, 1], Some(0x8001)),
            (&[2, 3, 0, 0xff, 0xff], Some(0xffff)),
            (&[2, 1, 0x80], None),
            (&[2, 2, 0, 0x7f], None),
            (&[2, 2, 0x80, 0], None),
            (&[2, 3, 0, 0x7f, 0], None),
            (&[2, 3, 1, 0, 0], None),
            (&[2, 0], None),
            (&[0x0a, 1, 3], None),
        ] {
            assert_eq!(integer(&any(der)).ok(), number, "{der:?}");
        }
    }

    #[test]
    fn an_enumeration_has_one_byte() {
        for (der, value) in [
            (&[0x0a, 1, 0][..], Some(0)),
            (&[0x0a, 1, 1], Some(1)),
            (&[0x0a, 1, 2], Some(2)),
            (&[0x0a, 2, 0, 1], None),
            (&[2, 1, 1], None),
        ] {
            assert_eq!(enumerated(&any(der)).ok(), value, "{der:?}");
        }
    }
}
