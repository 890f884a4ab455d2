//! `/events`.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use malha_model::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::image_names;
use crate::{
    backend::{Event, EventStream},
    convert,
    http::{
        filters::Filters,
        query::{Query, bad},
        reply::{self, Reply},
    },
    state::{Api, Shared},
};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/events", get(events))
}

async fn events(State(api): Shared, query: Query) -> Reply {
    let (since, until) = (query.time("since")?, query.time("until")?);
    if let (Some(from), Some(to)) = (since, until)
        && to < from
    {
        let (since, until) = (query.text("since"), query.text("until"));
        return Err(bad(format!("`since` time ({since}) cannot be after `until` time ({until})")).into());
    }
    // An end without a beginning, and a beginning at zero, mean all that is remembered.
    let all = until.is_some() || query.get("since") == Some("0");
    let since = since.or(all.then_some(Timestamp::ZERO));
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

/// For an `until` in the past: time for the remembered events to arrive, and for those that are still on their way to be
/// remembered.
const PAST_GRACE: Duration = Duration::from_millis(100);

/// Ends the stream once `until` has come and everything remembered has been told.
fn bounded(
    events: EventStream,
    until: Option<Timestamp>,
    remaining: Option<Duration>,
) -> impl Stream<Item = Event> + Send + 'static {
    let deadline = remaining.map(|d| Instant::now() + d.max(PAST_GRACE));
    stream::unfold(events, move |mut events| async move {
        loop {
            let end = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                event = events.next() => event?,
                () = end => return None,
            };
            if until.is_none_or(|u| event.time <= u) {
                return Some((event, events));
            }
            // Too late, but an earlier one may be behind it: not everything is heard of in its order.
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return None;
            }
        }
    })
}

fn matches(e: &Event, filters: &Filters) -> bool {
    let name = e.attributes.get("name").map_or("", String::as_str);
    let begins = |v: &str| e.actor_id.starts_with(v) || name.starts_with(v);
    filters.any("type", |v| e.kind == v)
        && filters.any("event", |v| e.action == v || e.action.split(':').next() == Some(v))
        && filters.exact("scope", &e.scope)
        && filters.labels("label", convert::event::labels(e))
        && ["container", "network", "volume", "service", "node", "plugin", "secret", "config", "daemon"]
            .into_iter()
            .all(|kind| filters.any(kind, |v| e.kind == kind && begins(v)))
        && filters.any("image", |v| is_of_image(e, v))
}

/// An event of the image, by id or name, or of what was made from it; a name without a tag means every tag.
fn is_of_image(e: &Event, wanted: &str) -> bool {
    let named = if e.kind == "image" { "name" } else { "image" };
    let image = e.attributes.get(named).map_or("", String::as_str);
    [&*e.actor_id, image].into_iter().any(|name| name == wanted || image_names::parse(name).name == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_past_until_ends_after_what_is_remembered() {
        let event = |n: i64| Event { kind: "container".into(), time: Timestamp(n), ..Event::default() };
        let source = stream::iter([event(1), event(9), event(2)]).chain(stream::pending()).boxed();
        let got: Vec<i64> = bounded(source, Some(Timestamp(5)), Some(Duration::ZERO)).map(|e| e.time.0).collect().await;
        assert_eq!(got, [1, 2]);
        // Others go on happening: that is no reason to go on.
        let endless = stream::repeat_with(move || event(9)).boxed();
        let got = bounded(endless, Some(Timestamp(5)), Some(Duration::ZERO)).count().await;
        assert_eq!(got, 0);
    }

    fn event(kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Event::local(kind, action, id, attributes, Timestamp(1))
    }

    fn on(e: &Event, filters: &str) -> bool {
        matches(e, &Filters::parse(filters).unwrap())
    }

    #[test]
    fn filters_of_events() {
        let e = event("container", "exec_create: sh", "abc", &[("name", "web"), ("image", "app:2"), ("k", "v")]);
        for shows in [
            "",
            r#"{"container":["web"]}"#,
            r#"{"container":["we"]}"#,
            r#"{"event":["exec_create"],"label":["k=v"]}"#,
            r#"{"image":["app:2"]}"#,
            r#"{"image":["app"]}"#,
        ] {
            assert!(on(&e, shows), "{shows}");
        }
        for hides in [
            r#"{"type":["network"]}"#,
            r#"{"network":["web"]}"#,
            r#"{"scope":["swarm"]}"#,
            r#"{"event":["exec"]}"#,
            r#"{"image":["app:1"]}"#,
            r#"{"image":["web"]}"#,
        ] {
            assert!(!on(&e, hides), "{hides}");
        }
    }

    #[test]
    fn each_kind_has_a_filter_of_its_name() {
        for kind in ["network", "volume", "service", "node"] {
            let e = event(kind, "create", "id1", &[("name", "web")]);
            assert!(on(&e, &format!(r#"{{"{kind}":["id"]}}"#)) && on(&e, &format!(r#"{{"{kind}":["web"]}}"#)));
            assert!(!on(&e, &format!(r#"{{"{kind}":["other"]}}"#)) && !on(&e, r#"{"daemon":["web"]}"#));
        }
        let pull = event("image", "pull", "reg:5000/a:1", &[("name", "reg:5000/a")]);
        assert!(on(&pull, r#"{"image":["reg:5000/a"]}"#) && on(&pull, r#"{"image":["reg:5000/a:1"]}"#));
        assert!(!on(&pull, r#"{"image":["reg:5000/a:2"]}"#));
    }
}
