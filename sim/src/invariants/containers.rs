//! Every node is up and runs exactly the containers that the store says run there.

use std::{collections::BTreeSet, sync::Arc};

use malha_model::{NodeState, Task, TaskId, TaskState};
use malha_simcluster::SimNode;
use malha_store::State;

use super::{Verdict, violated};

pub fn check(node: &SimNode, state: &State) -> Verdict {
    let name = &node.name;
    let status = state.node(&node.id).map(|n| n.status.state);
    if status != Some(NodeState::Ready) {
        return Err(violated("containers", format_args!("{name} is {status:?} after the mending")));
    }
    let runs = |t: &&Arc<Task>| t.status.state == TaskState::Running && !t.is_attachment();
    let stored: BTreeSet<TaskId> = state.tasks_of_node(&node.id).filter(runs).map(|t| t.id.clone()).collect();
    let running: BTreeSet<TaskId> = node.machine.running().iter().map(|t| t.id.clone()).collect();
    if stored != running {
        return Err(violated("containers", format_args!("{name} runs {running:?}, the store says {stored:?}")));
    }
    let stray = node.machine.containers().into_iter().find(|t| state.task(&t.id).is_none());
    match stray {
        Some(task) => Err(violated("containers", format_args!("{name} still has a container of {}", task.id))),
        None => Ok(()),
    }
}
