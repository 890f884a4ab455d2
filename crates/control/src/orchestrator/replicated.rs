//! Keeps a replicated service at its number of slots.

use std::collections::{BTreeMap, BTreeSet};

use malha_model::{NodeId, Service, TaskState};
use malha_store::Tx;

use super::{
    restart::stays_dead,
    set_desired,
    slot::{self, Key, Slot, Slots},
};
use crate::Ctx;

/// Adds slots from the lowest free number; takes away those that hurt least. Slots in which nothing is to run any more
/// and nothing ended for good are forgotten.
pub(crate) fn scale(tx: &mut Tx, ctx: &mut Ctx<'_>, service: &Service, slots: &Slots) {
    let mut kept: BTreeSet<Key> =
        slots.iter().filter(|(_, s)| s.is_runnable() || stays_dead(service, s)).map(|(k, _)| k.clone()).collect();
    let wanted = usize::try_from(service.spec.replicas()).unwrap_or(usize::MAX);
    // each that goes is at least one write
    for key in surplus(slots, &kept, kept.len().saturating_sub(wanted).min(tx.room())) {
        kept.remove(&key);
    }
    let mut number = 0;
    let missing = wanted.saturating_sub(kept.len());
    for _ in 0..missing {
        if tx.is_full() {
            return;
        }
        let key = loop {
            number += 1;
            let key = Key::Number(number);
            if !kept.contains(&key) {
                break key;
            }
        };
        let task = slot::new_task(ctx, service, &key, slots.get(&key));
        tx.put(task);
        kept.insert(key);
    }
    // newest first: where only a part of a slot is told for lack of room, it is the part that runs
    let gone = slots.iter().filter(|(key, _)| !kept.contains(key));
    for task in gone.flat_map(|(_, slot)| slot.0.iter().rev()) {
        if tx.is_full() {
            return;
        }
        set_desired(tx, task, TaskState::Remove);
    }
}

/// The `count` slots to take away: ended ones, then ones not running yet, then from the nodes with the most.
fn surplus(slots: &Slots, kept: &BTreeSet<Key>, count: usize) -> Vec<Key> {
    let mut left: BTreeMap<&Key, &Slot> = slots.iter().filter(|(k, _)| kept.contains(k)).collect();
    let mut on_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in left.values().filter_map(|s| node_of(s)) {
        *on_node.entry(node).or_default() += 1;
    }
    let mut out = Vec::new();
    for _ in 0..count {
        let worth = |key: &Key, slot: &Slot| {
            let crowd = node_of(slot).and_then(|n| on_node.get(&n).copied()).unwrap_or(0);
            (slot.is_runnable(), slot.is_running(), std::cmp::Reverse(crowd), std::cmp::Reverse(key.clone()))
        };
        let Some(key) = left.iter().min_by_key(|(k, s)| worth(k, s)).map(|(k, _)| (*k).clone()) else { break };
        if let Some(crowd) = left.remove(&key).and_then(node_of).and_then(|n| on_node.get_mut(&n)) {
            *crowd -= 1;
        }
        out.push(key);
    }
    out
}

fn node_of(slot: &Slot) -> Option<NodeId> {
    slot.runnable().last().and_then(|t| t.node.clone())
}
