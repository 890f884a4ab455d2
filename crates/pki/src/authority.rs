//! The signing half of the root: lives on managers only.

use std::time::Duration;

use malha_model::{Role, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    Identity, NodeKey, PkiError, TrustRoot,
    certificate::{BACKDATE, ou_of},
};

const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
const ROOT_NAME: &str = "swarm-ca";

/// A root certificate with its key.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    trust: TrustRoot,
    not_after: i64,
}

impl CertificateAuthority {
    /// A new root, valid for 20 years.
    pub fn generate(now: Timestamp) -> Result<Self, PkiError> {
        let key = NodeKey::generate()?.into_pair();
        let mut params = CertificateParams::default();
        params.not_before = date(now.unix() - BACKDATE.as_secs() as i64)?;
        params.not_after = date(now.plus(ROOT_LIFE).unix())?;
        params.serial_number = Some(serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, ROOT_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(signing)?;
        Self::new(TrustRoot::from_der(cert.der().clone())?, key)
    }

    /// The root as the store holds it.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        Self::new(TrustRoot::from_pem(cert_pem)?, NodeKey::from_pem(key_pem)?.into_pair())
    }

    fn new(trust: TrustRoot, key: KeyPair) -> Result<Self, PkiError> {
        let (_, parsed) =
            X509Certificate::from_der(trust.der()).map_err(|e| PkiError::InvalidCertificate(e.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(PkiError::InvalidKey("the key is not that of the root certificate".into()));
        }
        let not_after = parsed.validity().not_after.timestamp();
        let issuer = Issuer::from_ca_cert_der(trust.der(), key).map_err(signing)?;
        Ok(Self { issuer, trust, not_after })
    }

    pub fn trust(&self) -> &TrustRoot {
        &self.trust
    }

    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs the public key of `request_pem` for `identity`; whatever else the request asks for is ignored.
    pub fn issue(
        &self,
        request_pem: &str,
        identity: &Identity,
        now: Timestamp,
        life: Duration,
    ) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|e| PkiError::InvalidRequest(e.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(PkiError::InvalidRequest("only ECDSA P-256 keys are signed".into()));
        }
        let mut params = CertificateParams::default();
        params.not_before = date(now.unix() - BACKDATE.as_secs() as i64)?;
        params.not_after = date(now.plus(life).unix().min(self.not_after))?;
        params.serial_number = Some(serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.node.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, ou_of(identity.role));
        params.distinguished_name.push(DnType::OrganizationName, identity.cluster.as_str());
        params.subject_alt_names = names(identity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&request.public_key, &self.issuer).map_err(signing)?;
        Ok(cert.pem())
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("trust", &self.trust).finish_non_exhaustive()
    }
}

/// The names that clients may know the holder by: its id and its role. Only managers are `swarm-manager`.
fn names(identity: &Identity) -> Result<Vec<SanType>, PkiError> {
    let ca = (identity.role == Role::Manager).then_some(ROOT_NAME);
    let names = [identity.node.as_str(), ou_of(identity.role)].into_iter().chain(ca);
    names.map(|n| n.try_into().map(SanType::DnsName)).collect::<Result<_, _>>().map_err(signing)
}

fn date(unix: i64) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(unix).map_err(|e| PkiError::Signing(e.to_string()))
}

fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Signing("no randomness".into()))?;
    bytes[0] &= 0x7f; // positive
    Ok(SerialNumber::from_slice(&bytes))
}

fn signing(e: rcgen::Error) -> PkiError {
    PkiError::Signing(e.to_string())
}
