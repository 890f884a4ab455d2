//! What managers answer and nodes ask, free of any transport.
//!
//! [`ManagerService`] is the manager's side of every conversation: the gRPC server calls it in production, the simulated
//! network calls it in simulation. [`ManagerClient`] is the same from the other end of a connection, and [`Connector`]
//! makes connections. Who asks is never taken from the message: [`Peer`] comes from the client certificate.

use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use malha_model::{
    AgentMessage, ApiError, ApiResult, Availability, ClusterId, ControlRequest, ControlResponse, LogLine, LogOptions,
    LogSelector, ManagerMessage, NodeId, Role,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The authenticated other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node: NodeId,
    pub role: Role,
    pub cluster: ClusterId,
}

/// Asks for a node certificate: with a join token for a new node, without one to renew over a valid certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueRequest {
    pub csr_pem: String,
    pub token: Option<String>,
    pub availability: Availability,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueResponse {
    pub node: NodeId,
    pub role: Role,
    pub cluster: ClusterId,
    pub certificate_pem: String,
    pub root_pem: String,
    /// UDP port of the swarm's tunnels.
    pub data_path_port: u16,
    /// Where the swarm's networks are or will be.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
}

/// Lines of a log subscription, ending with an error text where some could not be had.
pub type LogReceiver = mpsc::Receiver<Result<LogLine, String>>;

/// The two ends of a session's streams, as one side holds them.
#[derive(Debug)]
pub struct Duplex<Out, In> {
    pub tx: mpsc::Sender<Out>,
    pub rx: mpsc::Receiver<In>,
}

/// Capacity of each direction of a session.
pub const SESSION_CAPACITY: usize = 64;

#[async_trait]
pub trait ManagerService: Send + Sync + 'static {
    /// PEM of the root certificate; the joiner checks it against its token's digest. Needs no client certificate.
    async fn root_certificate(&self) -> ApiResult<String>;
    /// Needs a token or a client certificate.
    async fn issue_certificate(&self, peer: Option<Peer>, request: IssueRequest) -> ApiResult<IssueResponse>;
    /// One Raft message, opaque here (`malha_consensus` encodes it). Managers only.
    async fn raft(&self, peer: Peer, message: Vec<u8>) -> ApiResult<Vec<u8>>;
    /// Adds the asking manager, listening at `addr`, to the Raft group. Managers only; only the leader does it, others say
    /// that they do not lead (503).
    async fn raft_join(&self, peer: Peer, addr: String) -> ApiResult<()>;
    /// Removes the asking manager from the Raft group. Likewise.
    async fn raft_leave(&self, peer: Peer) -> ApiResult<()>;
    /// Managers may ask anything; workers only `NetworkAttach`, `NetworkDetach` and `ContainerRename` for themselves.
    async fn control(&self, peer: Peer, request: ControlRequest) -> ApiResult<ControlResponse>;
    async fn logs(&self, peer: Peer, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver>;
    /// Runs a node's session until either side ends it.
    async fn session(&self, peer: Peer, session: Duplex<ManagerMessage, AgentMessage>) -> ApiResult<()>;
}

#[async_trait]
pub trait ManagerClient: Send + Sync + 'static {
    async fn root_certificate(&self) -> ApiResult<String>;
    async fn issue_certificate(&self, request: IssueRequest) -> ApiResult<IssueResponse>;
    async fn raft(&self, message: Vec<u8>) -> ApiResult<Vec<u8>>;
    async fn raft_join(&self, addr: String) -> ApiResult<()>;
    async fn raft_leave(&self) -> ApiResult<()>;
    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse>;
    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<LogReceiver>;
    /// Opens the session; either end closes it by dropping its half.
    async fn session(&self) -> ApiResult<Duplex<AgentMessage, ManagerMessage>>;
}

/// Connections to managers by `ip:port`, with this node's current certificate.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    async fn connect(&self, addr: &str) -> Result<Arc<dyn ManagerClient>, ConnectError>;
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach {addr}: {reason}")]
    Unreachable { addr: String, reason: String },
    #[error("{addr} is not a manager of this swarm: {reason}")]
    Untrusted { addr: String, reason: String },
}

impl From<ConnectError> for ApiError {
    fn from(e: ConnectError) -> Self {
        Self::rpc(malha_model::Code::Unavailable, e)
    }
}
