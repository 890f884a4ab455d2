//! All sandboxes of a node.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use malha_kit::Tasks;
use malha_netplan::Zone;
use tokio::net::TcpListener;

use crate::{
    Error, Stats,
    forward::Forwarder,
    netns::Netns,
    sandbox::{Listen, Ports, Sandbox, listen},
    tcp,
    udp::Poller,
};

/// A thread serves several sandboxes; more than this many would only take processors from the containers.
const MAX_THREADS: usize = 4;

/// A handle on the server; clones are the same server.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: Tasks,
    listen: Listen,
    forwarder: Forwarder,
    pollers: Vec<Arc<Poller>>,
    next_key: AtomicU64,
    /// Serialises what opens sockets.
    adding: tokio::sync::Mutex<()>,
    sandboxes: Mutex<BTreeMap<String, (u64, Arc<Sandbox>)>>,
}

impl Server {
    /// Starts the threads. They and everything they serve end with `tasks`.
    pub fn start(tasks: &Tasks, listen: Listen) -> Result<Self, Error> {
        let forwarder = Forwarder::new();
        let threads = thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, MAX_THREADS));
        let pollers = (0..threads).map(|_| Poller::start(forwarder.clone())).collect::<io::Result<Vec<_>>>()?;
        let stop = StopOnDrop(pollers.clone());
        tasks.spawn("dns threads", async move {
            let _stop = stop;
            std::future::pending().await
        });
        Ok(Self(Arc::new(Inner {
            tasks: tasks.clone(),
            listen,
            forwarder,
            pollers,
            next_key: AtomicU64::new(0),
            adding: tokio::sync::Mutex::default(),
            sandboxes: Mutex::default(),
        })))
    }

    /// Opens sockets at `127.0.0.11` in the network namespace at `netns` and answers there from `zone`; tells their ports. A sandbox that is served
    /// already in that namespace only gets the zone; one whose namespace was made anew gets new sockets.
    pub async fn add(&self, id: &str, netns: &Path, zone: Arc<Zone>) -> Result<Ports, Error> {
        let inner = &self.0;
        let _adding = inner.adding.lock().await;
        let netns = Netns::open(netns).map_err(|source| Error::Netns { path: netns.to_owned(), source })?;
        if let Some((_, sandbox)) = inner.sandboxes().get(id).filter(|(_, s)| s.netns == netns) {
            sandbox.zone.store(zone);
            return Ok(sandbox.ports);
        }
        inner.remove(id).await;
        let listening = |source| Error::Listen { sandbox: id.to_owned(), source };
        let at = inner.listen;
        let (udp, tcp, ports) = netns.inside(move || listen(at)).await.map_err(listening)?;
        // whoever calls: conversations are held where the server was started
        let _runtime = inner.forwarder.runtime().enter();
        let tcp = TcpListener::from_std(tcp).map_err(listening)?;
        let sandbox = Arc::new(Sandbox::new(id, netns, (udp, ports), zone, inner.tasks.child()));
        let key = inner.next_key.fetch_add(1, Ordering::Relaxed);
        inner.poller(key).add(key, sandbox.clone()).map_err(listening)?;
        inner.sandboxes().insert(id.to_owned(), (key, sandbox.clone()));
        tcp::serve(sandbox, tcp, inner.forwarder.clone());
        Ok(ports)
    }

    /// Swaps the zone of a sandbox in; false where there is no such sandbox. The next query sees it.
    #[allow(clippy::unused_async, reason = "callers treat all changes alike")]
    pub fn update(&self, id: &str, zone: Arc<Zone>) -> bool {
        match self.0.sandboxes().get(id) {
            Some((_, sandbox)) => {
                sandbox.zone.store(zone);
                true
            }
            None => false,
        }
    }

    /// Closes the sockets of a sandbox, which also lets go of its namespace: when it returns, nothing here holds it.
    /// Unknown ones are fine.
    pub async fn remove(&self, id: &str) {
        let _adding = self.0.adding.lock().await;
        self.0.remove(id).await;
    }

    /// Counts of one sandbox.
    pub fn sandbox_stats(&self, id: &str) -> Option<Stats> {
        self.0.sandboxes().get(id).map(|(_, sandbox)| sandbox.counters.snapshot())
    }

    /// Counts of all sandboxes that are served now.
    pub fn stats(&self) -> Stats {
        let sandboxes = self.0.sandboxes();
        sandboxes.values().fold(Stats::default(), |sum, (_, sandbox)| sum.plus(sandbox.counters.snapshot()))
    }
}

impl Inner {
    fn sandboxes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (u64, Arc<Sandbox>)>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poller(&self, key: u64) -> &Poller {
        &self.pollers[key as usize % self.pollers.len()]
    }

    async fn remove(&self, id: &str) {
        let removed = self.sandboxes().remove(id);
        if let Some((key, sandbox)) = removed {
            self.poller(key).remove(key);
            sandbox.tasks.shutdown().await;
        }
    }
}

#[derive(Debug)]
struct StopOnDrop(Vec<Arc<Poller>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|poller| poller.stop());
    }
}
