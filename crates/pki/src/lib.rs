//! Root CA, join tokens, node certificates and the TLS configurations built from them.
//!
//! One root per swarm. A node makes its own key, which never leaves it, and asks a manager to sign; the CA alone decides
//! the subject: node id (CN), role (OU), cluster (O). The names that a certificate is valid for are roles, so a worker's
//! certificate can never stand for a manager. Nothing here reads a clock except the TLS handshakes: `now` is passed in.
//! Keys are neither logged nor shown by `Debug`.

mod authority;
mod certificate;
mod error;
mod files;
mod key;
mod material;
mod tls;
mod token;
mod trust;

pub use self::{
    authority::CertificateAuthority,
    certificate::{Identity, NodeCertificate},
    error::{PkiError, handshake_error},
    key::NodeKey,
    material::TlsMaterial,
    tls::{MANAGER_NAME, joining_client_config},
    token::JoinToken,
    trust::TrustRoot,
};
