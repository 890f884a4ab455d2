//! Paths that Docker has and Malha does not have yet: 501 that names the feature, never a silent success.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    routing::{MethodFilter, MethodRouter, get, on},
};
use malha_model::{ApiError, Code};
use serde_json::json;

use crate::{
    http::reply::{Failure, Reply, ok},
    state::Api,
};

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;
const PUT: MethodFilter = MethodFilter::PUT;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// Method, path, the command or feature.
const UNBUILT: &[(MethodFilter, &str, &str)] = &[
    (GET, "/secrets", "a secret (docker secret)"),
    (POST, "/secrets/create", "a secret (docker secret)"),
    (GET.or(DELETE), "/secrets/{id}", "a secret (docker secret)"),
    (POST, "/secrets/{id}/update", "a secret (docker secret)"),
    (GET, "/configs", "a config (docker config)"),
    (POST, "/configs/create", "a config (docker config)"),
    (GET.or(DELETE), "/configs/{id}", "a config (docker config)"),
    (POST, "/configs/{id}/update", "a config (docker config)"),
    (GET, "/containers/{id}/attach/ws", "attaching over a websocket"),
    (GET, "/containers/{id}/stats", "docker stats"),
    (GET, "/containers/{id}/top", "docker top"),
    (GET, "/containers/{id}/changes", "docker diff"),
    (GET, "/containers/{id}/export", "docker export"),
    (POST, "/containers/{id}/pause", "docker pause"),
    (POST, "/containers/{id}/unpause", "docker unpause"),
    (POST, "/containers/{id}/update", "docker update"),
    (GET.or(MethodFilter::HEAD).or(PUT), "/containers/{id}/archive", "docker cp"),
    (GET.or(POST), "/containers/{id}/checkpoints", "docker checkpoint"),
    (DELETE, "/containers/{id}/checkpoints/{name}", "docker checkpoint"),
    (POST, "/containers/prune", "docker container prune"),
    (POST, "/commit", "docker commit"),
    (GET, "/system/df", "docker system df"),
    (POST, "/auth", "docker login"),
    (POST, "/volumes/prune", "docker volume prune"),
    (PUT, "/volumes/{name}", "docker volume update"),
    (POST, "/plugins/pull", "docker plugin"),
    (GET, "/plugins/privileges", "docker plugin"),
    (POST, "/plugins/create", "docker plugin"),
    (POST, "/plugins/{name}/enable", "docker plugin"),
    (POST, "/plugins/{name}/disable", "docker plugin"),
    (POST, "/plugins/{name}/push", "docker plugin"),
    (POST, "/plugins/{name}/upgrade", "docker plugin"),
    (POST, "/plugins/{name}/set", "docker plugin"),
    (DELETE, "/plugins/{name}", "docker plugin"),
    (POST, "/build", "docker build"),
    (POST, "/build/prune", "docker builder prune"),
    (POST, "/build/cancel", "docker build"),
    (POST, "/session", "a BuildKit session"),
    (POST, "/grpc", "a BuildKit session"),
];

pub(super) fn routes() -> Router<Arc<Api>> {
    let plugins = Router::new().route("/plugins", get(no_plugins)).route("/plugins/{name}/json", get(no_plugin));
    UNBUILT.iter().fold(plugins, |router, (method, path, feature)| router.route(path, refuse(*method, feature)))
}

fn refuse(method: MethodFilter, feature: &'static str) -> MethodRouter<Arc<Api>> {
    on(method, move || async move { Failure(ApiError::unsupported(feature)) })
}

/// There are none, and tools ask.
async fn no_plugins() -> Reply {
    ok(&json!([]))
}

async fn no_plugin(Path(name): Path<String>) -> Reply {
    Err(ApiError::plain(Code::NotFound, format!("plugin \"{name}\" not found")).into())
}
