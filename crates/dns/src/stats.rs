//! What was asked and what became of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the sandbox was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    pub queries: u64,
    /// Answered from the zone.
    pub local: u64,
    pub forwarded: u64,
    /// Forwarded without an answer: SERVFAIL.
    pub failed: u64,
    /// Not forwarded because too many were under way: REFUSED.
    pub refused: u64,
    /// Not a query at all.
    pub dropped: u64,
}

impl Stats {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            queries: self.queries + other.queries,
            local: self.local + other.local,
            forwarded: self.forwarded + other.forwarded,
            failed: self.failed + other.failed,
            refused: self.refused + other.refused,
            dropped: self.dropped + other.dropped,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) local: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let (local, forwarded, refused) = (read(&self.local), read(&self.forwarded), read(&self.refused));
        Stats {
            queries: local + forwarded + refused,
            local,
            forwarded,
            failed: read(&self.failed),
            refused,
            dropped: read(&self.dropped),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
