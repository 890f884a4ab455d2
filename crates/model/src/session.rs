//! The messages of a node's session with the leader.
//!
//! One bidirectional stream per node. The agent speaks first with [`AgentMessage::Hello`]; the leader answers
//! [`ManagerMessage::Welcome`], a snapshot of each network the node is on and then all its tasks, which completes the
//! node's picture: networks and tasks that were not in it are gone. From there on it sends changes only, those of
//! networks ahead of those of the tasks that need them.
//! Any other manager answers [`ManagerMessage::Redirect`] and closes.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{NetworkId, NodeId, ServiceId, TaskId},
    network_view::{NetworkDelta, NetworkView},
    object::{Task, TaskStatus},
    spec_cluster::{NodeDescription, Role},
    time::Timestamp,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// Said again in a session when the node's routes have changed.
    Hello {
        description: NodeDescription,
        /// Tunnel endpoint of this node.
        data_path_addr: IpAddr,
    },
    Heartbeat,
    /// Statuses never travel backwards: the leader ignores one older than what it holds.
    TaskStatus(Vec<(TaskId, TaskStatus)>),
    /// A delta did not fit: send the whole view again.
    Resync(NetworkId),
    /// The node's names and maps reflect this view of the network (acknowledged drain builds on it).
    NetworkApplied {
        network: NetworkId,
        seq: u64,
    },
    /// Lines for a log subscription; `done` once no more will come.
    Logs {
        subscription: u64,
        lines: Vec<LogLine>,
        done: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ManagerMessage {
    Welcome {
        heartbeat: Duration,
        managers: BTreeMap<NodeId, String>,
    },
    /// Answers each heartbeat; an agent that hears nothing for several of them looks for another manager.
    Alive,
    /// This manager does not lead. `leader` is `ip:port` where known.
    Redirect {
        leader: Option<String>,
        managers: BTreeMap<NodeId, String>,
    },
    /// All tasks of this node, replacing what the agent knew.
    AllTasks(Vec<Task>),
    /// Tasks that are new or changed, and tasks whose containers and records are to be removed.
    Tasks {
        changed: Vec<Task>,
        removed: Vec<TaskId>,
    },
    /// The whole view of a network that this node is on.
    Network(NetworkView),
    NetworkDelta(NetworkDelta),
    /// The node is no longer on this network.
    NetworkGone(NetworkId),
    /// Addresses of the managers changed.
    Managers(BTreeMap<NodeId, String>),
    /// The node's role is to be this: it fetches a certificate of that role and starts or stops being a manager.
    Role(Role),
    LogSubscribe {
        subscription: u64,
        selector: LogSelector,
        options: LogOptions,
    },
    LogUnsubscribe {
        subscription: u64,
    },
    /// One more [`AgentMessage::Logs`] may be sent. [`LOG_WINDOW`] of them need no asking, so that a reader who stops
    /// reading stops the log and not the session.
    LogMore {
        subscription: u64,
    },
}

/// Messages of one log subscription from one node that may be under way.
pub const LOG_WINDOW: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSelector {
    Service(ServiceId),
    Task(TaskId),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Last lines only; `None` is all.
    pub tail: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub node: NodeId,
    pub service: Option<ServiceId>,
    pub task: TaskId,
    pub timestamp: Timestamp,
    /// 1 stdout, 2 stderr.
    pub stream: u8,
    /// With its newline, where it had one.
    #[serde(with = "crate::text_bytes")]
    pub data: Vec<u8>,
}
