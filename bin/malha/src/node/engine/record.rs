//! What the node keeps with each container, and a container as the API shows it.

use std::collections::{BTreeMap, BTreeSet};

use malha_api::backend::{
    Container, ContainerConfig, ContainerState, ContainerStatus, EndpointSettings, HostConfig, MountPoint,
    NetworkingConfig, PortSummary,
};
use malha_model::{PortConfig, TaskId};
use malha_runtime::ContainerInfo;
use serde::{Deserialize, Serialize};

/// Kept with the container as its `caller_data`: what the runtime itself has no use for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The task that this container runs, for containers of services.
    pub(crate) task: Option<TaskId>,
    /// The user's own words, for stand-alone containers.
    pub(crate) config: ContainerConfig,
    /// The user's own words too, or what those of the service come to.
    pub(crate) host_config: HostConfig,
    pub(crate) wanted: NetworkingConfig,
    /// By network name, as it is once it is wired.
    pub(crate) networks: BTreeMap<String, EndpointSettings>,
    /// Swarm attachments of a stand-alone container, by network name.
    pub(crate) attachments: BTreeMap<String, TaskId>,
    /// Host-mode ports.
    pub(crate) ports: Vec<PortConfig>,
    pub(crate) sandbox_key: String,
    /// Times that its policy has brought it back since its user started it.
    pub(crate) restarts: u32,
    /// Its user stopped or killed it.
    pub(crate) stopped: bool,
}

impl Record {
    pub(crate) fn of(info: &ContainerInfo) -> Self {
        // Written by this module only; a foreign or empty value is a container without a record.
        serde_json::from_value(info.options.caller_data.clone()).unwrap_or_default()
    }

    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The container as lists and inspects show it.
pub(crate) fn to_api(info: &ContainerInfo) -> Container {
    let record = Record::of(info);
    let options = &info.options;
    let process = &info.process;
    // The image's, and those of the user's own.
    let exposed: BTreeSet<String> =
        process.exposed_ports.iter().chain(record.config.exposed_ports.keys()).cloned().collect();
    let config = ContainerConfig {
        hostname: process.hostname.clone(),
        user: process.user.clone(),
        tty: options.tty,
        open_stdin: options.open_stdin,
        stdin_once: options.stdin_once,
        env: process.env.clone(),
        cmd: (!process.cmd.is_empty()).then(|| process.cmd.clone()),
        entrypoint: (!process.entrypoint.is_empty()).then(|| process.entrypoint.clone()),
        image: options.image.clone(),
        working_dir: process.working_dir.clone(),
        labels: process.labels.clone(),
        stop_signal: options.stop_signal.clone().unwrap_or_default(),
        stop_timeout: options.stop_timeout,
        exposed_ports: exposed.iter().map(|p| (p.clone(), serde_json::json!({}))).collect(),
        ..record.config.clone()
    };
    let mut host_config = record.host_config.clone();
    if record.task.is_some() {
        host_config.network_mode = record.networks.keys().next().cloned().unwrap_or_else(|| "default".into());
    }
    if host_config.log_config.kind.is_empty() {
        host_config.log_config.kind = "json-file".into();
    }
    if host_config.shm_size == 0 {
        host_config.shm_size = 64 << 20;
    }
    Container {
        id: info.id.clone(),
        name: info.name.clone(),
        created: info.created,
        image: options.image.clone(),
        image_id: info.image_id.clone(),
        config,
        host_config,
        state: state(info),
        restart_count: u64::from(record.restarts),
        ports: ports(&exposed, &record.ports),
        networks: record.networks,
        mounts: info.mounts.iter().map(mount_point).collect(),
        sandbox_key: if info.state.status.is_running() { record.sandbox_key } else { String::new() },
        log_path: info.paths.log.display().to_string(),
        resolv_conf_path: info.paths.resolv_conf.display().to_string(),
        hostname_path: info.paths.hostname.display().to_string(),
        hosts_path: info.paths.hosts.display().to_string(),
        exec_ids: Vec::new(),
    }
}

fn state(info: &ContainerInfo) -> ContainerState {
    use malha_runtime::ContainerStatus as Runtime;
    let s = &info.state;
    ContainerState {
        status: match s.status {
            Runtime::Created => ContainerStatus::Created,
            Runtime::Running => ContainerStatus::Running,
            Runtime::Paused => ContainerStatus::Paused,
            Runtime::Restarting => ContainerStatus::Restarting,
            Runtime::Removing => ContainerStatus::Removing,
            Runtime::Exited => ContainerStatus::Exited,
            Runtime::Dead => ContainerStatus::Dead,
        },
        pid: s.pid,
        exit_code: s.exit_code,
        oom_killed: s.oom_killed,
        error: s.error.clone(),
        started_at: s.started_at,
        finished_at: s.finished_at,
        health: None,
    }
}

/// Exposed ports, and host-mode ones with where they are bound.
fn ports(exposed: &BTreeSet<String>, bound: &[PortConfig]) -> Vec<PortSummary> {
    let is_bound =
        |port: u16, protocol: &str| bound.iter().any(|b| b.target_port == port && b.protocol.to_string() == protocol);
    let plain = exposed.iter().filter_map(|e| {
        let (port, protocol) = e.split_once('/').unwrap_or((e, "tcp"));
        let private_port = port.parse().ok()?;
        (!is_bound(private_port, protocol)).then(|| PortSummary {
            private_port,
            protocol: protocol.to_owned(),
            ..PortSummary::default()
        })
    });
    let host = bound.iter().map(|b| PortSummary {
        ip: "0.0.0.0".into(),
        private_port: b.target_port,
        public_port: Some(b.published_port),
        protocol: b.protocol.to_string(),
    });
    plain.chain(host).collect()
}

fn mount_point(m: &malha_runtime::MountPoint) -> MountPoint {
    MountPoint {
        kind: m.kind.clone(),
        name: m.name.clone(),
        source: m.source.display().to_string(),
        destination: m.target.clone(),
        driver: if m.kind == "volume" { "local".into() } else { String::new() },
        mode: String::new(),
        rw: !m.read_only,
        propagation: m.propagation.clone(),
    }
}
