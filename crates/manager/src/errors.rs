//! Failures of consensus as the errors that requests are answered with.

use malha_consensus::{MemberError, UpdateError};
use malha_model::{ApiError, Code};

/// Docker's text; its status is 503 whatever the code says.
pub(crate) fn no_leader() -> ApiError {
    let text = "The swarm does not have a leader. It's possible that too few managers are online. \
                Make sure more than half of the managers are online.";
    ApiError::rpc(Code::Unknown, text).with_status(503)
}

pub(crate) fn update(error: UpdateError<ApiError>) -> ApiError {
    match error {
        UpdateError::Rejected(error) => error,
        UpdateError::NotLeader { .. } | UpdateError::NoQuorum => no_leader(),
        error @ UpdateError::TooLarge { .. } => ApiError::invalid(error),
        UpdateError::Timeout => ApiError::rpc(Code::DeadlineExceeded, "context deadline exceeded"),
        UpdateError::Storage { error, .. } => ApiError::internal(error),
        UpdateError::Stopped => ApiError::rpc(Code::Unavailable, "this manager is stopping"),
    }
}

pub(crate) fn member(error: &MemberError) -> ApiError {
    match error {
        MemberError::NotLeader { .. } => no_leader(),
        MemberError::LastManager => {
            ApiError::rpc(Code::FailedPrecondition, "attempting to demote the last manager of the swarm")
        }
        MemberError::WouldLoseQuorum => ApiError::rpc(
            Code::FailedPrecondition,
            "can't remove member from the raft: this would result in a loss of quorum",
        ),
        MemberError::Unknown(_) => ApiError::not_found(error),
        MemberError::Timeout => ApiError::rpc(Code::DeadlineExceeded, error),
        MemberError::Busy | MemberError::NoSuccessor | MemberError::Stopped => ApiError::rpc(Code::Unavailable, error),
    }
}
