//! What a container is and does, as seen from outside: immutable snapshots.

use std::{path::PathBuf, sync::Arc};

use malha_model::Timestamp;
use serde::{Deserialize, Serialize};

use super::options::CreateOptions;

/// A container at one moment.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    /// 64 hex digits.
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    pub created: Timestamp,
    /// `sha256:…` of the image's config.
    pub image_id: String,
    /// What it was created with, after merging nothing: the caller's own words.
    pub options: Arc<CreateOptions>,
    /// What is run: options and image merged.
    pub process: Arc<Process>,
    pub state: ContainerState,
    pub mounts: Arc<Vec<MountPoint>>,
    pub paths: ContainerPaths,
    /// Snapshotter.
    pub driver: String,
}

/// The merged command line and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Entrypoint and command in one.
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    /// As written, not resolved.
    pub user: String,
    pub hostname: String,
    pub labels: std::collections::BTreeMap<String, String>,
    /// `80/tcp`, from the image.
    pub exposed_ports: Vec<String>,
    /// Declared by the image.
    pub volumes: Vec<String>,
    pub stop_signal: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

/// The changing part of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub status: ContainerStatus,
    /// 0 while not running.
    pub pid: u32,
    /// Of the last exit; 0 while running.
    pub exit_code: i32,
    /// Why the last start failed, or empty.
    pub error: String,
    pub oom_killed: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// One mount as `docker inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// Volume name; empty for others.
    pub name: String,
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    pub propagation: String,
    /// The volume was made for this container alone.
    pub anonymous: bool,
}

/// Files of this container on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPaths {
    pub dir: PathBuf,
    pub log: PathBuf,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
    /// The cgroup v2 directory that its processes are in while it runs.
    pub cgroup: PathBuf,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitStatus {
    pub exit_code: i32,
    pub oom_killed: bool,
    pub finished_at: Timestamp,
    pub error: String,
}

/// What a wait waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// Returns at once where it does not run.
    #[default]
    NotRunning,
    /// The same without waiting for its last output to be in the log: for who must know of the end at once.
    Ended,
    /// The exit after this moment.
    NextExit,
    Removed,
}

impl ContainerStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// True while there is a process.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl std::fmt::Display for ContainerStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ContainerInfo {
    /// The first 12 digits of the id.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}
