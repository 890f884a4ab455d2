//! `/containers`: lists, inspects and the steps of a container's life. Streams are in `container_streams`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Path, State},
    routing::{delete, get, post},
};
use malha_model::{ApiError, ApiResult, Code, Timestamp};

use super::{container_create, container_streams};
use crate::{
    backend::{Container, ContainerSize, ContainerStatus, RemoveContainer, StopOptions, TerminalSize},
    convert,
    http::{
        filters::Filters,
        query::{Query, bad},
        reply::{Reply, changed, empty, no_content, ok},
        version::ApiVersion,
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(container_create::create))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/wait", post(container_streams::wait))
        .route("/containers/{id}/attach", post(container_streams::attach))
        .route("/containers/{id}/logs", get(container_streams::container_logs))
}

const FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network", "publish",
    "since", "status", "volume",
];

async fn list(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(FILTERS)?;
    let limit = query.number::<i64>("limit")?.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    let bounds = Bounds {
        all: query.flag("all") || limit.is_some() || filters.has("status"),
        before: bound(&api, &filters, "before").await?,
        since: bound(&api, &filters, "since").await?,
        ancestors: ancestors(&api, &filters).await?,
        task: filters.flag("is-task")?,
    };
    check(&filters)?;
    let containers = api.engine.containers().await?;
    let shown = containers.iter().filter(|c| bounds.matches(c) && matches(c, &filters));
    let now = api.clock.now();
    let (mut rows, mut images) = (Vec::new(), BTreeMap::new());
    for c in shown.take(limit.unwrap_or(usize::MAX)) {
        let size = match size_of(&api, &query, &c.id).await {
            // it went while the list was made
            Err(e) if e.code == Code::NotFound => continue,
            size => size?,
        };
        let mut row = convert::container::summary(c, now, size);
        if has_lost_name(&api, &mut images, c).await {
            row["Image"] = c.image_id.clone().into();
        }
        rows.push(row);
    }
    ok(&rows)
}

/// Whether the name of its image leads elsewhere by now, or nowhere. `known` is what each name was found to mean.
async fn has_lost_name(api: &Api, known: &mut BTreeMap<String, Option<String>>, c: &Container) -> bool {
    let now = match known.get(&c.image) {
        Some(found) => found.clone(),
        None => {
            let found = match api.engine.image(&c.image).await {
                Ok(image) => Some(image.id),
                Err(e) if e.code == Code::NotFound => Some(String::new()),
                // Nothing is known of it, and it keeps its name.
                Err(_) => None,
            };
            known.insert(c.image.clone(), found.clone());
            found
        }
    };
    now.is_some_and(|id| id != c.image_id)
}

async fn inspect(State(api): Shared, Path(id): Path<String>, query: Query, version: ApiVersion) -> Reply {
    let container = api.engine.container(&id).await?;
    let size = size_of(&api, &query, &container.id).await?;
    let host = api.engine.host_info().await?;
    ok(&convert::container::inspect(&container, &host.storage_driver, size, version))
}

/// `?size=1`: what takes time is done only for who asks.
async fn size_of(api: &Api, query: &Query, id: &str) -> ApiResult<Option<ContainerSize>> {
    if query.flag("size") { api.engine.container_size(id).await.map(Some) } else { Ok(None) }
}

async fn start(State(api): Shared, Path(id): Path<String>) -> Reply {
    changed(api.engine.start_container(&id).await?)
}

async fn stop(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    changed(api.engine.stop_container(&id, stop_options(&query)?).await?)
}

async fn restart(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    api.engine.restart_container(&id, stop_options(&query)?).await?;
    no_content()
}

fn stop_options(query: &Query) -> ApiResult<StopOptions> {
    Ok(StopOptions { signal: query.text("signal"), timeout: query.number("t")? })
}

async fn kill(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    let killed = api.engine.kill_container(&id, &query.text("signal")).await;
    killed.map_err(|e| ApiError { message: format!("cannot kill container: {id}: {}", e.message), ..e })?;
    no_content()
}

async fn rename(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    let name = container_create::check_name(&query.text("name"))?;
    if name.is_empty() {
        return Err(bad("Neither old nor new names may be empty").into());
    }
    api.engine.rename_container(&id, &name).await?;
    no_content()
}

async fn remove(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    if query.flag("link") {
        return Err(ApiError::unsupported("a container link").into());
    }
    api.engine.remove_container(&id, RemoveContainer { force: query.flag("force"), volumes: query.flag("v") }).await?;
    no_content()
}

async fn resize(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    api.engine.resize_container(&id, size(&query)?).await?;
    empty(http::StatusCode::OK)
}

/// `?h=&w=`.
pub(super) fn size(query: &Query) -> ApiResult<TerminalSize> {
    Ok(TerminalSize { width: query.number("w")?.unwrap_or_default(), height: query.number("h")?.unwrap_or_default() })
}

// --- filters

/// Conditions of a list that are looked up once.
struct Bounds {
    all: bool,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Option<BTreeSet<String>>,
    task: Option<bool>,
}

impl Bounds {
    fn matches(&self, c: &Container) -> bool {
        let running =
            matches!(c.state.status, ContainerStatus::Running | ContainerStatus::Paused | ContainerStatus::Restarting);
        let is_task = c.config.labels.contains_key("com.docker.swarm.task.id");
        (running || self.all)
            && self.before.is_none_or(|t| c.created < t)
            && self.since.is_none_or(|t| c.created > t)
            && self.ancestors.as_ref().is_none_or(|a| a.contains(&c.image_id))
            && self.task.is_none_or(|t| t == is_task)
    }
}

async fn bound(api: &Api, filters: &Filters, key: &str) -> ApiResult<Option<Timestamp>> {
    match filters.values(key).next() {
        Some(reference) => Ok(Some(api.engine.container(reference).await?.created)),
        None => Ok(None),
    }
}

/// Images that a container may be of; ones that do not exist match nothing.
async fn ancestors(api: &Api, filters: &Filters) -> ApiResult<Option<BTreeSet<String>>> {
    if !filters.has("ancestor") {
        return Ok(None);
    }
    let mut ids = BTreeSet::new();
    for reference in filters.values("ancestor") {
        if let Ok(image) = api.engine.image(reference).await {
            ids.insert(image.id);
        }
    }
    Ok(Some(ids))
}

fn status_name(s: ContainerStatus) -> &'static str {
    match s {
        ContainerStatus::Created => "created",
        ContainerStatus::Running => "running",
        ContainerStatus::Paused => "paused",
        ContainerStatus::Restarting => "restarting",
        ContainerStatus::Removing => "removing",
        ContainerStatus::Exited => "exited",
        ContainerStatus::Dead => "dead",
    }
}

fn check(filters: &Filters) -> ApiResult<()> {
    let states = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
    if let Some(v) = filters.values("status").find(|v| !states.contains(v)) {
        return Err(bad(format!("invalid filter 'status={v}'")));
    }
    if let Some(v) = filters.values("exited").find(|v| v.parse::<i32>().is_err()) {
        return Err(bad(format!("invalid filter 'exited={v}'")));
    }
    Ok(())
}

fn matches(c: &Container, filters: &Filters) -> bool {
    let exited = c.state.status == ContainerStatus::Exited;
    let health = c.state.health.as_ref().map_or("none", |h| h.status.as_str());
    let port = |v: &str, number: Option<u16>, protocol: &str| {
        let (want, kind) = v.split_once('/').unwrap_or((v, "tcp"));
        kind == protocol && number.is_some_and(|n| want.parse() == Ok(n))
    };
    filters.prefix("id", &c.id)
        && (filters.pattern("name", &format!("/{}", c.name)) || filters.pattern("name", &c.name))
        && filters.labels("label", &c.config.labels)
        && filters.exact("status", status_name(c.state.status))
        && filters.any("exited", |v| exited && v.parse() == Ok(c.state.exit_code))
        && filters.exact("health", health)
        && filters.any("network", |v| c.networks.iter().any(|(n, e)| n == v || e.network_id.starts_with(v)))
        && filters.any("volume", |v| c.mounts.iter().any(|m| m.name == v || m.destination == v || m.source == v))
        && filters.any("publish", |v| c.ports.iter().any(|p| port(v, p.public_port, &p.protocol)))
        && filters.any("expose", |v| c.ports.iter().any(|p| port(v, Some(p.private_port), &p.protocol)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PortSummary;

    #[test]
    fn bounds_do_not_show_what_is_stopped() {
        let mut c = Container { created: Timestamp(2), ..Container::default() };
        c.state.status = ContainerStatus::Exited;
        let since = Some(Timestamp(1));
        let bounds = |all| Bounds { all, before: None, since, ancestors: None, task: None };
        assert!(!bounds(false).matches(&c) && bounds(true).matches(&c));
        c.state.status = ContainerStatus::Running;
        assert!(bounds(false).matches(&c));
    }

    #[test]
    fn filters_of_ps() {
        let mut c = Container { id: "abc123".into(), name: "web.1.x".into(), ..Container::default() };
        c.state.status = ContainerStatus::Exited;
        c.state.exit_code = 3;
        c.ports =
            vec![PortSummary { private_port: 80, public_port: Some(8080), protocol: "tcp".into(), ip: String::new() }];
        let on = |f: &str| matches(&c, &Filters::parse(f).unwrap());
        assert!(on(r#"{"name":["^/web"]}"#) && on(r#"{"name":["^web"]}"#) && !on(r#"{"name":["^eb"]}"#));
        assert!(on(r#"{"id":["abc"]}"#) && on(r#"{"exited":["3"]}"#) && !on(r#"{"exited":["0"]}"#));
        assert!(on(r#"{"publish":["8080/tcp"]}"#) && on(r#"{"expose":["80"]}"#) && !on(r#"{"publish":["80"]}"#));
        assert!(on(r#"{"status":["exited"]}"#) && check(&Filters::parse(r#"{"status":["odd"]}"#).unwrap()).is_err());
    }
}
