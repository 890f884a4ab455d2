//! What a user asks of the swarm, of a node and of a network, in the shape of the Docker API
//! (moby `api/types/swarm/{swarm,node}.go`, `api/types/network`).

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    nullable::nullable,
    spec_service::{Extra, Labels, Nanos, Platform},
};

/// `Spec` of `docker swarm init|update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ClusterSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(deserialize_with = "nullable")]
    pub orchestration: Orchestration,
    #[serde(deserialize_with = "nullable")]
    pub raft: RaftSpec,
    #[serde(deserialize_with = "nullable")]
    pub dispatcher: DispatcherSpec,
    #[serde(rename = "CAConfig", deserialize_with = "nullable")]
    pub ca_config: CaSpec,
    #[serde(deserialize_with = "nullable")]
    pub task_defaults: BTreeMap<String, Value>,
    #[serde(deserialize_with = "nullable")]
    pub encryption_config: EncryptionSpec,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Orchestration {
    /// Finished tasks kept per slot; negative keeps all, absent is 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_history_retention_limit: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftSpec {
    pub snapshot_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_old_snapshots: Option<u64>,
    pub log_entries_for_slow_followers: u64,
    pub election_tick: u64,
    pub heartbeat_tick: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DispatcherSpec {
    /// Session heartbeat, nanoseconds.
    pub heartbeat_period: Nanos,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaSpec {
    /// Lifetime of a node certificate, nanoseconds.
    pub node_cert_expiry: Nanos,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EncryptionSpec {
    pub auto_lock_managers: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    pub role: Role,
    pub availability: Availability,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Worker,
    Manager,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    #[default]
    Active,
    Pause,
    Drain,
}

/// What a node says of itself when its session opens, and again when its routes change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeDescription {
    pub hostname: String,
    pub platform: Platform,
    pub resources: NodeResources,
    pub engine: EngineDescription,
    #[serde(rename = "TLSInfo", skip_serializing_if = "Option::is_none")]
    pub tls_info: Option<TlsInfo>,
    /// Where it has ways of its own to, beside those that lead out. Not in Docker's description.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub routes: Vec<NodeRoute>,
}

/// A subnet that a node reaches by itself: no network of the swarm may lie there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeRoute {
    pub subnet: IpNet,
    /// The interface that leads there.
    #[serde(default)]
    pub device: String,
}

impl NodeRoute {
    pub fn overlaps(&self, subnet: &IpNet) -> bool {
        self.subnet.contains(subnet) || subnet.contains(&self.subnet)
    }
}

impl std::fmt::Display for NodeRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.subnet, self.device)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeResources {
    #[serde(rename = "NanoCPUs")]
    pub nano_cpus: i64,
    pub memory_bytes: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineDescription {
    pub engine_version: String,
    #[serde(skip_serializing_if = "Labels::is_empty", deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(deserialize_with = "nullable")]
    pub plugins: Vec<PluginDescription>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginDescription {
    #[serde(rename = "Type")]
    pub kind: String,
    pub name: String,
}

/// The three values are base64 (`CertIssuer*`) and PEM (`TrustRoot`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TlsInfo {
    pub trust_root: String,
    pub cert_issuer_subject: String,
    pub cert_issuer_public_key: String,
}

/// `POST /networks/create` for a swarm-scoped network, validated and kept as asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSpec {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    /// `overlay`, or `bridge`/`host` for the pre-defined networks that services may name.
    pub driver: String,
    #[serde(deserialize_with = "nullable")]
    pub options: Labels,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    #[serde(deserialize_with = "nullable")]
    pub ipam: IpamSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamSpec {
    pub driver: String,
    pub options: Option<Labels>,
    #[serde(deserialize_with = "nullable")]
    pub config: Vec<IpamConfig>,
}

/// One subnet. As asked, any field may be absent; as allocated, subnet and gateway are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<IpNet>,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Host name → address that must not be given out.
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub auxiliary_addresses: BTreeMap<String, IpAddr>,
}
