//! What can be wrong with a token, a certificate or the other end.

use std::{io, path::PathBuf};

use malha_model::{ApiError, Code};

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("invalid join token")]
    InvalidToken,
    #[error("remote CA does not match fingerprint. Expected: {expected}")]
    FingerprintMismatch { expected: String },
    #[error("invalid certificate: {0}")]
    InvalidCertificate(String),
    #[error("invalid certificate signing request: {0}")]
    InvalidRequest(String),
    #[error("invalid key: {0}")]
    InvalidKey(String),
    #[error("certificate does not belong to this node: {0}")]
    NotOurs(String),
    #[error("cannot sign: {0}")]
    Signing(String),
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

impl From<PkiError> for ApiError {
    fn from(e: PkiError) -> Self {
        match e {
            PkiError::InvalidToken | PkiError::InvalidRequest(_) | PkiError::FingerprintMismatch { .. } => {
                Self::invalid(e)
            }
            other => Self::rpc(Code::Internal, other),
        }
    }
}

/// The reason why a TLS handshake failed, with this crate's own text where a verifier of this crate refused.
pub fn handshake_error(e: &io::Error) -> String {
    let tls = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::Other(other)) => other.0.to_string(),
        Some(tls) => tls.to_string(),
        None => e.to_string(),
    }
}
