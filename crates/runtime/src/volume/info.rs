//! Volumes as callers see them.

use std::{collections::BTreeMap, path::PathBuf};

use malha_model::Timestamp;
use serde::{Deserialize, Serialize};

/// A named directory on this machine that outlives containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeInfo {
    pub name: String,
    pub mountpoint: PathBuf,
    pub created: Timestamp,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Nobody gave it a name.
    pub anonymous: bool,
}
