//! A group of members in one process: memory for disks, function calls for a network, virtual time, one seed.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test helper may panic as a test does")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use malha_consensus::{
    Config, Consensus, LeaderAddr, Leadership, RaftTransport, SimDisk, Timings, TransportError, UpdateError,
};
use malha_kit::{Rng, TokioClock};
use malha_model::{Kind, Node, NodeId, Object, Timestamp};
use malha_store::{Change, State};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::{Instant, sleep, timeout};

/// The network between members.
pub(crate) struct Hub {
    members: Mutex<BTreeMap<String, Consensus>>,
    /// Pairs that do not hear each other, in this direction.
    cuts: Mutex<BTreeSet<(String, String)>>,
    rng: Rng,
    pub(crate) trace: Mutex<Vec<String>>,
    start: Instant,
}

/// One run of one member, as far as the network knows.
pub(crate) struct Port {
    hub: Arc<Hub>,
    addr: String,
    up: Arc<Mutex<bool>>,
}

#[async_trait]
impl RaftTransport for Port {
    async fn send(&self, _to: &NodeId, addr: &str, message: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let hub = &self.hub;
        hub.note(format!("{} -> {addr} {}", self.addr, message.len()));
        hub.pass(&self.addr, addr).await?;
        if !*self.up.lock() {
            return Err(TransportError::Unreachable("power is off".to_owned()));
        }
        let Some(member) = hub.members.lock().get(addr).cloned() else {
            return Err(TransportError::Unreachable("connection refused".to_owned()));
        };
        // the receiver goes on even if the sender loses patience
        let answer = tokio::spawn(async move { member.handle(&message).await });
        let answer = answer.await.map_err(|e| TransportError::Failed(e.to_string()))?;
        hub.pass(addr, &self.addr).await?;
        Ok(answer)
    }
}

impl Hub {
    async fn pass(&self, from: &str, to: &str) -> Result<(), TransportError> {
        let delay = self.rng.clone().random_range(Duration::from_micros(100)..Duration::from_millis(3));
        sleep(delay).await;
        if self.cuts.lock().contains(&(from.to_owned(), to.to_owned())) {
            sleep(Duration::from_secs(1)).await;
            return Err(TransportError::Failed("no answer".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn note(&self, what: String) {
        let at = self.start.elapsed();
        self.trace.lock().push(format!("{at:?} {what}"));
    }
}

pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) consensus: Option<Consensus>,
    addr: String,
    up: Arc<Mutex<bool>>,
}

pub(crate) struct Group {
    pub(crate) hub: Arc<Hub>,
    pub(crate) machines: BTreeMap<String, Machine>,
    rng: Rng,
    pub(crate) snapshot_every: u64,
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::from(name)
}

pub(crate) fn object(name: &str) -> Object {
    let mut node = Node { id: id(name), ..Node::default() };
    node.spec.name = name.to_owned();
    node.into()
}

impl Group {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = Rng::from_seed(seed);
        let hub = Hub {
            members: Mutex::default(),
            cuts: Mutex::default(),
            rng: rng.fork(),
            trace: Mutex::default(),
            start: Instant::now(),
        };
        Self { hub: Arc::new(hub), machines: BTreeMap::new(), rng, snapshot_every: 1000 }
    }

    /// `names` as voters, the first one bootstrapped.
    pub(crate) async fn of(seed: u64, names: &[&str]) -> Self {
        let mut group = Self::new(seed);
        let first = group.start(names[0]).await;
        first.bootstrap(vec![Change::Put(object("first"))]).await.unwrap();
        for name in &names[1..] {
            group.start(name).await;
            first.add_manager(id(name), (*name).to_owned()).await.unwrap();
        }
        group
    }

    /// Switches the machine `name` on.
    pub(crate) async fn start(&mut self, name: &str) -> Consensus {
        let (rng, hub) = (&self.rng, &self.hub);
        let machine = self.machines.entry(name.to_owned()).or_insert_with(|| Machine {
            disk: SimDisk::new(rng.fork(), Duration::from_micros(200)..=Duration::from_millis(8)),
            consensus: None,
            addr: name.to_owned(),
            up: Arc::default(),
        });
        machine.up = Arc::new(Mutex::new(true));
        let clock = Arc::new(TokioClock::starting_at(Timestamp(1_000_000_000)));
        let config = Config {
            timings: Timings::default(),
            snapshot_every: self.snapshot_every,
            observer: None,
            ..Config::new(id(name), machine.addr.clone(), self.rng.fork(), clock)
        };
        let port = Port { hub: hub.clone(), addr: machine.addr.clone(), up: machine.up.clone() };
        let consensus = Consensus::start(config, machine.disk.open(), Arc::new(port)).await.unwrap();
        machine.consensus = Some(consensus.clone());
        hub.members.lock().insert(machine.addr.clone(), consensus.clone());
        consensus
    }

    /// Power fails on `name`; returns how many commits were lost.
    pub(crate) async fn crash(&mut self, name: &str) -> usize {
        let machine = self.machines.get_mut(name).unwrap();
        self.hub.members.lock().remove(&machine.addr);
        *machine.up.lock() = false;
        let lost = machine.disk.crash();
        if let Some(consensus) = machine.consensus.take() {
            consensus.shutdown().await;
        }
        lost
    }

    /// From its next start on, `name` listens at `addr`.
    pub(crate) fn move_to(&mut self, name: &str, addr: &str) {
        self.machines.get_mut(name).unwrap().addr = addr.to_owned();
    }

    pub(crate) fn get(&self, name: &str) -> Consensus {
        self.machines[name].consensus.clone().unwrap()
    }

    pub(crate) fn running(&self) -> Vec<String> {
        self.machines.iter().filter(|(_, m)| m.consensus.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// `names` and the others no longer hear each other.
    pub(crate) fn isolate(&self, names: &[&str]) {
        let mut cuts = self.hub.cuts.lock();
        for inside in names {
            for outside in self.machines.keys().filter(|m| !names.contains(&m.as_str())) {
                cuts.insert(((*inside).to_owned(), outside.clone()));
                cuts.insert((outside.clone(), (*inside).to_owned()));
            }
        }
    }

    pub(crate) fn heal(&self) {
        self.hub.cuts.lock().clear();
    }

    /// The leader among `names`, once there is one.
    pub(crate) async fn leader_of(&self, names: &[&str]) -> (String, Consensus) {
        let find = async {
            loop {
                for name in names {
                    if self.get(name).leadership().borrow().is_leader() {
                        return ((*name).to_owned(), self.get(name));
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), find).await.expect("a leader within 20 s")
    }

    pub(crate) async fn leader(&self) -> (String, Consensus) {
        let running = self.running();
        self.leader_of(&running.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Waits until all running members hold the same state as the leader.
    pub(crate) async fn settle(&self) -> Arc<State> {
        let wait = async {
            loop {
                let (_, leader) = self.leader().await;
                let want = leader.state().borrow().clone();
                let status = leader.status();
                let same = |name: &String| *self.get(name).state().borrow() == want;
                if status.applied == status.last_log && self.running().iter().all(same) {
                    return want;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), wait).await.expect("members agree within 60 s")
    }
}

impl Drop for Group {
    /// Members refer to the network and the network to them.
    fn drop(&mut self) {
        self.hub.members.lock().clear();
    }
}

/// Adds an object of that name.
pub(crate) async fn add(consensus: &Consensus, name: &str) -> Result<u64, UpdateError<String>> {
    let named = object(name);
    consensus
        .update(move |tx| {
            tx.put(named);
            Ok(())
        })
        .await
        .map(|((), index)| index)
}

pub(crate) fn has(state: &State, name: &str) -> bool {
    state.object(Kind::Node, name).is_some()
}

pub(crate) fn follower_of(leadership: &Leadership) -> Option<String> {
    leadership.other().map(|LeaderAddr { node, .. }| node.to_string())
}
