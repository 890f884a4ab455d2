//! Ports of the routing mesh, held on the node.
//!
//! The programs take what comes to a published port before any socket could. A server of the node that bound such a port
//! would never hear of a client, so the port is held while the plan has it. Where somebody has it already, the mesh goes
//! on all the same, as with Docker: the log says so once, and the port is held as soon as it can be.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use malha_model::Protocol;
use malha_netplan::PublishedPort;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{hold, netns::Netns};

/// How often a port that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(10);

type Port = (Protocol, u16);

pub(crate) struct MeshPorts {
    node: Netns,
    /// Held for moments.
    state: Mutex<State>,
    /// Held by the thread that binds, which nobody can call off.
    binding: Arc<tokio::sync::Mutex<()>>,
    changed: Notify,
    /// Some port may be free that was not.
    let_go: Notify,
}

#[derive(Default)]
struct State {
    /// With the service that publishes it.
    wanted: BTreeMap<Port, String>,
    /// A subset of those; without a socket where the protocol has none.
    held: BTreeMap<Port, Option<OwnedFd>>,
    /// Being bound at this moment, each for as long as all are. One that is wanted no more by then is let go again.
    taking: BTreeSet<Port>,
    /// Those of which the log has told that somebody else has them.
    told: BTreeSet<Port>,
}

impl MeshPorts {
    pub(crate) fn new(node: Netns) -> Self {
        let binding = Arc::default();
        Self { node, state: Mutex::default(), binding, changed: Notify::new(), let_go: Notify::new() }
    }

    /// These are to be held. What is not among them is free soon, see [`Self::free`]; what is new is held soon.
    pub(crate) fn set(&self, published: &BTreeMap<Port, PublishedPort>) {
        let mut state = self.state.lock();
        state.wanted = published.iter().map(|(port, p)| (*port, p.service.clone())).collect();
        let State { wanted, held, told, .. } = &mut *state;
        held.retain(|port, _| wanted.contains_key(port));
        told.retain(|port| wanted.contains_key(port));
        drop(state);
        self.changed.notify_one();
        self.let_go.notify_waiters();
    }

    /// Whether a port that cannot be had is the mesh's. One that somebody else has is tried now and then all the same.
    pub(crate) fn holds(&self, port: Port) -> bool {
        let state = self.state.lock();
        state.held.contains_key(&port) || (state.taking.contains(&port) && !state.told.contains(&port))
    }

    /// Waits until none of these is the mesh's.
    pub(crate) async fn free(&self, ports: &BTreeSet<Port>) {
        loop {
            // before the look: what is let go right after it counts as well
            let let_go = self.let_go.notified();
            if !ports.iter().any(|port| self.holds(*port)) {
                return;
            }
            let_go.await;
        }
    }

    /// Takes what is wanted and not held, at each change and now and then.
    pub(crate) async fn follow(&self) {
        loop {
            self.take_missing().await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn take_missing(&self) {
        let missing = self.state.lock().begin();
        if missing.is_empty() {
            return;
        }
        let turn = Arc::clone(&self.binding).lock_owned().await;
        let bind = move || {
            let bound = missing.into_iter().map(|port| (port, hold::bind(port.0, port.1))).collect::<Vec<_>>();
            // where nobody waits any more the ports are let go of first
            (bound, turn)
        };
        match self.node.run(bind).await {
            Ok((bound, _turn)) => self.state.lock().keep(bound),
            Err(error) => {
                self.state.lock().taking.clear();
                tracing::warn!(%error, "published ports are not held on this node");
            }
        }
        self.let_go.notify_waiters();
    }
}

impl Holding {
    /// Waits until no port is being bound on behalf of somebody who was given up.
    pub(crate) async fn at_rest(&self) {
        drop(self.0.binding.lock().await);
    }
}

impl State {
    /// What is to be bound now.
    fn begin(&mut self) -> Vec<Port> {
        let missing: Vec<Port> = self.wanted.keys().filter(|port| !self.held.contains_key(port)).copied().collect();
        self.taking.extend(&missing);
        missing
    }

    fn keep(&mut self, bound: Vec<(Port, hold::Bound)>) {
        self.taking.clear();
        for (port, bound) in bound {
            // it may be unpublished by now
            let Some(service) = self.wanted.get(&port) else { continue };
            let shown = format!("{}/{}", port.1, port.0);
            match bound {
                Ok((_, socket)) => {
                    self.held.insert(port, socket);
                    if self.told.remove(&port) {
                        tracing::info!(port = shown, service, "the published port is held now");
                    }
                }
                Err(error) if self.told.insert(port) => tracing::warn!(
                    port = shown,
                    service,
                    %error,
                    "somebody else on this node has a published port: what comes to it goes to the service"
                ),
                Err(_) => {}
            }
        }
    }
}

/// The ports are held for as long as this value lives, whoever else knows of them.
pub(crate) struct Holding(pub(crate) Arc<MeshPorts>);

impl Drop for Holding {
    fn drop(&mut self) {
        // nobody keeps any more what is being taken
        self.0.state.lock().taking.clear();
        self.0.set(&BTreeMap::new());
    }
}
