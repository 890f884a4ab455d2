//! Changing and removing nodes.

use std::time::Duration;

use malha_model::{
    ApiError, ApiResult, Code, ControlResponse as Response, Kind, Node, NodeId, NodeSpec, NodeState, Role, TaskState,
};
use malha_store::{State, Tx};

use super::out_of_sequence;
use crate::{Ctx, status};

/// A removed node is remembered for this long after its certificate has expired.
const EXPIRY_SLACK: Duration = Duration::from_secs(7 * 24 * 3600);

fn refused(text: impl std::fmt::Display) -> ApiError {
    ApiError::rpc(Code::FailedPrecondition, text)
}

pub(super) fn update(tx: &mut Tx, reference: &str, version: u64, spec: NodeSpec) -> ApiResult<Response> {
    let held = tx.resolve::<Node>(reference)?;
    if held.spec.role == Role::Manager && spec.role == Role::Worker {
        check_demotion(tx, &held)?;
    }
    // what happens to the node by itself, such as going down, is no reason to refuse its user
    if version <= held.spec_after || version > held.meta.version {
        return Err(out_of_sequence());
    }
    let node = Node { spec, spec_after: held.meta.version, ..(*held).clone() };
    tx.put(node.clone());
    Ok(Response::Node(node))
}

/// Whether those who stay are a majority is not for the state to say.
fn check_demotion(state: &State, node: &Node) -> ApiResult<()> {
    if !state.nodes().any(|n| n.spec.role == Role::Manager && n.id != node.id) {
        return Err(refused("attempting to demote the last manager of the swarm"));
    }
    Ok(())
}

/// Removes the node, its tasks' claim to be alive and its right to connect.
pub(super) fn remove(tx: &mut Tx, ctx: &Ctx<'_>, reference: &str, force: bool) -> ApiResult<Response> {
    let node = tx.resolve::<Node>(reference)?;
    let id = &node.id;
    if node.manager.is_some() {
        return Err(refused(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        )));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(refused(format!("node {id} is not down and can't be removed")));
    }
    if let Some(cluster) = tx.cluster() {
        let mut cluster = (**cluster).clone();
        // By then the last certificate of such a node has long expired.
        let lifetime = Duration::from_nanos(u64::try_from(cluster.spec.ca_config.node_cert_expiry).unwrap_or(0));
        cluster.removed_nodes.retain(|_, at| ctx.now.since(*at) <= lifetime + EXPIRY_SLACK);
        cluster.removed_nodes.insert(id.clone(), ctx.now);
        tx.put(cluster);
    }
    orphan_tasks(tx, ctx, id);
    tx.delete(Kind::Node, id);
    Ok(Response::Done)
}

fn orphan_tasks(tx: &mut Tx, ctx: &Ctx<'_>, node: &NodeId) {
    let tasks: Vec<_> = tx.tasks_of_node(node).cloned().collect();
    for task in tasks {
        if task.is_attachment() {
            tx.delete(Kind::Task, &task.id);
        } else if task.status.state < TaskState::Complete {
            let mut task = (*task).clone();
            status::advance(&mut task, ctx, TaskState::Orphaned, "Task belonged to a node that has been deleted");
            tx.put(task);
        }
    }
}
