//! `/_ping`, `/version`, `/info`, `/events`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use malha_model::Timestamp;
use serde_json::json;

use crate::{
    backend::{Event, EventStream},
    convert::{self, cluster::ManagerView},
    http::{
        filters::Filters,
        query::Query,
        reply::{self, Reply, ok},
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/_ping", get(ping).head(ping_head))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/events", get(events))
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

async fn events(State(api): Shared, query: Query) -> Reply {
    let (since, until) = (query.time("since")?, query.time("until")?);
    let filters = query.filters()?;
    let remaining = until.map(|t| t.since(api.clock.now()));
    let events = api.engine.events(since).await?;
    let shown = bounded(events, until, remaining).filter(move |e| std::future::ready(matches(e, &filters)));
    let lines = shown.map(|e| Ok::<_, std::convert::Infallible>(line(&e)));
    reply::stream("application/json", lines)
}

fn line(e: &Event) -> Bytes {
    format!("{}\n", json!(convert::event::event(e))).into()
}

/// Ends the stream once `until` has come and everything remembered has been told.
fn bounded(
    events: EventStream,
    until: Option<Timestamp>,
    remaining: Option<Duration>,
) -> impl Stream<Item = Event> + Send + 'static {
    let deadline = remaining.map(|d| tokio::time::Instant::now() + d.max(PAST_GRACE));
    stream::unfold(events, move |mut events| async move {
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = events.next().map(|e| e.filter(|e| until.is_none_or(|u| e.time <= u))) => event.map(|e| (e, events)),
            () = timer => None,
        }
    })
}

/// For an `until` in the past: time for the remembered events to arrive.
const PAST_GRACE: Duration = Duration::from_millis(100);

fn matches(e: &Event, filters: &Filters) -> bool {
    let name = e.attributes.get("name").map_or("", String::as_str);
    let named = |key: &str, kind: &str| {
        filters.any(key, |v| e.kind == kind && (e.actor_id == v || e.actor_id.starts_with(v) || name == v))
    };
    let image = e.attributes.get("image").map_or("", String::as_str);
    filters.any("type", |v| e.kind == v)
        && filters.any("event", |v| e.action == v || e.action.split(':').next() == Some(v))
        && filters.exact("scope", &e.scope)
        && filters.labels("label", convert::event::labels(e))
        && ["container", "network", "volume", "service", "node", "plugin", "secret", "config", "daemon"]
            .into_iter()
            .all(|kind| named(kind, kind))
        && filters.any("image", |v| e.kind == "image" && e.actor_id == v || image == v || name == v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_past_until_ends_after_what_is_remembered() {
        let event = |n: i64| Event { kind: "container".into(), time: Timestamp(n), ..Event::default() };
        let source = stream::iter([event(1), event(2), event(9)]).chain(stream::pending()).boxed();
        let got: Vec<Event> = bounded(source, Some(Timestamp(5)), Some(Duration::ZERO)).collect().await;
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn filters_of_events() {
        let e = Event {
            kind: "container".into(),
            action: "exec_create: sh".into(),
            actor_id: "abc".into(),
            attributes: [("name".to_owned(), "web".to_owned()), ("k".to_owned(), "v".to_owned())].into(),
            scope: "local".into(),
            time: Timestamp(1),
        };
        let on = |f: &str| matches(&e, &Filters::parse(f).unwrap());
        assert!(on("") && on(r#"{"container":["web"]}"#) && on(r#"{"event":["exec_create"],"label":["k=v"]}"#));
        assert!(!on(r#"{"type":["network"]}"#) && !on(r#"{"network":["web"]}"#) && !on(r#"{"scope":["swarm"]}"#));
    }
}
