//! The node's whole network state out of the views of the networks it is on.
//!
//! A plan is rebuilt from nothing at every change: what a view no longer says is not in the plan, so nothing stale can
//! survive a missed event.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use malha_model::{
    EndpointRecord, NetworkId, NetworkView, NodeId, Protocol, PublishMode, ServiceId, ServiceRecord, Task, TaskId,
};

use crate::plan::{
    EndpointPlan, IngressBackend, Location, NetPlan, NetworkPlan, PublishedPort, SandboxId, endpoint_mac, owner_of,
};

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct NodeInputs<'a> {
    /// This node.
    pub node: NodeId,
    /// The networks this node is on.
    pub views: &'a BTreeMap<NetworkId, Arc<NetworkView>>,
    /// The tasks of this node: which sandbox an endpoint of it lives in.
    pub local: &'a [Arc<Task>],
}

/// The state that the node's maps are to have.
pub fn build_plan(inputs: &NodeInputs<'_>) -> NetPlan {
    let sandboxes: BTreeMap<&TaskId, SandboxId> = inputs.local.iter().map(|t| (&t.id, sandbox_id(t))).collect();
    let mut plan = NetPlan::default();
    for view in inputs.views.values() {
        // `host` and `bridge` have no VNI: they are not networks of the data plane
        let Some(vni) = view.network.vni() else { continue };
        plan.networks.insert(vni, network_plan(&inputs.node, view, &sandboxes));
        if view.network.spec.ingress {
            publish(vni, view, &mut plan.published);
        }
    }
    plan
}

/// The name of a task's sandbox: its id, or the id of the stand-alone container that it stands for.
pub(crate) fn sandbox_id(task: &Task) -> SandboxId {
    match &task.spec.network_attachment_spec {
        Some(attachment) if !attachment.container_id.is_empty() => attachment.container_id.clone(),
        _ => task.id.to_string(),
    }
}

fn network_plan(node: &NodeId, view: &NetworkView, sandboxes: &BTreeMap<&TaskId, SandboxId>) -> NetworkPlan {
    let network = &view.network;
    let peers: BTreeSet<IpAddr> = view.peers.iter().filter(|(id, _)| *id != node).map(|(_, p)| p.addr).collect();
    let mut endpoints = BTreeMap::new();
    for record in view.endpoints.values() {
        let Some(at) = location(node, view, record, sandboxes) else { continue };
        let (mac, owner) = (endpoint_mac(&record.addresses), owner_of(record.task.as_str()));
        for addr in &record.addresses {
            endpoints.insert(addr.addr(), EndpointPlan { mac, at: at.clone(), owner });
        }
    }
    NetworkPlan {
        id: network.id.clone(),
        name: network.name().to_owned(),
        ingress: network.spec.ingress,
        subnets: network.ipam.iter().filter_map(|c| c.subnet).collect(),
        gateways: network.ipam.iter().filter_map(|c| c.gateway).collect(),
        lb_addresses: network.lb_addresses.iter().map(|a| a.addr()).collect(),
        peers,
        endpoints,
        vips: vips(view),
    }
}

/// Where packets to an endpoint go; `None` while the tunnel address of its node is not known.
fn location(
    node: &NodeId,
    view: &NetworkView,
    record: &EndpointRecord,
    sandboxes: &BTreeMap<&TaskId, SandboxId>,
) -> Option<Location> {
    if record.node == *node {
        let sandbox = sandboxes.get(&record.task).cloned().unwrap_or_else(|| record.task.to_string());
        return Some(Location::Local(sandbox));
    }
    view.peers.get(&record.node).map(|peer| Location::Remote(peer.addr))
}

fn vips(view: &NetworkView) -> BTreeMap<IpAddr, Vec<IpAddr>> {
    let all = view.services.values().flat_map(|service| {
        service.vips.iter().map(|vip| {
            let vip = vip.addr();
            let backends = serving(view, &service.id).filter(|a| a.is_ipv4() == vip.is_ipv4()).collect::<BTreeSet<_>>();
            (vip, backends.into_iter().collect())
        })
    });
    all.collect()
}

/// Addresses of the tasks of `service` that take new connections.
pub(crate) fn serving<'a>(view: &'a NetworkView, service: &'a ServiceId) -> impl Iterator<Item = IpAddr> + 'a {
    let own = view.endpoints.values().filter(move |e| e.serving && e.service.as_ref() == Some(service));
    own.flat_map(|e| e.addresses.iter().map(|a| a.addr()))
}

fn publish(vni: u32, view: &NetworkView, published: &mut BTreeMap<(Protocol, u16), PublishedPort>) {
    for service in view.services.values() {
        for port in mesh_ports(service) {
            let entry = published.entry((port.protocol, port.published_port)).or_default();
            entry.vni = vni;
            entry.service.clone_from(&service.name);
            let target_port = port.target_port;
            entry.backends.extend(serving(view, &service.id).map(|addr| IngressBackend { addr, target_port }));
        }
    }
    for port in published.values_mut() {
        port.backends.sort_unstable();
        port.backends.dedup();
    }
}

/// The ports of a service that every node opens.
pub(crate) fn mesh_ports(service: &ServiceRecord) -> impl Iterator<Item = &malha_model::PortConfig> {
    service.ports.iter().filter(|p| p.publish_mode == PublishMode::Ingress && p.published_port != 0)
}
