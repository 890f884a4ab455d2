//! What a service asks for, in the words of a container's `HostConfig`: shown by `docker inspect` of a task's container.

use std::collections::BTreeMap;

use malha_api::backend::{HostConfig, PortBinding};
use malha_model::{ContainerSpec, Mount, PublishMode, Task};

pub(super) fn of_task(task: &Task, spec: &ContainerSpec, mounts: Vec<Mount>) -> HostConfig {
    let limits = task.spec.resources.as_ref().and_then(|r| r.limits.clone()).unwrap_or_default();
    let reserved = task.spec.resources.as_ref().and_then(|r| r.reservations.clone()).unwrap_or_default();
    let dns = spec.dns_config.clone().unwrap_or_default();
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    HostConfig {
        port_bindings: port_bindings(task),
        cap_add: some(&spec.capability_add),
        cap_drop: some(&spec.capability_drop),
        dns: dns.nameservers,
        dns_options: dns.options,
        dns_search: dns.search,
        extra_hosts: some(&extra_hosts(&spec.hosts)),
        group_add: some(&spec.groups),
        readonly_rootfs: spec.read_only,
        sysctls: spec.sysctls.clone(),
        memory: limits.memory_bytes,
        memory_reservation: reserved.memory_bytes,
        nano_cpus: limits.nano_cpus,
        pids_limit: (limits.pids != 0).then_some(limits.pids),
        oom_score_adj: spec.oom_score_adj,
        ulimits: (!spec.ulimits.is_empty()).then(|| spec.ulimits.clone()),
        mounts,
        init: spec.init,
        ..HostConfig::default()
    }
}

/// From lines of a hosts file, `address name…`, to `name:address`.
fn extra_hosts(lines: &[String]) -> Vec<String> {
    let line = |line: &String| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let addr = words.next().unwrap_or_default();
        words.map(|name| format!("{name}:{addr}")).collect::<Vec<_>>()
    };
    lines.iter().flat_map(line).collect()
}

/// Ports that are the node's own; 0 is one that the node chooses.
fn port_bindings(task: &Task) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for port in task.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Host) {
        let host_port = if port.published_port == 0 { String::new() } else { port.published_port.to_string() };
        let binding = PortBinding { host_ip: String::new(), host_port };
        bindings
            .entry(format!("{}/{}", port.target_port, port.protocol))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    bindings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_turned_round() {
        let lines = ["1.2.3.4 a b".to_owned(), "::1\tc".to_owned()];
        assert_eq!(extra_hosts(&lines), ["a:1.2.3.4", "b:1.2.3.4", "c:::1"]);
    }
}
