//! Log subscriptions of the current session.
//!
//! Lines travel in a bounded channel that the session empties, so a slow reader slows the one who reads the log and
//! costs no memory. Subscriptions end with the session that made them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malha_kit::{CancellationToken, Tasks};
use malha_model::{AgentMessage, LOG_WINDOW, LogLine, LogOptions, LogSelector, Task, TaskId, TaskState};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tracing::warn;

use crate::executor::Executor;

/// Lines that wait together for one message.
const BATCH: usize = 256;
const LINES: usize = 256;
/// Time a first line waits for company.
const GATHER: Duration = Duration::from_millis(5);

pub(crate) struct Logs {
    executor: Arc<dyn Executor>,
    out: mpsc::Sender<AgentMessage>,
    tasks: Tasks,
    subscriptions: BTreeMap<u64, Subscription>,
}

struct Subscription {
    selector: LogSelector,
    served: BTreeSet<TaskId>,
    /// Tasks that came after the subscription; kept open only while it follows.
    more: Option<mpsc::UnboundedSender<Arc<Task>>>,
    /// Messages that may be sent.
    credit: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Logs {
    pub(crate) fn new(executor: Arc<dyn Executor>, out: mpsc::Sender<AgentMessage>, tasks: Tasks) -> Self {
        Self { executor, out, tasks, subscriptions: BTreeMap::new() }
    }

    pub(crate) fn subscribe(
        &mut self,
        id: u64,
        selector: LogSelector,
        options: LogOptions,
        tasks: impl IntoIterator<Item = (Arc<Task>, TaskState)>,
    ) {
        let (more, fresh) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let credit = Arc::new(Semaphore::new(LOG_WINDOW));
        let mut to_come = matches!(selector, LogSelector::Service(_));
        let mut subscription = Subscription { selector, served: BTreeSet::new(), more: Some(more), credit, stop };
        for (task, state) in tasks {
            if has_started(state) {
                subscription.offer(&task);
            } else if !state.is_terminal() {
                to_come |= matches!(&subscription.selector, LogSelector::Task(id) if *id == task.id);
            }
        }
        if !(options.follow && to_come) {
            subscription.more = None;
        }
        let out = Out { subscription: id, credit: subscription.credit.clone(), out: self.out.clone() };
        let serve = serve(self.executor.clone(), options, fresh, out);
        let stopped = subscription.stop.clone();
        self.tasks.spawn("task-logs", async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = serve => {}
            }
        });
        self.subscriptions.insert(id, subscription);
    }

    pub(crate) fn unsubscribe(&mut self, id: u64) {
        self.subscriptions.remove(&id);
    }

    /// The reader has taken a message.
    pub(crate) fn more(&self, id: u64) {
        if let Some(subscription) = self.subscriptions.get(&id) {
            subscription.credit.add_permits(1);
        }
    }

    /// A task has started here: those who follow it or its service get its lines, from its first one.
    pub(crate) fn task_started(&mut self, task: &Arc<Task>) {
        self.subscriptions.values_mut().for_each(|s| s.offer(task));
    }

    /// A task will never start.
    pub(crate) fn task_failed(&mut self, id: &TaskId) {
        let waiting = |s: &&mut Subscription| matches!(&s.selector, LogSelector::Task(task) if task == id);
        self.subscriptions.values_mut().filter(waiting).for_each(|s| s.more = None);
    }

    pub(crate) fn session_ended(&mut self) {
        self.subscriptions.clear();
    }
}

impl Subscription {
    fn offer(&mut self, task: &Arc<Task>) {
        let wanted = match &self.selector {
            LogSelector::Service(service) => task.service.as_ref() == Some(service),
            LogSelector::Task(id) => task.id == *id,
        };
        if !wanted || task.is_attachment() || !self.served.insert(task.id.clone()) {
            return;
        }
        if let Some(more) = &self.more {
            // closed only where the subscription has ended
            more.send(task.clone()).ok();
        }
        if matches!(self.selector, LogSelector::Task(_)) {
            self.more = None;
        }
    }
}

/// Before that there is no container whose lines could be read.
pub(crate) fn has_started(state: TaskState) -> bool {
    (TaskState::Running..=TaskState::Failed).contains(&state)
}

async fn serve(
    executor: Arc<dyn Executor>,
    options: LogOptions,
    mut fresh: mpsc::UnboundedReceiver<Arc<Task>>,
    out: Out,
) {
    let (lines, gathered) = mpsc::channel(LINES);
    let read = async move {
        let mut readers = JoinSet::new();
        let mut open = true;
        while open || !readers.is_empty() {
            tokio::select! {
                biased;
                task = fresh.recv(), if open => match task {
                    Some(task) => {
                        readers.spawn(read(executor.clone(), task, options.clone(), lines.clone()));
                    }
                    None => open = false,
                },
                _ = readers.join_next(), if !readers.is_empty() => {}
            }
        }
    };
    tokio::join!(read, out.forward(gathered));
}

async fn read(executor: Arc<dyn Executor>, task: Arc<Task>, options: LogOptions, lines: mpsc::Sender<LogLine>) {
    let id = task.id.clone();
    if let Err(error) = executor.logs(task, options, lines).await {
        warn!(task = %id, %error, "logs of a task could not be read");
    }
}

/// The way of one subscription's messages.
struct Out {
    subscription: u64,
    credit: Arc<Semaphore>,
    out: mpsc::Sender<AgentMessage>,
}

impl Out {
    async fn forward(self, mut gathered: mpsc::Receiver<LogLine>) {
        let mut lines = Vec::new();
        while gathered.recv_many(&mut lines, BATCH).await > 0 {
            if lines.len() < BATCH && !gathered.is_closed() {
                tokio::time::sleep(GATHER).await;
                while lines.len() < BATCH {
                    let Ok(line) = gathered.try_recv() else { break };
                    lines.push(line);
                }
            }
            if !self.send(std::mem::take(&mut lines), false).await {
                return;
            }
        }
        self.send(Vec::new(), true).await;
    }

    async fn send(&self, lines: Vec<LogLine>, done: bool) -> bool {
        if let Ok(permit) = self.credit.acquire().await {
            permit.forget();
        }
        let subscription = self.subscription;
        self.out.send(AgentMessage::Logs { subscription, lines, done }).await.is_ok()
    }
}
