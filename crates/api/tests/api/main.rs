//! The API as its clients meet it: the stock `docker` CLI and raw HTTP over real sockets, against doubles of the two ports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as expected"
)]

mod cli_containers;
mod cli_events;
mod cli_networks;
mod cli_services;
mod cli_swarm;
mod http_raw;
mod support;
mod tls;
