//! Which nodes reach which, and how long it takes.

use std::{collections::BTreeSet, time::Duration};

use malha_kit::{Rng, watch};
use malha_model::NodeId;
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::{sleep, timeout};

/// One-way delays are drawn evenly from between the two.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub min: Duration,
    pub max: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { min: Duration::from_micros(200), max: Duration::from_millis(1) }
    }
}

/// A connection that nothing passes for so long is dead.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Links {
    latency: Mutex<Latency>,
    rng: Mutex<Rng>,
    broken: watch::Sender<Broken>,
}

#[derive(Clone, Default)]
struct Broken {
    /// From the first to the second.
    ways: BTreeSet<(NodeId, NodeId)>,
    nodes: BTreeSet<NodeId>,
}

impl Broken {
    fn passes(&self, a: &NodeId, b: &NodeId) -> bool {
        a == b || !(self.nodes.contains(a) || self.nodes.contains(b) || self.ways.contains(&(a.clone(), b.clone())))
    }
}

impl Links {
    pub(crate) fn new(latency: Latency, rng: Rng) -> Self {
        Self { latency: Mutex::new(latency), rng: Mutex::new(rng), broken: watch::Sender::new(Broken::default()) }
    }

    pub(crate) fn set_latency(&self, latency: Latency) {
        *self.latency.lock() = latency;
    }

    pub(crate) fn cut_one_way(&self, from: &NodeId, to: &NodeId) {
        self.broken.send_modify(|broken| {
            broken.ways.insert((from.clone(), to.clone()));
        });
    }

    pub(crate) fn isolate(&self, node: &NodeId) {
        self.broken.send_modify(|broken| {
            broken.nodes.insert(node.clone());
        });
    }

    pub(crate) fn rejoin(&self, node: &NodeId) {
        self.broken.send_modify(|broken| {
            broken.nodes.remove(node);
        });
    }

    pub(crate) fn heal(&self) {
        self.broken.send_replace(Broken::default());
    }

    pub(crate) fn draw(&self) -> Duration {
        let Latency { min, max } = *self.latency.lock();
        self.rng.lock().random_range(min..=max)
    }

    pub(crate) async fn pause(&self) {
        sleep(self.draw()).await;
    }

    /// One trip from `a` to `b`; false where the link stayed dead for too long.
    pub(crate) async fn pass(&self, a: &NodeId, b: &NodeId) -> bool {
        self.pause().await;
        self.open(a, b).await
    }

    /// Holds until the link works; false where it stayed dead for too long.
    pub(crate) async fn open(&self, a: &NodeId, b: &NodeId) -> bool {
        let mut broken = self.broken.subscribe();
        let open = async { broken.wait_for(|broken| broken.passes(a, b)).await.is_ok() };
        timeout(PATIENCE, open).await.unwrap_or(false)
    }
}
