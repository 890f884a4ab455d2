//! What a leader decides: requests, orchestration, allocation, scheduling, clean-up. Pure.
//!
//! Everything works on a [`malha_store::Tx`] and takes time and randomness from [`Ctx`]. [`handle`] answers one request;
//! [`reconcile`] brings the objects to where specs, nodes and statuses want them; [`status`] takes in what nodes report.
//! A manager runs a request (or statuses) and `reconcile` in one transaction, so that what it writes is already settled.
//!
//! No part keeps memory of its own: restart counts, update progress, free addresses and ports are all derived from the
//! objects. A new leader goes on exactly where the old one stopped. An [`Outlook`] only spares looking at what did not
//! change.

mod allocator;
mod bootstrap;
mod ctx;
mod orchestrator;
mod reaper;
mod reconcile;
mod request;
mod scheduler;
mod scope;
pub mod status;
mod validate;
mod view;

pub use self::{
    bootstrap::{Bootstrap, bootstrap, new_node},
    ctx::{Ctx, TokenSource},
    orchestrator::is_dirty,
    reconcile::reconcile,
    request::{check_cluster_spec, handle},
    scope::Outlook,
    view::{network_view, networks_of_node, tasks_of_node},
};
