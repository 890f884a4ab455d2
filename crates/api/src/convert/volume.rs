//! `volume.Volume`.

use serde_json::{Value, json};

use super::null_if_empty;
use crate::backend::Volume;

pub(crate) fn volume(v: &Volume) -> Value {
    json!({
        "CreatedAt": v.created,
        "Driver": v.driver,
        "Labels": null_if_empty(&v.labels),
        "Mountpoint": v.mountpoint,
        "Name": v.name,
        "Options": null_if_empty(&v.options),
        "Scope": "local",
    })
}
