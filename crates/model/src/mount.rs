//! What is mounted into a container, in the shape of the Docker API (moby `api/types/mount`).
//!
//! Services and stand-alone containers speak of mounts in the same words; what of them is not built is refused in one
//! place, [`Mount::check`], for both.

use serde::{Deserialize, Serialize};

use crate::{
    error::{ApiError, ApiResult},
    nullable::nullable,
    spec_service::{Extra, Labels},
};

fn is_zero<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}

/// `Type` is `bind`, `volume` or `tmpfs` (others are refused at the request).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// `rprivate` where empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub non_recursive: bool,
    /// Makes a directory where there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub create_mountpoint: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only_force_recursive: bool,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// A new volume does not take the image's content.
    #[serde(skip_serializing_if = "is_zero")]
    pub no_copy: bool,
    /// Of a volume that is made.
    #[serde(skip_serializing_if = "Labels::is_empty", deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<VolumeDriver>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeDriver {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "Labels::is_empty", deserialize_with = "nullable")]
    pub options: Labels,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Bytes; 0 is no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: i64,
    /// As in `chmod`; 0 is 1777.
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: u32,
    /// Each a flag, or a key and its value.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub options: Vec<Vec<String>>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl Mount {
    /// Refuses what is not a mount, and what would otherwise be silently left out.
    pub fn check(&self) -> ApiResult<()> {
        if !matches!(self.kind.as_str(), "bind" | "volume" | "tmpfs") {
            return Err(ApiError::unsupported(format!("a mount of type \"{}\"", self.kind)));
        }
        let bind = self.bind_options.as_ref();
        let volume = self.volume_options.as_ref();
        let driver = volume.and_then(|v| v.driver_config.as_ref());
        for (asked, feature) in [
            (bind.is_some_and(|b| b.non_recursive), "a non-recursive bind mount"),
            (
                bind.is_some_and(|b| b.read_only_non_recursive || b.read_only_force_recursive),
                "the choice how deep a bind mount is read-only",
            ),
            (volume.is_some_and(|v| !v.subpath.is_empty()), "a mount of a part of a volume (volume-subpath)"),
            (driver.is_some_and(|d| !matches!(d.name.as_str(), "" | "local")), "a volume driver other than local"),
            (driver.is_some_and(|d| !d.options.is_empty()), "an option of a volume (volume-opt)"),
        ] {
            if asked {
                return Err(ApiError::unsupported(feature));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_is_shown_again() {
        let said = json!({
            "Type": "volume", "Source": "v", "Target": "/v",
            "VolumeOptions": {"NoCopy": true, "Labels": {"a": "b"}, "Later": 1},
        });
        let mount: Mount = serde_json::from_value(said.clone()).unwrap();
        assert_eq!(serde_json::to_value(&mount).unwrap(), said);
        mount.check().unwrap();
    }

    #[test]
    fn what_is_not_built_is_named() {
        for (mount, why) in [
            (json!({"Type": "npipe"}), "npipe"),
            (json!({"Type": "bind", "BindOptions": {"NonRecursive": true}}), "non-recursive"),
            (json!({"Type": "volume", "VolumeOptions": {"Subpath": "a"}}), "volume-subpath"),
            (json!({"Type": "volume", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}), "volume driver"),
            (json!({"Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": {"o": "x"}}}}), "volume-opt"),
        ] {
            let mount: Mount = serde_json::from_value(mount).unwrap();
            let refused = mount.check().unwrap_err();
            assert!(refused.message.contains(why) && refused.http_status() == 501, "{refused:?}");
        }
    }
}
