//! The handle that the rest of the manager holds, and how a member starts, reports and stops.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use malha_kit::{Tasks, watch};
use malha_model::NodeId;
use malha_store::{Change, State};
use openraft::{
    async_runtime::{Instant as _, WatchReceiver},
    errors::{Fatal, InitializeError, RaftError},
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    Config, LeaderAddr, Leadership, RaftTransport, StartError, Storage, StorageError, UpdateError,
    machine::Machine,
    network::Network,
    peers::Peers,
    receiver::Receiver,
    runtime::with_rng,
    storage::journal::Journal,
    types::{Metrics, Peer, Raft, TypeConfig},
};

/// One member of the Raft group. Clones are the same member.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) raft: Raft,
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) health: watch::Receiver<Option<StorageError>>,
    /// What the storage knew of the group: this member had a vote.
    voted: bool,
    pub(crate) receiver: Receiver,
    /// One update at a time.
    pub(crate) planning: Arc<tokio::sync::Mutex<()>>,
    pub(crate) tasks: Tasks,
}

/// A member in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub term: u64,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// Why the disk takes no writes.
    pub disk: Option<StorageError>,
    /// The member takes no part any more, because its disk failed for good or it was shut down.
    pub stopped: bool,
}

/// How long a stop waits for writes under way.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What reaches into openraft is boxed: the code of a future is compiled by whoever names its type, and so openraft is
/// compiled here and not once more by every caller.
impl Consensus {
    /// Starts a member, from what its storage holds.
    pub async fn start(
        config: Config,
        storage: impl Storage,
        transport: Arc<dyn RaftTransport>,
    ) -> Result<Self, StartError> {
        Self::start_on(config, Arc::new(storage), transport).await
    }

    fn start_on(
        config: Config,
        storage: Arc<dyn Storage>,
        transport: Arc<dyn RaftTransport>,
    ) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(async move {
            let settings = config.raft().validate().map_err(|e| StartError::Config(e.to_string()))?;
            let tasks = Tasks::new();
            let (journal, writer) = Journal::start(storage.load().await?, storage.clone(), tasks.token().clone())?;
            let health = journal.health();
            let machine = Machine::load(storage, journal.clone(), config.observer.clone()).await?;
            let (state, peers) = (machine.state(), machine.peers());
            let network = Network { node: config.node.clone(), transport, peers: peers.clone() };
            tasks.spawn_vital("raft journal", writer);

            let starting = async {
                let raft = Raft::new(config.node.clone(), Arc::new(settings), network, journal, machine).await?;
                // the metrics tell of it a moment later
                let known = raft.with_raft_state(|state| state.membership_state.effective().clone()).await?;
                Ok::<_, Fatal<TypeConfig>>((raft, known))
            };
            let (raft, known) = match with_rng(config.rng.clone(), starting).await {
                Ok(started) => started,
                Err(error) => {
                    tasks.shutdown().await;
                    return Err(StartError::Raft(error.to_string()));
                }
            };
            let voted = known.voter_ids().any(|voter| voter == config.node);
            let alone = known.voter_ids().eq([config.node.clone()]);
            let receiver = Receiver::new(config.node.clone(), raft.clone());
            let (leadership_tx, leadership) = watch::channel(Leadership::NoLeader);
            let watcher = Watcher {
                config: config.clone(),
                raft: raft.clone(),
                heard: receiver.heard(),
                peers,
                leadership: leadership_tx,
            };
            tasks.spawn_vital("raft leadership", watcher.run());
            let planning = Arc::default();
            let shared = Shared { config, raft, state, leadership, health, voted, receiver, planning, tasks };
            let consensus = Self { shared: Arc::new(shared) };
            if alone {
                consensus.elect_at_once().await;
            }
            Ok(consensus)
        })
    }

    /// Makes this member the first one of a new group whose state is `initial`. Called again, it waits until the
    /// member leads. Returns the index of the state.
    pub fn bootstrap(&self, initial: Vec<Change>) -> BoxFuture<'_, Result<u64, UpdateError<std::convert::Infallible>>> {
        Box::pin(async move {
            let Shared { raft, config, .. } = &*self.shared;
            let first = [(config.node.clone(), Peer { addr: config.addr.clone() })];
            match with_rng(config.rng.clone(), raft.initialize(std::collections::BTreeMap::from(first))).await {
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(RaftError::APIError(InitializeError::NotInMembers(_)) | RaftError::Fatal(_)) => {
                    return Err(UpdateError::Stopped);
                }
            }
            let mut leadership = self.leadership();
            tokio::select! {
                biased;
                led = leadership.wait_for(Leadership::is_leader) => led.map(drop).map_err(|_| UpdateError::Stopped)?,
                () = tokio::time::sleep(config.timings.commit) => return Err(self.no_leader()),
            }
            let index = self.shared.state.borrow().index();
            if index > 0 {
                return Ok(index);
            }
            let initial = self.measure(initial);
            self.propose(move |_| Ok(((), initial)), |(), index| index).await
        })
    }

    /// The state, replaced after every applied change.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.shared.state.clone()
    }

    /// Waits until this member has applied the write at `index`. None when it stops before.
    pub async fn wait_applied(&self, index: u64) -> Option<Arc<State>> {
        let mut state = self.state();
        state.wait_for(|state| state.index() >= index).await.ok().map(|state| state.clone())
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Why the disk takes no writes, while it does not.
    pub fn disk_health(&self) -> watch::Receiver<Option<StorageError>> {
        self.shared.health.clone()
    }

    pub fn node(&self) -> &NodeId {
        &self.shared.config.node
    }

    /// Answers a message that another member's transport carried here.
    pub fn handle<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Vec<u8>> {
        Box::pin(self.shared.receiver.handle(message))
    }

    /// Whether this member had a vote when it was stopped.
    pub fn voted(&self) -> bool {
        self.shared.voted
    }

    /// Whether this member has a vote, or had one as far as it knows.
    pub fn votes(&self) -> bool {
        self.metrics().membership_config.voter_ids().any(|voter| voter == *self.node())
    }

    /// Whether this member belongs to a group, or did as far as it knows.
    pub fn is_member(&self) -> bool {
        let metrics = self.metrics();
        metrics.membership_config.get_node(self.node()).is_some()
    }

    pub fn status(&self) -> Status {
        let metrics = self.metrics();
        let index = |id: &Option<crate::types::LogId>| id.as_ref().map_or(0, |id| id.index);
        Status {
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or_default(),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            disk: self.shared.health.borrow().clone(),
            stopped: metrics.running_state.is_err() || self.shared.tasks.has_failed(),
        }
    }

    /// Builds a snapshot now rather than when it is due.
    pub fn snapshot(&self) -> BoxFuture<'_, Result<(), UpdateError<std::convert::Infallible>>> {
        Box::pin(async move { self.shared.raft.trigger().snapshot().await.map_err(|_| UpdateError::Stopped) })
    }

    /// Stops taking part. What is not durable by then was never acknowledged.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let raft = &self.shared.raft;
            // a full disk may hold the core up; then the journal goes first, which ends it
            if tokio::time::timeout(STOP_PATIENCE, raft.shutdown()).await.is_err() {
                warn!("writes are held up; stopping without them");
            }
            self.shared.tasks.shutdown().await;
            if let Err(error) = raft.shutdown().await {
                warn!(%error, "the raft core ended badly");
            }
            info!(node = %self.node(), "consensus stopped");
        })
    }

    /// Waits until no other member can have been elected: what this one knows is then the newest there is. False where it
    /// does not lead, or stops leading meanwhile.
    pub async fn confirm(&self) -> bool {
        let mut metrics = self.shared.raft.metrics();
        loop {
            let fresh = quorum_heard(&self.shared.config, &metrics.borrow_watched());
            if !self.shared.leadership.borrow().is_leader() {
                return false;
            }
            if fresh {
                return true;
            }
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() { return false },
                () = tokio::time::sleep(self.shared.config.timings.heartbeat) => {}
            }
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.shared.raft.metrics().borrow_watched().clone()
    }

    /// The only voter need not wait for others to stay silent.
    async fn elect_at_once(&self) {
        if self.shared.raft.trigger().elect(false).await.is_err() {
            warn!("the raft core stopped while starting");
        }
    }

    pub(crate) fn no_leader<E>(&self) -> UpdateError<E> {
        match &*self.shared.leadership.borrow() {
            Leadership::Follower { leader } => UpdateError::NotLeader { leader: Some(leader.clone()) },
            Leadership::NoLeader | Leadership::Leader { .. } => UpdateError::NoQuorum,
        }
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("node", self.node()).finish_non_exhaustive()
    }
}

/// Turns openraft's metrics into [`Leadership`].
struct Watcher {
    config: Config,
    raft: Raft,
    /// When a leader was last heard.
    heard: watch::Receiver<Option<Instant>>,
    peers: Peers,
    leadership: watch::Sender<Leadership>,
}

impl Watcher {
    async fn run(self) {
        let mut metrics = self.raft.metrics();
        loop {
            let now = self.judge(&metrics.borrow_watched().clone());
            let stopped = metrics.borrow_watched().running_state.is_err();
            let changed = self.leadership.send_if_modified(|known| {
                let changed = *known != now;
                *known = now.clone();
                changed
            });
            if changed {
                info!(node = %self.config.node, leadership = ?now, "leadership changed");
            }
            if stopped {
                return;
            }
            tokio::select! {
                biased;
                ended = metrics.changed() => if ended.is_err() {
                    self.leadership.send_replace(Leadership::NoLeader);
                    return;
                },
                // silence changes no metric
                () = tokio::time::sleep(self.config.timings.heartbeat) => {}
            }
        }
    }

    fn judge(&self, metrics: &Metrics) -> Leadership {
        let term = metrics.current_term;
        let Some(leader) = metrics.current_leader.clone().filter(|_| metrics.running_state.is_ok()) else {
            return Leadership::NoLeader;
        };
        if leader == self.config.node {
            let caught_up = metrics.last_applied.as_ref().is_some_and(|id| id.committed_leader_id().term == term);
            let leads = caught_up && metrics.state.is_leader() && self.is_followed(metrics);
            return if leads { Leadership::Leader { term } } else { Leadership::NoLeader };
        }
        let silent = self.heard.borrow().is_none_or(|heard| heard.elapsed() > self.config.timings.patience());
        let known = metrics.membership_config.get_node(&leader).map(|peer| peer.addr.clone());
        match self.peers.addr(&leader).or(known) {
            Some(addr) if !silent => Leadership::Follower { leader: LeaderAddr { node: leader, addr } },
            _ => Leadership::NoLeader,
        }
    }

    /// One that leads goes on until the majority has been silent for long; it begins with one that answers.
    fn is_followed(&self, metrics: &Metrics) -> bool {
        let leads = self.leadership.borrow().is_leader();
        quorum_heard(&self.config, metrics)
            || leads && silence(metrics).is_some_and(|silence| silence <= self.config.timings.abdication)
    }
}

/// A majority has answered so recently that it cannot have elected another.
fn quorum_heard(config: &Config, metrics: &Metrics) -> bool {
    let alone = metrics.membership_config.voter_ids().eq([config.node.clone()]);
    alone || silence(metrics).is_some_and(|silence| silence <= config.timings.patience())
}

/// Since a majority last answered.
fn silence(metrics: &Metrics) -> Option<Duration> {
    metrics.last_quorum_acked.map(|at| at.elapsed())
}
