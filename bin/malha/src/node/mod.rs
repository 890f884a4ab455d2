//! The node: where runtime, network, names and membership become one.

pub(crate) mod engine;
pub(crate) mod events;
pub(crate) mod executor;
pub(crate) mod network;
pub(crate) mod swarm;
mod turns;
