//! Named tasks under one shutdown token.
//!
//! A panic in a task is logged with the task's name and stays in that task. What must not stay down is spawned with
//! [`Tasks::spawn_supervised`], which starts it again after a pause, or, where it cannot be made again alone, with
//! [`Tasks::spawn_vital`]: then its group has failed, and who made the group makes another.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{Instrument, error, info_span};

/// A group of tasks that is cancelled and awaited as one.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    failed: CancellationToken,
    /// Of the groups that this one ends with, which wait for its tasks too.
    outer: Vec<TaskTracker>,
}

/// Pause before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group of its own that ends with this one.
    pub fn child(&self) -> Self {
        let mut outer = self.outer.clone();
        outer.push(self.tracker.clone());
        Self { token: self.token.child_token(), outer, ..Self::default() }
    }

    /// Cancelled when the group is to end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `task` until it ends or the group does.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_guarded(name, task, || {});
    }

    /// Runs `task`, without which the rest of the group is worth nothing.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let failed = self.failed.clone();
        self.spawn_guarded(name, task, move || failed.cancel());
    }

    /// Returns once a vital task has panicked.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    pub fn has_failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    fn spawn_guarded(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        panicked: impl FnOnce() + Send + 'static,
    ) {
        let token = self.token.clone();
        let outer: Vec<TaskTrackerToken> = self.outer.iter().map(TaskTracker::token).collect();
        let guarded = async move {
            tokio::select! {
                biased;
                () = token.cancelled() => {}
                has_panicked = panics(task) => if has_panicked {
                    error!(task = name, "task panicked");
                    panicked();
                }
            }
            drop(outer);
        };
        self.tracker.spawn(guarded.instrument(info_span!("task", name)));
    }

    /// Runs the task that `make` builds, and builds it again whenever it panics.
    pub fn spawn_supervised<F, Fut>(&self, name: &'static str, make: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spawn(name, supervised(name, make));
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

/// Runs `task` to its end; true where that was a panic.
pub async fn panics(task: impl Future<Output = ()>) -> bool {
    AssertUnwindSafe(task).catch_unwind().await.is_err()
}

/// Runs what `make` builds to its end, and builds it again whenever it panics.
pub async fn supervised<F, Fut>(name: &'static str, mut make: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = ()>,
{
    while panics(make()).await {
        error!(task = name, "task panicked; starting it again");
        tokio::time::sleep(RESTART_PAUSE).await;
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
    async fn a_group_fails_with_a_vital_task_alone_and_ends_with_the_group_around_it() {
        let outer = Tasks::new();
        let group = outer.child();
        group.spawn("plain", async { panic!("planted") });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(group.failed().now_or_never().is_none());
        group.spawn_vital("vital", async { panic!("planted") });
        group.failed().await;
        assert!(outer.failed().now_or_never().is_none() && !group.token().is_cancelled(), "its own affair");
        // What ends slowly is waited for by both.
        struct Slow(std::sync::Arc<AtomicU32>);
        impl Drop for Slow {
            fn drop(&mut self) {
                std::thread::sleep(Duration::from_millis(50));
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let ended = std::sync::Arc::new(AtomicU32::new(0));
        let slow = Slow(ended.clone());
        group.spawn("slow", async move {
            let _slow = slow;
            std::future::pending().await
        });
        outer.shutdown().await;
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_who_ends_and_cancels_who_does_not() {
        let (tasks, ended) = (Tasks::new(), std::sync::Arc::new(AtomicU32::new(0)));
        let count = ended.clone();
        tasks.spawn("ends", async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            count.fetch_add(1, Ordering::SeqCst);
        });
        let begun = tokio::time::Instant::now();
        tasks.child().spawn("ends", async {});
        tasks.drain(Duration::from_secs(9)).await;
        assert_eq!((ended.load(Ordering::SeqCst), begun.elapsed().as_secs()), (1, 1), "all have ended by themselves");
        let tasks = Tasks::new();
        let count = ended.clone();
        tasks.spawn("ends", async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            count.fetch_add(1, Ordering::SeqCst);
        });
        tasks.spawn("never ends", std::future::pending());
        let begun = tokio::time::Instant::now();
        tasks.drain(Duration::from_secs(2)).await;
        assert_eq!((ended.load(Ordering::SeqCst), begun.elapsed().as_secs()), (2, 2));
    }
}
