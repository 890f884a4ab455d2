//! `docker version` and `docker info`.

use serde_json::{Value, json};

use crate::{
    backend::{Container, ContainerStatus, EngineVersion, HostInfo, RegistrySettings},
    http::version::{MAX_API_VERSION, MIN_API_VERSION},
};

pub(crate) fn version(v: &EngineVersion, host: &HostInfo) -> Value {
    let api = MAX_API_VERSION.to_string();
    let min = MIN_API_VERSION.to_string();
    let component = |name: &str, version: &str| json!({ "Name": name, "Version": version, "Details": {} });
    let mut components = vec![json!({
        "Name": "Engine",
        "Version": v.version,
        "Details": {
            "ApiVersion": api,
            "Arch": v.arch,
            "BuildTime": v.build_time,
            "Experimental": "false",
            "GitCommit": v.git_commit,
            "GoVersion": "none (Rust)",
            "KernelVersion": v.kernel_version,
            "MinAPIVersion": min,
            "Os": "linux",
        },
    })];
    for (name, version) in [("containerd", &host.containerd_version), ("runc", &host.runc_version)] {
        if !version.is_empty() {
            components.push(component(name, version));
        }
    }
    json!({
        "Platform": { "Name": "Malha" },
        "Components": components,
        "Version": v.version,
        "ApiVersion": api,
        "MinAPIVersion": min,
        "GitCommit": v.git_commit,
        "GoVersion": "none (Rust)",
        "Os": "linux",
        "Arch": v.arch,
        "KernelVersion": v.kernel_version,
        "BuildTime": v.build_time,
    })
}

/// Without `Swarm`, which is put in by the caller.
pub(crate) fn info(host: &HostInfo, v: &EngineVersion, containers: &[Container], images: usize, now: String) -> Value {
    let count = |states: &[ContainerStatus]| containers.iter().filter(|c| states.contains(&c.state.status)).count();
    let running = count(&[ContainerStatus::Running, ContainerStatus::Restarting]);
    let paused = count(&[ContainerStatus::Paused]);
    let mut value = json!({
        "ID": host.id,
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": containers.len() - running - paused,
        "Images": images,
        "Driver": host.storage_driver,
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "null", "overlay"], "Authorization": null, "Log": ["json-file"] },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "Debug": host.debug,
        "NFd": 0,
        "OomKillDisable": false,
        "NGoroutines": 0,
        "SystemTime": now,
        "LoggingDriver": "json-file",
        "CgroupDriver": host.cgroup_driver,
        "CgroupVersion": host.cgroup_version,
        "NEventsListener": 0,
        "KernelVersion": host.kernel_version,
        "OperatingSystem": host.operating_system,
        "OSVersion": host.os_version,
        "OSType": "linux",
        "Architecture": host.architecture,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(&host.registry),
        "NCPU": host.cpus,
        "MemTotal": host.memory_bytes,
        "GenericResources": null,
        "DockerRootDir": host.root_dir,
    });
    let rest = json!({
        "HttpProxy": host.http_proxy,
        "HttpsProxy": host.https_proxy,
        "NoProxy": host.no_proxy,
        "Name": host.name,
        "Labels": host.labels,
        "ExperimentalBuild": false,
        "ServerVersion": v.version,
        "Runtimes": { "io.containerd.runc.v2": { "path": "runc" }, "runc": { "path": "runc" } },
        "DefaultRuntime": "runc",
        "LiveRestoreEnabled": false,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": { "ID": host.containerd_version },
        "RuncCommit": { "ID": host.runc_version },
        "InitCommit": { "ID": "" },
        "SecurityOptions": [],
        "CDISpecDirs": [],
        "Warnings": host.warnings,
    });
    if let (Value::Object(map), Value::Object(rest)) = (&mut value, rest) {
        map.extend(rest);
    }
    value
}

fn registries(r: &RegistrySettings) -> Value {
    let is_cidr = |s: &&String| s.parse::<ipnet::IpNet>().is_ok();
    let cidrs: Vec<&String> = r.insecure.iter().filter(is_cidr).collect();
    let entry = |name: &str, mirrors: &[String], secure: bool, official: bool| json!({ "Name": name, "Mirrors": mirrors, "Secure": secure, "Official": official });
    let mut index = serde_json::Map::new();
    index.insert("docker.io".into(), entry("docker.io", &r.mirrors, true, true));
    for host in r.insecure.iter().filter(|s| !is_cidr(s)) {
        index.insert(host.clone(), entry(host, &[], false, false));
    }
    json!({ "InsecureRegistryCIDRs": cidrs, "IndexConfigs": index, "Mirrors": r.mirrors })
}
