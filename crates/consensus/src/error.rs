//! What can go wrong, by what a caller can do about it.

use crate::{LeaderAddr, StorageError};

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("consensus settings: {0}")]
    Config(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("raft: {0}")]
    Raft(String),
}

/// Why an update did not, or may not have, become part of the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError<E> {
    /// Nothing was changed. Ask the leader, where one is known.
    #[error("this node is not the leader")]
    NotLeader { leader: Option<LeaderAddr> },
    /// Nothing was changed: fewer than half of the managers answer.
    #[error("no quorum of managers")]
    NoQuorum,
    /// The outcome is unknown: the change was proposed and may yet be committed.
    #[error("the managers did not confirm the change in time")]
    Timeout,
    /// Nothing was changed: one message to another member could not hold the change.
    #[error("too large a change at once: {bytes} bytes and more, of {limit} at most")]
    TooLarge { bytes: usize, limit: usize },
    /// The closure refused. Nothing was changed.
    #[error(transparent)]
    Rejected(E),
    /// This member's disk takes no writes. `proposed`: the change may yet be committed, as with `Timeout`.
    #[error("{error}")]
    Storage { error: StorageError, proposed: bool },
    /// The member has stopped.
    #[error("consensus has stopped")]
    Stopped,
}

/// Why the set of members did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    #[error("this node is not the leader")]
    NotLeader { leader: Option<LeaderAddr> },
    #[error("another change of members is under way")]
    Busy,
    #[error("{0} is not a member")]
    Unknown(malha_model::NodeId),
    #[error("the change would leave the managers without a quorum")]
    WouldLoseQuorum,
    #[error("the last manager cannot be removed")]
    LastManager,
    /// The outcome is unknown.
    #[error("the managers did not confirm the change in time")]
    Timeout,
    #[error("no other manager can take over")]
    NoSuccessor,
    #[error("consensus has stopped")]
    Stopped,
}
