//! Logs of services: asks every node that holds a task of the selector, and merges what comes.
//!
//! A reader that stops reading stops the nodes that write to it, through the window of each subscription; sessions never
//! wait for readers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use malha_kit::watch;
use malha_model::{LogLine, LogOptions, LogSelector, ManagerMessage, NodeId, TaskState, Timestamp};
use malha_store::State;
use malha_wire::LogReceiver;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::dispatcher::session::Handle;

/// Lines that wait for the reader.
const LINES: usize = 256;
/// A node that has a session and does not take an order by then is not available.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a follower looks for nodes that were away.
const LOOK: Duration = Duration::from_secs(1);

type Sessions = Arc<Mutex<BTreeMap<NodeId, Handle>>>;

enum Delivery {
    Lines {
        node: NodeId,
        lines: Vec<LogLine>,
        done: bool,
    },
    /// The session is over.
    NodeGone(NodeId, u64),
}

/// Subscriptions of one term.
pub(crate) struct LogBroker {
    sessions: Sessions,
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, mpsc::UnboundedSender<Delivery>>>,
}

impl LogBroker {
    /// Numbers start at the term, so that a late line of another term finds no subscription.
    pub(crate) fn new(sessions: Sessions, term: u64) -> Self {
        Self { sessions, next: AtomicU64::new((term << 32) + 1), open: Mutex::default() }
    }

    /// What a node sent. The window bounds what can wait here.
    pub(crate) fn deliver(&self, subscription: u64, node: &NodeId, lines: Vec<LogLine>, done: bool) {
        if let Some(open) = self.open.lock().get(&subscription) {
            // one that has just ended needs no lines
            open.send(Delivery::Lines { node: node.clone(), lines, done }).ok();
        }
    }

    pub(crate) fn node_gone(&self, node: &NodeId, session: u64) {
        for open in self.open.lock().values() {
            open.send(Delivery::NodeGone(node.clone(), session)).ok();
        }
    }

    /// Opens a subscription; the future that comes with it serves it to its end.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        selector: LogSelector,
        options: LogOptions,
        state: watch::Receiver<Arc<State>>,
    ) -> (LogReceiver, impl Future<Output = ()> + Send + use<>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (deliveries, incoming) = mpsc::unbounded_channel();
        let (out, receiver) = mpsc::channel(LINES);
        self.open.lock().insert(id, deliveries);
        let subscription = Subscription {
            broker: self.clone(),
            id,
            selector,
            options,
            out,
            nodes: BTreeMap::new(),
            heard: BTreeMap::new(),
        };
        (receiver, subscription.serve(state, incoming))
    }
}

struct Subscription {
    broker: Arc<LogBroker>,
    id: u64,
    selector: LogSelector,
    options: LogOptions,
    out: mpsc::Sender<Result<LogLine, String>>,
    nodes: BTreeMap<NodeId, Standing>,
    /// Time of each node's last line: where it goes on after it was away.
    heard: BTreeMap<NodeId, Timestamp>,
}

/// Of a node that was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has more to say, in this session. The end of another one is no news.
    Open(u64),
    Done,
    /// Without a session; the reader was told. A follower asks it again once it is back.
    Away,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.broker.open.lock().remove(&self.id);
        let sessions = self.broker.sessions.lock();
        for handle in self.open().filter_map(|node| sessions.get(node)) {
            // a session that takes no orders ends soon, and the subscription with it
            handle.commands.try_send(ManagerMessage::LogUnsubscribe { subscription: self.id }).ok();
        }
    }
}

impl Subscription {
    fn open(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, standing)| matches!(standing, Standing::Open(_))).map(|(node, _)| node)
    }

    fn follows(&self) -> bool {
        self.options.follow && matches!(self.selector, LogSelector::Service(_))
    }

    async fn serve(mut self, mut state: watch::Receiver<Arc<State>>, mut incoming: mpsc::UnboundedReceiver<Delivery>) {
        let follows = self.follows();
        let mut asked: Option<Instant> = None;
        loop {
            // not at each delivery: a service may have many tasks
            if asked.is_none_or(|at| at.elapsed() >= LOOK) {
                let now = state.borrow_and_update().clone();
                if !self.ask_nodes(&now).await {
                    return;
                }
                asked = Some(Instant::now());
            }
            if self.open().next().is_none() && !follows {
                return;
            }
            let away = follows && self.nodes.values().any(|standing| *standing == Standing::Away);
            let out = self.out.clone();
            tokio::select! {
                biased;
                () = out.closed() => return,
                Some(delivery) = incoming.recv() => if !self.take(delivery).await {
                    return;
                },
                Ok(()) = state.changed(), if follows => asked = None,
                () = sleep(LOOK), if away => asked = None,
            }
        }
    }

    /// Asks the nodes that hold tasks of the selector and were not asked yet, or are back; false where nobody reads any
    /// more.
    async fn ask_nodes(&mut self, state: &State) -> bool {
        for node in nodes_of(&self.selector, state) {
            let told = match self.nodes.get(&node) {
                None => false,
                Some(Standing::Away) if self.follows() => true,
                Some(_) => continue,
            };
            let handle = self.broker.sessions.lock().get(&node).cloned();
            if told && handle.is_none() {
                continue;
            }
            let mut options = self.options.clone();
            if let Some(last) = self.heard.get(&node) {
                options.since = Some(last.plus(Duration::from_nanos(1)));
                options.tail = None;
            }
            let (subscription, selector) = (self.id, self.selector.clone());
            let order = ManagerMessage::LogSubscribe { subscription, selector, options };
            let mut standing = Standing::Away;
            if let Some(handle) = handle
                && matches!(timeout(PATIENCE, handle.commands.send(order)).await, Ok(Ok(())))
            {
                standing = Standing::Open(handle.id);
            }
            let taken = standing != Standing::Away;
            self.nodes.insert(node.clone(), standing);
            if !taken && !told && self.out.send(Err(not_available(&node))).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn take(&mut self, delivery: Delivery) -> bool {
        match delivery {
            Delivery::Lines { node, lines, done } => {
                if let Some(line) = lines.last() {
                    self.heard.insert(node.clone(), line.timestamp);
                }
                for line in lines {
                    if self.out.send(Ok(line)).await.is_err() {
                        return false;
                    }
                }
                let handle = self.broker.sessions.lock().get(&node).cloned();
                match handle {
                    _ if done => drop(self.nodes.insert(node, Standing::Done)),
                    // an error is a session that ended; the subscription hears of that by itself
                    Some(handle) => drop(handle.commands.send(ManagerMessage::LogMore { subscription: self.id }).await),
                    None => {}
                }
                true
            }
            Delivery::NodeGone(node, session) => {
                if self.nodes.get(&node) != Some(&Standing::Open(session)) {
                    return true;
                }
                let told = self.out.send(Err(not_available(&node))).await.is_ok();
                self.nodes.insert(node, Standing::Away);
                told
            }
        }
    }
}

fn not_available(node: &NodeId) -> String {
    format!("node {node} is not available")
}

fn nodes_of(selector: &LogSelector, state: &State) -> BTreeSet<NodeId> {
    let started = |t: &&Arc<malha_model::Task>| t.status.state >= TaskState::Assigned;
    match selector {
        LogSelector::Service(id) => state.tasks_of_service(id).filter(started).filter_map(|t| t.node.clone()).collect(),
        LogSelector::Task(id) => state.task(id).into_iter().filter_map(|t| t.node.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use malha_kit::CancellationToken;
    use malha_model::Task;
    use malha_store::Change;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_session_that_was_replaced_ends_no_subscription_of_the_next() {
        let sessions = Sessions::default();
        let (commands, mut orders) = mpsc::channel(8);
        sessions.lock().insert("n".into(), Handle { id: 2, commands, replaced: CancellationToken::new() });
        let broker = Arc::new(LogBroker::new(sessions, 1));
        let task = Task { id: "t".into(), node: Some("n".into()), ..Task::default() };
        let (_states, state) = watch::channel(Arc::new(State::default().apply(1, &[Change::Put(task.into())])));
        let (mut lines, serve) = broker.subscribe(LogSelector::Task("t".into()), LogOptions::default(), state);
        tokio::spawn(serve);
        let order = orders.recv().await.unwrap();
        assert!(matches!(order, ManagerMessage::LogSubscribe { .. }));

        broker.node_gone(&"n".into(), 1);
        sleep(LOOK * 2).await;
        assert!(lines.try_recv().is_err(), "nothing has happened to it");
        broker.node_gone(&"n".into(), 2);
        assert_eq!(lines.recv().await, Some(Err(not_available(&"n".into()))));
    }
}
