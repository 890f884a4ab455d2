//! Images as `docker images`, `image inspect`, `history` and `rmi` read them, and what a registry says.

use serde_json::{Value, json};

use super::null_if_empty;
use crate::{
    backend::{Distribution, Image, ImageHistory, RemovedImage},
    http::version::ApiVersion,
};

pub(crate) fn summary(i: &Image, version: ApiVersion) -> Value {
    let mut value = json!({
        "Containers": -1,
        "Created": i.created.unix(),
        "Id": i.id,
        "Labels": null_if_empty(&i.labels),
        "ParentId": "",
        "RepoDigests": i.repo_digests,
        "RepoTags": i.repo_tags,
        "SharedSize": -1,
        "Size": i.size,
    });
    if !version.at_least(44) {
        value["VirtualSize"] = json!(i.size);
    }
    value
}

pub(crate) fn inspect(i: &Image, storage_driver: &str, version: ApiVersion) -> Value {
    let mut value = json!({
        "Id": i.id,
        "RepoTags": i.repo_tags,
        "RepoDigests": i.repo_digests,
        "Parent": "",
        "Comment": i.comment,
        "Created": i.created,
        "DockerVersion": "",
        "Author": i.author,
        "Config": i.config,
        "Architecture": i.architecture,
    });
    if !i.variant.is_empty() {
        value["Variant"] = json!(i.variant);
    }
    value["Os"] = json!(i.os);
    value["Size"] = json!(i.size);
    if !version.at_least(44) {
        value["VirtualSize"] = json!(i.size);
    }
    value["GraphDriver"] = json!({ "Data": null, "Name": storage_driver });
    value["RootFS"] = json!({ "Type": "layers", "Layers": i.layers });
    value["Metadata"] = json!({ "LastTagTime": "0001-01-01T00:00:00Z" });
    value
}

pub(crate) fn history(h: &ImageHistory) -> Value {
    json!({
        "Id": if h.id.is_empty() { "<missing>" } else { &h.id },
        "Created": h.created.unix(),
        "CreatedBy": h.created_by,
        "Tags": if h.tags.is_empty() { Value::Null } else { json!(h.tags) },
        "Size": h.size,
        "Comment": h.comment,
    })
}

pub(crate) fn removed(r: &RemovedImage) -> Value {
    match r {
        RemovedImage::Untagged(name) => json!({ "Untagged": name }),
        RemovedImage::Deleted(id) => json!({ "Deleted": id }),
    }
}

pub(crate) fn distribution(d: &Distribution) -> Value {
    let platforms: Vec<Value> =
        d.platforms.iter().map(|p| json!({ "architecture": p.architecture, "os": p.os })).collect();
    json!({
        "Descriptor": { "mediaType": d.media_type, "digest": d.digest, "size": d.size },
        "Platforms": platforms,
    })
}
