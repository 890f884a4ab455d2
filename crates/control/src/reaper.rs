//! Deletes what nobody needs any more: old tasks, services and networks that were removed.

use std::sync::Arc;

use malha_model::{Kind, Network, Service, Task, TaskState, UpdateState, defaults};
use malha_store::{State, Tx};

use crate::{
    allocator::holds_addresses,
    orchestrator::slot::{Key, Slot, Slots},
    scope::Scope,
};

pub(crate) fn run(tx: &mut Tx, scope: &Scope) {
    let finished: Vec<_> = scope.tasks(tx).iter().filter(|t| is_finished(tx, t)).map(|t| t.id.clone()).collect();
    for id in finished {
        if tx.is_full() {
            return;
        }
        tx.delete(Kind::Task, id);
    }
    let services: Vec<_> = tx.services().filter(|s| s.pending_delete && is_empty(tx, s)).cloned().collect();
    for service in services {
        tx.delete(Kind::Service, &service.id);
    }
    let networks: Vec<_> = tx.networks().filter(|n| n.pending_delete && is_unused(tx, n)).cloned().collect();
    for network in networks {
        tx.delete(Kind::Network, &network.id);
    }
}

fn is_empty(state: &State, service: &Service) -> bool {
    state.tasks_of_service(&service.id).next().is_none()
}

fn is_unused(state: &State, network: &Network) -> bool {
    let in_use = state.tasks_of_network(&network.id).any(|t| holds_addresses(t.status.state));
    !in_use && state.services_of_network(&network.id).next().is_none()
}

/// To be removed, and nothing of it is left on any node; or an attachment whose container has ended.
fn is_finished(state: &State, task: &Task) -> bool {
    if task.desired_state < TaskState::Remove && !task.is_attachment() {
        return false;
    }
    let gone = || task.node.as_ref().is_none_or(|n| state.node(n).is_none());
    task.status.state.is_terminal() || task.status.state < TaskState::Assigned || gone()
}

/// Tasks kept per slot; `None` keeps all.
pub(crate) fn history_limit(state: &State) -> Option<usize> {
    let limit = state.cluster().and_then(|c| c.spec.orchestration.task_history_retention_limit);
    usize::try_from(limit.unwrap_or(defaults::TASK_HISTORY)).ok()
}

/// What of the service's history may go.
pub(crate) fn beyond_history(state: &State, service: &Service, slots: &Slots, limit: Option<usize>) -> Vec<Arc<Task>> {
    let of_slot = |limit| move |(key, slot)| excess(state, service, key, slot, limit);
    limit.map_or_else(Vec::new, |limit| slots.iter().flat_map(of_slot(limit)).collect())
}

/// Ended tasks of the slot, oldest first, until no more than `limit` tasks are left. The last task of a slot stays: it
/// tells whether the slot is to be restarted; not so where the slot's node is gone. What a running update is judged by
/// stays too.
fn excess(state: &State, service: &Service, key: &Key, slot: &Slot, limit: usize) -> Vec<Arc<Task>> {
    let updating = service.update_status.as_ref().is_some_and(|s| s.state == UpdateState::Updating);
    let judged = |t: &Task| updating && t.by_update && t.spec_version == service.spec_version;
    let node_gone = matches!(key, Key::Node(node) if state.node(node).is_none());
    let (excess, candidates) = match slot.0.split_last() {
        Some((_, older)) if !node_gone => (slot.0.len().saturating_sub(limit), older),
        _ => (slot.0.len(), &slot.0[..]),
    };
    let ended = candidates.iter().filter(|t| t.desired_state > TaskState::Running && t.status.state.is_terminal());
    ended.filter(|t| !judged(t)).take(excess).cloned().collect()
}
