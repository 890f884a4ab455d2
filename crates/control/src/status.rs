//! What nodes report: task statuses, and the coming and going of the nodes themselves.

use std::net::IpAddr;

use malha_model::{Node, NodeDescription, NodeId, NodeState, NodeStatus, Task, TaskId, TaskState, TaskStatus};
use malha_store::Tx;

use crate::Ctx;

/// Takes in statuses from `node`. States only advance and an ended task stays as it ended; statuses of tasks that are
/// unknown or another node's are ignored.
pub fn report(tx: &mut Tx, ctx: &Ctx<'_>, node: &NodeId, updates: impl IntoIterator<Item = (TaskId, TaskStatus)>) {
    for (id, status) in updates {
        let Some(held) = tx.task(&id).filter(|t| t.node.as_ref() == Some(node)) else { continue };
        if !advances(held, &status) {
            continue;
        }
        let mut task = (**held).clone();
        set_status(&mut task, ctx, status);
        tx.put(task);
    }
}

fn advances(held: &Task, new: &TaskStatus) -> bool {
    let old = &held.status;
    let reportable = (TaskState::Accepted..=TaskState::Rejected).contains(&new.state);
    if !reportable || old.state < TaskState::Assigned || old.state.is_terminal() {
        return false;
    }
    new.state > old.state || (new.state == old.state && new.timestamp >= old.timestamp)
}

/// Sets the status, and keeps the managers' own times of it.
pub(crate) fn set_status(task: &mut Task, ctx: &Ctx<'_>, status: TaskStatus) {
    if status.state != task.status.state {
        task.state_at = ctx.now;
    }
    if status.state >= TaskState::Running && task.started_at.is_none() {
        task.started_at = Some(ctx.now);
    }
    task.status = status;
}

/// Moves the task to `state`, keeping what is known of its container.
pub(crate) fn advance(task: &mut Task, ctx: &Ctx<'_>, state: TaskState, message: &str) {
    let status = TaskStatus {
        timestamp: ctx.now,
        state,
        message: message.to_owned(),
        err: String::new(),
        container: task.status.container.clone(),
        ports: task.status.ports.clone(),
    };
    set_status(task, ctx, status);
}

/// The node's session is open. `addr` is the node as the managers see it.
pub fn node_up(tx: &mut Tx, node: &NodeId, addr: &str) {
    change(tx, node, |n| {
        n.status = NodeStatus { state: NodeState::Ready, message: String::new(), addr: addr.to_owned() };
        n.down_since = None;
    });
}

/// The node's session ended and did not come back in time.
pub fn node_down(tx: &mut Tx, ctx: &Ctx<'_>, node: &NodeId, message: &str) {
    let now = ctx.now;
    change(tx, node, |n| {
        n.status.state = NodeState::Down;
        n.status.message = message.to_owned();
        n.down_since = n.down_since.or(Some(now));
    });
}

/// What the node said of itself when its session opened.
pub fn node_described(tx: &mut Tx, node: &NodeId, description: NodeDescription, data_path_addr: IpAddr) {
    change(tx, node, |n| {
        n.description = description;
        n.data_path_addr = Some(data_path_addr);
    });
}

/// A new leader does not know yet which nodes are there; those that were down stay so.
pub fn nodes_unknown(tx: &mut Tx) {
    let ids: Vec<_> = tx.nodes().filter(|n| n.status.state == NodeState::Ready).map(|n| n.id.clone()).collect();
    for id in ids {
        change(tx, &id, |n| {
            n.status.state = NodeState::Unknown;
            n.status.message = "Node moved to \"unknown\" state due to leadership change in cluster".into();
        });
    }
}

fn change(tx: &mut Tx, id: &NodeId, f: impl FnOnce(&mut Node)) {
    if let Some(held) = tx.node(id) {
        let mut node = (**held).clone();
        f(&mut node);
        tx.put(node);
    }
}
