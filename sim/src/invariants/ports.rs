//! No published port is given twice: through the mesh one service each, in host mode one task per node.

use std::collections::BTreeMap;

use malha_model::{PortConfig, PublishMode, TaskState};
use malha_store::State;

use super::{Verdict, violated};

pub fn check(state: &State) -> Verdict {
    let mut mesh = BTreeMap::new();
    for service in state.services().filter(|s| !s.pending_delete) {
        for port in of_mode(&service.endpoint.ports, PublishMode::Ingress) {
            if port.published_port == 0 {
                return Err(violated("ports", format_args!("{} was stored without its port", service.id)));
            }
            let other = mesh.insert((port.protocol, port.published_port), &service.id);
            if let Some(other) = other.filter(|o| **o != service.id) {
                let port = port.published_port;
                return Err(violated("ports", format_args!("{port} is given to {other} and {}", service.id)));
            }
        }
    }
    for node in state.nodes() {
        let mut bound = BTreeMap::new();
        let holds = |s: TaskState| (TaskState::Assigned..=TaskState::Running).contains(&s);
        for task in state.tasks_of_node(&node.id).filter(|t| holds(t.status.state)) {
            for port in of_mode(&task.endpoint.ports, PublishMode::Host).filter(|p| p.published_port != 0) {
                if let Some(other) = bound.insert((port.protocol, port.published_port), &task.id) {
                    let (port, name) = (port.published_port, node.name());
                    return Err(violated("ports", format_args!("{port} of {name}: {other} and {} hold it", task.id)));
                }
            }
        }
    }
    Ok(())
}

fn of_mode(ports: &[PortConfig], mode: PublishMode) -> impl Iterator<Item = &PortConfig> {
    ports.iter().filter(move |p| p.publish_mode == mode)
}
