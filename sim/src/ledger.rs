//! What users were promised: each acknowledged request, until a later one may have undone it.
//!
//! Every spec that a user sends carries a number in the label [`REV`]. The driver has at most one request under way per
//! object, and updates name the version they were made from. So once one is acknowledged, no earlier one of unknown
//! outcome can still take effect.

use std::collections::{BTreeMap, BTreeSet};

use malha_model::{Kind, Labels};
use malha_store::State;

pub(crate) const REV: &str = "rev";

pub(crate) type Key = (Kind, String);

#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<Key, Promise>);

#[derive(Debug)]
struct Promise {
    /// Holds for states from this index on.
    since: u64,
    rev: u64,
    /// Updates that may have taken effect, or may yet.
    maybe: BTreeSet<u64>,
    removal: Removal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    NotAsked,
    Asked,
    Done,
}

/// How a request ended, for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Acknowledged,
    /// Nothing was changed.
    Refused,
    /// It may take effect, or not.
    Unknown,
}

impl Ledger {
    pub(crate) fn exists(&mut self, key: Key, rev: u64, newest: u64) {
        let promise = Promise { since: newest, rev, maybe: BTreeSet::new(), removal: Removal::NotAsked };
        self.0.insert(key, promise);
    }

    pub(crate) fn updating(&mut self, key: &Key, rev: u64) {
        if let Some(promise) = self.0.get_mut(key) {
            promise.maybe.insert(rev);
        }
    }

    pub(crate) fn updated(&mut self, key: &Key, rev: u64, ending: Ending, newest: u64) {
        let Some(promise) = self.0.get_mut(key) else { return };
        match ending {
            Ending::Acknowledged => {
                promise.since = newest;
                promise.rev = rev;
                promise.maybe.clear();
            }
            Ending::Refused => {
                promise.maybe.remove(&rev);
            }
            Ending::Unknown => {}
        }
    }

    pub(crate) fn removing(&mut self, key: &Key) {
        if let Some(promise) = self.0.get_mut(key).filter(|p| p.removal == Removal::NotAsked) {
            promise.removal = Removal::Asked;
        }
    }

    pub(crate) fn removed(&mut self, key: &Key, newest: u64) {
        if let Some(promise) = self.0.get_mut(key) {
            promise.since = newest;
            promise.removal = Removal::Done;
        }
    }

    /// Objects that nobody asked to remove.
    pub(crate) fn kept(&self, kind: Kind) -> Vec<String> {
        let kept = |(key, promise): (&Key, &Promise)| {
            (key.0 == kind && promise.removal == Removal::NotAsked).then(|| key.1.clone())
        };
        self.0.iter().filter_map(kept).collect()
    }

    /// The first promise that `state` breaks.
    pub(crate) fn broken_by(&self, state: &State) -> Option<String> {
        self.0.iter().filter(|(_, p)| state.index() >= p.since).find_map(|(key, promise)| promise.broken(key, state))
    }

    pub(crate) fn broken_at_rest(&self, state: &State) -> Option<String> {
        self.0.iter().find_map(|(key, promise)| promise.broken(key, state))
    }
}

impl Promise {
    fn broken(&self, key: &Key, state: &State) -> Option<String> {
        let found = rev_of(key, state);
        let (kind, id) = key;
        match (self.removal, found) {
            (Removal::Asked, _) | (Removal::Done, None) => None,
            (Removal::NotAsked, None) => Some(format!("{kind:?} {id} is gone; rev {} was acknowledged", self.rev)),
            (Removal::Done, Some(_)) => Some(format!("{kind:?} {id} is there again, after its removal")),
            (Removal::NotAsked, Some(rev)) if rev == self.rev || self.maybe.contains(&rev) => None,
            (Removal::NotAsked, Some(rev)) => {
                Some(format!("{kind:?} {id} is at rev {rev}; rev {} was acknowledged", self.rev))
            }
        }
    }
}

/// The number in the object's spec; `None` where the object is gone for the user.
fn rev_of((kind, id): &Key, state: &State) -> Option<u64> {
    let rev = |labels: &Labels| labels.get(REV).and_then(|rev| rev.parse().ok()).unwrap_or(0);
    match kind {
        Kind::Service => state.service(&id.as_str().into()).filter(|s| !s.pending_delete).map(|s| rev(&s.spec.labels)),
        Kind::Network => state.network(&id.as_str().into()).filter(|n| !n.pending_delete).map(|n| rev(&n.spec.labels)),
        Kind::Node => state.node(&id.as_str().into()).map(|n| rev(&n.spec.labels)),
        Kind::Task | Kind::Cluster => None,
    }
}
