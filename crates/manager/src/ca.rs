//! The certificate server: who gets which certificate.
//!
//! A token makes a new node of the token's role; only the leader can write that down. A valid certificate is renewed by
//! any manager that hears a leader, with the role that the node is to have now, and a manager's for as long as it has a
//! seat. What is refused is logged.

use std::time::Duration;

use ipnet::IpNet;
use malha_consensus::Leadership;
use malha_control::new_node;
use malha_model::{ApiError, ApiResult, Availability, Cluster, ClusterSpec, Code, NodeId, Role, defaults};
use malha_pki::{CertificateAuthority, Identity, JoinToken};
use malha_store::State;
use malha_wire::{IssueRequest, IssueResponse, Peer};
use tracing::{info, warn};

use crate::{decide::Decider, errors::no_leader, rights::admitted};

/// Certificates live at least so long, whatever a spec says.
const SHORTEST_LIFE: Duration = Duration::from_secs(3600);

pub(crate) fn certificate_life(spec: &ClusterSpec) -> Duration {
    match u64::try_from(spec.ca_config.node_cert_expiry) {
        Ok(0) | Err(_) => defaults::NODE_CERT_EXPIRY,
        Ok(nanos) => Duration::from_nanos(nanos).max(SHORTEST_LIFE),
    }
}

pub(crate) fn cluster(state: &State) -> ApiResult<&Cluster> {
    // a manager that has not caught up yet cannot say anything
    state.cluster().map(|c| &**c).ok_or_else(no_leader)
}

/// The role that a token gives, from the leader's own state.
fn role_of_token(cluster: &Cluster, token: &str) -> ApiResult<Role> {
    if JoinToken::matches(&cluster.root_ca.manager_token, token) {
        Ok(Role::Manager)
    } else if JoinToken::matches(&cluster.root_ca.worker_token, token) {
        Ok(Role::Worker)
    } else {
        warn!("refused: a wrong or rotated join token");
        Err(ApiError::invalid("A valid join token is necessary to join this cluster"))
    }
}

/// A new node, by token. On the leader.
pub(crate) async fn admit(decider: &Decider, request: &IssueRequest, token: &str) -> ApiResult<IssueResponse> {
    let availability: Availability = request.availability;
    let (node, role) = decider
        .request(|tx, ctx| {
            let role = role_of_token(cluster(tx)?, token)?;
            let node = NodeId::random(&mut *ctx.rng);
            tx.put(new_node(node.clone(), role, availability, ctx.now));
            Ok((node, role))
        })
        .await?;
    info!(%node, ?role, "a node joins");
    sign(decider, request, node, role)
}

/// The next certificate of a node that has one. On any manager, but not on one that may itself have been taken out of the
/// group: what it holds of roles is old.
pub(crate) fn renew(decider: &Decider, peer: &Peer, request: &IssueRequest) -> ApiResult<IssueResponse> {
    if *decider.consensus.leadership().borrow() == Leadership::NoLeader {
        return Err(no_leader());
    }
    let state = decider.state();
    admitted(&state, peer)?;
    let Some(node) = state.node(&peer.node) else {
        warn!(node = %peer.node, "refused: a certificate for an unknown node");
        return Err(ApiError::rpc(Code::NotFound, format!("node {} not found", peer.node)));
    };
    // one that is demoted and cannot be spared yet still takes part, for which it needs its role
    let takes_part = decider.consensus.members().iter().any(|m| m.node == peer.node);
    let role = if takes_part && peer.role == Role::Manager { Role::Manager } else { node.spec.role };
    sign(decider, request, peer.node.clone(), role)
}

fn sign(decider: &Decider, request: &IssueRequest, node: NodeId, role: Role) -> ApiResult<IssueResponse> {
    let state = decider.state();
    let cluster = cluster(&state)?;
    let root = &cluster.root_ca;
    let ca = CertificateAuthority::from_pem(&root.cert_pem, &root.key_pem).map_err(ApiError::internal)?;
    let identity = Identity { node, role, cluster: cluster.id.clone() };
    let life = certificate_life(&cluster.spec);
    let certificate_pem = ca
        .issue(&request.csr_pem, &identity, decider.clock.now(), life)
        .inspect_err(|error| warn!(node = %identity.node, %error, "refused: a certificate request"))
        .map_err(ApiError::invalid)?;
    let (data_path_port, root_pem) = (cluster.data_path_port, root.cert_pem.clone());
    let networks = state.networks().flat_map(|n| &n.ipam).filter_map(|c| c.subnet);
    let subnets = IpNet::aggregate(&networks.chain(cluster.default_addr_pool.iter().copied()).collect());
    let Identity { node, role, cluster } = identity;
    Ok(IssueResponse { node, role, cluster, certificate_pem, root_pem, data_path_port, subnets })
}
