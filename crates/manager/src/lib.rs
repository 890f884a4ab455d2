//! What a manager does around the replicated state: leader lifecycle, dispatcher, CA, log broker.
//!
//! Every manager holds the state and answers every request; the one that leads decides. A [`Manager`] that does not lead
//! passes requests on and sends nodes to the leader. All that a leader knows beyond the state (sessions, views, log
//! subscriptions) belongs to its term and ends with it.

mod ca;
mod decide;
mod dispatcher;
mod errors;
mod init;
mod leader;
mod log_broker;
mod manager;
mod members;
mod reconcile;
mod rights;
mod role_manager;
mod transport;

pub use self::{
    decide::SwarmTokens,
    dispatcher::Pace,
    init::{NewSwarm, NewSwarmConfig, new_swarm},
    manager::{Manager, ManagerConfig, ManagerDeps},
    members::{join_raft, leave_raft},
    transport::ConnectorTransport,
};
