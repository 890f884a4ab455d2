//! Where the agent keeps what it must know again after a restart: a few small named blobs.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use malha_kit::durable;
use parking_lot::Mutex;

#[derive(Debug, thiserror::Error)]
#[error("agent state {name}: {source}")]
pub struct DiskError {
    pub name: String,
    #[source]
    pub source: io::Error,
}

/// Saving replaces a blob whole: after a crash there is the old one or the new one, never a mixture.
#[async_trait]
pub trait AgentDisk: Send + Sync + 'static {
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError>;
    async fn save(&self, name: &str, blob: Vec<u8>) -> Result<(), DiskError>;
}

/// Files in one directory.
#[derive(Clone, Debug)]
pub struct FileDisk {
    dir: PathBuf,
}

impl FileDisk {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    async fn replace(&self, name: &str, blob: Vec<u8>) -> io::Result<()> {
        let (dir, target) = (self.dir.clone(), self.dir.join(name));
        let write = move || {
            std::fs::create_dir_all(dir)?;
            // registry credentials of tasks are in here
            durable::replace(&target, &blob, durable::PRIVATE)
        };
        tokio::task::spawn_blocking(write).await?
    }
}

#[async_trait]
impl AgentDisk for FileDisk {
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        match tokio::fs::read(self.dir.join(name)).await {
            Ok(blob) => Ok(Some(blob)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DiskError { name: name.to_owned(), source }),
        }
    }

    async fn save(&self, name: &str, blob: Vec<u8>) -> Result<(), DiskError> {
        self.replace(name, blob).await.map_err(|source| DiskError { name: name.to_owned(), source })
    }
}

/// Blobs in memory; clones share them, so one outlives the agent that wrote it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

#[async_trait]
impl AgentDisk for MemoryDisk {
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.0.lock().get(name).cloned())
    }

    async fn save(&self, name: &str, blob: Vec<u8>) -> Result<(), DiskError> {
        self.0.lock().insert(name.to_owned(), blob);
        Ok(())
    }
}
