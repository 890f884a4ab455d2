//! The types that openraft is instantiated with.

use std::sync::Arc;

use malha_model::NodeId;
use malha_store::Change;
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};

use crate::{machine::Machine, runtime::SeededRuntime};

openraft::declare_raft_types!(
    /// One leader per term, so that a term names the leader that planned an entry.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = NodeId,
        Node = Peer,
        LeaderId = leader_id_std::LeaderId<u64, NodeId>,
        AsyncRuntime = SeededRuntime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, bytes::Bytes>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Where a member is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// `ip:port`
    pub addr: String,
}

/// One log entry: changes, and what they were planned upon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// Term of the leader that planned it.
    pub term: u64,
    /// Index of the last command in the state it was planned on.
    pub base: u64,
    pub changes: Arc<[Change]>,
}

/// What applying an entry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Applied,
    /// The fence held: the state had moved on from what the entry was planned upon. Nothing was changed.
    Fenced,
    /// An entry without changes: a new leader's first, or a membership.
    Nothing,
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} changes planned in term {} on {}", self.changes.len(), self.term, self.base)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
