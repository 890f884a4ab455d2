//! Where the node has ways of its own to.
//!
//! A container takes the whole subnet of a network that it is on for that network's: what its node reaches there by
//! itself, docker_gwbridge above all, would be out of its reach. The managers are told, and keep networks off.

use std::{collections::BTreeMap, path::Path};

use ipnet::IpNet;
use malha_model::NodeRoute;

use crate::{error::NetResult, names::Owner, netns::Netns, rtnl::Rtnl, vxlan::VXLAN_DEVICE};

/// Anything wider leads out, as a default route does: some VPNs split that into halves.
const WIDEST: u8 = 8;
/// A node with more of them is a router; the widest are told.
const MOST: usize = 256;

/// IPv4 subnets that the node in `netns` reaches by its main table or has an address in, none within another, in order.
/// Malha's own links to containers are left out.
pub async fn routes(netns: &Path) -> NetResult<Vec<NodeRoute>> {
    let rtnl = Rtnl::open(&Netns::open(netns)?).await?;
    let links = rtnl.links().await?;
    let ours: Vec<u32> =
        links.iter().filter(|l| l.name == VXLAN_DEVICE || Owner::of(l).is_some()).map(|l| l.index).collect();
    let names: BTreeMap<u32, String> = links.into_iter().map(|l| (l.index, l.name)).collect();
    let addresses = rtnl.addresses().await?.into_iter().map(|(link, addr)| (IpNet::from(addr.addr()), Some(link)));
    let all = rtnl.main_routes().await?.into_iter().chain(addresses).collect();
    let told = apart(all, &ours).into_iter().map(|(subnet, link)| NodeRoute {
        subnet,
        device: link.and_then(|l| names.get(&l).cloned()).unwrap_or_default(),
    });
    Ok(told.collect())
}

type ByLink = (IpNet, Option<u32>);

fn apart(mut all: Vec<ByLink>, ours: &[u32]) -> Vec<ByLink> {
    all.retain(|(net, link)| {
        let place = net.prefix_len() >= WIDEST && !net.addr().is_loopback() && !net.addr().is_multicast();
        place && net.addr().is_ipv4() && !link.is_some_and(|l| ours.contains(&l))
    });
    // what holds another comes right before it
    all.sort_by_key(|(net, link)| (net.network(), net.prefix_len(), *link));
    let mut apart: Vec<ByLink> = Vec::new();
    for (net, link) in all {
        if !apart.last().is_some_and(|(last, _)| last.contains(&net)) {
            apart.push((net, link));
        }
    }
    if apart.len() > MOST {
        apart.sort_by_key(|(net, _)| net.prefix_len());
        apart.truncate(MOST);
        apart.sort_by_key(|(net, _)| net.network());
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(all: &[(&str, u32)]) -> Vec<String> {
        let all = all.iter().map(|(net, link)| (net.parse().unwrap(), Some(*link))).collect();
        apart(all, &[9]).into_iter().map(|(net, link)| format!("{net} {}", link.unwrap())).collect()
    }

    #[test]
    fn what_leads_out_and_what_is_ours_is_no_place() {
        let nothing = [("0.0.0.0/0", 1), ("0.0.0.0/1", 1), ("128.0.0.0/1", 1), ("224.0.0.0/8", 1), ("127.0.0.1/32", 1)];
        assert!(told(&nothing).is_empty());
        assert!(told(&[("10.0.1.0/24", 9), ("fd00::/64", 1)]).is_empty());
    }

    #[test]
    fn the_wider_one_stands_for_what_is_in_it() {
        let all = [("192.168.7.1/32", 2), ("10.0.0.0/8", 1), ("192.168.7.0/24", 2), ("10.1.2.0/24", 3)];
        assert_eq!(told(&all), ["10.0.0.0/8 1", "192.168.7.0/24 2"]);
        assert_eq!(told(&[("10.1.0.0/24", 1), ("10.1.1.0/24", 1)]).len(), 2, "neighbours are two");
    }

    #[test]
    fn a_router_tells_its_widest() {
        let host = |n: u32| (format!("{}/32", std::net::Ipv4Addr::from(0x0a00_0000 + n)), 1);
        let mut all: Vec<_> = (0..1000).map(host).collect();
        all.push(("172.16.0.0/12".into(), 2));
        let all: Vec<(&str, u32)> = all.iter().map(|(net, link)| (net.as_str(), *link)).collect();
        let told = told(&all);
        assert_eq!((told.len(), told.last().map(String::as_str)), (MOST, Some("172.16.0.0/12 2")));
    }
}
