//! The objects of the replicated store: what the managers agree on.
//!
//! Every object has an id and a [`Meta`]; its `version` is the Raft index of the write that made it so, which is what
//! `?version=` in update requests is compared with. Addresses, VIPs, VNIs and ports live *in* the objects that own them
//! and nowhere else: what is free is derived, never kept beside.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterId, NetworkId, NodeId, ServiceId, TaskId},
    spec_cluster::{ClusterSpec, IpamConfig, NetworkSpec, NodeDescription, NodeRoute, NodeSpec, Role},
    spec_service::{EndpointSpec, Labels, PortConfig, ServiceSpec, TaskSpec},
    task_state::TaskState,
    time::Timestamp,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Raft index of the last write; 0 while not yet stored.
    pub version: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The swarm: exactly one per store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    pub meta: Meta,
    pub spec: ClusterSpec,
    pub root_ca: RootCa,
    /// Pools that overlay subnets are cut from.
    pub default_addr_pool: Vec<IpNet>,
    /// Prefix length of each cut.
    pub subnet_size: u8,
    /// UDP port of the VXLAN devices.
    pub data_path_port: u16,
    /// Nodes whose certificates are no longer accepted, and since when.
    pub removed_nodes: BTreeMap<NodeId, Timestamp>,
}

/// Trust root and join tokens. The key is as secret as the store is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCa {
    pub cert_pem: String,
    pub key_pem: String,
    /// `SWMTKN-1-…`
    pub worker_token: String,
    pub manager_token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub meta: Meta,
    pub spec: NodeSpec,
    pub description: NodeDescription,
    pub status: NodeStatus,
    /// The role of its current certificate; follows `spec.role`.
    pub observed_role: Role,
    /// Set while the node is a member of the Raft group.
    pub manager: Option<ManagerStatus>,
    /// Tunnel endpoint: where VXLAN packets to this node go.
    pub data_path_addr: Option<IpAddr>,
    /// The last version before its spec was changed: whoever saw a later one knows the spec.
    #[serde(default)]
    pub spec_after: u64,
    /// Since when its state is DOWN; its tasks are orphaned a day later.
    #[serde(default)]
    pub down_since: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub state: NodeState,
    pub message: String,
    /// Address of the node as the managers see it.
    pub addr: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    #[default]
    Unknown,
    Down,
    Ready,
    Disconnected,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    pub leader: bool,
    /// `unknown`, `unreachable` or `reachable`.
    pub reachability: String,
    /// `ip:port` of the manager's listener.
    pub addr: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub meta: Meta,
    pub spec: NetworkSpec,
    /// Allocated subnets, first one is primary. Empty for `host` and `bridge`.
    pub ipam: Vec<IpamConfig>,
    /// One VNI per subnet. The first identifies the network in the data plane.
    pub vnis: Vec<u32>,
    /// The load balancer's address, the same on every node (anycast); shown as `lb-<network>`.
    #[serde(default)]
    pub lb_addresses: Vec<IpNet>,
    /// `host` and `bridge` as networks of services; hidden from the API.
    pub predefined: bool,
    /// Last address given out of each subnet: the next one is searched from here, so that a freed address rests.
    #[serde(default)]
    pub cursor: Vec<IpAddr>,
    /// Removed by the user; kept until the last task has left it, invisible to the API. Its name is free again.
    #[serde(default)]
    pub pending_delete: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    pub meta: Meta,
    pub spec: ServiceSpec,
    /// Version of the last write that changed `spec`.
    pub spec_version: u64,
    pub previous_spec: Option<ServiceSpec>,
    pub endpoint: Endpoint,
    pub update_status: Option<UpdateStatus>,
    /// `X-Registry-Auth` of the request that set the image; handed to nodes, never shown.
    pub registry_auth: Option<String>,
    /// Deleted by the user; kept until its tasks have stopped, invisible to the API.
    #[serde(default)]
    pub pending_delete: bool,
}

/// What was allocated for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub spec: EndpointSpec,
    /// As `spec.ports`, automatic ports filled in.
    pub ports: Vec<PortConfig>,
    pub virtual_ips: Vec<VirtualIp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    pub network: NetworkId,
    /// Address with the prefix length of its subnet.
    pub addr: IpNet,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    #[default]
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub meta: Meta,
    /// None for an attachment of a stand-alone container.
    pub service: Option<ServiceId>,
    /// Name of the service, or of the stand-alone container.
    pub service_name: String,
    pub service_labels: Labels,
    /// 1-based; 0 for tasks of a global service and for attachments.
    pub slot: u64,
    pub node: Option<NodeId>,
    pub spec: TaskSpec,
    /// `spec_version` of the service this task was made from.
    pub spec_version: u64,
    pub desired_state: TaskState,
    pub status: TaskStatus,
    pub networks: Vec<NetworkAttachment>,
    /// The service's endpoint when the task was made: ports to serve.
    pub endpoint: Endpoint,
    pub registry_auth: Option<String>,
    /// While `desired_state` is READY: it becomes RUNNING from this moment on, once its slot's earlier tasks have stopped.
    #[serde(default)]
    pub start_after: Option<Timestamp>,
    /// Made by a rolling update: ending early counts as a failure of that update.
    #[serde(default)]
    pub by_update: bool,
    /// When the managers first heard that it runs, or that it ended without ever running. Managers' clock.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When the managers heard of its current state. Managers' clock.
    #[serde(default)]
    pub state_at: Timestamp,
    /// When its slot was restarted under this `spec_version`; kept only where the policy limits attempts.
    #[serde(default)]
    pub restarts: Vec<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub timestamp: Timestamp,
    pub state: TaskState,
    pub message: String,
    pub err: String,
    pub container: Option<ContainerStatus>,
    /// Host-mode ports as bound on the node.
    pub ports: Vec<PortConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub container_id: String,
    pub pid: u32,
    pub exit_code: i32,
}

/// One network of a task and the addresses it has there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    pub network: NetworkId,
    /// Empty on the pre-defined networks.
    pub addresses: Vec<IpNet>,
    pub aliases: Vec<String>,
    pub driver_opts: Labels,
}

/// Any object, for the parts that treat all alike (log, snapshot, watch).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Object {
    Cluster(Cluster),
    Node(Node),
    Network(Network),
    Service(Service),
    Task(Task),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Cluster,
    Node,
    Network,
    Service,
    Task,
}

// === impl Node ===

impl Node {
    /// Name that commands show and accept.
    pub fn name(&self) -> &str {
        if self.spec.name.is_empty() { &self.description.hostname } else { &self.spec.name }
    }
}

// === impl Network ===

impl Network {
    /// VNI of the primary subnet.
    pub fn vni(&self) -> Option<u32> {
        self.vnis.first().copied()
    }
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// A subnet of this network into which one of a node's `routes` leads as well.
    pub fn overlapped<'a>(&self, routes: &'a [NodeRoute]) -> Option<(IpNet, &'a NodeRoute)> {
        let subnets = self.ipam.iter().filter_map(|c| c.subnet);
        let mut overlaps = subnets.filter_map(|s| Some((s, routes.iter().find(|r| r.overlaps(&s))?)));
        overlaps.next()
    }
}

// === impl Task ===

impl Task {
    /// `service.slot.id`, `service.node.id` for global ones, the plain name for attachments.
    pub fn name(&self) -> String {
        match (&self.service, self.slot, &self.node) {
            (None, ..) => self.service_name.clone(),
            (Some(_), 0, Some(node)) => format!("{}.{node}.{}", self.service_name, self.id),
            (Some(_), 0, None) => format!("{}.{}", self.service_name, self.id),
            (Some(_), slot, _) => format!("{}.{slot}.{}", self.service_name, self.id),
        }
    }

    pub fn is_attachment(&self) -> bool {
        self.service.is_none()
    }

    /// From assignment to its end: what the task holds on its node is its own.
    pub fn may_have_container(&self) -> bool {
        (TaskState::Assigned..=TaskState::Running).contains(&self.status.state)
    }

    /// The networks this task has an address on.
    pub fn network_ids(&self) -> BTreeSet<NetworkId> {
        self.networks.iter().map(|a| a.network.clone()).collect()
    }
}

// === impl RootCa ===

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

// === impl Object ===

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Node(_) => Kind::Node,
            Self::Network(_) => Kind::Network,
            Self::Service(_) => Kind::Service,
            Self::Task(_) => Kind::Task,
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Cluster(o) => o.id.as_str(),
            Self::Node(o) => o.id.as_str(),
            Self::Network(o) => o.id.as_str(),
            Self::Service(o) => o.id.as_str(),
            Self::Task(o) => o.id.as_str(),
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Self::Cluster(o) => &o.meta,
            Self::Node(o) => &o.meta,
            Self::Network(o) => &o.meta,
            Self::Service(o) => &o.meta,
            Self::Task(o) => &o.meta,
        }
    }

    pub fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Self::Cluster(o) => &mut o.meta,
            Self::Node(o) => &mut o.meta,
            Self::Network(o) => &mut o.meta,
            Self::Service(o) => &mut o.meta,
            Self::Task(o) => &mut o.meta,
        }
    }
}

macro_rules! into_object {
    ($($t:ident),*) => {$(
        impl From<$t> for Object {
            fn from(o: $t) -> Self {
                Self::$t(o)
            }
        }
    )*};
}
into_object!(Cluster, Node, Network, Service, Task);
