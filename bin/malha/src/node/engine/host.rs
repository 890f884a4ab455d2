//! Facts about this machine, for `docker info`, node descriptions and the containers on its own network.

use malha_api::backend::{EngineVersion, HostInfo, RegistrySettings};
use malha_model::{EngineDescription, NodeDescription, NodeResources, Platform, PluginDescription};
use malha_runtime::{CreateOptions, NetworkMode};

use crate::config::Config;

/// Shown as the engine's version: the Docker release whose API this is.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.unwrap_or(0u64) * 1024
}

fn uname() -> (String, String) {
    match nix::sys::utsname::uname() {
        Ok(u) => (u.release().to_string_lossy().into_owned(), u.machine().to_string_lossy().into_owned()),
        Err(_) => (String::new(), std::env::consts::ARCH.to_owned()),
    }
}

/// As Go names it.
pub(crate) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn version() -> EngineVersion {
    EngineVersion {
        version: VERSION.into(),
        git_commit: option_env!("MALHA_GIT_COMMIT").unwrap_or_default().into(),
        build_time: String::new(),
        kernel_version: uname().0,
        arch: go_arch().into(),
    }
}

/// What this node tells the managers of itself.
pub(crate) fn description(config: &Config) -> NodeDescription {
    let plugin = |kind: &str, name: &str| PluginDescription { kind: kind.into(), name: name.into() };
    let labels = config.labels.iter().filter_map(|l| l.split_once('='));
    NodeDescription {
        hostname: config.hostname.clone(),
        platform: Platform { architecture: uname().1, os: "linux".into() },
        resources: NodeResources {
            nano_cpus: i64::try_from(cpus()).unwrap_or(1) * 1_000_000_000,
            memory_bytes: i64::try_from(memory_bytes()).unwrap_or(i64::MAX),
        },
        engine: EngineDescription {
            engine_version: VERSION.into(),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            plugins: vec![
                plugin("Log", "json-file"),
                plugin("Network", "bridge"),
                plugin("Network", "host"),
                plugin("Network", "null"),
                plugin("Network", "overlay"),
                plugin("Volume", "local"),
            ],
        },
        ..NodeDescription::default()
    }
}

/// A container on the node's own network has the node's name too, unless it was given another, and knows the names that
/// the node knows, unless it was given some: these may contradict, and Docker does not mix them.
pub(crate) fn lend_names(config: &Config, options: &mut CreateOptions) {
    if options.network != NetworkMode::Host {
        return;
    }
    if options.hostname.is_none() {
        options.hostname = Some(config.hostname.clone());
    }
    if options.files.hosts.is_none() {
        options.files.hosts = std::fs::read_to_string("/etc/hosts").ok();
    }
}

pub(crate) fn info(config: &Config, id: &str, storage_driver: &str, containerd_version: String) -> HostInfo {
    let (kernel_version, architecture) = uname();
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_field = |key: &str| {
        let line = os_release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(|v| v.trim_matches('"').to_owned()).unwrap_or_default()
    };
    let unified = crate::paths::cgroup2_mount().is_some_and(|m| m == std::path::Path::new("/sys/fs/cgroup"));
    HostInfo {
        id: id.into(),
        name: config.hostname.clone(),
        operating_system: os_field("PRETTY_NAME"),
        os_version: os_field("VERSION_ID"),
        kernel_version,
        architecture,
        cpus: cpus(),
        memory_bytes: memory_bytes(),
        root_dir: config.data_root.display().to_string(),
        cgroup_driver: "cgroupfs".into(),
        cgroup_version: if unified { "2".into() } else { "1".into() },
        storage_driver: storage_driver.into(),
        containerd_version,
        runc_version: String::new(),
        labels: config.labels.clone(),
        registry: RegistrySettings {
            mirrors: config.registry_mirrors.clone(),
            insecure: config.insecure_registries.clone(),
        },
        debug: config.log_level >= tracing::Level::DEBUG,
        ..HostInfo::default()
    }
}
