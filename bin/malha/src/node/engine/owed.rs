//! Addresses that are to be given back: the leader may be away just then, and nobody is to wait for it.
//!
//! A container that comes back before that is given the same attachment again, which is owed no more then. Who asked
//! for a container's end may want to remove its network next, and waits a moment for it.
//!
//! None of it is written down: what the swarm holds for a container that is gone or does not run is owed, and is looked
//! for now and then. So nothing stays held after a daemon that died, or an answer that was lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng};
use malha_model::{ApiError, ApiResult, Code, ControlRequest, Task, TaskId};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, RwLock, RwLockReadGuard},
    time::{error::Elapsed, sleep, timeout},
};
use tracing::{debug, warn};

use super::LocalEngine;

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long a request waits until the addresses of its container are given back.
const PROMPT: Duration = Duration::from_secs(1);
/// Who waits for its turn to give back holds those up who come after it to ask.
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// How long one attempt may keep the turn.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked for what the swarm holds for nobody.
const LOOK: Duration = Duration::from_secs(10);

/// Attachments that nobody uses any more and the managers still hold.
#[derive(Default)]
pub(super) struct Owed {
    attachments: Mutex<BTreeSet<TaskId>>,
    more: Notify,
    /// Nothing is given back while somebody asks for the same, and the other way round. Those who ask share it.
    turn: RwLock<()>,
}

impl Owed {
    pub(super) fn add(&self, attachments: impl IntoIterator<Item = TaskId>) {
        if self.note(attachments) {
            self.more.notify_one();
        }
    }

    /// True where it is more than before.
    fn note(&self, attachments: impl IntoIterator<Item = TaskId>) -> bool {
        let mut owed = self.attachments.lock();
        let before = owed.len();
        owed.extend(attachments);
        owed.len() > before
    }

    /// To be held from the request for an attachment until it is owed no more.
    pub(super) async fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().await
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
            self.owe_strays();
            let mut kept = false;
            for attachment in self.owed.list() {
                if let Err(e) = self.give_back(&attachment).await {
                    warn!(attachment = %attachment, error = %e, "cannot give an address back yet");
                    kept = true;
                }
            }
            let pause = if kept {
                backoff.next_pause()
            } else {
                backoff.reset();
                LOOK
            };
            tokio::select! {
                biased;
                () = self.owed.more.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// What the swarm holds for containers that are gone or do not run, as far as this node has been told.
    fn owe_strays(&self) {
        let networks = self.net.current();
        for (attachment, container) in attachments(&networks.tasks) {
            // Who starts or releases it just now has its turn; what was wired here is released at its end.
            let Some(_turn) = self.turns.try_take(container) else { continue };
            let wired = self.attached.lock().contains_key(container);
            if !wired && !self.runs(container) {
                self.owed.note([attachment.clone()]);
            }
        }
    }

    /// What the swarm holds for a container, as far as this node has been told.
    pub(super) fn held_for(&self, container: &str) -> Vec<TaskId> {
        let networks = self.net.current();
        let held = attachments(&networks.tasks).filter(|(_, of)| *of == container);
        held.map(|(attachment, _)| attachment.clone()).collect()
    }

    /// Gives back what of these is owed, for somebody who waits for it: not for long, `pay` does the rest.
    pub(super) async fn settle(&self, attachments: &[TaskId]) {
        let settling = async {
            for attachment in attachments {
                if let Err(e) = self.give_back(attachment).await {
                    debug!(attachment = %attachment, error = %e, "an address is given back later");
                }
            }
        };
        if timeout(PROMPT, settling).await.is_err() {
            debug!("addresses are given back later");
        }
    }

    /// One attempt. What is owed no more is left alone: a container may have it again.
    async fn give_back(&self, attachment: &TaskId) -> ApiResult<()> {
        if !self.owed.owes(attachment) {
            return Ok(());
        }
        let late = |_: Elapsed| ApiError::plain(Code::DeadlineExceeded, "context deadline exceeded");
        let _turn = timeout(TURN_LIMIT, self.owed.turn.write()).await.map_err(late)?;
        if !self.owed.owes(attachment) {
            return Ok(());
        }
        timeout(ATTEMPT_LIMIT, self.detach(attachment)).await.map_err(late)??;
        self.owed.forget(attachment);
        Ok(())
    }

    /// Nothing to give back is success: the managers have forgotten it, or this node is not theirs any more.
    async fn detach(&self, attachment: &TaskId) -> ApiResult<()> {
        let node = self.swarm.node_id().await.unwrap_or_default();
        let request = ControlRequest::NetworkDetach { node, attachment: attachment.clone() };
        match self.swarm.attach_once(request).await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.code, Code::NotFound | Code::PermissionDenied) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Those among a node's tasks, with the container that each is for.
fn attachments(tasks: &[Arc<Task>]) -> impl Iterator<Item = (&TaskId, &str)> {
    tasks.iter().filter_map(|t| Some((&t.id, t.spec.network_attachment_spec.as_ref()?.container_id.as_str())))
}
