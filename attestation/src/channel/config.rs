//! TLS as we speak it: version 1.3, mutual, our ALPN, no tickets, no resumption, no early data.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{cipher_suite, default_provider, kx_group, sign::any_ecdsa_type},
    },
    pki_types::PrivateKeyDer,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign,
    version::TLS13,
};

use super::{Error, Identity, verify};
use crate::protocol::ALPN;

/// Given explicitly to every configuration, so that no process default decides for us.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // The hybrid first: an administrator's kubeconfig travels here, and a recording may wait for better computers.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        signature_verification_algorithms: verify::ALGORITHMS,
        ..default_provider()
    })
}

/// Borrows the key, so that no copy outlives the caller's.
pub(super) fn load_key(key: &PrivateKeyDer<'_>) -> Result<Arc<dyn sign::SigningKey>, Error> {
    any_ecdsa_type(key).map_err(Error::Config)
}

pub(super) fn server(identity: &Identity, verifier: Arc<dyn ClientCertVerifier>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Config)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

pub(super) fn client(identity: &Identity, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity.resolver());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(Arc::new(config))
}
