//! A [`NetPlan`] as rows of the maps. Pure: equal plans and links give equal rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use malha_model::Protocol;
use malha_netplan::{EndpointPlan, Location, NetPlan, NetworkPlan, SandboxId, mac_of};

use super::layout::{Backend, Endpoint, EndpointKey, Front, NET_INGRESS, PeerKey, kind};

/// Which link of this node a sandbox has on a network.
pub(super) type Links = BTreeMap<(SandboxId, u32), u32>;

/// Local endpoints, but for their link.
pub(super) type Waiting = BTreeMap<(SandboxId, u32), Vec<(EndpointKey, Endpoint)>>;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub networks: BTreeMap<u32, u32>,
    pub peers: BTreeMap<PeerKey, u32>,
    /// With serial zero: who owned an address before is not known here.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    /// With the VNI that the backends are on.
    pub services: BTreeMap<Front, (u32, BTreeSet<Backend>)>,
    /// Local endpoints whose link is still to come.
    pub waiting: Waiting,
}

impl Rows {
    pub(super) fn of(plan: &NetPlan, links: &Links) -> Self {
        let mut rows = Self::default();
        for (&vni, network) in &plan.networks {
            rows.add_network(vni, network, links);
        }
        for (&(protocol, port), published) in &plan.published {
            let backends = published.backends.iter();
            let backends = backends.map(|b| Backend { addr: b.addr.into(), port: b.target_port.into(), pad: 0 });
            rows.services.insert(published_front(protocol, port), (published.vni, backends.collect()));
        }
        rows
    }

    fn add_network(&mut self, vni: u32, network: &NetworkPlan, links: &Links) {
        let flags = if network.ingress { NET_INGRESS } else { 0 };
        self.networks.insert(vni, flags);
        self.peers.extend(network.peers.iter().map(|&p| (PeerKey { vni, addr: p.into() }, flags)));
        // Rows of the network itself come first: a container that has such an address by mistake wins.
        for (kind, addresses) in [(kind::GATEWAY, &network.gateways), (kind::BALANCER, &network.lb_addresses)] {
            self.endpoints.extend(addresses.iter().map(|&a| virtual_row(vni, a, kind)));
        }
        for (&vip, backends) in &network.vips {
            self.endpoints.extend([virtual_row(vni, vip, kind::VIP)]);
            let front = Front { vni, addr: vip.into(), ..Front::default() };
            let backends = backends.iter().map(|&b| Backend { addr: b.into(), ..Backend::default() });
            self.services.insert(front, (vni, backends.collect()));
        }
        for (&addr, endpoint) in &network.endpoints {
            self.add_endpoint(vni, addr, endpoint, links);
        }
    }

    fn add_endpoint(&mut self, vni: u32, addr: IpAddr, endpoint: &EndpointPlan, links: &Links) {
        let key = EndpointKey { vni, addr: addr.into() };
        let row = Endpoint { mac: endpoint.mac.0, owner: endpoint.owner, ..Endpoint::default() };
        let row = match &endpoint.at {
            Location::Remote(node) => Endpoint { kind: kind::REMOTE, remote: (*node).into(), ..row },
            Location::Local(sandbox) => {
                let row = Endpoint { kind: kind::LOCAL, ..row };
                let Some(&ifindex) = links.get(&(sandbox.clone(), vni)) else {
                    self.waiting.entry((sandbox.clone(), vni)).or_default().push((key, row));
                    return;
                };
                Endpoint { ifindex, ..row }
            }
        };
        self.endpoints.insert(key, row);
    }
}

fn virtual_row(vni: u32, addr: IpAddr, kind: u8) -> (EndpointKey, Endpoint) {
    (EndpointKey { vni, addr: addr.into() }, Endpoint { kind, mac: mac_of(addr).0, ..Endpoint::default() })
}

pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn published_front(protocol: Protocol, port: u16) -> Front {
    Front { port: port.into(), proto: protocol_number(protocol), ..Front::default() }
}

/// New contents of a service's slots: who stays keeps its slot, who comes takes a freed one or the end, and the last
/// fill what is left. So one change of a service is one slot, whatever its size.
pub(super) fn arrange(old: &[Backend], wanted: &BTreeSet<Backend>) -> Vec<Backend> {
    let mut seen = BTreeSet::new();
    let mut slots: Vec<Option<Backend>> =
        old.iter().map(|b| (wanted.contains(b) && seen.insert(*b)).then_some(*b)).collect();
    let mut coming = wanted.difference(&seen).copied();
    for slot in slots.iter_mut().filter(|s| s.is_none()) {
        *slot = coming.next();
    }
    slots.extend(coming.map(Some));
    while let Some(hole) = slots.iter().position(Option::is_none) {
        slots.swap_remove(hole);
    }
    slots.into_iter().flatten().collect()
}

#[cfg(test)]
#[path = "tables_test.rs"]
mod test;
