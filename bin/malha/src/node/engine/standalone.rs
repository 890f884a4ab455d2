//! `docker run`: containers that no service owns.
//!
//! Created without a network; wired when they start and unwired when they end, as Docker does. On an attachable swarm
//! network the leader gives the address: the attachment is a task of its own there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use futures::future::join_all;
use ipnet::IpNet;
use malha_api::backend::{CreateContainer, CreatedContainer, EndpointSettings, HostConfig, is_user_defined};
use malha_dataplane::{GWBRIDGE, NetError};
use malha_model::{
    ApiError, ApiResult, Code, ControlRequest, ControlResponse, DnsConfig, NetworkAttachment, PortConfig, PublishMode,
    TaskId, asks_for_healthcheck, check_log_driver,
};
use malha_netplan::hosts_file;
use malha_runtime::{ContainerFiles, ContainerInfo, CreateOptions, NetworkMode, Resources, Ulimit};
use serde_json::Value;
use tracing::warn;

use super::{LocalEngine, console_size, host, modified, mounts, record::Record};
use crate::node::network::{WireError, WireRequest, Wired, endpoint_id};

fn invalid(text: impl Into<String>) -> ApiError {
    ApiError::plain(Code::InvalidArgument, text)
}

impl LocalEngine {
    pub(super) async fn create_standalone(&self, request: CreateContainer) -> ApiResult<CreatedContainer> {
        refuse_unbuilt(&request)?;
        check_default_networks(&request)?;
        let name = Some(request.name.clone()).filter(|n| !n.is_empty());
        let mode = match request.host_config.network_mode.as_str() {
            "host" => NetworkMode::Host,
            _ => NetworkMode::None,
        };
        let mut options = create_options(&request, name, mode)?;
        host::lend_names(&self.config, &mut options);
        let created = self.runtime.create(options).await?;
        Ok(CreatedContainer { id: created.id, warnings: Vec::new() })
    }

    /// In its turn, so that of its user and its policy one starts it: false where `may_start` says no.
    pub(super) async fn start_standalone(
        &self,
        id: &str,
        may_start: impl Future<Output = ApiResult<bool>>,
    ) -> ApiResult<bool> {
        let mut held = Vec::new();
        let started = {
            let _turn = self.turns.take(id).await;
            match may_start.await {
                Ok(true) => self.start_in_turn(id, &mut held).await,
                other => other,
            }
        };
        if started.is_err() {
            self.settle(&held).await;
        }
        started
    }

    /// `held` are the attachments that it was given, however it ends.
    async fn start_in_turn(&self, id: &str, held: &mut Vec<TaskId>) -> ApiResult<bool> {
        let info = self.runtime.inspect(id)?;
        let started = self.wire_and_start(&info, held).await;
        if started.is_err() && !self.runs(id) {
            self.let_go(id).await;
        }
        started
    }

    async fn wire_and_start(&self, info: &ContainerInfo, held: &mut Vec<TaskId>) -> ApiResult<bool> {
        let record = Record::of(info);
        // An earlier run's, whose end has not been heard of here yet: its sandbox goes, its addresses may stay.
        let stale = self.attached.lock().contains_key(&info.id);
        if stale {
            self.unwire(&info.id).await;
        }
        if has_sandbox(info, &record) {
            let attached = self.attach_all(info, &record).await?;
            held.extend(attached.values().map(|(id, _)| id.clone()));
            self.attached.lock().insert(info.id.clone(), held.clone());
            self.follow_name(info).await?;
            self.wire_standalone(info, &record, attached).await?;
        }
        modified(self.runtime.start(&info.id).await)
    }

    /// Asks the leader for an address on each swarm network.
    async fn attach_all(
        &self,
        info: &ContainerInfo,
        record: &Record,
    ) -> ApiResult<BTreeMap<String, (TaskId, NetworkAttachment)>> {
        let mut attached = BTreeMap::new();
        for (name, settings) in record.wanted_networks() {
            // A host name is a name on the network too; without one it is the short id, which is known there anyway.
            let aliases = settings.aliases.iter().flatten().chain(&info.options.hostname).cloned().collect();
            let request = ControlRequest::NetworkAttach {
                node: self.swarm.node_id().await.unwrap_or_default(),
                network: name.clone(),
                container_id: info.id.clone(),
                container_name: info.name.clone(),
                addresses: wanted_addresses(&settings)?,
                aliases,
            };
            let _turn = self.owed.turn().await;
            match self.swarm.attach(request).await {
                Ok(ControlResponse::Attached { attachment, network, addresses }) => {
                    self.owed.forget(&attachment);
                    attached.insert(network.name().to_owned(), (attachment, addresses));
                }
                Ok(_) => return Err(ApiError::internal("unexpected answer to an attachment")),
                Err(e) => {
                    self.owed.add(attached.into_values().map(|(task, _)| task));
                    let message = format!("Could not attach to network {name}: {}", e.message);
                    return Err(ApiError { message, ..e });
                }
            }
        }
        Ok(attached)
    }

    async fn wire_standalone(
        &self,
        info: &ContainerInfo,
        record: &Record,
        attached: BTreeMap<String, (TaskId, NetworkAttachment)>,
    ) -> ApiResult<()> {
        let attachments = attached.values().map(|(_, a)| a.clone()).collect();
        let ports = host_ports(&record.host_config)?;
        let wired = self.net.wire(wire_request(info, record, attachments, ports)).await;
        let wired: Wired = wired.map_err(|e| not_wired(info, &e))?;
        self.runtime.set_network(&info.id, wired.mode).await?;
        self.runtime.set_files(&info.id, wired.files).await?;
        let attachments: BTreeMap<String, TaskId> =
            attached.into_iter().map(|(name, (task, _))| (name, task)).collect();
        let mut networks = wired.networks;
        if networks.is_empty() {
            networks.insert("bridge".into(), EndpointSettings::default());
        }
        let (ports, sandbox_key) = (wired.ports, wired.sandbox_key);
        self.change_record(&info.id, |r| Record { networks, attachments, ports, sandbox_key, ..r }).await?;
        Ok(())
    }

    /// Takes over what an earlier daemon had wired, so that names answer again.
    pub(crate) async fn adopt_running(self: Arc<Self>) {
        self.restart_found();
        let running = self.runtime.list().into_iter().filter(|info| info.state.status.is_running());
        // Each may wait for its networks; none for those of the others.
        join_all(running.map(|info| self.adopt(info))).await;
    }

    async fn adopt(&self, found: ContainerInfo) {
        let record = Record::of(&found);
        if record.task.is_some() || record.sandbox_key.is_empty() {
            return;
        }
        let attachments: Vec<TaskId> = record.attachments.into_values().collect();
        // So that its end is noticed.
        self.attached.lock().entry(found.id.clone()).or_insert_with(|| attachments.clone());
        if self.net.knows(&found.id) && !self.net.attachments_arrive(&attachments).await {
            warn!(container = found.id, "not all attachments are known any more");
        }
        let _turn = self.turns.take(&found.id).await;
        let now = self.runtime.inspect(&found.id).ok().filter(|i| i.state.status.is_running());
        let Some(info) = now else {
            // Where it ended before it was taken up above, its end gave nothing back.
            return self.let_go(&found.id).await;
        };
        if info.state.started_at != found.state.started_at {
            // Started again, with a sandbox that was made here.
            return;
        }
        let record = Record::of(&info);
        let request = wire_request(&info, &record, Vec::new(), record.ports.clone());
        if let Err(e) = self.net.adopt(request, attachments).await {
            warn!(container = info.id, error = %e, "cannot take over the sandbox");
        }
    }
}

/// Whether a stand-alone container has a network of its own.
pub(super) fn has_sandbox(info: &ContainerInfo, record: &Record) -> bool {
    let none = info.options.network == NetworkMode::Host || record.host_config.network_mode == "none";
    record.task.is_none() && !none
}

fn wire_request(
    info: &ContainerInfo,
    record: &Record,
    attachments: Vec<NetworkAttachment>,
    host_ports: Vec<PortConfig>,
) -> WireRequest {
    let host = &record.host_config;
    let dns =
        DnsConfig { nameservers: host.dns.clone(), search: host.dns_search.clone(), options: host.dns_options.clone() };
    WireRequest {
        id: info.id.clone(),
        task: None,
        attachments,
        host_ports,
        hostname: info.process.hostname.clone(),
        dns: Some(dns),
        hosts: extra_hosts(host),
    }
}

/// `--add-host`, as lines of a hosts file.
fn extra_hosts(host: &HostConfig) -> Vec<String> {
    let extra = host.extra_hosts.iter().flatten();
    extra.filter_map(|h| h.split_once([':', '=']).map(|(name, addr)| format!("{addr} {name}"))).collect()
}

/// A port that is taken is told as Docker tells it, which scripts look for.
fn not_wired(info: &ContainerInfo, e: &WireError) -> ApiError {
    match e {
        WireError::Kernel(port @ (NetError::PortAllocated { .. } | NetError::PortInUse { .. })) => {
            let endpoint = endpoint_id(&info.id, GWBRIDGE);
            ApiError::internal(format!(
                "failed to set up container networking: driver failed programming external connectivity on endpoint \
                 {} ({endpoint}): {port}",
                info.name
            ))
        }
        e => ApiError::internal(e),
    }
}

/// What this version does not do is refused by name rather than ignored.
fn refuse_unbuilt(request: &CreateContainer) -> ApiResult<()> {
    let host = &request.host_config;
    let extra = |name: &str| host.extra.get(name).and_then(Value::as_str).unwrap_or_default();
    if host.network_mode.starts_with("container:") {
        return Err(ApiError::unsupported("--network container:<id>"));
    }
    for (set, feature) in [
        (!host.pid_mode.is_empty(), "--pid"),
        (host.ipc_mode == "host" || host.ipc_mode.starts_with("container:"), "--ipc"),
        (!host.uts_mode.is_empty(), "--uts"),
        (host.publish_all_ports, "--publish-all"),
        (request.config.healthcheck.as_ref().is_some_and(asks_for_healthcheck), "a healthcheck of a container"),
        (asks_for_mac(request), "--mac-address"),
        (!matches!(extra("CgroupnsMode"), "" | "private"), "--cgroupns"),
    ] {
        if set {
            return Err(ApiError::unsupported(feature));
        }
    }
    check_log_driver(&host.log_config.kind)?;
    if !matches!(host.runtime.as_str(), "" | "runc" | "io.containerd.runc.v2") {
        return Err(invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
    }
    host.security_opt.iter().flatten().try_for_each(|option| security_option(option).map(drop))
}

fn asks_for_mac(request: &CreateContainer) -> bool {
    let of_container = request.config.extra.get("MacAddress").and_then(Value::as_str);
    let mut of_networks = request.networking_config.endpoints_config.values().flatten();
    of_container.is_some_and(|mac| !mac.is_empty()) || of_networks.any(|e| !e.mac_address.is_empty())
}

/// Whether the option forbids new privileges. There are no profiles here that could be turned off.
fn security_option(option: &str) -> ApiResult<bool> {
    match option.replacen(':', "=", 1).as_str() {
        "no-new-privileges" | "no-new-privileges=true" => Ok(true),
        "no-new-privileges=false" | "seccomp=unconfined" | "apparmor=unconfined" | "label=disable" => Ok(false),
        known if ["seccomp=", "apparmor=", "label=", "systempaths="].iter().any(|k| known.starts_with(k)) => {
            Err(ApiError::unsupported(format!("--security-opt {option}")))
        }
        _ => Err(invalid(format!("invalid --security-opt: {option:?}"))),
    }
}

fn create_options(request: &CreateContainer, name: Option<String>, network: NetworkMode) -> ApiResult<CreateOptions> {
    let (config, host) = (&request.config, &request.host_config);
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let record = Record {
        config: config.clone(),
        host_config: host.clone(),
        wanted: request.networking_config.clone(),
        ..Record::default()
    };
    // For a container that is not wired; another's are written then.
    let extra = extra_hosts(host);
    let hosts = (!extra.is_empty()).then(|| hosts_file("", &[], &extra));
    let mut all = Vec::new();
    for mount in &host.mounts {
        mount.check()?;
        all.push(mounts::of_api(mount));
    }
    for bind in host.binds.iter().flatten() {
        all.push(mounts::of_bind(bind)?);
    }
    let taken: BTreeSet<String> = all.iter().map(|m| m.target.clone()).collect();
    let volumes = config.volumes.iter().flatten().map(|(target, _)| target);
    all.extend(volumes.filter(|target| !taken.contains(*target)).map(|target| mounts::anonymous(target)));
    all.extend(host.tmpfs.iter().map(|(target, options)| mounts::tmpfs(target, options)));
    Ok(CreateOptions {
        name,
        image: config.image.clone(),
        platform: text(&request.platform),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        working_dir: text(&config.working_dir),
        user: text(&config.user),
        group_add: host.group_add.clone().unwrap_or_default(),
        hostname: text(&config.hostname),
        domainname: text(&config.domainname),
        labels: config.labels.clone(),
        tty: config.tty,
        console_size: Some(host.console_size).filter(|s| *s != [0, 0]).map(console_size),
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        mounts: all,
        resources: Resources {
            nano_cpus: host.nano_cpus,
            cpu_shares: host.cpu_shares,
            cpu_quota: host.cpu_quota,
            cpu_period: host.cpu_period,
            cpuset_cpus: host.cpuset_cpus.clone(),
            memory: host.memory,
            memory_reservation: host.memory_reservation,
            pids: host.pids_limit.unwrap_or_default(),
            ..Resources::default()
        },
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        privileged: host.privileged,
        no_new_privileges: host.security_opt.iter().flatten().any(|o| matches!(security_option(o), Ok(true))),
        readonly_rootfs: host.readonly_rootfs,
        sysctls: host.sysctls.clone(),
        ulimits: host
            .ulimits
            .iter()
            .flatten()
            .map(|u| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard })
            .collect(),
        init: host.init.unwrap_or_default(),
        stop_signal: text(&config.stop_signal),
        stop_timeout: config.stop_timeout,
        oom_score_adj: (host.oom_score_adj != 0).then_some(host.oom_score_adj),
        shm_size: host.shm_size,
        network,
        files: ContainerFiles { hosts, ..ContainerFiles::default() },
        auto_remove: host.auto_remove,
        caller_data: record.to_value(),
        ..CreateOptions::default()
    })
}

/// `-p`: bound on the node like host-mode ports of services.
fn host_ports(host: &HostConfig) -> ApiResult<Vec<PortConfig>> {
    let mut ports = Vec::new();
    for (key, bindings) in &host.port_bindings {
        let (target, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
        let protocol = serde_json::from_value(protocol.into()).map_err(|_| invalid(format!("invalid port {key:?}")))?;
        let target_port = target.parse().map_err(|_| invalid(format!("invalid port {key:?}")))?;
        for binding in bindings.iter().flatten() {
            if !matches!(binding.host_ip.as_str(), "" | "0.0.0.0" | "::") {
                return Err(ApiError::unsupported("publishing on one address of the host"));
            }
            let published_port = match binding.host_port.as_str() {
                "" => 0,
                port => port.parse().map_err(|_| invalid(format!("invalid port {port:?}")))?,
            };
            ports.push(PortConfig {
                name: String::new(),
                protocol,
                target_port,
                published_port,
                publish_mode: PublishMode::Host,
            });
        }
    }
    Ok(ports)
}

/// Docker gives addresses and aliases on networks of the user's only.
fn check_default_networks(request: &CreateContainer) -> ApiResult<()> {
    for (network, settings) in &request.networking_config.endpoints_config {
        let Some(settings) = settings.as_ref().filter(|_| !is_user_defined(network)) else { continue };
        let why = if !wanted_addresses(settings)?.is_empty() {
            "user specified IP address is supported on user defined networks only"
        } else if settings.aliases.as_ref().is_some_and(|a| !a.is_empty()) {
            "network-scoped aliases are only supported for user-defined networks"
        } else {
            continue;
        };
        return Err(invalid(format!("invalid config for network {network}: invalid endpoint settings:\n{why}")));
    }
    Ok(())
}

fn wanted_addresses(settings: &EndpointSettings) -> ApiResult<Vec<IpNet>> {
    let Some(ipam) = &settings.ipam_config else { return Ok(Vec::new()) };
    [&ipam.ipv4_address, &ipam.ipv6_address]
        .into_iter()
        .filter(|a| !a.is_empty())
        .map(|a| a.parse::<IpAddr>().map(IpNet::from).map_err(|_| invalid(format!("invalid address {a:?}"))))
        .collect()
}
