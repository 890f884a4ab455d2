//! What the programs need not look up for each packet: verdicts of earlier packets, and the paths to other nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use super::{
    Dataplane,
    error::EbpfResult,
    layout::{Addr, Epoch, PathRow},
    maps::{Maps, failed},
};

/// How long paths count after they were told. A daemon that is away confirms nothing, and routes change without it: from
/// then on packets take the kernel's own way again.
const CONFIRMED_FOR: Duration = Duration::from_secs(30);

/// How this node reaches another's tunnel endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// An Ethernet device.
    pub ifindex: u32,
    pub next_hop: Ipv4Addr,
    pub source: Ipv4Addr,
    pub mtu: u16,
}

impl Dataplane {
    /// The paths that the node's routes say now; others are forgotten. To be told again at least every ten seconds.
    pub fn set_paths(&self, paths: &BTreeMap<IpAddr, Path>) -> EbpfResult<()> {
        let state = &mut *self.state.lock();
        let port = self.config.vxlan_port.into();
        let held = &mut state.maps.paths;
        let written = paths.iter().try_for_each(|(remote, path)| {
            let (via, source) = (path.next_hop.octets(), path.source.octets());
            held.put((*remote).into(), PathRow { ifindex: path.ifindex, via, source, mtu: path.mtu, port })
        });
        let written = written.and_then(|()| held.retain(|remote| paths.contains_key(&remote.ip())));
        state.stale |= held.take_writes() > 0;
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let confirmed_until = written.is_ok().then_some(now + CONFIRMED_FOR);
        let told = state.maps.set_epoch(state.stale, confirmed_until);
        state.stale &= told.is_err();
        written.map(drop).and(told)
    }

    /// Tunnel endpoints of the nodes that the last plan speaks of.
    pub fn remotes(&self) -> Vec<IpAddr> {
        let state = self.state.lock();
        let all: std::collections::BTreeSet<Addr> = state.maps.peers.held().keys().map(|p| p.addr).collect();
        all.into_iter().map(Addr::ip).collect()
    }
}

impl Maps {
    /// Makes all verdicts void. After every change of what they follow from, never before.
    pub(super) fn new_generation(&mut self) -> EbpfResult<()> {
        self.set_epoch(true, None)
    }

    fn set_epoch(&mut self, new_generation: bool, paths_until: Option<Duration>) -> EbpfResult<()> {
        let mut epoch: Epoch = self.epochs.get(&0, 0).map_err(failed("epochs"))?;
        if new_generation {
            epoch.generation = self.next_serial();
        }
        if let Some(until) = paths_until {
            epoch.paths_until = until.as_nanos() as u64;
        }
        self.epochs.set(0, epoch, 0).map_err(failed("epochs"))
    }
}
