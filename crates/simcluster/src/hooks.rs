//! Where a checker looks into the cluster, and where a planted bug gets in.

use std::{fmt::Debug, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use malha_consensus::{SimStorage, Storage, StorageError, Stored, Write};
use malha_model::NodeId;
use malha_simnet::SimConnector;
use malha_store::State;
use malha_wire::Connector;

/// By default nobody looks and nothing is altered.
pub trait Hooks: Debug + Send + Sync {
    /// `node`'s manager applied `state`. Called for each one, in order.
    fn applied(&self, _node: &NodeId, _state: &Arc<State>) {}

    /// The disk that a manager writes to.
    fn disk(&self, disk: SimStorage) -> Arc<dyn Storage> {
        Arc::new(disk)
    }

    /// How an agent reaches the managers.
    fn connector(&self, connector: SimConnector) -> Arc<dyn Connector> {
        Arc::new(connector)
    }
}

#[derive(Debug)]
pub(crate) struct NoHooks;

impl Hooks for NoHooks {}

/// A disk chosen at run time.
pub(crate) struct AnyDisk(pub Arc<dyn Storage>);

#[async_trait]
impl Storage for AnyDisk {
    fn location(&self) -> PathBuf {
        self.0.location()
    }

    async fn load(&self) -> Result<Stored, StorageError> {
        self.0.load().await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<(), StorageError> {
        self.0.commit(writes).await
    }

    async fn read_snapshot(&self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        self.0.read_snapshot().await
    }
}
