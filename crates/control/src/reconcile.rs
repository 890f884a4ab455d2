//! One pass of everything that brings the objects to where they should be.

use std::{sync::Arc, time::Duration};

use malha_model::{NodeState, Task, TaskState, Timestamp, defaults};
use malha_store::Tx;

use crate::{Ctx, Outlook, allocator, orchestrator, reaper, scheduler, scope::Scope, status};

/// The earliest moment at which something becomes due without any write.
#[derive(Debug)]
pub(crate) struct Wake {
    now: Timestamp,
    pub(crate) next: Option<Timestamp>,
}

impl Wake {
    pub(crate) fn after(now: Timestamp) -> Self {
        Self { now, next: None }
    }

    pub(crate) fn at(&mut self, at: Timestamp) {
        if at > self.now {
            self.next = Some(self.next.map_or(at, |n| n.min(at)));
        }
    }
}

/// Rounds after which a pass ends although it still writes; a settled state needs two.
const MAX_ROUNDS: usize = 16;
/// Before a state that did not settle is looked at again.
const UNSETTLED: Duration = Duration::from_secs(1);

/// Runs all loops over `tx` until none has anything left to do at `ctx.now`. Called again at the same time it writes
/// nothing. Returns when it has to be called although nothing was written.
///
/// `known` is what the pass before returned, where `tx` started from the very state that it left; only what was touched
/// or became due since is looked at then.
///
/// Where `tx` has no room left, the pass ends with what it has: a state as good as any, and the next pass is due at once.
pub fn reconcile(tx: &mut Tx, ctx: &mut Ctx<'_>, known: Option<&Outlook>) -> Outlook {
    let known = known.filter(|k| k.unsettled.is_none());
    let mut outlook = Outlook { made_at: ctx.now, ..known.cloned().unwrap_or_default() };
    for _ in 0..MAX_ROUNDS {
        if tx.is_full() {
            outlook.unsettled = Some(ctx.now);
            return outlook;
        }
        let before = tx.writes();
        let scope = Scope::of(tx, known, ctx.now);
        round(tx, ctx, &scope, &mut outlook);
        if tx.writes() == before {
            return outlook;
        }
    }
    tracing::warn!("reconciliation did not settle in {MAX_ROUNDS} rounds");
    outlook.unsettled = Some(ctx.now.plus(UNSETTLED));
    outlook
}

fn round(tx: &mut Tx, ctx: &mut Ctx<'_>, scope: &Scope, outlook: &mut Outlook) {
    outlook.orphans = orphan(tx, ctx);
    orchestrator::run(tx, ctx, scope, outlook);
    let unsettled: Vec<Arc<Task>> = tx.tasks_unassigned().cloned().collect();
    if !unsettled.is_empty() {
        settle(tx, ctx, unsettled, scope);
    }
    reaper::run(tx, scope);
}

/// Takes tasks without a node a step on: given up, allocated, scheduled.
fn settle(tx: &mut Tx, ctx: &mut Ctx<'_>, unsettled: Vec<Arc<Task>>, scope: &Scope) {
    let (given_up, wanted): (Vec<_>, Vec<_>) =
        unsettled.into_iter().partition(|t| t.desired_state > TaskState::Running);
    for task in given_up.iter().filter(|t| t.desired_state < TaskState::Remove) {
        if tx.is_full() {
            return;
        }
        let mut task = (**task).clone();
        let err = std::mem::take(&mut task.status.err);
        status::advance(&mut task, ctx, TaskState::Shutdown, "shutdown");
        task.status.err = err;
        tx.put(task);
    }
    let new: Vec<Arc<Task>> = wanted.into_iter().filter(|t| t.status.state == TaskState::New).collect();
    let placing = !new.is_empty() || scope.may_place(tx);
    allocator::allocate_tasks(tx, ctx, new);
    if placing {
        scheduler::run(tx, ctx);
    }
}

/// Tasks of a node that has been down for a day are written off. Returns when the next ones are.
fn orphan(tx: &mut Tx, ctx: &Ctx<'_>) -> Option<Timestamp> {
    let mut wake = Wake::after(ctx.now);
    let mut lost = Vec::new();
    for node in tx.nodes().filter(|n| n.status.state == NodeState::Down) {
        let due = node.down_since.unwrap_or(node.meta.updated_at).plus(defaults::ORPHAN_AFTER);
        let mut tasks = tx.tasks_of_node(&node.id).filter(|t| t.may_have_container()).peekable();
        if due > ctx.now {
            if tasks.peek().is_some() {
                wake.at(due);
            }
        } else {
            lost.extend(tasks.map(|t| (**t).clone()));
        }
    }
    for mut task in lost {
        if tx.is_full() {
            break;
        }
        status::advance(&mut task, ctx, TaskState::Orphaned, "Task's node has been down for 24 hours");
        tx.put(task);
    }
    wake.next
}
