//! Views and tasks to plan from, as short as a test can say them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part; what cannot go on fails")]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use malha_model::{
    EndpointRecord, IpamConfig, Network, NetworkAttachment, NetworkId, NetworkSpec, NetworkView, NodeId, Peer,
    PortConfig, ServiceId, ServiceRecord, TaskId,
};

pub(crate) type Views = BTreeMap<NetworkId, Arc<NetworkView>>;

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(crate) fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

/// Overlay `name` (its id too) with one /24 and two nodes, `n1` and `n2`.
pub(crate) fn view(name: &str, vni: u32, subnet: &str) -> NetworkView {
    let subnet = net(subnet);
    let gateway = subnet.hosts().next();
    let ipam = vec![IpamConfig { subnet: Some(subnet), gateway, ..IpamConfig::default() }];
    let spec = NetworkSpec {
        name: name.into(),
        driver: "overlay".into(),
        ingress: name == "ingress",
        ..NetworkSpec::default()
    };
    let network = Network { id: name.into(), spec, ipam, vnis: vec![vni], ..Network::default() };
    let peer =
        |n: u8| (NodeId::from(format!("n{n}")), Peer { name: format!("host{n}"), addr: [192, 168, 9, n].into() });
    NetworkView { network, peers: [peer(1), peer(2)].into(), ..NetworkView::default() }
}

pub(crate) fn service(view: &mut NetworkView, name: &str, aliases: &[&str], vips: &[&str]) {
    let record = ServiceRecord {
        id: name.into(),
        name: name.into(),
        aliases: aliases.iter().map(|&a| a.into()).collect(),
        vips: vips.iter().map(|v| net(v)).collect(),
        ports: Vec::new(),
    };
    view.services.insert(ServiceId::from(name), record);
}

pub(crate) fn port(view: &mut NetworkView, service: &str, port: PortConfig) {
    view.services.get_mut(service).unwrap().ports.push(port);
}

/// Task `service.slot.<id>` with one serving endpoint.
pub(crate) fn endpoint(view: &mut NetworkView, service: &str, slot: u32, node: &str, addr: &str) -> TaskId {
    let task = TaskId::from(format!("{service}{slot}id"));
    let record = EndpointRecord {
        task: task.clone(),
        name: format!("{service}.{slot}.{task}"),
        service: Some(service.into()),
        node: node.into(),
        addresses: vec![net(addr)],
        names: vec![format!("host-{service}-{slot}")],
        serving: true,
    };
    view.endpoints.insert(task.clone(), record);
    task
}

pub(crate) fn views(all: impl IntoIterator<Item = NetworkView>) -> Views {
    all.into_iter().map(|v| (v.network.id.clone(), Arc::new(v))).collect()
}

pub(crate) fn attachment(network: &str, addr: &str) -> NetworkAttachment {
    NetworkAttachment { network: network.into(), addresses: vec![net(addr)], ..NetworkAttachment::default() }
}
