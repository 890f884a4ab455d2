//! Replicas are right: what was asked for runs, what was given up has ended, what was removed is gone.

use std::collections::BTreeSet;

use malha_model::{Availability, Service, TaskState};
use malha_store::State;

use super::{Verdict, violated};

pub fn check(state: &State) -> Verdict {
    for service in state.services() {
        if service.pending_delete {
            return Err(violated("replicas", format_args!("{} was never removed", service.id)));
        }
        let running = running(state, service);
        let expected = if service.spec.is_global() { eligible(state) } else { service.spec.replicas() as usize };
        if running.len() != expected {
            let (name, runs) = (&service.spec.name, running.len());
            let tasks: Vec<String> = state.tasks_of_service(&service.id).map(|t| describe(t)).collect();
            let tasks = tasks.join(", ");
            return Err(violated("replicas", format_args!("{runs} of {expected} of {name} run: {tasks}")));
        }
        let distinct: BTreeSet<_> = running.iter().collect();
        if distinct.len() != running.len() {
            return Err(violated("replicas", format_args!("{} has a slot twice: {running:?}", service.spec.name)));
        }
    }
    if let Some(network) = state.networks().find(|n| n.pending_delete) {
        return Err(violated("replicas", format_args!("network {} was never removed", network.id)));
    }
    for task in state.tasks() {
        if task.desired_state > TaskState::Running && !task.status.state.is_terminal() {
            return Err(violated("replicas", format_args!("{} still is {}", task.name(), task.status.state)));
        }
        if task.service.as_ref().is_some_and(|s| state.service(s).is_none()) {
            return Err(violated("replicas", format_args!("{} outlived its service", task.id)));
        }
    }
    Ok(())
}

fn describe(task: &malha_model::Task) -> String {
    let node = task.node.as_ref().map_or("nowhere", |n| n.as_str());
    let (is, desired) = (task.status.state, task.desired_state);
    format!("{}.{} on {node} is {is}, to be {desired}, {:?}", task.slot, task.id, task.status.err)
}

/// Slot, or node for a global service, of each task that runs.
fn running(state: &State, service: &Service) -> Vec<(u64, Option<String>)> {
    let runs = |t: &&std::sync::Arc<malha_model::Task>| {
        t.status.state == TaskState::Running && t.desired_state == TaskState::Running
    };
    let slot = |t: &std::sync::Arc<malha_model::Task>| {
        let node = t.node.as_ref().filter(|_| t.slot == 0).map(ToString::to_string);
        (t.slot, node)
    };
    state.tasks_of_service(&service.id).filter(runs).map(slot).collect()
}

fn eligible(state: &State) -> usize {
    state.nodes().filter(|n| n.spec.availability == Availability::Active).count()
}
