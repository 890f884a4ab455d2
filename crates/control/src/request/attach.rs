//! Stand-alone containers on attachable networks: each is a task without a service, bound to its node.

use std::sync::Arc;

use ipnet::IpNet;
use malha_model::{
    ApiError, ApiResult, Code, ControlResponse as Response, Kind, Network, NetworkAttachment, NetworkAttachmentConfig,
    NetworkAttachmentSpec, NodeId, Task, TaskId, TaskSpec, TaskState,
};
use malha_store::Tx;

use crate::{Ctx, allocator::Addresses, status};

pub(super) struct Wanted {
    pub(super) container_id: String,
    pub(super) container_name: String,
    pub(super) addresses: Vec<IpNet>,
    pub(super) aliases: Vec<String>,
}

/// Gives the container its place on the network. Asked again for the same container, it answers the same; the container
/// may have another name by then.
pub(super) fn attach(
    tx: &mut Tx,
    ctx: &mut Ctx<'_>,
    node: &NodeId,
    network: &str,
    wanted: Wanted,
) -> ApiResult<Response> {
    let missing = || ApiError::rpc(Code::NotFound, format!("network {network} not found"));
    let found = tx.resolve::<Network>(network).map_err(|_| missing())?;
    if !found.spec.attachable {
        return Err(ApiError::rpc(Code::PermissionDenied, format!("network {network} not manually attachable")));
    }
    if tx.node(node).is_none() {
        return Err(ApiError::rpc(Code::NotFound, format!("node {node} not found")));
    }
    if let Some(held) = existing(tx, node, &found, &wanted.container_id) {
        let held = Task { service_name: wanted.container_name, ..held };
        tx.put(held.clone());
        return Ok(answer(&found, held));
    }
    let mut addresses = Addresses::default();
    let taken = if wanted.addresses.is_empty() {
        addresses.take(tx, &found.id)?
    } else {
        addresses.take_given(tx, &found.id, &wanted.addresses)?
    };
    addresses.save(tx);
    let task = task(ctx, node, &found, wanted, taken);
    tx.put(task.clone());
    Ok(answer(&found, task))
}

fn existing(tx: &Tx, node: &NodeId, network: &Network, container: &str) -> Option<Task> {
    let here = |t: &&Arc<Task>| t.networks.iter().any(|a| a.network == network.id);
    of_container(tx, node, container).find(here).map(|t| (**t).clone())
}

/// The places that the container has.
fn of_container<'a>(tx: &'a Tx, node: &'a NodeId, container: &'a str) -> impl Iterator<Item = &'a Arc<Task>> {
    let alive = tx.tasks_of_node(node).filter(|t| t.is_attachment() && !t.status.state.is_terminal());
    alive.filter(move |t| {
        let of = t.spec.network_attachment_spec.as_ref().map(|s| s.container_id.as_str());
        t.desired_state <= TaskState::Running && of == Some(container)
    })
}

fn task(ctx: &mut Ctx<'_>, node: &NodeId, network: &Network, wanted: Wanted, addresses: Vec<IpNet>) -> Task {
    let config = NetworkAttachmentConfig {
        target: network.id.to_string(),
        aliases: wanted.aliases.clone(),
        ..NetworkAttachmentConfig::default()
    };
    let attachment = NetworkAttachment {
        network: network.id.clone(),
        addresses,
        aliases: wanted.aliases,
        ..NetworkAttachment::default()
    };
    let mut task = Task {
        id: TaskId::random(&mut *ctx.rng),
        service_name: wanted.container_name,
        node: Some(node.clone()),
        spec: TaskSpec {
            network_attachment_spec: Some(NetworkAttachmentSpec { container_id: wanted.container_id }),
            networks: vec![config],
            runtime: "attachment".into(),
            ..TaskSpec::default()
        },
        desired_state: TaskState::Running,
        networks: vec![attachment],
        ..Task::default()
    };
    status::advance(&mut task, ctx, TaskState::Assigned, "attached to node");
    task
}

fn answer(network: &Network, task: Task) -> Response {
    let addresses = task.networks.into_iter().find(|a| a.network == network.id).unwrap_or_default();
    Response::Attached { attachment: task.id, network: network.clone(), addresses }
}

/// All places of the container at once; one that has none is known by no name.
pub(super) fn rename(tx: &mut Tx, node: &NodeId, container: &str, name: &str) -> Response {
    let rename = |t: &Arc<Task>| Task { service_name: name.to_owned(), ..(**t).clone() };
    let renamed: Vec<Task> = of_container(tx, node, container).map(rename).collect();
    for task in renamed {
        tx.put(task);
    }
    Response::Done
}

pub(super) fn detach(tx: &mut Tx, node: &NodeId, attachment: &TaskId) -> ApiResult<Response> {
    let held = tx.task(attachment).filter(|t| t.is_attachment());
    let Some(held) = held else {
        return Err(ApiError::rpc(Code::NotFound, format!("attachment {attachment} not found")));
    };
    if held.node.as_ref() != Some(node) {
        let text = format!("attachment {attachment} doesn't belong to this node");
        return Err(ApiError::rpc(Code::PermissionDenied, text));
    }
    tx.delete(Kind::Task, attachment);
    Ok(Response::Done)
}
