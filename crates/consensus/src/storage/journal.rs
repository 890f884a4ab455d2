//! The one writer of a member's disk, and the log in memory.
//!
//! Everything goes through one queue in order; what has gathered while a commit was under way goes into the next one.
//! Entries are readable at once and acknowledged when they are durable. A full disk holds the queue until there is
//! space; any other failure is final and every later write reports it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use malha_kit::{CancellationToken, watch};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{Storage, StorageError, Stored, Write};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Writes that may wait for the disk.
const QUEUE: usize = 1024;
/// Bytes gathered into one commit, roughly.
const COMMIT_BYTES: usize = 4 << 20;
/// Entries sent to a member in one message, roughly in bytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// Pause before a write is tried again on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// openraft's log storage.
#[derive(Clone)]
pub(crate) struct Journal {
    log: Arc<RwLock<Log>>,
    queue: mpsc::Sender<Job>,
    health: watch::Receiver<Option<StorageError>>,
}

#[derive(Default)]
struct Log {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, (Entry, usize)>,
}

struct Job {
    writes: Vec<Write>,
    done: Done,
}

enum Done {
    /// Nobody waits; it may share a later commit.
    Later,
    Flushed(IOFlushed<TypeConfig>),
    Ack(oneshot::Sender<Result<(), StorageError>>),
}

impl Journal {
    /// Reads the log and starts the writer, which ends with `token`.
    pub(crate) fn start(
        stored: Stored,
        storage: Arc<dyn Storage>,
        token: CancellationToken,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), StorageError> {
        let location = storage.location();
        let mut log = Log {
            vote: decode_opt(stored.vote.as_ref(), &location)?,
            committed: decode_opt(stored.committed.as_ref(), &location)?,
            purged: decode_opt(stored.purged.as_ref(), &location)?,
            entries: BTreeMap::new(),
        };
        for (index, bytes) in stored.log {
            log.entries.insert(index, (decode(&bytes, &location)?, bytes.len()));
        }
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (health_tx, health) = watch::channel(None);
        let journal = Self { log: Arc::new(RwLock::new(log)), queue, health };
        Ok((journal, write_loop(storage, jobs, health_tx, token)))
    }

    /// The error that writes are held up by, or failed for good with.
    pub(crate) fn health(&self) -> watch::Receiver<Option<StorageError>> {
        self.health.clone()
    }

    /// Returns when the writes are durable.
    pub(crate) async fn write(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        let (tx, rx) = oneshot::channel();
        self.send(writes, Done::Ack(tx)).await?;
        rx.await.map_err(|_| self.stopped())?
    }

    async fn send(&self, writes: Vec<Write>, done: Done) -> Result<(), StorageError> {
        self.queue.send(Job { writes, done }).await.map_err(|_| self.stopped())
    }

    fn stopped(&self) -> StorageError {
        let known = self.health.borrow().clone();
        known.unwrap_or_else(|| StorageError::Io { path: "journal".into(), reason: "it was closed".to_owned() })
    }
}

async fn write_loop(
    storage: Arc<dyn Storage>,
    mut jobs: mpsc::Receiver<Job>,
    health: watch::Sender<Option<StorageError>>,
    token: CancellationToken,
) {
    let mut failed = None;
    loop {
        let first = tokio::select! {
            biased;
            () = token.cancelled() => return,
            job = jobs.recv() => job,
        };
        let Some(first) = first else { return };
        let mut size = first.size();
        let mut gathered = vec![first];
        while size < COMMIT_BYTES {
            let Ok(job) = jobs.try_recv() else { break };
            size += job.size();
            gathered.push(job);
        }
        if gathered.iter().all(|job| matches!(job.done, Done::Later)) {
            // wait for company rather than sync for something that nobody waits for
            match next_awaited(&mut jobs, &mut gathered, &token).await {
                Some(()) => {}
                None => return,
            }
        }
        let writes = gathered.iter_mut().flat_map(|job| std::mem::take(&mut job.writes)).collect();
        let result = match &failed {
            Some(error) => Err(StorageError::clone(error)),
            None => {
                let result = tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    result = commit(&*storage, writes, &health) => result,
                };
                failed = result.as_ref().err().cloned();
                result
            }
        };
        for job in gathered {
            job.done.report(result.clone());
        }
    }
}

/// Adds jobs until one of them is waited for.
async fn next_awaited(
    jobs: &mut mpsc::Receiver<Job>,
    gathered: &mut Vec<Job>,
    token: &CancellationToken,
) -> Option<()> {
    loop {
        let job = tokio::select! {
            biased;
            () = token.cancelled() => return None,
            job = jobs.recv() => job?,
        };
        let awaited = !matches!(job.done, Done::Later);
        gathered.push(job);
        if awaited {
            return Some(());
        }
    }
}

/// One commit, tried until it succeeds or waiting cannot help.
async fn commit(
    storage: &dyn Storage,
    writes: Vec<Write>,
    health: &watch::Sender<Option<StorageError>>,
) -> Result<(), StorageError> {
    loop {
        match storage.commit(writes.clone()).await {
            Ok(()) => {
                if health.send_if_modified(|now| now.take().is_some()) {
                    info!("the disk takes writes again");
                }
                return Ok(());
            }
            Err(problem) if problem.is_transient() => {
                if health.borrow().is_none() {
                    warn!(error = %problem, "writes wait");
                }
                health.send_replace(Some(problem));
                tokio::time::sleep(FULL_PAUSE).await;
            }
            Err(problem) => {
                error!(error = %problem, "the log cannot be written; this manager stops taking part");
                health.send_replace(Some(problem.clone()));
                return Err(problem);
            }
        }
    }
}

impl Job {
    fn size(&self) -> usize {
        let size = |write: &Write| match write {
            Write::Append { entry, .. } => entry.len(),
            Write::Snapshot { data, .. } => data.len(),
            Write::Vote(_) | Write::Committed(_) | Write::Truncate { .. } | Write::Purge { .. } => 0,
        };
        self.writes.iter().map(size).sum()
    }
}

impl Done {
    fn report(self, result: Result<(), StorageError>) {
        match self {
            Self::Later => {}
            Self::Flushed(callback) => callback.io_completed(result.map_err(io::Error::from)),
            // a receiver that is gone no longer wants to know
            Self::Ack(tx) => drop(tx.send(result)),
        }
    }
}

// === impl RaftLogReader ===

impl RaftLogReader<TypeConfig> for Journal {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        Ok(self.log.read().entries.range(bounds).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let mut room = MESSAGE_BYTES;
        let mut first = true;
        let fits = |item: &(&u64, &(Entry, usize))| {
            let size = item.1.1;
            let fits = first || size <= room;
            first = false;
            room = room.saturating_sub(size);
            fits
        };
        if start >= end {
            return Ok(Vec::new());
        }
        Ok(self.log.read().entries.range(start..end).take_while(fits).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.read().vote.clone())
    }
}

fn is_empty(bounds: (Bound<u64>, Bound<u64>)) -> bool {
    let start = match bounds.0 {
        Bound::Included(at) => at,
        Bound::Excluded(at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match bounds.1 {
        Bound::Included(end) => start > end,
        Bound::Excluded(end) => start >= end,
        Bound::Unbounded => false,
    }
}

// === impl RaftLogStorage ===

impl RaftLogStorage<TypeConfig> for Journal {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = self.log.read();
        let last = log.entries.last_key_value().map(|(_, (entry, _))| entry.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write(vec![Write::Vote(encode(vote)?)]).await?;
        self.log.write().vote = Some(vote.clone());
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        let write = Write::Committed(encode(&committed)?);
        self.log.write().committed = Some(committed);
        Ok(self.send(vec![write], Done::Later).await?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.read().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut writes = Vec::new();
        let mut fresh = Vec::new();
        for entry in entries {
            let bytes = encode(&entry)?;
            fresh.push((entry.log_id.index, (entry, bytes.len())));
            writes.push(Write::Append { index: fresh[fresh.len() - 1].0, entry: bytes });
        }
        self.log.write().entries.extend(fresh);
        Ok(self.send(writes, Done::Flushed(callback)).await?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index + 1);
        self.log.write().entries.split_off(&from);
        // whatever is appended next is written behind it
        Ok(self.send(vec![Write::Truncate { from }], Done::Later).await?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let write = Write::Purge { upto: upto.index, marker: encode(&upto)? };
        {
            let mut log = self.log.write();
            log.entries = log.entries.split_off(&(upto.index + 1));
            log.purged = Some(upto);
        }
        Ok(self.send(vec![write], Done::Later).await?)
    }
}

pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes, StorageError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|e| StorageError::Io { path: "journal".into(), reason: format!("encoding: {e}") })
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], location: &Path) -> Result<T, StorageError> {
    serde_json::from_slice(bytes)
        .map_err(|e| StorageError::Corrupt { path: location.to_owned(), reason: format!("unreadable record: {e}") })
}

fn decode_opt<T: DeserializeOwned>(bytes: Option<&Bytes>, location: &Path) -> Result<Option<T>, StorageError> {
    bytes.map(|bytes| decode(bytes, location)).transpose()
}
