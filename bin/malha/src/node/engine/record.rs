//! What the node keeps with each container, and a container as the API shows it.

use std::collections::{BTreeMap, BTreeSet};

use malha_api::backend::{
    Container, ContainerConfig, ContainerState, ContainerStatus, EndpointIpam, EndpointSettings, HostConfig,
    MountPoint, NetworkingConfig, PortSummary, is_user_defined,
};
use malha_model::{PortConfig, TaskId};
use malha_runtime::{ContainerInfo, CreateOptions};
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
        Self::of_options(&info.options)
    }

    pub(crate) fn of_options(options: &CreateOptions) -> Self {
        // Written by this module only; a foreign or empty value is a container without a record.
        serde_json::from_value(options.caller_data.clone()).unwrap_or_default()
    }

    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The swarm networks that were asked for, by the name or id the user gave.
    pub(super) fn wanted_networks(&self) -> BTreeMap<String, EndpointSettings> {
        let asked = self.wanted.endpoints_config.iter().filter(|(name, _)| is_user_defined(name));
        let mut wanted: BTreeMap<String, EndpointSettings> =
            asked.map(|(name, settings)| (name.clone(), settings.clone().unwrap_or_default())).collect();
        let mode = self.host_config.network_mode.as_str();
        if is_user_defined(mode) {
            wanted.entry(mode.to_owned()).or_default();
        }
        wanted
    }

    /// What the user asked of a network that may have been called by its id, or the beginning of it.
    fn asked(&self, network: &str, id: &str) -> Option<&EndpointSettings> {
        let all = &self.wanted.endpoints_config;
        let by_id = || all.iter().find(|(key, _)| is_user_defined(key) && id.starts_with(key.as_str())).map(|(_, s)| s);
        all.get(network).or_else(by_id)?.as_ref()
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
        networks: networks(info, &record),
        mounts: info.mounts.iter().map(mount_point).collect(),
        sandbox_key: if info.state.status.is_running() { record.sandbox_key } else { String::new() },
        log_path: info.paths.log.display().to_string(),
        resolv_conf_path: info.paths.resolv_conf.display().to_string(),
        hostname_path: info.paths.hostname.display().to_string(),
        hosts_path: info.paths.hosts.display().to_string(),
        exec_ids: Vec::new(),
    }
}

/// Its networks as they are. What a container without a process had there may be another's by now.
fn networks(info: &ContainerInfo, record: &Record) -> BTreeMap<String, EndpointSettings> {
    if record.networks.is_empty() {
        return unwired(record);
    }
    let shown = record.networks.iter().map(|(name, wired)| {
        let asked = record.asked(name, &wired.network_id);
        let endpoint = if info.state.status.is_running() {
            wired.clone()
        } else if record.task.is_some() {
            released(wired, wired.ipam_config.clone())
        } else {
            released(wired, asked.and_then(|a| a.ipam_config.clone()))
        };
        let aliases = asked.and_then(|a| a.aliases.clone());
        let known = || dns_names(info, record, aliases.as_deref().unwrap_or_default());
        let dns_names = is_user_defined(name).then(known);
        (name.clone(), EndpointSettings { aliases, dns_names, ..endpoint })
    });
    shown.collect()
}

/// What it is known by on a network, in Docker's order: the first is what its address leads back to.
fn dns_names(info: &ContainerInfo, record: &Record, aliases: &[String]) -> Vec<String> {
    // A task goes by its own name there, whatever its container is called.
    let name = record.task.as_ref().and(info.options.name.as_ref()).unwrap_or(&info.name);
    let user = [name].into_iter().chain(aliases).map(String::as_str);
    let mut names: Vec<String> = Vec::new();
    for name in user.chain([info.short_id(), info.process.hostname.as_str()]) {
        if !name.is_empty() && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Before its first start, and on the node's own network or none, it is where its user wants it.
fn unwired(record: &Record) -> BTreeMap<String, EndpointSettings> {
    let mut networks = record.wanted_networks();
    for endpoint in networks.values_mut() {
        *endpoint = released(endpoint, endpoint.ipam_config.clone());
    }
    if networks.is_empty() {
        let own = match record.host_config.network_mode.as_str() {
            "" | "default" => "bridge",
            mode => mode,
        };
        networks.insert(own.to_owned(), EndpointSettings::default());
    }
    networks
}

/// Without what an endpoint has only while it stands.
fn released(endpoint: &EndpointSettings, ipam_config: Option<EndpointIpam>) -> EndpointSettings {
    EndpointSettings {
        ipam_config,
        endpoint_id: String::new(),
        gateway: String::new(),
        ip_address: String::new(),
        ip_prefix_len: 0,
        ipv6_gateway: String::new(),
        global_ipv6_address: String::new(),
        global_ipv6_prefix_len: 0,
        mac_address: String::new(),
        dns_names: None,
        ..endpoint.clone()
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

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use malha_runtime::{ContainerPaths, ContainerState as State, ContainerStatus as Status, CreateOptions, Process};
    use serde_json::json;

    use super::*;

    fn container(status: Status, record: &Record) -> ContainerInfo {
        ContainerInfo {
            id: "0123456789abcdef".repeat(4),
            name: "solo".into(),
            created: malha_model::Timestamp::ZERO,
            image_id: String::new(),
            options: Arc::new(CreateOptions {
                name: Some("first".into()),
                caller_data: record.to_value(),
                ..CreateOptions::default()
            }),
            process: Arc::new(Process { hostname: "0123456789ab".into(), ..Process::default() }),
            state: State { status, ..State::default() },
            mounts: Arc::default(),
            paths: ContainerPaths {
                dir: PathBuf::new(),
                log: PathBuf::new(),
                hosts: PathBuf::new(),
                hostname: PathBuf::new(),
                resolv_conf: PathBuf::new(),
                cgroup: PathBuf::new(),
            },
            driver: String::new(),
        }
    }

    /// Asked for by the beginning of its id, and wired.
    fn attached(asked: serde_json::Value) -> Record {
        let wired: EndpointSettings = serde_json::from_value(json!({
            "IPAMConfig": {"IPv4Address": "10.0.1.7"}, "NetworkID": "n3tw0rk", "EndpointID": "e", "Gateway": "g",
            "IPAddress": "10.0.1.7", "IPPrefixLen": 24, "MacAddress": "02:42:0a:00:01:07",
        }))
        .unwrap();
        Record {
            wanted: serde_json::from_value(json!({"EndpointsConfig": {"n3t": asked}})).unwrap(),
            networks: [("net".to_owned(), wired)].into(),
            sandbox_key: "/run/x".into(),
            ..Record::default()
        }
    }

    #[test]
    fn what_stopped_shows_no_addresses_and_keeps_them_for_itself() {
        let record = attached(json!({}));
        let running = to_api(&container(Status::Running, &record)).networks["net"].clone();
        assert_eq!((running.ip_address.as_str(), running.ip_prefix_len), ("10.0.1.7", 24));
        let info = container(Status::Exited, &record);
        let shown = to_api(&info);
        let bare = EndpointSettings { network_id: "n3tw0rk".into(), ..EndpointSettings::default() };
        assert_eq!(EndpointSettings { dns_names: None, ..shown.networks["net"].clone() }, bare);
        assert_eq!(shown.sandbox_key, "");
        assert_eq!(Record::of(&info).networks["net"].ip_address, "10.0.1.7");
        // An address that its user chose is one that it will have again.
        let chosen = attached(json!({"IPAMConfig": {"IPv4Address": "10.0.1.7"}}));
        let shown = to_api(&container(Status::Exited, &chosen)).networks["net"].clone();
        assert_eq!(shown.ipam_config.unwrap().ipv4_address, "10.0.1.7");
    }

    #[test]
    fn a_container_is_known_by_its_names_on_networks_of_the_user() {
        let record = attached(json!({"Aliases": ["other", "solo"]}));
        let mut info = container(Status::Running, &record);
        let shown = |info: &ContainerInfo, network: &str| {
            let endpoint = to_api(info).networks[network].clone();
            (endpoint.aliases.unwrap_or_default().join(" "), endpoint.dns_names.unwrap_or_default().join(" "))
        };
        assert_eq!(shown(&info, "net"), ("other solo".into(), "solo other 0123456789ab".into()));
        info.name = "renamed".into();
        info.process = Arc::new(Process { hostname: "own".into(), ..Process::default() });
        assert_eq!(shown(&info, "net").1, "renamed other solo 0123456789ab own");

        let task = Record { task: Some("t".into()), wanted: NetworkingConfig::default(), ..record };
        let of_task = container(Status::Running, &task);
        assert_eq!(shown(&of_task, "net"), (String::new(), "first 0123456789ab".into()));
        let networks = [("bridge".to_owned(), EndpointSettings::default())].into();
        let on_bridge = to_api(&container(Status::Running, &Record { networks, ..Record::default() }));
        assert_eq!(on_bridge.networks["bridge"], EndpointSettings::default(), "no names there");
    }

    #[test]
    fn what_was_never_wired_is_where_its_user_wants_it() {
        let on = |mode: &str, endpoints: serde_json::Value| {
            let record = Record {
                host_config: HostConfig { network_mode: mode.into(), ..HostConfig::default() },
                wanted: serde_json::from_value(json!({ "EndpointsConfig": endpoints })).unwrap(),
                ..Record::default()
            };
            to_api(&container(Status::Created, &record)).networks
        };
        assert_eq!(on("default", json!({})).keys().collect::<Vec<_>>(), ["bridge"]);
        assert_eq!(on("host", json!({"host": null})).keys().collect::<Vec<_>>(), ["host"]);
        // Clients that copy a container say all that they read of it.
        let copied = on("net", json!({"net": {"Aliases": ["a"], "IPAddress": "10.0.1.7", "EndpointID": "e"}}));
        let bare = EndpointSettings { aliases: Some(vec!["a".into()]), ..EndpointSettings::default() };
        assert_eq!(copied, BTreeMap::from([("net".to_owned(), bare)]));
    }
}
