//! Requests that change or read the swarm, as typed values.
//!
//! The Docker API turns HTTP into these; the leader answers them. On any other manager they travel to the leader as they
//! are, so that every manager gives the same answers. References (`id` fields) may be an id, a name or an id prefix;
//! `control` resolves them in Docker's order.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    id::{NetworkId, NodeId, ServiceId, TaskId},
    object::{Cluster, Network, NetworkAttachment, Node, Service, Task},
    spec_cluster::{ClusterSpec, NetworkSpec, NodeSpec},
    spec_service::ServiceSpec,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ControlRequest {
    ClusterGet,
    ClusterUpdate {
        version: u64,
        spec: ClusterSpec,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
    },
    NodeList,
    NodeGet {
        id: String,
    },
    NodeUpdate {
        id: String,
        version: u64,
        spec: NodeSpec,
    },
    NodeRemove {
        id: String,
        force: bool,
    },
    ServiceList,
    ServiceGet {
        id: String,
    },
    ServiceCreate {
        spec: ServiceSpec,
        registry_auth: Option<String>,
    },
    /// `registry_auth: None` keeps what is stored.
    ServiceUpdate {
        id: String,
        version: u64,
        spec: ServiceSpec,
        registry_auth: Option<String>,
    },
    ServiceRemove {
        id: String,
    },
    TaskList,
    TaskGet {
        id: String,
    },
    NetworkList,
    NetworkGet {
        id: String,
    },
    NetworkCreate {
        spec: NetworkSpec,
    },
    NetworkRemove {
        id: String,
    },
    /// A stand-alone container on `node` wants to be on an attachable network.
    NetworkAttach {
        node: NodeId,
        network: String,
        container_id: String,
        container_name: String,
        addresses: Vec<IpNet>,
        aliases: Vec<String>,
    },
    NetworkDetach {
        node: NodeId,
        attachment: TaskId,
    },
    /// A stand-alone container on `node` goes by another name from now on, on all networks that it is on.
    ContainerRename {
        node: NodeId,
        container_id: String,
        container_name: String,
    },
    /// The view behind `network inspect --verbose`.
    NetworkView {
        id: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ControlResponse {
    Done,
    Cluster(Cluster),
    Node(Node),
    Nodes(Vec<Node>),
    Service(Service),
    /// With running and desired task counts, for `service ls`.
    Services(Vec<ServiceWithStatus>),
    ServiceCreated {
        id: ServiceId,
        warnings: Vec<String>,
    },
    ServiceUpdated {
        warnings: Vec<String>,
    },
    Task(Task),
    Tasks(Vec<Task>),
    Network(Network),
    Networks(Vec<Network>),
    NetworkCreated {
        id: NetworkId,
    },
    Attached {
        attachment: TaskId,
        network: Network,
        addresses: NetworkAttachment,
    },
    NetworkView(crate::network_view::NetworkView),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceWithStatus {
    pub service: Service,
    pub running: u64,
    pub desired: u64,
    pub completed: u64,
}
