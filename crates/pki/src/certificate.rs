//! Node certificates, as read from the wire or from disk.

use std::time::Duration;

use malha_model::{ClusterId, NodeId, Role, Timestamp};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, x509::X509Name};

use crate::PkiError;

/// Certificates are valid from an hour before they are issued, so that clocks may differ.
pub(crate) const BACKDATE: Duration = Duration::from_secs(3600);

const MANAGER_OU: &str = "swarm-manager";
const WORKER_OU: &str = "swarm-worker";

/// Who a certificate says its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node: NodeId,
    pub role: Role,
    pub cluster: ClusterId,
}

/// A parsed node certificate. Parsing says nothing about trust; the TLS handshake does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    pub identity: Identity,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Lower-case hex.
    pub serial: String,
    /// The raw public point.
    pub(crate) public: Vec<u8>,
    pub(crate) der: CertificateDer<'static>,
}

impl NodeCertificate {
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::InvalidCertificate(e.to_string()))?;
        Self::from_der(&der)
    }

    /// Reads the certificate that a peer presented.
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| PkiError::InvalidCertificate(e.to_string()))?;
        let subject = cert.subject();
        let identity = Identity {
            node: only(subject.iter_common_name(), "common name", subject)?.into(),
            role: role_of(&only(subject.iter_organizational_unit(), "organizational unit", subject)?)?,
            cluster: only(subject.iter_organization(), "organization", subject)?.into(),
        };
        Ok(Self {
            identity,
            not_before: timestamp(cert.validity().not_before.timestamp()),
            not_after: timestamp(cert.validity().not_after.timestamp()),
            serial: cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
            public: cert.public_key().subject_public_key.data.to_vec(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    pub fn pem(&self) -> String {
        pem_of(&self.der)
    }

    /// From when until when to renew it: between half and four fifths of its life. The caller draws the moment, so that
    /// nodes that joined together do not renew together.
    pub fn renewal_window(&self) -> (Timestamp, Timestamp) {
        let issued = self.not_before.plus(BACKDATE).min(self.not_after);
        let life = self.not_after.since(issued);
        (issued.plus(life.mul_f64(0.5)), issued.plus(life.mul_f64(0.8)))
    }

    pub fn expired(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }
}

pub(crate) fn ou_of(role: Role) -> &'static str {
    match role {
        Role::Manager => MANAGER_OU,
        Role::Worker => WORKER_OU,
    }
}

fn role_of(ou: &str) -> Result<Role, PkiError> {
    match ou {
        MANAGER_OU => Ok(Role::Manager),
        WORKER_OU => Ok(Role::Worker),
        other => Err(PkiError::InvalidCertificate(format!("unknown role {other:?}"))),
    }
}

/// The one value of an attribute: a subject that names two is refused, since readers would differ about which counts.
fn only<'a>(
    mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
    what: &str,
    subject: &X509Name<'_>,
) -> Result<String, PkiError> {
    let first = values.next().and_then(|v| v.as_str().ok());
    match (first, values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(PkiError::InvalidCertificate(format!("not exactly one {what} in subject {subject}"))),
    }
}

fn timestamp(unix: i64) -> Timestamp {
    Timestamp(unix.saturating_mul(1_000_000_000))
}

pub(crate) fn pem_of(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        out.extend(line.iter().map(|b| char::from(*b)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
