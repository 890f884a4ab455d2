//! `/networks`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;
use malha_model::{ApiError, ApiResult, Code, ControlRequest};
use serde_json::{Value, json};

use super::{
    network_create::{self, PREDEFINED},
    network_lookup,
};
use crate::{
    backend::{ConnectNetwork, DisconnectNetwork},
    convert::network::{self, Known},
    http::{
        body::Json,
        filters::Filters,
        query::{Query, bad},
        reply::{Reply, created, empty, no_content, ok},
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/{id}/connect", post(connect))
        .route("/networks/{id}/disconnect", post(disconnect))
}

async fn list(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(&["driver", "id", "label", "name", "scope", "type", "dangling"])?;
    if let Some(v) = filters.values("type").find(|v| !["custom", "builtin"].contains(v)) {
        return Err(bad(format!("invalid filter: 'type'='{v}'")).into());
    }
    let dangling = filters.flag("dangling")?;
    let known = network_lookup::all(&api).await?;
    let shown = known.iter().filter(|k| matches(k, &filters) && dangling.is_none_or(|d| d == is_dangling(k)));
    ok(&shown.map(|k| k.json(false)).collect::<Vec<_>>())
}

async fn inspect(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    let found = network_lookup::inspected(&api, &id, &query.text("scope")).await?;
    let mut value = found.json(true);
    if query.flag("verbose") && found.scope() == "swarm" {
        value["Services"] = services(&api, &found).await?;
    }
    ok(&value)
}

/// The cluster-wide view: from the leader where this node may ask, else from what this node was told.
async fn services(api: &Api, found: &Known) -> ApiResult<Value> {
    let view = if api.is_manager().await {
        Some(api.swarm_network_view(found.id()).await?)
    } else {
        api.engine.network_view(found.id()).await
    };
    Ok(view.map_or(json!({}), |v| network::services(&v)))
}

async fn create(State(api): Shared, Json(request): Json<network_create::Request>) -> Reply {
    let id = network_create::create(&api, request).await?;
    created(&json!({ "Id": id, "Warning": "" }))
}

async fn remove(State(api): Shared, Path(id): Path<String>) -> Reply {
    let found = network_lookup::find(network_lookup::all(&api).await?, &id, "")?;
    if found.scope() == "swarm" {
        api.run(ControlRequest::NetworkRemove { id: found.id().to_owned() }).await?;
        return no_content();
    }
    if PREDEFINED.contains(&found.name()) {
        let text = format!("{} is a pre-defined network and cannot be removed", found.name());
        return Err(ApiError::plain(Code::PermissionDenied, text).into());
    }
    if found.local.as_ref().is_some_and(|l| !l.containers.is_empty()) {
        let text = format!("network {} has active endpoints", found.name());
        return Err(ApiError::plain(Code::PermissionDenied, text).into());
    }
    api.engine.remove_network(found.id()).await?;
    no_content()
}

/// Removes swarm networks that nothing uses. Networks of this machine alone are all kept: none of them is a user's.
async fn prune(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(&["label", "label!", "until"])?;
    let until = filters.until(api.clock.now())?;
    let mut deleted = Vec::new();
    for n in network_lookup::all(&api).await?.into_iter().filter_map(|k| k.swarm) {
        let kept = filters.has("label!") && filters.labels("label!", &n.spec.labels);
        let young = until.is_some_and(|u| n.meta.created_at > u);
        if n.spec.ingress || kept || young || !filters.labels("label", &n.spec.labels) {
            continue;
        }
        match api.run(ControlRequest::NetworkRemove { id: n.id.to_string() }).await {
            Ok(()) => deleted.push(n.spec.name),
            // In use, or gone meanwhile: not ours to remove.
            Err(e) if matches!(e.code, Code::FailedPrecondition | Code::NotFound) => {}
            Err(e) => return Err(e.into()),
        }
    }
    ok(&json!({ "NetworksDeleted": if deleted.is_empty() { Value::Null } else { json!(deleted) } }))
}

async fn connect(State(api): Shared, Path(id): Path<String>, Json(request): Json<ConnectNetwork>) -> Reply {
    api.engine.connect_network(&id, request).await?;
    empty(StatusCode::OK)
}

async fn disconnect(State(api): Shared, Path(id): Path<String>, Json(request): Json<DisconnectNetwork>) -> Reply {
    api.engine.disconnect_network(&id, request).await?;
    empty(StatusCode::OK)
}

fn is_builtin(k: &Known) -> bool {
    k.scope() == "local" && PREDEFINED.contains(&k.name())
}

fn is_dangling(k: &Known) -> bool {
    !is_builtin(k) && k.local.as_ref().is_none_or(|l| l.containers.is_empty())
}

fn matches(k: &Known, filters: &Filters) -> bool {
    let kind = if is_builtin(k) { "builtin" } else { "custom" };
    filters.exact("driver", k.driver())
        && filters.pattern("id", k.id())
        && filters.pattern("name", k.name())
        && filters.labels("label", &k.labels())
        && filters.exact("scope", k.scope())
        && filters.exact("type", kind)
}
