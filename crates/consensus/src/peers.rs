//! What this member knows of the others beside what openraft keeps: where they are now, and what they have said to hold.
//!
//! openraft takes a member whose log went backwards for a fault of its own and panics. Such a member exists all the
//! same: somebody deleted its file. So what each member acknowledged to this leader is noted, and one that denies it is
//! treated as unreachable until it is removed.

use std::{collections::BTreeMap, sync::Arc};

use malha_model::NodeId;
use parking_lot::RwLock;

use crate::types::{LogId, Membership, Vote};

#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// From the last applied membership, so newer than what a link was made with.
    addrs: BTreeMap<NodeId, String>,
    /// The last entry that a member acknowledged, and the leader's vote under which it did.
    acknowledged: BTreeMap<NodeId, (Vote, LogId)>,
}

impl Peers {
    pub(crate) fn addr(&self, node: &NodeId) -> Option<String> {
        self.0.read().addrs.get(node).cloned()
    }

    /// Takes over an applied membership. Who leaves may come back with an empty log.
    pub(crate) fn learn(&self, membership: &Membership) {
        let addrs: BTreeMap<_, _> = membership.nodes().map(|(node, peer)| (node.clone(), peer.addr.clone())).collect();
        let mut inner = self.0.write();
        inner.acknowledged.retain(|node, _| addrs.contains_key(node));
        inner.addrs = addrs;
    }

    pub(crate) fn acknowledged(&self, node: &NodeId, vote: &Vote, upto: Option<LogId>) {
        let Some(upto) = upto else { return };
        let mut inner = self.0.write();
        // a late answer of one that has left: it would bar its return with an empty log
        if !inner.addrs.contains_key(node) {
            return;
        }
        match inner.acknowledged.get_mut(node) {
            Some((known, last)) if known == vote => *last = upto.max(*last),
            _ => drop(inner.acknowledged.insert(node.clone(), (vote.clone(), upto))),
        }
    }

    /// Whether `node` has acknowledged `entry` to the leader with this vote.
    pub(crate) fn had(&self, node: &NodeId, vote: &Vote, entry: Option<LogId>) -> bool {
        let inner = self.0.read();
        inner.acknowledged.get(node).is_some_and(|(known, last)| known == vote && entry.is_some_and(|e| e <= *last))
    }
}
