//! A disk in memory whose power can fail.
//!
//! A commit takes effect only when its sync ends, after a time drawn from the disk's generator. [`SimDisk::crash`] loses
//! what was not synced by then: of the commits under way a random prefix survives, each whole or not at all.

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use malha_kit::Rng;
use parking_lot::Mutex;
use rand::Rng as _;

use super::{Storage, StorageError, Stored, Write};

/// The disk of one simulated machine; it outlives the members that open it.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<Inner>>);

/// The disk as one run of the machine has it open. After a crash it only fails.
#[derive(Clone, Debug)]
pub struct SimStorage {
    disk: SimDisk,
    run: u64,
}

#[derive(Debug)]
struct Inner {
    durable: Contents,
    /// Commits under way, oldest first.
    unsynced: Vec<(u64, Vec<Write>)>,
    next_commit: u64,
    run: u64,
    full: bool,
    sync: RangeInclusive<Duration>,
    rng: Rng,
}

#[derive(Debug, Default)]
struct Contents {
    stored: Stored,
    snapshot: Option<(Bytes, Bytes)>,
}

impl SimDisk {
    /// An empty disk that takes a time out of `sync` for each commit.
    pub fn new(rng: Rng, sync: RangeInclusive<Duration>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            durable: Contents::default(),
            unsynced: Vec::new(),
            next_commit: 0,
            run: 0,
            full: false,
            sync,
            rng,
        })))
    }

    pub fn open(&self) -> SimStorage {
        SimStorage { disk: self.clone(), run: self.0.lock().run }
    }

    /// Power fails: whoever has the disk open loses it. Returns how many commits were lost.
    pub fn crash(&self) -> usize {
        let mut inner = self.0.lock();
        inner.run += 1;
        let under_way = std::mem::take(&mut inner.unsynced);
        let survivors = inner.rng.random_range(0..=under_way.len());
        for (_, writes) in under_way.iter().take(survivors) {
            inner.durable.apply(writes);
        }
        under_way.len() - survivors
    }

    /// From now on commits fail for lack of space, or no longer do.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// From now on each commit takes a time out of `sync`.
    pub fn set_sync(&self, sync: RangeInclusive<Duration>) {
        self.0.lock().sync = sync;
    }

    /// What would be found after a crash at this moment, at the least.
    pub fn durable(&self) -> Stored {
        self.0.lock().durable.stored.clone()
    }
}

impl Contents {
    fn apply(&mut self, writes: &[Write]) {
        let stored = &mut self.stored;
        for write in writes {
            match write.clone() {
                Write::Vote(vote) => stored.vote = Some(vote),
                Write::Committed(committed) => stored.committed = Some(committed),
                Write::Append { index, entry } => {
                    stored.log.retain(|(at, _)| *at < index);
                    stored.log.push((index, entry));
                }
                Write::Truncate { from } => stored.log.retain(|(at, _)| *at < from),
                Write::Purge { upto, marker } => {
                    stored.log.retain(|(at, _)| *at > upto);
                    stored.purged = Some(marker);
                }
                Write::Snapshot { meta, data } => {
                    stored.snapshot_meta = Some(meta.clone());
                    self.snapshot = Some((meta, data));
                }
            }
        }
    }
}

impl SimStorage {
    fn path() -> PathBuf {
        PathBuf::from("simulated disk")
    }

    fn lost() -> StorageError {
        StorageError::Io { path: Self::path(), reason: "power was lost".to_owned() }
    }

    fn check(&self, inner: &Inner) -> Result<(), StorageError> {
        if inner.run == self.run { Ok(()) } else { Err(Self::lost()) }
    }
}

#[async_trait]
impl Storage for SimStorage {
    fn location(&self) -> PathBuf {
        Self::path()
    }

    async fn load(&self) -> Result<Stored, StorageError> {
        let inner = self.disk.0.lock();
        self.check(&inner)?;
        Ok(inner.durable.stored.clone())
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        let (commit, pause) = {
            let mut inner = self.disk.0.lock();
            self.check(&inner)?;
            if inner.full {
                return Err(StorageError::DiskFull { path: Self::path() });
            }
            let commit = inner.next_commit;
            inner.next_commit += 1;
            inner.unsynced.push((commit, writes));
            let range = inner.sync.clone();
            (commit, inner.rng.random_range(range))
        };
        tokio::time::sleep(pause).await;
        let mut inner = self.disk.0.lock();
        self.check(&inner)?;
        while inner.unsynced.first().is_some_and(|(at, _)| *at <= commit) {
            let (_, writes) = inner.unsynced.remove(0);
            inner.durable.apply(&writes);
        }
        Ok(())
    }

    async fn read_snapshot(&self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let inner = self.disk.0.lock();
        self.check(&inner)?;
        Ok(inner.durable.snapshot.clone())
    }
}
