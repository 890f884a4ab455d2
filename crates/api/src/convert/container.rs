//! Containers as `docker ps` and `docker inspect` read them.

use std::collections::BTreeMap;

use malha_model::Timestamp;
use serde_json::{Map, Value, json};

use super::duration::human;
use crate::{
    backend::{
        Container, ContainerSize, ContainerState, ContainerStatus, EndpointSettings, PortBinding, PortSummary,
        is_user_defined,
    },
    http::version::ApiVersion,
};

/// What the process was started as: entrypoint, then command.
fn command(c: &Container) -> Vec<&str> {
    let entrypoint = c.config.entrypoint.iter().flatten();
    entrypoint.chain(c.config.cmd.iter().flatten()).map(String::as_str).collect()
}

/// A row of `GET /containers/json`.
pub(crate) fn summary(c: &Container, now: Timestamp, size: Option<ContainerSize>) -> Value {
    let quoted = |a: &str| if a.contains(' ') { format!("'{a}'") } else { a.to_owned() };
    let argv = command(c);
    let line = match argv.split_first() {
        None => String::new(),
        Some((path, args)) => {
            let args: Vec<String> = args.iter().map(|a| quoted(a)).collect();
            [vec![(*path).to_owned()], args].concat().join(" ")
        }
    };
    let mut value = json!({
        "Id": c.id,
        "Names": [format!("/{}", c.name)],
        "Image": c.image,
        "ImageID": c.image_id,
        "Command": line,
        "Created": c.created.unix(),
        "Ports": bound(c),
    });
    if let Some(size) = size {
        value["SizeRw"] = json!(size.rw);
        value["SizeRootFs"] = json!(size.root_fs);
    }
    let rest = json!({
        "Labels": c.config.labels,
        "State": c.state.status,
        "Status": status_text(&c.state, now),
        "HostConfig": { "NetworkMode": c.host_config.network_mode },
        "NetworkSettings": { "Networks": without_names(c) },
        "Mounts": c.mounts,
    });
    if let (Value::Object(map), Value::Object(rest)) = (&mut value, rest) {
        map.extend(rest);
    }
    value
}

/// “Up 2 minutes (healthy)”, “Exited (1) 3 seconds ago”.
pub(crate) fn status_text(s: &ContainerState, now: Timestamp) -> String {
    let up = human(now.since(s.started_at));
    let ago = human(now.since(s.finished_at));
    match s.status {
        ContainerStatus::Paused => format!("Up {up} (Paused)"),
        ContainerStatus::Restarting => format!("Restarting ({}) {ago} ago", s.exit_code),
        ContainerStatus::Running => match s.health.as_ref().map(|h| h.status.as_str()) {
            Some("starting") => format!("Up {up} (health: starting)"),
            Some(health @ ("healthy" | "unhealthy")) => format!("Up {up} ({health})"),
            _ => format!("Up {up}"),
        },
        ContainerStatus::Removing => "Removal In Progress".into(),
        ContainerStatus::Dead => "Dead".into(),
        ContainerStatus::Created => "Created".into(),
        ContainerStatus::Exited if s.finished_at.is_zero() => String::new(),
        ContainerStatus::Exited => format!("Exited ({}) {ago} ago", s.exit_code),
    }
}

/// `GET /containers/{id}/json`.
pub(crate) fn inspect(c: &Container, storage_driver: &str, size: Option<ContainerSize>, version: ApiVersion) -> Value {
    let argv = command(c);
    let (path, args) = argv.split_first().map_or(("", &[][..]), |(p, a)| (*p, a));
    let execs = if c.exec_ids.is_empty() { Value::Null } else { json!(c.exec_ids) };
    let mut value = json!({
        "Id": c.id,
        "Created": c.created,
        "Path": path,
        "Args": args,
        "State": state(&c.state),
        "Image": c.image_id,
        "ResolvConfPath": c.resolv_conf_path,
        "HostnamePath": c.hostname_path,
        "HostsPath": c.hosts_path,
        "LogPath": c.log_path,
        "Name": format!("/{}", c.name),
        "RestartCount": c.restart_count,
        "Driver": storage_driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs,
        "HostConfig": c.host_config,
        "GraphDriver": { "Data": null, "Name": storage_driver },
        "Mounts": c.mounts,
        "Config": c.config,
        "NetworkSettings": network_settings(c, version),
    });
    if let Some(size) = size {
        value["SizeRw"] = json!(size.rw);
        value["SizeRootFs"] = json!(size.root_fs);
    }
    value
}

fn state(s: &ContainerState) -> Value {
    let is = |status| s.status == status;
    let mut value = json!({
        "Status": s.status,
        "Running": is(ContainerStatus::Running) || is(ContainerStatus::Paused) || is(ContainerStatus::Restarting),
        "Paused": is(ContainerStatus::Paused),
        "Restarting": is(ContainerStatus::Restarting),
        "OOMKilled": s.oom_killed,
        "Dead": is(ContainerStatus::Dead),
        "Pid": s.pid,
        "ExitCode": s.exit_code,
        "Error": s.error,
        "StartedAt": s.started_at,
        "FinishedAt": s.finished_at,
    });
    if let Some(h) = &s.health {
        value["Health"] = json!({ "Status": h.status, "FailingStreak": h.failing_streak, "Log": [] });
    }
    value
}

/// A list tells where containers are, not what they are called there.
fn without_names(c: &Container) -> BTreeMap<&str, EndpointSettings> {
    let bare = |e: &EndpointSettings| EndpointSettings {
        links: None,
        aliases: None,
        driver_opts: None,
        dns_names: None,
        ..e.clone()
    };
    c.networks.iter().map(|(name, e)| (name.as_str(), bare(e))).collect()
}

/// Before 1.45 the names that Docker itself gives stood among the user's aliases.
fn networks(c: &Container, version: ApiVersion) -> BTreeMap<String, EndpointSettings> {
    let mut networks = c.networks.clone();
    if version.at_least(45) {
        return networks;
    }
    for (_, endpoint) in networks.iter_mut().filter(|(name, _)| is_user_defined(name)) {
        let aliases = endpoint.aliases.get_or_insert_default();
        for name in [c.id.get(..12).unwrap_or(&c.id), c.config.hostname.as_str()] {
            if !name.is_empty() && !aliases.iter().any(|a| a == name) {
                aliases.push(name.to_owned());
            }
        }
    }
    networks
}

fn network_settings(c: &Container, version: ApiVersion) -> Value {
    let sandbox = c.sandbox_key.rsplit('/').next().unwrap_or_default();
    let mut value = json!({
        "Bridge": "",
        "SandboxID": sandbox,
        "SandboxKey": c.sandbox_key,
        "Ports": ports(c),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
    });
    // Deprecated fields that speak of the default bridge alone.
    let none = EndpointSettings::default();
    let bridge = c.networks.get("bridge").unwrap_or(&none);
    for (key, v) in [
        ("EndpointID", json!(bridge.endpoint_id)),
        ("Gateway", json!(bridge.gateway)),
        ("GlobalIPv6Address", json!(bridge.global_ipv6_address)),
        ("GlobalIPv6PrefixLen", json!(bridge.global_ipv6_prefix_len)),
        ("IPAddress", json!(bridge.ip_address)),
        ("IPPrefixLen", json!(bridge.ip_prefix_len)),
        ("IPv6Gateway", json!(bridge.ipv6_gateway)),
        ("MacAddress", json!(bridge.mac_address)),
        ("Networks", json!(networks(c, version))),
    ] {
        value[key] = v;
    }
    value
}

/// Without a process there is nobody behind a port.
fn bound(c: &Container) -> &[PortSummary] {
    match c.state.status {
        ContainerStatus::Running | ContainerStatus::Paused => &c.ports,
        _ => &[],
    }
}

/// `80/tcp` → bindings, or null for a port that is only exposed.
fn ports(c: &Container) -> Value {
    let mut map: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for p in bound(c) {
        let slot = map.entry(format!("{}/{}", p.private_port, p.protocol)).or_default();
        if let Some(public) = p.public_port {
            let binding = PortBinding { host_ip: p.ip.clone(), host_port: public.to_string() };
            slot.get_or_insert_default().push(binding);
        }
    }
    map.into_iter().map(|(k, v)| (k, json!(v))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{ContainerConfig, Health},
        http::version::MAX_API_VERSION,
    };

    #[test]
    fn status_reads_like_dockers() {
        let now = Timestamp(1_000_000_000_000);
        let at = |s: i64| Timestamp(s * 1_000_000_000);
        let mut s =
            ContainerState { status: ContainerStatus::Running, started_at: at(880), ..ContainerState::default() };
        assert_eq!(status_text(&s, now), "Up 2 minutes");
        s.health = Some(Health { status: "starting".into(), ..Health::default() });
        assert_eq!(status_text(&s, now), "Up 2 minutes (health: starting)");
        s.status = ContainerStatus::Exited;
        s.exit_code = 7;
        s.finished_at = at(997);
        assert_eq!(status_text(&s, now), "Exited (7) 3 seconds ago");
    }

    #[test]
    fn an_inspect_has_dockers_keys_and_port_map() {
        let mut c = Container {
            id: "a".repeat(64),
            name: "web".into(),
            config: ContainerConfig { cmd: Some(vec!["sleep".into(), "1 2".into()]), ..ContainerConfig::default() },
            ports: vec![
                PortSummary { ip: "0.0.0.0".into(), private_port: 80, public_port: Some(8080), protocol: "tcp".into() },
                PortSummary { private_port: 53, protocol: "udp".into(), ..PortSummary::default() },
            ],
            ..Container::default()
        };
        c.state.status = ContainerStatus::Running;
        let v = inspect(&c, "overlayfs", None, MAX_API_VERSION);
        assert_eq!(v["NetworkSettings"]["Ports"]["80/tcp"], json!([{"HostIp": "0.0.0.0", "HostPort": "8080"}]));
        assert_eq!(v["NetworkSettings"]["Ports"]["53/udp"], Value::Null);
        assert_eq!((v["Path"].as_str(), v["Name"].as_str()), (Some("sleep"), Some("/web")));
        assert_eq!(v["State"]["Status"], "running");
        assert_eq!(v["HostConfig"]["ConsoleSize"], json!([0, 0]), "shown always");
        assert_eq!(summary(&c, Timestamp::ZERO, None)["Command"], "sleep '1 2'");
        assert_eq!(summary(&c, Timestamp::ZERO, None)["Ports"][0]["PublicPort"], 8080);
        c.state.status = ContainerStatus::Exited;
        let v = inspect(&c, "overlayfs", None, MAX_API_VERSION);
        assert_eq!(v["NetworkSettings"]["Ports"], json!({}), "bound no more");
        assert_eq!(summary(&c, Timestamp::ZERO, None)["Ports"], json!([]));
    }

    #[test]
    fn older_clients_find_all_names_among_the_aliases() {
        let named = EndpointSettings {
            aliases: Some(vec!["db".into()]),
            dns_names: Some(vec!["web".into(), "db".into()]),
            ..EndpointSettings::default()
        };
        let mut c = Container { id: "a".repeat(64), ..Container::default() };
        c.config.hostname = "own".into();
        c.networks = [("net".to_owned(), named), ("bridge".to_owned(), EndpointSettings::default())].into();
        let shown = |minor| {
            let v = inspect(&c, "overlayfs", None, ApiVersion::new(1, minor));
            v["NetworkSettings"]["Networks"].clone()
        };
        assert_eq!(shown(45)["net"]["Aliases"], json!(["db"]));
        assert_eq!(shown(45)["net"]["DNSNames"], json!(["web", "db"]));
        assert_eq!(shown(44)["net"]["Aliases"], json!(["db", "aaaaaaaaaaaa", "own"]));
        assert_eq!(shown(44)["bridge"]["Aliases"], Value::Null);
        let listed = summary(&c, Timestamp::ZERO, None);
        assert_eq!(listed["NetworkSettings"]["Networks"]["net"]["Aliases"], Value::Null);
    }
}
