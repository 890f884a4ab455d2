//! What the agent asks of the node it runs on.
//!
//! The real one drives containerd and the data plane (`bin/malha/src/node`); the simulation's is scripted. Every call is
//! idempotent: after a crash the agent asks again, and what already is as asked stays as it is.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use malha_model::{
    ContainerStatus, LogLine, LogOptions, NetworkId, NetworkView, NodeDescription, NodeId, PortConfig, Task, TaskId,
};
use tokio::sync::mpsc;

/// Everything that names, maps and sandboxes of this node are planned from.
#[derive(Clone, Debug, Default)]
pub struct NodeNetworks {
    pub node: NodeId,
    pub views: BTreeMap<NetworkId, Arc<NetworkView>>,
    /// Tasks of this node that hold addresses, attachments of stand-alone containers included.
    pub tasks: Vec<Arc<Task>>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    /// Set where the end was not the process's own, e.g. out of memory.
    pub error: Option<String>,
}

/// A container that was found when the daemon came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Created,
    Running(ContainerStatus),
    Exited(ContainerStatus),
}

/// The text lands in `Task.Status.Err`. Before the container has started the task is REJECTED, afterwards FAILED.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TaskError(pub String);

/// A running container and the host-mode ports it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    pub status: ContainerStatus,
    pub ports: Vec<PortConfig>,
}

#[async_trait]
pub trait Executor: Send + Sync + 'static {
    async fn description(&self) -> NodeDescription;
    /// Makes names and maps reflect `networks`; returns once they do. The whole state each time.
    async fn apply_networks(&self, networks: Arc<NodeNetworks>) -> Result<(), TaskError>;
    /// Makes the task's image be here. It may take long, and nobody else waits for it meanwhile: how many do so at once is
    /// for the executor to say. Dropped where the task is told to stop.
    async fn fetch(&self, task: Arc<Task>) -> Result<(), TaskError>;
    /// Network sandbox and container, of the image that is here: everything but the process. Views and task are in force by
    /// [`Executor::apply_networks`] before. Dropped where the task is told to stop meanwhile; `stop` and `remove` then
    /// find whatever it had made. `start` likewise.
    async fn prepare(&self, task: Arc<Task>) -> Result<ContainerStatus, TaskError>;
    async fn start(&self, task: Arc<Task>) -> Result<Started, TaskError>;
    /// Returns when the container has ended (at once where it already has), also for one of an earlier daemon. Its network
    /// sandbox is given up by then: the address may go to another task. Cancel-safe.
    async fn wait(&self, task: TaskId) -> Result<Exit, TaskError>;
    /// Stop signal, grace period, then kill; returns when the container has ended and its sandbox is given up. One that
    /// never ran or was never made is stopped already.
    async fn stop(&self, task: Arc<Task>) -> Result<(), TaskError>;
    /// Removes container and sandbox. Nothing to remove is success.
    async fn remove(&self, task: TaskId) -> Result<(), TaskError>;
    /// Containers of tasks that exist on this node, whoever started them.
    async fn found(&self) -> Result<BTreeMap<TaskId, Found>, TaskError>;
    /// Sends the task's log lines to `out` until the end, or for good with `follow`.
    async fn logs(&self, task: Arc<Task>, options: LogOptions, out: mpsc::Sender<LogLine>) -> Result<(), TaskError>;
}
