//! `malha-sim`: plays seeds and tells the stories of those that fail.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::{num::NonZero, ops::Range, process::ExitCode, thread::available_parallelism};

use clap::Parser;
use malha_sim::{Outcome, Plant, RunConfig, play, run_seeds};

/// Whole clusters under faults, one seed each.
#[derive(Debug, Parser)]
struct Args {
    /// Seeds to play, `from..to` without the last.
    #[arg(long, value_parser = range, default_value = "0..300", conflicts_with = "seed")]
    seeds: Range<u64>,
    /// One seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Tell the story even if it ends well.
    #[arg(long)]
    story: bool,
    /// Seeds at the same time; by default as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
    /// A bug on purpose: early-ack, lost-delta or stale-plan.
    #[arg(long, hide = true)]
    plant: Option<Plant>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("{s:?}: {e}"));
    let (from, to) = text.split_once("..").ok_or("expected FROM..TO")?;
    Ok(number(from)?..number(to)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    // RUST_LOG shows what the daemons log
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    if let Some(seed) = args.seed {
        let outcome = play(RunConfig { seed, plant: args.plant });
        if args.story || !outcome.is_kept() {
            tell(&outcome);
        }
        println!("story {}", outcome.hash);
        return if outcome.is_kept() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let jobs = args.jobs.unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get));
    let summary = run_seeds(args.seeds, jobs, args.plant);
    for outcome in &summary.failures {
        tell(outcome);
    }
    let (seeds, failed, rate) = (summary.seeds, summary.failures.len(), summary.per_second());
    println!("{seeds} seeds, {failed} failed, {rate:.1} seeds per second");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(outcome: &Outcome) {
    println!("\nseed {}", outcome.seed);
    for line in &outcome.story {
        println!("{line}");
    }
    for violation in &outcome.violations {
        println!("FAILED {violation}");
    }
    println!("again: {}", outcome.command());
}
