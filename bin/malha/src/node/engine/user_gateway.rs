//! `docker_gwbridge` as the user wants it: `docker network create … docker_gwbridge` before the node needs one.
//!
//! Kept in the node's state, and used whenever the bridge is made, until the network is removed. A bridge device of that
//! name that somebody else made is taken as it is, with or without this.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use malha_api::backend::CreateNetwork;
use malha_dataplane::{GWBRIDGE, GwBridgeConfig};
use malha_kit::durable;
use malha_model::{ApiError, ApiResult, Code, IpamConfig, Labels, Timestamp};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "com.docker.network.bridge.";
const MTU: &str = "com.docker.network.driver.mtu";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UserGateway {
    pub(super) id: String,
    pub(super) created: Timestamp,
    pub(super) options: Labels,
    pub(super) labels: Labels,
    config: Bridge,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Bridge {
    subnet: Option<Ipv4Net>,
    gateway: Option<std::net::Ipv4Addr>,
    mtu: Option<u32>,
}

impl UserGateway {
    /// Reads what a request asks for; what cannot be had is refused.
    pub(super) fn asked(request: CreateNetwork, id: String, created: Timestamp) -> ApiResult<Self> {
        if request.name != GWBRIDGE {
            return Err(ApiError::unsupported("a network of local scope other than docker_gwbridge"));
        }
        if request.internal || request.enable_ipv6 || !request.enable_ipv4 {
            return Err(ApiError::unsupported("docker_gwbridge without IPv4, with IPv6, or without a way out"));
        }
        let mtu = mtu(&request.options)?;
        let config = match &request.ipam.config[..] {
            [] => Bridge { mtu, ..Bridge::default() },
            [one] => Bridge { mtu, ..addresses(one)? },
            _ => return Err(ApiError::unsupported("more than one subnet on docker_gwbridge")),
        };
        Ok(Self { id, created, options: request.options, labels: request.labels, config })
    }

    pub(super) fn bridge(&self) -> GwBridgeConfig {
        GwBridgeConfig {
            subnet: self.config.subnet,
            gateway: self.config.gateway,
            mtu: self.config.mtu,
            ..GwBridgeConfig::default()
        }
    }

    pub(super) fn load(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = file(state_dir);
        match std::fs::read(&path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(super) fn save(&self, state_dir: &Path) -> anyhow::Result<()> {
        let path = file(state_dir);
        durable::replace(&path, &serde_json::to_vec_pretty(self)?, durable::PUBLIC)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn forget(state_dir: &Path) -> anyhow::Result<()> {
        match std::fs::remove_file(file(state_dir)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("cannot forget docker_gwbridge"),
            _ => Ok(()),
        }
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("docker_gwbridge.json")
}

fn addresses(config: &IpamConfig) -> ApiResult<Bridge> {
    if config.ip_range.is_some() || !config.auxiliary_addresses.is_empty() {
        return Err(ApiError::unsupported("--ip-range and --aux-address of docker_gwbridge"));
    }
    match (config.subnet, config.gateway) {
        (Some(IpNet::V4(subnet)), None) => Ok(Bridge { subnet: Some(subnet), ..Bridge::default() }),
        (Some(IpNet::V4(subnet)), Some(std::net::IpAddr::V4(gateway))) => {
            Ok(Bridge { subnet: Some(subnet), gateway: Some(gateway), mtu: None })
        }
        _ => Err(ApiError::unsupported("docker_gwbridge without an IPv4 subnet")),
    }
}

/// The containers on this bridge reach the node and the world, never each other: what says otherwise is refused.
fn mtu(options: &Labels) -> ApiResult<Option<u32>> {
    let mut mtu = None;
    for (key, value) in options {
        let as_it_is = match key.strip_prefix(PREFIX) {
            Some("name") => value == GWBRIDGE,
            Some("enable_icc") => value == "false",
            Some("enable_ip_masquerade") => value == "true",
            _ if key == MTU => {
                let parsed = value.parse().ok().filter(|m| (68..=65535).contains(m));
                let bad = || format!("invalid value \"{value}\" for option {MTU}");
                mtu = Some(parsed.ok_or_else(|| ApiError::plain(Code::InvalidArgument, bad()))?);
                true
            }
            _ => false,
        };
        if !as_it_is {
            return Err(ApiError::unsupported(format!("the option {key}={value} of docker_gwbridge")));
        }
    }
    Ok(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, options: &[(&str, &str)]) -> ApiResult<UserGateway> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request = CreateNetwork { name: name.into(), enable_ipv4: true, options, ..CreateNetwork::default() };
        UserGateway::asked(request, "id".into(), Timestamp::ZERO)
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let name = "com.docker.network.bridge.name";
        let icc = "com.docker.network.bridge.enable_icc";
        let made = asked(GWBRIDGE, &[(name, GWBRIDGE), (icc, "false"), (MTU, "1400")]).unwrap();
        assert_eq!(made.bridge(), GwBridgeConfig { mtu: Some(1400), ..GwBridgeConfig::default() });
        assert_eq!(asked("other", &[]).unwrap_err().http_status(), 501);
        assert!(asked(GWBRIDGE, &[(icc, "true")]).unwrap_err().message.contains("enable_icc=true"));
        assert!(asked(GWBRIDGE, &[(name, "br7")]).unwrap_err().message.contains("name=br7"));
        assert_eq!(asked(GWBRIDGE, &[(MTU, "1")]).unwrap_err().http_status(), 400);
    }
}
