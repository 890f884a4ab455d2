//! Images of this machine and what arrives from registries and archives.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use malha_model::{Labels, Platform, Timestamp};
use serde_json::Value;

use super::container::ContainerConfig;

/// A request body, or an archive.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `name:tag`, familiar form (`alpine:latest`).
    pub repo_tags: Vec<String>,
    /// `name@sha256:…`
    pub repo_digests: Vec<String>,
    pub created: Timestamp,
    /// Bytes.
    pub size: i64,
    pub author: String,
    pub comment: String,
    pub architecture: String,
    pub variant: String,
    pub os: String,
    pub labels: Labels,
    pub config: ContainerConfig,
    /// `sha256:…` of the uncompressed layers, lowest first.
    pub layers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageHistory {
    /// Empty where the step made no image of its own.
    pub id: String,
    pub created: Timestamp,
    pub created_by: String,
    pub tags: Vec<String>,
    pub size: i64,
    pub comment: String,
}

/// An image as typed: the name without tag, and the tag or digest, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageReference {
    pub name: String,
    /// A tag or `sha256:…`. Empty in a pull: `latest` (or all tags, where the client asked for them; not supported).
    pub tag: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePull {
    pub image: ImageReference,
    /// `os/arch[/variant]`; empty is the machine's.
    pub platform: String,
    /// `X-Registry-Auth` as sent: base64url JSON.
    pub registry_auth: Option<String>,
}

/// `docker import -`: the body is a file-system archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageImport {
    /// Name to give it; empty for none.
    pub image: ImageReference,
    pub message: String,
    /// Dockerfile instructions, `CMD ["sh"]`.
    pub changes: Vec<String>,
    pub platform: String,
}

/// One line of progress of a pull, load or import.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// `Status` of the item `id` (a layer), or of the whole where `id` is empty; `current` and `total` bytes where known.
    Status { id: String, status: String, current: Option<u64>, total: Option<u64> },
    /// A line of text, with its newline (`Loaded image: x:1\n`).
    Line(String),
    /// Extra data for clients (`aux`).
    Aux(Value),
}

/// An `Err` ends it and is told in the stream. Of a pull and an import it becomes the HTTP status where nothing came before
/// it, as what the call itself returns does.
pub type ProgressStream = BoxStream<'static, Result<Progress, malha_model::ApiError>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovedImage {
    Untagged(String),
    Deleted(String),
}

/// What a registry says of a reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    pub size: i64,
    pub platforms: Vec<Platform>,
}
