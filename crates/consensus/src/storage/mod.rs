//! The disk seam: what must outlive a crash, and the two disks that exist.
//!
//! A member writes its vote, its log, how far the log is committed, and snapshots of the state. At run time the disk is
//! only written to: the part of the log that is not yet in a snapshot is small and also kept in memory.

pub(crate) mod journal;
mod redb;
mod sim;

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::{
    redb::RedbStorage,
    sim::{SimDisk, SimStorage},
};

/// Durable state of one member.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// What to name in errors.
    fn location(&self) -> PathBuf;

    /// All that was written and survived, except the snapshot's contents.
    async fn load(&self) -> Result<Stored, StorageError>;

    /// Writes all of `writes`, in order, or nothing. When this returns `Ok` they survive any crash.
    async fn commit(&self, writes: Vec<Write>) -> Result<(), StorageError>;

    /// The contents of the snapshot, if there is one.
    async fn read_snapshot(&self) -> Result<Option<(Bytes, Bytes)>, StorageError>;
}

/// One write. What the bytes hold is the member's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Vote(Bytes),
    Committed(Bytes),
    Append {
        index: u64,
        entry: Bytes,
    },
    /// Removes all entries from this index on.
    Truncate {
        from: u64,
    },
    /// Removes all entries up to and including this index; `marker` tells what was there.
    Purge {
        upto: u64,
        marker: Bytes,
    },
    /// Replaces the snapshot.
    Snapshot {
        meta: Bytes,
        data: Bytes,
    },
}

/// What a disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<Bytes>,
    /// By ascending index, without gaps.
    pub log: Vec<(u64, Bytes)>,
    pub snapshot_meta: Option<Bytes>,
}

/// Why the disk failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Writes are tried again until there is space; nothing that was acknowledged is lost.
    #[error("no space left on the disk of {path}")]
    DiskFull { path: PathBuf },
    #[error("{path} is damaged: {reason}; restore it from a backup, or remove this manager and let it join again")]
    Corrupt { path: PathBuf, reason: String },
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: String },
}

impl StorageError {
    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}

impl From<StorageError> for std::io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match error {
            StorageError::DiskFull { .. } => std::io::ErrorKind::StorageFull,
            StorageError::Corrupt { .. } => std::io::ErrorKind::InvalidData,
            StorageError::InUse { .. } | StorageError::Io { .. } => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
