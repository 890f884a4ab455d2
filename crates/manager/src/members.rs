//! Joining and leaving the Raft group, and what the group looks like from outside.

use std::{collections::BTreeMap, time::Duration};

use malha_consensus::{Consensus, Member, MemberError, Reachability};
use malha_model::{ApiError, ApiResult, Code, ControlRequest, ControlResponse, ManagerStatus, Node, NodeId, Role};
use malha_store::State;
use malha_wire::{Connector, Peer};
use tracing::{info, warn};

use crate::{decide::Decider, errors};

/// Address of each manager that has a vote: one that is being taken in is none yet to whoever asks.
pub(crate) fn addresses(consensus: &Consensus) -> BTreeMap<NodeId, String> {
    consensus.members().into_iter().filter(|m| m.voter).map(|m| (m.node, m.addr)).collect()
}

/// On the leader: takes `peer` into the group.
pub(crate) async fn join(decider: &Decider, peer: &Peer, addr: String) -> ApiResult<()> {
    let state = decider.state();
    let wanted = state.node(&peer.node).is_some_and(|n| n.spec.role == Role::Manager);
    if !wanted || peer.role != Role::Manager {
        warn!(node = %peer.node, "refused: a node that is not to be a manager asks to join them");
        return Err(ApiError::rpc(Code::PermissionDenied, "Permission denied: this node is not to be a manager"));
    }
    let added = decider.consensus.add_manager(peer.node.clone(), addr.clone()).await;
    added.map_err(|error| errors::member(&error))?;
    info!(node = %peer.node, addr, "a manager joined");
    Ok(())
}

/// On the leader: takes `peer` out of the group.
pub(crate) async fn leave(decider: &Decider, peer: &Peer) -> ApiResult<()> {
    match decider.consensus.remove_manager(&peer.node).await {
        // it asks again after an attempt of unknown outcome, which somebody else may have finished
        Ok(()) | Err(MemberError::Unknown(_)) => {}
        Err(error) => return Err(errors::member(&error)),
    }
    info!(node = %peer.node, "a manager left");
    Ok(())
}

/// Refuses to demote a manager without which those that answer now are no majority: what the state holds of them says
/// nothing about that.
pub(crate) fn check_demotion(consensus: &Consensus, state: &State, request: &ControlRequest) -> ApiResult<()> {
    let ControlRequest::NodeUpdate { id, spec, .. } = request else { return Ok(()) };
    let Ok(node) = state.resolve::<Node>(id) else { return Ok(()) };
    if spec.role == Role::Manager || node.spec.role == Role::Worker {
        return Ok(());
    }
    match consensus.can_spare(&node.id) {
        Err(error @ (MemberError::WouldLoseQuorum | MemberError::LastManager)) => Err(errors::member(&error)),
        Err(_) | Ok(_) => Ok(()),
    }
}

/// Whether the leader heard of this member just now.
pub(crate) fn answers(consensus: &Consensus, node: &NodeId) -> bool {
    consensus.members().iter().any(|m| m.node == *node && m.reachability == Reachability::Reachable)
}

/// Puts what the group knows of its members into the nodes of an answer: it changes too often to be stored.
pub(crate) fn show(consensus: &Consensus, response: &mut ControlResponse) {
    let nodes: &mut [Node] = match response {
        ControlResponse::Node(node) => std::slice::from_mut(node),
        ControlResponse::Nodes(nodes) => nodes,
        _ => return,
    };
    let voters = consensus.members().into_iter().filter(|m| m.voter);
    let members: BTreeMap<NodeId, Member> = voters.map(|m| (m.node.clone(), m)).collect();
    for node in nodes {
        node.manager = members.get(&node.id).map(|m| ManagerStatus {
            leader: m.leader,
            reachability: m.reachability.to_string(),
            addr: m.addr.clone(),
        });
    }
}

/// For a node that is to be a manager: asks the managers at `candidates` in turn until the leader has taken it in, with
/// `addr` as its address. The first candidate should be the one that the node's session is with.
pub async fn join_raft(connector: &dyn Connector, candidates: &[String], addr: &str) -> ApiResult<()> {
    ask_each(connector, candidates, |client| async move { client.raft_join(addr.to_owned()).await }).await
}

/// For a manager that leaves on its own.
pub async fn leave_raft(connector: &dyn Connector, candidates: &[String]) -> ApiResult<()> {
    ask_each(connector, candidates, |client| async move { client.raft_leave().await }).await
}

/// The leader copies the whole state to a new manager before it answers.
const PATIENCE: Duration = Duration::from_secs(40);

async fn ask_each<F>(
    connector: &dyn Connector,
    candidates: &[String],
    ask: impl Fn(std::sync::Arc<dyn malha_wire::ManagerClient>) -> F,
) -> ApiResult<()>
where
    F: Future<Output = ApiResult<()>>,
{
    let mut last = errors::no_leader();
    for candidate in candidates {
        let client = match connector.connect(candidate).await {
            Ok(client) => client,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        match tokio::time::timeout(PATIENCE, ask(client)).await {
            Ok(Ok(())) => return Ok(()),
            // a word of the leader: the others only say that they do not lead
            Ok(Err(error)) if error.http_status() < 500 => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => last = ApiError::rpc(Code::DeadlineExceeded, "context deadline exceeded"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_out_already_has_left() {
        let (decider, _) = crate::decide::tests::lone(32 << 20).await;
        let peer = |node: NodeId| Peer { node, role: Role::Manager, cluster: "c".into() };
        leave(&decider, &peer("gone".into())).await.unwrap();
        assert!(leave(&decider, &peer(decider.consensus.node().clone())).await.is_err(), "the last one stays");
    }
}
