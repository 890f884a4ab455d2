//! Histograms for openraft's own statistics, in 2 KiB each and nothing beside.
//!
//! The published crate of this name fills tables for every precision that it knows at the first use: 26 MB resident on
//! each manager, of which openraft reads 2 KiB. This one offers what openraft calls and computes buckets where it needs
//! them. Values fall into buckets by their highest three bits, so a percentile is at most a quarter too low.

use std::{fmt, marker::PhantomData};

/// Bits of a value that tell its bucket, the highest included.
const BITS: u32 = 3;
const PER_POWER: usize = 1 << (BITS - 1);
const BUCKETS: usize = (u64::BITS - BITS + 2) as usize * PER_POWER;

/// Counts of values by magnitude. `T` is for callers that name it; nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    of: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), of: PhantomData }
    }
}

impl<T> Histogram<T> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, times: u64) {
        let count = &mut self.counts[bucket(value)];
        *count = count.saturating_add(times);
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let at = |permille| self.at(samples, permille);
        PercentileStats {
            samples,
            p0_1: at(1),
            p1: at(10),
            p5: at(50),
            p10: at(100),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p99_9: at(999),
        }
    }

    /// The least value of the bucket below which `permille` of the samples lie; 0 without samples.
    fn at(&self, samples: u64, permille: u128) -> u64 {
        let rank = (u128::from(samples) * permille).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        let reached = self.counts.iter().position(|n| {
            seen += u128::from(*n);
            seen >= rank
        });
        reached.map_or(0, least)
    }
}

/// Values below 4 have a bucket each, four buckets share every power of two from there.
fn bucket(value: u64) -> usize {
    match value.checked_ilog2() {
        Some(power) if power >= BITS - 1 => {
            let group = (power - (BITS - 1) + 1) as usize;
            let within = (value >> (power - (BITS - 1))) as usize & (PER_POWER - 1);
            group * PER_POWER + within
        }
        _ => value as usize,
    }
}

fn least(bucket: usize) -> u64 {
    let (group, within) = (bucket / PER_POWER, bucket % PER_POWER);
    if group == 0 { within as u64 } else { ((PER_POWER + within) as u64) << (group - 1) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "n={samples} p50={p50} p90={p90} p99={p99} p99.9={p99_9}")
    }
}

/// Several histograms below each other, a line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    pub fn new() -> Self {
        Self::default()
    }

    #[allow(clippy::should_implement_trait, reason = "the name that is called")]
    pub fn add<T>(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.0.push((name.to_owned(), histogram.percentile_stats()));
        self
    }

    pub fn detailed(&self) -> impl fmt::Display + '_ {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_values() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for b in 0..BUCKETS {
            assert_eq!(bucket(least(b)), b);
            if b > 0 {
                assert_eq!(bucket(least(b) - 1), b - 1);
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut h = Histogram::<()>::new();
        assert_eq!(h.percentile_stats().p50, 0);
        (0..1000).for_each(|n| h.record(n));
        h.record_n(u64::MAX, 0);
        let stats = h.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1), (1000, 0));
        for (found, exact) in [(stats.p5, 49), (stats.p50, 499), (stats.p90, 899), (stats.p99, 989)] {
            assert!(found <= exact && exact < found + found / 4 + 1, "{found} for {exact}");
        }
    }
}
