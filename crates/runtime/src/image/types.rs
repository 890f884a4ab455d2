//! Images as callers see them.

use std::{collections::BTreeMap, sync::Arc};

use malha_model::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// An image at one moment.
#[derive(Clone, Debug, Default)]
pub struct ImageInfo {
    /// `sha256:…` of the config.
    pub id: String,
    /// `x:latest`, familiar form, sorted.
    pub repo_tags: Vec<String>,
    /// `x@sha256:…`; empty unless pulled.
    pub repo_digests: Vec<String>,
    /// What the registry calls it: digest of the index or manifest.
    pub target: String,
    /// Bytes of all layers as stored.
    pub size: i64,
    /// Of each layer, lowest first.
    pub layer_sizes: Vec<i64>,
    pub created: Timestamp,
    pub architecture: String,
    pub os: String,
    pub author: String,
    pub config: Arc<ImageConfig>,
    /// Diff ids.
    pub layers: Vec<String>,
    pub history: Arc<Vec<HistoryEntry>>,
}

/// Docker's `Config` of an image, defaults for what is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub user: String,
    pub exposed_ports: Vec<String>,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub volumes: Vec<String>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: String,
    /// Docker's extension, as written in the image.
    pub healthcheck: Option<serde_json::Value>,
    pub shell: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    pub created: Timestamp,
    pub created_by: String,
    pub comment: String,
    pub empty_layer: bool,
}

/// One line of `docker pull` or `docker load`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Short layer id, or the tag for the first line.
    pub id: Option<String>,
    pub status: String,
    /// Bytes, where there is a bar.
    pub current: Option<u64>,
    pub total: Option<u64>,
}

/// Where progress goes. A full or closed channel drops a line rather than hold the work up.
pub type ProgressSink = mpsc::Sender<Progress>;

/// What one name in a loaded archive became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedImage {
    /// `Loaded image: x:tag`
    Tagged { reference: String, id: String },
    /// `Loaded image ID: sha256:…`
    Untagged { id: String },
}

impl std::fmt::Display for LoadedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tagged { reference, .. } => write!(f, "Loaded image: {reference}"),
            Self::Untagged { id } => write!(f, "Loaded image ID: {id}"),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// `None` leaves the image untagged.
    pub reference: Option<String>,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    pub message: String,
}

#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    pub auth: Option<RegistryAuth>,
    /// `linux/amd64`; `None` is this machine's.
    pub platform: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledImage {
    pub id: String,
    /// Digest that the registry answered for the reference.
    pub digest: String,
    /// False where everything was here already.
    pub newer: bool,
}

/// Docker's `AuthConfig`, as in the `X-Registry-Auth` header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub auth: String,
    pub identitytoken: String,
    pub registrytoken: String,
    pub serveraddress: String,
}

/// What a registry says about a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributionInfo {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    pub platforms: Vec<ImagePlatform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePlatform {
    pub architecture: String,
    pub os: String,
    pub variant: String,
}

/// One line of `docker rmi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageDelete {
    Untagged(String),
    Deleted(String),
}
