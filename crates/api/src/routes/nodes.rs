//! `/nodes`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;
use malha_model::{ApiResult, ControlRequest, Labels, Node, NodeSpec, Role};
use serde_json::Value;

use crate::{
    convert,
    http::{
        body::Json,
        filters::Filters,
        query::{Query, bad},
        reply::{Reply, empty, ok},
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{id}", get(inspect).delete(remove))
        .route("/nodes/{id}/update", post(update))
}

async fn list(State(api): Shared, query: Query) -> Reply {
    let filters = query.filters()?.only(&["id", "name", "label", "node.label", "role", "membership"])?;
    check(&filters)?;
    let nodes = api.nodes().await?;
    ok(&nodes.iter().filter(|n| matches(n, &filters)).map(convert::node::node).collect::<Vec<_>>())
}

async fn inspect(State(api): Shared, Path(id): Path<String>) -> Reply {
    ok(&convert::node::node(&api.node(&id).await?))
}

async fn update(State(api): Shared, Path(id): Path<String>, query: Query, Json(spec): Json<Value>) -> Reply {
    let version = query.object_version("node")?;
    let spec = node_spec(spec)?;
    api.run(ControlRequest::NodeUpdate { id, version, spec }).await?;
    empty(StatusCode::OK)
}

/// Refuses unknown words in Docker's own.
fn node_spec(spec: Value) -> ApiResult<NodeSpec> {
    for (key, known) in [("Availability", ["active", "pause", "drain"].as_slice()), ("Role", &["manager", "worker"])] {
        if let Some(word) = spec.get(key).and_then(Value::as_str).filter(|w| !known.contains(w)) {
            return Err(bad(format!("invalid {key}: \"{word}\"")));
        }
    }
    serde_json::from_value(spec).map_err(|e| bad(format!("invalid JSON: {e}")))
}

async fn remove(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    api.run(ControlRequest::NodeRemove { id, force: query.flag("force") }).await?;
    empty(StatusCode::OK)
}

fn check(filters: &Filters) -> ApiResult<()> {
    for (key, known) in [("role", ["manager", "worker"]), ("membership", ["accepted", "pending"])] {
        if let Some(v) = filters.values(key).find(|v| !known.contains(v)) {
            return Err(bad(format!("invalid {key} filter: '{v}'")));
        }
    }
    Ok(())
}

fn matches(n: &Node, filters: &Filters) -> bool {
    let role = if n.spec.role == Role::Manager { "manager" } else { "worker" };
    let engine: &Labels = &n.description.engine.labels;
    filters.prefix("id", n.id.as_str())
        && filters.prefix("name", n.name())
        && filters.labels("label", engine)
        && filters.labels("node.label", &n.spec.labels)
        && filters.exact("role", role)
        && filters.exact("membership", "accepted")
}
