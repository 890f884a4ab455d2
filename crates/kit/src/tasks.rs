//! Named tasks under one shutdown token.
//!
//! A panic in a task is logged with the task's name and stays in that task. [`Tasks::spawn_supervised`] starts the task
//! again after a pause: what must not stay down is spawned that way.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info_span};

/// A group of tasks that is cancelled and awaited as one.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

/// Pause before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group of its own that ends with this one.
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), token: self.token.child_token() }
    }

    /// Cancelled when the group is to end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `task` until it ends or the group does.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        let guarded = async move {
            tokio::select! {
                biased;
                () = token.cancelled() => {}
                result = AssertUnwindSafe(task).catch_unwind() => if result.is_err() {
                    error!(task = name, "task panicked");
                },
            }
        };
        self.tracker.spawn(guarded.instrument(info_span!("task", name)));
    }

    /// Runs the task that `make` builds, and builds it again whenever it panics.
    pub fn spawn_supervised<F, Fut>(&self, name: &'static str, mut make: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spawn(name, async move {
            while AssertUnwindSafe(make()).catch_unwind().await.is_err() {
                error!(task = name, "task panicked; starting it again");
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        });
    }

    /// Waits for tasks that end by themselves, for that long; cancels what is left.
    pub async fn drain(&self, limit: Duration) {
        self.tracker.close();
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.shutdown().await;
    }

    /// Cancels the group and waits until every task has ended.
    pub async fn shutdown(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_stays_in_its_task_and_a_supervised_one_returns() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let tasks = Tasks::new();
        tasks.spawn("plain", async { panic!("planted") });
        tasks.spawn_supervised("supervised", || async {
            assert!(RUNS.fetch_add(1, Ordering::SeqCst) > 0, "planted");
            std::future::pending().await
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(RUNS.load(Ordering::SeqCst), 2);
        tasks.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_who_ends_and_cancels_who_does_not() {
        let (tasks, ended) = (Tasks::new(), std::sync::Arc::new(AtomicU32::new(0)));
        let count = ended.clone();
        tasks.spawn("ends", async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            count.fetch_add(1, Ordering::SeqCst);
        });
        tasks.spawn("never ends", std::future::pending());
        let begun = tokio::time::Instant::now();
        tasks.drain(Duration::from_secs(2)).await;
        assert_eq!((ended.load(Ordering::SeqCst), begun.elapsed().as_secs()), (1, 2));
    }
}
