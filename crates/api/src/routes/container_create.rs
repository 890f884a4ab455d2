//! `POST /containers/create`.

use axum::extract::State;
use malha_model::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::{
    backend::{CreateContainer, HostConfig},
    http::{
        body::Json,
        query::{Query, bad},
        reply::{Reply, created},
        version::ApiVersion,
    },
    state::Shared,
};

/// Since 1.42 a terminal begins with the size that its client tells; of older clients Docker takes none.
pub(super) const CONSOLE_SIZE: u16 = 42;

pub(super) async fn create(
    State(api): Shared,
    query: Query,
    version: ApiVersion,
    Json(mut request): Json<CreateContainer>,
) -> Reply {
    request.name = check_name(&query.text("name"))?;
    request.platform = query.text("platform");
    if request.config.image.is_empty() {
        return Err(bad("no image specified: a container is created from an image").into());
    }
    if !version.at_least(CONSOLE_SIZE) {
        request.host_config.console_size = [0, 0];
    }
    check_host_config(&request.host_config)?;
    name_default_network(&mut request);
    let made = api.engine.create_container(request).await?;
    created(&json!({ "Id": made.id, "Warnings": made.warnings }))
}

/// A name as Docker allows it, without a leading slash; empty stays empty.
pub(super) fn check_name(text: &str) -> ApiResult<String> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let valid = name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(rest);
    if text.is_empty() || valid {
        return Ok(name.to_owned());
    }
    Err(bad(format!("Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// From here on the default network goes by its own name.
fn name_default_network(request: &mut CreateContainer) {
    if !matches!(request.host_config.network_mode.as_str(), "" | "default") {
        return;
    }
    request.host_config.network_mode = "bridge".into();
    let endpoints = &mut request.networking_config.endpoints_config;
    if let Some(settings) = endpoints.remove("default") {
        endpoints.insert("bridge".into(), settings);
    }
}

/// Refuses what would otherwise be ignored: a limit, a device or an isolation that is asked for and not given.
fn check_host_config(h: &HostConfig) -> ApiResult<()> {
    let known = ["", "no", "always", "unless-stopped", "on-failure"];
    if !known.contains(&h.restart_policy.name.as_str()) {
        return Err(bad(format!("invalid restart policy: unknown policy '{}'", h.restart_policy.name)));
    }
    let retries = h.restart_policy.maximum_retry_count;
    if retries < 0 || retries > 0 && h.restart_policy.name != "on-failure" {
        return Err(bad(
            "invalid restart policy: maximum retry count can only be used with 'on-failure', and cannot be negative",
        ));
    }
    if h.auto_remove && !matches!(h.restart_policy.name.as_str(), "" | "no") {
        return Err(bad("can't create 'AutoRemove' container with restart policy"));
    }
    match UNSUPPORTED.iter().find(|(key, _)| h.extra.get(*key).is_some_and(asked)) {
        Some((_, feature)) => Err(ApiError::unsupported(feature)),
        None => Ok(()),
    }
}

/// Keys of `HostConfig` whose silent loss would change what runs.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("Links", "a container link"),
    ("VolumesFrom", "--volumes-from"),
    ("Devices", "--device"),
    ("DeviceRequests", "--gpus and other device requests"),
    ("DeviceCgroupRules", "--device-cgroup-rule"),
    ("BlkioWeight", "--blkio-weight"),
    ("BlkioDeviceReadBps", "--device-read-bps"),
    ("BlkioDeviceWriteBps", "--device-write-bps"),
    ("BlkioDeviceReadIOps", "--device-read-iops"),
    ("BlkioDeviceWriteIOps", "--device-write-iops"),
    ("CpuRealtimePeriod", "--cpu-rt-period"),
    ("CpuRealtimeRuntime", "--cpu-rt-runtime"),
    ("VolumeDriver", "--volume-driver"),
    ("CgroupParent", "--cgroup-parent"),
    ("UsernsMode", "--userns"),
    ("StorageOpt", "--storage-opt"),
];

fn asked(v: &Value) -> bool {
    match v {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_like_dockers() {
        assert_eq!(check_name("/web-1").unwrap(), "web-1");
        assert_eq!(check_name("").unwrap(), "");
        for bad in ["-x", "a b", "a", "/", "ü2"] {
            assert!(check_name(bad).unwrap_err().message.starts_with("Invalid container name"), "{bad}");
        }
    }

    #[test]
    fn the_default_network_is_called_by_its_name() {
        let named = |mode: &str| {
            let mut request: CreateContainer = serde_json::from_value(json!({
                "Image": "x",
                "HostConfig": {"NetworkMode": mode},
                "NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["a"]}}},
            }))
            .unwrap();
            name_default_network(&mut request);
            let endpoints: Vec<String> = request.networking_config.endpoints_config.into_keys().collect();
            (request.host_config.network_mode, endpoints.join(" "))
        };
        for mode in ["", "default"] {
            assert_eq!(named(mode), ("bridge".into(), "bridge".into()), "{mode:?}");
        }
        assert_eq!(named("net"), ("net".into(), "default".into()));
    }

    #[test]
    fn what_is_asked_for_and_not_given_is_refused() {
        let host = |v: Value| check_host_config(&serde_json::from_value(v).unwrap());
        assert!(
            host(json!({"Links": null, "Devices": [], "BlkioWeight": 0, "CgroupParent": "", "ConsoleSize": [1, 2]}))
                .is_ok()
        );
        assert_eq!(host(json!({"Devices": [{}]})).unwrap_err().http_status(), 501);
        assert!(host(json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}})).is_err());
    }
}
