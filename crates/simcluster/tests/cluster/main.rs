//! Real managers and agents over a simulated network and scripted machines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod chaos;
mod failures;
mod life;
mod roles;
