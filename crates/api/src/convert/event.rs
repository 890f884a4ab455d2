//! One line of `GET /events`.

use malha_model::Labels;
use serde_json::{Map, Value, json};

use crate::backend::Event;

pub(crate) fn event(e: &Event) -> Value {
    let mut map = Map::new();
    // The oldest fields, which clients of container and image events still read.
    if matches!(e.kind.as_str(), "container" | "image") {
        map.insert("status".into(), json!(e.action));
        map.insert("id".into(), json!(e.actor_id));
    }
    if let Some(image) = e.attributes.get("image").filter(|_| e.kind == "container") {
        map.insert("from".into(), json!(image));
    }
    super::extend(
        &mut map,
        json!({
            "Type": e.kind,
            "Action": e.action,
            "Actor": { "ID": e.actor_id, "Attributes": e.attributes },
            "scope": e.scope,
            "time": e.time.unix(),
            "timeNano": e.time.0,
        }),
    );
    map.into()
}

/// The labels that a `label` filter sees: an actor's attributes hold its labels beside name and image.
pub(crate) fn labels(e: &Event) -> &Labels {
    &e.attributes
}
