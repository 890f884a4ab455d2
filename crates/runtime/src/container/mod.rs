//! Containers: what they are made from, what they are, and everything that is done to them.

mod attach;
mod capabilities;
mod create;
mod exec;
mod exec_options;
mod exit;
mod files;
mod info;
mod look;
mod mounts;
mod name;
mod oom;
mod options;
mod process;
mod remove;
mod shim_socket;
mod signal;
mod size;
mod spec;
mod start;
mod stdin;
mod stop;
mod stream;
mod table;
mod user;
mod wait;

pub(crate) use self::{
    create::remove_snapshot,
    exit::{UNKNOWN_EXIT, exit_code, watch as watch_exit},
    name::random_id,
    table::{Container, Record, Table},
};
pub use self::{exec_options::*, info::*, options::*, size::ContainerSize, stream::*, wait::WaitHandle};
