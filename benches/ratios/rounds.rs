//! Both sides of a comparison, in turn, several times.

use std::process::Command;

use serde_json::Value;

pub(crate) struct Rounds {
    pub(crate) count: usize,
    pub(crate) secs: f64,
}

/// One load as `netload` reports it.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Figures of the two sides that were taken together.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    pub(crate) ours: f64,
    pub(crate) base: f64,
    pub(crate) ratio: f64,
}

pub(crate) struct Compared(pub(crate) Vec<Round>);

impl Rounds {
    pub(crate) fn from_env() -> Self {
        let number =
            |name: &str, default: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
        Self { count: number("ROUNDS", 7.0) as usize, secs: number("SECS", 1.0) }
    }

    /// Which side goes first changes with the rounds, so that a trend favours neither.
    pub(crate) fn run(&self, ours: impl Fn() -> Load, base: impl Fn() -> Load) -> Vec<(Load, Load)> {
        let mut all = Vec::new();
        for round in 0..self.count {
            if round % 2 == 0 {
                let ours = ours();
                all.push((ours, base()));
            } else {
                let base = base();
                all.push((ours(), base));
            }
        }
        all
    }
}

impl Compared {
    pub(crate) fn of(rounds: &[(Load, Load)], figure: fn(&Load) -> f64) -> Self {
        let round = |ours: f64, base: f64| Round { ours, base, ratio: ours / base };
        Self(rounds.iter().map(|(ours, base)| round(figure(ours), figure(base))).collect())
    }

    pub(crate) fn ours(&self) -> f64 {
        median(&self.all(|r| r.ours))
    }

    pub(crate) fn base(&self) -> f64 {
        median(&self.all(|r| r.base))
    }

    pub(crate) fn ratio(&self) -> f64 {
        median(&self.all(|r| r.ratio))
    }

    /// Where the median of ever more rounds would lie, with 95 % confidence, whatever the distribution: the ranks that
    /// as many heads of a coin do not leave. Of seven rounds, the least and the greatest.
    pub(crate) fn interval(&self) -> (f64, f64) {
        let mut sorted = self.all(|r| r.ratio);
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len() as f64;
        let rank = (count / 2.0 - 0.98 * count.sqrt()).max(0.0) as usize;
        (sorted[rank], sorted[sorted.len() - 1 - rank])
    }

    fn all(&self, figure: fn(&Round) -> f64) -> Vec<f64> {
        self.0.iter().map(figure).collect()
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] }
}

/// Runs a command that ends in a `netload` load.
pub(crate) fn load(command: &mut Command) -> Load {
    let text = crate::cluster::output(command);
    let value: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{command:?}: {e}: {text}"));
    let number = |key: &str| value[key].as_f64().unwrap_or_default();
    Load { rate: number("rate"), p50: number("p50"), p99: number("p99") }
}
