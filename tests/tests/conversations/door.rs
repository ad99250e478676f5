//! The way to a made cluster's API server, which is one of its machines': where none serves, nobody answers.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Result;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

/// What the API server shows to its callers, from kubeadm's folder.
pub fn certificate(pki: &Path) -> Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_file(pki.join("serving.crt"))?];
    let key = PrivateKeyDer::from_pem_file(pki.join("serving.key"))?;
    Ok(TlsAcceptor::from(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?)))
}

/// Leads callers to `inside` for ever. A connection ends with the power of the machine that it leads to.
pub async fn keep(listener: TcpListener, tls: TlsAcceptor, inside: SocketAddr, serves: watch::Receiver<bool>) {
    loop {
        let Ok((caller, _)) = listener.accept().await else { continue };
        let (tls, mut serves) = (tls.clone(), serves.clone());
        tokio::spawn(async move {
            let led = async {
                let mut caller = tls.accept(caller).await?;
                let mut inside = TcpStream::connect(inside).await?;
                copy_bidirectional(&mut caller, &mut inside).await
            };
            // An error ends both sides, which is all there is to do.
            tokio::select! {
                _ = serves.wait_for(|serves| !serves) => {}
                _ = led => {}
            }
        });
    }
}
