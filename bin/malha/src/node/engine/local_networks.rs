//! The networks of this machine: its own four, and those of the swarm that something here uses.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ipnet::IpNet;
use malha_api::backend::{CreateNetwork, LocalEndpoint, LocalNetwork, PeerInfo};
use malha_dataplane::{GWBRIDGE, GwBridgeConfig};
use malha_kit::durable;
use malha_model::{ApiError, ApiResult, Code, IpamConfig, IpamSpec, NetworkView, NodeId, Timestamp};
use malha_netplan::mac_of;
use malha_runtime::Runtime;
use parking_lot::Mutex;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{record::Record, user_gateway::UserGateway};
use crate::node::network::{Gateway, NodeNet, endpoint_id};

/// The networks that are this machine's alone.
pub(crate) struct LocalNetworks {
    ids: Ids,
    state_dir: PathBuf,
    /// A `docker_gwbridge` that the user described.
    gateway: Mutex<Option<UserGateway>>,
}

/// Ids that this machine's own networks keep for good.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ids {
    engine: String,
    created: Timestamp,
    bridge: String,
    docker_gwbridge: String,
    host: String,
    none: String,
}

impl Ids {
    /// Reads them, or draws them once.
    fn load(state_dir: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let path = state_dir.join("networks.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let fresh = Self::draw(now);
                durable::replace(&path, &serde_json::to_vec_pretty(&fresh)?, durable::PUBLIC)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(fresh)
            }
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn draw(now: Timestamp) -> Self {
        let engine = uuid_like(&draw_id());
        Self { engine, created: now, bridge: draw_id(), docker_gwbridge: draw_id(), host: draw_id(), none: draw_id() }
    }
}

fn draw_id() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl LocalNetworks {
    pub(crate) fn load(state_dir: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let gateway = Mutex::new(UserGateway::load(state_dir)?);
        Ok(Self { ids: Ids::load(state_dir, now)?, state_dir: state_dir.to_owned(), gateway })
    }

    pub(crate) fn engine_id(&self) -> &str {
        &self.ids.engine
    }

    /// Of a network that every machine has for itself.
    pub(super) fn own_id(&self, name: &str) -> Option<&str> {
        match name {
            "bridge" => Some(&self.ids.bridge),
            "host" => Some(&self.ids.host),
            "none" => Some(&self.ids.none),
            _ => None,
        }
    }

    /// How `docker_gwbridge` is made where there is none.
    pub(crate) fn gateway_config(&self) -> GwBridgeConfig {
        self.gateway.lock().as_ref().map(UserGateway::bridge).unwrap_or_default()
    }

    /// `docker network create`: of this machine's networks the user makes `docker_gwbridge` alone.
    pub(super) async fn create(&self, net: &NodeNet, request: CreateNetwork, now: Timestamp) -> ApiResult<String> {
        let gateway = UserGateway::asked(request, draw_id(), now)?;
        gateway.save(&self.state_dir).map_err(|e| ApiError::internal(format!("{e:#}")))?;
        if let Err(e) = net.make_gateway(gateway.bridge()).await {
            UserGateway::forget(&self.state_dir).map_err(|e| ApiError::internal(format!("{e:#}")))?;
            return Err(ApiError::plain(Code::FailedPrecondition, e.to_string()));
        }
        let id = gateway.id.clone();
        *self.gateway.lock() = Some(gateway);
        Ok(id)
    }

    /// `docker network rm docker_gwbridge`: the next one is made as if there had been no other.
    pub(super) async fn remove(&self, net: &NodeNet) -> ApiResult<()> {
        net.remove_gateway().await.map_err(|e| ApiError::plain(Code::PermissionDenied, e.to_string()))?;
        UserGateway::forget(&self.state_dir).map_err(|e| ApiError::internal(format!("{e:#}")))?;
        *self.gateway.lock() = None;
        Ok(())
    }

    pub(super) async fn list(&self, runtime: &Runtime, net: &NodeNet) -> Vec<LocalNetwork> {
        let gateway = net.gateway().await;
        let mut networks = vec![
            self.own("bridge", &self.ids.bridge, "bridge"),
            self.own("host", &self.ids.host, "host"),
            self.own("none", &self.ids.none, "null"),
        ];
        networks.extend(self.gwbridge(gateway.as_ref()));
        let endpoints = endpoints(runtime);
        let views = net.current();
        let in_use = views.views.values().filter(|v| v.network.vni().is_some());
        networks.extend(in_use.map(|v| swarm_network(v, endpoints.get(v.network.name()))));
        networks
    }

    fn own(&self, name: &str, id: &str, driver: &str) -> LocalNetwork {
        LocalNetwork {
            id: id.into(),
            name: name.into(),
            created: self.ids.created,
            scope: "local".into(),
            driver: driver.into(),
            enable_ipv4: true,
            ipam: IpamSpec { driver: "default".into(), ..IpamSpec::default() },
            ..LocalNetwork::default()
        }
    }

    /// `docker_gwbridge` as it is, or as it is to be; none where nobody has needed it yet.
    fn gwbridge(&self, gateway: Option<&Gateway>) -> Option<LocalNetwork> {
        let user = self.gateway.lock().clone();
        let mut network = self.own(GWBRIDGE, &self.ids.docker_gwbridge, "bridge");
        if let Some(user) = &user {
            network.id.clone_from(&user.id);
            network.created = user.created;
            network.options.clone_from(&user.options);
            network.labels.clone_from(&user.labels);
        } else {
            let options = [("enable_icc", "false"), ("enable_ip_masquerade", "true"), ("name", GWBRIDGE)];
            let options = options.map(|(k, v)| (format!("com.docker.network.bridge.{k}"), v.to_owned()));
            network.options = options.into_iter().collect();
        }
        let Some(gateway) = gateway else {
            let bridge = user?.bridge();
            let config = IpamConfig {
                subnet: bridge.subnet.map(IpNet::V4),
                gateway: bridge.gateway.map(Into::into),
                ..IpamConfig::default()
            };
            network.ipam.config.push(config);
            return Some(network);
        };
        network.ipam.config.push(IpamConfig {
            subnet: Some(IpNet::V4(gateway.bridge.trunc())),
            gateway: Some(gateway.bridge.addr().into()),
            ..IpamConfig::default()
        });
        let members = gateway.members.iter().map(|(sandbox, addr)| {
            let short = sandbox.get(..12).unwrap_or(sandbox);
            let endpoint = LocalEndpoint {
                name: format!("gateway_{short}"),
                endpoint_id: endpoint_id(sandbox, GWBRIDGE),
                mac_address: mac_of(addr.addr().into()).to_string(),
                ipv4_address: addr.to_string(),
                ipv6_address: String::new(),
            };
            (sandbox.clone(), endpoint)
        });
        network.containers = members.collect();
        Some(network)
    }
}

/// Five groups as Docker's engine id has them.
fn uuid_like(hex: &str) -> String {
    let part = |a: usize, b: usize| hex.get(a..b).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Containers by the name of each network that they are on.
fn endpoints(runtime: &Runtime) -> BTreeMap<String, BTreeMap<String, LocalEndpoint>> {
    let mut out: BTreeMap<String, BTreeMap<String, LocalEndpoint>> = BTreeMap::new();
    for c in runtime.list().into_iter().filter(|c| c.state.status.is_running()) {
        for (network, settings) in Record::of(&c).networks {
            let addr = |ip: &str, prefix: u8| if ip.is_empty() { String::new() } else { format!("{ip}/{prefix}") };
            let endpoint = LocalEndpoint {
                name: c.name.clone(),
                endpoint_id: settings.endpoint_id.clone(),
                mac_address: settings.mac_address.clone(),
                ipv4_address: addr(&settings.ip_address, settings.ip_prefix_len),
                ipv6_address: addr(&settings.global_ipv6_address, settings.global_ipv6_prefix_len),
            };
            out.entry(network).or_default().insert(c.id.clone(), endpoint);
        }
    }
    out
}

fn swarm_network(view: &NetworkView, containers: Option<&BTreeMap<String, LocalEndpoint>>) -> LocalNetwork {
    let network = &view.network;
    let spec = &network.spec;
    let mut options = spec.options.clone();
    let vnis: Vec<String> = network.vnis.iter().map(ToString::to_string).collect();
    options.insert("com.docker.network.driver.overlay.vxlanid_list".into(), vnis.join(","));
    let mut containers = containers.cloned().unwrap_or_default();
    let (key, name) = if spec.ingress {
        ("ingress-sbox".to_owned(), format!("{}-endpoint", spec.name))
    } else {
        (format!("lb-{}", spec.name), format!("{}-endpoint", spec.name))
    };
    if let Some(addr) = network.lb_addresses.first() {
        let endpoint = LocalEndpoint {
            name,
            endpoint_id: endpoint_id(&key, network.id.as_str()),
            mac_address: mac_of(addr.addr()).to_string(),
            ipv4_address: addr.to_string(),
            ipv6_address: String::new(),
        };
        containers.insert(key, endpoint);
    }
    LocalNetwork {
        id: network.id.to_string(),
        name: spec.name.clone(),
        created: network.meta.created_at,
        scope: "swarm".into(),
        driver: spec.driver.clone(),
        enable_ipv4: true,
        enable_ipv6: spec.enable_ipv6,
        ipam: IpamSpec { driver: "default".into(), options: None, config: network.ipam.clone() },
        internal: spec.internal,
        attachable: spec.attachable,
        ingress: spec.ingress,
        options,
        labels: spec.labels.clone(),
        containers,
        peers: view.peers.iter().map(|(node, p)| PeerInfo { name: peer_name(node), ip: p.addr.to_string() }).collect(),
    }
}

/// The name under which Docker's gossip knows a node: 12 digits, drawn at each start there. Here they are derived, so
/// that a node is the same peer on every network and for as long as it is a member.
fn peer_name(node: &NodeId) -> String {
    endpoint_id("peer", node.as_str()).chars().take(12).collect()
}
