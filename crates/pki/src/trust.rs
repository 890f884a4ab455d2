//! The certificate that everybody in a swarm trusts.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use malha_model::TlsInfo;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{PkiError, certificate::pem_of};

/// A parsed root certificate, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    der: CertificateDer<'static>,
    pem: String,
}

impl TrustRoot {
    /// Takes the first certificate of `pem`; it must be a CA.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::InvalidCertificate(e.to_string()))?;
        Self::from_der(der)
    }

    pub(crate) fn from_der(der: CertificateDer<'static>) -> Result<Self, PkiError> {
        if !parse(&der)?.is_ca() {
            return Err(PkiError::InvalidCertificate("the root certificate is not a CA".into()));
        }
        Ok(Self { pem: pem_of(&der), der })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate: the part of a join token that names the swarm.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    pub(crate) fn store(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        Ok(roots)
    }

    /// Refuses a certificate that this root did not sign. Dates are the handshake's business.
    pub(crate) fn check_signed(&self, der: &CertificateDer<'static>) -> Result<(), PkiError> {
        let (root, cert) = (parse(&self.der)?, parse(der)?);
        cert.verify_signature(Some(root.public_key()))
            .map_err(|e| PkiError::NotOurs(format!("it is not signed by our root: {e}")))
    }

    /// What `docker info` and `docker swarm ca` show of it.
    pub fn tls_info(&self) -> Result<TlsInfo, PkiError> {
        let cert = parse(&self.der)?;
        Ok(TlsInfo {
            trust_root: self.pem.clone(),
            cert_issuer_subject: STANDARD.encode(cert.subject().as_raw()),
            cert_issuer_public_key: STANDARD.encode(cert.public_key().raw),
        })
    }
}

fn parse<'a>(der: &'a CertificateDer<'static>) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok((_, cert)) => Ok(cert),
        Err(e) => Err(PkiError::InvalidCertificate(e.to_string())),
    }
}
