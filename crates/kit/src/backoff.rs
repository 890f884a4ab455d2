//! Growing, randomised pauses between attempts.

use std::time::Duration;

use rand::Rng as _;

use crate::Rng;

/// Each pause is drawn from between half and all of a bound that doubles from `first` to `max`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
    rng: Rng,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration, rng: Rng) -> Self {
        Self { first, max, bound: first, rng }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.bound.mul_f64(self.rng.random_range(0.5..=1.0));
        self.bound = (self.bound * 2).min(self.max);
        pause
    }

    /// Starts again from the first pause, after a success.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}
