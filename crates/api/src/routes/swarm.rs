//! `/swarm`: a node's way into a swarm, out of it, and the swarm's settings.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use malha_model::{ApiError, ApiResult, ClusterSpec, ControlRequest};
use serde::Deserialize;
use serde_json::json;

use crate::{
    backend::{InitRequest, JoinRequest},
    convert,
    http::{
        body::Json,
        query::{Query, bad},
        reply::{Reply, empty, ok},
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/swarm", get(inspect))
        .route("/swarm/init", post(init))
        .route("/swarm/join", post(join))
        .route("/swarm/leave", post(leave))
        .route("/swarm/update", post(update))
        .route("/swarm/unlockkey", get(unlock_key))
        .route("/swarm/unlock", post(unlock))
}

async fn inspect(State(api): Shared) -> Reply {
    ok(&convert::cluster::swarm(&api.swarm().await?))
}

async fn init(State(api): Shared, Json(request): Json<InitRequest>) -> Reply {
    check_init(&request)?;
    let id = api.cluster.init(request).await?;
    ok(&id)
}

async fn join(State(api): Shared, Json(request): Json<JoinRequest>) -> Reply {
    if request.remote_addrs.iter().all(|a| a.trim().is_empty()) {
        return Err(bad("at least 1 RemoteAddr is required to join").into());
    }
    api.cluster.join(request).await?;
    empty(StatusCode::OK)
}

async fn leave(State(api): Shared, query: Query) -> Reply {
    api.cluster.leave(query.flag("force")).await?;
    empty(StatusCode::OK)
}

async fn update(State(api): Shared, query: Query, Json(spec): Json<ClusterSpec>) -> Reply {
    let version = query.object_version("swarm")?;
    check_spec(&spec)?;
    if query.flag("rotateManagerUnlockKey") {
        return Err(ApiError::unsupported("locking managers (--autolock)").into());
    }
    api.run(ControlRequest::ClusterUpdate {
        version,
        spec,
        rotate_worker_token: query.flag("rotateWorkerToken"),
        rotate_manager_token: query.flag("rotateManagerToken"),
    })
    .await?;
    empty(StatusCode::OK)
}

async fn unlock_key(State(api): Shared) -> Reply {
    ok(&json!({ "UnlockKey": api.cluster.unlock_key().await? }))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UnlockRequest {
    unlock_key: String,
}

async fn unlock(State(api): Shared, Json(request): Json<UnlockRequest>) -> Reply {
    api.cluster.unlock(request.unlock_key).await?;
    empty(StatusCode::OK)
}

fn check_init(request: &InitRequest) -> ApiResult<()> {
    if request.auto_lock_managers {
        return Err(ApiError::unsupported("locking managers (--autolock)"));
    }
    let port = request.data_path_port;
    if port != 0 && !(1024..=49151).contains(&port) {
        return Err(bad(format!("invalid data path port number {port}, it should be in range 1024 to 49151")));
    }
    if request.subnet_size > 29 {
        return Err(bad(format!("subnet size is out of range: {}", request.subnet_size)));
    }
    for pool in &request.default_addr_pool {
        pool.parse::<ipnet::IpNet>().map_err(|_| bad(format!("invalid CIDR address: {pool}")))?;
    }
    check_spec(&request.spec)
}

/// Settings that would change nothing here are refused.
fn check_spec(spec: &ClusterSpec) -> ApiResult<()> {
    if !matches!(spec.name.as_str(), "" | "default") {
        return Err(bad(format!("swarm spec must be named \"default\", not \"{}\"", spec.name)));
    }
    if spec.encryption_config.auto_lock_managers {
        return Err(ApiError::unsupported("locking managers (--autolock)"));
    }
    let asked = |v: &serde_json::Value| match v {
        serde_json::Value::Null => false,
        serde_json::Value::Array(a) => !a.is_empty(),
        serde_json::Value::String(s) => !s.is_empty(),
        serde_json::Value::Number(n) => n.as_f64() != Some(0.0),
        _ => true,
    };
    match spec.ca_config.extra.iter().find(|(_, v)| asked(v)) {
        Some((key, _)) if key == "ExternalCAs" => Err(ApiError::unsupported("an external certificate authority")),
        Some(_) => Err(ApiError::unsupported("rotating the root certificate (docker swarm ca --rotate)")),
        None => Ok(()),
    }
}
