//! What a pass has to look at: where nothing changed and nothing is due, there is nothing to do.
//!
//! A pass leaves a settled state and an [`Outlook`]. What a later transaction on that very state touched, and what has
//! become due since, bounds what the loops can have to do. A pass without an outlook looks at everything and comes to the
//! same writes; the tests run both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use malha_model::{Kind, NodeId, ServiceId, Task, TaskId, TaskState, Timestamp};
use malha_store::{State, Tx};

/// What comes due in a settled state although nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    pub(crate) services: BTreeMap<ServiceId, Timestamp>,
    /// Of the tasks of nodes that are down.
    pub(crate) orphans: Option<Timestamp>,
    /// When the pass was made: times of a clock that has been set back since say nothing.
    pub(crate) made_at: Timestamp,
    /// The pass ended before the state was settled: the next one is to look at everything, at this time.
    pub(crate) unsettled: Option<Timestamp>,
}

impl Outlook {
    /// When the next pass is due at the latest.
    pub fn wake(&self) -> Option<Timestamp> {
        self.services.values().copied().chain(self.orphans).chain(self.unsettled).min()
    }
}

#[derive(Debug)]
pub(crate) enum Scope {
    Everything,
    Only { services: BTreeSet<ServiceId>, nodes: BTreeSet<NodeId>, tasks: BTreeSet<TaskId> },
}

impl Scope {
    /// `known` is the outlook of the pass that left what `tx` started from.
    pub(crate) fn of(tx: &Tx, known: Option<&Outlook>, now: Timestamp) -> Self {
        let Some(known) = known.filter(|k| k.unsettled.is_none() && k.made_at <= now) else { return Self::Everything };
        let (mut nodes, mut tasks) = (BTreeSet::new(), BTreeSet::new());
        let mut services: BTreeSet<ServiceId> =
            known.services.iter().filter(|(_, due)| **due <= now).map(|(id, _)| id.clone()).collect();
        for (kind, id) in tx.touched() {
            match kind {
                Kind::Cluster => return Self::Everything,
                Kind::Node => drop(nodes.insert(NodeId::from(id))),
                Kind::Service => drop(services.insert(id.into())),
                Kind::Task => drop(tasks.insert(TaskId::from(id))),
                // tasks and services that stand on a network are not decided on by it
                Kind::Network => {}
            }
        }
        for state in [tx.base(), &**tx] {
            services.extend(tasks.iter().filter_map(|id| state.task(id)).filter_map(|t| t.service.clone()));
            let on_nodes = nodes.iter().flat_map(|id| state.tasks_of_node(id));
            services.extend(on_nodes.filter_map(|t| t.service.clone()));
        }
        if !nodes.is_empty() {
            services.extend(tx.services().filter(|s| s.spec.is_global()).map(|s| s.id.clone()));
        }
        Self::Only { services, nodes, tasks }
    }

    pub(crate) fn services(&self, state: &State) -> Vec<ServiceId> {
        match self {
            Self::Everything => state.services().map(|s| s.id.clone()).collect(),
            Self::Only { services, .. } => services.iter().cloned().collect(),
        }
    }

    pub(crate) fn nodes(&self, state: &State) -> Vec<NodeId> {
        match self {
            Self::Everything => state.nodes().map(|n| n.id.clone()).collect(),
            Self::Only { nodes, .. } => nodes.iter().cloned().collect(),
        }
    }

    /// Tasks that were written, and those whose node was.
    pub(crate) fn tasks(&self, state: &State) -> Vec<Arc<Task>> {
        match self {
            Self::Everything => state.tasks().cloned().collect(),
            Self::Only { nodes, tasks, .. } => {
                let written = tasks.iter().filter_map(|id| state.task(id));
                let all = written.chain(nodes.iter().flat_map(|id| state.tasks_of_node(id)));
                let by_id: BTreeMap<&TaskId, _> = all.map(|t| (&t.id, t)).collect();
                by_id.into_values().cloned().collect()
            }
        }
    }

    /// Whether a task that found no node may find one now, or has another reason to find none: there is a new one to be
    /// placed, a node changed, or a task took something or gave it back.
    pub(crate) fn may_place(&self, tx: &Tx) -> bool {
        let Self::Only { nodes, tasks, .. } = self else { return true };
        let counts = |t: &Task| t.may_have_container() && t.desired_state <= TaskState::Running;
        let gave_back = |id: &TaskId| {
            let before = tx.base().task(id).is_some_and(|t| t.may_have_container());
            before && !tx.task(id).is_some_and(|t| counts(t))
        };
        let placed = |t: &Task| t.node.is_some();
        let took =
            |id: &TaskId| tx.task(id).is_some_and(|t| placed(t)) && !tx.base().task(id).is_some_and(|t| placed(t));
        let waits = |id: &TaskId| tx.task(id).is_some_and(|t| t.status.state == TaskState::Pending);
        !nodes.is_empty() || tasks.iter().any(|id| waits(id) || took(id) || gave_back(id))
    }
}
