//! Keeps a global service on every node that fits.

use std::{collections::BTreeSet, sync::Arc};

use malha_model::{Availability, Node, Service, TaskState};
use malha_store::{State, Tx};

use super::{
    constraints, is_lost,
    restart::stays_dead,
    set_desired,
    slot::{self, Key, Slots},
};
use crate::{Ctx, scheduler::constraint::node_matches};

/// One task for every node that is there and satisfies the constraints; none elsewhere. A paused node keeps what it has.
pub(crate) fn place(tx: &mut Tx, ctx: &mut Ctx<'_>, service: &Service, slots: &Slots) {
    let nodes: Vec<Arc<Node>> = fitting_nodes(tx, service).cloned().collect();
    let keys: BTreeSet<Key> = nodes.iter().map(|n| Key::Node(n.id.clone())).collect();
    for (_, slot) in slots.iter().filter(|(key, _)| !keys.contains(key)) {
        if tx.is_full() {
            return;
        }
        slot.runnable().for_each(|t| set_desired(tx, t, TaskState::Shutdown));
    }
    for node in nodes.iter().filter(|n| n.spec.availability == Availability::Active) {
        if tx.is_full() {
            return;
        }
        let key = Key::Node(node.id.clone());
        let slot = slots.get(&key);
        if slot.is_none_or(|s| !s.is_runnable() && !stays_dead(service, s)) {
            let task = slot::new_task(ctx, service, &key, slot);
            tx.put(task);
        }
    }
}

pub(crate) fn fitting_nodes<'a>(state: &'a State, service: &'a Service) -> impl Iterator<Item = &'a Arc<Node>> {
    state.nodes().filter(|n| fits(service, n))
}

pub(crate) fn fits(service: &Service, node: &Node) -> bool {
    !is_lost(Some(node)) && node_matches(constraints(&service.spec.task_template), node)
}
