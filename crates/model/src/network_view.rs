//! What a node is told about one network it is on: the network, its peers, endpoints and services.
//!
//! Computed by the leader from the store ([`NetworkView`] is a pure function of the state), streamed to sessions as one
//! snapshot and then [`NetworkDelta`]s. A view has a `seq` that each delta carries forward; a gap means resync.
//! The same view, with the node's own tasks, is all that the data plane and the DNS server are planned from.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    id::{NetworkId, NodeId, ServiceId, TaskId},
    object::Network,
    spec_service::PortConfig,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkView {
    pub network: Network,
    /// Grows with each change of this view; comparable only within one leader's term.
    pub seq: u64,
    /// Nodes that are on this network. On the ingress network: every node.
    pub peers: BTreeMap<NodeId, Peer>,
    pub endpoints: BTreeMap<TaskId, EndpointRecord>,
    pub services: BTreeMap<ServiceId, ServiceRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Host name.
    pub name: String,
    /// Tunnel endpoint.
    pub addr: IpAddr,
}

/// One task's presence on the network, from assignment until it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    pub task: TaskId,
    /// Full task name, or the name of a stand-alone container.
    pub name: String,
    pub service: Option<ServiceId>,
    pub node: NodeId,
    pub addresses: Vec<IpNet>,
    /// Names of this one endpoint besides `name`: host name, short container id, aliases of a stand-alone container.
    pub names: Vec<String>,
    /// True while the task is running and not told to stop: named in DNS, a backend of its service.
    /// False ones are only reachable (starting or draining).
    pub serving: bool,
}

/// A service as seen on this network. Lives as long as the service, with or without running tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    pub id: ServiceId,
    pub name: String,
    /// The service's aliases on this network.
    pub aliases: Vec<String>,
    /// Empty in dnsrr mode.
    pub vips: Vec<IpNet>,
    /// Ports published through the mesh; set only on the ingress network.
    pub ports: Vec<PortConfig>,
}

/// The step from one view to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkDelta {
    pub network: NetworkId,
    pub from_seq: u64,
    pub to_seq: u64,
    /// The network object itself, where it changed.
    pub changed: Option<Network>,
    /// `None` removes the entry; the same below.
    pub peers: BTreeMap<NodeId, Option<Peer>>,
    pub endpoints: BTreeMap<TaskId, Option<EndpointRecord>>,
    pub services: BTreeMap<ServiceId, Option<ServiceRecord>>,
}

impl NetworkView {
    /// The step that turns `self` into `next`, or `None` where nothing but `seq` differs.
    pub fn delta_to(&self, next: &Self) -> Option<NetworkDelta> {
        let delta = NetworkDelta {
            network: next.network.id.clone(),
            from_seq: self.seq,
            to_seq: next.seq,
            changed: (self.network != next.network).then(|| next.network.clone()),
            peers: map_delta(&self.peers, &next.peers),
            endpoints: map_delta(&self.endpoints, &next.endpoints),
            services: map_delta(&self.services, &next.services),
        };
        let empty = delta.changed.is_none()
            && delta.peers.is_empty()
            && delta.endpoints.is_empty()
            && delta.services.is_empty();
        (!empty).then_some(delta)
    }

    /// Applies `delta`; false (and unchanged) where it does not start at this view's `seq`.
    #[must_use]
    pub fn apply(&mut self, delta: &NetworkDelta) -> bool {
        if delta.from_seq != self.seq {
            return false;
        }
        if let Some(network) = &delta.changed {
            self.network = network.clone();
        }
        apply_map(&mut self.peers, &delta.peers);
        apply_map(&mut self.endpoints, &delta.endpoints);
        apply_map(&mut self.services, &delta.services);
        self.seq = delta.to_seq;
        true
    }
}

fn map_delta<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeMap<K, Option<V>> {
    let gone = old.keys().filter(|k| !new.contains_key(k)).map(|k| (k.clone(), None));
    let set = new.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, v)| (k.clone(), Some(v.clone())));
    gone.chain(set).collect()
}

fn apply_map<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, delta: &BTreeMap<K, Option<V>>) {
    for (k, v) in delta {
        match v {
            Some(v) => map.insert(k.clone(), v.clone()),
            None => map.remove(k),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(seq: u64, names: &[&str]) -> NetworkView {
        let peer = |n: &&str| (NodeId::from(*n), Peer { name: (*n).to_owned(), addr: IpAddr::from([10, 0, 0, 1]) });
        NetworkView { seq, peers: names.iter().map(peer).collect(), ..NetworkView::default() }
    }

    #[test]
    fn a_delta_turns_one_view_into_the_next() {
        let (a, b) = (view(1, &["x", "y"]), view(2, &["y", "z"]));
        let delta = a.delta_to(&b).unwrap();
        let mut got = a.clone();
        assert!(got.apply(&delta));
        assert_eq!(got, b);
        assert!(!got.apply(&delta), "a delta that starts elsewhere is a gap");
        assert!(b.delta_to(&NetworkView { seq: 3, ..b.clone() }).is_none());
    }
}
