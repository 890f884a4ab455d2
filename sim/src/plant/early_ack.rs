//! The disk of a machine whose controller has a volatile cache: it acknowledges at once and writes a little later.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use malha_consensus::{SimStorage, Storage, StorageError, Stored, Write};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep};

const CACHE: usize = 4096;
const LATER: Duration = Duration::from_secs(4);

pub(crate) struct EarlyAck {
    disk: SimStorage,
    armed: Arc<AtomicBool>,
    cache: mpsc::Sender<Vec<Write>>,
    /// Reads see the cache.
    snapshot: Arc<Mutex<Option<(Bytes, Bytes)>>>,
}

impl EarlyAck {
    pub(crate) fn new(disk: SimStorage, armed: Arc<AtomicBool>) -> Self {
        let (cache, mut cached) = mpsc::channel::<Vec<Write>>(CACHE);
        let under = disk.clone();
        tokio::spawn(async move {
            while let Some(mut writes) = cached.recv().await {
                sleep(LATER).await;
                while let Ok(more) = cached.try_recv() {
                    writes.extend(more);
                }
                // the power failed: the cache is gone
                if under.commit(writes).await.is_err() {
                    return;
                }
            }
        });
        Self { disk, armed, cache, snapshot: Arc::default() }
    }
}

#[async_trait]
impl Storage for EarlyAck {
    fn location(&self) -> PathBuf {
        self.disk.location()
    }

    async fn load(&self) -> Result<Stored, StorageError> {
        self.disk.load().await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        if !self.armed.load(Ordering::Relaxed) {
            return self.disk.commit(writes).await;
        }
        for write in &writes {
            if let Write::Snapshot { meta, data } = write {
                *self.snapshot.lock() = Some((meta.clone(), data.clone()));
            }
        }
        let lost = || StorageError::Io { path: self.location(), reason: "power was lost".to_owned() };
        self.cache.send(writes).await.map_err(|_| lost())
    }

    async fn read_snapshot(&self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let cached = self.snapshot.lock().clone();
        match cached {
            Some(snapshot) => Ok(Some(snapshot)),
            None => self.disk.read_snapshot().await,
        }
    }
}
