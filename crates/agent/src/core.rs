//! The one owner of what this node knows: its tasks, its views, who follows its logs.
//!
//! Everything arrives here as an [`Event`] and nothing here waits: workers get orders through watches, the session takes
//! reports from the outbox, names and maps follow a watch of the whole state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malha_kit::{Tasks, panics, watch};
use malha_model::{ManagerMessage, NodeId, Task, TaskId, TaskState, TaskStatus};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{debug, error, info, warn};

use crate::{
    executor::{Found, NodeNetworks},
    logs::{Logs, has_started},
    networks::Networks,
    reporter::Outbox,
    saved::{Saved, SavedTask},
    task::{Resume, failure, is_ours, resume},
    worker::{Orders, Shared, Worker},
};

/// Before another worker takes over from one that panicked.
const PANIC_PAUSE: Duration = Duration::from_millis(500);

pub(crate) enum Event {
    SessionStarted,
    Message(ManagerMessage),
    SessionEnded,
    /// A worker reached a state.
    Status(TaskId, TaskStatus),
    /// Nothing of a task is left.
    Removed(TaskId),
    /// A worker is no more, and its task still is.
    Panicked(TaskId),
    /// The node leaves the swarm: end and remove everything, then answer.
    Clear(oneshot::Sender<()>),
    #[cfg(test)]
    Planted,
}

pub(crate) struct Core {
    pub node: NodeId,
    pub shared: Arc<Shared>,
    pub outbox: Arc<Outbox>,
    pub logs: Logs,
    pub tasks: Tasks,
    pub managers: watch::Receiver<BTreeMap<NodeId, String>>,
    pub saved: watch::Sender<Arc<Saved>>,
    pub wanted: watch::Sender<Option<Arc<NodeNetworks>>>,
    pub networks: Networks,
    pub entries: BTreeMap<TaskId, Entry>,
    /// Containers found at the start that no task has claimed yet.
    pub found: BTreeMap<TaskId, Found>,
    /// A session has begun to draw its picture: half of it is not worth applying.
    pub halfway: bool,
    /// False where nothing was saved and no manager has spoken yet: an empty state must not be applied then.
    pub known: bool,
    /// Those who wait for the end; once there is one, the node takes no tasks any more.
    pub clearing: Vec<Option<oneshot::Sender<()>>>,
}

pub(crate) struct Entry {
    orders: watch::Sender<Orders>,
    status: TaskStatus,
}

impl Core {
    pub(crate) async fn run(mut self, saved: Option<Saved>, events: &mut mpsc::Receiver<Event>) {
        if let Some(saved) = saved {
            self.known = true;
            saved.tasks.into_iter().for_each(|t| self.add(t.task, Some(t.status)));
            self.publish_networks();
        }
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                changed = self.managers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.save();
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::SessionStarted => {
                self.halfway = true;
                self.networks.session_started();
            }
            Event::SessionEnded => {
                self.outbox.session_ended();
                self.logs.session_ended();
                self.halfway = false;
                self.changed();
            }
            // a node that leaves takes no more tasks
            Event::Message(message) if self.clearing.is_empty() => self.message(message),
            Event::Message(_) => {}
            Event::Status(task, status) => self.status(task, status),
            Event::Removed(task) => {
                self.entries.remove(&task);
                self.changed();
                self.answer_if_clear();
            }
            Event::Panicked(task) => self.panicked(&task),
            #[cfg(test)]
            Event::Planted => panic!("planted"),
            Event::Clear(done) => {
                self.clearing.push(Some(done));
                self.networks.clear();
                self.sweep(&BTreeSet::new());
                self.changed();
                self.answer_if_clear();
            }
        }
    }

    fn message(&mut self, message: ManagerMessage) {
        match message {
            ManagerMessage::AllTasks(tasks) => self.all_tasks(tasks),
            ManagerMessage::Tasks { changed, removed } => {
                changed.into_iter().for_each(|t| self.put(t));
                removed.iter().for_each(|id| self.forget(id));
                self.changed();
            }
            ManagerMessage::Network(view) => {
                self.networks.snapshot(view);
                self.changed();
            }
            ManagerMessage::NetworkDelta(delta) => match self.networks.delta(&delta) {
                Ok(()) => self.changed(),
                Err(gap) => {
                    debug!(network = %gap.0, "a change does not fit the view; asking for the whole one");
                    self.outbox.resync(gap.0);
                }
            },
            ManagerMessage::NetworkGone(network) => {
                self.networks.gone(&network);
                self.changed();
            }
            ManagerMessage::LogSubscribe { subscription, selector, options } => {
                let tasks: Vec<_> = self.entries.values().map(|e| (e.task(), e.status.state)).collect();
                self.logs.subscribe(subscription, selector, options, tasks);
            }
            ManagerMessage::LogUnsubscribe { subscription } => self.logs.unsubscribe(subscription),
            ManagerMessage::LogMore { subscription } => self.logs.more(subscription),
            // the session's own
            ManagerMessage::Welcome { .. }
            | ManagerMessage::Alive
            | ManagerMessage::Redirect { .. }
            | ManagerMessage::Managers(_)
            | ManagerMessage::Role(_) => {}
        }
    }

    /// The session's picture is complete: converge to it, and say again what the managers seem to have missed.
    fn all_tasks(&mut self, tasks: Vec<Task>) {
        self.halfway = false;
        self.known = true;
        self.networks.complete();
        let told: BTreeSet<TaskId> = tasks.iter().map(|t| t.id.clone()).collect();
        for task in tasks {
            let (id, theirs) = (task.id.clone(), task.status.clone());
            self.put(task);
            if let Some(entry) = self.entries.get(&id)
                && entry.status != theirs
                && entry.status.state >= theirs.state
            {
                self.outbox.status(id, entry.status.clone());
            }
        }
        self.sweep(&told);
        self.changed();
    }

    /// Removes every task and every found container that is not in `keep`.
    fn sweep(&mut self, keep: &BTreeSet<TaskId>) {
        let gone: Vec<TaskId> = self.entries.keys().filter(|id| !keep.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.forget(id));
        for (id, found) in std::mem::take(&mut self.found) {
            if self.entries.contains_key(&id) {
                continue;
            }
            warn!(task = %id, ?found, "a container of no task of this node is removed");
            let task = Task { id: id.clone(), node: Some(self.node.clone()), ..Task::default() };
            self.found.insert(id.clone(), found);
            // a service's task as far as the worker is concerned: it has a container
            self.add(Arc::new(Task { service: Some(malha_model::ServiceId::default()), ..task }), None);
            self.forget(&id);
        }
    }

    fn put(&mut self, task: Task) {
        if !is_ours(&task, &self.node) {
            warn!(task = %task.id, "a task of another node was sent here; ignored");
            return;
        }
        let Some(entry) = self.entries.get(&task.id) else {
            let task = Arc::new(task);
            return self.add(task, None);
        };
        // one that is being removed stays so: ids are never given twice
        entry.orders.send_if_modified(|orders| {
            let differs = *orders.task != task;
            if differs {
                orders.task = Arc::new(task);
            }
            differs
        });
    }

    fn forget(&self, id: &TaskId) {
        if let Some(entry) = self.entries.get(id) {
            entry.orders.send_if_modified(|orders| !std::mem::replace(&mut orders.removed, true));
        }
    }

    fn add(&mut self, task: Arc<Task>, saved: Option<TaskStatus>) {
        let found = self.found.remove(&task.id);
        let mut status = match saved {
            Some(ours) if ours.state >= task.status.state => ours,
            _ => task.status.clone(),
        };
        if let Some(Found::Running(container) | Found::Exited(container)) = &found {
            status.container = Some(container.clone());
        }
        let prepared = match resume(&task, status.state, found.as_ref()) {
            Resume::At { state, prepared } => {
                if state != status.state {
                    info!(task = %task.id, %state, "took a container over");
                    self.advance(&task.id, &mut status, state, "started");
                }
                prepared
            }
            Resume::Lost => {
                status.err = "the container is gone".to_owned();
                self.advance(&task.id, &mut status, TaskState::Failed, "started");
                false
            }
        };
        let (orders, receiver) = watch::channel(Orders { task: task.clone(), removed: false });
        let worker = Worker { shared: self.shared.clone(), orders: receiver, status: status.clone(), prepared };
        self.entries.insert(task.id.clone(), Entry { orders, status });
        self.employ(task.id.clone(), worker.run());
    }

    fn employ(&self, task: TaskId, work: impl Future<Output = ()> + Send + 'static) {
        let events = self.shared.events.clone();
        self.tasks.spawn("task", async move {
            if panics(work).await {
                error!(%task, "the work on a task panicked");
                // closed only where the agent itself ends
                events.send(Event::Panicked(task)).await.ok();
            }
        });
    }

    /// The task is lost, the others are not. Another worker stops what there may be of it, and removes it in the end.
    fn panicked(&mut self, id: &TaskId) {
        let Some(entry) = self.entries.get(id) else { return };
        let (orders, mut status) = (entry.orders.subscribe(), entry.status.clone());
        if !status.state.is_terminal() {
            status.state = failure(status.state);
            status.err = "the node's work on the task panicked".to_owned();
            status.timestamp = self.shared.clock.now();
            self.status(id.clone(), status.clone());
        }
        // how far the last one came is not known
        let worker = Worker { shared: self.shared.clone(), orders, status, prepared: true };
        self.employ(id.clone(), async {
            sleep(PANIC_PAUSE).await;
            worker.run().await;
        });
    }

    fn advance(&self, id: &TaskId, status: &mut TaskStatus, state: TaskState, message: &str) {
        status.state = state;
        status.message = if state == TaskState::Starting { "starting" } else { message }.to_owned();
        status.timestamp = self.shared.clock.now();
        self.outbox.status(id.clone(), status.clone());
    }

    fn status(&mut self, id: TaskId, status: TaskStatus) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if status.state < entry.status.state {
            return;
        }
        let ended = status.state.is_terminal() && !entry.status.state.is_terminal();
        let (started, starts) = (has_started(entry.status.state), has_started(status.state));
        entry.status = status.clone();
        if starts && !started {
            self.logs.task_started(&entry.task());
        } else if ended && !started {
            self.logs.task_failed(&id);
        }
        self.outbox.status(id, status);
        if ended { self.changed() } else { self.save() }
    }

    fn changed(&self) {
        self.publish_networks();
        self.save();
    }

    fn publish_networks(&self) {
        if !self.known || self.halfway {
            return;
        }
        let present = |e: &&Entry| !e.status.state.is_terminal() && !e.orders.borrow().task.networks.is_empty();
        let tasks: Vec<Arc<Task>> = self.entries.values().filter(present).map(Entry::task).collect();
        let views = self.networks.views();
        self.wanted.send_if_modified(|wanted| {
            let same = wanted.as_ref().is_some_and(|w| {
                w.tasks == tasks
                    && w.views.len() == views.len()
                    && w.views.iter().all(|(id, v)| views.get(id).is_some_and(|n| Arc::ptr_eq(n, v)))
            });
            if !same {
                *wanted = Some(Arc::new(NodeNetworks { node: self.node.clone(), views: views.clone(), tasks }));
            }
            !same
        });
    }

    fn save(&self) {
        if !self.known {
            return;
        }
        let entries = self.entries.values();
        let tasks = entries.map(|e| SavedTask { task: e.task(), status: e.status.clone() }).collect();
        let views = self.networks.views().values().cloned().collect();
        self.saved.send_replace(Arc::new(Saved {
            node: self.node.clone(),
            tasks,
            views,
            managers: self.managers.borrow().clone(),
        }));
    }

    fn answer_if_clear(&mut self) {
        if self.entries.is_empty() {
            for done in &mut self.clearing {
                // whoever asked may have gone
                done.take().map(|done| done.send(()));
            }
        }
    }
}

impl Entry {
    fn task(&self) -> Arc<Task> {
        self.orders.borrow().task.clone()
    }
}
