//! A cheap test for the common case: the service is as it should be, nothing of it is due.

use malha_model::{Service, Task, TaskState, UpdateState};
use malha_store::State;

use super::{
    Rules, global, is_dirty, node_of, restart,
    slot::{Key, Slots},
};

/// True only where none of the steps of `orchestrate` would do anything, now or later, unless an object changes.
pub(crate) fn is_quiet(state: &State, service: &Service, slots: &Slots, rules: &Rules) -> bool {
    if service.update_status.as_ref().is_some_and(|s| s.state == UpdateState::Updating) {
        return false;
    }
    let complete = if service.spec.is_global() {
        // Slots of nodes that do not fit are told apart below: their tasks are not content.
        global::fitting_nodes(state, service).all(|n| slots.contains_key(&Key::Node(n.id.clone())))
    } else {
        slots.len() as u64 == service.spec.replicas()
    };
    complete
        && slots.values().all(|slot| {
            let mut runnable = slot.runnable();
            let content =
                runnable.next().is_some_and(|t| is_content(state, service, t, rules)) && runnable.next().is_none();
            let ended = |t: &Task| t.desired_state <= TaskState::Running || t.status.state.is_terminal();
            content && rules.history.is_none_or(|limit| slot.0.len() <= limit.max(1)) && slot.0.iter().all(|t| ended(t))
        })
}

/// Runs or is on its way, where it should, as it should.
fn is_content(state: &State, service: &Service, task: &Task, rules: &Rules) -> bool {
    let node = node_of(state, task);
    let fits = || !service.spec.is_global() || node.is_some_and(|n| global::fits(service, n));
    let alive = task.desired_state == TaskState::Running && !task.status.state.is_terminal();
    alive && fits() && restart::evicted(state, service, task, rules).is_none() && !is_dirty(service, task, node)
}
