//! `/services`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode};
use malha_model::{ApiError, ControlRequest, ControlResponse, LogSelector, Service, ServiceSpec};
use serde_json::{Value, json};

use crate::{
    convert,
    http::{
        body::Json,
        filters::Filters,
        logs::{self, Show},
        query::{Query, bad},
        reply::{Reply, created, empty, ok},
        version::ApiVersion,
    },
    state::{Api, Shared, unexpected},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/services", get(list))
        .route("/services/create", post(create))
        .route("/services/{id}", get(inspect).delete(remove))
        .route("/services/{id}/update", post(update))
        .route("/services/{id}/logs", get(service_logs))
}

async fn list(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(&["id", "name", "label", "mode", "runtime"])?;
    let known = ["replicated", "global", "replicated-job", "global-job"];
    if let Some(v) = filters.values("mode").find(|v| !known.contains(v)) {
        return Err(bad(format!("invalid filter 'mode={v}'")).into());
    }
    let status = query.flag("status");
    let services = api.services().await?;
    let shown = services.iter().filter(|s| matches(&s.service, &filters));
    ok(&shown.map(|s| convert::service::listed(s, status)).collect::<Vec<_>>())
}

async fn inspect(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    ok(&convert::service::service(&api.service(&id).await?, query.flag("insertDefaults")))
}

async fn create(State(api): Shared, version: ApiVersion, headers: HeaderMap, Json(spec): Json<ServiceSpec>) -> Reply {
    let request = ControlRequest::ServiceCreate { spec: accept(spec, version), registry_auth: registry_auth(&headers) };
    match api.cluster.control(request).await? {
        ControlResponse::ServiceCreated { id, warnings } => {
            created(&json!({ "ID": id, "Warnings": list_or_null(warnings) }))
        }
        other => Err(unexpected(&other).into()),
    }
}

async fn update(
    State(api): Shared,
    Path(id): Path<String>,
    query: Query,
    version: ApiVersion,
    headers: HeaderMap,
    Json(spec): Json<ServiceSpec>,
) -> Reply {
    if !query.text("rollback").is_empty() {
        return Err(ApiError::unsupported("rolling back a service (docker service rollback)").into());
    }
    if !matches!(query.text("registryAuthFrom").as_str(), "" | "spec") {
        return Err(ApiError::unsupported("registryAuthFrom=previous-spec").into());
    }
    let object_version = query.object_version("service")?;
    let (spec, registry_auth) = (accept(spec, version), registry_auth(&headers));
    let request = ControlRequest::ServiceUpdate { id, version: object_version, spec, registry_auth };
    match api.cluster.control(request).await? {
        ControlResponse::ServiceUpdated { warnings } => ok(&json!({ "Warnings": list_or_null(warnings) })),
        ControlResponse::Done => ok(&json!({ "Warnings": null })),
        other => Err(unexpected(&other).into()),
    }
}

async fn remove(State(api): Shared, Path(id): Path<String>) -> Reply {
    api.run(ControlRequest::ServiceRemove { id }).await?;
    empty(StatusCode::OK)
}

async fn service_logs(State(api): Shared, Path(id): Path<String>, query: Query, version: ApiVersion) -> Reply {
    let options = logs::options(&query)?;
    super::tasks::check_tail(&query)?;
    let service = api.service(&id).await?;
    let tty = service.spec.task_template.container_spec.as_ref().is_some_and(|c| c.tty);
    let lines = api.cluster.logs(LogSelector::Service(service.id), options).await?;
    logs::of_swarm(lines, Show::new(&query, tty), version)
}

fn list_or_null(warnings: Vec<String>) -> Value {
    if warnings.is_empty() { Value::Null } else { json!(warnings) }
}

fn registry_auth(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-registry-auth")?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Brings a spec of an older client to today's form.
fn accept(mut spec: ServiceSpec, version: ApiVersion) -> ServiceSpec {
    let legacy = std::mem::take(&mut spec.networks);
    if spec.task_template.networks.is_empty() {
        spec.task_template.networks = legacy;
    }
    adjust(&mut spec, version);
    spec
}

/// Fields that the client's version does not have are not meant, whatever it sent there.
fn adjust(spec: &mut ServiceSpec, version: ApiVersion) {
    if let Some(c) = &mut spec.task_template.container_spec {
        if !version.at_least(40) {
            c.sysctls.clear();
        }
        if !version.at_least(41) {
            c.capability_add.clear();
            c.capability_drop.clear();
            c.ulimits.clear();
        }
        if !version.at_least(46) {
            c.oom_score_adj = 0;
        }
    }
    if let Some(p) = spec.task_template.placement.as_mut().filter(|_| !version.at_least(40)) {
        p.max_replicas = 0;
    }
    if !version.at_least(41) {
        spec.mode.replicated_job = None;
        spec.mode.global_job = None;
        if let Some(limits) = spec.task_template.resources.as_mut().and_then(|r| r.limits.as_mut()) {
            limits.pids = 0;
        }
    }
}

fn matches(s: &Service, filters: &Filters) -> bool {
    let mode = match &s.spec.mode {
        m if m.global.is_some() => "global",
        m if m.replicated_job.is_some() => "replicated-job",
        m if m.global_job.is_some() => "global-job",
        _ => "replicated",
    };
    filters.prefix("id", s.id.as_str())
        && filters.prefix("name", &s.spec.name)
        && filters.labels("label", &s.spec.labels)
        && filters.exact("mode", mode)
        && filters.exact("runtime", "container")
}

#[cfg(test)]
mod tests {
    use malha_model::{ContainerSpec, NetworkAttachmentConfig, TaskSpec};

    use super::*;

    #[test]
    fn legacy_networks_move_and_newer_fields_of_old_clients_go() {
        let net = NetworkAttachmentConfig { target: "n".into(), ..NetworkAttachmentConfig::default() };
        let container = ContainerSpec { capability_add: vec!["CAP_X".into()], ..ContainerSpec::default() };
        let spec = ServiceSpec {
            networks: vec![net.clone()],
            task_template: TaskSpec { container_spec: Some(container), ..TaskSpec::default() },
            ..ServiceSpec::default()
        };
        let old = accept(spec.clone(), ApiVersion::new(1, 40));
        assert_eq!((old.networks.len(), &old.task_template.networks), (0, &vec![net]));
        assert!(old.task_template.container_spec.unwrap().capability_add.is_empty());
        let new = accept(spec, ApiVersion::new(1, 41));
        assert_eq!(new.task_template.container_spec.unwrap().capability_add.len(), 1);
    }
}
