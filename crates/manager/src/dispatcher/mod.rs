//! The leader's side of the nodes' sessions.
//!
//! [`board`] turns each state into the views of its networks, once for all sessions; [`session`] sends one node what
//! changed for it; [`reports`] writes down what nodes say, many at a time; [`liveness`] notices who has gone silent.

pub(crate) mod board;
pub(crate) mod liveness;
pub(crate) mod reports;
pub(crate) mod session;

use std::time::Duration;

use malha_model::{ClusterSpec, defaults};

/// How often nodes speak and how long they may be silent.
///
/// Everything follows from `Dispatcher.HeartbeatPeriod` of the Swarm spec (5 s by default): nodes speak ten times as
/// often. With the default a node beats every 500 ms, leaves names and maps after 1.7 s of silence and is down after
/// 4.5 s, so that the first is done within 2 s and its tasks run elsewhere within 6 s. A node whose connection broke is
/// given less time to return, and after a change of leaders everybody is given more but the one that led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub heartbeat: Duration,
}

const BEATS_PER_PERIOD: u32 = 10;
/// Faster than this says nothing about a node.
const FASTEST: Duration = Duration::from_millis(50);

impl Pace {
    pub fn of(spec: &ClusterSpec) -> Self {
        let period = match u64::try_from(spec.dispatcher.heartbeat_period) {
            Ok(0) | Err(_) => defaults::HEARTBEAT,
            Ok(nanos) => Duration::from_nanos(nanos),
        };
        Self { heartbeat: (period / BEATS_PER_PERIOD).max(FASTEST) }
    }

    /// Silence after which a node no longer takes new connections.
    pub fn silent(self) -> Duration {
        self.heartbeat.mul_f64(3.4)
    }

    /// The same for a node whose session broke and that has not come back.
    pub fn broken(self) -> Duration {
        self.heartbeat * 2
    }

    /// The same for the node that led before, counted from the new leader's election: it was missed that long already.
    pub fn deposed(self) -> Duration {
        self.heartbeat
    }

    /// Silence after which the node's tasks are replaced.
    pub fn down(self) -> Duration {
        self.heartbeat * 9
    }

    /// Added to both after a change of leaders.
    pub fn grace(self) -> Duration {
        self.heartbeat * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_keeps_the_promises_and_the_rest_scales() {
        let mut spec = defaults::cluster_spec();
        let pace = Pace::of(&spec);
        assert!(pace.silent() < Duration::from_secs(2) && pace.down() < Duration::from_secs(5));
        spec.dispatcher.heartbeat_period *= 4;
        assert_eq!(Pace::of(&spec).heartbeat, pace.heartbeat * 4);
        spec.dispatcher.heartbeat_period = 0;
        assert_eq!(Pace::of(&spec), pace);
    }
}
