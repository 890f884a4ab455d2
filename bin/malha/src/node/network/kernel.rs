//! The node's network as it is opened and closed.
//!
//! Once containers stand on it there is one at all times: what is opened in the place of another is opened whole, or the
//! other is taken up again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;
use malha_dataplane::{NodeNetwork, NodeNetworkConfig};
use malha_model::defaults;
use malha_netplan::{NodeInputs, build_plan};
use tracing::error;

use super::{State, WireError, Wiring};

/// Where the node's tunnels begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Underlay {
    pub(crate) addr: IpAddr,
    pub(crate) vxlan_port: u16,
}

impl Underlay {
    /// Outside a swarm there are no tunnels.
    pub(super) const NONE: Self =
        Self { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), vxlan_port: defaults::DATA_PATH_PORT };
}

/// Open while the node is in a swarm, or a stand-alone container needed it.
pub(super) struct Kernel {
    pub(super) underlay: Underlay,
    pub(super) net: NodeNetwork,
}

pub(super) fn opened(kernel: &Option<Kernel>) -> Result<&NodeNetwork, WireError> {
    kernel.as_ref().map(|k| &k.net).ok_or(WireError::Closed)
}

impl Wiring {
    /// Makes or adopts what the node itself has: tunnel device, bridge, programs. A bridge that is made keeps off
    /// `subnets` where it can.
    pub(super) async fn open(&self, swarm: Underlay, subnets: Vec<IpNet>) -> Result<(), WireError> {
        let mut kernel = self.kernel.write().await;
        self.state.lock().bridge.avoid = subnets;
        self.open_kernel(&mut kernel, swarm).await
    }

    /// Stand-alone containers need the node's network without any swarm. Who asks may go; it is opened to the end.
    pub(super) async fn ensure_open(self: &Arc<Self>) -> Result<(), WireError> {
        if self.kernel.read().await.is_some() {
            return Ok(());
        }
        let wiring = Arc::clone(self);
        let opening = async move {
            let mut kernel = wiring.kernel.write().await;
            if kernel.is_some() {
                return Ok(());
            }
            wiring.open_kernel(&mut kernel, Underlay::NONE).await
        };
        tokio::spawn(opening).await?
    }

    /// Opened anew where the underlay is another: what stands is adopted. Where that fails the former is taken up again.
    pub(super) async fn open_kernel(&self, kernel: &mut Option<Kernel>, underlay: Underlay) -> Result<(), WireError> {
        if kernel.as_ref().is_some_and(|k| k.underlay == underlay) {
            return Ok(());
        }
        let mut before = None;
        if let Some(former) = kernel.take() {
            before = Some(former.underlay);
            // it has the ports that the next one is to hold
            former.net.let_go().await;
        }
        let failed = match self.take_up(underlay).await {
            Ok(opened) => {
                *kernel = Some(opened);
                return Ok(());
            }
            Err(failed) => failed,
        };
        if let Some(before) = before {
            match self.take_up(before).await {
                Ok(again) => *kernel = Some(again),
                Err(error) => error!(%error, "the node's network cannot be opened again"),
            }
        }
        Err(failed)
    }

    async fn take_up(&self, underlay: Underlay) -> Result<Kernel, WireError> {
        let config = NodeNetworkConfig {
            run_dir: self.settings.run_dir.clone(),
            pin_dir: self.settings.pin_dir.clone(),
            cgroup: self.settings.cgroup.clone(),
            node_address: underlay.addr,
            vxlan_port: underlay.vxlan_port,
            gwbridge: self.state.lock().bridge.clone(),
            ..NodeNetworkConfig::default()
        };
        let net = NodeNetwork::open(&config).await?;
        let listed = net.sandboxes().list().await;
        let standing = match listed {
            Ok(standing) => standing,
            Err(e) => {
                net.let_go().await;
                return Err(e.into());
            }
        };
        let mut state = self.state.lock();
        state.orphans = standing.into_iter().filter(|id| !state.sandboxes.contains_key(id)).collect();
        drop(state);
        Ok(Kernel { underlay, net })
    }

    /// Removes the sandboxes in which no container can stand: a daemon that was killed halfway leaves them, and
    /// containers that ended while none looked. What this process has made itself stays.
    pub(super) async fn collect_garbage(&self, mut keep: BTreeSet<String>) -> Result<BTreeSet<String>, WireError> {
        // none is being made meanwhile
        let kernel = self.kernel.write().await;
        let Some(Kernel { net, .. }) = &*kernel else { return Ok(BTreeSet::new()) };
        keep.extend(self.state.lock().sandboxes.keys().cloned());
        let gone = net.sandboxes().collect_garbage(&keep).await?;
        self.state.lock().orphans.retain(|id| !gone.contains(id));
        Ok(gone)
    }

    /// The node leaves its swarm. All of it goes, unless containers stand that have nothing to do with the swarm: those
    /// keep what leads them out. `occupied` are the sandboxes of all containers that run, taken over or not. Says whose
    /// sandboxes went.
    pub(super) async fn close(&self, occupied: &BTreeSet<String>) -> Result<BTreeSet<String>, WireError> {
        let mut open = self.kernel.write().await;
        let (stay, go) = self.state.lock().part(occupied);
        for id in &go {
            self.dns.remove(id).await;
        }
        self.networks.send_replace(Arc::default());
        let Some(kernel) = open.take() else { return Ok(go) };
        if stay.is_empty() {
            kernel.net.teardown().await?;
            return Ok(go);
        }
        let net = &open.insert(kernel).net;
        net.apply(&build_plan(&NodeInputs { node: Default::default(), views: &BTreeMap::new(), local: &[] }))?;
        net.sandboxes().collect_garbage(&stay).await?;
        self.open_kernel(&mut open, Underlay::NONE).await?;
        Ok(go)
    }
}

impl State {
    /// Forgets what is of the swarm: the sandboxes that stay, and those that go. One that was not taken over yet tells
    /// nothing but whether a container runs in it.
    fn part(&mut self, occupied: &BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
        self.zones.clear();
        let found = std::mem::take(&mut self.orphans);
        let (found, mut go): (BTreeSet<_>, BTreeSet<_>) = found.into_iter().partition(|id| occupied.contains(id));
        go.extend(self.sandboxes.iter().filter(|(_, s)| !s.networks.is_empty()).map(|(id, _)| id.clone()));
        self.sandboxes.retain(|id, _| !go.contains(id));
        self.lost.extend(go.iter().cloned());
        self.orphans = found;
        (self.sandboxes.keys().chain(&self.orphans).cloned().collect(), go)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_was_not_taken_over_keeps_its_sandbox() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let mut state = State { orphans: ids(&["ended", "runs"]), ..State::default() };
        assert_eq!(state.part(&ids(&["runs", "elsewhere"])), (ids(&["runs"]), ids(&["ended"])));
        assert_eq!(state.orphans, ids(&["runs"]));
    }
}
