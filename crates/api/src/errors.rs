//! The engine's own error texts: what Docker says when a node is not what a request needs. Scripts grep for them.

use malha_model::{ApiError, Code};

fn unavailable(text: &str) -> ApiError {
    ApiError::plain(Code::Unavailable, text)
}

/// A swarm request on a node outside any swarm.
pub fn not_in_swarm_mode() -> ApiError {
    unavailable(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
         swarm and try again.",
    )
}

/// A swarm request on a worker.
pub fn not_a_manager() -> ApiError {
    unavailable(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this \
         command on a manager node or promote the current node to a manager.",
    )
}

/// `swarm leave` outside any swarm.
pub fn not_in_a_swarm() -> ApiError {
    unavailable("This node is not part of a swarm")
}

/// `swarm init` or `join` inside one.
pub fn already_in_a_swarm() -> ApiError {
    unavailable(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
    )
}

/// The managers have no leader.
pub fn no_leader() -> ApiError {
    ApiError::rpc(
        Code::Unknown,
        "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of \
         the managers are online.",
    )
    .with_status(503)
}

/// A join that did not end in time; it goes on.
pub fn join_timeout() -> ApiError {
    unavailable(
        "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \
         \"docker info\" command to see the current swarm status of your node.",
    )
}

/// A join that no manager answered. Nothing of it is left.
pub fn join_unanswered() -> ApiError {
    unavailable(
        "Timeout was reached before node joined: the manager did not answer in time. Check that it can be reached from \
         this node and join again.",
    )
}
