//! The node's side of the swarm: manager session, task step machine, status reporter.
//!
//! An [`Agent`] keeps one session with the leading manager, runs the tasks it is told to and keeps names and maps as the
//! views it is sent. What it was last told it also keeps on disk: losing the managers, the network or the daemon itself
//! changes nothing for what already runs.

mod agent;
mod core;
mod description;
mod disk;
mod executor;
mod logs;
mod networks;
mod reporter;
mod saved;
mod session;
mod task;
pub mod testing;
mod worker;

pub use self::{
    agent::{Agent, AgentConfig, AgentDeps, Link},
    disk::{AgentDisk, DiskError, FileDisk, MemoryDisk},
    executor::*,
};
