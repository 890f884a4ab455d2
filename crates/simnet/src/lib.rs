//! An in-memory network between nodes, for tests and simulation: the [`Connector`] without sockets.
//!
//! Every call and message takes a drawn delay and arrives in order. A cut link behaves like one: what is under way waits
//! and arrives after the heal, or the connection dies of silence. A crashed process resets its connections. All waiting
//! is on tokio's timers and all draws come from one generator, so a seed repeats a run.

mod connection;
mod links;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use malha_kit::{CancellationToken, Rng};
use malha_model::{NodeId, Role};
use malha_wire::{ConnectError, Connector, ManagerClient, ManagerService, Peer};
use parking_lot::Mutex;

pub use self::links::Latency;
use self::{connection::Connection, links::Links};

/// Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    shared: Arc<Shared>,
}

struct Shared {
    links: Links,
    listeners: Mutex<BTreeMap<String, Listener>>,
    /// Cancelled when the node's process dies.
    processes: Mutex<BTreeMap<NodeId, CancellationToken>>,
}

#[derive(Clone)]
struct Listener {
    node: NodeId,
    service: Arc<dyn ManagerService>,
}

impl SimNet {
    pub fn new(latency: Latency, rng: Rng) -> Self {
        let shared =
            Shared { links: Links::new(latency, rng), listeners: Mutex::default(), processes: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// `node` answers at `addr` from now on.
    pub fn listen(&self, addr: &str, node: NodeId, service: Arc<dyn ManagerService>) {
        self.shared.listeners.lock().insert(addr.to_owned(), Listener { node, service });
    }

    pub fn unlisten(&self, addr: &str) {
        self.shared.listeners.lock().remove(addr);
    }

    /// Connections from `peer`, whose certificate says what `peer` says.
    pub fn connector(&self, peer: Peer) -> SimConnector {
        SimConnector { net: self.clone(), peer: Arc::new(Mutex::new(peer)) }
    }

    /// The process of `node` dies: its listeners are gone and both ends of its connections see the end at once.
    pub fn crash(&self, node: &NodeId) {
        self.shared.listeners.lock().retain(|_, l| l.node != *node);
        if let Some(process) = self.shared.processes.lock().remove(node) {
            process.cancel();
        }
    }

    /// Nothing passes between the two any more, in either direction, until [`SimNet::heal`].
    pub fn cut(&self, a: &NodeId, b: &NodeId) {
        self.shared.links.cut_one_way(a, b);
        self.shared.links.cut_one_way(b, a);
    }

    /// Nothing passes from the one to the other; what goes the other way still arrives.
    pub fn cut_one_way(&self, from: &NodeId, to: &NodeId) {
        self.shared.links.cut_one_way(from, to);
    }

    /// Nothing passes between `node` and anybody else.
    pub fn isolate(&self, node: &NodeId) {
        self.shared.links.isolate(node);
    }

    /// `node` reaches the others again.
    pub fn rejoin(&self, node: &NodeId) {
        self.shared.links.rejoin(node);
    }

    /// All links work.
    pub fn heal(&self) {
        self.shared.links.heal();
    }

    pub fn set_latency(&self, latency: Latency) {
        self.shared.links.set_latency(latency);
    }

    fn process(&self, node: &NodeId) -> CancellationToken {
        self.shared.processes.lock().entry(node.clone()).or_default().clone()
    }
}

/// The connector of one node.
#[derive(Clone)]
pub struct SimConnector {
    net: SimNet,
    peer: Arc<Mutex<Peer>>,
}

impl SimConnector {
    /// The node got a certificate of another role.
    pub fn set_role(&self, role: Role) {
        self.peer.lock().role = role;
    }
}

#[async_trait]
impl Connector for SimConnector {
    async fn connect(&self, addr: &str) -> Result<Arc<dyn ManagerClient>, ConnectError> {
        let peer = self.peer.lock().clone();
        let unreachable = |reason: &str| ConnectError::Unreachable { addr: addr.to_owned(), reason: reason.to_owned() };
        let target = self.net.shared.listeners.lock().get(addr).cloned();
        let Some(Listener { node, service }) = target else {
            self.net.shared.links.pause().await;
            return Err(unreachable("connection refused"));
        };
        if !self.net.shared.links.pass(&peer.node, &node).await {
            return Err(unreachable("no route to host"));
        }
        let connection = Connection {
            net: self.net.clone(),
            ends: [self.net.process(&peer.node), self.net.process(&node)],
            peer,
            node,
            service,
        };
        Ok(Arc::new(connection))
    }
}
