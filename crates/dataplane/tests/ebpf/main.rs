//! The kernel programs on the real kernel: nodes, containers and a client, each a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, reason = "tests")]

mod balance;
mod child;
mod forward;
mod ingress;
mod paths;
mod servers;
mod survive;
mod world;
