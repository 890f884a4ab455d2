//! Slots: what one replica (or one node of a global service) has been run as.

use std::{collections::BTreeMap, sync::Arc};

use malha_model::{NodeId, Service, Task, TaskState, TaskStatus, Timestamp};
use malha_store::State;

use crate::Ctx;

/// A replica's number, or the node of a global task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Number(u64),
    Node(NodeId),
}

/// The tasks of one slot, oldest first, without those that are to be removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot(pub(crate) Vec<Arc<Task>>);

pub(crate) type Slots = BTreeMap<Key, Slot>;

pub(crate) fn key_of(task: &Task) -> Key {
    match (&task.node, task.slot) {
        (Some(node), 0) => Key::Node(node.clone()),
        (_, slot) => Key::Number(slot),
    }
}

pub(crate) fn read(state: &State, service: &Service) -> Slots {
    let mut slots = Slots::new();
    for task in state.tasks_of_service(&service.id) {
        add(&mut slots, task);
    }
    sort(&mut slots);
    slots
}

fn add(slots: &mut Slots, task: &Arc<Task>) {
    if task.desired_state < TaskState::Remove {
        slots.entry(key_of(task)).or_default().0.push(task.clone());
    }
}

fn sort(slots: &mut Slots) {
    for slot in slots.values_mut().filter(|s| s.0.len() > 1) {
        slot.0.sort_by(|a, b| (a.meta.created_at, &a.id).cmp(&(b.meta.created_at, &b.id)));
    }
}

impl Slot {
    /// Tasks that are to run (or to get ready for it), oldest first.
    pub(crate) fn runnable(&self) -> impl DoubleEndedIterator<Item = &Arc<Task>> {
        self.0.iter().filter(|t| t.desired_state <= TaskState::Running)
    }

    pub(crate) fn is_runnable(&self) -> bool {
        self.runnable().next().is_some()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.runnable().any(|t| t.status.state == TaskState::Running)
    }

    pub(crate) fn newest(&self) -> Option<&Arc<Task>> {
        self.0.last()
    }
}

/// A NEW task of `service` for the slot `key`, younger than everything else in `slot`.
pub(crate) fn new_task(ctx: &mut Ctx<'_>, service: &Service, key: &Key, slot: Option<&Slot>) -> Task {
    let (number, node) = match key {
        Key::Number(n) => (*n, None),
        Key::Node(node) => (0, Some(node.clone())),
    };
    let newest = slot.and_then(Slot::newest).map_or(Timestamp::ZERO, |t| Timestamp(t.meta.created_at.0 + 1));
    let mut task = Task {
        id: malha_model::TaskId::random(&mut *ctx.rng),
        service: Some(service.id.clone()),
        service_name: service.spec.name.clone(),
        service_labels: service.spec.labels.clone(),
        slot: number,
        node,
        spec: service.spec.task_template.clone(),
        spec_version: service.spec_version,
        desired_state: TaskState::Running,
        status: TaskStatus { timestamp: ctx.now, message: "created".into(), ..TaskStatus::default() },
        endpoint: service.endpoint.clone(),
        registry_auth: service.registry_auth.clone(),
        state_at: ctx.now,
        ..Task::default()
    };
    task.meta.created_at = ctx.now.max(newest);
    task
}
