//! From Malha's objects to Docker's JSON, one file per object.
//!
//! Specs are stored in the form of the API and pass through; what is here is the wrapping that Go's types give them.

pub(crate) mod cluster;
pub(crate) mod container;
pub(crate) mod duration;
pub(crate) mod event;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod progress;
pub(crate) mod service;
pub(crate) mod system;
pub(crate) mod task;
pub(crate) mod volume;

use malha_model::{Labels, Meta};
use serde_json::{Map, Value, json};

/// The start of every swarm object: `ID`, `Version`, `CreatedAt`, `UpdatedAt`.
fn swarm_object(id: &str, meta: &Meta) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("ID".into(), id.into());
    map.insert("Version".into(), json!({ "Index": meta.version }));
    map.insert("CreatedAt".into(), json!(meta.created_at));
    map.insert("UpdatedAt".into(), json!(meta.updated_at));
    map
}

/// Adds the fields of an object to `map`.
fn extend(map: &mut Map<String, Value>, fields: Value) {
    if let Value::Object(fields) = fields {
        map.extend(fields);
    }
}

/// Go's nil map where empty.
fn null_if_empty(labels: &Labels) -> Value {
    if labels.is_empty() { Value::Null } else { json!(labels) }
}
