//! Docker Swarm's defaults, one constant each (swarm-behaviour §0.1). All durations as stated in their type.

use std::time::Duration;

use crate::{
    spec_cluster::{CaSpec, ClusterSpec, DispatcherSpec, Orchestration, RaftSpec},
    spec_service::UpdateConfig,
};

/// Manager listener, TCP.
pub const CONTROL_PORT: u16 = 2377;
/// VXLAN, UDP.
pub const DATA_PATH_PORT: u16 = 4789;
pub const DEFAULT_ADDR_POOL: &str = "10.0.0.0/8";
pub const SUBNET_SIZE: u8 = 24;
/// First VNI that is given out; the ingress network's.
pub const FIRST_VNI: u32 = 4096;
pub const LAST_VNI: u32 = 0x00ff_ffff;
/// Automatic published ports.
pub const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
pub const TASK_HISTORY: i64 = 5;
/// The heartbeat that the Swarm spec names by default. Agents and leader go by it.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
pub const NODE_CERT_EXPIRY: Duration = Duration::from_secs(90 * 24 * 3600);
pub const RESTART_DELAY: Duration = Duration::from_secs(5);
pub const STOP_GRACE_PERIOD: Duration = Duration::from_secs(10);
pub const UPDATE_MONITOR: Duration = Duration::from_secs(5);
/// Tasks of a node that has been down for this long are orphaned.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

pub fn cluster_spec() -> ClusterSpec {
    ClusterSpec {
        name: "default".into(),
        orchestration: Orchestration { task_history_retention_limit: Some(TASK_HISTORY) },
        raft: RaftSpec {
            snapshot_interval: 10_000,
            keep_old_snapshots: Some(0),
            log_entries_for_slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
        },
        dispatcher: DispatcherSpec { heartbeat_period: nanos(HEARTBEAT) },
        ca_config: CaSpec { node_cert_expiry: nanos(NODE_CERT_EXPIRY), ..CaSpec::default() },
        ..ClusterSpec::default()
    }
}

pub fn update_config() -> UpdateConfig {
    UpdateConfig {
        parallelism: 1,
        failure_action: "pause".into(),
        monitor: Some(nanos(UPDATE_MONITOR)),
        order: "stop-first".into(),
        ..UpdateConfig::default()
    }
}

/// A duration as Docker's JSON has it.
pub fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}
