//! Containers of this machine: the requests in the shape of Docker's API, and the one record that lists, inspects and
//! filters are made from.

use std::{collections::BTreeMap, io, pin::Pin};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use malha_model::{ApiResult, Extra, Labels, Mount, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncWrite;

use super::network::{EndpointSettings, NetworkingConfig};
use crate::json::{nullable, string_or_list};

/// `POST /containers/create`: `Config` with `HostConfig` and `NetworkingConfig` beside its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateContainer {
    /// From the query; empty asks for a generated one. Without a leading `/`.
    #[serde(skip)]
    pub name: String,
    /// From the query, `os/arch[/variant]`; empty is the machine's.
    #[serde(skip)]
    pub platform: String,
    #[serde(deserialize_with = "nullable")]
    pub host_config: HostConfig,
    #[serde(deserialize_with = "nullable")]
    pub networking_config: NetworkingConfig,
    #[serde(flatten)]
    pub config: ContainerConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreatedContainer {
    pub id: String,
    pub warnings: Vec<String>,
}

/// Docker's `container.Config`. Serialises as `Config` of an inspect. Fields that Malha does not know stay in `extra`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    pub tty: bool,
    pub open_stdin: bool,
    /// Stdin closes when the first attached client goes.
    pub stdin_once: bool,
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// `None` takes the image's.
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    pub image: String,
    #[serde(deserialize_with = "nullable")]
    pub volumes: Option<BTreeMap<String, Value>>,
    pub working_dir: String,
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Docker's `container.HostConfig`, the fields that mean something here; all others stay in `extra`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    #[serde(deserialize_with = "nullable")]
    pub binds: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub log_config: LogConfig,
    /// `bridge` (which a create makes of `default` too), `host`, `none`, `container:<id>` or a network.
    pub network_mode: String,
    /// `80/tcp` → host bindings.
    #[serde(deserialize_with = "nullable")]
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    #[serde(deserialize_with = "nullable")]
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    /// Rows, then columns, that its terminal begins with.
    #[serde(deserialize_with = "nullable")]
    pub console_size: [u16; 2],
    #[serde(deserialize_with = "nullable")]
    pub cap_add: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub cap_drop: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub dns: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub dns_options: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub dns_search: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub extra_hosts: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub group_add: Option<Vec<String>>,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    #[serde(deserialize_with = "nullable")]
    pub security_opt: Option<Vec<String>>,
    pub pid_mode: String,
    pub ipc_mode: String,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Labels::is_empty")]
    pub sysctls: Labels,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Labels::is_empty")]
    pub tmpfs: Labels,
    pub shm_size: i64,
    /// Bytes; 0 is no limit.
    pub memory: i64,
    pub memory_reservation: i64,
    pub nano_cpus: i64,
    pub cpu_shares: i64,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: i64,
    #[serde(deserialize_with = "nullable")]
    pub ulimits: Option<Vec<Ulimit>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    pub runtime: String,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub config: Labels,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    pub host_ip: String,
    pub host_port: String,
}

/// `Name` is `no` (also where empty), `always`, `unless-stopped` or `on-failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    pub name: String,
    pub maximum_retry_count: i64,
}

pub use malha_model::Ulimit;

/// A container as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Without a leading `/`.
    pub name: String,
    pub created: Timestamp,
    /// The image as the user named it.
    pub image: String,
    /// `sha256:…`
    pub image_id: String,
    /// Effective: image defaults merged in.
    pub config: ContainerConfig,
    pub host_config: HostConfig,
    pub state: ContainerState,
    pub restart_count: u64,
    /// By network name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Those that are exposed or published; bound while it runs.
    pub ports: Vec<PortSummary>,
    pub mounts: Vec<MountPoint>,
    /// `/var/run/docker/netns/…`; empty while not running.
    pub sandbox_key: String,
    pub log_path: String,
    pub resolv_conf_path: String,
    pub hostname_path: String,
    pub hosts_path: String,
    pub exec_ids: Vec<String>,
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerSize {
    /// What the container has written.
    pub rw: i64,
    /// That, and its image.
    pub root_fs: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerState {
    pub status: ContainerStatus,
    /// 0 unless running.
    pub pid: u32,
    pub exit_code: i32,
    pub oom_killed: bool,
    pub error: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub health: Option<Health>,
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

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    pub failing_streak: i64,
}

/// A row of `PORTS` in `docker ps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortSummary {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    pub private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub protocol: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub source: String,
    pub destination: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    pub propagation: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Empty is the container's own.
    pub signal: String,
    /// Seconds until it is killed; negative waits for ever; `None` is the container's own.
    pub timeout: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveContainer {
    pub force: bool,
    /// Anonymous volumes too.
    pub volumes: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// Returns at once where the container does not run.
    #[default]
    NotRunning,
    /// The next exit, also of a container that has not started yet.
    NextExit,
    Removed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: i64,
    /// What went wrong beside the process itself.
    pub error: Option<String>,
}

/// Resolves at the awaited moment. It is registered when it is returned, so nothing that happens later is missed.
pub type Wait = BoxFuture<'static, ApiResult<Exit>>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Output that was written before.
    pub logs: bool,
    /// Output from now on.
    pub stream: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Columns and rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    pub stream: OutputStream,
    pub data: Bytes,
}

/// The ends of a process's standard streams. With a terminal all output is `Stdout`.
pub struct Stdio {
    pub tty: bool,
    /// Ends when the process's output does.
    pub output: BoxStream<'static, io::Result<OutputChunk>>,
    /// `shutdown` closes the process's stdin; dropping it without leaves that open.
    pub input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
}

impl std::fmt::Debug for Stdio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stdio").field("tty", &self.tty).field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLogLine {
    pub timestamp: Timestamp,
    pub stream: OutputStream,
    /// With its newline, where it had one.
    pub data: Bytes,
}

/// An `Err` is shown in the stream and ends it.
pub type ContainerLogs = BoxStream<'static, Result<ContainerLogLine, String>>;
