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

/// Refuses unknown words in Docker's own; the case of known ones is of no matter.
fn node_spec(mut spec: Value) -> ApiResult<NodeSpec> {
    for (key, known) in [("Availability", ["active", "pause", "drain"].as_slice()), ("Role", &["manager", "worker"])] {
        let Some(word) = spec.get(key).and_then(Value::as_str) else { continue };
        let lower = word.to_lowercase();
        if !known.contains(&lower.as_str()) {
            return Err(bad(format!("invalid {key}: \"{word}\"")));
        }
        spec[key] = lower.into();
    }
    serde_json::from_value(spec).map_err(|e| bad(format!("invalid JSON: {e}")))
}

async fn remove(State(api): Shared, Path(id): Path<String>, query: Query) -> Reply {
    api.run(ControlRequest::NodeRemove { id, force: query.flag("force") }).await?;
    empty(StatusCode::OK)
}

fn check(filters: &Filters) -> ApiResult<()> {
    for (key, known) in [("role", ["manager", "worker"]), ("membership", ["accepted", "pending"])] {
        if let Some(v) = filters.values(key).find(|v| !v.is_empty() && !known.iter().any(|k| k.eq_ignore_ascii_case(v)))
        {
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
        && is_word(filters, "role", role)
        && is_word(filters, "membership", "accepted")
}

/// In any case of letters; an empty value asks for nothing.
fn is_word(filters: &Filters, key: &str, word: &str) -> bool {
    let mut asked = filters.values(key).filter(|v| !v.is_empty()).peekable();
    asked.peek().is_none() || asked.any(|v| v.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use malha_model::Availability;
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_read_in_any_case_of_letters() {
        let spec = node_spec(json!({ "Role": "Manager", "Availability": "DRAIN" })).unwrap();
        assert_eq!((spec.role, spec.availability), (Role::Manager, Availability::Drain));
        assert_eq!(node_spec(json!({ "Role": "Boss" })).unwrap_err().message, "invalid Role: \"Boss\"");

        let filters = |role: &str| Filters::parse(&json!({ "role": { role: true } }).to_string()).unwrap();
        for (role, worker) in [("Worker", true), ("manager", false), ("", true)] {
            check(&filters(role)).unwrap();
            assert_eq!(matches(&Node::default(), &filters(role)), worker, "{role:?}");
        }
        assert!(check(&filters("Boss")).is_err());
    }
}
