//! What this node has to say, until it is said.
//!
//! Kept apart from the session so that nothing here ever waits for the network: a newer status replaces an unsent one,
//! and all of it survives the loss of a session. What was sent and perhaps lost is offered again when the next session
//! shows that the managers do not know it.

use std::collections::{BTreeMap, BTreeSet};

use malha_model::{AgentMessage, NetworkId, TaskId, TaskStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: Mutex<Pending>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    statuses: BTreeMap<TaskId, TaskStatus>,
    applied: BTreeMap<NetworkId, u64>,
    resync: BTreeSet<NetworkId>,
}

impl Outbox {
    pub(crate) fn status(&self, task: TaskId, status: TaskStatus) {
        self.pending.lock().statuses.insert(task, status);
        self.filled.notify_one();
    }

    pub(crate) fn applied(&self, seqs: impl IntoIterator<Item = (NetworkId, u64)>) {
        self.pending.lock().applied.extend(seqs);
        self.filled.notify_one();
    }

    pub(crate) fn resync(&self, network: NetworkId) {
        self.pending.lock().resync.insert(network);
        self.filled.notify_one();
    }

    /// What belonged to the session that ended: a new one starts with whole views.
    pub(crate) fn session_ended(&self) {
        let mut pending = self.pending.lock();
        pending.applied.clear();
        pending.resync.clear();
    }

    /// Returns once there may be something to take.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<AgentMessage> {
        let Pending { statuses, applied, resync } = std::mem::take(&mut *self.pending.lock());
        let mut out = Vec::new();
        if !statuses.is_empty() {
            out.push(AgentMessage::TaskStatus(statuses.into_iter().collect()));
        }
        out.extend(resync.into_iter().map(AgentMessage::Resync));
        out.extend(applied.into_iter().map(|(network, seq)| AgentMessage::NetworkApplied { network, seq }));
        out
    }
}

#[cfg(test)]
mod tests {
    use malha_model::TaskState;

    use super::*;

    #[test]
    fn the_newest_status_of_a_task_is_what_is_sent() {
        let outbox = Outbox::default();
        let status = |state| TaskStatus { state, ..TaskStatus::default() };
        outbox.status("a".into(), status(TaskState::Starting));
        outbox.status("a".into(), status(TaskState::Running));
        let expected = AgentMessage::TaskStatus(vec![("a".into(), status(TaskState::Running))]);
        assert_eq!(outbox.take(), [expected]);
        assert!(outbox.take().is_empty());
    }
}
