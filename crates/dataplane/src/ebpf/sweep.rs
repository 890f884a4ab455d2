//! Forgets published flows that ended by a reset. A proper close is seen by the programs and forgotten at once; a reset
//! is not proof (anybody can send one), so such a flow is kept until nothing followed it for a while.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{error::EbpfResult, maps::Maps};

const LINGER: Duration = Duration::from_secs(60);

impl Maps {
    /// How many entries were forgotten.
    pub(super) fn sweep(&mut self) -> EbpfResult<usize> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let before = now.saturating_sub(LINGER).as_nanos() as u64;
        let over = |closed: u64| closed != 0 && closed < before;
        let mut forgotten = 0;
        for (key, _) in self.flows.rows()?.into_iter().filter(|(_, f)| over(f.closed)) {
            self.flows.remove(&key)?;
            forgotten += 1;
        }
        for (key, _) in self.replies.rows()?.into_iter().filter(|(_, r)| over(r.closed)) {
            self.replies.remove(&key)?;
            forgotten += 1;
        }
        Ok(forgotten)
    }
}
