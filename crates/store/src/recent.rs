//! What the last writes touched.
//!
//! Persistent maps have no cheap difference: who follows the states one after the other asks here where to look. It is no
//! part of a state's content, reaches a few writes back, and a state that was read from a snapshot begins without.

use std::{collections::BTreeSet, sync::Arc};

use malha_model::Kind;
use rpds::QueueSync;

use crate::Change;

/// Writes that are remembered.
const KEPT: usize = 16;

#[derive(Clone, Debug)]
pub(crate) struct Recent(QueueSync<Arc<Write>>);

#[derive(Debug)]
struct Write {
    /// Index of the state that it was applied to.
    base: u64,
    touched: Vec<(Kind, String)>,
}

impl Default for Recent {
    fn default() -> Self {
        Self(QueueSync::new_sync())
    }
}

impl Recent {
    pub(crate) fn push(&mut self, base: u64, changes: &[Change]) {
        let touched = changes.iter().map(|c| (c.kind(), c.id().to_owned())).collect();
        self.0.enqueue_mut(Arc::new(Write { base, touched }));
        while self.0.len() > KEPT {
            self.0.dequeue_mut();
        }
    }

    /// By all writes from the one on that was applied to the state of `base`.
    pub(crate) fn since(&self, base: u64) -> Option<BTreeSet<(Kind, &str)>> {
        let mut writes = self.0.iter().skip_while(|w| w.base != base).peekable();
        writes.peek()?;
        Some(writes.flat_map(|w| &w.touched).map(|(kind, id)| (*kind, id.as_str())).collect())
    }
}
