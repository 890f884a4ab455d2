//! One after the other: whoever does something to a thing first waits for what is being done to it.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// A queue for each name. One in which nobody stands is forgotten.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<String, Arc<Queue<()>>>>);

impl Turns {
    /// Waits for it; it lasts until it is dropped.
    pub(super) async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        self.queue(name).lock_owned().await
    }

    /// None where somebody else has it.
    pub(super) fn try_take(&self, name: &str) -> Option<OwnedMutexGuard<()>> {
        self.queue(name).try_lock_owned().ok()
    }

    fn queue(&self, name: &str) -> Arc<Queue<()>> {
        let mut queues = self.0.lock();
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        queues.entry(name.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_are_one_after_the_other_and_forgotten() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!((&mut second).now_or_never().is_none(), "it waits");
        assert!(turns.try_take("a").is_none() && turns.try_take("b").is_some(), "for nobody else");
        drop(first);
        drop(second.await);
        drop(turns.take("c").await);
        assert_eq!(turns.0.lock().len(), 1, "only the last is remembered");
    }
}
