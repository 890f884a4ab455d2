//! Making and removing networks.

use malha_model::{ApiError, ApiResult, Code, ControlResponse as Response, Network, NetworkId, NetworkSpec, TaskState};
use malha_store::{State, Tx};

use crate::{Ctx, allocator, validate, view::network_view};

/// Names that the engine keeps for itself.
const RESERVED: [&str; 4] = ["bridge", "host", "none", "default"];

pub(super) fn list(tx: &Tx) -> Response {
    Response::Networks(tx.networks().filter(|n| !n.pending_delete).map(|n| (**n).clone()).collect())
}

pub(super) fn view(tx: &Tx, reference: &str) -> ApiResult<Response> {
    let network = tx.resolve::<Network>(reference)?;
    let view = network_view(tx, &network.id).ok_or_else(|| malha_store::not_found("network", reference))?;
    Ok(Response::NetworkView(view))
}

pub(super) fn create(tx: &mut Tx, ctx: &mut Ctx<'_>, spec: NetworkSpec) -> ApiResult<Response> {
    if RESERVED.contains(&spec.name.as_str()) {
        let text = format!("{} is a pre-defined network and cannot be created", spec.name);
        return Err(ApiError::plain(Code::PermissionDenied, text));
    }
    if tx.network_named(&spec.name).is_some() {
        return Err(ApiError::plain(Code::AlreadyExists, format!("network with name {} already exists", spec.name)));
    }
    validate::network(&spec)?;
    if let Some(held) = tx.ingress().filter(|_| spec.ingress) {
        let text = format!("ingress network ({}) is already present", held.id);
        return Err(ApiError::rpc(Code::AlreadyExists, text));
    }
    let mut network = Network { id: NetworkId::random(&mut *ctx.rng), spec, ..Network::default() };
    allocator::allocate_network(tx, &mut network)?;
    let id = network.id.clone();
    tx.put(network);
    Ok(Response::NetworkCreated { id })
}

/// Frees the name at once; subnet and VNIs stay taken until the last task that is on its way out has left.
pub(super) fn remove(tx: &mut Tx, reference: &str) -> ApiResult<Response> {
    let network = tx.resolve::<Network>(reference)?;
    if network.predefined {
        let text = format!("{} is a pre-defined network and cannot be removed", network.spec.name);
        return Err(ApiError::plain(Code::PermissionDenied, text));
    }
    if let Some(user) = user_of(tx, &network) {
        return Err(ApiError::rpc(Code::FailedPrecondition, user));
    }
    let network = Network { pending_delete: true, ..(*network).clone() };
    tx.put(network);
    Ok(Response::Done)
}

/// What keeps the network from being removed. Services that are being removed do not count, nor do their tasks.
fn user_of(state: &State, network: &Network) -> Option<String> {
    let id = &network.id;
    if let Some(service) = state.services_of_network(id).find(|s| !s.pending_delete) {
        return Some(if network.spec.ingress {
            format!("ingress network cannot be removed because service {} depends on it", service.id)
        } else {
            format!("network {id} is in use by service {}", service.id)
        });
    }
    let leaving =
        |t: &malha_model::Task| t.service.as_ref().is_some_and(|s| state.service(s).is_none_or(|s| s.pending_delete));
    let stays = |t: &malha_model::Task| t.desired_state <= TaskState::Running && t.status.state <= TaskState::Running;
    let task = state.tasks_of_network(id).find(|t| stays(t) && !leaving(t));
    task.map(|t| format!("network {id} is in use by task {}", t.id))
}
