//! The table: printed line by line as it comes, because a run takes minutes.

use crate::rounds::{Compared, Rounds, median};

/// What a figure is held to.
#[derive(Clone, Copy)]
pub(crate) enum Floor {
    None,
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Default)]
pub(crate) struct Report {
    section: String,
    held: usize,
    missed: Vec<String>,
}

impl Report {
    pub(crate) fn new(rounds: &Rounds) -> Self {
        println!(
            "{} rounds of {} s; ratio: median of what was taken together, and its interval of 95 % confidence",
            rounds.count, rounds.secs
        );
        println!("{:<58} {:>16} {:>16} {:>7} {:<13}  floor", "", "malha", "compared with", "ratio", "");
        Self::default()
    }

    pub(crate) fn section(&mut self, title: &str) {
        title.clone_into(&mut self.section);
        println!("\n{title}");
    }

    /// `unit` writes one side's figure.
    pub(crate) fn compared(&mut self, what: &str, compared: &Compared, unit: fn(f64) -> String, floor: Floor) {
        let (ours, base) = (unit(compared.ours()), unit(compared.base()));
        let verdict = self.verdict(what, compared.ratio(), floor, |f| format!("{f:.2}"));
        let (ratio, (low, high)) = (compared.ratio(), compared.interval());
        println!("  {what:<56} {ours:>16} {base:>16} {ratio:>7.3} {low:.3}–{high:.3}  {verdict}");
    }

    /// A figure of our own; the spread over the tries is shown.
    pub(crate) fn figure(&mut self, what: &str, tries: &[f64], unit: fn(f64) -> String, floor: Floor) {
        let middle = median(tries);
        let verdict = self.verdict(what, middle, floor, unit);
        let worst = tries.iter().copied().fold(f64::MIN, f64::max);
        let spread = if tries.len() > 1 { format!("worst {}", unit(worst)) } else { String::new() };
        println!("  {what:<56} {:>16} {spread:>16} {:>7} {:<13}  {verdict}", unit(middle), "", "");
    }

    fn verdict(&mut self, what: &str, value: f64, floor: Floor, unit: impl Fn(f64) -> String) -> String {
        let (holds, text) = match floor {
            Floor::None => return String::new(),
            Floor::AtLeast(limit) => (value >= limit, format!("≥ {}", unit(limit))),
            Floor::AtMost(limit) => (value <= limit, format!("≤ {}", unit(limit))),
        };
        if holds {
            self.held += 1;
        } else {
            self.missed.push(format!("{}: {what}", self.section));
        }
        format!("{text} {}", if holds { "ok" } else { "MISS" })
    }

    pub(crate) fn summary(&self) {
        println!("\n{} floors held, {} missed", self.held, self.missed.len());
        for what in &self.missed {
            println!("  MISS {what}");
        }
    }
}

pub(crate) fn bits(value: f64) -> String {
    format!("{:.2} Gbit/s", value / 1e9)
}

pub(crate) fn per_second(value: f64) -> String {
    format!("{value:.0} /s")
}

pub(crate) fn micros(value: f64) -> String {
    format!("{value:.0} µs")
}

pub(crate) fn millis(value: f64) -> String {
    format!("{value:.0} ms")
}

pub(crate) fn megabytes(value: f64) -> String {
    format!("{value:.1} MB")
}
