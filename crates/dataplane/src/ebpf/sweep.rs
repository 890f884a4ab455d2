//! Forgets published flows that ended by a reset. A proper close is seen by the programs and forgotten at once; a reset
//! is not proof (anybody can send one), so such a flow is kept until nothing followed it for a while. One that only one
//! end has closed goes on for as long as the other likes, and stays.
//!
//! The tables may be large, and nothing else of the daemon changes them: they are opened here once more, so that no change
//! of the maps waits for a walk through them.

use std::{path::Path, time::Duration};

use aya::Pod;
use nix::time::{ClockId, clock_gettime};

use super::{
    error::EbpfResult,
    layout::{Flow, FlowKey, Reply, ReplyKey},
    maps::Shared,
};

pub(super) const LINGER: Duration = Duration::from_secs(60);

const BOTH_FIN: u8 = 1 | 2;
const RESET: u8 = 4;

pub(super) struct Sweeper {
    flows: [Shared<FlowKey, Flow>; 2],
    replies: [Shared<ReplyKey, Reply>; 2],
}

impl Sweeper {
    pub(super) fn open(maps_dir: &Path) -> EbpfResult<Self> {
        Ok(Self {
            flows: [Shared::open(maps_dir, "flows")?, Shared::open(maps_dir, "opening_flows")?],
            replies: [Shared::open(maps_dir, "replies")?, Shared::open(maps_dir, "opening_replies")?],
        })
    }

    /// Forgets what ended longer than `linger` ago. How many entries that was.
    pub(super) fn sweep(&mut self, linger: Duration) -> EbpfResult<usize> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let before = now.saturating_sub(linger).as_nanos() as u64;
        let over = |state: u8, closed: u64| (state & RESET != 0 || state & BOTH_FIN == BOTH_FIN) && closed < before;
        let mut forgotten = 0;
        for flows in &mut self.flows {
            forgotten += forget(flows, |f: &Flow| over(f.state, f.closed))?;
        }
        for replies in &mut self.replies {
            forgotten += forget(replies, |r: &Reply| over(r.state, r.closed))?;
        }
        Ok(forgotten)
    }
}

/// A row is looked at again before it goes: its numbers may be those of a new connection since it was listed.
fn forget<K: Pod + PartialEq, V: Pod>(map: &mut Shared<K, V>, over: impl Fn(&V) -> bool) -> EbpfResult<usize> {
    let mut forgotten = 0;
    for (key, _) in map.rows()?.into_iter().filter(|(_, row)| over(row)) {
        if map.get(&key)?.is_some_and(|row| over(&row)) {
            map.remove(&key)?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}
