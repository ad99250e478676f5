//! The TPM's two keys: the certified endorsement key, and the attestation key made from a fixed template.

use tss_esapi::{
    Context,
    abstraction::{AsymmetricAlgorithmSelection, DefaultKey, ek::create_ek_public_from_default_template_2},
    attributes::ObjectAttributesBuilder,
    constants::CapabilityType,
    handles::{KeyHandle, PersistentTpmHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::Hierarchy,
        session_handles::AuthSession,
    },
    structures::{
        CapabilityData, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public, PublicBuffer,
        PublicBuilder, PublicEccParametersBuilder, SymmetricDefinitionObject,
    },
    traits::Marshall as _,
};

use super::{Doing as _, Error};

/// Where the RSA-2048 EK is kept by those who made it (TCG Provisioning Guidance, table 2).
const EK_PERSISTENT: u32 = 0x8101_0001;
/// Its certificate (TCG EK Credential Profile, 2.2.1.4).
pub(super) const EK_CERTIFICATE: u32 = 0x01c0_0002;

/// The persistent RSA-2048 endorsement key, or one made from the default template, which is the same key.
pub(super) fn endorsement_key(context: &mut Context) -> Result<(KeyHandle, Vec<u8>), Error> {
    if exists(context, EK_PERSISTENT)? {
        return persistent(context, EK_PERSISTENT);
    }
    let rsa = AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048);
    let template = create_ek_public_from_default_template_2(rsa, DefaultKey).doing("making the endorsement key")?;
    primary(context, template, "making the endorsement key")
}

/// A key that somebody else made persistent.
pub(super) fn persistent(context: &mut Context, handle: u32) -> Result<(KeyHandle, Vec<u8>), Error> {
    let handle = PersistentTpmHandle::new(handle).doing("opening a persistent key")?;
    let handle = context.tr_from_tpm_public(TpmHandle::Persistent(handle)).doing("opening a persistent key")?;
    let (public, ..) = context.read_public(handle.into()).doing("reading a persistent key")?;
    Ok((handle.into(), marshalled(public)?))
}

/// A P-256 key that signs only what the TPM itself made; the template is a constant, so the key survives reboots.
pub(super) fn attestation_key(context: &mut Context) -> Result<(KeyHandle, Vec<u8>), Error> {
    primary(context, template().doing("making the attestation key")?, "making the attestation key")
}

fn template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

pub(super) fn primary(
    context: &mut Context,
    template: Public,
    doing: &'static str,
) -> Result<(KeyHandle, Vec<u8>), Error> {
    let made = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        })
        .doing(doing)?;
    Ok((made.key_handle, marshalled(made.out_public)?))
}

/// `TPM2B_PUBLIC`.
fn marshalled(public: Public) -> Result<Vec<u8>, Error> {
    PublicBuffer::try_from(public).and_then(|public| public.marshall()).doing("writing a public area")
}

/// Whether the TPM has this handle; asking is quieter than using one that isn't there.
pub(super) fn exists(context: &mut Context, handle: u32) -> Result<bool, Error> {
    let (found, _) = context.get_capability(CapabilityType::Handles, handle, 1).doing("looking for a handle")?;
    let CapabilityData::Handles(handles) = found else {
        return Err(Error::Unexpected("a list of handles"));
    };
    Ok(handles.iter().any(|found| u32::from(*found) == handle))
}

/// What a `TPM2B` holds, if it is exactly one.
pub(super) fn unsized_exact(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    match bytes.split_first_chunk::<2>() {
        Some((length, rest)) if usize::from(u16::from_be_bytes(*length)) == rest.len() => Ok(rest.to_vec()),
        _ => Err(Error::Unexpected("a credential")),
    }
}
