//! One immutable snapshot of all objects, with its indexes.

use std::{collections::BTreeSet, sync::Arc};

use malha_model::{
    Cluster, Kind, Network, NetworkId, Node, NodeId, Object, Service, ServiceId, Task, TaskId, TaskState,
};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::{Change, index::Index, recent::Recent};

type Map<K, V> = RedBlackTreeMapSync<K, Arc<V>>;

/// All objects at one point of the log. Clones share everything; iteration is in id order.
#[derive(Clone, Debug)]
pub struct State {
    pub(crate) index: u64,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: Map<NodeId, Node>,
    pub(crate) networks: Map<NetworkId, Network>,
    pub(crate) services: Map<ServiceId, Service>,
    pub(crate) tasks: Map<TaskId, Task>,
    pub(crate) tasks_by_service: Index<ServiceId, TaskId>,
    pub(crate) tasks_by_node: Index<NodeId, TaskId>,
    pub(crate) tasks_by_network: Index<NetworkId, TaskId>,
    pub(crate) services_by_network: Index<NetworkId, ServiceId>,
    /// Tasks that no node was told of yet.
    pub(crate) unassigned: RedBlackTreeSetSync<TaskId>,
    /// Names in lower case; objects that await their deletion are not in here.
    pub(crate) node_names: Index<String, NodeId>,
    pub(crate) network_names: Index<String, NetworkId>,
    pub(crate) service_names: Index<String, ServiceId>,
    /// No part of the content.
    pub(crate) recent: Recent,
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: 0,
            cluster: None,
            nodes: Map::new_sync(),
            networks: Map::new_sync(),
            services: Map::new_sync(),
            tasks: Map::new_sync(),
            tasks_by_service: Index::default(),
            tasks_by_node: Index::default(),
            tasks_by_network: Index::default(),
            services_by_network: Index::default(),
            unassigned: RedBlackTreeSetSync::new_sync(),
            node_names: Index::default(),
            network_names: Index::default(),
            service_names: Index::default(),
            recent: Recent::default(),
        }
    }
}

impl State {
    /// Log index of the last write in this snapshot.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The snapshot after `changes`, which are the write at `index`: objects put by it have that version.
    #[must_use]
    pub fn apply(&self, index: u64, changes: &[Change]) -> Self {
        let mut next = self.clone();
        next.index = index;
        next.recent.push(self.index, changes);
        for change in changes {
            match change {
                Change::Put(object) => {
                    let mut object = object.clone();
                    object.meta_mut().version = index;
                    next.put(object);
                }
                Change::Delete(kind, id) => next.delete(*kind, id),
            }
        }
        next
    }

    /// What was written between `earlier` and this state, of the same log; `None` where that is too long ago to be known.
    pub fn touched_since(&self, earlier: &Self) -> Option<BTreeSet<(Kind, &str)>> {
        if earlier.index == self.index { Some(BTreeSet::new()) } else { self.recent.since(earlier.index) }
    }

    pub fn is_empty(&self) -> bool {
        self.cluster.is_none() && self.nodes.is_empty() && self.networks.is_empty() && self.services.is_empty()
    }

    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    pub fn network(&self, id: &NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(id)
    }

    pub fn service(&self, id: &ServiceId) -> Option<&Arc<Service>> {
        self.services.get(id)
    }

    pub fn task(&self, id: &TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(id)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All networks, those that await their deletion included.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// All services, those that await their deletion included.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    pub fn task_count(&self) -> usize {
        self.tasks.size()
    }

    pub fn tasks_of_service(&self, id: &ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_service.of(id).filter_map(|t| self.tasks.get(t))
    }

    pub fn tasks_of_node(&self, id: &NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_node.of(id).filter_map(|t| self.tasks.get(t))
    }

    /// Tasks that no node was told of yet: they wait for addresses, or for a node that fits.
    pub fn tasks_unassigned(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.unassigned.iter().filter_map(|t| self.tasks.get(t))
    }

    /// Tasks with an attachment to the network, ended ones included.
    pub fn tasks_of_network(&self, id: &NetworkId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_network.of(id).filter_map(|t| self.tasks.get(t))
    }

    /// Services whose spec names the network or that hold a VIP there (on ingress: publishing ones).
    pub fn services_of_network(&self, id: &NetworkId) -> impl Iterator<Item = &Arc<Service>> {
        self.services_by_network.of(id).filter_map(|s| self.services.get(s))
    }

    /// Nodes of that name, whatever its case.
    pub fn nodes_named(&self, name: &str) -> impl Iterator<Item = &Arc<Node>> {
        self.node_names.of(&name.to_lowercase()).filter_map(|n| self.nodes.get(n))
    }

    /// The network of that name; not one that awaits its deletion.
    pub fn network_named(&self, name: &str) -> Option<&Arc<Network>> {
        self.network_names.of(&name.to_lowercase()).find_map(|n| self.networks.get(n))
    }

    /// The service of that name; not one that awaits its deletion.
    pub fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        self.service_names.of(&name.to_lowercase()).find_map(|s| self.services.get(s))
    }

    /// The ingress network, where there is one.
    pub fn ingress(&self) -> Option<&Arc<Network>> {
        self.networks.values().find(|n| n.spec.ingress && !n.pending_delete)
    }

    pub fn object(&self, kind: Kind, id: &str) -> Option<Object> {
        match kind {
            Kind::Cluster => {
                self.cluster.as_ref().filter(|c| c.id.as_str() == id).map(|c| Object::Cluster((**c).clone()))
            }
            Kind::Node => self.nodes.get(id).map(|o| Object::Node((**o).clone())),
            Kind::Network => self.networks.get(id).map(|o| Object::Network((**o).clone())),
            Kind::Service => self.services.get(id).map(|o| Object::Service((**o).clone())),
            Kind::Task => self.tasks.get(id).map(|o| Object::Task((**o).clone())),
        }
    }
}

// === writing: only through `apply` and `Tx` ===

impl State {
    pub(crate) fn put(&mut self, object: Object) {
        self.delete(object.kind(), object.id());
        match object {
            Object::Cluster(o) => self.cluster = Some(Arc::new(o)),
            Object::Node(o) => {
                self.node_names.insert(o.name().to_lowercase(), o.id.clone());
                self.nodes.insert_mut(o.id.clone(), Arc::new(o));
            }
            Object::Network(o) => {
                if !o.pending_delete {
                    self.network_names.insert(o.name().to_lowercase(), o.id.clone());
                }
                self.networks.insert_mut(o.id.clone(), Arc::new(o));
            }
            Object::Service(o) => {
                if !o.pending_delete {
                    self.service_names.insert(o.spec.name.to_lowercase(), o.id.clone());
                }
                for network in networks_of(&o) {
                    self.services_by_network.insert(network, o.id.clone());
                }
                self.services.insert_mut(o.id.clone(), Arc::new(o));
            }
            Object::Task(o) => {
                if let Some(service) = &o.service {
                    self.tasks_by_service.insert(service.clone(), o.id.clone());
                }
                if let Some(node) = &o.node {
                    self.tasks_by_node.insert(node.clone(), o.id.clone());
                }
                for network in o.network_ids() {
                    self.tasks_by_network.insert(network, o.id.clone());
                }
                if o.status.state < TaskState::Assigned {
                    self.unassigned.insert_mut(o.id.clone());
                }
                self.tasks.insert_mut(o.id.clone(), Arc::new(o));
            }
        }
    }

    pub(crate) fn delete(&mut self, kind: Kind, id: &str) {
        match kind {
            Kind::Cluster => self.cluster = self.cluster.take().filter(|c| c.id.as_str() != id),
            Kind::Node => {
                if let Some(o) = self.nodes.get(id).cloned() {
                    self.nodes.remove_mut(id);
                    self.node_names.remove(o.name().to_lowercase(), o.id.clone());
                }
            }
            Kind::Network => {
                if let Some(o) = self.networks.get(id).cloned() {
                    self.networks.remove_mut(id);
                    self.network_names.remove(o.name().to_lowercase(), o.id.clone());
                }
            }
            Kind::Service => {
                if let Some(o) = self.services.get(id).cloned() {
                    self.services.remove_mut(id);
                    self.service_names.remove(o.spec.name.to_lowercase(), o.id.clone());
                    for network in networks_of(&o) {
                        self.services_by_network.remove(network, o.id.clone());
                    }
                }
            }
            Kind::Task => {
                if let Some(o) = self.tasks.get(id).cloned() {
                    self.tasks.remove_mut(id);
                    if let Some(service) = &o.service {
                        self.tasks_by_service.remove(service.clone(), o.id.clone());
                    }
                    if let Some(node) = &o.node {
                        self.tasks_by_node.remove(node.clone(), o.id.clone());
                    }
                    for network in o.network_ids() {
                        self.tasks_by_network.remove(network, o.id.clone());
                    }
                    self.unassigned.remove_mut(&o.id);
                }
            }
        }
    }
}

fn networks_of(service: &Service) -> BTreeSet<NetworkId> {
    let named = service.spec.task_template.networks.iter().map(|n| NetworkId::from(n.target.as_str()));
    let vips = service.endpoint.virtual_ips.iter().map(|v| v.network.clone());
    named.chain(vips).collect()
}

/// Equal content; what [`State::apply`] was called for it does not matter.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
            && self.cluster == other.cluster
            && self.nodes == other.nodes
            && self.networks == other.networks
            && self.services == other.services
            && self.tasks == other.tasks
    }
}
