//! The few rtnetlink requests that the data plane makes, each as one call.
//!
//! The netlink crates break often; this module and [`crate::link`] are the only ones that know them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use malha_netplan::Mac;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage, State,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute},
};
use rtnetlink::{
    Handle, IpVersion, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan,
    RouteMessageBuilder,
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
};
use tokio::{sync::Mutex, time::sleep};

use crate::{
    error::{Doing, NetResult},
    netns::Netns,
    paths::Hop,
};

const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// A list that is never made in peace is taken as it is.
const DISTURBED_TRIES: u32 = 8;

/// A connection to the kernel's routing tables of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Rtnl {
    handle: Handle,
    /// A socket takes one list at a time: the kernel refuses a second as busy.
    lists: Arc<Mutex<()>>,
}

/// What is read of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    /// `veth`, `bridge`, `vxlan`, …; empty for a device of its own.
    pub(crate) kind: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// The kernel has noticed that the other end is there; before that, packets are lost.
    pub(crate) running: bool,
    pub(crate) loopback: bool,
    /// Its frames have an Ethernet header.
    pub(crate) ethernet: bool,
    /// Index of a veth's other end, in that end's namespace.
    pub(crate) peer: Option<u32>,
    /// That namespace, as this one numbers it; it gets its number by being asked for.
    pub(crate) peer_netns: Option<u32>,
    /// The bridge it is a port of.
    pub(crate) master: Option<u32>,
    pub(crate) vxlan: Option<Vxlan>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) port: u16,
    pub(crate) external: bool,
    pub(crate) learning: bool,
}

/// One end of a veth pair that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) alias: Option<&'a str>,
}

/// A route that is to exist.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// `0.0.0.0/0` or `::/0` is the default route.
    pub(crate) to: IpNet,
    pub(crate) via: Option<IpAddr>,
    pub(crate) link: u32,
    pub(crate) table: u32,
}

/// The table that ordinary routes are in.
pub(crate) const MAIN_TABLE: u32 = 254;

impl Rtnl {
    pub(crate) async fn open(ns: &Netns) -> NetResult<Self> {
        let opened = ns.run(rtnetlink::new_connection).await.and_then(|c| c);
        let (mut connection, handle, _) = opened.doing(|| format!("open netlink in {}", ns.path().display()))?;
        // that a list was disturbed may be said with its end alone; other requests here get no such end
        connection.set_forward_done(true);
        // ends with the last clone of the handle
        tokio::spawn(connection);
        Ok(Self { handle, lists: Arc::default() })
    }

    /// One list at a time; one that was given up halfway may keep the socket busy for a moment longer. One during which
    /// something came or went may lack what was there all along, and is made again.
    async fn list<T>(
        &self,
        what: &str,
        request: RouteNetlinkMessage,
        pick: fn(RouteNetlinkMessage) -> Option<T>,
    ) -> NetResult<Vec<T>> {
        let _one = self.lists.lock().await;
        let (mut busy, mut disturbed) = (0, 0);
        loop {
            match self.list_once(&request, pick).await {
                Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::EBUSY && busy < BUSY_TRIES => {
                    busy += 1;
                    sleep(BUSY_PAUSE).await;
                }
                Ok((_, true)) if disturbed < DISTURBED_TRIES => disturbed += 1,
                listed => return listed.map(|(all, _)| all).doing(|| what.into()),
            }
        }
    }

    /// What the kernel tells, and whether something came or went meanwhile.
    async fn list_once<T>(
        &self,
        request: &RouteNetlinkMessage,
        pick: fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<(Vec<T>, bool), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(request.clone());
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut handle = self.handle.clone();
        let mut answer = std::pin::pin!(handle.request(request)?);
        let (mut all, mut disturbed) = (Vec::new(), false);
        while let Some(message) = answer.next().await {
            disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => all.extend(pick(inner)),
                NetlinkPayload::Error(e) => return Err(rtnetlink::Error::NetlinkError(e)),
                NetlinkPayload::Overrun(_) => disturbed = true,
                _ => {}
            }
        }
        Ok((all, disturbed))
    }

    pub(crate) async fn links(&self) -> NetResult<Vec<Link>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let pick = |told| if let RouteNetlinkMessage::NewLink(link) = told { Some(Link::from(link)) } else { None };
        self.list("list links", request, pick).await
    }

    pub(crate) async fn link(&self, name: &str) -> NetResult<Option<Link>> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.doing(|| format!("look for link {name}")) {
            Ok(link) => Ok(link.map(Link::from)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A pair with `host` here and `peer` in `sandbox`, both down.
    pub(crate) async fn add_veth(&self, host: &VethEnd<'_>, peer: &VethEnd<'_>, sandbox: &Netns) -> NetResult<()> {
        let inner = peer.message(LinkMessageBuilder::<LinkUnspec>::new().name(peer.name));
        let inner = inner.setns_by_fd(sandbox.as_fd().as_raw_fd()).build();
        let pair = LinkVeth::new(host.name, peer.name).set_info_data(InfoData::Veth(InfoVeth::Peer(inner)));
        let request = self.handle.link().add(host.message(pair).build());
        request.execute().await.doing(|| format!("make veth {} to {}", host.name, sandbox.path().display()))?;
        match host.alias {
            Some(alias) => self.describe(host.name, alias).await,
            None => Ok(()),
        }
    }

    /// Sets the alias, which the kernel ignores at creation.
    pub(crate) async fn describe(&self, name: &str, alias: &str) -> NetResult<()> {
        let message = LinkUnspec::new_with_name(name).alias(alias).build();
        self.handle.link().set(message).execute().await.doing(|| format!("describe {name}"))
    }

    pub(crate) async fn add_bridge(&self, name: &str, mac: Mac, mtu: u32) -> NetResult<()> {
        let message = LinkBridge::new(name).address(mac.0.to_vec()).mtu(mtu).build();
        self.handle.link().add(message).execute().await.doing(|| format!("make bridge {name}"))
    }

    /// One device for all networks: the VNI travels with each packet. It never learns and floods nothing.
    pub(crate) async fn add_vxlan(&self, name: &str, port: u16, mtu: u32) -> NetResult<()> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .collect_metadata(true)
            .learning(false)
            .port(port)
            .udp_zero_csum6_rx(true)
            .mtu(mtu)
            .build();
        self.handle.link().add(message).execute().await.doing(|| format!("make VXLAN device {name} on port {port}"))
    }

    /// Makes `port` a port of bridge `master` that exchanges frames with the bridge itself only.
    pub(crate) async fn isolate_port(&self, port: u32, master: u32) -> NetResult<()> {
        let join = LinkUnspec::new_with_index(port).controller(master).build();
        self.handle.link().set(join).execute().await.doing(|| format!("add link {port} to bridge {master}"))?;
        let isolated = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)]);
        let message = LinkBridgePort::new(port).set_port_data(isolated).build();
        self.handle.link().set_port(message).execute().await.doing(|| format!("isolate bridge port {port}"))
    }

    pub(crate) async fn up(&self, name: &str) -> NetResult<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(message).execute().await.doing(|| format!("set {name} up"))
    }

    /// Without ARP a link needs no neighbours: every packet goes out at once.
    pub(crate) async fn no_arp(&self, name: &str) -> NetResult<()> {
        let message = LinkUnspec::new_with_name(name).arp(false).build();
        self.handle.link().set(message).execute().await.doing(|| format!("set {name} noarp"))
    }

    /// Absent is fine.
    pub(crate) async fn delete_link(&self, name: &str) -> NetResult<()> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.handle.link().del_with_message(message).execute().await.doing(|| format!("delete link {name}")) {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// Addresses by interface index.
    pub(crate) async fn addresses(&self) -> NetResult<Vec<(u32, IpNet)>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let pick = |told| if let RouteNetlinkMessage::NewAddress(address) = told { Some(address) } else { None };
        let all = self.list("list addresses", request, pick).await?;
        let parsed = all.into_iter().filter_map(|m| {
            let local =
                m.attributes.iter().find_map(|a| if let AddressAttribute::Local(x) = a { Some(*x) } else { None });
            let plain =
                m.attributes.iter().find_map(|a| if let AddressAttribute::Address(x) = a { Some(*x) } else { None });
            Some((m.header.index, IpNet::new(local.or(plain)?, m.header.prefix_len).ok()?))
        });
        Ok(parsed.collect())
    }

    /// No duplicate address detection: addresses are given out once by the managers.
    pub(crate) async fn add_address(&self, link: u32, addr: IpNet) -> NetResult<()> {
        use netlink_packet_route::address::{AddressFlags, AddressHeaderFlags};
        let mut request = self.handle.address().add(link, addr.addr(), addr.prefix_len()).replace();
        if addr.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.doing(|| format!("add {addr} to link {link}"))
    }

    pub(crate) async fn add_route(&self, route: &Route) -> NetResult<()> {
        let what = || format!("add route to {} by link {}", route.to, route.link);
        let scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
        let message = match route.to {
            IpNet::V4(to) => {
                let b = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to.network(), to.prefix_len());
                let b = match route.via {
                    Some(IpAddr::V4(via)) => b.gateway(via),
                    _ => b.scope(scope),
                };
                b.output_interface(route.link).table_id(route.table).protocol(RouteProtocol::Boot).build()
            }
            IpNet::V6(to) => {
                let b = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to.network(), to.prefix_len());
                let b = match route.via {
                    Some(IpAddr::V6(via)) => b.gateway(via),
                    _ => b,
                };
                b.output_interface(route.link).table_id(route.table).protocol(RouteProtocol::Boot).build()
            }
        };
        self.handle.route().add(message).replace().execute().await.doing(what)
    }

    /// Of IPv4, in all tables.
    async fn routes(&self) -> NetResult<Vec<RouteMessage>> {
        let request = RouteNetlinkMessage::GetRoute(RouteMessageBuilder::<Ipv4Addr>::new().build());
        let pick = |told| if let RouteNetlinkMessage::NewRoute(route) = told { Some(route) } else { None };
        self.list("list routes", request, pick).await
    }

    /// Destinations that this node routes by itself, without the default route and without `except`'s.
    pub(crate) async fn routed(&self, except: &str) -> NetResult<Vec<IpNet>> {
        let except = self.link(except).await?.map(|l| l.index);
        let nets = self.routes().await?.into_iter().filter_map(|m| {
            let plain = matches!(m.header.kind, RouteType::Unicast | RouteType::Local);
            let by = m.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None });
            let to = m.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(IpAddr::V4(*to)),
                _ => None,
            })?;
            let net = IpNet::new(to, m.header.destination_prefix_length).ok()?;
            (plain && net.prefix_len() > 0 && (by.is_none() || by != except)).then_some(net)
        });
        Ok(nets.collect())
    }

    /// IPv4 destinations of the main table, default route included, and the link that each is reached by.
    pub(crate) async fn main_routes(&self) -> NetResult<Vec<(IpNet, Option<u32>)>> {
        let all = self.routes().await?;
        let of_main = |m: &RouteMessage| {
            let long = m.attributes.iter().find_map(|a| if let RouteAttribute::Table(t) = a { Some(*t) } else { None });
            long.unwrap_or(m.header.table.into()) == MAIN_TABLE && m.header.kind == RouteType::Unicast
        };
        let routes = all.into_iter().filter(of_main).filter_map(|m| {
            let (mut to, mut link) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), None);
            for attribute in &m.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(addr)) => to = IpAddr::V4(*addr),
                    RouteAttribute::Oif(index) => link = Some(*index),
                    RouteAttribute::MultiPath(hops) => link = hops.first().map(|h| h.interface_index),
                    _ => {}
                }
            }
            Some((IpNet::new(to, m.header.destination_prefix_length).ok()?, link))
        });
        Ok(routes.collect())
    }

    /// The route of the node's own packets from `source` to `to`; none where it is not a plain one.
    pub(crate) async fn route_from(&self, source: Ipv4Addr, to: Ipv4Addr) -> NetResult<Option<Hop>> {
        let asked = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).source_prefix(source, 32).build();
        let found = self.handle.route().get(asked).execute().try_next().await;
        let Some(found) = found.doing(|| format!("find the route from {source} to {to}"))? else { return Ok(None) };
        if found.header.kind != RouteType::Unicast {
            return Ok(None);
        }
        let mut hop = Hop { link: 0, next_hop: to, mtu: None };
        for attribute in found.attributes {
            match attribute {
                RouteAttribute::Oif(link) => hop.link = link,
                RouteAttribute::Gateway(RouteAddress::Inet(via)) => hop.next_hop = via,
                RouteAttribute::Metrics(metrics) => {
                    hop.mtu =
                        metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
                }
                RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::Gateway(_) => return Ok(None),
                _ => {}
            }
        }
        Ok((hop.link != 0).then_some(hop))
    }

    /// Packets from `source` are routed by `table`. Set again is fine.
    pub(crate) async fn add_source_rule(&self, source: IpAddr, table: u32, priority: u32) -> NetResult<()> {
        let version = if source.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        let request = RouteNetlinkMessage::GetRule(self.handle.rule().get(version).message_mut().clone());
        let pick = |told| if let RouteNetlinkMessage::NewRule(rule) = told { Some(rule) } else { None };
        let rules = self.list("list rules", request, pick).await?;
        let wanted = RuleAttribute::Source(source);
        if rules.iter().any(|r| u32::from(r.header.table) == table && r.attributes.contains(&wanted)) {
            return Ok(());
        }
        let rule = self.handle.rule().add().table_id(table).priority(priority).action(RuleAction::ToTable);
        let added = match source {
            IpAddr::V4(a) => rule.v4().source_prefix(a, 32).execute().await,
            IpAddr::V6(a) => rule.v6().source_prefix(a, 128).execute().await,
        };
        added.doing(|| format!("route packets from {source} by table {table}"))
    }
}

// === impl VethEnd ===

impl VethEnd<'_> {
    fn message<T>(&self, builder: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        let builder = builder.mtu(self.mtu);
        match self.mac {
            Some(mac) => builder.address(mac.0.to_vec()),
            None => builder,
        }
    }
}

// === impl Link ===

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::OperState(state) => link.running = state == State::Up,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = u32::try_from(id).ok(),
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::Address(mac) => link.mac = Mac(mac.try_into().unwrap_or_default()),
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|i| link.info(i)),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => {
                self.kind = match kind {
                    InfoKind::Veth => "veth".into(),
                    InfoKind::Bridge => "bridge".into(),
                    InfoKind::Vxlan => "vxlan".into(),
                    other => format!("{other:?}").to_lowercase(),
                }
            }
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                let vxlan = self.vxlan.get_or_insert_default();
                for item in data {
                    match item {
                        InfoVxlan::Port(port) => vxlan.port = port,
                        InfoVxlan::CollectMetadata(on) => vxlan.external = on,
                        InfoVxlan::Learning(on) => vxlan.learning = on,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}
