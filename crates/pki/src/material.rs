//! What a node shows and trusts on every connection: kept on disk, replaced while running.
//!
//! Each new connection takes the configuration that is current at that moment; connections that exist keep theirs. Key
//! and certificate lie in one file, so that no crash can leave a pair that does not match.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig, sign::CertifiedKey};

use crate::{NodeCertificate, NodeKey, PkiError, TrustRoot, files, tls};

const ROOT_FILE: &str = "swarm-root-ca.crt";
const NODE_FILE: &str = "swarm-node.pem";

/// Shared by the server, every client and the renewal loop.
pub struct TlsMaterial {
    dir: Option<PathBuf>,
    trust: TrustRoot,
    live: ArcSwap<Live>,
}

struct Live {
    certificate: Arc<NodeCertificate>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl TlsMaterial {
    /// Takes a freshly issued certificate and keeps it in `dir`, or in memory only where there is none.
    pub fn create(
        dir: Option<&Path>,
        trust: TrustRoot,
        key: &NodeKey,
        certificate_pem: &str,
    ) -> Result<Self, PkiError> {
        let certificate = NodeCertificate::from_pem(certificate_pem)?;
        let live = Live::new(&trust, key, certificate)?;
        if let Some(dir) = dir {
            files::make_private_dir(dir)?;
            files::write_private(&dir.join(ROOT_FILE), trust.pem())?;
            write_node(dir, key, &live.certificate)?;
        }
        Ok(Self { dir: dir.map(Path::to_owned), trust, live: ArcSwap::from_pointee(live) })
    }

    /// What `create` left in `dir`; `None` where this node is in no swarm.
    pub fn load(dir: &Path) -> Result<Option<Self>, PkiError> {
        let (root, node) = (files::read(&dir.join(ROOT_FILE))?, files::read(&dir.join(NODE_FILE))?);
        let (Some(root), Some(node)) = (root, node) else { return Ok(None) };
        let trust = TrustRoot::from_pem(&root)?;
        let live = Live::new(&trust, &NodeKey::from_pem(&node)?, NodeCertificate::from_pem(&node)?)?;
        Ok(Some(Self { dir: Some(dir.to_owned()), trust, live: ArcSwap::from_pointee(live) }))
    }

    /// Puts a renewed certificate in use, on disk first. It must be this node's, of the same swarm.
    pub fn replace(&self, key: &NodeKey, certificate_pem: &str) -> Result<(), PkiError> {
        let certificate = NodeCertificate::from_pem(certificate_pem)?;
        let (old, new) = (self.certificate(), &certificate.identity);
        if (&old.identity.node, &old.identity.cluster) != (&new.node, &new.cluster) {
            return Err(PkiError::NotOurs(format!("it names node {} of cluster {}", new.node, new.cluster)));
        }
        let live = Live::new(&self.trust, key, certificate)?;
        if let Some(dir) = &self.dir {
            write_node(dir, key, &live.certificate)?;
        }
        self.live.store(Arc::new(live));
        Ok(())
    }

    pub fn certificate(&self) -> Arc<NodeCertificate> {
        self.live.load().certificate.clone()
    }

    pub fn trust(&self) -> &TrustRoot {
        &self.trust
    }

    /// For the next connection to accept.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.live.load().server.clone()
    }

    /// For the next connection to make, to a server named [`tls::MANAGER_NAME`].
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.live.load().client.clone()
    }
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial").field("certificate", &self.certificate()).finish_non_exhaustive()
    }
}

impl Live {
    fn new(trust: &TrustRoot, key: &NodeKey, certificate: NodeCertificate) -> Result<Self, PkiError> {
        if certificate.public != key.public() {
            return Err(PkiError::NotOurs("its public key is not that of our key".into()));
        }
        trust.check_signed(&certificate.der)?;
        let signing = rustls::crypto::ring::sign::any_ecdsa_type(&key.der())?;
        let chain = vec![certificate.der.clone(), trust.der().clone()];
        let certified = Arc::new(CertifiedKey::new(chain, signing));
        Ok(Self {
            certificate: Arc::new(certificate),
            server: Arc::new(tls::server_config(trust, certified.clone())?),
            client: Arc::new(tls::client_config(trust, certified)?),
        })
    }
}

fn write_node(dir: &Path, key: &NodeKey, certificate: &NodeCertificate) -> Result<(), PkiError> {
    files::write_private(&dir.join(NODE_FILE), &format!("{}{}", certificate.pem(), key.pem()))
}
