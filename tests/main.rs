//! End to end: the stock docker CLI against real nodes, a file for each thing that is proven. One binary, so that what one
//! test waits for does not hold up the next.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test stops where something is not as it must be"
)]

mod abuse;
mod by_hand;
mod cluster;
mod containers;
mod daemon_dies;
mod idle;
mod leftovers;
mod managers;
mod members;
mod names;
mod networks;
mod old_cli;
mod published;
mod services;
mod support;
mod swarm_containers;
mod updates;
mod walkthrough;
