//! The machine, the engine and what happens on them.

use futures::stream::BoxStream;
use malha_model::{Labels, Timestamp};

/// Facts of `docker info` that are not about the swarm and cannot be counted from lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// Stable identity of this engine.
    pub id: String,
    /// Host name.
    pub name: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub operating_system: String,
    pub os_version: String,
    pub kernel_version: String,
    /// As the kernel says: `x86_64`.
    pub architecture: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    /// Where the daemon keeps its state.
    pub root_dir: String,
    /// `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// containerd's snapshotter.
    pub storage_driver: String,
    pub containerd_version: String,
    pub runc_version: String,
    /// Engine labels, `key=value`.
    pub labels: Vec<String>,
    pub registry: RegistrySettings,
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
    pub debug: bool,
    /// For the user's attention.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    pub mirrors: Vec<String>,
    /// `host:port` or CIDR.
    pub insecure: Vec<String>,
}

/// Of the binary that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineVersion {
    /// Malha's.
    pub version: String,
    pub git_commit: String,
    /// RFC 3339, or empty.
    pub build_time: String,
    pub kernel_version: String,
    /// As Go names it: `amd64`, `arm64`.
    pub arch: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `container`, `network`, `image`, `volume`, `service`, `node`.
    pub kind: String,
    /// `create`, `start`, `die`, …
    pub action: String,
    pub actor_id: String,
    /// `name`, `image`, `exitCode`, …
    pub attributes: Labels,
    /// `local` or `swarm`.
    pub scope: String,
    pub time: Timestamp,
}

pub type EventStream = BoxStream<'static, Event>;

impl Event {
    /// An event of this machine.
    pub fn local(kind: &str, action: &str, actor_id: &str, attributes: Labels, time: Timestamp) -> Self {
        Self {
            kind: kind.into(),
            action: action.into(),
            actor_id: actor_id.into(),
            attributes,
            scope: "local".into(),
            time,
        }
    }

    /// An event of the swarm, as a manager tells it.
    pub fn swarm(kind: &str, action: &str, actor_id: &str, attributes: Labels, time: Timestamp) -> Self {
        Self { scope: "swarm".into(), ..Self::local(kind, action, actor_id, attributes, time) }
    }
}
