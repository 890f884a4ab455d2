//! `swarm.Task`, with the networks it is on spelled out.

use std::collections::BTreeMap;

use malha_model::{Network, NetworkId, Task, TaskStatus};
use serde_json::{Value, json};

use super::{extend, network, swarm_object};

pub(crate) fn task(t: &Task, networks: &BTreeMap<NetworkId, Network>) -> Value {
    let mut map = swarm_object(t.id.as_str(), &t.meta);
    extend(&mut map, json!({ "Labels": {}, "Spec": t.spec }));
    if let Some(service) = &t.service {
        map.insert("ServiceID".into(), json!(service));
    }
    if t.slot > 0 {
        map.insert("Slot".into(), json!(t.slot));
    }
    if let Some(node) = &t.node {
        map.insert("NodeID".into(), json!(node));
    }
    extend(&mut map, json!({ "Status": status(&t.status), "DesiredState": t.desired_state }));
    let attachments: Vec<Value> = t
        .networks
        .iter()
        .filter_map(|a| {
            let network = network::swarm_object_of(networks.get(&a.network)?);
            Some(json!({ "Network": network, "Addresses": a.addresses }))
        })
        .collect();
    if !attachments.is_empty() {
        map.insert("NetworksAttachments".into(), attachments.into());
    }
    map.insert("Volumes".into(), Value::Null);
    map.into()
}

fn status(s: &TaskStatus) -> Value {
    let mut value = json!({ "Timestamp": s.timestamp, "State": s.state });
    if !s.message.is_empty() {
        value["Message"] = json!(s.message);
    }
    if !s.err.is_empty() {
        value["Err"] = json!(s.err);
    }
    if let Some(c) = &s.container {
        value["ContainerStatus"] = json!({ "ContainerID": c.container_id, "PID": c.pid, "ExitCode": c.exit_code });
    }
    value["PortStatus"] = if s.ports.is_empty() { json!({}) } else { json!({ "Ports": s.ports }) };
    value
}

#[cfg(test)]
mod tests {
    use malha_model::{ContainerStatus, IpamConfig, Meta, NetworkAttachment, NetworkSpec, TaskState};

    use super::*;

    #[test]
    fn a_task_carries_its_networks_and_status_in_dockers_shape() {
        let subnet = IpamConfig { subnet: "10.0.0.0/24".parse().ok(), ..IpamConfig::default() };
        let spec =
            NetworkSpec { name: "ingress".into(), driver: "overlay".into(), ingress: true, ..NetworkSpec::default() };
        let network = Network { id: "n1".into(), spec, ipam: vec![subnet], vnis: vec![4096], ..Network::default() };
        let task = Task {
            id: "t1".into(),
            meta: Meta { version: 3, ..Meta::default() },
            service: Some("s1".into()),
            slot: 2,
            node: Some("m1".into()),
            desired_state: TaskState::Running,
            status: TaskStatus {
                state: TaskState::Running,
                message: "started".into(),
                container: Some(ContainerStatus { container_id: "c1".into(), pid: 9, exit_code: 0 }),
                ..TaskStatus::default()
            },
            networks: vec![NetworkAttachment {
                network: "n1".into(),
                addresses: vec!["10.0.0.6/24".parse().unwrap()],
                ..NetworkAttachment::default()
            }],
            ..Task::default()
        };
        let zero = "0001-01-01T00:00:00Z";
        let want = json!({
            "ID": "t1",
            "Version": { "Index": 3 },
            "CreatedAt": zero,
            "UpdatedAt": zero,
            "Labels": {},
            "Spec": { "ForceUpdate": 0 },
            "ServiceID": "s1",
            "Slot": 2,
            "NodeID": "m1",
            "Status": {
                "Timestamp": zero,
                "State": "running",
                "Message": "started",
                "ContainerStatus": { "ContainerID": "c1", "PID": 9, "ExitCode": 0 },
                "PortStatus": {}
            },
            "DesiredState": "running",
            "NetworksAttachments": [{
                "Network": {
                    "ID": "n1",
                    "Version": { "Index": 0 },
                    "CreatedAt": zero,
                    "UpdatedAt": zero,
                    "Spec": {
                        "Name": "ingress",
                        "Labels": {},
                        "DriverConfiguration": { "Name": "overlay" },
                        "Ingress": true,
                        "IPAMOptions": { "Driver": { "Name": "default" } },
                        "Scope": "swarm"
                    },
                    "DriverState": {
                        "Name": "overlay",
                        "Options": { "com.docker.network.driver.overlay.vxlanid_list": "4096" }
                    },
                    "IPAMOptions": { "Driver": { "Name": "default" }, "Configs": [{ "Subnet": "10.0.0.0/24" }] }
                },
                "Addresses": ["10.0.0.6/24"]
            }],
            "Volumes": null
        });
        let networks = BTreeMap::from([(network.id.clone(), network)]);
        assert_eq!(super::task(&task, &networks).to_string(), want.to_string());
    }
}
