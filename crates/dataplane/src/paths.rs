//! How the other nodes are reached, for packets that go past the kernel's tunnel device and the node's stack.
//!
//! A path is known only where it is a plain one: IPv4 from the node's own address, out of an Ethernet device, and no IPsec
//! policy anywhere on the node. In all other cases, and whenever nobody confirms the paths, packets take the kernel's way.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    ebpf::NodePath,
    error::{Doing, NetResult},
    names::Owner,
    netns::Netns,
    programs::Programs,
    rtnl::Rtnl,
    vxlan::VXLAN_DEVICE,
    xfrm,
};

/// Well within the time for which the programs believe a path.
const CONFIRM: Duration = Duration::from_secs(10);
/// One change of routes is many notices.
const SETTLE: Duration = Duration::from_millis(20);
/// Before the kernel is listened to again.
const REOPEN: Duration = Duration::from_secs(1);

pub(crate) struct Paths {
    pub(crate) node: Netns,
    pub(crate) rtnl: Rtnl,
    pub(crate) programs: Arc<dyn Programs>,
    /// The node's tunnel address.
    pub(crate) source: IpAddr,
    /// Other nodes may have come or gone.
    pub(crate) changed: Arc<Notify>,
}

impl Paths {
    /// Follows routes and nodes for as long as it is polled.
    pub(crate) async fn follow(&self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::warn!(%error, "packets between nodes take the long way; trying again");
            }
            sleep(REOPEN).await;
        }
    }

    /// Until the kernel tells no more.
    async fn listen(&self) -> NetResult<()> {
        let groups =
            [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Ipv4Rule];
        let opened = self.node.run(move || rtnetlink::new_multicast_connection(&groups)).await.and_then(|c| c);
        let (connection, _handle, mut notices) = opened.doing(|| "follow the node's routes".into())?;
        let work = async {
            let mut confirm = interval(CONFIRM);
            confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = confirm.tick() => {}
                    () = self.changed.notified() => {}
                    notice = notices.next() => {
                        if notice.is_none() {
                            return;
                        }
                        sleep(SETTLE).await;
                        while let Some(Some(_)) = futures::FutureExt::now_or_never(notices.next()) {}
                    }
                }
                if let Err(error) = self.tell().await {
                    tracing::warn!(%error, "packets between nodes take the long way");
                }
            }
        };
        tokio::select! { () = connection => {}, () = work => {} }
        Ok(())
    }

    async fn tell(&self) -> NetResult<()> {
        // What cannot be found out is not known: no path then.
        let found = self.find().await;
        let none = BTreeMap::new();
        let told = self.programs.set_paths(found.as_ref().unwrap_or(&none));
        told.map_err(|e| crate::NetError::Programs(e.to_string()))?;
        found.map(drop)
    }

    async fn find(&self) -> NetResult<BTreeMap<IpAddr, NodePath>> {
        let mut paths = BTreeMap::new();
        let IpAddr::V4(source) = self.source else { return Ok(paths) };
        let remotes = self.programs.remotes();
        if remotes.is_empty() || source.is_loopback() || xfrm::has_policies(&self.node).await? {
            return Ok(paths);
        }
        let links: BTreeMap<u32, _> = self.rtnl.links().await?.into_iter().map(|l| (l.index, l)).collect();
        let plain = |index: &u32| {
            let link = links.get(index)?;
            (link.ethernet && link.up && link.name != VXLAN_DEVICE && Owner::of(link).is_none()).then_some(link.mtu)
        };
        for remote in remotes {
            let IpAddr::V4(to) = remote else { continue };
            // A node that cannot be reached now is no reason to take the long way to the others.
            let Some(route) = self.rtnl.route_from(source, to).await.ok().flatten() else { continue };
            let Some(device_mtu) = plain(&route.link) else { continue };
            let mtu = u16::try_from(route.mtu.unwrap_or(device_mtu).min(device_mtu)).unwrap_or(u16::MAX);
            paths.insert(remote, NodePath { ifindex: route.link, next_hop: route.next_hop, source, mtu });
        }
        Ok(paths)
    }
}

/// A route as a packet of the node itself would take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) link: u32,
    pub(crate) next_hop: Ipv4Addr,
    pub(crate) mtu: Option<u32>,
}
