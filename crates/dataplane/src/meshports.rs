//! Ports of the routing mesh, held on the node.
//!
//! The programs take what comes to a published port before any socket could. A server of the node that bound such a port
//! would never hear of a client, so the port is held while the plan has it. Where somebody has it already, the mesh goes
//! on all the same, as with Docker: the log says so once, and the port is held as soon as it can be.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
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
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// With the service that publishes it.
    wanted: BTreeMap<Port, String>,
    /// A subset of those; without a socket where the protocol has none.
    held: BTreeMap<Port, Option<OwnedFd>>,
    /// Those of which the log has told that somebody else has them.
    told: BTreeSet<Port>,
}

impl MeshPorts {
    pub(crate) fn new(node: Netns) -> Self {
        Self { node, state: Mutex::default(), changed: Notify::new() }
    }

    /// These are to be held. What is not among them is free when this returns; what is new is held soon after.
    pub(crate) fn set(&self, published: &BTreeMap<Port, PublishedPort>) {
        let mut state = self.state.lock();
        state.wanted = published.iter().map(|(port, p)| (*port, p.service.clone())).collect();
        let State { wanted, held, told } = &mut *state;
        held.retain(|port, _| wanted.contains_key(port));
        told.retain(|port| wanted.contains_key(port));
        self.changed.notify_one();
    }

    pub(crate) fn holds(&self, port: Port) -> bool {
        self.state.lock().held.contains_key(&port)
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
        let missing: Vec<Port> = {
            let state = self.state.lock();
            state.wanted.keys().filter(|port| !state.held.contains_key(port)).copied().collect()
        };
        if missing.is_empty() {
            return;
        }
        let bind = move || missing.into_iter().map(|port| (port, hold::bind(port.0, port.1))).collect::<Vec<_>>();
        match self.node.run(bind).await {
            Ok(bound) => self.state.lock().keep(bound),
            Err(error) => tracing::warn!(%error, "published ports are not held on this node"),
        }
    }
}

impl State {
    fn keep(&mut self, bound: Vec<(Port, hold::Bound)>) {
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
pub(crate) struct Holding(pub(crate) std::sync::Arc<MeshPorts>);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.set(&BTreeMap::new());
    }
}
