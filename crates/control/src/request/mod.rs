//! One answer per request.

mod attach;
mod cluster;
mod generated_name;
mod network;
mod node;
mod service;

use malha_model::{
    ApiError, ApiResult, Code, ControlRequest as Request, ControlResponse as Response, Meta, Network, Node, Service,
    Task,
};
use malha_store::Tx;

pub use self::cluster::check_cluster_spec;
use crate::Ctx;

/// Answers `request`, writing to `tx` what it changes. On an error `tx` is to be dropped.
pub fn handle(tx: &mut Tx, ctx: &mut Ctx<'_>, request: Request) -> ApiResult<Response> {
    match request {
        Request::ClusterGet => cluster::get(tx),
        Request::ClusterUpdate { version, spec, rotate_worker_token, rotate_manager_token } => {
            let rotate = cluster::Rotate { worker: rotate_worker_token, manager: rotate_manager_token };
            cluster::update(tx, ctx, version, spec, rotate)
        }
        Request::NodeList => Ok(Response::Nodes(tx.nodes().map(|n| (**n).clone()).collect())),
        Request::NodeGet { id } => tx.resolve::<Node>(&id).map(|n| Response::Node((*n).clone())),
        Request::NodeUpdate { id, version, spec } => node::update(tx, &id, version, spec),
        Request::NodeRemove { id, force } => node::remove(tx, ctx, &id, force),
        Request::ServiceList => Ok(service::list(tx)),
        Request::ServiceGet { id } => tx.resolve::<Service>(&id).map(|s| Response::Service((*s).clone())),
        Request::ServiceCreate { spec, registry_auth } => service::create(tx, ctx, spec, registry_auth),
        Request::ServiceUpdate { id, version, spec, registry_auth } => {
            service::update(tx, &id, version, spec, registry_auth)
        }
        Request::ServiceRemove { id } => service::remove(tx, &id),
        Request::TaskList => Ok(Response::Tasks(tx.tasks().map(|t| (**t).clone()).collect())),
        Request::TaskGet { id } => tx.resolve::<Task>(&id).map(|t| Response::Task((*t).clone())),
        Request::NetworkList => Ok(network::list(tx)),
        Request::NetworkGet { id } => tx.resolve::<Network>(&id).map(|n| Response::Network((*n).clone())),
        Request::NetworkCreate { spec } => network::create(tx, ctx, spec),
        Request::NetworkRemove { id } => network::remove(tx, &id),
        Request::NetworkAttach { node, network, container_id, container_name, addresses, aliases } => {
            let wanted = attach::Wanted { container_id, container_name, addresses, aliases };
            attach::attach(tx, ctx, &node, &network, wanted)
        }
        Request::NetworkDetach { node, attachment } => attach::detach(tx, &node, &attachment),
        Request::ContainerRename { node, container_id, container_name } => {
            Ok(attach::rename(tx, &node, &container_id, &container_name))
        }
        Request::NetworkView { id } => network::view(tx, &id),
    }
}

/// Refuses an update that was made from an older version of the object.
fn check_version(meta: &Meta, version: u64) -> ApiResult<()> {
    if meta.version == version { Ok(()) } else { Err(out_of_sequence()) }
}

fn out_of_sequence() -> ApiError {
    ApiError::rpc(Code::Unknown, "update out of sequence")
}
