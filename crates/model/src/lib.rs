//! Ids, specs, objects and messages: the nouns of Malha.
//!
//! Everything here is plain data with serde forms; nothing reads a clock, a file or a socket. Specs have the exact JSON
//! shape of the Docker API; objects are what the managers replicate; views and session messages are what nodes are told.

pub mod control;
pub mod defaults;
pub mod error;
pub mod id;
pub mod mount;
pub mod network_view;
mod nullable;
pub mod object;
pub mod session;
pub mod spec_cluster;
pub mod spec_service;
pub mod task_state;
pub mod template;
mod text_bytes;
pub mod time;
mod unbuilt;

pub use self::{
    control::*,
    error::{ApiError, ApiResult, Code},
    id::{ClusterId, NetworkId, NodeId, ServiceId, TaskId, base36, random_id},
    mount::*,
    network_view::*,
    object::*,
    session::*,
    spec_cluster::*,
    spec_service::*,
    task_state::TaskState,
    time::Timestamp,
    unbuilt::{asks_for_healthcheck, check_log_driver},
};
