//! The swarm as this node sees it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use malha_model::{
    ApiResult, Availability, ClusterSpec, ControlRequest, ControlResponse, LogLine, LogOptions, LogSelector, NodeId,
};
use serde::{Deserialize, Serialize};

use crate::json::nullable;

/// Lines of a service's or a task's log, from whichever node they are on. An `Err` is a text for the reader (a node that
/// does not answer, …); it is shown in the stream, and more lines may follow it.
pub type SwarmLogs = BoxStream<'static, Result<LogLine, String>>;

/// The swarm. Requests that need a manager fail on other nodes with the errors of swarm-mode Docker: [`not_a_manager`],
/// [`not_in_swarm_mode`], [`no_leader`].
///
/// [`not_a_manager`]: crate::errors::not_a_manager
/// [`not_in_swarm_mode`]: crate::errors::not_in_swarm_mode
/// [`no_leader`]: crate::errors::no_leader
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Answered by the leader, whichever manager is asked.
    async fn control(&self, request: ControlRequest) -> ApiResult<ControlResponse>;

    /// Returns once this node leads the new swarm and its listener's address is known.
    async fn init(&self, request: InitRequest) -> ApiResult<NodeId>;

    /// Returns once this node is a member, fails with [`crate::errors::join_timeout`] while it keeps trying, or with
    /// [`crate::errors::join_unanswered`] where nothing has come of it.
    async fn join(&self, request: JoinRequest) -> ApiResult<()>;

    async fn leave(&self, force: bool) -> ApiResult<()>;

    /// What this node knows of its membership without asking anybody.
    async fn info(&self) -> SwarmInfo;

    /// The API has resolved the selector.
    async fn logs(&self, selector: LogSelector, options: LogOptions) -> ApiResult<SwarmLogs>;

    /// A conflict where nothing is locked.
    async fn unlock(&self, key: String) -> ApiResult<()>;

    /// Empty where managers are not locked.
    async fn unlock_key(&self) -> ApiResult<String>;
}

/// Body of `POST /swarm/init`. Addresses are as the user typed them: an IP or an interface, with a port where allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InitRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    /// 0 is the default port.
    pub data_path_port: u32,
    pub force_new_cluster: bool,
    #[serde(deserialize_with = "nullable")]
    pub spec: ClusterSpec,
    pub auto_lock_managers: bool,
    #[serde(deserialize_with = "crate::json::empty_is_default")]
    pub availability: Availability,
    #[serde(deserialize_with = "nullable")]
    pub default_addr_pool: Vec<String>,
    /// 0 is the default size.
    pub subnet_size: u32,
}

/// Body of `POST /swarm/join`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JoinRequest {
    pub listen_addr: String,
    pub advertise_addr: String,
    pub data_path_addr: String,
    #[serde(deserialize_with = "nullable")]
    pub remote_addrs: Vec<String>,
    pub join_token: String,
    #[serde(deserialize_with = "crate::json::empty_is_default")]
    pub availability: Availability,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalState {
    #[default]
    Inactive,
    Pending,
    Active,
    Error,
    Locked,
}

/// `Swarm` of `GET /info`, without what only the leader knows (the API asks for that itself).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwarmInfo {
    /// Empty outside a swarm.
    pub node_id: NodeId,
    /// Advertised address, without a port.
    pub node_addr: String,
    pub state: LocalState,
    /// True on managers.
    pub control_available: bool,
    /// On managers: somebody leads, so that asking about the swarm makes sense.
    pub leader_known: bool,
    /// What is wrong with this node's part in the swarm.
    pub error: String,
    pub remote_managers: Vec<RemoteManager>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteManager {
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// `ip:port`
    #[serde(rename = "Addr")]
    pub addr: String,
}
