//! What nodes are told: their tasks, and the networks they are on.

use std::collections::BTreeSet;

use malha_model::{
    EndpointRecord, Meta, Network, NetworkAttachment, NetworkId, NetworkView, Node, NodeId, NodeState, Peer,
    PublishMode, Service, ServiceRecord, Task, TaskState, template::Values,
};
use malha_store::State;

/// Tasks that have been given to the node, ended ones included, in id order.
pub fn tasks_of_node<'a>(state: &'a State, node: &NodeId) -> impl Iterator<Item = &'a std::sync::Arc<Task>> {
    state.tasks_of_node(node).filter(|t| t.status.state >= TaskState::Assigned)
}

/// Networks that the node is to know: those of its live tasks and, always, ingress.
pub fn networks_of_node(state: &State, node: &NodeId) -> BTreeSet<NetworkId> {
    let Some(node) = state.node(node) else { return BTreeSet::new() };
    let of_tasks = state.tasks_of_node(&node.id).filter(|t| t.may_have_container()).flat_map(|t| t.network_ids());
    let ingress = state.ingress().map(|n| n.id.clone());
    of_tasks.chain(ingress).filter(|id| state.network(id).is_some()).collect()
}

/// The network as its nodes see it; `None` where it does not exist. `seq` is left 0. A pre-defined network is nothing
/// but its object: each node has its own.
pub fn network_view(state: &State, id: &NetworkId) -> Option<NetworkView> {
    let network = state.network(id)?;
    let mut view = NetworkView { network: shown(network), ..NetworkView::default() };
    if network.predefined {
        return Some(view);
    }
    for task in state.tasks_of_network(id).filter(|t| t.may_have_container()) {
        let node = task.node.as_ref().and_then(|n| state.node(n));
        let Some(node) = node.filter(|n| n.status.state != NodeState::Down) else { continue };
        if let Some(addr) = node.data_path_addr {
            view.peers.insert(node.id.clone(), Peer { name: node.description.hostname.clone(), addr });
        }
        for attachment in task.networks.iter().filter(|a| a.network == *id) {
            view.endpoints.insert(task.id.clone(), endpoint(task, node, attachment));
        }
    }
    if network.spec.ingress {
        let peers = state.nodes().filter_map(|n| {
            n.data_path_addr.map(|addr| (n.id.clone(), Peer { name: n.description.hostname.clone(), addr }))
        });
        view.peers.extend(peers);
    }
    for service in state.services_of_network(id).filter(|s| !s.pending_delete) {
        view.services.insert(service.id.clone(), service_record(service, network));
    }
    Some(view)
}

/// The object without what changes at every allocation, so that views change only when the network does.
fn shown(network: &Network) -> Network {
    let created_at = network.meta.created_at;
    Network { cursor: Vec::new(), meta: Meta { version: 0, created_at, updated_at: created_at }, ..network.clone() }
}

fn endpoint(task: &Task, node: &Node, attachment: &NetworkAttachment) -> EndpointRecord {
    // One that has not been heard for a moment keeps its connections and gets no new ones.
    let heard = node.status.state != NodeState::Disconnected;
    let mut names = BTreeSet::new();
    let container_id = match &task.spec.network_attachment_spec {
        Some(spec) => Some(spec.container_id.as_str()),
        None => task.status.container.as_ref().map(|c| c.container_id.as_str()),
    };
    names.extend(container_id.and_then(|id| id.get(..12)).map(str::to_owned));
    if let Some(hostname) = task.spec.container_spec.as_ref().map(|c| &c.hostname).filter(|h| !h.is_empty()) {
        let expanded = if hostname.contains("{{") {
            // What cannot be expanded keeps the task from starting; its raw text is nobody's name.
            Values::of(task, &node.id, &node.description).expand(hostname).ok()
        } else {
            Some(hostname.clone())
        };
        names.extend(expanded.filter(|name| !name.is_empty()));
    }
    if task.is_attachment() {
        names.extend(attachment.aliases.iter().cloned());
    }
    EndpointRecord {
        task: task.id.clone(),
        name: task.name(),
        service: task.service.clone(),
        node: node.id.clone(),
        addresses: attachment.addresses.clone(),
        names: names.into_iter().collect(),
        serving: heard && task.status.state == TaskState::Running && task.desired_state == TaskState::Running,
    }
}

fn service_record(service: &Service, network: &Network) -> ServiceRecord {
    let here = service.spec.task_template.networks.iter().filter(|n| n.target == network.id.as_str());
    let aliases: BTreeSet<String> = here.flat_map(|n| n.aliases.iter().cloned()).collect();
    let vips = service.endpoint.virtual_ips.iter().filter(|v| v.network == network.id).map(|v| v.addr).collect();
    let published = service.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Ingress);
    ServiceRecord {
        id: service.id.clone(),
        name: service.spec.name.clone(),
        aliases: aliases.into_iter().collect(),
        vips,
        ports: if network.spec.ingress { published.cloned().collect() } else { Vec::new() },
    }
}
