//! What a peer may ask. The certificate says who it is; what it may is for the state to say, because a certificate
//! outlives a demotion and a removal.

use malha_consensus::{Consensus, Leadership};
use malha_model::{ApiError, ApiResult, Code, Role};
use malha_store::State;
use malha_wire::Peer;
use tracing::warn;

/// Refuses nodes of another swarm and nodes that were removed from this one.
pub(crate) fn admitted(state: &State, peer: &Peer) -> ApiResult<()> {
    let Some(cluster) = state.cluster() else { return Ok(()) };
    if cluster.id != peer.cluster {
        warn!(node = %peer.node, cluster = %peer.cluster, "refused: a node of another swarm");
        return Err(ApiError::rpc(Code::PermissionDenied, "Permission denied: certificate of another swarm"));
    }
    if cluster.removed_nodes.contains_key(&peer.node) {
        warn!(node = %peer.node, "refused: the node was removed from the swarm");
        let text = format!("Permission denied: node {} was removed from swarm", peer.node);
        return Err(ApiError::rpc(Code::PermissionDenied, text));
    }
    Ok(())
}

/// Refuses those whose certificate is not a manager's.
pub(crate) fn managers_only(peer: &Peer) -> ApiResult<()> {
    if peer.role == Role::Manager {
        return Ok(());
    }
    warn!(node = %peer.node, "refused: a worker asks for what is a manager's");
    Err(worker())
}

/// For the leader, whose state is complete: refuses those that are not to be managers now.
pub(crate) fn manages(state: &State, peer: &Peer) -> ApiResult<()> {
    managers_only(peer)?;
    if is_to_manage(state, peer) {
        return Ok(());
    }
    warn!(node = %peer.node, "refused: a node that is no manager any more asks for what is a manager's");
    Err(worker())
}

/// Raft messages come from members and from those that may become one. A manager that lags knows less than whoever
/// speaks to it, so that only one that hears another leader judges by what it holds.
pub(crate) fn takes_part(consensus: &Consensus, peer: &Peer) -> ApiResult<()> {
    managers_only(peer)?;
    let state = consensus.state().borrow().clone();
    admitted(&state, peer)?;
    let up_to_date = match &*consensus.leadership().borrow() {
        Leadership::Leader { .. } => true,
        Leadership::Follower { leader } => leader.node != peer.node,
        Leadership::NoLeader => false,
    };
    if !up_to_date || is_to_manage(&state, peer) || consensus.members().iter().any(|m| m.node == peer.node) {
        return Ok(());
    }
    warn!(node = %peer.node, "refused: Raft messages of a node that is no manager any more");
    Err(worker())
}

fn is_to_manage(state: &State, peer: &Peer) -> bool {
    state.node(&peer.node).is_some_and(|n| n.spec.role == Role::Manager)
}

fn worker() -> ApiError {
    ApiError::rpc(Code::PermissionDenied, "Permission denied: unauthorized peer role: swarm-worker")
}
