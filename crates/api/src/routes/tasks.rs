//! `/tasks`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use malha_model::{
    ApiError, ApiResult, Code, LogSelector, Network, NetworkId, Node, NodeId, Service, ServiceId, Task, TaskState,
};

use crate::{
    convert,
    http::{
        filters::Filters,
        logs::{self, Show},
        query::{Query, bad},
        reply::{Reply, ok},
        version::ApiVersion,
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/tasks", get(list))
        .route("/tasks/{id}", get(inspect))
        .route("/tasks/{id}/logs", get(task_logs))
}

const FILTERS: &[&str] = &["id", "name", "label", "service", "node", "desired-state", "_up-to-date", "runtime"];

/// The parts of a task filter that other objects decide.
struct Scope {
    services: Option<BTreeSet<ServiceId>>,
    nodes: Option<BTreeSet<NodeId>>,
    /// Set where only tasks of the newest spec are wanted.
    up_to_date: Option<Newest>,
    states: BTreeSet<TaskState>,
}

/// What tasks are compared with.
struct Newest {
    services: BTreeMap<ServiceId, Service>,
    nodes: BTreeMap<NodeId, Node>,
}

async fn list(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(FILTERS)?;
    let scope = scope(&api, &filters).await?;
    let tasks = api.tasks().await?;
    let networks = networks(&api).await?;
    let shown = tasks.iter().filter(|t| matches(t, &filters, &scope));
    ok(&shown.map(|t| convert::task::task(t, &networks)).collect::<Vec<_>>())
}

async fn inspect(State(api): Shared, Path(id): Path<String>) -> Reply {
    let task = api.task(&id).await?;
    ok(&convert::task::task(&task, &networks(&api).await?))
}

async fn task_logs(State(api): Shared, Path(id): Path<String>, query: Query, version: ApiVersion) -> Reply {
    let options = logs::options(&query)?;
    check_tail(&query)?;
    let task = api.task(&id).await?;
    let tty = task.spec.container_spec.as_ref().is_some_and(|c| c.tty);
    let lines = api.cluster.logs(LogSelector::Task(task.id), options).await?;
    logs::of_swarm(lines, Show::new(&query, tty), version)
}

/// Logs of the swarm refuse a negative tail.
pub(super) fn check_tail(query: &Query) -> ApiResult<()> {
    match query.get("tail").and_then(|t| t.parse::<i64>().ok()) {
        Some(n) if n < 0 => Err(ApiError::plain(Code::Unknown, "negative tail values not supported")),
        _ => Ok(()),
    }
}

async fn networks(api: &Api) -> ApiResult<BTreeMap<NetworkId, Network>> {
    Ok(api.swarm_networks().await?.into_iter().map(|n| (n.id.clone(), n)).collect())
}

async fn scope(api: &Api, filters: &Filters) -> ApiResult<Scope> {
    let mut services = filters.has("service").then(BTreeSet::new);
    for reference in filters.values("service") {
        let id = api.service(reference).await?.id;
        services.get_or_insert_default().insert(id);
    }
    let mut nodes = filters.has("node").then(BTreeSet::new);
    for reference in filters.values("node") {
        let id = api.node(reference).await?.id;
        nodes.get_or_insert_default().insert(id);
    }
    let up_to_date = if filters.flag("_up-to-date")? == Some(true) {
        let (services, nodes) = tokio::try_join!(api.services(), api.nodes())?;
        Some(Newest {
            services: services.into_iter().map(|s| (s.service.id.clone(), s.service)).collect(),
            nodes: nodes.into_iter().map(|n| (n.id.clone(), n)).collect(),
        })
    } else {
        None
    };
    let states = filters.values("desired-state").map(state).collect::<ApiResult<_>>()?;
    Ok(Scope { services, nodes, up_to_date, states })
}

fn state(text: &str) -> ApiResult<TaskState> {
    match text.to_ascii_lowercase().as_str() {
        "running" => Ok(TaskState::Running),
        "shutdown" => Ok(TaskState::Shutdown),
        "accepted" => Ok(TaskState::Accepted),
        "ready" => Ok(TaskState::Ready),
        "complete" => Ok(TaskState::Complete),
        _ => Err(bad(format!("invalid filter 'desired-state={text}'"))),
    }
}

fn matches(t: &Task, filters: &Filters, scope: &Scope) -> bool {
    let runtime = if t.is_attachment() { "attachment" } else { "container" };
    let wanted_runtime = if filters.has("runtime") { filters.exact("runtime", runtime) } else { !t.is_attachment() };
    wanted_runtime
        && filters.prefix("id", t.id.as_str())
        && filters.any("name", |v| t.name().starts_with(v))
        && filters.labels("label", &t.service_labels)
        && scope.services.as_ref().is_none_or(|s| t.service.as_ref().is_some_and(|id| s.contains(id)))
        && scope.nodes.as_ref().is_none_or(|n| t.node.as_ref().is_some_and(|id| n.contains(id)))
        && scope.up_to_date.as_ref().is_none_or(|s| is_up_to_date(t, s))
        && (scope.states.is_empty() || scope.states.contains(&t.desired_state))
}

/// What the updater leaves alone, by its own rule: the CLI's progress ends when all tasks are up to date.
fn is_up_to_date(t: &Task, newest: &Newest) -> bool {
    let service = t.service.as_ref().and_then(|id| newest.services.get(id));
    let node = t.node.as_ref().and_then(|id| newest.nodes.get(id));
    service.is_some_and(|s| !malha_control::is_dirty(s, t, node))
}
