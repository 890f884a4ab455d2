//! Two sides against each other in one process, so that a difference of one part in a hundred can be told from noise.
//!
//! Loads that are measured one after the other differ by what the machine did meanwhile. Here the sides take turns every
//! few milliseconds, in the order A B B A, on the same thread and processor, each with the same amount of work: a slice
//! ends when the other end has all of it, and the next begins with nothing under way. Such a quad gives one ratio of the
//! times; a few quads on the same two connections give one line, their median. Connections differ among themselves by
//! where their buffers lie and how far their windows grew, so each line is of new ones, and lines are what an
//! interval can be made of.

use std::time::{Duration, Instant};

use crate::side::{Side, Work};

/// Short against what a busy machine does by turns, long against the wait for the last answer.
const SLICE: Duration = Duration::from_millis(3);
/// On the same connections. Before them comes one slice for each side that does not count.
const QUADS: usize = 12;
/// Trials of what fills a slice. The quickest counts: too small a slice would be mostly its end.
const TRIALS: usize = 5;

type Lanes<'a> = [Box<dyn Work + 'a>; 2];

pub(crate) fn run(kind: &str, sides: &[Side; 2], time: Duration) {
    let start = Instant::now();
    let (mut line, mut amount) = (0, None);
    while line == 0 || start.elapsed() < time {
        let mut lanes = open(kind, sides, line % 2 == 1);
        let amount = *amount.get_or_insert_with(|| fill(&mut lanes));
        for lane in &mut lanes {
            lane.spend(amount);
        }
        let quads: Vec<[f64; 2]> = (0..QUADS).map(|q| quad(&mut lanes, amount, (line + q) % 2)).collect();
        let work = 2.0 * amount as f64 * lanes[0].unit();
        let [a, b] = [0, 1].map(|side| work / median(quads.iter().map(|q| q[side])));
        let ratio = median(quads.iter().map(|q| q[1] / q[0]));
        println!("{{\"a\":{a:.1},\"b\":{b:.1},\"ratio\":{ratio:.5}}}");
        line += 1;
    }
}

/// Which of the two is opened first alternates as well.
fn open<'a>(kind: &str, sides: &'a [Side; 2], swapped: bool) -> Lanes<'a> {
    if swapped {
        let b = sides[1].open(kind);
        [sides[0].open(kind), b]
    } else {
        sides.each_ref().map(|side| side.open(kind))
    }
}

/// How much fills a slice, in the mean of both sides.
fn fill(lanes: &mut Lanes<'_>) -> u64 {
    let mut amount = 16;
    loop {
        let mut trial = || lanes.iter_mut().map(|lane| lane.spend(amount).as_secs_f64() / 2.0).sum();
        let time = (0..TRIALS).map(|_| trial()).fold(f64::MAX, f64::min);
        if time > SLICE.as_secs_f64() / 2.0 {
            return (amount as f64 * SLICE.as_secs_f64() / time).ceil() as u64;
        }
        amount *= 2;
    }
}

/// Seconds of each side, for two slices.
fn quad(lanes: &mut Lanes<'_>, amount: u64, first: usize) -> [f64; 2] {
    let mut seconds = [0.0; 2];
    for side in [first, 1 - first, 1 - first, first] {
        seconds[side] += lanes[side].spend(amount).as_secs_f64();
    }
    seconds
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}
