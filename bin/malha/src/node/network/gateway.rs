//! `docker_gwbridge` of this node: who is on it, and how the user wants it.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use malha_dataplane::GwBridgeConfig;

use super::{State, Underlay, WireError, Wiring};

/// The bridge that leads containers out, and who is on it.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// The bridge's address with the length of its subnet.
    pub(crate) bridge: Ipv4Net,
    pub(crate) members: BTreeMap<String, Ipv4Net>,
}

impl Wiring {
    /// None while the node's network is not open.
    pub(super) async fn gateway(&self) -> Option<Gateway> {
        let kernel = self.kernel.read().await;
        let bridge = kernel.as_ref()?.net.sandboxes().bridge().gateway;
        let state = self.state.lock();
        let members =
            state.sandboxes.iter().filter_map(|(id, s)| Some((id.clone(), s.kernel.gateway.as_ref()?.address)));
        Some(Gateway { bridge, members: members.collect() })
    }

    /// Makes the bridge before anything needs it, as `config` says.
    pub(super) async fn make_gateway(&self, config: GwBridgeConfig) -> Result<(), WireError> {
        let mut kernel = self.kernel.write().await;
        if kernel.is_some() {
            return Err(WireError::GatewayStands);
        }
        let subnet = config.subnet;
        self.state.lock().bridge = config;
        let mut made = self.open_kernel(&mut kernel, Underlay::NONE).await;
        let is = kernel.as_ref().map(|k| k.net.sandboxes().bridge().gateway.trunc());
        if made.is_ok() && subnet.is_some() && subnet != is {
            // Somebody else's device of that name: it stays as it was.
            made = Err(WireError::OtherBridge);
            // containers may stand on the rest
            let bare = self.state.lock().is_bare();
            match kernel.take() {
                Some(kernel) if bare => kernel.net.teardown().await?,
                Some(kernel) => kernel.net.let_go().await,
                None => {}
            }
        }
        if made.is_err() {
            self.state.lock().bridge = GwBridgeConfig::default();
        }
        made
    }

    /// Removes the bridge that nothing needs.
    pub(super) async fn remove_gateway(&self) -> Result<(), WireError> {
        let mut kernel = self.kernel.write().await;
        let swarm = kernel.as_ref().is_some_and(|k| k.underlay != Underlay::NONE);
        if swarm || !self.state.lock().is_bare() {
            return Err(WireError::GatewayInUse);
        }
        self.state.lock().bridge = GwBridgeConfig::default();
        match kernel.take() {
            Some(kernel) => Ok(kernel.net.teardown().await?),
            None => Ok(()),
        }
    }
}

impl State {
    /// Whether no container stands on the node's network, nor may stand: one that was not taken over yet runs all the same.
    fn is_bare(&self) -> bool {
        self.sandboxes.is_empty() && self.orphans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use malha_dns::{Listen, Server};
    use malha_kit::Tasks;

    use super::*;
    use crate::node::network::Settings;

    #[tokio::test]
    async fn a_bridge_stays_while_a_container_that_was_not_taken_over_stands_on_it() {
        let settings = Settings {
            run_dir: "/nonexistent".into(),
            pin_dir: "/nonexistent".into(),
            cgroup: "/nonexistent".into(),
            upstreams: Vec::new(),
        };
        let tasks = Tasks::new();
        let dns = Server::start(&tasks, Listen::Elsewhere).unwrap();
        let wiring = Wiring::new(settings, dns, GwBridgeConfig::default());
        wiring.state.lock().orphans.insert("runs".to_owned());
        assert!(matches!(wiring.remove_gateway().await, Err(WireError::GatewayInUse)));
        wiring.state.lock().orphans.clear();
        wiring.remove_gateway().await.unwrap();
    }
}
