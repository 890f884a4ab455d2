//! One node's session: what it is sent, and what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use malha_control::{networks_of_node, tasks_of_node};
use malha_kit::CancellationToken;
use malha_model::{
    AgentMessage, ApiError, ApiResult, Code, ManagerMessage, Meta, NetworkId, NetworkView, NodeDescription, NodeId,
    Role, Task, TaskId, TaskStatus,
};
use malha_store::State;
use malha_wire::{Duplex, Peer};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tracing::info;

use super::{
    Pace,
    board::{Board, Shown},
    reports::Report,
};
use crate::{ca::cluster, leader::Leader, members::addresses, rights::admitted};

/// For a node to say hello.
const GREETING: Duration = Duration::from_secs(5);
/// Orders of the log broker that wait for a session to take them.
const COMMANDS: usize = 256;

/// How the rest of the leader reaches an open session.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub id: u64,
    pub commands: mpsc::Sender<ManagerMessage>,
    /// Cancelled when another session of the same node takes over.
    pub replaced: CancellationToken,
}

struct Session<'a> {
    leader: &'a Leader,
    node: NodeId,
    /// Of the certificate that the node showed.
    role: Role,
    id: u64,
    pace: Pace,
    tx: mpsc::Sender<ManagerMessage>,
    /// What the node said of itself last.
    hello: Mutex<(NodeDescription, IpAddr)>,
    /// Networks that the node asked to be sent whole.
    resync: Mutex<BTreeSet<NetworkId>>,
    wake: tokio::sync::Notify,
}

/// The other end is gone, or takes nothing any more.
struct Gone;

/// What a node said that has yet to be reported.
#[derive(Default)]
struct Untold {
    up: bool,
    statuses: BTreeMap<TaskId, TaskStatus>,
}

impl Untold {
    fn is_any(&self) -> bool {
        self.up || !self.statuses.is_empty()
    }
}

/// The future's result, where there is one.
async fn whenever<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

pub(crate) async fn run(leader: &Leader, peer: Peer, session: Duplex<ManagerMessage, AgentMessage>) -> ApiResult<()> {
    let Duplex { tx, mut rx } = session;
    let state = leader.decider.state();
    let pace = pace_for(&state, &peer)?;
    let hello = match timeout(GREETING, rx.recv()).await {
        Ok(Some(AgentMessage::Hello { description, data_path_addr })) => (description, data_path_addr),
        Ok(Some(_)) => return Err(ApiError::invalid("a session begins with a hello")),
        Ok(None) | Err(_) => return Ok(()),
    };
    let id = leader.next_session.fetch_add(1, Ordering::Relaxed);
    let (commands, orders) = mpsc::channel(COMMANDS);
    let replaced = CancellationToken::new();
    leader.open(&peer.node, Handle { id, commands, replaced: replaced.clone() });
    leader.liveness.opened(&peer.node, id, pace);
    info!(node = %peer.node, "session open");
    let session = Session {
        leader,
        node: peer.node.clone(),
        role: peer.role,
        id,
        pace,
        tx,
        hello: Mutex::new(hello),
        resync: Mutex::default(),
        wake: tokio::sync::Notify::new(),
    };
    tokio::select! {
        biased;
        () = replaced.cancelled() => {}
        () = leader.over.cancelled() => session.redirect(),
        () = session.listen(&mut rx) => {}
        _ = session.speak(orders) => {}
    }
    leader.close(&peer.node, id);
    leader.liveness.closed(&peer.node, id, pace);
    leader.logs.node_gone(&peer.node, id);
    info!(node = %peer.node, "session over");
    Ok(())
}

/// The pace of the swarm, for a node that is of it.
fn pace_for(state: &State, peer: &Peer) -> ApiResult<Pace> {
    admitted(state, peer)?;
    // before its first write a new swarm has no nodes: the one that founds it must not take itself for removed
    let cluster = cluster(state)?;
    if state.node(&peer.node).is_none() {
        return Err(ApiError::rpc(Code::NotFound, format!("node {} not found", peer.node)));
    }
    Ok(Pace::of(&cluster.spec))
}

impl Leader {
    fn open(&self, node: &NodeId, handle: Handle) {
        self.left.lock().remove(node);
        if let Some(old) = self.sessions.lock().insert(node.clone(), handle) {
            old.replaced.cancel();
        }
    }

    fn close(&self, node: &NodeId, id: u64) {
        let mut sessions = self.sessions.lock();
        if sessions.get(node).is_some_and(|s| s.id == id) {
            sessions.remove(node);
        }
    }
}

impl Session<'_> {
    // --- what the node says ---

    /// Never waits for the reports to be taken: a node is heard all the while, and of what it says the newest counts.
    async fn listen(&self, rx: &mut mpsc::Receiver<AgentMessage>) {
        let mut untold = Untold { up: true, ..Untold::default() };
        let mut room = None;
        loop {
            if room.is_none() && untold.is_any() {
                room = Some(Box::pin(self.leader.reports.reserve()));
            }
            tokio::select! {
                biased;
                permit = whenever(&mut room) => {
                    room = None;
                    // closed only at the end of the term
                    let Ok(permit) = permit else { return };
                    self.tell(permit, &mut untold);
                }
                message = rx.recv() => match message {
                    Some(message) => self.hear(message, &mut untold),
                    None => break,
                },
            }
        }
        // no other session may come to repeat its last words
        drop(room);
        while untold.is_any() {
            let Ok(permit) = self.leader.reports.reserve().await else { return };
            self.tell(permit, &mut untold);
        }
    }

    fn hear(&self, message: AgentMessage, untold: &mut Untold) {
        untold.up |= self.leader.liveness.heard(&self.node, self.id, self.pace);
        match message {
            // where the channel is full something else is on its way and says the same
            AgentMessage::Heartbeat => drop(self.tx.try_send(ManagerMessage::Alive)),
            AgentMessage::TaskStatus(statuses) => untold.statuses.extend(statuses),
            AgentMessage::Resync(network) => {
                self.resync.lock().insert(network);
                self.wake.notify_one();
            }
            // acknowledged drain will build on it
            AgentMessage::NetworkApplied { .. } => {}
            AgentMessage::Logs { subscription, lines, done } => {
                self.leader.logs.deliver(subscription, &self.node, lines, done);
            }
            AgentMessage::Hello { description, data_path_addr } => {
                *self.hello.lock() = (description, data_path_addr);
                untold.up = true;
            }
        }
    }

    fn tell(&self, permit: mpsc::Permit<'_, Report>, untold: &mut Untold) {
        if std::mem::take(&mut untold.up) {
            // one that has been given up again meanwhile is reported up when it is heard again
            self.leader.liveness.if_serving(&self.node, self.id, || permit.send(self.up()));
        } else {
            let statuses = std::mem::take(&mut untold.statuses).into_iter().collect();
            permit.send(Report::Tasks(self.node.clone(), statuses));
        }
    }

    fn up(&self) -> Report {
        let (description, data_path_addr) = self.hello.lock().clone();
        Report::Up {
            node: self.node.clone(),
            role: self.role,
            addr: data_path_addr.to_string(),
            description,
            data_path_addr,
        }
    }

    // --- what it is sent ---

    async fn speak(&self, mut orders: mpsc::Receiver<ManagerMessage>) -> Result<(), Gone> {
        let mut board = self.leader.board.clone();
        let mut managers = self.leader.managers.clone();
        let consensus = &self.leader.decider.consensus;
        managers.borrow_and_update();
        let (heartbeat, known) = (self.pace.heartbeat, addresses(consensus));
        self.send(ManagerMessage::Welcome { heartbeat, managers: known }).await?;

        let mut sent = Sent::default();
        // said in each session: what the node heard in another, or from another leader, may be long over
        let mut role = None;
        loop {
            let now = board.borrow_and_update().clone();
            if now.state.node(&self.node).is_none() {
                return Err(Gone);
            }
            self.show(&now, &mut sent).await?;
            self.tell_role(&now.state, &mut role).await?;
            tokio::select! {
                biased;
                // a closed channel is the end of the term; somebody else notices
                Ok(()) = managers.changed() => {
                    let known = managers.borrow_and_update().clone();
                    self.send(ManagerMessage::Managers(known)).await?;
                }
                // the board is shown after each of them
                Some(order) = orders.recv() => self.send(order).await?,
                Ok(()) = board.changed() => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Sends what differs between what the node was sent and `board`: networks first, then the tasks that need them,
    /// then the end of networks that no task needs.
    async fn show(&self, board: &Board, sent: &mut Sent) -> Result<(), Gone> {
        let on = networks_of_node(&board.state, &self.node);
        for id in std::mem::take(&mut *self.resync.lock()) {
            sent.networks.remove(&id);
        }
        for (id, shown) in on.iter().filter_map(|id| Some((id, board.views.get(id)?))) {
            if let Some(message) = step(sent.networks.get(id), shown) {
                self.send(message).await?;
                sent.networks.insert(id.clone(), shown.view.clone());
            }
        }
        if let Some(message) = sent.tasks(&board.state, &self.node) {
            self.send(message).await?;
        }
        let gone: Vec<NetworkId> =
            sent.networks.keys().filter(|id| !on.contains(*id) || !board.views.contains_key(*id)).cloned().collect();
        for id in gone {
            sent.networks.remove(&id);
            self.send(ManagerMessage::NetworkGone(id)).await?;
        }
        Ok(())
    }

    /// A node learns of its new role when it can act on it: one that ends to be a manager, once it is out of the group.
    async fn tell_role(&self, state: &State, told: &mut Option<Role>) -> Result<(), Gone> {
        let wanted = state.node(&self.node).map(|n| n.spec.role).filter(|r| *told != Some(*r));
        let Some(wanted) = wanted else { return Ok(()) };
        let member = || self.leader.decider.consensus.members().iter().any(|m| m.node == self.node);
        if wanted == Role::Worker && member() {
            return Ok(());
        }
        *told = Some(wanted);
        self.send(ManagerMessage::Role(wanted)).await
    }

    async fn send(&self, message: ManagerMessage) -> Result<(), Gone> {
        match timeout(self.pace.down(), self.tx.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// The term is over: the node is to look for the next leader.
    fn redirect(&self) {
        let managers = addresses(&self.leader.decider.consensus);
        // a full channel is drained by the end of the session all the same
        self.tx.try_send(ManagerMessage::Redirect { leader: None, managers }).ok();
    }
}

/// What the node was sent in this session.
#[derive(Default)]
struct Sent {
    networks: BTreeMap<NetworkId, Arc<NetworkView>>,
    /// `None` until the first picture is complete.
    tasks: Option<BTreeMap<TaskId, Arc<Task>>>,
}

/// The message that brings a node from `sent` to what is shown.
fn step(sent: Option<&Arc<NetworkView>>, shown: &Shown) -> Option<ManagerMessage> {
    let Some(sent) = sent else { return Some(ManagerMessage::Network((*shown.view).clone())) };
    if sent.seq == shown.view.seq {
        return None;
    }
    let shared = shown.step.as_ref().filter(|step| step.from_seq == sent.seq);
    let delta = match shared {
        Some(step) => Some((**step).clone()),
        None => sent.delta_to(&shown.view),
    };
    // there and back again: the numbers moved, the whole view is the simplest way to say so
    Some(delta.map_or_else(|| ManagerMessage::Network((*shown.view).clone()), ManagerMessage::NetworkDelta))
}

impl Sent {
    fn tasks(&mut self, state: &State, node: &NodeId) -> Option<ManagerMessage> {
        let now: BTreeMap<TaskId, Arc<Task>> = tasks_of_node(state, node).map(|t| (t.id.clone(), t.clone())).collect();
        let Some(sent) = &mut self.tasks else {
            let all = now.values().map(|t| (**t).clone()).collect();
            self.tasks = Some(now);
            return Some(ManagerMessage::AllTasks(all));
        };
        let known = |t: &Arc<Task>| sent.get(&t.id).is_some_and(|s| Arc::ptr_eq(s, t) || same_orders(s, t));
        let changed: Vec<Task> = now.values().filter(|t| !known(t)).map(|t| (**t).clone()).collect();
        let removed: Vec<TaskId> = sent.keys().filter(|id| !now.contains_key(*id)).cloned().collect();
        *sent = now;
        let news = !changed.is_empty() || !removed.is_empty();
        news.then_some(ManagerMessage::Tasks { changed, removed })
    }
}

/// Whether two versions of a task differ in nothing but what its node itself reported.
fn same_orders(a: &Task, b: &Task) -> bool {
    let orders = |t: &Task| Task {
        meta: Meta::default(),
        status: TaskStatus::default(),
        state_at: Default::default(),
        started_at: None,
        ..t.clone()
    };
    orders(a) == orders(b)
}

#[cfg(test)]
mod tests {
    use malha_model::{Cluster, Node, Object};
    use malha_store::Change;

    use super::*;

    #[test]
    fn a_swarm_that_is_not_written_yet_takes_nobody_for_removed() {
        let peer = Peer { node: "a".into(), role: Role::Manager, cluster: "c".into() };
        let refused = |state: &State| pace_for(state, &peer).map(drop).map_err(|e| e.code);
        let removed = Some(Code::NotFound);
        assert!(refused(&State::default()).is_err_and(|code| Some(code) != removed && code != Code::PermissionDenied));
        let put = |state: &State, object: Object| state.apply(state.index() + 1, &[Change::Put(object)]);
        let swarm = put(&State::default(), Cluster { id: "c".into(), ..Cluster::default() }.into());
        assert_eq!(refused(&swarm).err(), removed);
        assert_eq!(refused(&put(&swarm, Node { id: "a".into(), ..Node::default() }.into())), Ok(()));
    }
}
