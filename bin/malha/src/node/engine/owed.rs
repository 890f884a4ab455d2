//! Addresses that are to be given back: the leader may be away just then, and nobody is to wait for it.
//!
//! A container that comes back before that is given the same attachment again, which is owed no more then.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng};
use malha_model::{ApiError, Code, ControlRequest, TaskId};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use super::LocalEngine;

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Attachments that nobody uses any more and the managers still hold.
#[derive(Default)]
pub(super) struct Owed {
    attachments: Mutex<BTreeSet<TaskId>>,
    more: Notify,
    /// Nothing is given back while somebody asks for the same, and the other way round.
    turn: tokio::sync::Mutex<()>,
}

impl Owed {
    pub(super) fn add(&self, attachments: impl IntoIterator<Item = TaskId>) {
        self.attachments.lock().extend(attachments);
        self.more.notify_one();
    }

    /// To be held from the request for an attachment until it is owed no more.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn forget(&self, attachment: &TaskId) {
        self.attachments.lock().remove(attachment);
    }

    fn owes(&self, attachment: &TaskId) -> bool {
        self.attachments.lock().contains(attachment)
    }

    fn list(&self) -> Vec<TaskId> {
        self.attachments.lock().iter().cloned().collect()
    }
}

impl LocalEngine {
    /// Gives back what is owed, for as long as the daemon lives.
    pub(crate) async fn pay(self: Arc<Self>, rng: Rng) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, rng);
        loop {
            let mut kept = false;
            for attachment in self.owed.list() {
                let _turn = self.owed.turn().await;
                if !self.owed.owes(&attachment) {
                    continue;
                }
                match self.detach(&attachment).await {
                    Ok(()) => self.owed.forget(&attachment),
                    Err(e) => {
                        warn!(attachment = %attachment, error = %e, "cannot give an address back yet");
                        kept = true;
                    }
                }
            }
            if kept {
                sleep(backoff.next_pause()).await;
            } else {
                backoff.reset();
                self.owed.more.notified().await;
            }
        }
    }

    /// Nothing to give back is success: the managers have forgotten it, or this node is not theirs any more.
    async fn detach(&self, attachment: &TaskId) -> Result<(), ApiError> {
        let node = self.swarm.node_id().await.unwrap_or_default();
        let request = ControlRequest::NetworkDetach { node, attachment: attachment.clone() };
        match self.swarm.attach(request).await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.code, Code::NotFound | Code::PermissionDenied) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
