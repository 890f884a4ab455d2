//! Replaces tasks that ended or lost their node, and lets replacements start when their time has come.

use std::time::Duration;

use malha_model::{Node, NodeState, RestartPolicy, Service, Task, TaskState, Timestamp, defaults};
use malha_store::{State, Tx};

use super::{
    Rules, constraints, is_dirty, is_lost, node_of, set_desired,
    slot::{self, Key, Slot, Slots},
    still_waits,
};
use crate::{Ctx, reconcile::Wake, scheduler::constraint::node_matches};

/// A replacement waits this long at most for its predecessor to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Tasks that were to run but ended, or whose node is lost or no longer fits, are told to stop; where the policy says
/// so, the slot gets a new task.
pub(crate) fn replace_ended(tx: &mut Tx, ctx: &mut Ctx<'_>, service: &Service, slots: &Slots, rules: &Rules) {
    for (key, slot) in slots {
        for task in slot.runnable() {
            if tx.is_full() {
                return;
            }
            let why = self::evicted(tx, service, task, rules);
            let evicted = why.is_some();
            if !task.status.state.is_terminal() && !evicted {
                continue;
            }
            // One that ended while it got ready keeps its turn: the delay before it is the pace of a crash loop.
            let waits = task.start_after.is_some_and(|at| still_waits(ctx.now, at, delay(service)));
            if task.desired_state == TaskState::Ready && !evicted && waits {
                continue;
            }
            if let Some(text) = why.and_then(Evicted::text).filter(|_| !task.status.state.is_terminal()) {
                explain(tx, ctx, task, text);
            }
            set_desired(tx, task, TaskState::Shutdown);
            // A global task belongs to its node: one that is lost gets no replacement.
            let place = matches!(key, Key::Number(_)) || !evicted;
            if place && !has_successor(tx, service, slot, task, rules) && may_restart(service, task) {
                let new = replacement(ctx, service, key, slot, task, evicted);
                tx.put(new);
            }
        }
    }
}

/// Why a task may not stay on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evicted {
    NodeLost,
    Constraints,
    Resources,
}

impl Evicted {
    /// What the user reads of it beside the task; the node says what happened to it.
    fn text(self) -> Option<&'static str> {
        match self {
            Self::NodeLost => None,
            Self::Constraints => Some("assigned node no longer meets constraints"),
            Self::Resources => Some("assigned node no longer has the reserved resources"),
        }
    }
}

pub(crate) fn evicted(tx: &State, service: &Service, task: &Task, rules: &Rules) -> Option<Evicted> {
    task.node.as_ref()?;
    let node = node_of(tx, task);
    if is_lost(node) {
        Some(Evicted::NodeLost)
    } else if no_longer_fits(service, task, node) {
        Some(Evicted::Constraints)
    } else {
        rules.crowded_out.contains(&task.id).then_some(Evicted::Resources)
    }
}

/// Another task of the slot is on its way, or what the service asks for already runs there (start-first).
fn has_successor(tx: &Tx, service: &Service, slot: &Slot, task: &Task, rules: &Rules) -> bool {
    let newer = slot.runnable().skip_while(|t| t.id != task.id).nth(1).is_some();
    let holds = |t: &Task| {
        t.id != task.id
            && !t.status.state.is_terminal()
            && evicted(tx, service, t, rules).is_none()
            && !is_dirty(service, t, node_of(tx, t))
    };
    newer || slot.runnable().any(|t| holds(t))
}

/// The constraints of the task's own spec are enforced at once; newer ones come with the update.
fn no_longer_fits(service: &Service, task: &Task, node: Option<&Node>) -> bool {
    let current = task.spec_version == service.spec_version;
    node.is_some_and(|n| {
        n.spec.availability == malha_model::Availability::Active && current && !node_matches(constraints(&task.spec), n)
    })
}

fn explain(tx: &mut Tx, ctx: &Ctx<'_>, task: &Task, err: &str) {
    let mut task = task.clone();
    task.status.err = err.to_owned();
    task.status.timestamp = ctx.now;
    tx.put(task);
}

fn replacement(ctx: &mut Ctx<'_>, service: &Service, key: &Key, slot: &Slot, old: &Task, evicted: bool) -> Task {
    let mut new = slot::new_task(ctx, service, key, Some(slot));
    let delay = if evicted { Duration::ZERO } else { delay(service) };
    new.desired_state = TaskState::Ready;
    new.start_after = Some(ctx.now.plus(delay));
    if let Some(max) = limit(&policy(service)) {
        if old.spec_version == new.spec_version {
            new.restarts = old.restarts.clone();
        }
        if !evicted {
            new.restarts.push(ctx.now);
        }
        let excess = new.restarts.len().saturating_sub(usize::try_from(max).unwrap_or(usize::MAX));
        new.restarts.drain(..excess);
    }
    new
}

/// A slot in which nothing is to run and which the restart policy leaves at that. Only an update of what its task was
/// made from brings it back.
pub(crate) fn stays_dead(service: &Service, slot: &Slot) -> bool {
    !slot.is_runnable() && slot.newest().is_some_and(|t| !may_restart(service, t))
}

fn policy(service: &Service) -> RestartPolicy {
    service.spec.task_template.restart_policy.clone().unwrap_or_default()
}

/// Between the end of a task and the start of its replacement.
fn delay(service: &Service) -> Duration {
    match policy(service).delay {
        Some(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)),
        None => defaults::RESTART_DELAY,
    }
}

/// Most attempts that the policy allows; none where it does not limit them.
fn limit(policy: &RestartPolicy) -> Option<u64> {
    policy.max_attempts.filter(|n| *n > 0)
}

fn may_restart(service: &Service, task: &Task) -> bool {
    let policy = policy(service);
    let state = task.status.state;
    match policy.condition.as_str() {
        "none" => return false,
        "on-failure" if state == TaskState::Complete => return false,
        _ => {}
    }
    let by_itself = matches!(state, TaskState::Complete | TaskState::Failed | TaskState::Rejected);
    let Some(max) = limit(&policy).filter(|_| by_itself) else { return true };
    let window = policy.window.and_then(|w| u64::try_from(w).ok()).filter(|w| *w > 0).map(Duration::from_nanos);
    let recent = |at: &&Timestamp| window.is_none_or(|w| task.state_at.since(**at) <= w);
    (task.restarts.iter().filter(recent).count() as u64) < max
}

/// READY tasks may run once their delay is over and what was in their slot has stopped.
pub(crate) fn start_ready(tx: &mut Tx, ctx: &Ctx<'_>, wake: &mut Wake, service: &Service, slots: &Slots) {
    for slot in slots.values() {
        for task in slot.runnable().filter(|t| t.desired_state == TaskState::Ready) {
            let from = task.start_after.unwrap_or(task.meta.created_at);
            if still_waits(ctx.now, from, delay(service)) {
                wake.at(from);
                continue;
            }
            let patience = from.min(ctx.now).plus(STOP_PATIENCE);
            if still_waits(ctx.now, patience, STOP_PATIENCE) && has_stopping_predecessor(tx, slot) {
                wake.at(patience);
                continue;
            }
            if tx.is_full() {
                return;
            }
            set_desired(tx, task, TaskState::Running);
        }
    }
}

fn has_stopping_predecessor(state: &State, slot: &Slot) -> bool {
    slot.0.iter().any(|t| {
        let stopping = t.desired_state > TaskState::Running && !t.status.state.is_terminal();
        let assigned = t.status.state >= TaskState::Assigned;
        stopping && assigned && node_of(state, t).is_some_and(|n| n.status.state != NodeState::Down)
    })
}
