//! What a container is created from: Docker's `Config` and `HostConfig`, reduced to what the runtime acts on.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::exec_options::ConsoleSize;

/// Everything a container is made from. Persisted with the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateOptions {
    /// 64 hex digits; drawn when absent.
    pub id: Option<String>,
    /// Without the leading slash; a name is made up when absent.
    pub name: Option<String>,
    /// Any reference that [`Runtime::image_inspect`](crate::Runtime::image_inspect) resolves.
    pub image: String,
    /// `os/arch[/variant]` that the image must be for; `None` takes it as it is.
    pub platform: Option<String>,
    /// `None` keeps the image's; empty, or one empty string, clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `None` keeps the image's unless `entrypoint` is given.
    pub cmd: Option<Vec<String>>,
    /// `K=V` sets, a bare `K` removes. Comes on top of the image's.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers; `None` or empty keeps the image's.
    pub user: Option<String>,
    pub group_add: Vec<String>,
    /// `None` is the short id.
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Come on top of the image's.
    pub labels: BTreeMap<String, String>,
    pub tty: bool,
    /// What its terminal begins with.
    pub console_size: Option<ConsoleSize>,
    pub open_stdin: bool,
    /// The end of the first attached stdin closes the process's stdin.
    pub stdin_once: bool,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub readonly_rootfs: bool,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    /// Refused for now: there is no init binary to put in.
    pub init: bool,
    /// `SIGTERM`, `TERM` or `15`; `None` keeps the image's.
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL where a stop does not say; `None` is 10.
    pub stop_timeout: Option<i64>,
    pub oom_score_adj: Option<i64>,
    /// Bytes of /dev/shm; 0 is 64 MiB.
    pub shm_size: i64,
    pub network: NetworkMode,
    pub files: ContainerFiles,
    /// The container removes itself, with its anonymous volumes, when it exits.
    pub auto_remove: bool,
    /// Kept with the container and handed back as it is, for the caller's own use.
    pub caller_data: serde_json::Value,
}

/// The network namespace that a container's processes live in. May be changed until the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// A namespace made by the caller.
    Path(PathBuf),
    Host,
    /// A fresh namespace with nothing but `lo`.
    #[default]
    None,
}

/// Contents of the files that are bind-mounted over the image's. `None` writes Docker's default for `hosts` and
/// `hostname`, and a copy of this machine's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerFiles {
    pub hosts: Option<String>,
    pub hostname: Option<String>,
    pub resolv_conf: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path on this machine. `create` makes a directory where there is none, as `docker run -v` does;
    /// otherwise a missing path is refused. `propagation` is `rprivate` where empty.
    Bind { path: PathBuf, create: bool, propagation: String },
    /// A named volume, made when it does not exist; an empty name is an anonymous volume. `no_copy` skips the copy of
    /// the image's content on first use.
    Volume { name: String, no_copy: bool, labels: BTreeMap<String, String> },
    /// `size` in bytes, 0 is unlimited; `mode` as in `chmod`, `None` is 1777.
    Tmpfs { size: i64, mode: Option<u32>, options: Vec<String> },
    /// A file with this content, kept in memory only: secrets and configs.
    File {
        #[serde(skip)]
        content: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// Zero is unlimited everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub nano_cpus: i64,
    pub cpu_shares: i64,
    pub cpu_quota: i64,
    pub cpu_period: i64,
    pub cpuset_cpus: String,
    pub memory: i64,
    pub memory_swap: i64,
    pub memory_reservation: i64,
    pub pids: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile` and the like.
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}
