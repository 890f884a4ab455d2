//! Subnets for networks and addresses for their tasks, VIPs and load balancers.
//!
//! What is in use is read off the objects each time; nothing is kept beside them. Addresses are given out next-fit from
//! [`Network::cursor`], so that a freed one rests while names and caches forget it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use malha_model::{ApiError, ApiResult, Code, IpamConfig, Network, NetworkAttachment, NetworkId, Node, TaskState};
use malha_store::{State, Tx};

use super::routes::Routes;

/// The network cannot give what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("network {0} not found")]
    NoNetwork(String),
    #[error("network {network} has no free addresses in {subnets}")]
    Exhausted { network: String, subnets: String },
    #[error("no configured subnet contains IP address {0}")]
    Outside(IpAddr),
    #[error("Address already in use")]
    Taken(IpAddr),
}

impl From<AddressError> for ApiError {
    fn from(e: AddressError) -> Self {
        let code = match e {
            AddressError::NoNetwork(_) => Code::NotFound,
            AddressError::Exhausted { .. } | AddressError::Outside(_) => Code::FailedPrecondition,
            AddressError::Taken(_) => Code::PermissionDenied,
        };
        Self::rpc(code, e)
    }
}

// === subnets ===

const OVERLAPS: &str = "invalid pool request: Pool overlaps with other one on this address space";

/// Fills in the subnets and gateways of `network`, against all others in `state` and what nodes reach by themselves.
pub(crate) fn allocate_subnets(state: &State, network: &mut Network) -> ApiResult<()> {
    let mut taken = taken_subnets(state);
    let routes = Routes::of(state);
    let mut asked = network.spec.ipam.config.clone();
    if asked.is_empty() {
        asked.push(IpamConfig::default());
    }
    // Subnets that were asked for go first, so that a pool slice never takes one of them.
    for subnet in asked.iter().filter_map(|c| c.subnet) {
        if let Some((other, name)) = taken.iter().find(|(other, _)| overlap(other, &subnet)) {
            let desc = format!("{OVERLAPS}: {subnet} overlaps {other} of network {name}");
            return Err(ApiError::rpc(Code::PermissionDenied, desc));
        }
        // Its containers could not tell that node's own network from theirs.
        if let Some((node, addr)) = node_addrs(state).find(|(_, addr)| subnet.contains(addr)) {
            let desc = format!("subnet {subnet} holds the address {addr} of node {node}");
            return Err(ApiError::rpc(Code::PermissionDenied, desc));
        }
        if let Some(found) = routes.overlapping(&subnet) {
            return Err(ApiError::rpc(Code::PermissionDenied, format!("{OVERLAPS}: {subnet} overlaps {found}")));
        }
        taken.push((subnet, network.spec.name.clone()));
    }
    for config in &mut asked {
        let subnet = match config.subnet {
            Some(subnet) => subnet,
            None => free_slice(state, &taken, &routes)?,
        };
        taken.push((subnet, network.spec.name.clone()));
        config.subnet = Some(subnet);
        if config.gateway.is_none() {
            config.gateway = default_gateway(config);
        }
        if config.gateway.is_none() {
            return Err(ApiError::invalid(format!("subnet {subnet} is too small")));
        }
    }
    network.ipam = asked;
    Ok(())
}

fn taken_subnets(state: &State) -> Vec<(IpNet, String)> {
    let of = |n: &Network| n.ipam.iter().filter_map(|c| c.subnet).map(|s| (s, n.spec.name.clone())).collect::<Vec<_>>();
    state.networks().flat_map(|n| of(n)).collect()
}

/// Where the nodes are on the underlay, with their names.
fn node_addrs(state: &State) -> impl Iterator<Item = (String, IpAddr)> {
    let addrs = |n: &Node| [n.status.addr.parse().ok(), n.data_path_addr];
    state.nodes().flat_map(move |n| {
        let name = n.name().to_owned();
        addrs(n).into_iter().flatten().map(move |addr| (name.clone(), addr)).collect::<Vec<_>>()
    })
}

pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first slice of the swarm's pools that is free of other networks, of the nodes and of what they reach.
fn free_slice(state: &State, taken: &[(IpNet, String)], routes: &Routes<'_>) -> ApiResult<IpNet> {
    let nodes: Vec<IpAddr> = node_addrs(state).map(|(_, addr)| addr).collect();
    let exhausted = "all predefined address pools have been fully subnetted";
    let cluster = state.cluster().ok_or_else(|| ApiError::invalid(exhausted))?;
    let mut in_the_way = None;
    for pool in &cluster.default_addr_pool {
        let Ok(slices) = pool.subnets(cluster.subnet_size.max(pool.prefix_len())) else { continue };
        for slice in slices {
            if !taken.iter().any(|(other, _)| overlap(other, &slice)) && !nodes.iter().any(|n| slice.contains(n)) {
                match routes.overlapping(&slice) {
                    Some(found) => in_the_way = in_the_way.or(Some(found)),
                    None => return Ok(slice),
                }
            }
        }
    }
    Err(ApiError::invalid(match in_the_way {
        Some(found) => format!("{exhausted}, or overlap {found}"),
        None => exhausted.to_owned(),
    }))
}

/// The first usable address that is not an auxiliary one.
fn default_gateway(config: &IpamConfig) -> Option<IpAddr> {
    let bare = IpamConfig { ip_range: None, gateway: None, ..config.clone() };
    next_free(&bare, &BTreeSet::new(), None)
}

// === addresses ===

/// The addresses in use on the networks that one pass touches.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pools: BTreeMap<NetworkId, Pool>,
}

#[derive(Debug)]
struct Pool {
    name: String,
    ipam: Vec<IpamConfig>,
    cursor: Vec<IpAddr>,
    used: BTreeSet<IpAddr>,
}

impl Addresses {
    /// One free address of each address family that the network has.
    pub(crate) fn take(&mut self, state: &State, id: &NetworkId) -> Result<Vec<IpNet>, AddressError> {
        self.pool(state, id)?.take()
    }

    /// Exactly these addresses.
    pub(crate) fn take_given(
        &mut self,
        state: &State,
        id: &NetworkId,
        given: &[IpNet],
    ) -> Result<Vec<IpNet>, AddressError> {
        let pool = self.pool(state, id)?;
        let mut out = Vec::new();
        for addr in given.iter().map(IpNet::addr) {
            let config = pool.ipam.iter().find(|c| c.subnet.is_some_and(|s| s.contains(&addr)));
            let config = config.ok_or(AddressError::Outside(addr))?;
            if pool.used.contains(&addr) || is_reserved(config, addr) {
                return Err(AddressError::Taken(addr));
            }
            pool.used.insert(addr);
            out.extend(config.subnet.map(|s| with_prefix(addr, s)));
        }
        Ok(out)
    }

    /// What [`Self::undo`] goes back to.
    pub(crate) fn mark(&self) -> BTreeMap<NetworkId, Vec<IpAddr>> {
        self.pools.iter().map(|(id, pool)| (id.clone(), pool.cursor.clone())).collect()
    }

    /// Forgets everything that happened since `mark`, in which `taken` was given out.
    pub(crate) fn undo(&mut self, mark: BTreeMap<NetworkId, Vec<IpAddr>>, taken: &[NetworkAttachment]) {
        self.pools.retain(|id, _| mark.contains_key(id));
        for (id, cursor) in mark {
            let Some(pool) = self.pools.get_mut(&id) else { continue };
            pool.cursor = cursor;
            let back = taken.iter().filter(|a| a.network == id).flat_map(|a| &a.addresses);
            back.for_each(|a| _ = pool.used.remove(&a.addr()));
        }
    }

    /// Writes the cursors that moved.
    pub(crate) fn save(self, tx: &mut Tx) {
        for (id, pool) in self.pools {
            if let Some(held) = tx.network(&id).filter(|n| n.cursor != pool.cursor) {
                let network = Network { cursor: pool.cursor, ..(**held).clone() };
                tx.put(network);
            }
        }
    }

    fn pool(&mut self, state: &State, id: &NetworkId) -> Result<&mut Pool, AddressError> {
        match self.pools.entry(id.clone()) {
            std::collections::btree_map::Entry::Occupied(e) => Ok(e.into_mut()),
            std::collections::btree_map::Entry::Vacant(e) => {
                let network = state.network(id).ok_or_else(|| AddressError::NoNetwork(id.to_string()))?;
                Ok(e.insert(Pool::read(state, network)))
            }
        }
    }
}

impl Pool {
    fn read(state: &State, network: &Network) -> Self {
        let tasks = state.tasks_of_network(&network.id).filter(|t| holds_addresses(t.status.state));
        let of_tasks = tasks.flat_map(|t| t.networks.iter().filter(|a| a.network == network.id));
        let vips = state.services_of_network(&network.id).flat_map(|s| &s.endpoint.virtual_ips);
        let mut used: BTreeSet<IpAddr> = of_tasks.flat_map(|a| a.addresses.iter().map(IpNet::addr)).collect();
        used.extend(vips.filter(|v| v.network == network.id).map(|v| v.addr.addr()));
        used.extend(network.lb_addresses.iter().map(IpNet::addr));
        Self { name: network.spec.name.clone(), ipam: network.ipam.clone(), cursor: network.cursor.clone(), used }
    }

    fn take(&mut self) -> Result<Vec<IpNet>, AddressError> {
        let mut out = Vec::new();
        for v4 in [true, false] {
            let of_family = |s: &IpNet| matches!(s, IpNet::V4(_)) == v4;
            if !self.ipam.iter().filter_map(|c| c.subnet).any(|s| of_family(&s)) {
                continue;
            }
            let found = self.ipam.iter().enumerate().find_map(|(i, config)| {
                let subnet = config.subnet.filter(of_family)?;
                let after = self.cursor.iter().copied().find(|c| subnet.contains(c));
                next_free(config, &self.used, after).map(|addr| (i, addr, subnet))
            });
            let Some((_, addr, subnet)) = found else {
                self.used.retain(|a| !out.iter().any(|n: &IpNet| n.addr() == *a));
                return Err(self.exhausted());
            };
            self.used.insert(addr);
            self.cursor.retain(|c| !subnet.contains(c));
            self.cursor.push(addr);
            self.cursor.sort_unstable();
            out.push(with_prefix(addr, subnet));
        }
        if out.is_empty() { Err(self.exhausted()) } else { Ok(out) }
    }

    fn exhausted(&self) -> AddressError {
        let subnets: Vec<String> =
            self.ipam.iter().filter_map(|c| c.ip_range.or(c.subnet)).map(|s| s.to_string()).collect();
        AddressError::Exhausted { network: self.name.clone(), subnets: subnets.join(", ") }
    }
}

/// A task keeps its addresses until it has ended.
pub(crate) fn holds_addresses(state: TaskState) -> bool {
    !state.is_terminal()
}

/// The first free address after `after`, coming round to the start of the range.
fn next_free(config: &IpamConfig, used: &BTreeSet<IpAddr>, after: Option<IpAddr>) -> Option<IpAddr> {
    let range = config.ip_range.or(config.subnet)?;
    let (first, last) = (number(range.network()), number(range.broadcast()));
    let size = (last - first).saturating_add(1);
    let start = after.map(number).filter(|a| (first..last).contains(a)).map_or(first, |a| a + 1);
    // Among this many neighbours one is free, or none is.
    let tries = size.min(used.len() as u128 + config.auxiliary_addresses.len() as u128 + 4);
    let nth = |i: u128| first + ((start - first) + i) % size;
    (0..tries).map(|i| address(range, nth(i))).find(|a| !used.contains(a) && !is_reserved(config, *a))
}

/// The subnet's first address, and the last of IPv4, mean the subnet itself.
pub(crate) fn is_edge(subnet: IpNet, addr: IpAddr) -> bool {
    subnet.network() == addr || (subnet.network().is_ipv4() && subnet.broadcast() == addr)
}

fn is_reserved(config: &IpamConfig, addr: IpAddr) -> bool {
    let edge = config.subnet.is_some_and(|s| is_edge(s, addr));
    edge || config.gateway == Some(addr) || config.auxiliary_addresses.values().any(|a| *a == addr)
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn address(range: IpNet, n: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(n).unwrap_or(u32::MAX).into()),
        IpNet::V6(_) => IpAddr::V6(n.into()),
    }
}

fn with_prefix(addr: IpAddr, subnet: IpNet) -> IpNet {
    match addr {
        IpAddr::V4(a) => IpNet::V4(Ipv4Net::new_assert(a, subnet.prefix_len())),
        IpAddr::V6(a) => IpNet::V6(Ipv6Net::new_assert(a, subnet.prefix_len())),
    }
}
