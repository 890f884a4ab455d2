//! The objects that a swarm starts with.

use ipnet::IpNet;
use malha_model::{
    ApiResult, Availability, Cluster, ClusterId, ClusterSpec, Network, NetworkId, NetworkSpec, Node, NodeId, Object,
    Role, RootCa, Timestamp, defaults,
};
use malha_store::{State, Tx};

use crate::{Ctx, allocator};

/// What `swarm init` decides for good.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub cluster: ClusterId,
    /// The first manager. The ingress network is kept off where it has ways of its own to.
    pub first: Node,
    pub spec: ClusterSpec,
    pub root_ca: RootCa,
    /// Empty: Docker's default.
    pub default_addr_pool: Vec<IpNet>,
    /// 0: Docker's default; so too the port.
    pub subnet_size: u8,
    pub data_path_port: u16,
}

/// The cluster, its first node, the ingress network and the networks `host` and `bridge`. Other nodes come with their
/// certificates.
pub fn bootstrap(ctx: &mut Ctx<'_>, params: Bootstrap) -> ApiResult<Vec<Object>> {
    let mut tx = Tx::at(&State::default(), ctx.now);
    let mut default_addr_pool = params.default_addr_pool;
    if default_addr_pool.is_empty() {
        default_addr_pool.extend(defaults::DEFAULT_ADDR_POOL.parse::<IpNet>());
    }
    let cluster = Cluster {
        id: params.cluster,
        spec: params.spec,
        root_ca: params.root_ca,
        default_addr_pool,
        subnet_size: if params.subnet_size == 0 { defaults::SUBNET_SIZE } else { params.subnet_size },
        data_path_port: if params.data_path_port == 0 { defaults::DATA_PATH_PORT } else { params.data_path_port },
        ..Cluster::default()
    };
    tx.put(cluster);
    tx.put(params.first);
    let mut ingress = Network {
        id: NetworkId::random(&mut *ctx.rng),
        spec: NetworkSpec {
            name: "ingress".into(),
            driver: "overlay".into(),
            ingress: true,
            options: [(allocator::VNI_OPTION.to_owned(), defaults::FIRST_VNI.to_string())].into(),
            ..NetworkSpec::default()
        },
        ..Network::default()
    };
    allocator::allocate_network(&tx, &mut ingress)?;
    tx.put(ingress);
    for driver in ["bridge", "host"] {
        tx.put(predefined(ctx, driver));
    }
    Ok(tx.into_changes().into_iter().filter_map(put_object).collect())
}

fn put_object(change: malha_store::Change) -> Option<Object> {
    match change {
        malha_store::Change::Put(object) => Some(object),
        malha_store::Change::Delete(..) => None,
    }
}

fn predefined(ctx: &mut Ctx<'_>, driver: &str) -> Network {
    Network {
        id: NetworkId::random(&mut *ctx.rng),
        spec: NetworkSpec {
            name: driver.into(),
            driver: driver.into(),
            labels: [("com.docker.swarm.predefined".to_owned(), "true".to_owned())].into(),
            ..NetworkSpec::default()
        },
        predefined: true,
        ..Network::default()
    }
}

/// A node as it is before its first session.
pub fn new_node(id: NodeId, role: Role, availability: Availability, now: Timestamp) -> Node {
    let mut node = Node { id, observed_role: role, ..Node::default() };
    node.spec.role = role;
    node.spec.availability = availability;
    node.meta.created_at = now;
    node.meta.updated_at = now;
    node
}
