//! What a member is started with.

use std::{sync::Arc, time::Duration};

use malha_kit::{Rng, SharedClock};
use malha_model::NodeId;
use malha_store::State;

/// How a member of the Raft group is set up.
#[derive(Clone)]
pub struct Config {
    pub node: NodeId,
    /// Where the other managers reach this one, `ip:port`.
    pub addr: String,
    pub timings: Timings,
    /// Number of log entries after which a snapshot replaces them.
    pub snapshot_every: u64,
    /// Most bytes of the changes in one entry. A message between members holds twice as much; one that none holds would be
    /// sent for ever, and nothing behind it.
    pub entry_bytes: usize,
    pub rng: Rng,
    pub clock: SharedClock,
    pub observer: Option<Observer>,
}

/// Is shown every state at the moment that it is applied, in order: where `watch` readers see the newest only, it sees
/// all. It must not block.
pub type Observer = Arc<dyn Fn(&Arc<State>) + Send + Sync>;

/// The periods of the protocol. They must be the same on all members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat: Duration,
    /// A member that has not heard of a leader for `election_max` and then a draw from this range calls an election.
    pub election_min: Duration,
    pub election_max: Duration,
    /// A leader that no majority has answered for this long leads no more. It decides nothing meanwhile, but a machine that
    /// stands still for a second costs no change of leadership, with all the sessions that end by it.
    pub abdication: Duration,
    /// How long an update waits for its commit.
    pub commit: Duration,
}

impl Default for Timings {
    /// A lost leader is replaced after 1.0–1.4 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(700),
            abdication: Duration::from_secs(2),
            commit: Duration::from_secs(5),
        }
    }
}

/// Entries kept behind a snapshot, so that a member that was away briefly needs no whole one.
pub(crate) const KEPT_BEHIND_SNAPSHOT: u64 = 256;
/// A learner that lags by no more than this may become a voter.
pub(crate) const PROMOTION_LAG: u64 = 20;

impl Timings {
    /// Silence for which nobody else can have been elected meanwhile.
    pub(crate) fn patience(&self) -> Duration {
        self.election_max + self.heartbeat
    }
}

impl Config {
    /// Production settings.
    pub fn new(node: NodeId, addr: String, rng: Rng, clock: SharedClock) -> Self {
        let (snapshot_every, entry_bytes) = (1000, 32 << 20);
        Self { node, addr, timings: Timings::default(), snapshot_every, entry_bytes, rng, clock, observer: None }
    }

    pub(crate) fn raft(&self) -> openraft::Config {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "malha".to_owned(),
            heartbeat_interval: millis(self.timings.heartbeat),
            election_timeout_min: millis(self.timings.election_min),
            election_timeout_max: millis(self.timings.election_max),
            // a snapshot is sent whole within this time, so it is generous
            install_snapshot_timeout: 60_000,
            max_payload_entries: 64,
            replication_lag_threshold: PROMOTION_LAG,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: KEPT_BEHIND_SNAPSHOT.min(self.snapshot_every),
            backoff: "50ms 100ms 200ms ..500ms".to_owned(),
            enable_pre_vote: Some(true),
            // leadership is never resumed from disk: a restarted leader is elected anew, in a new term
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
    }
}
