//! A new swarm: its root, its tokens, its first manager.

use ipnet::IpNet;
use malha_control::{Bootstrap, Ctx, TokenSource, bootstrap, new_node};
use malha_kit::Rng;
use malha_model::{
    ApiError, ApiResult, Availability, ClusterId, ClusterSpec, NodeDescription, NodeId, Role, RootCa, Timestamp,
};
use malha_pki::{CertificateAuthority, Identity};
use malha_store::Change;

use crate::{ca::certificate_life, decide::SwarmTokens};

/// What `swarm init` asks for.
#[derive(Clone, Debug)]
pub struct NewSwarmConfig {
    pub spec: ClusterSpec,
    /// Of the first node.
    pub availability: Availability,
    pub description: NodeDescription,
    /// Empty: Docker's default.
    pub default_addr_pool: Vec<IpNet>,
    pub subnet_size: u8,
    pub data_path_port: u16,
}

/// What [`malha_consensus::Consensus::bootstrap`] starts from, and what the first node needs beside it.
#[derive(Debug)]
pub struct NewSwarm {
    pub cluster: ClusterId,
    /// The first node, a manager.
    pub node: NodeId,
    pub initial: Vec<Change>,
    ca: CertificateAuthority,
    spec: ClusterSpec,
}

pub fn new_swarm(config: NewSwarmConfig, now: Timestamp, rng: &mut Rng) -> ApiResult<NewSwarm> {
    let ca = CertificateAuthority::generate(now).map_err(ApiError::internal)?;
    let (cluster, node) = (ClusterId::random(rng), NodeId::random(rng));
    let cert_pem = ca.trust().pem().to_owned();
    let root_ca = RootCa {
        worker_token: SwarmTokens.new_token(&cert_pem)?,
        manager_token: SwarmTokens.new_token(&cert_pem)?,
        key_pem: ca.key_pem(),
        cert_pem,
    };
    let spec = config.spec.clone();
    let mut first = new_node(node.clone(), Role::Manager, config.availability, now);
    first.description = config.description;
    let params = Bootstrap {
        cluster: cluster.clone(),
        first,
        spec: config.spec,
        root_ca,
        default_addr_pool: config.default_addr_pool,
        subnet_size: config.subnet_size,
        data_path_port: config.data_path_port,
    };
    let mut ctx = Ctx { now, rng, tokens: &SwarmTokens };
    let initial = bootstrap(&mut ctx, params)?.into_iter().map(Change::Put).collect();
    Ok(NewSwarm { cluster, node, initial, ca, spec })
}

impl NewSwarm {
    /// The root certificate.
    pub fn root(&self) -> &malha_pki::TrustRoot {
        self.ca.trust()
    }

    /// The first node's certificate.
    pub fn issue(&self, csr_pem: &str, now: Timestamp) -> ApiResult<String> {
        let identity = Identity { node: self.node.clone(), role: Role::Manager, cluster: self.cluster.clone() };
        self.ca.issue(csr_pem, &identity, now, certificate_life(&self.spec)).map_err(ApiError::internal)
    }
}
