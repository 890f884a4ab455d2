//! What holds after every write, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use malha_model::{PublishMode, TaskState};
use malha_store::State;

pub(super) fn check(before: &State, after: &State) {
    nothing_is_given_twice(after);
    ports_belong_to_one_service(after);
    states_only_advance(before, after);
    references_hold(after);
}

fn nothing_is_given_twice(state: &State) {
    let mut vnis = BTreeSet::new();
    let mut subnets: Vec<ipnet::IpNet> = Vec::new();
    for network in state.networks() {
        assert!(network.vnis.iter().all(|v| vnis.insert(*v)), "a VNI twice: {vnis:?}");
        for subnet in network.ipam.iter().filter_map(|c| c.subnet) {
            assert!(!subnets.iter().any(|s| s.contains(&subnet) || subnet.contains(s)), "{subnet} overlaps");
            subnets.push(subnet);
        }
        let mut used = BTreeMap::new();
        let mut claim = |addr: ipnet::IpNet, who: String| {
            let config = network.ipam.iter().find(|c| c.subnet.is_some_and(|s| s.contains(&addr.addr())));
            let config = config.unwrap_or_else(|| panic!("{addr} of {who} is outside of {}", network.spec.name));
            assert_ne!(config.gateway, Some(addr.addr()));
            assert!(!config.auxiliary_addresses.values().any(|a| *a == addr.addr()));
            if let Some(other) = used.insert(addr.addr(), who.clone()) {
                panic!("{addr} is given to {other} and {who}");
            }
        };
        network.lb_addresses.iter().for_each(|a| claim(*a, "lb".into()));
        for service in state.services() {
            let here = service.endpoint.virtual_ips.iter().filter(|v| v.network == network.id);
            here.for_each(|v| claim(v.addr, service.spec.name.clone()));
        }
        for task in state.tasks().filter(|t| !t.status.state.is_terminal()) {
            for a in task.networks.iter().filter(|a| a.network == network.id) {
                a.addresses.iter().for_each(|addr| claim(*addr, task.name()));
            }
        }
    }
}

fn ports_belong_to_one_service(state: &State) {
    let mut taken = BTreeSet::new();
    for service in state.services().filter(|s| !s.pending_delete) {
        for port in service.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Ingress) {
            assert_ne!(port.published_port, 0);
            assert!(taken.insert((port.protocol, port.published_port)), "{port:?} twice");
        }
    }
    for node in state.nodes() {
        let mut bound = BTreeSet::new();
        let alive = |s: TaskState| (TaskState::Assigned..=TaskState::Running).contains(&s);
        for task in state.tasks_of_node(&node.id).filter(|t| alive(t.status.state)) {
            let host =
                task.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Host && p.published_port != 0);
            host.for_each(|p| assert!(bound.insert((p.protocol, p.published_port)), "{p:?} twice on {}", node.id));
        }
    }
}

fn states_only_advance(before: &State, after: &State) {
    for old in before.tasks() {
        let Some(new) = after.task(&old.id) else { continue };
        assert!(new.status.state >= old.status.state, "{} went back: {:?} → {:?}", old.id, old.status, new.status);
        assert!(new.desired_state >= old.desired_state);
        assert!(old.node.is_none() || old.node == new.node, "a task never moves");
        assert_eq!(old.spec, new.spec);
        if old.status.state >= TaskState::Pending {
            assert_eq!(old.networks, new.networks);
        }
        if old.status.state.is_terminal() {
            assert_eq!(old.status, new.status, "an ended task stays as it ended");
        }
    }
}

fn references_hold(state: &State) {
    for task in state.tasks() {
        assert!(task.service.as_ref().is_none_or(|s| state.service(s).is_some()), "{} has no service", task.id);
        if (TaskState::Assigned..=TaskState::Running).contains(&task.status.state) {
            assert!(task.node.is_some());
        }
        if !task.status.state.is_terminal() {
            assert!(task.networks.iter().all(|a| state.network(&a.network).is_some()), "{} lost its network", task.id);
        }
    }
    for service in state.services().filter(|s| !s.pending_delete) {
        for config in &service.spec.task_template.networks {
            let network = state.network(&config.target.as_str().into());
            assert!(network.is_some_and(|n| !n.pending_delete), "{} is on a network that is gone", service.spec.name);
        }
    }
}
