//! What must hold of a cluster that has come to rest: nodes agree with the state.

use std::collections::BTreeSet;

use malha_control::{network_view, networks_of_node};
use malha_model::{NetworkView, NodeState, TaskId, TaskState};
use malha_store::State;

use crate::{SimCluster, SimNode};

impl SimCluster {
    /// What keeps this cluster from rest; `None` once every live node runs what the state says and shows it.
    pub fn unrest(&self) -> Option<String> {
        let state = self.state();
        for node in self.nodes.iter().filter(|n| n.is_up()) {
            let known = state.node(&node.id)?;
            if known.status.state != NodeState::Ready {
                return Some(format!("{} is {:?}", node.name, known.status.state));
            }
            if let Some(what) = containers_differ(node, &state).or_else(|| networks_differ(node, &state)) {
                return Some(format!("{}: {what}", node.name));
            }
        }
        None
    }
}

fn containers_differ(node: &SimNode, state: &State) -> Option<String> {
    let wanted = |t: &&std::sync::Arc<malha_model::Task>| {
        t.desired_state == TaskState::Running && t.status.state == TaskState::Running && !t.is_attachment()
    };
    let told: BTreeSet<TaskId> = state.tasks_of_node(&node.id).filter(wanted).map(|t| t.id.clone()).collect();
    let runs: BTreeSet<TaskId> = node.machine.running().iter().map(|t| t.id.clone()).collect();
    if told != runs {
        return Some(format!("runs {runs:?} instead of {told:?}"));
    }
    let known: BTreeSet<TaskId> = state.tasks_of_node(&node.id).map(|t| t.id.clone()).collect();
    let stray = node.machine.containers().iter().find(|t| !known.contains(&t.id)).map(|t| t.id.clone());
    stray.map(|id| format!("still has a container of {id}"))
}

fn networks_differ(node: &SimNode, state: &State) -> Option<String> {
    let Some(applied) = node.machine.networks() else { return Some("no networks applied".to_owned()) };
    let on = networks_of_node(state, &node.id);
    let shown: BTreeSet<_> = applied.views.keys().cloned().collect();
    if on != shown {
        return Some(format!("is on {shown:?} instead of {on:?}"));
    }
    for (id, view) in &applied.views {
        let expected = network_view(state, id).map(|v| NetworkView { seq: view.seq, ..v });
        if expected.as_ref() != Some(&**view) {
            return Some(format!("shows {view:#?} instead of {expected:#?}"));
        }
    }
    let running: BTreeSet<TaskId> = node.machine.running().iter().map(|t| t.id.clone()).collect();
    let planned: BTreeSet<TaskId> = applied.tasks.iter().map(|t| t.id.clone()).collect();
    let missing = running.iter().find(|t| !planned.contains(*t) && !applied.views.is_empty() && on_any(state, t));
    missing.map(|t| format!("{t} runs without its networks"))
}

fn on_any(state: &State, task: &TaskId) -> bool {
    state.task(task).is_some_and(|t| !t.networks.is_empty())
}
