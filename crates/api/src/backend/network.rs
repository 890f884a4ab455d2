//! Networks as this machine has them: its own, and those of the swarm that something here uses.

use std::collections::BTreeMap;

use malha_model::{IpamSpec, Labels, Timestamp};
use serde::{Deserialize, Serialize};

use crate::json::nullable;

/// A network that exists on this machine. For a swarm network `id` is the swarm's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalNetwork {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    /// `local` or `swarm`.
    pub scope: String,
    /// `bridge`, `host`, `null` or `overlay`.
    pub driver: String,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    pub ipam: IpamSpec,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub options: Labels,
    pub labels: Labels,
    /// By container id, or `lb-<network>`, `ingress-sbox` for the endpoints of the node itself.
    pub containers: BTreeMap<String, LocalEndpoint>,
    /// Nodes on this network, this one included; empty for local networks.
    pub peers: Vec<PeerInfo>,
}

/// An entry of `Containers` in `network inspect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LocalEndpoint {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub mac_address: String,
    /// With prefix length; empty where there is none.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "IP")]
    pub ip: String,
}

/// A network of this machine alone. The API has checked name, subnets and options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreateNetwork {
    pub name: String,
    pub driver: String,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    pub ipam: IpamSpec,
    pub internal: bool,
    pub attachable: bool,
    pub options: Labels,
    pub labels: Labels,
}

/// `NetworkingConfig` of a container create: by network name or id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    #[serde(deserialize_with = "nullable")]
    pub endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
}

/// One network of a container, as asked for and as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    #[serde(deserialize_with = "nullable")]
    pub links: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub aliases: Option<Vec<String>>,
    pub mac_address: String,
    #[serde(deserialize_with = "nullable")]
    pub driver_opts: Option<Labels>,
    pub gw_priority: i64,
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub gateway: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames", deserialize_with = "nullable")]
    pub dns_names: Option<Vec<String>>,
}

/// False of the networks that every machine has: those know no names.
pub fn is_user_defined(network: &str) -> bool {
    !matches!(network, "" | "default" | "bridge" | "host" | "none")
}

/// Addresses that the user chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointIpam {
    #[serde(rename = "IPv4Address", default, skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address", default, skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
    #[serde(rename = "LinkLocalIPs", default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub link_local_ips: Vec<String>,
}

/// Body of `POST /networks/{id}/connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConnectNetwork {
    pub container: String,
    #[serde(deserialize_with = "nullable")]
    pub endpoint_config: EndpointSettings,
}

/// Body of `POST /networks/{id}/disconnect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DisconnectNetwork {
    pub container: String,
    pub force: bool,
}
