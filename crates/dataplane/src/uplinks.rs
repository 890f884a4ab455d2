//! The node's own addresses, and the interfaces that packets for its published ports come in by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::{sync::watch, time::sleep};

use crate::{
    error::{Doing, NetResult},
    gwbridge::GWBRIDGE,
    names::Owner,
    netns::Netns,
    rtnl::Rtnl,
    vxlan::VXLAN_DEVICE,
};

/// Changes are also looked for this often, should the kernel have dropped a notice.
const SAFETY_NET: Duration = Duration::from_secs(30);
/// One change of an interface is several notices.
const SETTLE: Duration = Duration::from_millis(20);
/// Before the kernel is listened to again.
const REOPEN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// Every address of the node but loopback's and link-local ones.
    pub addresses: BTreeSet<IpAddr>,
    /// By interface index.
    pub uplinks: BTreeMap<u32, Uplink>,
}

/// An interface that is up and has one of the addresses. Containers' links and the tunnel are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub mtu: u32,
    pub addresses: BTreeSet<IpAddr>,
    /// What the packet programs read. A tunnel of the network layer (WireGuard, PPP) has frames of another kind.
    pub ethernet: bool,
    /// `docker_gwbridge`: containers come in by it to reach ports of their own node.
    pub gwbridge: bool,
}

impl NodeAddresses {
    /// As it is now.
    pub(crate) async fn read(rtnl: &Rtnl) -> NetResult<Self> {
        let mut all = Self::default();
        let links: BTreeMap<u32, _> = rtnl.links().await?.into_iter().map(|l| (l.index, l)).collect();
        for (index, net) in rtnl.addresses().await? {
            let Some(link) = links.get(&index) else { continue };
            let addr = net.addr();
            if link.loopback || !link.up || link.name == VXLAN_DEVICE || Owner::of(link).is_some() || link_local(addr) {
                continue;
            }
            all.addresses.insert(addr);
            let uplink = all.uplinks.entry(index).or_insert_with(|| Uplink {
                name: link.name.clone(),
                mtu: link.mtu,
                addresses: BTreeSet::new(),
                ethernet: link.ethernet,
                gwbridge: link.name == GWBRIDGE,
            });
            uplink.addresses.insert(addr);
        }
        Ok(all)
    }

    /// MTU of the interface that has `addr`: what packets between nodes may be.
    pub fn mtu_of(&self, addr: IpAddr) -> Option<u32> {
        self.uplinks.values().find(|u| u.addresses.contains(&addr)).map(|u| u.mtu)
    }
}

fn link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_loopback(),
    }
}

/// Follows the node's addresses.
pub(crate) struct Uplinks {
    node: Netns,
    rtnl: Rtnl,
    tx: watch::Sender<NodeAddresses>,
}

impl Uplinks {
    /// The receiver holds the addresses from the start.
    pub(crate) async fn open(node: Netns, rtnl: Rtnl) -> NetResult<(Self, watch::Receiver<NodeAddresses>)> {
        let (tx, rx) = watch::channel(NodeAddresses::read(&rtnl).await?);
        Ok((Self { node, rtnl, tx }, rx))
    }

    /// For as long as it is polled.
    pub(crate) async fn follow(&self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::warn!(%error, "the node's addresses are not followed; trying again");
            }
            sleep(REOPEN).await;
        }
    }

    /// Until the kernel tells no more.
    async fn listen(&self) -> NetResult<()> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let opened = self.node.run(move || rtnetlink::new_multicast_connection(&groups)).await.and_then(|c| c);
        // the connection ends with its handle
        let (connection, _handle, mut notices) = opened.doing(|| "follow the node's addresses".into())?;
        let mut connection = std::pin::pin!(connection);
        loop {
            tokio::select! {
                biased;
                () = &mut connection => return Ok(()),
                () = self.read() => {}
            }
            tokio::select! {
                biased;
                () = &mut connection => return Ok(()),
                notice = notices.next() => {
                    if notice.is_none() {
                        return Ok(());
                    }
                    // the rest of the same change; the connection must go on being polled meanwhile
                    tokio::select! { biased; () = &mut connection => return Ok(()), () = sleep(SETTLE) => {} }
                    while let Some(Some(_)) = futures::FutureExt::now_or_never(notices.next()) {}
                }
                () = sleep(SAFETY_NET) => {}
            }
        }
    }

    async fn read(&self) {
        match NodeAddresses::read(&self.rtnl).await {
            Ok(now) => {
                self.tx.send_if_modified(|old| std::mem::replace(old, now.clone()) != now);
            }
            Err(error) => tracing::warn!(%error, "cannot read the node's addresses"),
        }
    }
}
