//! Gives each PENDING task a node, or says why none fits.

pub(crate) mod constraint;
mod filter;
mod node_info;
mod spread;

use std::sync::Arc;

use malha_model::{Node, NodeId, Task, TaskState};
use malha_store::{State, Tx};

pub(crate) use self::node_info::{host_ports, reservations};
use self::{filter::Demand, node_info::NodeInfo};
use crate::{Ctx, status};

pub(crate) fn run(tx: &mut Tx, ctx: &Ctx<'_>) {
    let is_waiting = |t: &Task| t.status.state == TaskState::Pending && t.desired_state <= TaskState::Running;
    let waiting: Vec<Arc<Task>> = tx.tasks_unassigned().filter(|t| is_waiting(t)).cloned().collect();
    if waiting.is_empty() {
        return;
    }
    let services = waiting.iter().filter_map(|t| t.service.clone()).collect();
    let mut nodes = NodeInfo::read_all(tx, ctx.now, &services);
    for task in waiting {
        if tx.is_full() {
            return;
        }
        let (found, message) = match &task.node {
            Some(node) => {
                let only = nodes.get(node);
                (choose(tx, &task, only.into_iter()), "scheduler confirmed task can run on preassigned node")
            }
            None => (choose(tx, &task, nodes.values()), "scheduler assigned task to node"),
        };
        match found {
            Ok(node) => {
                let mut task = (*task).clone();
                task.node = Some(node.clone());
                status::advance(&mut task, ctx, TaskState::Assigned, message);
                if let Some(info) = nodes.get_mut(&node) {
                    info.add(&task);
                }
                tx.put(task);
            }
            Err(why) => refuse(tx, ctx, &task, why),
        }
    }
}

/// The node to run `task`, or why there is none.
fn choose<'a>(state: &State, task: &Task, nodes: impl Iterator<Item = &'a NodeInfo>) -> Result<NodeId, String> {
    let demand = Demand::of(state, task);
    let mut failures = filter::Failures::default();
    let fitting: Vec<&NodeInfo> = nodes.filter(|n| failures.record(demand.refused_by(n))).collect();
    let best = spread::best(task, &fitting);
    best.map(|n: &Node| n.id.clone()).ok_or_else(|| failures.explain())
}

fn refuse(tx: &mut Tx, ctx: &Ctx<'_>, task: &Task, why: String) {
    let err = if why.is_empty() { "no suitable node".to_owned() } else { format!("no suitable node ({why})") };
    if task.status.err != err {
        let mut task = task.clone();
        task.status.timestamp = ctx.now;
        task.status.err = err;
        tx.put(task);
    }
}
