//! What a [`Runtime`](crate::Runtime) is told when it is opened.

use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// containerd namespace that everything of this node lives in; one per node.
    pub namespace: String,
    /// Container metadata, logs and volumes. Must survive a restart of the daemon.
    pub state_dir: PathBuf,
    /// cgroup path under which every container of this node lives, e.g. `/malha/node-1`.
    pub cgroup_parent: String,
    /// Executable that is started as `<log_writer> log-writer <dir>` for each container and must call
    /// [`logger_main`](crate::logger_main). `None` is the running executable itself.
    pub log_writer: Option<PathBuf>,
    /// OCI runtime; `None` leaves containerd's choice, `runc`.
    pub oci_runtime: Option<PathBuf>,
    /// `None` picks overlayfs and falls back to native.
    pub snapshotter: Option<String>,
    pub registries: RegistryConfig,
}

/// Which registries are spoken to, and how.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// `host[:port]` or CIDR: plain HTTP, or TLS without verification. Loopback always counts as one.
    pub insecure: Vec<String>,
    /// Mirrors of docker.io, tried in order before it: `https://host[:port]`.
    pub mirrors: Vec<String>,
}

impl RuntimeConfig {
    pub fn new(
        containerd_socket: impl Into<PathBuf>,
        namespace: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        cgroup_parent: impl Into<String>,
    ) -> Self {
        Self {
            containerd_socket: containerd_socket.into(),
            namespace: namespace.into(),
            state_dir: state_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            log_writer: None,
            oci_runtime: None,
            snapshotter: None,
            registries: RegistryConfig::default(),
        }
    }
}
