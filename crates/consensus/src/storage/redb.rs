//! The real disk: one redb file, one transaction and one fsync per commit.
//!
//! redb refuses all work after a failed write, so the file is closed then and opened afresh by the next commit: a disk
//! that was full for a while needs no restart. Opening verifies the checksums of the whole file, which is small.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use malha_kit::durable;
use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Storage, StorageError, Stored, Write};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const FORMAT_1: &[u8] = b"malha-raft-1";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot-meta";
const SNAPSHOT: &str = "snapshot";

/// Pages that redb keeps in memory. Reads are rare.
const CACHE: usize = 2 << 20;

/// A member's state in a file, readable by its owner only.
#[derive(Clone)]
pub struct RedbStorage(Arc<Disk>);

struct Disk {
    path: PathBuf,
    /// None after a failed write, until the next commit.
    db: Mutex<Option<Database>>,
}

impl RedbStorage {
    /// Opens the file, or makes it.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        let at = path.clone();
        blocking(&at, move || {
            let db = open(&path)?;
            Ok(Self(Arc::new(Disk { path, db: Mutex::new(Some(db)) })))
        })
        .await
    }

    /// Opens the file after writing it failed. What it holds is written to a new file first: the kernel may show what it
    /// never brought to the disk.
    pub async fn open_afresh(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        let aside = path.with_extension("new");
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(classify(&aside, redb::Error::Io(e))),
            _ => {}
        }
        {
            let (old, new) = (Self::open(&path).await?, Self::open(&aside).await?);
            let (stored, snapshot) = (old.load().await?, old.read_snapshot().await?);
            new.commit(rewrite(stored, snapshot)).await?;
        }
        let target = path.clone();
        blocking(&path, move || {
            let moved = fs::rename(&aside, &target).and_then(|()| sync_dir_of(&target));
            moved.map_err(|e| classify(&target, redb::Error::Io(e)))
        })
        .await?;
        Self::open(path).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StorageError> {
        let disk = self.0.clone();
        blocking(&self.0.path, move || disk.run(work)).await
    }
}

impl Disk {
    fn run<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StorageError> {
        let mut slot = self.db.lock();
        if slot.is_none() {
            *slot = Some(open(&self.path)?);
        }
        let Some(db) = slot.as_ref() else {
            return Err(StorageError::Io { path: self.path.clone(), reason: "not open".to_owned() });
        };
        work(db).map_err(|error| {
            *slot = None;
            classify(&self.path, error)
        })
    }
}

#[async_trait]
impl Storage for RedbStorage {
    fn location(&self) -> PathBuf {
        self.0.path.clone()
    }

    async fn load(&self) -> Result<Stored, StorageError> {
        let stored = self
            .run(|db| {
                let tx = db.begin_read()?;
                let meta = tx.open_table(META)?;
                let get = |key| meta.get(key).map(|found| found.map(|v| Bytes::copy_from_slice(v.value())));
                let mut stored = Stored {
                    vote: get(VOTE)?,
                    committed: get(COMMITTED)?,
                    purged: get(PURGED)?,
                    snapshot_meta: get(SNAPSHOT_META)?,
                    log: Vec::new(),
                };
                for row in tx.open_table(LOG)?.iter()? {
                    let (index, entry) = row?;
                    stored.log.push((index.value(), Bytes::copy_from_slice(entry.value())));
                }
                Ok(stored)
            })
            .await?;
        if stored.log.windows(2).any(|pair| pair[0].0 + 1 != pair[1].0) {
            return Err(StorageError::Corrupt { path: self.0.path.clone(), reason: "the log has gaps".to_owned() });
        }
        Ok(stored)
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        self.run(move |db| {
            let mut tx = db.begin_write()?;
            tx.set_durability(Durability::Immediate)?;
            {
                let mut log = tx.open_table(LOG)?;
                let mut meta = tx.open_table(META)?;
                for write in &writes {
                    match write {
                        Write::Vote(vote) => drop(meta.insert(VOTE, &vote[..])?),
                        Write::Committed(committed) => drop(meta.insert(COMMITTED, &committed[..])?),
                        Write::Append { index, entry } => drop(log.insert(index, &entry[..])?),
                        Write::Truncate { from } => log.retain_in(*from.., |_, _| false)?,
                        Write::Purge { upto, marker } => {
                            log.retain_in(..=*upto, |_, _| false)?;
                            meta.insert(PURGED, &marker[..])?;
                        }
                        Write::Snapshot { meta: about, data } => {
                            meta.insert(SNAPSHOT_META, &about[..])?;
                            meta.insert(SNAPSHOT, &data[..])?;
                        }
                    }
                }
            }
            tx.commit()?;
            Ok(())
        })
        .await
    }

    async fn read_snapshot(&self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        self.run(|db| {
            let meta = db.begin_read()?.open_table(META)?;
            let about = meta.get(SNAPSHOT_META)?.map(|v| Bytes::copy_from_slice(v.value()));
            let data = meta.get(SNAPSHOT)?.map(|v| Bytes::copy_from_slice(v.value()));
            Ok(about.zip(data))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // redb panics on some kinds of damage
        Err(error) => {
            Err(StorageError::Corrupt { path: path.to_owned(), reason: format!("the store panicked: {error}") })
        }
    }
}

fn open(path: &Path) -> Result<Database, StorageError> {
    let fail = |error: io::Error| classify(path, redb::Error::Io(error));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(fail)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let fresh = file.metadata().map_err(fail)?.len() == 0;
    drop(file);
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).create(path)
    }));
    let db = match opened {
        Ok(opened) => opened.map_err(|error| classify(path, error.into()))?,
        Err(_) => return Err(corrupt(path, "the store panicked while opening it")),
    };
    if fresh {
        format(&db).map_err(|error| classify(path, error))?;
        // the new name must survive too
        sync_dir_of(path).map_err(fail)?;
    }
    check_format(&db, path)?;
    Ok(db)
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or(Ok(()), durable::sync_dir)
}

/// The writes that make an empty disk hold this.
fn rewrite(stored: Stored, snapshot: Option<(Bytes, Bytes)>) -> Vec<Write> {
    let mut writes = Vec::new();
    writes.extend(stored.purged.map(|marker| Write::Purge { upto: 0, marker }));
    writes.extend(stored.vote.map(Write::Vote));
    writes.extend(stored.committed.map(Write::Committed));
    writes.extend(snapshot.map(|(meta, data)| Write::Snapshot { meta, data }));
    writes.extend(stored.log.into_iter().map(|(index, entry)| Write::Append { index, entry }));
    writes
}

fn format(db: &Database) -> Result<(), redb::Error> {
    let tx = db.begin_write()?;
    tx.open_table(LOG)?;
    tx.open_table(META)?.insert(FORMAT, FORMAT_1)?;
    tx.commit()?;
    Ok(())
}

fn check_format(db: &Database, path: &Path) -> Result<(), StorageError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = db.begin_read()?.open_table(META)?;
        Ok(meta.get(FORMAT)?.map(|v| v.value().to_vec()))
    };
    match read() {
        Ok(Some(found)) if found == FORMAT_1 => Ok(()),
        Ok(_) => Err(corrupt(path, "it is not a Raft store of Malha")),
        Err(error) => Err(classify(path, error)),
    }
}

fn corrupt(path: &Path, reason: &str) -> StorageError {
    StorageError::Corrupt { path: path.to_owned(), reason: reason.to_owned() }
}

fn classify(path: &Path, error: redb::Error) -> StorageError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            StorageError::DiskFull { path }
        }
        // how redb says that the file is not one of its own, or ends too early
        redb::Error::Io(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            StorageError::Corrupt { path, reason: e.to_string() }
        }
        redb::Error::DatabaseAlreadyOpen => StorageError::InUse { path },
        redb::Error::Corrupted(reason) => StorageError::Corrupt { path, reason },
        redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } | redb::Error::UpgradeRequired(_) => {
            StorageError::Corrupt { path, reason: error.to_string() }
        }
        other => StorageError::Io { path, reason: other.to_string() },
    }
}
