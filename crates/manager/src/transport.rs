//! Raft messages over the connections that managers have with each other anyway.

use std::sync::Arc;

use async_trait::async_trait;
use malha_consensus::{RaftTransport, TransportError};
use malha_model::NodeId;
use malha_wire::Connector;

pub struct ConnectorTransport {
    connector: Arc<dyn Connector>,
}

impl ConnectorTransport {
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self { connector }
    }
}

#[async_trait]
impl RaftTransport for ConnectorTransport {
    async fn send(&self, _to: &NodeId, addr: &str, message: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let client = self.connector.connect(addr).await.map_err(|e| TransportError::Unreachable(e.to_string()))?;
        client.raft(message).await.map_err(|e| TransportError::Failed(e.message))
    }
}
