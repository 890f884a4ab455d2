//! The network seam: one request, one answer, both opaque.

use async_trait::async_trait;
use malha_model::NodeId;

/// Carries messages to the other members; the receiver gives them to [`crate::Consensus::handle`].
///
/// An implementation may lose, delay and reorder messages. It must not deliver one to a node other than `to`, and its
/// authentication decides who may send: `handle` trusts what it is given.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    async fn send(&self, to: &NodeId, addr: &str, message: Vec<u8>) -> Result<Vec<u8>, TransportError>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: the sender pauses before it tries again.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// A connection was there and the call failed.
    #[error("{0}")]
    Failed(String),
}
