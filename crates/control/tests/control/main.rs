//! The whole crate by example and for any story: a small world with scripted agents.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it must be")]

mod allocation;
mod attachments;
mod effort;
mod invariants;
mod orchestration;
mod requests;
mod room;
mod scheduling;
mod story;
mod updates;
mod views;
mod world;
