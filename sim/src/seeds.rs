//! Many seeds on several threads.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{Outcome, Plant, RunConfig, invariants::violated, run::play};

#[derive(Debug)]
pub struct Summary {
    pub seeds: u64,
    pub took: Duration,
    /// By seed.
    pub failures: Vec<Outcome>,
}

impl Summary {
    pub fn per_second(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

/// Plays all of `seeds`, `jobs` at a time; a panic fails its seed only.
pub fn run_seeds(seeds: Range<u64>, jobs: usize, plant: Option<Plant>) -> Summary {
    // real time: how long it takes whoever waits for it
    let begin = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = play_caught(RunConfig { seed, plant });
            if !outcome.is_kept() {
                failures.lock().push(outcome);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut failures = failures.into_inner();
    failures.sort_by_key(|f| f.seed);
    Summary { seeds: seeds.end.saturating_sub(seeds.start), took: begin.elapsed(), failures }
}

fn play_caught(config: RunConfig) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| play(config))).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let violation = violated("panic", what.unwrap_or_default());
        let RunConfig { seed, plant } = config;
        Outcome { seed, plant, violations: vec![violation], story: Vec::new(), hash: String::new() }
    })
}
