//! openraft's state machine: the cluster's state in memory, its snapshots on disk.
//!
//! An entry applies only on the very state that it was planned upon (same leader's term, same last command). So a plan
//! made by a leader that has since been deposed, or behind a write whose outcome was unknown, changes nothing.

use malha_kit::watch;
use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use malha_store::State;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::Mutex;
use tracing::debug;

use crate::{
    config::Observer,
    peers::Peers,
    storage::{
        Storage, StorageError, Write,
        journal::{Journal, decode, encode},
    },
    types::{Command, LogId, Membership, Outcome, Snapshot, SnapshotMeta, TypeConfig},
};

/// What has been applied so far.
#[derive(Clone, Debug, Default)]
struct Applied {
    log: Option<LogId>,
    membership: Membership,
}

pub(crate) struct Machine {
    applied: Applied,
    state: watch::Sender<Arc<State>>,
    peers: Peers,
    storage: Arc<dyn Storage>,
    snapshots: Snapshots,
    observer: Option<Observer>,
}

/// Where snapshots are written. One whose building took its time does not replace a newer one that was sent meanwhile: the
/// log behind that one may be gone.
#[derive(Clone)]
struct Snapshots {
    journal: Journal,
    /// The last entry in the one that is there. Held while another is written.
    last: Arc<Mutex<Option<LogId>>>,
}

impl Snapshots {
    async fn write(&self, meta: &SnapshotMeta, data: Bytes) -> Result<(), StorageError> {
        let mut last = self.last.lock().await;
        if meta.last_log_id >= *last {
            self.journal.write(vec![Write::Snapshot { meta: encode(meta)?, data }]).await?;
            *last = meta.last_log_id;
        }
        Ok(())
    }
}

impl Machine {
    /// The machine as the last snapshot has it; openraft applies the log on top.
    pub(crate) async fn load(
        storage: Arc<dyn Storage>,
        journal: Journal,
        observer: Option<Observer>,
    ) -> Result<Self, StorageError> {
        let mut machine = Self {
            applied: Applied::default(),
            state: watch::Sender::new(Arc::new(State::default())),
            peers: Peers::default(),
            storage,
            snapshots: Snapshots { journal, last: Arc::default() },
            observer,
        };
        if let Some((meta, data)) = machine.storage.read_snapshot().await? {
            let meta = machine.decode(&meta)?;
            *machine.snapshots.last.lock().await = meta.last_log_id;
            machine.adopt(&meta, &data)?;
        }
        Ok(machine)
    }

    pub(crate) fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(crate) fn peers(&self) -> Peers {
        self.peers.clone()
    }

    fn decode(&self, meta: &[u8]) -> Result<SnapshotMeta, StorageError> {
        decode(meta, &self.storage.location())
    }

    /// Takes over the snapshot as the present state.
    fn adopt(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StorageError> {
        let state = State::from_bytes(data)
            .map_err(|e| StorageError::Corrupt { path: self.storage.location(), reason: e.to_string() })?;
        self.applied = Applied { log: meta.last_log_id, membership: meta.last_membership.clone() };
        self.peers.learn(&self.applied.membership);
        self.publish(state);
        Ok(())
    }

    fn apply_command(&mut self, id: &LogId, command: &Command) -> Outcome {
        let state = self.state.borrow().clone();
        if command.term != id.committed_leader_id().term || command.base != state.index() {
            debug!(index = id.index, %command, last = state.index(), "a stale plan was fenced off");
            return Outcome::Fenced;
        }
        self.publish(state.apply(id.index, &command.changes));
        Outcome::Applied
    }

    fn publish(&self, state: State) {
        let state = Arc::new(state);
        if let Some(observer) = &self.observer {
            observer(&state);
        }
        self.state.send_replace(state);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.applied.log, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome::Nothing,
                EntryPayload::Normal(command) => self.apply_command(&entry.log_id, &command),
                EntryPayload::Membership(membership) => {
                    self.applied.membership = Membership::new(Some(entry.log_id), membership);
                    self.peers.learn(&self.applied.membership);
                    Outcome::Nothing
                }
            };
            self.applied.log = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { applied: self.applied.clone(), state: self.state.borrow().clone(), snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> Result<(), io::Error> {
        self.snapshots.write(meta, data.clone()).await?;
        Ok(self.adopt(meta, &data)?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some((meta, snapshot)) = self.storage.read_snapshot().await? else { return Ok(None) };
        Ok(Some(Snapshot { meta: self.decode(&meta)?, snapshot }))
    }
}

/// Writes down one state while the machine goes on.
pub(crate) struct Builder {
    applied: Applied,
    state: Arc<State>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.applied.log, last_membership: self.applied.membership.clone() };
        let data = Bytes::from(self.state.to_bytes().map_err(io::Error::other)?);
        self.snapshots.write(&meta, data.clone()).await?;
        Ok(Snapshot { meta, snapshot: data })
    }
}
