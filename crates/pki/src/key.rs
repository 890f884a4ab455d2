//! A node's private key: made on the node, never sent, never printed.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::PkiError;

/// ECDSA P-256.
pub struct NodeKey(KeyPair);

impl NodeKey {
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(|e| PkiError::Signing(e.to_string()))
    }

    /// Reads the first PKCS#8 key of `pem`, whatever else is in there.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::InvalidKey(e.to_string()))?;
        let key = KeyPair::try_from(&der).map_err(|e| PkiError::InvalidKey(e.to_string()))?;
        if key.is_compatible(&PKCS_ECDSA_P256_SHA256) {
            Ok(Self(key))
        } else {
            Err(PkiError::InvalidKey("not an ECDSA P-256 key".into()))
        }
    }

    /// A signing request that carries nothing but the public key and the proof that we hold the private one: the CA
    /// decides the rest.
    pub fn request_pem(&self) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).and_then(|r| r.pem());
        request.map_err(|e| PkiError::Signing(e.to_string()))
    }

    /// The raw public point, as certificates carry it.
    pub(crate) fn public(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    pub(crate) fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.0
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(…)")
    }
}
