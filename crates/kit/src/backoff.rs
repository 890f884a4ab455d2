//! Growing, randomised pauses between attempts.

use std::time::Duration;

use rand::Rng as _;

use crate::Rng;

/// What worked for that long has been a success.
const STEADY: Duration = Duration::from_secs(60);

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

    /// The next pause before what has `worked` until it failed; one of a minute or less was no success.
    pub fn pause_after(&mut self, worked: Duration) -> Duration {
        if worked > STEADY {
            self.reset();
        }
        self.next_pause()
    }

    /// Starts again from the first pause, after a success.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_what_failed_had_worked() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8), Rng::from_seed(1));
        let mut within = |worked, bound: u64| {
            let (pause, bound) = (backoff.pause_after(Duration::from_secs(worked)), Duration::from_secs(bound));
            assert!((bound / 2..=bound).contains(&pause), "{pause:?} of {bound:?}");
        };
        for bound in [1, 2, 4, 8, 8] {
            within(60, bound);
        }
        within(61, 1);
        within(0, 2);
    }
}
