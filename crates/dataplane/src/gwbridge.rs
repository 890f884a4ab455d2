//! `docker_gwbridge`: how containers reach everything that is not one of their networks.
//!
//! A kernel bridge on the node, one port per container, the default route of each. Its ports are isolated: containers
//! reach the node and the world beyond it, not each other. Which addresses are given out is read from the live links
//! (each carries its owner and address in its alias), so there is no second record to disagree with the kernel.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use malha_netplan::mac_of;

use crate::{
    error::{NetError, NetResult},
    names::{BRIDGE_ALIAS, LinkKey, Owner},
    netns::Netns,
    rtnl::{Link, Rtnl},
};

pub const GWBRIDGE: &str = "docker_gwbridge";

/// What is made where there is no `docker_gwbridge` yet. One that exists is taken as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GwBridgeConfig {
    /// The user's subnet; else the first of Docker's local pools that the node has no route into.
    pub subnet: Option<Ipv4Net>,
    /// The bridge's own address; else the first of the subnet.
    pub gateway: Option<Ipv4Addr>,
    pub mtu: Option<u32>,
    /// Where the swarm's networks are or will be: the automatic subnet is another, unless there is no other.
    pub avoid: Vec<IpNet>,
}

/// The bridge as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GwBridge {
    pub index: u32,
    /// The bridge's address with the length of its subnet.
    pub gateway: Ipv4Net,
    pub mtu: u32,
}

impl GwBridge {
    /// Adopts the bridge, or makes it.
    pub(crate) async fn ensure(node: &Netns, rtnl: &Rtnl, config: &GwBridgeConfig) -> NetResult<Self> {
        let existing = rtnl.link(GWBRIDGE).await?;
        let link = match existing {
            Some(link) if link.kind == "bridge" => link,
            Some(_) => return Err(NetError::WrongKind { name: GWBRIDGE.into(), expected: "bridge" }),
            None => make(rtnl, config).await?,
        };
        let gateway = match address_of(rtnl, &link).await? {
            Some(gateway) => gateway,
            None => {
                let gateway = choose(rtnl, config).await?;
                rtnl.add_address(link.index, IpNet::V4(gateway)).await?;
                gateway
            }
        };
        rtnl.up(GWBRIDGE).await?;
        // lets 127.0.0.1:port of the node lead to a container; the rules keep containers from using it the other way
        let localnet = (format!("net.ipv4.conf.{GWBRIDGE}.route_localnet"), "1".to_owned());
        node.set_sysctls(vec![localnet]).await?;
        Ok(Self { index: link.index, gateway, mtu: config.mtu.unwrap_or(link.mtu) })
    }

    /// The bridge is ours to remove where we made it.
    pub(crate) async fn remove(rtnl: &Rtnl) -> NetResult<()> {
        match rtnl.link(GWBRIDGE).await? {
            Some(link) if link.alias.as_deref() == Some(BRIDGE_ALIAS) => rtnl.delete_link(GWBRIDGE).await,
            _ => Ok(()),
        }
    }

    pub(crate) fn subnet(&self) -> Ipv4Net {
        self.gateway.trunc()
    }

    /// The next address after `last` that no live link has: an address just freed is the last to come back, so that
    /// flows that the kernel still remembers do not reach its next owner.
    pub(crate) fn next_address(&self, links: &[Link], last: Option<Ipv4Addr>) -> NetResult<Ipv4Net> {
        let used: BTreeSet<IpAddr> = links
            .iter()
            .filter_map(Owner::of)
            .filter_map(|o| match o.key {
                LinkKey::Gateway(addr) => Some(addr.addr()),
                LinkKey::Overlay(_) => None,
            })
            .collect();
        let free = |a: &Ipv4Addr| *a != self.gateway.addr() && !used.contains(&IpAddr::V4(*a));
        let after = self.subnet().hosts().filter(|a| last.is_none_or(|l| *a > l)).find(free);
        let addr = after.or_else(|| self.subnet().hosts().find(free));
        let addr = addr.ok_or_else(|| NetError::NoAddress { bridge: GWBRIDGE.into() })?;
        Ipv4Net::new(addr, self.gateway.prefix_len()).map_err(|_| NetError::NoAddress { bridge: GWBRIDGE.into() })
    }
}

async fn make(rtnl: &Rtnl, config: &GwBridgeConfig) -> NetResult<Link> {
    let gateway = choose(rtnl, config).await?;
    // a bridge without an address of its own takes its ports', and changes it with them
    rtnl.add_bridge(GWBRIDGE, mac_of(IpAddr::V4(gateway.addr())), config.mtu.unwrap_or(1500)).await?;
    rtnl.describe(GWBRIDGE, BRIDGE_ALIAS).await?;
    let link = rtnl.link(GWBRIDGE).await?;
    let link = link.ok_or(NetError::WrongKind { name: GWBRIDGE.into(), expected: "bridge" })?;
    rtnl.add_address(link.index, IpNet::V4(gateway)).await?;
    Ok(link)
}

async fn address_of(rtnl: &Rtnl, link: &Link) -> NetResult<Option<Ipv4Net>> {
    let all = rtnl.addresses().await?;
    Ok(all.into_iter().find_map(|(index, addr)| match addr {
        IpNet::V4(v4) if index == link.index => Some(v4),
        _ => None,
    }))
}

/// Address of a bridge that is to be made.
async fn choose(rtnl: &Rtnl, config: &GwBridgeConfig) -> NetResult<Ipv4Net> {
    let subnet = match config.subnet {
        Some(subnet) => subnet.trunc(),
        None => {
            let routed = rtnl.routed(GWBRIDGE).await?;
            let all = [routed.as_slice(), config.avoid.as_slice()].concat();
            free_subnet(&all).or_else(|_| free_subnet(&routed))?
        }
    };
    let gateway = config.gateway.filter(|g| subnet.contains(g)).or_else(|| subnet.hosts().next());
    let no_address = || NetError::NoAddress { bridge: GWBRIDGE.into() };
    Ipv4Net::new(gateway.ok_or_else(no_address)?, subnet.prefix_len()).map_err(|_| no_address())
}

/// Docker's local pools in its order, less 172.17.0.0/16 which is `docker0`'s.
fn pools() -> impl Iterator<Item = Ipv4Net> {
    let large = (18..=31).filter_map(|n| Ipv4Net::new(Ipv4Addr::new(172, n, 0, 0), 16).ok());
    let small = (0..16).filter_map(|n| Ipv4Net::new(Ipv4Addr::new(192, 168, n * 16, 0), 20).ok());
    large.chain(small)
}

fn free_subnet(routed: &[IpNet]) -> NetResult<Ipv4Net> {
    let overlaps = |a: &Ipv4Net, b: &IpNet| match b {
        IpNet::V4(b) => a.contains(&b.network()) || b.contains(&a.network()),
        IpNet::V6(_) => false,
    };
    pools().find(|p| !routed.iter().any(|r| overlaps(p, r))).ok_or_else(|| NetError::NoSubnet {
        bridge: GWBRIDGE.into(),
        pools: "172.18.0.0/16 to 172.31.0.0/16 and 192.168.0.0/16".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge() -> GwBridge {
        GwBridge { index: 1, gateway: "172.18.0.1/29".parse().unwrap(), mtu: 1500 }
    }

    fn link(addr: &str) -> Link {
        let key = LinkKey::Gateway(addr.parse().unwrap());
        Link { alias: Some(Owner { sandbox: "s".into(), key }.alias()), ..Link::default() }
    }

    #[test]
    fn the_first_subnet_that_is_not_routed() {
        assert_eq!(free_subnet(&[]).unwrap().to_string(), "172.18.0.0/16");
        let some = ["172.16.0.0/14".parse().unwrap(), "172.20.5.0/24".parse().unwrap()];
        assert_eq!(free_subnet(&some).unwrap().to_string(), "172.21.0.0/16");
        let more = ["172.16.0.0/12".parse().unwrap(), "192.168.3.4/32".parse().unwrap()];
        assert_eq!(free_subnet(&more).unwrap().to_string(), "192.168.16.0/20");
        let all = ["172.16.0.0/12".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
        assert!(matches!(free_subnet(&all), Err(NetError::NoSubnet { .. })));
    }

    #[test]
    fn addresses_go_round_and_are_never_given_twice() {
        let b = bridge();
        assert_eq!(b.next_address(&[], None).unwrap().to_string(), "172.18.0.2/29");
        let used = [link("172.18.0.2/29"), link("172.18.0.4/29")];
        let next = |last: &str| b.next_address(&used, Some(last.parse().unwrap())).unwrap().addr().to_string();
        assert_eq!(next("172.18.0.2"), "172.18.0.3");
        assert_eq!(next("172.18.0.3"), "172.18.0.5");
        assert_eq!(next("172.18.0.6"), "172.18.0.3", "from the start again");
        let full: Vec<_> = (2..7).map(|n| link(&format!("172.18.0.{n}/29"))).collect();
        assert!(matches!(b.next_address(&full, None), Err(NetError::NoAddress { .. })));
    }
}
