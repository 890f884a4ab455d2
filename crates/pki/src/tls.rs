//! The TLS configurations of the manager port.
//!
//! TLS 1.3 only, both ends being ours. Sessions are never resumed: a resumed session would carry the identity of an older
//! certificate past a change of role. The server always sends the root along, so that a joining node can check it against
//! its token within the handshake.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::{JoinToken, PkiError, TrustRoot, token::fingerprint_mismatch};

/// The name that clients ask managers for; only a manager's certificate is valid for it.
pub const MANAGER_NAME: &str = "swarm-manager";

const ALPN: &[u8] = b"h2";

pub(crate) fn ring_provider() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// Client certificates are optional, so that a joining node reaches the CA calls on the same port; one that is shown must
/// be of this swarm.
pub(crate) fn server_config(trust: &TrustRoot, key: Arc<CertifiedKey>) -> Result<ServerConfig, PkiError> {
    let provider = ring_provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trust.store()?), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::InvalidCertificate(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Shows `key` and accepts managers of this swarm only.
pub(crate) fn client_config(trust: &TrustRoot, key: Arc<CertifiedKey>) -> Result<ClientConfig, PkiError> {
    let provider = ring_provider();
    let verifier = root_verifier(trust.store()?, provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    Ok(finish(config))
}

/// Shows no certificate and accepts managers of the one swarm that `token` names.
pub fn joining_client_config(token: &JoinToken) -> Result<Arc<ClientConfig>, PkiError> {
    let provider = ring_provider();
    let verifier = Arc::new(PinnedRoot { digest: token.root_digest(), provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(finish(config)))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

fn root_verifier(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, PkiError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| PkiError::InvalidCertificate(e.to_string()))
}

/// Accepts a server whose chain holds the root with this digest, verified against that root as ever.
#[derive(Debug)]
struct PinnedRoot {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|cert| Sha256::digest(cert).as_slice() == self.digest);
        let root =
            pinned.ok_or_else(|| rustls::Error::Other(OtherError(Arc::new(fingerprint_mismatch(&self.digest)))))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = root_verifier(roots, self.provider.clone())
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
