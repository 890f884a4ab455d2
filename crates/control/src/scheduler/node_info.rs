//! What a node already has to carry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malha_model::{Node, NodeId, Protocol, PublishMode, ServiceId, Task, TaskState, Timestamp};
use malha_store::State;

/// Failures older than this no longer count against a node.
const FAILURE_MEMORY: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
pub(crate) struct NodeInfo {
    pub(crate) node: Arc<Node>,
    /// Tasks that are to run here.
    pub(crate) active: u64,
    pub(crate) active_of: BTreeMap<ServiceId, u64>,
    /// What their reservations leave.
    pub(crate) free_cpus: i64,
    pub(crate) free_memory: i64,
    pub(crate) host_ports: BTreeSet<(Protocol, u16)>,
    failures: BTreeMap<(ServiceId, u64), u64>,
}

impl NodeInfo {
    /// All nodes, from one walk over the tasks. What each service has on them is counted for `services` alone.
    pub(crate) fn read_all(state: &State, now: Timestamp, services: &BTreeSet<ServiceId>) -> BTreeMap<NodeId, Self> {
        let mut out: BTreeMap<NodeId, Self> = state.nodes().map(|n| (n.id.clone(), Self::empty(n.clone()))).collect();
        for task in state.tasks() {
            if let Some(info) = task.node.as_ref().and_then(|n| out.get_mut(n)) {
                let counted = task.service.as_ref().filter(|s| services.contains(*s));
                info.remember_failure(task, counted, now);
                info.count(task, counted);
            }
        }
        out
    }

    fn empty(node: Arc<Node>) -> Self {
        let resources = &node.description.resources;
        Self {
            active: 0,
            active_of: BTreeMap::new(),
            free_cpus: resources.nano_cpus,
            free_memory: resources.memory_bytes,
            host_ports: BTreeSet::new(),
            failures: BTreeMap::new(),
            node,
        }
    }

    fn remember_failure(&mut self, task: &Task, service: Option<&ServiceId>, now: Timestamp) {
        let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
        if failed
            && now.since(task.state_at) <= FAILURE_MEMORY
            && let Some(service) = service
        {
            *self.failures.entry((service.clone(), task.spec_version)).or_default() += 1;
        }
    }

    /// The task is placed here.
    pub(crate) fn add(&mut self, task: &Task) {
        self.count(task, task.service.as_ref());
    }

    /// Counts `task` where it may have a container here.
    fn count(&mut self, task: &Task, service: Option<&ServiceId>) {
        if !task.may_have_container() {
            return;
        }
        if let Some(r) = reservations(task) {
            self.free_cpus -= r.nano_cpus;
            self.free_memory -= r.memory_bytes;
        }
        self.host_ports.extend(host_ports(task));
        if task.desired_state <= TaskState::Running {
            self.active += 1;
            if let Some(service) = service {
                *self.active_of.entry(service.clone()).or_default() += 1;
            }
        }
    }

    pub(crate) fn active_of(&self, task: &Task) -> u64 {
        task.service.as_ref().and_then(|s| self.active_of.get(s)).copied().unwrap_or(0)
    }

    pub(crate) fn failures_of(&self, task: &Task) -> u64 {
        let key = task.service.clone().map(|s| (s, task.spec_version));
        key.and_then(|k| self.failures.get(&k)).copied().unwrap_or(0)
    }
}

pub(crate) fn reservations(task: &Task) -> Option<&malha_model::Resources> {
    task.spec.resources.as_ref().and_then(|r| r.reservations.as_ref())
}

/// Ports that the user fixed on the node itself.
pub(crate) fn host_ports(task: &Task) -> impl Iterator<Item = (Protocol, u16)> {
    let fixed = task.endpoint.ports.iter().filter(|p| p.publish_mode == PublishMode::Host && p.published_port != 0);
    fixed.map(|p| (p.protocol, p.published_port))
}
