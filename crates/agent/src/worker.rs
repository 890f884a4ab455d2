//! The one that runs one task: does what [`step`] says and reports each state it reaches.
//!
//! A worker lives from assignment until the managers have removed the task and its container is gone. It never gives up:
//! what fails for the node's sake (the runtime is away) is tried again, what fails for the task's sake ends the task.

use std::{sync::Arc, time::Duration};

use malha_kit::{Backoff, Rng, SharedClock, watch};
use malha_model::{Task, TaskId, TaskState, TaskStatus};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use crate::{
    core::Event,
    executor::{Executor, Exit, NodeNetworks, TaskError},
    task::{Action, Facts, failure, networks_ready, step, told_to_stop},
};

/// What the managers want of a task.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub task: Arc<Task>,
    /// The managers have forgotten the task: nothing of it is to stay.
    pub removed: bool,
}

/// What all workers of a node share.
pub(crate) struct Shared {
    pub executor: Arc<dyn Executor>,
    pub clock: SharedClock,
    pub events: mpsc::Sender<Event>,
    pub applied: watch::Receiver<Arc<NodeNetworks>>,
    /// Containers made and started at the same time.
    pub slots: Semaphore,
    pub rng: Rng,
}

impl Shared {
    async fn in_slot<T>(&self, job: impl Future<Output = T>) -> T {
        // never closed
        let _slot = self.slots.acquire().await;
        job.await
    }
}

/// More at once only make each slower.
pub(crate) const SLOTS: usize = 16;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Worker {
    pub shared: Arc<Shared>,
    pub orders: watch::Receiver<Orders>,
    pub status: TaskStatus,
    pub prepared: bool,
}

impl Worker {
    pub(crate) async fn run(mut self) {
        if self.status.state.is_terminal() && self.prepared {
            // the managers have written the task off while this node was away
            self.stop_container().await;
        }
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.removed {
                return self.remove(&orders.task).await;
            }
            let task = orders.task;
            let applied = self.shared.applied.clone();
            let ready = networks_ready(&task, &applied.borrow());
            let facts = Facts { state: self.status.state, prepared: self.prepared, networks_ready: ready };
            match step(&task, facts) {
                Action::Rest => self.orders_changed().await,
                Action::Mark(state, message) => self.reach(state, message).await,
                Action::AwaitNetworks => self.await_networks(&task, applied).await,
                Action::Prepare => self.prepare(task).await,
                Action::Start => self.start(task).await,
                Action::Watch => self.watch(task).await,
                Action::Stop => self.stop(&task).await,
            }
        }
    }

    fn id(&self) -> TaskId {
        self.orders.borrow().task.id.clone()
    }

    /// The sender lives as long as the agent's core; without it there is nobody to work for.
    async fn orders_changed(&mut self) {
        if self.orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn reach(&mut self, state: TaskState, message: &str) {
        self.status.message = message.to_owned();
        self.report(state).await;
    }

    async fn fail(&mut self, error: &str) {
        let state = failure(self.status.state);
        info!(task = %self.id(), %state, error, "task ended");
        self.status.err = error.to_owned();
        self.report(state).await;
    }

    async fn report(&mut self, state: TaskState) {
        debug_assert!(state >= self.status.state);
        self.status.state = state;
        self.status.timestamp = self.shared.clock.now();
        debug!(task = %self.id(), %state, "task state");
        // closed only where the agent itself ends
        self.shared.events.send(Event::Status(self.id(), self.status.clone())).await.ok();
    }

    async fn await_networks(&mut self, task: &Task, mut applied: watch::Receiver<Arc<NodeNetworks>>) {
        let ready = async {
            if applied.wait_for(|a| networks_ready(task, a)).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            _ = self.orders.changed() => {}
            () = ready => {}
        }
    }

    async fn unless_stopped<T>(
        &mut self,
        job: impl Future<Output = Result<T, TaskError>>,
    ) -> Option<Result<T, TaskError>> {
        tokio::select! {
            biased;
            () = to_stop(&mut self.orders) => None,
            done = job => Some(done),
        }
    }

    /// An image takes its time and no slot.
    async fn prepare(&mut self, task: Arc<Task>) {
        let shared = self.shared.clone();
        let executor = shared.executor.clone();
        let prepared = async {
            executor.fetch(task.clone()).await?;
            shared.in_slot(executor.prepare(task.clone())).await
        };
        match self.unless_stopped(prepared).await {
            None => {}
            Some(Ok(container)) => {
                self.prepared = true;
                self.status.container = Some(container);
            }
            Some(Err(error)) => {
                self.fail(&error.0).await;
                // what was made half is of no use to anybody
                if let Err(error) = executor.remove(task.id.clone()).await {
                    debug!(task = %task.id, %error, "leftovers of a rejected task stay until it is removed");
                }
            }
        }
    }

    async fn start(&mut self, task: Arc<Task>) {
        let shared = self.shared.clone();
        match self.unless_stopped(shared.in_slot(shared.executor.start(task))).await {
            None => {}
            Some(Ok(started)) => {
                self.status.container = Some(started.status);
                self.status.ports = started.ports;
                self.reach(TaskState::Running, "started").await;
            }
            Some(Err(error)) => self.fail(&error.0).await,
        }
    }

    async fn watch(&mut self, task: Arc<Task>) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, self.shared.rng.clone());
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.shared.executor.wait(task.id.clone()) => ended,
                () = to_stop(&mut self.orders) => return,
            };
            match ended {
                Ok(exit) => return self.ended(exit).await,
                // gone, or is the runtime only away?
                Err(error) => match self.shared.executor.found().await {
                    Ok(found) if !found.contains_key(&task.id) => return self.fail(&error.0).await,
                    _ => {
                        warn!(task = %task.id, %error, "lost sight of a container; trying again");
                        tokio::time::sleep(backoff.next_pause()).await;
                    }
                },
            }
        }
    }

    async fn ended(&mut self, exit: Exit) {
        self.note_exit(exit.code);
        match exit {
            Exit { code: 0, error: None } => self.reach(TaskState::Complete, "finished").await,
            Exit { code, error: None } => self.fail(&format!("task: non-zero exit ({code})")).await,
            Exit { code, error: Some(error) } => self.fail(&format!("task: non-zero exit ({code}): {error}")).await,
        }
    }

    fn note_exit(&mut self, code: i32) {
        let container = self.status.container.get_or_insert_default();
        container.exit_code = code;
        container.pid = 0;
    }

    async fn stop(&mut self, task: &Arc<Task>) {
        self.stop_container().await;
        if self.prepared && self.status.container.is_some() {
            match self.shared.executor.wait(task.id.clone()).await {
                Ok(exit) => self.note_exit(exit.code),
                Err(error) => debug!(task = %task.id, %error, "no exit code of a stopped container"),
            }
        }
        self.reach(TaskState::Shutdown, "shutdown").await;
    }

    async fn stop_container(&mut self) {
        let task = self.orders.borrow().task.clone();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, self.shared.rng.clone());
        while let Err(error) = self.shared.executor.stop(task.clone()).await {
            warn!(task = %task.id, %error, "a container could not be stopped; trying again");
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn remove(&mut self, task: &Arc<Task>) {
        if !task.is_attachment() {
            let may_run = !self.status.state.is_terminal() && self.status.state >= TaskState::Preparing;
            if may_run {
                self.stop_container().await;
            }
            let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, self.shared.rng.clone());
            while let Err(error) = self.shared.executor.remove(task.id.clone()).await {
                warn!(task = %task.id, %error, "a container could not be removed; trying again");
                tokio::time::sleep(backoff.next_pause()).await;
            }
        }
        self.shared.events.send(Event::Removed(task.id.clone())).await.ok();
    }
}

/// Returns once the orders are to end the container.
async fn to_stop(orders: &mut watch::Receiver<Orders>) {
    let told = orders.wait_for(|o| o.removed || told_to_stop(&o.task)).await.is_ok();
    if !told {
        // the agent ends: what runs is left running
        std::future::pending::<()>().await;
    }
}
