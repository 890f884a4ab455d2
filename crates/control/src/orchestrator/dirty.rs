//! Whether a task still is what its service asks for.

use malha_model::{EndpointSpec, Node, PublishMode, Service, Task, TaskSpec};

use super::constraints;
use crate::scheduler::constraint::node_matches;

/// True where an update has to replace `task`, which runs on `node`.
///
/// Labels, replicas and update settings of the service never matter. A new placement matters where the node does not
/// satisfy its constraints, or where there is no node yet. Ports published through the mesh are applied to running tasks; only host-mode ports, the endpoint mode
/// and publishing as such (it needs an address on the ingress network) are part of a task.
pub fn is_dirty(service: &Service, task: &Task, node: Option<&Node>) -> bool {
    if task.spec_version == service.spec_version {
        return false;
    }
    let wanted = &service.spec.task_template;
    // A task that waits for a node was refused under its old placement.
    if node.map_or(wanted.placement != task.spec.placement, |n| !node_matches(constraints(wanted), n)) {
        return true;
    }
    let unplaced = |spec: &TaskSpec| TaskSpec { placement: None, ..spec.clone() };
    if *wanted != task.spec && unplaced(wanted) != unplaced(&task.spec) {
        return true;
    }
    let nothing = EndpointSpec::default();
    built_in(service.spec.endpoint_spec.as_ref().unwrap_or(&nothing)) != built_in(&task.endpoint.spec)
}

/// The part of an endpoint that a running task cannot change.
fn built_in(spec: &EndpointSpec) -> (bool, bool, Vec<&malha_model::PortConfig>) {
    let ingress = spec.ports.iter().any(|p| p.publish_mode == PublishMode::Ingress);
    let host = spec.ports.iter().filter(|p| p.publish_mode == PublishMode::Host).collect();
    (spec.mode == "dnsrr", ingress, host)
}
