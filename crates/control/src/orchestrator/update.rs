//! Rolling updates: dirty tasks are replaced a few at a time, watched, and the update is paused when too many fail.
//!
//! Progress is not kept anywhere: tasks that an update made carry `by_update`, so how many slots are in work, which ones
//! failed and when the last one settled is read off the tasks of the current `spec_version`.
//!
//! With `start-first` a slot's new task comes before the old one goes, unless both want the same host-mode port: the new
//! one might wait for ever for what the old one has. Such a slot is updated stop-first, whatever nodes there are: which of
//! them has the port to spare may change before the task gets there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malha_model::{
    Availability, Service, Task, TaskState, Timestamp, UpdateConfig, UpdateState, UpdateStatus, defaults,
};
use malha_store::Tx;

use super::{
    global, is_dirty, node_of, restart, set_desired,
    slot::{self, Key, Slot, Slots},
    still_waits,
};
use crate::{Ctx, reconcile::Wake, scheduler::host_ports};

pub(crate) fn step(tx: &mut Tx, ctx: &mut Ctx<'_>, wake: &mut Wake, service: &Arc<Service>, slots: &Slots) {
    for slot in slots.values() {
        // without what it stands on, an update is not to be judged
        if tx.is_full() {
            return;
        }
        retire_replaced(tx, service, slot);
    }
    let state = service.update_status.as_ref().map(|s| s.state);
    if !matches!(state, None | Some(UpdateState::Updating | UpdateState::Completed)) {
        return;
    }
    let dirty: BTreeMap<&Key, &Slot> = slots.iter().filter(|(_, s)| needs_update(tx, service, s)).collect();
    if dirty.is_empty() && state != Some(UpdateState::Updating) {
        return;
    }
    let config = config(service);
    let mut made: Vec<Arc<Task>> = made_by_update(tx, service);
    if state != Some(UpdateState::Updating) {
        made.clear();
        set_status(tx, service, UpdateState::Updating, "update in progress", ctx.now);
    } else if let Some(task) = failure(&config, &made, dirty.len()) {
        let message = format!("update paused due to failure or early termination of task {}", task.id);
        set_status(tx, service, UpdateState::Paused, &message, ctx.now);
        return;
    }
    let delay = duration(config.delay);
    let mut busy = made.iter().filter(|t| is_busy(t, delay, ctx.now, wake)).count();
    let parallelism = match config.parallelism {
        0 => usize::MAX,
        n => usize::try_from(n).unwrap_or(usize::MAX),
    };
    let mut left = dirty.len();
    for (key, slot) in dirty {
        if busy >= parallelism || tx.is_full() {
            break;
        }
        replace(tx, ctx, service, key, slot, &config);
        (busy, left) = (busy + 1, left - 1);
    }
    if left == 0 && settled(&made_by_update(tx, service), &config, ctx.now, wake) {
        set_status(tx, service, UpdateState::Completed, "update completed", ctx.now);
    }
}

/// With start-first two tasks of a slot run side by side until the new one is up. One that is what the service asks for
/// wins over all older ones and over newer ones that are not (the user took an update back); otherwise the newest does.
fn retire_replaced(tx: &mut Tx, service: &Service, slot: &Slot) {
    let clean = |t: &Task| !is_dirty(service, t, node_of(tx, t));
    let up: Vec<&Arc<Task>> = slot.runnable().rev().filter(|t| t.status.state == TaskState::Running).collect();
    let Some(winner) = up.iter().find(|t| clean(t)).or(up.first()).map(|t| t.id.clone()) else { return };
    let older = slot.runnable().take_while(|t| t.id != winner);
    let newer = slot.runnable().skip_while(|t| t.id != winner).skip(1);
    let wrong = newer.filter(|t| slot.runnable().any(|w| w.id == winner && clean(w)) && !clean(t));
    let losers: Vec<Arc<Task>> = older.chain(wrong).cloned().collect();
    for loser in losers {
        set_desired(tx, &loser, TaskState::Shutdown);
    }
}

/// Something dirty is to run in the slot, or ended there for good, and nothing newer is on its way. A paused global node
/// keeps what it has.
fn needs_update(tx: &Tx, service: &Service, slot: &Slot) -> bool {
    let paused = |t: &Task| t.slot == 0 && node_of(tx, t).is_some_and(|n| n.spec.availability == Availability::Pause);
    if slot.is_runnable() {
        return slot.runnable().all(|t| is_dirty(service, t, node_of(tx, t)) && !paused(t));
    }
    let ended = slot.newest().filter(|_| restart::stays_dead(service, slot));
    ended.is_some_and(|t| is_outdated(tx, service, t) && !paused(t))
}

/// As `is_dirty`, for a task that has ended: its node matters only to new constraints, and where a new one would run.
fn is_outdated(tx: &Tx, service: &Service, task: &Task) -> bool {
    let node = node_of(tx, task);
    let moved = service.spec.task_template.placement != task.spec.placement;
    let place = task.slot != 0 || node.is_some_and(|n| global::fits(service, n));
    place && is_dirty(service, task, node.filter(|_| moved))
}

fn replace(tx: &mut Tx, ctx: &mut Ctx<'_>, service: &Service, key: &Key, slot: &Slot, config: &UpdateConfig) {
    let mut new = slot::new_task(ctx, service, key, Some(slot));
    new.by_update = true;
    if config.order != "start-first" || shares_port(&new, slot) {
        new.desired_state = TaskState::Ready;
        new.start_after = Some(ctx.now);
        slot.runnable().for_each(|t| set_desired(tx, t, TaskState::Shutdown));
    }
    tx.put(new);
}

/// The new task wants a port of its node that what runs in the slot has.
fn shares_port(new: &Task, slot: &Slot) -> bool {
    let wanted: BTreeSet<_> = host_ports(new).collect();
    slot.runnable().flat_map(|t| host_ports(t)).any(|held| wanted.contains(&held))
}

fn made_by_update(tx: &Tx, service: &Service) -> Vec<Arc<Task>> {
    let made = |t: &&Arc<Task>| t.by_update && t.spec_version == service.spec_version;
    tx.tasks_of_service(&service.id).filter(made).cloned().collect()
}

/// True while the task keeps one of the update's workers: until it is up, and then for the delay.
fn is_busy(task: &Task, delay: Duration, now: Timestamp, wake: &mut Wake) -> bool {
    match task.started_at {
        None => task.desired_state <= TaskState::Running,
        Some(at) if still_waits(now, at.plus(delay), delay) => {
            wake.at(at.plus(delay));
            true
        }
        Some(_) => false,
    }
}

/// The last failed task, once too many of the update's tasks ended early.
fn failure<'a>(config: &UpdateConfig, made: &'a [Arc<Task>], dirty: usize) -> Option<&'a Arc<Task>> {
    if config.failure_action == "continue" {
        return None;
    }
    let monitor = monitor(config);
    let early = |t: &&Arc<Task>| {
        let by_itself = matches!(t.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected);
        by_itself && t.started_at.is_none_or(|at| t.state_at.since(at) <= monitor)
    };
    let failed: Vec<_> = made.iter().filter(early).collect();
    #[allow(clippy::cast_precision_loss, reason = "slots are few")]
    let ratio = failed.len() as f64 / (made.len() + dirty).max(1) as f64;
    failed.into_iter().max_by_key(|t| (t.state_at, t.id.clone())).filter(|_| ratio > config.max_failure_ratio)
}

/// True once every task of the update has been up for the monitor time (or is not to run any more).
fn settled(made: &[Arc<Task>], config: &UpdateConfig, now: Timestamp, wake: &mut Wake) -> bool {
    let monitor = monitor(config);
    let mut all = true;
    for task in made {
        match task.started_at {
            None => all &= task.desired_state > TaskState::Running,
            Some(at) if still_waits(now, at.plus(monitor), monitor) => {
                wake.at(at.plus(monitor));
                all = false;
            }
            Some(_) => {}
        }
    }
    all
}

fn config(service: &Service) -> UpdateConfig {
    service.spec.update_config.clone().unwrap_or_else(defaults::update_config)
}

fn monitor(config: &UpdateConfig) -> Duration {
    config.monitor.filter(|m| *m > 0).map_or(defaults::UPDATE_MONITOR, duration)
}

fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

fn set_status(tx: &mut Tx, service: &Service, state: UpdateState, message: &str, now: Timestamp) {
    let Some(held) = tx.service(&service.id) else { return };
    let mut service = (**held).clone();
    let started_at = match (&service.update_status, state) {
        (Some(status), UpdateState::Paused | UpdateState::Completed) => status.started_at,
        _ => Some(now),
    };
    let completed_at = (state == UpdateState::Completed).then_some(now);
    service.update_status = Some(UpdateStatus { state, started_at, completed_at, message: message.to_owned() });
    tx.put(service);
}
