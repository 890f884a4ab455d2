//! Tasks that their node has no room for any more, because it has become smaller.
//!
//! Nothing is placed where it does not fit, so only a change of the node can bring this about. The oldest tasks stay.

use std::collections::BTreeSet;

use malha_model::{Availability, NodeId, TaskId, TaskState};
use malha_store::State;

use crate::scheduler::reservations;

pub(super) fn out(state: &State, nodes: &[NodeId]) -> BTreeSet<TaskId> {
    nodes.iter().flat_map(|id| of_node(state, id)).collect()
}

fn of_node(state: &State, id: &NodeId) -> Vec<TaskId> {
    let Some(node) = state.node(id).filter(|n| n.spec.availability == Availability::Active) else { return Vec::new() };
    let stays = |t: &&std::sync::Arc<malha_model::Task>| {
        t.may_have_container() && t.desired_state <= TaskState::Running && reservations(t).is_some()
    };
    let mut tasks: Vec<_> = state.tasks_of_node(id).filter(stays).collect();
    tasks.sort_by_key(|t| (t.meta.created_at, &t.id));
    let (mut cpus, mut memory) = (node.description.resources.nano_cpus, node.description.resources.memory_bytes);
    let mut out = Vec::new();
    for task in tasks {
        let Some(asked) = reservations(task) else { continue };
        let fits = |asked: i64, free: i64| asked <= 0 || asked <= free;
        if fits(asked.nano_cpus, cpus) && fits(asked.memory_bytes, memory) {
            cpus -= asked.nano_cpus;
            memory -= asked.memory_bytes;
        } else {
            out.push(task.id.clone());
        }
    }
    out
}
