//! Named volumes of this machine.

use malha_model::{Labels, Timestamp};
use serde::{Deserialize, Serialize};

use crate::json::nullable;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: String,
    pub created: Timestamp,
    pub labels: Labels,
    pub options: Labels,
    /// Containers that mount it, by id.
    pub used_by: Vec<String>,
}

/// Body of `POST /volumes/create`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateVolume {
    /// Empty asks for a generated one.
    pub name: String,
    /// `local` or empty.
    pub driver: String,
    #[serde(deserialize_with = "nullable")]
    pub driver_opts: Labels,
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
}
