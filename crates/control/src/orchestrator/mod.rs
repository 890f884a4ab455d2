//! From services to tasks: how many there are, on what they are replaced, and when they may start.

mod crowd;
mod dirty;
mod global;
mod quiet;
mod replicated;
mod restart;
pub(crate) mod slot;
mod update;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use malha_model::{Availability, Kind, Node, NodeState, Service, Task, TaskId, TaskState, Timestamp};
use malha_store::{State, Tx};

pub use self::dirty::is_dirty;
use self::slot::Slots;
use crate::{Ctx, Outlook, reaper, reconcile::Wake, scope::Scope};

/// What holds for all services in one run.
pub(crate) struct Rules {
    history: Option<usize>,
    crowded_out: BTreeSet<TaskId>,
}

pub(crate) fn run(tx: &mut Tx, ctx: &mut Ctx<'_>, scope: &Scope, outlook: &mut Outlook) {
    let rules = Rules { history: reaper::history_limit(tx), crowded_out: crowd::out(tx, &scope.nodes(tx)) };
    for id in scope.services(tx) {
        if tx.is_full() {
            return;
        }
        outlook.services.remove(&id);
        let Some(service) = tx.service(&id).cloned() else { continue };
        if service.pending_delete {
            remove_all(tx, &service);
            continue;
        }
        let slots = slot::read(tx, &service);
        if !quiet::is_quiet(tx, &service, &slots, &rules) {
            let mut wake = Wake::after(ctx.now);
            orchestrate(tx, ctx, &mut wake, &service, slots, &rules);
            outlook.services.extend(wake.next.map(|at| (id, at)));
        }
    }
}

fn orchestrate(
    tx: &mut Tx,
    ctx: &mut Ctx<'_>,
    wake: &mut Wake,
    service: &Arc<Service>,
    mut slots: Slots,
    rules: &Rules,
) {
    let mut seen = tx.writes();
    let mut refresh = |tx: &Tx, slots: &mut Slots| {
        if tx.writes() != seen {
            seen = tx.writes();
            *slots = slot::read(tx, service);
        }
    };
    restart::replace_ended(tx, ctx, service, &slots, rules);
    refresh(tx, &mut slots);
    if service.spec.is_global() {
        global::place(tx, ctx, service, &slots);
    } else {
        replicated::scale(tx, ctx, service, &slots);
    }
    refresh(tx, &mut slots);
    update::step(tx, ctx, wake, service, &slots);
    refresh(tx, &mut slots);
    restart::start_ready(tx, ctx, wake, service, &slots);
    for task in reaper::beyond_history(tx, service, &slots, rules.history) {
        if tx.is_full() {
            return;
        }
        tx.delete(Kind::Task, &task.id);
    }
}

fn remove_all(tx: &mut Tx, service: &Service) {
    let tasks: Vec<_> = tx.tasks_of_service(&service.id).cloned().collect();
    for task in tasks {
        if tx.is_full() {
            return;
        }
        set_desired(tx, &task, TaskState::Remove);
    }
}

/// Writes the task's new desired state; it only ever advances.
fn set_desired(tx: &mut Tx, task: &Task, desired: TaskState) {
    let held = tx.task(&task.id).filter(|t| t.desired_state < desired);
    if let Some(held) = held.map(|t| (**t).clone()) {
        tx.put(Task { desired_state: desired, ..held });
    }
}

/// The node cannot keep service tasks: gone, down or drained.
fn is_lost(node: Option<&Node>) -> bool {
    node.is_none_or(|n| n.status.state == NodeState::Down || n.spec.availability == Availability::Drain)
}

/// Whether a wait of `length` that ends at `until` is still on. Clocks differ from leader to leader and may be set back: a
/// wait that has more than twice its length to go was begun by another clock, and is over.
fn still_waits(now: Timestamp, until: Timestamp, length: Duration) -> bool {
    now < until && until.since(now) <= length * 2
}

fn node_of<'a>(state: &'a State, task: &Task) -> Option<&'a Node> {
    task.node.as_ref().and_then(|id| state.node(id)).map(|n| &**n)
}

fn constraints(spec: &malha_model::TaskSpec) -> &[String] {
    spec.placement.as_ref().map_or(&[], |p| &p.constraints)
}
