//! Making, changing and removing services.

use std::{collections::BTreeSet, mem};

use malha_model::{
    ApiError, ApiResult, Code, ControlResponse as Response, Network, NodeState, Replicated, Service, ServiceId,
    ServiceSpec, ServiceWithStatus, Task, TaskState,
};
use malha_store::{State, Tx};

use super::{check_version, generated_name};
use crate::{
    Ctx,
    allocator::{self, ports},
    validate,
};

pub(super) fn list(tx: &Tx) -> Response {
    let shown = tx.services().filter(|s| !s.pending_delete);
    Response::Services(shown.map(|s| with_status(tx, s)).collect())
}

fn with_status(state: &State, service: &Service) -> ServiceWithStatus {
    let down =
        |t: &Task| t.node.as_ref().and_then(|n| state.node(n)).is_some_and(|n| n.status.state == NodeState::Down);
    let (mut running, mut wanted) = (0, 0);
    for task in state.tasks_of_service(&service.id) {
        running += u64::from(task.status.state == TaskState::Running && !down(task));
        wanted += u64::from(task.desired_state <= TaskState::Running);
    }
    let desired = if service.spec.is_global() { wanted } else { service.spec.replicas() };
    ServiceWithStatus { service: service.clone(), running, desired, completed: 0 }
}

pub(super) fn create(
    tx: &mut Tx,
    ctx: &mut Ctx<'_>,
    mut spec: ServiceSpec,
    registry_auth: Option<String>,
) -> ApiResult<Response> {
    if spec.name.is_empty() {
        spec.name = generated_name::draw(ctx.rng, |name| tx.service_named(name).is_some());
    }
    prepare(tx, &mut spec)?;
    ports::check_conflicts(tx, &spec, None)?;
    check_ingress(tx, &spec)?;
    if tx.service_named(&spec.name).is_some() {
        let text = format!("name conflicts with an existing object: service {} already exists", spec.name);
        return Err(ApiError::rpc(Code::AlreadyExists, text));
    }
    let mut service = Service { id: ServiceId::random(&mut *ctx.rng), spec, registry_auth, ..Service::default() };
    allocator::allocate_service(tx, &mut service)?;
    let id = service.id.clone();
    tx.put(service);
    Ok(Response::ServiceCreated { id, warnings: Vec::new() })
}

pub(super) fn update(
    tx: &mut Tx,
    reference: &str,
    version: u64,
    mut spec: ServiceSpec,
    registry_auth: Option<String>,
) -> ApiResult<Response> {
    let held = tx.resolve::<Service>(reference)?;
    prepare(tx, &mut spec)?;
    if spec.endpoint_spec != held.spec.endpoint_spec {
        ports::check_conflicts(tx, &spec, Some(&held.id))?;
    }
    if spec.is_global() != held.spec.is_global() {
        return Err(ApiError::rpc(Code::Unimplemented, "service mode change is not allowed"));
    }
    if spec.name != held.spec.name {
        return Err(ApiError::rpc(Code::Unimplemented, "renaming services is not supported"));
    }
    check_ingress(tx, &spec)?;
    check_version(&held.meta, version)?;
    let mut service = (*held).clone();
    service.previous_spec = Some(mem::replace(&mut service.spec, spec));
    // Grows with every update, also one that asks for the same again: that resumes a paused update.
    service.spec_version = held.meta.version.max(held.spec_version + 1);
    service.update_status = None;
    if registry_auth.is_some() {
        service.registry_auth = registry_auth;
    }
    allocator::allocate_service(tx, &mut service)?;
    tx.put(service);
    Ok(Response::ServiceUpdated { warnings: Vec::new() })
}

/// Takes the service off every list at once; it is deleted when its last task has stopped.
pub(super) fn remove(tx: &mut Tx, reference: &str) -> ApiResult<Response> {
    let held = tx.resolve::<Service>(reference)?;
    let service = Service { pending_delete: true, ..(*held).clone() };
    tx.put(service);
    Ok(Response::Done)
}

/// Brings the spec to the form in which it is stored, with networks by id.
fn prepare(state: &State, spec: &mut ServiceSpec) -> ApiResult<()> {
    let legacy = mem::take(&mut spec.networks);
    if spec.task_template.networks.is_empty() {
        spec.task_template.networks = legacy;
    }
    validate::service(spec)?;
    spell_out(spec);
    let mut seen = BTreeSet::new();
    let several = spec.task_template.networks.len() > 1;
    for config in &mut spec.task_template.networks {
        let network = state.resolve::<Network>(&config.target)?;
        if several && network.predefined && network.spec.driver == "host" {
            return Err(ApiError::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if network.spec.ingress {
            let name = &network.spec.name;
            let text = format!("Service cannot be explicitly attached to the ingress network \"{name}\"");
            return Err(ApiError::invalid(text));
        }
        if !seen.insert(network.id.clone()) {
            return Err(ApiError::invalid(format!("network {} is named twice", network.spec.name)));
        }
        config.target = network.id.to_string();
    }
    Ok(())
}

/// Writes down what Docker's stored form has no way to leave open.
fn spell_out(spec: &mut ServiceSpec) {
    let fill = |field: &mut String, value: &str| {
        if field.is_empty() {
            value.clone_into(field);
        }
    };
    if spec.mode.global.is_none() {
        spec.mode.replicated = Some(Replicated { replicas: Some(spec.replicas()) });
    }
    fill(&mut spec.task_template.runtime, "container");
    if let Some(policy) = &mut spec.task_template.restart_policy {
        fill(&mut policy.condition, "any");
    }
    for config in [&mut spec.update_config, &mut spec.rollback_config].into_iter().flatten() {
        fill(&mut config.failure_action, "pause");
        fill(&mut config.order, "stop-first");
    }
    if let Some(endpoint) = &mut spec.endpoint_spec {
        fill(&mut endpoint.mode, "vip");
    }
}

fn check_ingress(state: &State, spec: &ServiceSpec) -> ApiResult<()> {
    if spec.publishes_ingress() && state.ingress().is_none() {
        let text = "service needs ingress network, but no ingress network is present";
        return Err(ApiError::rpc(Code::FailedPrecondition, text));
    }
    Ok(())
}
