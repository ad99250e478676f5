//! The commands that a node sends to its TPM, and what their answers say.
//!
//! Source: TCG, "TPM 2.0 Library" 1.59, part 3, under each command's name; codes in part 2, 6.5.2, handles in 7.4,
//! algorithms in 6.3. [`Buffer`] is AWS's, from its `nitro-tpm-attest`.

use super::wire::{Command, Error, sized, unsized_exact};
use crate::tpm::{ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_RSA, ALG_SHA256, Hash, Reader};

/// Most bytes that one command reads or writes: every TPM takes 512 (PC Client Platform TPM Profile, `NV_BUFFER_MAX`).
pub const CHUNK: u16 = 512;
/// Most registers whose values one `TPM2_PCR_Read` gives: `TPML_DIGEST` holds eight.
pub const PCRS_PER_READ: usize = 8;

/// `TPM_RH_OWNER`, `TPM_RH_NULL` and `TPM_RH_ENDORSEMENT`.
const OWNER: u32 = 0x4000_0001;
const NULL: u32 = 0x4000_0007;
const ENDORSEMENT: u32 = 0x4000_000b;
/// `TPM_CC` of the commands.
const NV_UNDEFINE_SPACE: u32 = 0x122;
const NV_DEFINE_SPACE: u32 = 0x12a;
const CREATE_PRIMARY: u32 = 0x131;
const NV_WRITE: u32 = 0x137;
const ACTIVATE_CREDENTIAL: u32 = 0x147;
const NV_READ: u32 = 0x14e;
const POLICY_SECRET: u32 = 0x151;
const QUOTE: u32 = 0x158;
const FLUSH_CONTEXT: u32 = 0x165;
const NV_READ_PUBLIC: u32 = 0x169;
const READ_PUBLIC: u32 = 0x173;
const START_AUTH_SESSION: u32 = 0x176;
const GET_CAPABILITY: u32 = 0x17a;
const PCR_READ: u32 = 0x17e;
const PCR_EXTEND: u32 = 0x182;
/// `TPM2_VENDOR_AWS_NSM_REQUEST`.
const NSM_REQUEST: u32 = 0x2000_0001;
/// `TPM_CAP_HANDLES` (part 2, 6.12).
const HANDLES: u32 = 1;
/// `TPM_SE_POLICY` (part 2, 6.11).
const POLICY: u8 = 1;
/// Bytes of a session's nonce: the least that is allowed (11.1, `nonceCaller`).
const NONCE: usize = 16;
/// `TPM_ALG_SHA512`: 64 bytes of authorisation fit.
const ALG_SHA512: u16 = 0x000d;
/// `TPM_ALG_AES` and `TPM_ALG_CFB`.
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
/// `TPM_ECC_NIST_P256` (part 2, 6.4).
const NIST_P256: u16 = 0x0003;
/// `TPMA_NV_OWNERWRITE`, `TPMA_NV_AUTHWRITE`, `TPMA_NV_OWNERREAD` and `TPMA_NV_AUTHREAD` (part 2, 13.4).
const OWNER_WRITE: u32 = 1 << 1;
const AUTH_WRITE: u32 = 1 << 2;
const OWNER_READ: u32 = 1 << 17;
const AUTH_READ: u32 = 1 << 18;

/// Which handles there are, from this one on, and at most one of them.
#[must_use]
pub fn look_for(handle: u32) -> Command {
    Command::new(GET_CAPABILITY, &[]).with(&numbers(&[HANDLES, handle, 1]))
}

/// Whether the handle that was looked for is there.
///
/// # Errors
/// When the answer is no list of handles.
pub fn is_there(parameters: &[u8], handle: u32) -> Result<bool, Error> {
    let mut reader = Reader(parameters);
    reader.u8("moreData")?;
    if reader.u32("capability")? != HANDLES {
        return Err(Error::Form);
    }
    let count = reader.u32("count")?;
    if count > 1 {
        return Err(Error::Form);
    }
    let found = if count == 1 { Some(reader.u32("handle")?) } else { None };
    reader.end()?;
    Ok(found == Some(handle))
}

/// The public area of a key that is there.
#[must_use]
pub fn read_public(handle: u32) -> Command {
    Command::new(READ_PUBLIC, &[handle])
}

/// The key of the endorsement hierarchy that follows from a template (`TPMT_PUBLIC`): the same one each time.
#[must_use]
pub fn create_primary(template: &[u8]) -> Command {
    // No password, no data and nothing outside it; no registers that its creation would name.
    Command::new(CREATE_PRIMARY, &[ENDORSEMENT])
        .makes_handle()
        .password(&[])
        .with_sized(&[0; 4])
        .with_sized(template)
        .with_sized(&[])
        .with(&numbers(&[0]))
}

/// `TPM2B_PUBLIC`, with which the answers to [`read_public`] and [`create_primary`] begin.
///
/// # Errors
/// When it is cut off.
pub fn public(parameters: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(sized(Reader(parameters).sized("public")?))
}

/// The template of a signing key (`TPMT_PUBLIC`) with which the bytes begin; the index that holds it may be larger.
///
/// # Errors
/// When they begin with something else.
pub fn template(bytes: &[u8]) -> Result<&[u8], Error> {
    let mut reader = Reader(bytes);
    let kind = reader.u16("type")?;
    reader.u16("nameAlg")?;
    reader.u32("objectAttributes")?;
    reader.sized("authPolicy")?;
    if reader.u16("symmetric")? != ALG_NULL {
        reader.u32("symmetric.keyBits and mode")?;
    }
    if reader.u16("scheme")? != ALG_NULL {
        reader.u16("scheme.hash")?;
    }
    match kind {
        ALG_ECC => {
            reader.u16("curveID")?;
            if reader.u16("kdf")? != ALG_NULL {
                reader.u16("kdf.hash")?;
            }
            reader.sized("x")?;
            reader.sized("y")?;
        }
        ALG_RSA => {
            reader.u16("keyBits")?;
            reader.u32("exponent")?;
            reader.sized("modulus")?;
        }
        _ => return Err(Error::Form),
    }
    bytes.get(..bytes.len() - reader.0.len()).ok_or(Error::Form)
}

/// Whether a `TPM2B_PUBLIC` is of an endorsement key that follows from [`endorsement_template`], or may be.
#[must_use]
pub fn is_endorsement_key(public: &[u8]) -> bool {
    let (template, size) = (endorsement_template(), size_of::<u16>());
    let unique = sized(&[0; 256]).len();
    public.get(size..size + template.len() - unique) == template.get(..template.len() - unique)
}

/// Of an RSA-2048 endorsement key: template L-1 (TCG, "EK Credential Profile" 2.5, B.3.3), whose policy is the one that
/// [`policy_secret`] fulfils.
#[must_use]
pub fn endorsement_template() -> Vec<u8> {
    /// `PolicyA` of the same profile, B.6.2.
    const POLICY_A: [u8; 32] = [
        0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52,
        0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
    ];
    /// Fixed to the TPM and its parent, made inside, used by its policy alone, restricted, for decryption.
    const ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16 | 1 << 17;
    let mut template = shorts(&[ALG_RSA, ALG_SHA256]);
    template.extend(numbers(&[ATTRIBUTES]));
    template.extend(sized(&POLICY_A));
    template.extend(shorts(&[ALG_AES, 128, ALG_CFB, ALG_NULL, 2048]));
    template.extend(numbers(&[0]));
    template.extend(sized(&[0; 256]));
    template
}

/// Of our attestation key, P-256, which signs only what the TPM itself made. A constant, so that a TPM has the same key
/// after each reboot.
#[must_use]
pub fn attestation_template() -> Vec<u8> {
    /// Fixed to the TPM and its parent, made inside, used by its (empty) password, not part of the dictionary attack
    /// protection, restricted, for signing.
    const ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18;
    let mut template = shorts(&[ALG_ECC, ALG_SHA256]);
    template.extend(numbers(&[ATTRIBUTES]));
    template.extend(sized(&[]));
    template.extend(shorts(&[ALG_NULL, ALG_ECDSA, ALG_SHA256, NIST_P256, ALG_NULL]));
    template.extend([sized(&[]), sized(&[])].concat());
    template
}

/// Ends what a handle stands for: a key that was made, or a session.
#[must_use]
pub fn flush(handle: u32) -> Command {
    Command::new(FLUSH_CONTEXT, &[]).with(&numbers(&[handle]))
}

/// Extends a register by these digests, one for each bank.
#[must_use]
pub fn extend(register: u32, digests: &[(Hash, &[u8])]) -> Command {
    let count = u32::try_from(digests.len()).unwrap_or_default();
    let extend = Command::new(PCR_EXTEND, &[register]).password(&[]).with(&numbers(&[count]));
    digests.iter().fold(extend, |extend, (hash, digest)| extend.with(&shorts(&[hash.id()])).with(digest))
}

/// The values of these registers of a bank, [`PCRS_PER_READ`] at most.
#[must_use]
pub fn read_registers(bank: Hash, registers: &[u8]) -> Command {
    Command::new(PCR_READ, &[]).with(&selection(bank, registers))
}

/// The values that were asked for, one after the other; nothing where the TPM hasn't that bank.
///
/// # Errors
/// When the answer has another form.
pub fn registers(parameters: &[u8], bank: Hash, asked: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mut reader = Reader(parameters);
    reader.u32("pcrUpdateCounter")?;
    let wanted = selection(bank, asked);
    // A TPM without the bank answers with nothing and no error.
    if reader.0.strip_prefix(wanted.as_slice()).is_none() {
        return Ok(None);
    }
    reader.take(wanted.len(), "pcrSelectionOut")?;
    if usize::try_from(reader.u32("count")?).ok() != Some(asked.len()) {
        return Ok(None);
    }
    let mut values = Vec::with_capacity(asked.len() * bank.size());
    for _ in asked {
        values.extend_from_slice(reader.sized("digest")?);
    }
    reader.end()?;
    Ok((values.len() == asked.len() * bank.size()).then_some(values))
}

/// A quote of these registers by a key with an empty password, in the key's own scheme.
#[must_use]
pub fn quote(key: u32, data: &[u8], bank: Hash, registers: &[u8]) -> Command {
    Command::new(QUOTE, &[key])
        .password(&[])
        .with_sized(data)
        .with(&shorts(&[ALG_NULL]))
        .with(&selection(bank, registers))
}

/// `TPMS_ATTEST` and `TPMT_SIGNATURE` of a quote.
///
/// # Errors
/// When the first is cut off.
pub fn quoted(parameters: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut reader = Reader(parameters);
    let attest = reader.sized("quoted")?.to_vec();
    Ok((attest, reader.0.to_vec()))
}

/// A policy session without a key of its own. Its nonce goes into nothing, for no answer is authenticated.
#[must_use]
pub fn start_policy() -> Command {
    Command::new(START_AUTH_SESSION, &[NULL, NULL])
        .makes_handle()
        .with_sized(&[0; NONCE])
        .with_sized(&[])
        .with(&[POLICY])
        .with(&shorts(&[ALG_NULL, ALG_SHA256]))
}

/// Tells a policy session that the endorsement hierarchy's password, which is empty, is known.
#[must_use]
pub fn policy_secret(session: u32) -> Command {
    let policy = Command::new(POLICY_SECRET, &[ENDORSEMENT, session]).password(&[]);
    policy.with_sized(&[]).with_sized(&[]).with_sized(&[]).with(&numbers(&[0]))
}

/// Opens a credential (`TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`) that was made for a key beside the endorsement key.
///
/// # Errors
/// When either isn't exactly one.
pub fn activate_credential(
    key: u32,
    endorsement_key: u32,
    session: u32,
    credential: &[u8],
    secret: &[u8],
) -> Result<Command, Error> {
    let (credential, secret) = (unsized_exact(credential)?, unsized_exact(secret)?);
    let activate = Command::new(ACTIVATE_CREDENTIAL, &[key, endorsement_key]).password(&[]).policy(session);
    Ok(activate.with_sized(credential).with_sized(secret))
}

/// The public area of an NV index.
#[must_use]
pub fn read_index(index: u32) -> Command {
    Command::new(NV_READ_PUBLIC, &[index])
}

/// How many bytes an index holds, from the answer to [`read_index`].
///
/// # Errors
/// When the answer has another form.
pub fn index_size(parameters: &[u8]) -> Result<u16, Error> {
    let mut public = Reader(Reader(parameters).sized("nvPublic")?);
    public.u32("nvIndex")?;
    public.u16("nameAlg")?;
    public.u32("attributes")?;
    public.sized("authPolicy")?;
    let size = public.u16("dataSize")?;
    public.end()?;
    Ok(size)
}

/// An NV index that is read and written by the owner's authorisation, which is empty.
#[derive(Clone, Copy)]
pub struct Index(pub u32);

impl Index {
    /// `TPM2_NV_DefineSpace` of so many bytes, with the attributes of those that Microsoft's own guest library makes.
    #[must_use]
    pub fn define(self, size: u16) -> Command {
        define(self.0, &[], ALG_SHA256, OWNER_WRITE | AUTH_WRITE | OWNER_READ | AUTH_READ, size)
    }

    /// `TPM2_NV_Write`.
    #[must_use]
    pub fn write(self, data: &[u8], offset: u16) -> Command {
        Command::new(NV_WRITE, &[OWNER, self.0]).password(&[]).with_sized(data).with(&shorts(&[offset]))
    }

    /// `TPM2_NV_Read`.
    #[must_use]
    pub fn read(self, size: u16, offset: u16) -> Command {
        Command::new(NV_READ, &[OWNER, self.0]).password(&[]).with(&shorts(&[size, offset]))
    }
}

/// An NV index that is used as a buffer, with the password that guards it.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    /// Its number.
    pub index: u32,
    /// Its password.
    pub auth: &'a [u8],
}

impl Buffer<'_> {
    /// `TPM2_NV_DefineSpace` of so many bytes.
    #[must_use]
    pub fn define(&self, size: u16) -> Command {
        define(self.index, self.auth, ALG_SHA512, AUTH_WRITE | AUTH_READ, size)
    }

    /// `TPM2_NV_UndefineSpace`.
    #[must_use]
    pub fn undefine(&self) -> Command {
        Command::new(NV_UNDEFINE_SPACE, &[OWNER, self.index]).password(&[])
    }

    /// `TPM2_NV_Write`.
    #[must_use]
    pub fn write(&self, data: &[u8], offset: u16) -> Command {
        self.authorised(NV_WRITE).with_sized(data).with(&shorts(&[offset]))
    }

    /// `TPM2_NV_Read`.
    #[must_use]
    pub fn read(&self, size: u16, offset: u16) -> Command {
        self.authorised(NV_READ).with(&shorts(&[size, offset]))
    }

    /// The vendor's command: reads a request from the buffer and writes the answer into it.
    #[must_use]
    pub fn nsm_request(&self) -> Command {
        self.authorised(NSM_REQUEST)
    }

    /// By the index' own password.
    fn authorised(&self, code: u32) -> Command {
        Command::new(code, &[self.index; 2]).password(self.auth)
    }
}

fn define(index: u32, auth: &[u8], name_hash: u16, attributes: u32, size: u16) -> Command {
    let mut public = numbers(&[index]);
    public.extend(shorts(&[name_hash]));
    public.extend(numbers(&[attributes]));
    public.extend(sized(&[]));
    public.extend(shorts(&[size]));
    Command::new(NV_DEFINE_SPACE, &[OWNER]).password(&[]).with_sized(auth).with_sized(&public)
}

/// `TPML_PCR_SELECTION` of one bank; registers are 0 to 23.
fn selection(bank: Hash, registers: &[u8]) -> Vec<u8> {
    let bits = registers.iter().fold(0u32, |bits, register| bits | 1u32.checked_shl((*register).into()).unwrap_or(0));
    let [a, b, c, _] = bits.to_le_bytes();
    [numbers(&[1]), shorts(&[bank.id()]), vec![3, a, b, c]].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn shorts(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(command: &Command) -> String {
        hex::encode(&command.to_bytes()[10..])
    }

    #[test]
    fn commands_are_what_the_specification_draws() {
        let session = "00000009400000090000000000";
        for (command, wanted) in [
            (look_for(0x8101_0001), "000000018101000100000001".into()),
            (read_public(0x8101_0001), "81010001".into()),
            (flush(0x8000_0001), "80000001".into()),
            (create_primary(&[0xaa]), format!("4000000b{session}{}", "0004000000000001aa000000000000")),
            (
                extend(15, &[(Hash::Sha256, &[1]), (Hash::Sha384, &[2])]),
                format!("0000000f{session}{}", "00000002000b01000c02"),
            ),
            (read_registers(Hash::Sha384, &[0, 9, 23]), "00000001000c03010280".into()),
            (
                quote(0x8000_0001, &[7], Hash::Sha256, &[0, 15]),
                format!("80000001{session}{}", "000107001000000001000b03018000"),
            ),
            (start_policy(), format!("4000000740000007{}{}", "0010".to_owned() + &"00".repeat(16), "0000010010000b")),
            (policy_secret(0x0300_0000), format!("4000000b03000000{session}{}", "00000000000000000000")),
            (read_index(0x01c0_0002), "01c00002".into()),
            (Index(0x0140_0002).read(64, 1), format!("4000000101400002{session}00400001")),
            (Index(0x0140_0002).write(&[5], 1), format!("4000000101400002{session}0001050001")),
            (Index(0x0140_0002).define(64), format!("40000001{session}0000000e{}", "01400002000b0006000600000040")),
        ] {
            assert_eq!(parameters(&command), wanted);
        }
        let request = Buffer { index: 0x0180_0c57, auth: b"pw" }.nsm_request();
        assert_eq!(hex::encode(&request.to_bytes()[..18]), "8002000000212000000101800c5701800c57");
        let activate = activate_credential(1, 2, 3, &[0, 1, 8], &[0, 1, 9]).unwrap();
        let wanted = ["0000000100000002", "00000012", "400000090000000000", "000000030000010000", "000108000109"];
        assert_eq!(parameters(&activate), wanted.concat());
        assert!(activate_credential(1, 2, 3, &[0, 2, 8], &[0, 1, 9]).is_err(), "a credential that is cut off");
    }

    #[test]
    fn answers_are_read_and_those_with_one_thing_wrong_are_not() {
        let found = [&[0][..], &numbers(&[1, 1, 7])].concat();
        assert_eq!((is_there(&found, 7), is_there(&found, 6)), (Ok(true), Ok(false)));
        assert_eq!(is_there(&[&[0][..], &numbers(&[1, 0])].concat(), 7), Ok(false));
        for wrong in [&numbers(&[2, 1, 7])[..], &numbers(&[1, 2, 7, 8]), &numbers(&[1, 1]), &numbers(&[1, 0, 7])] {
            assert_eq!(is_there(&[&[0][..], wrong].concat(), 7), Err(Error::Form));
        }
        assert_eq!(public(&[0, 1, 9, 0, 0]), Ok(vec![0, 1, 9]));
        assert_eq!(public(&[0, 2, 9]), Err(Error::Form));
        for whole in [endorsement_template(), attestation_template()] {
            assert_eq!(template(&[whole.as_slice(), &[0; 9]].concat()), Ok(whole.as_slice()));
            assert_eq!(template(&whole[..whole.len() - 1]), Err(Error::Form));
            assert_eq!(template(&[&[0, 8], &whole[2..]].concat()), Err(Error::Form), "another kind of key");
        }
        assert_eq!(quoted(&[0, 1, 9, 8, 7]), Ok((vec![9], vec![8, 7])));
        let index = sized(&[&numbers(&[1])[..], &[0, 0x0b, 0, 0, 0, 0], &sized(&[1, 2]), &[2, 0]].concat());
        assert_eq!(index_size(&[index.as_slice(), &[0, 0]].concat()), Ok(512));
        assert_eq!(index_size(&index[..index.len() - 1]), Err(Error::Form));
    }

    #[test]
    fn registers_of_another_choice_are_none() {
        let (bank, asked) = (Hash::Sha256, [0, 1]);
        let answer = |selection: &[u8], values: &[usize]| {
            let count = numbers(&[u32::try_from(values.len()).unwrap()]);
            let values = values.iter().flat_map(|length| sized(&vec![1; *length])).collect();
            [numbers(&[9]), selection.to_vec(), count, values].concat()
        };
        let read = |bytes: &[u8]| registers(bytes, bank, &asked);
        let good = selection(bank, &asked);
        assert_eq!(read(&answer(&good, &[32, 32])), Ok(Some(vec![1; 64])));
        for (selection, values) in [
            (numbers(&[0]), &[][..]),
            (selection(bank, &[0, 2]), &[32, 32]),
            (selection(Hash::Sha384, &asked), &[32, 32]),
            (good.clone(), &[32]),
            (good.clone(), &[31, 33, 32]),
            (good.clone(), &[32, 20]),
        ] {
            assert_eq!(read(&answer(&selection, values)), Ok(None), "{selection:?} {values:?}");
        }
        assert_eq!(read(&answer(&good, &[32, 32])[..60]), Err(Error::Form));
        assert_eq!(read(&[answer(&good, &[32, 32]), vec![0]].concat()), Err(Error::Form));
    }
}
