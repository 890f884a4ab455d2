//! What a container that has ended gives back: its sandbox at once, its addresses once the managers can be told.
//!
//! In the container's turn, and only where it does not run: news of an end may come when it has long been started again.

use std::sync::Arc;

use malha_model::TaskId;
use malha_runtime::ContainerInfo;
use tracing::warn;

use super::{LocalEngine, record::Record, standalone::has_sandbox};

impl LocalEngine {
    pub(super) fn runs(&self, container: &str) -> bool {
        self.runtime.inspect(container).is_ok_and(|i| i.state.status.is_running())
    }

    /// For who has not heard of all ends: takes over the attachments of stand-alone containers, and does what is to be
    /// done for those that do not run.
    pub(super) fn catch_up(self: &Arc<Self>) {
        for info in self.runtime.list() {
            let record = Record::of(&info);
            if record.task.is_some() {
                continue;
            }
            if !record.attachments.is_empty() || self.net.knows(&info.id) {
                let ids = record.attachments.into_values().collect();
                self.attached.lock().entry(info.id.clone()).or_insert(ids);
            }
            if !info.state.status.is_running() {
                self.ended(info.id);
            }
        }
        let held: Vec<String> = self.attached.lock().keys().cloned().collect();
        for removed in held.into_iter().filter(|id| self.runtime.inspect(id).is_err()) {
            self.ended(removed);
        }
    }

    /// Gives back what the container held, if it has ended.
    pub(super) async fn release(&self, container: &str) {
        let _turn = self.turns.take(container).await;
        let held = self.attached.lock().contains_key(container);
        if held && !self.runs(container) {
            self.let_go(container).await;
        }
    }

    /// For a request that ended the container: once it is answered, its networks can be removed. Where the event of the
    /// end was quicker, what is owed since is waited for.
    pub(super) async fn release_now(&self, container: &ContainerInfo) {
        self.release(&container.id).await;
        let mut attachments: Vec<TaskId> = Record::of(container).attachments.into_values().collect();
        attachments.extend(self.held_for(&container.id));
        self.settle(&attachments).await;
    }

    /// For a request that removed the container. What an earlier daemon left of its sandbox goes too.
    pub(super) async fn release_removed(&self, container: &ContainerInfo) {
        if has_sandbox(container, &Record::of(container)) {
            let _turn = self.turns.take(&container.id).await;
            self.let_go(&container.id).await;
        }
        self.release_now(container).await;
    }

    /// For who has the container's turn, and knows that it does not run.
    pub(super) async fn let_go(&self, container: &str) {
        self.unwire(container).await;
        let held = self.attached.lock().remove(container).unwrap_or_default();
        // There is more where an answer was lost.
        self.owed.add(held.into_iter().chain(self.held_for(container)));
    }

    pub(super) async fn unwire(&self, container: &str) {
        if let Err(e) = self.net.unwire(container).await {
            warn!(container, error = %e, "cannot remove the sandbox");
        }
    }
}
