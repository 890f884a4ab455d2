//! The few mechanisms that every long-running part shares: tasks, shutdown, clock, randomness, backoff, durable files.
//!
//! Time and randomness come through here so that a whole cluster can run in one process under virtual time from one seed:
//! with tokio's clock paused, [`TokioClock`] and every timer follow it; with a seeded [`Rng`] every draw repeats.

mod backoff;
mod clock;
pub mod durable;
mod rng;
mod tasks;
pub mod watch;

pub use self::{
    backoff::Backoff,
    clock::{Clock, SharedClock, SystemClock, TokioClock},
    rng::Rng,
    tasks::{Tasks, panics, supervised},
};
pub use tokio_util::sync::CancellationToken;
