//! What a container's network namespace is to contain, from its task.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use malha_model::{Network, NetworkAttachment, NetworkId, NetworkView, PortConfig, PublishMode, Task};

use crate::{
    build::sandbox_id,
    plan::{LinkPlan, SandboxId, SandboxPlan, endpoint_mac},
};

/// MTU assumed of the path between nodes where the network does not say.
const UNDERLAY_MTU: u32 = 1500;
/// Outer Ethernet, IP, UDP and VXLAN headers.
const VXLAN_OVERHEAD: u32 = 50;
/// Smallest MTU that IPv4 allows.
const MIN_MTU: u32 = 68;
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
const IFNAME_OPTION: &str = "com.docker.network.endpoint.ifname";

/// Where a container's network comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// The node's own namespace; nothing is made. No names, no resolver of ours.
    Host,
    /// A namespace of its own.
    Sandbox(SandboxPlan),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("network {0} is not known on this node yet")]
    UnknownNetwork(NetworkId),
    #[error("network {network} has the bad option {MTU_OPTION}={value}")]
    BadMtu { network: String, value: String },
    #[error("interface name {0} is asked for twice")]
    DuplicateInterface(String),
    #[error("interface name {0:?} is not possible: 1 to 15 characters without '/', ':' or blanks, not lo")]
    BadInterface(String),
    #[error("no address on network {0}")]
    NoAddress(String),
}

/// What a sandbox is planned from, for containers that are more than one task (a stand-alone container has one
/// attachment task per network).
#[derive(Clone, Debug, Default)]
pub struct SandboxInputs<'a> {
    pub id: SandboxId,
    /// In the order the user gave them.
    pub attachments: Vec<&'a NetworkAttachment>,
    pub host_ports: Vec<PortConfig>,
    pub sysctls: BTreeMap<String, String>,
}

/// The sandbox of one service task, or of a stand-alone container with a single network.
pub fn task_sandbox(task: &Task, views: &BTreeMap<NetworkId, Arc<NetworkView>>) -> Result<NetworkMode, PlanError> {
    let order = |a: &&NetworkAttachment| {
        let place = task.spec.networks.iter().position(|n| n.target == a.network.as_str());
        place.unwrap_or(usize::MAX)
    };
    let mut attachments: Vec<_> = task.networks.iter().collect();
    attachments.sort_by_key(order);
    let host_ports = task.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Host).cloned().collect();
    let sysctls = task.spec.container_spec.as_ref().map(|c| c.sysctls.clone()).unwrap_or_default();
    build_sandbox(&SandboxInputs { id: sandbox_id(task), attachments, host_ports, sysctls }, views)
}

/// The plan of a sandbox; `Host` where one of its networks is the node's own. The pre-defined `bridge`, and no network
/// at all, are a sandbox with nothing but the way out through `docker_gwbridge`.
pub fn build_sandbox(
    inputs: &SandboxInputs<'_>,
    views: &BTreeMap<NetworkId, Arc<NetworkView>>,
) -> Result<NetworkMode, PlanError> {
    let mut links = Vec::new();
    let mut external = inputs.attachments.is_empty();
    for attachment in &inputs.attachments {
        let Some(view) = views.get(&attachment.network) else {
            return Err(PlanError::UnknownNetwork(attachment.network.clone()));
        };
        let network = &view.network;
        if network.spec.driver == "host" {
            return Ok(NetworkMode::Host);
        }
        external |= !network.spec.internal;
        if let Some(vni) = network.vni() {
            links.push(link_plan(vni, network, attachment)?);
        }
    }
    // stable: user networks keep their order
    links.sort_by_key(|l| l.ingress);
    check_names(&links)?;
    Ok(NetworkMode::Sandbox(SandboxPlan {
        id: inputs.id.clone(),
        links,
        gwbridge: external,
        host_ports: inputs.host_ports.clone(),
        sysctls: inputs
            .sysctls
            .iter()
            .filter(|(k, _)| k.starts_with("net."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    }))
}

fn link_plan(vni: u32, network: &Network, attachment: &NetworkAttachment) -> Result<LinkPlan, PlanError> {
    if attachment.addresses.is_empty() {
        return Err(PlanError::NoAddress(network.name().to_owned()));
    }
    let holds_own = |subnet: &IpNet| attachment.addresses.iter().any(|a| subnet.contains(&a.addr()));
    Ok(LinkPlan {
        vni,
        ifname: attachment.driver_opts.get(IFNAME_OPTION).cloned(),
        addresses: attachment.addresses.clone(),
        mac: endpoint_mac(&attachment.addresses),
        mtu: mtu(network)?,
        ingress: network.spec.ingress,
        other_subnets: network.ipam.iter().filter_map(|c| c.subnet).filter(|s| !holds_own(s)).collect(),
    })
}

/// The option names the MTU of the path between the nodes; what is left after the tunnel's headers is the container's.
fn mtu(network: &Network) -> Result<u32, PlanError> {
    let Some(value) = network.spec.options.get(MTU_OPTION) else { return Ok(UNDERLAY_MTU - VXLAN_OVERHEAD) };
    let bad = || PlanError::BadMtu { network: network.name().to_owned(), value: value.clone() };
    match value.parse::<u32>().map_err(|_| bad())? {
        0 => Ok(UNDERLAY_MTU - VXLAN_OVERHEAD),
        n if (MIN_MTU + VXLAN_OVERHEAD..=65535).contains(&n) => Ok(n - VXLAN_OVERHEAD),
        _ => Err(bad()),
    }
}

fn check_names(links: &[LinkPlan]) -> Result<(), PlanError> {
    let mut seen = BTreeSet::new();
    for name in links.iter().filter_map(|l| l.ifname.as_ref()) {
        let possible = (1..=15).contains(&name.len())
            && !["lo", ".", ".."].contains(&name.as_str())
            && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control());
        if !possible {
            return Err(PlanError::BadInterface(name.clone()));
        }
        if !seen.insert(name) {
            return Err(PlanError::DuplicateInterface(name.clone()));
        }
    }
    Ok(())
}

// === impl SandboxPlan ===

impl SandboxPlan {
    /// The addresses that the container's own host name stands for: those of its user networks.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.links.iter().filter(|l| !l.ingress).flat_map(|l| l.addresses.iter().map(|a| a.addr())).collect()
    }

    /// Container interface of each link, and of the gwbridge link last: what the user asked for, else the next free
    /// `ethN`.
    pub fn interface_names(&self) -> Vec<String> {
        let asked: BTreeSet<&str> = self.links.iter().filter_map(|l| l.ifname.as_deref()).collect();
        let mut free = (0..).map(|n| format!("eth{n}")).filter(|n| !asked.contains(n.as_str()));
        let links = self.links.iter().map(|l| l.ifname.clone());
        let all = links.chain(self.gwbridge.then_some(None));
        all.filter_map(|name| name.or_else(|| free.next())).collect()
    }
}
