//! Being a manager: started at init, join or promotion, stopped at demotion or leave.
//!
//! The role follows what the leader says in the session: a node that is to be a manager renews its certificate, starts
//! its manager and asks for a seat in the Raft group; one that is not any more stops it and forgets the log.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use malha_agent::Link;
use malha_consensus::{Config as RaftConfig, Consensus, Leadership, RedbStorage};
use malha_kit::{Backoff, Tasks};
use malha_manager::{ConnectorTransport, Manager, ManagerConfig, ManagerDeps, NewSwarm};
use malha_model::{ApiError, ApiResult, Code, Role, Timestamp};
use malha_wire::Connector;
use tokio::{net::TcpListener, time::sleep};
use tracing::{error, info, warn};

use super::{events::Feed, member::Member};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often the age of the certificate is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);
/// A manager whose session stands and that in two looks hears from no Raft leader, or has no vote, asks for its seat.
const SEAT_CHECK: Duration = Duration::from_secs(2);

/// What is known of the disk that a manager starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Nothing: the swarm begins here.
    New,
    AsItIs,
    /// A write failed: what the file seems to hold may never have reached the disk.
    AfterFailure,
}

/// A running manager.
pub(super) struct Managing {
    pub(super) manager: Manager,
    pub(super) consensus: Consensus,
    /// The leader said, or the log did at the start, that this node has a seat.
    told_seated: AtomicBool,
    tasks: Tasks,
}

impl Managing {
    /// The group counts this node's vote. Before that it is no manager to whoever asks: another one that stops now may
    /// take the quorum along.
    pub(super) fn is_seated(&self) -> bool {
        self.told_seated.load(Ordering::Relaxed) || self.consensus.votes()
    }
}

fn internal(e: anyhow::Error) -> ApiError {
    ApiError::internal(format!("{e:#}"))
}

impl Member {
    /// Opens the log and listens. The node votes once it has a seat.
    async fn open_manager(&self, opening: Opening) -> anyhow::Result<Managing> {
        let tasks = self.tasks.child();
        let raft_dir = self.dir.join("raft");
        make_private(&raft_dir)?;
        let file = raft_dir.join("log.redb");
        let storage = match opening {
            Opening::New | Opening::AsItIs => RedbStorage::open(file).await,
            Opening::AfterFailure => RedbStorage::open_afresh(file).await,
        };
        let storage = storage.context("raft log")?;
        let connector: Arc<dyn Connector> = self.connector.clone();
        let config = RaftConfig::new(
            self.node.clone(),
            self.saved.advertise.to_string(),
            self.deps.rng.fork(),
            self.deps.clock.clone(),
        );
        let feed = Feed::new();
        let config = RaftConfig { observer: Some(feed.observer()), ..config };
        // A swarm that begins here has no earlier times.
        let since = if opening == Opening::New { Timestamp::ZERO } else { self.deps.clock.now() };
        let transport = Arc::new(ConnectorTransport::new(connector.clone()));
        let consensus = Consensus::start(config, storage, transport).await.context("raft")?;
        tasks.spawn("swarm events", feed.follow(&consensus, &self.deps, since).run());
        let deps = ManagerDeps {
            consensus: consensus.clone(),
            connector,
            clock: self.deps.clock.clone(),
            rng: self.deps.rng.fork(),
        };
        let manager = Manager::start(ManagerConfig { node: self.node.clone() }, deps, &tasks);
        let listener = TcpListener::bind(self.saved.listen)
            .await
            .with_context(|| format!("cannot listen on {} for the swarm", self.saved.listen));
        let listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                tasks.shutdown().await;
                consensus.shutdown().await;
                return Err(e);
            }
        };
        malha_wire::serve(listener, self.tls.clone(), Arc::new(manager.clone()), &tasks);
        info!(listen = %self.saved.listen, advertise = %self.saved.advertise, "manager started");
        let told_seated = AtomicBool::new(consensus.voted());
        Ok(Managing { manager, consensus, told_seated, tasks })
    }

    /// Starts this node's manager from what its log holds.
    pub(super) async fn start_manager(&self, opening: Opening) -> anyhow::Result<()> {
        let managing = self.open_manager(opening).await?;
        self.now_managing(managing);
        Ok(())
    }

    /// Starts the first manager of a new swarm.
    pub(super) async fn start_first_manager(&self, new: NewSwarm) -> ApiResult<()> {
        // the session of this node tells it to be a manager, perhaps before it knows that it is one
        let _one = self.role_change.lock().await;
        let managing = self.open_manager(Opening::New).await.map_err(internal)?;
        let booted = managing.consensus.bootstrap(new.initial).await;
        managing.told_seated.store(booted.is_ok(), Ordering::Relaxed);
        self.now_managing(managing);
        booted.map(drop).map_err(|e| ApiError::internal(format!("raft: {e}")))
    }

    fn now_managing(&self, managing: Managing) {
        self.failed.store(None);
        self.managing.store(Some(Arc::new(managing)));
        self.seeds.send_replace(self.manager_addrs());
    }

    /// Asks the leader for a seat, where this node is a manager without one.
    pub(super) async fn join_managers(&self) -> ApiResult<()> {
        let Some(managing) = self.managing.load_full() else { return Ok(()) };
        if managing.is_seated() {
            return Ok(());
        }
        self.ask_for_seat(&managing).await
    }

    /// The leader answers at once where there is one already. A node that leaves does not wait for it.
    async fn ask_for_seat(&self, managing: &Managing) -> ApiResult<()> {
        let own = self.saved.advertise.to_string();
        let others: Vec<String> = self.manager_addrs().into_iter().filter(|a| *a != own).collect();
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => {
                return Err(ApiError::plain(Code::Unavailable, "this node leaves the swarm"));
            }
            joined = malha_manager::join_raft(&*self.connector, &others, &own) => joined?,
        }
        managing.told_seated.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A node that was demoted and promoted again while it was away, or faster than it heard, knows nothing of having
    /// lost its seat: it has a session with the leader, but nobody sends it the log. One that stopped, or lost its leader,
    /// while it was taken in has the log and no vote.
    pub(super) async fn follow_seat(self: Arc<Self>) {
        let mut unheard = false;
        loop {
            sleep(SEAT_CHECK).await;
            let managing = self.managing.load_full().filter(|m| {
                let connected = matches!(*self.agent.link().borrow(), Link::Connected { .. });
                connected && (*m.consensus.leadership().borrow() == Leadership::NoLeader || !m.consensus.votes())
            });
            let again = std::mem::replace(&mut unheard, managing.is_some());
            let Some(managing) = managing.filter(|_| again) else { continue };
            let _one = self.role_change.lock().await;
            match self.ask_for_seat(&managing).await {
                Ok(()) => info!("the leader has this node among the managers"),
                Err(error) => warn!(%error, "cannot ask for a seat among the managers yet"),
            }
        }
    }

    pub(super) async fn stop_manager(&self) {
        let Some(managing) = self.managing.swap(None) else { return };
        managing.tasks.shutdown().await;
        managing.consensus.shutdown().await;
        self.seeds.send_replace(self.manager_addrs());
        info!("manager stopped");
    }

    /// Ends the agent and the manager. Containers go on.
    pub(super) async fn stop(&self) {
        self.stop_manager().await;
        self.tasks.shutdown().await;
    }

    /// Keeps certificate and part in step with what the leader says.
    pub(super) async fn follow_role(self: Arc<Self>) {
        let mut role = self.agent.role();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, self.deps.rng.fork());
        loop {
            let wanted = *role.borrow_and_update();
            let done = match wanted {
                Some(wanted) => self.become_role(wanted).await,
                None => Ok(()),
            };
            match done {
                Ok(()) => {
                    backoff.reset();
                    tokio::select! {
                        biased;
                        changed = role.changed() => if changed.is_err() { return },
                        () = sleep(RENEWAL_CHECK) => self.renew_if_due().await,
                    }
                }
                Err(e) => {
                    warn!(error = %e, wanted = ?wanted, "cannot take the new role yet");
                    sleep(backoff.next_pause()).await;
                }
            }
        }
    }

    async fn become_role(&self, wanted: Role) -> ApiResult<()> {
        let _one = self.role_change.lock().await;
        if self.is_removed() {
            return Ok(());
        }
        if wanted == Role::Worker {
            // out of the group already; nobody is to take this node for a manager while its certificate says so
            self.retire().await?;
        }
        if self.tls.certificate().identity.role != wanted {
            self.renew(Some(wanted)).await?;
            // the leader sees the new role in the certificate of the session
            self.agent.reconnect();
        }
        if wanted == Role::Worker {
            return Ok(());
        }
        if self.managing.load().is_none() {
            // it may be its disk that failed
            let opening = if self.failed.load().is_some() { Opening::AfterFailure } else { Opening::AsItIs };
            self.start_manager(opening).await.map_err(internal)?;
        }
        self.join_managers().await
    }

    /// Ends the manager for good. A later promotion starts from an empty log: this node's vote of today must not count then.
    async fn retire(&self) -> ApiResult<()> {
        self.stop_manager().await;
        self.failed.store(None);
        let log = self.dir.join("raft");
        match std::fs::remove_dir_all(&log) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(ApiError::internal(format!("{}: {e}", log.display())))
            }
            _ => Ok(()),
        }
    }

    async fn renew_if_due(&self) {
        let (from, until) = self.tls.certificate().renewal_window();
        let now = self.deps.clock.now();
        if now < from {
            return;
        }
        match self.renew(None).await {
            Ok(()) => info!("certificate renewed"),
            Err(e) if now > until => error!(error = %e, "the certificate ends soon and cannot be renewed"),
            Err(e) => warn!(error = %e, "the certificate cannot be renewed yet"),
        }
    }
}

fn make_private(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))
}
