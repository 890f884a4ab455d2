//! One link of a sandbox: a veth pair with its far end inside, addresses and routes.
//!
//! Three steps, because order is what makes it safe: the pair is made with both ends down, the caller attaches its
//! programs to the node's end, and only then does it come up. A pair that already is as planned is left untouched, down
//! to its counters; anything else in its place is replaced.

use std::{net::IpAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use malha_netplan::{LinkPlan, Mac, SandboxId, mac_of};
use tokio::time::{sleep, timeout};

use crate::{
    error::{NetError, NetResult},
    gwbridge::GwBridge,
    names::{LinkKey, Owner},
    netns::Netns,
    rtnl::{Link, MAIN_TABLE, Route, Rtnl, VethEnd},
};

/// Table with the way back for published flows, in sandboxes on the ingress network.
const INGRESS_TABLE: u32 = 100;
const INGRESS_RULE: u32 = 100;
/// How long the kernel may take to notice that a link is up; it is a second at most, and a millisecond as a rule.
const NOTICE: Duration = Duration::from_secs(3);
const NOTICE_POLL: Duration = Duration::from_millis(1);

/// A link as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    pub vni: u32,
    pub ingress: bool,
    /// In the container.
    pub ifname: String,
    pub ifindex: u32,
    /// On the node.
    pub host_ifname: String,
    pub host_ifindex: u32,
    /// The sandbox, as the node's namespace numbers it: a number that lives as long as the sandbox.
    pub netns: Option<u32>,
    pub addresses: Vec<IpNet>,
    pub mac: Mac,
}

/// The link on `docker_gwbridge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayState {
    pub ifname: String,
    pub host_ifname: String,
    pub address: Ipv4Net,
    /// The bridge's address, the container's default route.
    pub gateway: std::net::Ipv4Addr,
    pub mac: Mac,
}

/// Both sides of a sandbox that is being wired.
pub(crate) struct Wiring<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) node: &'a Rtnl,
    pub(crate) sandbox: &'a Netns,
    pub(crate) inside: &'a Rtnl,
}

/// The pair that a link is, before it is up.
#[derive(Debug)]
pub(crate) struct Pair {
    host: Link,
    inner: Link,
    /// Made just now, not found.
    pub(crate) made: bool,
}

/// What the far end is to be.
struct Far<'a> {
    ifname: &'a str,
    mac: Mac,
    mtu: u32,
    addresses: &'a [IpNet],
    arp: bool,
}

impl Wiring<'_> {
    /// The pair of a link on a network, down where it is new.
    pub(crate) async fn overlay_pair(&self, plan: &LinkPlan, ifname: &str) -> NetResult<Pair> {
        let far = Far { ifname, mac: plan.mac, mtu: plan.mtu, addresses: &plan.addresses, arp: !plan.ingress };
        self.pair(LinkKey::Overlay(plan.vni), &far).await
    }

    /// The pair of the link on the gateway bridge, a port of it.
    pub(crate) async fn gateway_pair(&self, bridge: &GwBridge, addr: Ipv4Net, ifname: &str) -> NetResult<Pair> {
        let addresses = [IpNet::V4(addr)];
        let mac = mac_of(IpAddr::V4(addr.addr()));
        let far = Far { ifname, mac, mtu: bridge.mtu, addresses: &addresses, arp: true };
        let pair = self.pair(LinkKey::Gateway(addresses[0]), &far).await?;
        if pair.host.master != Some(bridge.index) {
            self.node.isolate_port(pair.host.index, bridge.index).await?;
        }
        Ok(pair)
    }

    /// Sets an overlay link up and its routes.
    pub(crate) async fn overlay_up(&self, plan: &LinkPlan, pair: &Pair) -> NetResult<()> {
        self.up(pair).await?;
        for to in &plan.other_subnets {
            let route = Route { to: *to, via: None, link: pair.inner.index, table: MAIN_TABLE };
            self.inside.add_route(&route).await?;
        }
        if plan.ingress {
            for addr in &plan.addresses {
                let route = Route { to: any(addr), via: None, link: pair.inner.index, table: INGRESS_TABLE };
                self.inside.add_route(&route).await?;
                self.inside.add_source_rule(addr.addr(), INGRESS_TABLE, INGRESS_RULE).await?;
            }
        }
        Ok(())
    }

    /// Sets the gateway link up and the default route.
    pub(crate) async fn gateway_up(&self, bridge: &GwBridge, pair: &Pair) -> NetResult<()> {
        self.up(pair).await?;
        let gateway = IpNet::V4(bridge.gateway);
        let via = Some(gateway.addr());
        let route = Route { to: any(&gateway), via, link: pair.inner.index, table: MAIN_TABLE };
        self.inside.add_route(&route).await
    }

    /// Waits until packets pass. A link that comes up is noticed by the kernel a moment later, and what is sent before
    /// that is lost: a first connection would wait a second for its second try.
    pub(crate) async fn settled(&self, pairs: &[Pair]) -> NetResult<()> {
        let all = async {
            for pair in pairs {
                for (rtnl, name) in [(self.inside, &pair.inner.name), (self.node, &pair.host.name)] {
                    while rtnl.link(name).await?.is_some_and(|l| !l.running) {
                        sleep(NOTICE_POLL).await;
                    }
                }
            }
            Ok(())
        };
        timeout(NOTICE, all).await.unwrap_or_else(|_| {
            tracing::warn!(sandbox = self.id, "links are up but not running; going on");
            Ok(())
        })
    }

    async fn up(&self, pair: &Pair) -> NetResult<()> {
        self.node.up(&pair.host.name).await?;
        self.inside.up(&pair.inner.name).await
    }

    async fn pair(&self, key: LinkKey, far: &Far<'_>) -> NetResult<Pair> {
        let owner = Owner { sandbox: self.id.clone(), key };
        if let Some(pair) = self.find(&owner, far).await? {
            return Ok(pair);
        }
        let name = owner.ifname();
        // whatever has our names is what an attempt that failed left behind
        self.node.delete_link(&name).await?;
        self.inside.delete_link(far.ifname).await?;
        let alias = owner.alias();
        let host = VethEnd { name: &name, mac: None, mtu: far.mtu, alias: Some(&alias) };
        let inner = VethEnd { name: far.ifname, mac: Some(far.mac), mtu: far.mtu, alias: None };
        self.node.add_veth(&host, &inner, self.sandbox).await?;
        self.prepare(far).await?;
        let made = self.find(&owner, far).await?;
        let pair = made.ok_or_else(|| NetError::BadPlan {
            what: format!("link {} of {}", far.ifname, self.id),
            why: "the kernel made it otherwise than asked".into(),
        })?;
        for addr in far.addresses {
            self.inside.add_address(pair.inner.index, *addr).await?;
        }
        Ok(Pair { made: true, ..pair })
    }

    /// The pair as it is to be, where it exists.
    async fn find(&self, owner: &Owner, far: &Far<'_>) -> NetResult<Option<Pair>> {
        let Some(host) = self.node.link(&owner.ifname()).await? else { return Ok(None) };
        let Some(inner) = self.inside.link(far.ifname).await? else { return Ok(None) };
        let same = Owner::of(&host).as_ref() == Some(owner)
            && host.peer == Some(inner.index)
            && inner.mac == far.mac
            && (inner.mtu, host.mtu) == (far.mtu, far.mtu);
        Ok(same.then_some(Pair { host, inner, made: false }))
    }

    /// What must be set before the ends are up.
    async fn prepare(&self, far: &Far<'_>) -> NetResult<()> {
        if !far.arp {
            self.inside.no_arp(far.ifname).await?;
        }
        let no_v6 = |name: &str| (format!("net.ipv6.conf.{}.disable_ipv6", name.replace('.', "/")), "1".to_owned());
        let check = |name: &str| (format!("net.ipv4.conf.{}.rp_filter", name.replace('.', "/")), "0".to_owned());
        self.sandbox.set_sysctls(vec![check(far.ifname)]).await?;
        // a link without IPv6 is silent: no router solicitations, no multicast reports
        if !far.addresses.iter().any(|a| a.addr().is_ipv6()) {
            let _ = self.sandbox.set_sysctls(vec![no_v6(far.ifname)]).await;
        }
        Ok(())
    }
}

/// The default route of the address's family.
fn any(addr: &IpNet) -> IpNet {
    match addr {
        IpNet::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpNet::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

// === impl Pair ===

impl Pair {
    pub(crate) fn link_state(&self, plan: &LinkPlan) -> LinkState {
        LinkState {
            vni: plan.vni,
            ingress: plan.ingress,
            ifname: self.inner.name.clone(),
            ifindex: self.inner.index,
            host_ifname: self.host.name.clone(),
            host_ifindex: self.host.index,
            netns: self.host.peer_netns,
            addresses: plan.addresses.clone(),
            mac: plan.mac,
        }
    }

    pub(crate) fn gateway_state(&self, bridge: &GwBridge, address: Ipv4Net) -> GatewayState {
        GatewayState {
            ifname: self.inner.name.clone(),
            host_ifname: self.host.name.clone(),
            address,
            gateway: bridge.gateway.addr(),
            mac: self.inner.mac,
        }
    }

    pub(crate) fn host_name(&self) -> &str {
        &self.host.name
    }
}
