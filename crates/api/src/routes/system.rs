//! `/_ping`, `/version`, `/info`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    convert::{self, cluster::ManagerView},
    http::reply::{Reply, ok},
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/_ping", get(ping).head(ping_head)).route("/version", get(version)).route("/info", get(info))
}

/// How long `docker info` waits for the leader.
const LEADER_WAIT: Duration = Duration::from_secs(1);

async fn ping(State(api): Shared) -> Response {
    (ping_headers(&api).await, "OK").into_response()
}

async fn ping_head(State(api): Shared) -> Response {
    let mut headers = ping_headers(&api).await;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    (headers, Body::empty()).into_response()
}

async fn ping_headers(api: &Api) -> HeaderMap {
    let swarm = convert::cluster::ping_state(&api.cluster.info().await);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("swarm", swarm),
        // The classic builder's number: keeps `docker build` from asking for sessions.
        ("builder-version", "1"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        ("content-type", "text/plain; charset=utf-8"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

async fn version(State(api): Shared) -> Reply {
    let host = api.engine.host_info().await?;
    ok(&convert::system::version(&api.engine.version(), &host))
}

async fn info(State(api): Shared) -> Reply {
    let (host, containers, images) =
        tokio::try_join!(api.engine.host_info(), api.engine.containers(), api.engine.images())?;
    let mut value =
        convert::system::info(&host, &api.engine.version(), &containers, images.len(), api.clock.now().to_string());
    let mut local = api.cluster.info().await;
    // Without a leader there is nobody to wait for: what this node knows by itself says so.
    let ask = local.control_available && local.leader_known;
    let view = if ask { Some(manager_view(&api).await) } else { None };
    if let Some(Err(e)) = view.as_ref().filter(|_| local.error.is_empty()) {
        local.error.clone_from(e);
    }
    let swarm = convert::cluster::swarm_info(&local, view.as_ref().and_then(|v| v.as_ref().ok()));
    if let (Some(all), Some(more)) = (value["Warnings"].as_array_mut(), swarm["Warnings"].as_array()) {
        all.extend(more.iter().cloned());
    }
    value["Swarm"] = swarm;
    ok(&value)
}

async fn manager_view(api: &Api) -> Result<ManagerView, String> {
    let ask = async { tokio::try_join!(api.swarm(), api.nodes()) };
    match tokio::time::timeout(LEADER_WAIT, ask).await {
        Ok(Ok((cluster, nodes))) => Ok(ManagerView { cluster, nodes }),
        Ok(Err(e)) => Err(e.message),
        Err(_) => Err(crate::errors::no_leader().message),
    }
}
