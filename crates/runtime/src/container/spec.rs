//! The OCI runtime spec of a container: Docker's defaults with the creator's changes.
//!
//! No seccomp profile and no AppArmor profile yet: the kernel's own permission checks, capabilities, namespaces, masked
//! and read-only paths are what confines a container.

use serde_json::{Map, Value, json};

use super::{
    capabilities,
    exec_options::ConsoleSize,
    info::ContainerPaths,
    mounts::{process_env, spec_mounts},
    options::{CreateOptions, NetworkMode, Resources},
    table::Record,
    user::Identity,
};
use crate::{Result, RuntimeError, cgroup};

/// Everything that the spec is made from.
pub(crate) struct SpecInput<'a> {
    pub(crate) record: &'a Record,
    pub(crate) paths: &'a ContainerPaths,
    pub(crate) identity: &'a Identity,
    pub(crate) cgroup: &'a str,
}

pub(crate) fn build(input: &SpecInput<'_>) -> Result<Value> {
    let options = &*input.record.options;
    let process = &*input.record.process;
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process_spec(options, &ProcessInput {
            args: &process.args,
            env: process_env(&process.hostname, options.tty, &process.env),
            cwd: &process.working_dir,
            tty: options.tty,
            console_size: options.console_size,
            privileged: options.privileged,
            identity: input.identity,
        })?,
        "root": {"path": "rootfs", "readonly": options.readonly_rootfs},
        "hostname": process.hostname,
        "mounts": spec_mounts(options, &input.record.mounts, input.paths),
        "linux": linux(input)?,
    }))
}

/// The part that a container's first process and an exec have in common.
pub(crate) struct ProcessInput<'a> {
    pub(crate) args: &'a [String],
    pub(crate) env: Vec<String>,
    pub(crate) cwd: &'a str,
    pub(crate) tty: bool,
    pub(crate) console_size: Option<ConsoleSize>,
    pub(crate) privileged: bool,
    pub(crate) identity: &'a Identity,
}

pub(crate) fn process_spec(options: &CreateOptions, input: &ProcessInput<'_>) -> Result<Value> {
    let caps =
        if input.privileged { capabilities::all() } else { capabilities::tweak(&options.cap_add, &options.cap_drop)? };
    let capabilities = if input.identity.uid == 0 {
        json!({"bounding": caps, "effective": caps, "permitted": caps})
    } else {
        json!({"bounding": caps})
    };
    let rlimits = options.ulimits.iter().map(|u| {
        // -1 is unlimited.
        let limit = |v: i64| u64::try_from(v).unwrap_or(u64::MAX);
        json!({"type": format!("RLIMIT_{}", u.name.to_ascii_uppercase()), "soft": limit(u.soft), "hard": limit(u.hard)})
    });
    let mut process = json!({
        "terminal": input.tty,
        "user": {
            "uid": input.identity.uid,
            "gid": input.identity.gid,
            "additionalGids": input.identity.additional_gids,
        },
        "args": input.args,
        "env": input.env,
        "cwd": if input.cwd.is_empty() { "/" } else { input.cwd },
        "capabilities": capabilities,
        "rlimits": rlimits.collect::<Vec<_>>(),
        "noNewPrivileges": options.no_new_privileges,
        // Always said: it would be inherited from containerd, which is protected.
        "oomScoreAdj": options.oom_score_adj.unwrap_or(0),
    });
    if let Some(size) = input.console_size.filter(|_| input.tty) {
        process["consoleSize"] = json!({"height": size.height, "width": size.width});
    }
    Ok(process)
}

fn linux(input: &SpecInput<'_>) -> Result<Value> {
    let options = &*input.record.options;
    let mut namespaces = vec![
        json!({"type": "mount"}),
        json!({"type": "uts"}),
        json!({"type": "ipc"}),
        json!({"type": "pid"}),
        network_namespace(&options.network),
    ];
    if cgroup::v2_root() == std::path::Path::new("/sys/fs/cgroup") {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces,
        "resources": resources(options)?,
        "sysctl": sysctls(options),
    });
    if !options.privileged {
        linux["maskedPaths"] = json!([
            "/proc/asound",
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap"
        ]);
        linux["readonlyPaths"] = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    }
    Ok(linux)
}

/// The machine's network is this process's: several nodes may share one containerd, each in a namespace of its own.
fn network_namespace(mode: &NetworkMode) -> Value {
    match mode {
        NetworkMode::None => json!({"type": "network"}),
        NetworkMode::Path(path) => json!({"type": "network", "path": path}),
        NetworkMode::Host => json!({"type": "network", "path": format!("/proc/{}/ns/net", std::process::id())}),
    }
}

fn sysctls(options: &CreateOptions) -> Value {
    let mut all = Map::new();
    if options.network != NetworkMode::Host {
        all.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        all.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
    }
    if let Some(domain) = options.domainname.as_ref().filter(|d| !d.is_empty()) {
        all.insert("kernel.domainname".into(), domain.as_str().into());
    }
    all.extend(options.sysctls.iter().map(|(k, v)| (k.clone(), v.as_str().into())));
    all.into()
}

fn resources(options: &CreateOptions) -> Result<Value> {
    let r = &options.resources;
    check_resources(r)?;
    let mut cpu = Map::new();
    if r.nano_cpus > 0 {
        cpu.insert("period".into(), 100_000.into());
        cpu.insert("quota".into(), (r.nano_cpus / 10_000).into());
    } else {
        let mut set = |key: &str, value: i64| (value > 0).then(|| cpu.insert(key.into(), value.into()));
        set("period", r.cpu_period);
        set("quota", r.cpu_quota);
    }
    if r.cpu_shares > 0 {
        cpu.insert("shares".into(), r.cpu_shares.into());
    }
    if !r.cpuset_cpus.is_empty() {
        cpu.insert("cpus".into(), r.cpuset_cpus.as_str().into());
    }
    let mut memory = Map::new();
    if r.memory > 0 {
        memory.insert("limit".into(), r.memory.into());
        // Docker's rule: as much swap again, unless said otherwise.
        let swap = if r.memory_swap == 0 { r.memory.saturating_mul(2) } else { r.memory_swap };
        if swap_is_accounted() {
            memory.insert("swap".into(), swap.into());
        }
    }
    if r.memory_reservation > 0 {
        memory.insert("reservation".into(), r.memory_reservation.into());
    }
    let mut all = json!({ "devices": devices(options.privileged), "cpu": cpu, "memory": memory });
    if r.pids > 0 {
        all["pids"] = json!({ "limit": r.pids });
    }
    Ok(all)
}

fn check_resources(r: &Resources) -> Result<()> {
    if r.memory != 0 && r.memory < 6 << 20 {
        return Err(RuntimeError::invalid("Minimum memory limit allowed is 6MB"));
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return Err(RuntimeError::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let most = i64::try_from(count).unwrap_or(1).saturating_mul(1_000_000_000);
    if r.nano_cpus < 0 || r.nano_cpus > most {
        return Err(RuntimeError::invalid(format!(
            "range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )));
    }
    Ok(())
}

fn swap_is_accounted() -> bool {
    let legacy = std::path::Path::new("/sys/fs/cgroup/memory");
    !legacy.exists() || legacy.join("memory.memsw.limit_in_bytes").exists()
}

fn devices(privileged: bool) -> Value {
    if privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let device = |kind: &str, major: i64, minor: Option<i64>| {
        let mut rule = json!({"allow": true, "type": kind, "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = minor.into();
        }
        rule
    };
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        // Nodes may be made, not used.
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
        device("c", 136, None),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(device("c", major, Some(minor)));
    }
    rules.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_begins_with_its_size() {
        let identity = Identity::default();
        let size = |tty| {
            let input = ProcessInput {
                args: &[],
                env: Vec::new(),
                cwd: "",
                tty,
                console_size: Some(ConsoleSize { width: 77, height: 33 }),
                privileged: false,
                identity: &identity,
            };
            process_spec(&CreateOptions::default(), &input).unwrap()["consoleSize"].clone()
        };
        assert_eq!(size(true), json!({"height": 33, "width": 77}));
        assert_eq!(size(false), Value::Null, "what has no terminal has no size");
    }
}
