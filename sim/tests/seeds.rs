//! Seeds keep what Malha promises, tell the same story twice, and catch bugs that were planted.

#![allow(clippy::print_stdout, clippy::panic, reason = "a failing seed tells its story")]

use std::{num::NonZero, thread::available_parallelism};

use malha_sim::{Outcome, Plant, RunConfig, play, run_seeds};

const SEEDS: u64 = 300;
/// Seeds among which a planted bug shows.
const FEW: u64 = 24;

fn told(outcome: &Outcome) -> String {
    let violations: Vec<String> = outcome.violations.iter().map(ToString::to_string).collect();
    format!("{}\nFAILED {}\nagain: {}", outcome.story.join("\n"), violations.join("\nFAILED "), outcome.command())
}

#[test]
fn three_hundred_seeds_keep_every_promise() {
    let jobs = available_parallelism().map_or(1, NonZero::get);
    let summary = run_seeds(0..SEEDS, jobs, None);
    println!("{SEEDS} seeds, {:.1} seeds per second", summary.per_second());
    if let Some(first) = summary.failures.first() {
        let failed: Vec<u64> = summary.failures.iter().map(|f| f.seed).collect();
        panic!("seeds {failed:?} failed; the first of them:\n{}", told(first));
    }
}

/// Seed 3 holds calls back while a link is cut and lets several go at the same moment.
#[test]
fn a_seed_tells_its_story_again() {
    for seed in [3, 7] {
        let config = RunConfig { seed, plant: None };
        let (first, again) = (play(config), play(config));
        assert_eq!(first.story, again.story);
        assert_eq!(first.hash, again.hash);
    }
}

/// The first of a few seeds that notices `plant` does so by one of `invariants`.
fn is_caught_by(plant: Plant, invariants: &[&str]) {
    for seed in 0..FEW {
        let outcome = play(RunConfig { seed, plant: Some(plant) });
        if let Some(violation) = outcome.violations.first() {
            assert!(invariants.contains(&violation.invariant), "{}", told(&outcome));
            println!("{plant} is caught by seed {seed}: {violation}");
            return;
        }
    }
    panic!("{plant} was not noticed in {FEW} seeds");
}

#[test]
fn a_disk_that_acknowledges_early_is_caught() {
    is_caught_by(Plant::EarlyAck, &["acknowledged", "agreement", "task_states"]);
}

#[test]
fn an_agent_that_misses_a_delta_is_caught() {
    is_caught_by(Plant::LostDelta, &["names", "maps", "containers", "replicas"]);
}

#[test]
fn a_plan_on_a_stale_state_is_caught() {
    is_caught_by(Plant::StalePlan, &["addresses", "ports", "vnis"]);
}
