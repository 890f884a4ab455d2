//! `docker events`.

use malha_kit::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::support::{Host, body, cluster::NODE, engine::ID};

/// `type action` of what the filters let through.
async fn told(host: &Host, filters: &[&str]) -> Vec<String> {
    let mut args = vec!["events", "--since", "1m", "--until", "1s", "--format", "{{.Type}} {{.Action}}"];
    args.extend(filters.iter().flat_map(|f| ["--filter", *f]));
    host.ok(&args).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn events_are_told_and_bounded() {
    let host = Host::start().await;
    let text = host.ok(&["events", "--since", "1m", "--until", "1s"]).await;
    for part in [
        "image pull bench:1 (image=a label, name=bench)".to_owned(),
        "volume create data (driver=local)".to_owned(),
        format!("network connect net1 (container={ID}, name=my-overlay, type=overlay)"),
        format!("container start {ID} (image=bench:1, name=web.1.xyz, tier=db)"),
        "network create net1 (name=my-overlay)".to_owned(),
        "service update svc1 (name=web, replicas.new=2, replicas.old=1)".to_owned(),
        format!("node update {NODE} (name=node1, state.new=ready, state.old=down)"),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    let ended = host.ok(&["events", "--since", "1m", "--until", "30s"]).await;
    assert_eq!(ended, "", "what came later");
    let turned = host.docker(&["events", "--since", "1s", "--until", "1m"]).await;
    assert!(turned.code != 0 && turned.stderr.contains("cannot be after `until` time"), "{turned:?}");
}

#[tokio::test]
async fn filters_choose_by_kind_scope_and_object() {
    let host = Host::start().await;
    for (filters, wanted) in [
        (&["type=network"][..], &["network connect", "network create"][..]),
        (&["scope=swarm"], &["network create", "service update", "node update"]),
        (&["scope=local", "type=network"], &["network connect"]),
        (&["event=create"], &["volume create", "network create"]),
        (&["service=we"], &["service update"]),
        (&["node=node1"], &["node update"]),
        (&["network=my-overlay", "scope=swarm"], &["network create"]),
        (&["volume=data"], &["volume create"]),
        (&["container=web.1.xyz"], &["container start"]),
        (&["image=bench"], &["image pull", "container start"]),
        (&["label=tier=db"], &["container start"]),
        (&["daemon=node1"], &[]),
    ] {
        assert_eq!(told(&host, filters).await, wanted, "{filters:?}");
    }
}

#[tokio::test]
async fn only_the_oldest_kinds_have_the_oldest_fields() {
    let host = Host::start().await;
    // An end alone means all that is remembered.
    let answer = host.request(&format!("GET /v1.50/events?until={}", SystemClock.now().unix()), "").await;
    let lines = body(&answer).lines().filter(|l| l.starts_with('{'));
    let events: Vec<Value> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 7, "{answer}");
    let of = |kind: &str| events.iter().find(|e| e["Type"] == kind).unwrap();
    let container = of("container");
    assert_eq!(
        (&container["status"], &container["id"], &container["from"]),
        (&json!("start"), &json!(ID), &json!("bench:1"))
    );
    assert_eq!((&of("image")["status"], &of("image")["from"]), (&json!("pull"), &Value::Null));
    let service = of("service");
    let attributes = json!({"name": "web", "replicas.new": "2", "replicas.old": "1"});
    assert_eq!(service["Actor"], json!({"ID": "svc1", "Attributes": attributes}));
    assert_eq!(service["scope"], "swarm");
    assert!(service.get("status").is_none() && service.get("id").is_none(), "{service}");
    assert_eq!(service["time"].as_i64(), service["timeNano"].as_i64().map(|n| n / 1_000_000_000));
}
