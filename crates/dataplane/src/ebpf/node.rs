//! What the part that makes links and namespaces tells the programs.

use std::{collections::BTreeMap, net::IpAddr};

use malha_netplan::{NetPlan, SandboxId};

use super::{
    Dataplane, LinkInfo, NodeDevices, NodePath,
    error::{EbpfResult, While},
};
use crate::{
    programs::{ProgramError, Programs},
    sandbox::SandboxState,
    uplinks::{NodeAddresses, Uplink},
    vxlan::VXLAN_DEVICE,
    wire::LinkState,
};

impl Programs for Dataplane {
    fn apply(&self, plan: &NetPlan) -> Result<(), ProgramError> {
        Ok(Self::apply(self, plan).map(drop)?)
    }

    fn attach_link(&self, sandbox: &SandboxId, link: &LinkState) -> Result<(), ProgramError> {
        let info = LinkInfo {
            sandbox: sandbox.clone(),
            vni: link.vni,
            addresses: link.addresses.iter().map(ipnet::IpNet::addr).collect(),
            mac: link.mac,
            ingress: link.ingress,
            netns: link.netns,
        };
        Ok(Self::attach_link(self, link.host_ifindex, &info)?)
    }

    fn detach_link(&self, _host_ifname: &str, host_ifindex: u32) -> Result<(), ProgramError> {
        Ok(Self::detach_link(self, host_ifindex)?)
    }

    fn set_scope(&self, sandbox: &SandboxState) -> Result<(), ProgramError> {
        // Nobody connects to a VIP of the ingress network: its containers do not reach each other.
        let vnis: Vec<u32> = sandbox.links.iter().filter(|l| !l.ingress).map(|l| l.vni).collect();
        let ingress = sandbox.links.iter().filter(|l| l.ingress).flat_map(|l| &l.addresses);
        let ingress = ingress.map(ipnet::IpNet::addr).find(std::net::IpAddr::is_ipv4);
        Ok(Self::set_scope(self, sandbox.cookie, &sandbox.netns, &vnis, ingress)?)
    }

    fn set_resolver(&self, cookie: u64, udp: u16, tcp: u16) -> Result<(), ProgramError> {
        Ok(Self::set_resolver(self, cookie, udp, tcp)?)
    }

    fn clear_scope(&self, cookie: u64) -> Result<(), ProgramError> {
        Ok(Self::clear_scope(self, cookie)?)
    }

    fn scopes(&self) -> Vec<u64> {
        Self::scopes(self)
    }

    fn remotes(&self) -> Vec<IpAddr> {
        Self::remotes(self)
    }

    fn set_paths(&self, paths: &BTreeMap<IpAddr, NodePath>) -> Result<(), ProgramError> {
        Ok(Self::set_paths(self, paths)?)
    }

    fn sweep(&self) -> Result<(), ProgramError> {
        Ok(Self::sweep(self).map(drop)?)
    }

    fn set_node(&self, node: &NodeAddresses) -> Result<(), ProgramError> {
        let address = self.config.node_address;
        let (ethernet, others): (Vec<_>, Vec<_>) = node.uplinks.iter().partition(|(_, u)| u.ethernet);
        for (_, other) in others {
            tracing::warn!(device = other.name, "no Ethernet: published ports are not served to who comes by it");
        }
        let (bridges, uplinks): (Vec<_>, Vec<_>) = ethernet.into_iter().partition(|(_, u)| u.gwbridge);
        let numbers = |devices: Vec<(&u32, &Uplink)>| devices.into_iter().map(|(index, _)| *index).collect();
        // Replies of forgotten flows leave by the first: the device that has the node's address.
        let mut uplinks = uplinks;
        uplinks.sort_by_key(|(index, u)| (!u.addresses.contains(&address), **index));
        let devices = NodeDevices {
            vxlan_ifindex: self.vxlan_ifindex()?,
            uplinks: numbers(uplinks),
            bridges: numbers(bridges),
            addresses: node.addresses.iter().copied().collect(),
        };
        Ok(Self::set_node(self, &devices)?)
    }

    fn teardown(&self) -> Result<(), ProgramError> {
        Ok(Self::remove(self)?)
    }
}

impl Dataplane {
    fn vxlan_ifindex(&self) -> EbpfResult<u32> {
        let find = || nix::net::if_::if_nametoindex(VXLAN_DEVICE).map_err(Into::into);
        self.attachments.namespace().run(|| find().on(|| format!("find device {VXLAN_DEVICE}")))
    }
}
