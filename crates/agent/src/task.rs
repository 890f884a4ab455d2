//! What to do next for one task, as a pure function of what is wanted and what is.

use malha_model::{NodeId, Task, TaskState};

use crate::executor::{Found, NodeNetworks};

/// The next move of a task's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing, until the orders change.
    Rest,
    /// Only a step on paper: report the state with this message.
    Mark(TaskState, &'static str),
    /// Hold until the views of the task's networks are here and in the maps.
    AwaitNetworks,
    Prepare,
    Start,
    /// Wait for the end of the container.
    Watch,
    Stop,
}

/// What the worker knows beside the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// As last reported.
    pub state: TaskState,
    /// The container exists.
    pub prepared: bool,
    pub networks_ready: bool,
}

pub(crate) fn step(task: &Task, facts: Facts) -> Action {
    let Facts { state, prepared, networks_ready } = facts;
    if state.is_terminal() {
        return Action::Rest;
    }
    if told_to_stop(task) {
        let nothing_made = state < TaskState::Preparing && !prepared;
        let on_paper = nothing_made || task.is_attachment();
        return if on_paper { Action::Mark(TaskState::Shutdown, "shutdown") } else { Action::Stop };
    }
    if task.is_attachment() {
        // the container is the user's: the task only holds its addresses
        return if state < TaskState::Running { Action::Mark(TaskState::Running, "started") } else { Action::Rest };
    }
    match state {
        TaskState::Running => Action::Watch,
        TaskState::Accepted => Action::Mark(TaskState::Preparing, "preparing"),
        s if s < TaskState::Accepted => Action::Mark(TaskState::Accepted, "accepted"),
        _ if !prepared && !networks_ready => Action::AwaitNetworks,
        _ if !prepared => Action::Prepare,
        TaskState::Preparing => Action::Mark(TaskState::Ready, "prepared"),
        TaskState::Ready if task.desired_state < TaskState::Running => Action::Rest,
        TaskState::Ready => Action::Mark(TaskState::Starting, "starting"),
        _ => Action::Start,
    }
}

/// What a task becomes that fails in `state`: REJECTED before its container was to start, FAILED from then on.
pub(crate) fn failure(state: TaskState) -> TaskState {
    if state < TaskState::Starting { TaskState::Rejected } else { TaskState::Failed }
}

/// COMPLETE as a wish means: run to the end.
pub(crate) fn told_to_stop(task: &Task) -> bool {
    task.desired_state >= TaskState::Shutdown
}

/// Whether the applied state has everything that the task's sandbox is planned from.
pub(crate) fn networks_ready(task: &Task, applied: &NodeNetworks) -> bool {
    let mut on = task.networks.iter().filter(|a| !a.addresses.is_empty()).peekable();
    if on.peek().is_none() {
        return true;
    }
    applied.tasks.iter().any(|t| t.id == task.id) && on.all(|a| applied.views.contains_key(&a.network))
}

/// How a task stands after the daemon came back, given the container that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Go on from here.
    At { state: TaskState, prepared: bool },
    /// It ran and is no more.
    Lost,
}

pub(crate) fn resume(task: &Task, state: TaskState, found: Option<&Found>) -> Resume {
    if state.is_terminal() || task.is_attachment() {
        return Resume::At { state, prepared: found.is_some() };
    }
    match found {
        None | Some(Found::Created) if state == TaskState::Running => Resume::Lost,
        None => Resume::At { state, prepared: false },
        Some(Found::Created) => Resume::At { state, prepared: true },
        // starting it again says which ports it got
        Some(Found::Running(_)) if state < TaskState::Running => {
            Resume::At { state: state.max(TaskState::Starting), prepared: true }
        }
        Some(Found::Running(_) | Found::Exited(_)) => Resume::At { state: TaskState::Running, prepared: true },
    }
}

/// Tasks are the node's own only where they say so; anything else in a message is not ours to run.
pub(crate) fn is_ours(task: &Task, node: &NodeId) -> bool {
    task.node.as_ref() == Some(node)
}

#[cfg(test)]
mod tests {
    use malha_model::{ContainerStatus, NetworkAttachment, ServiceId};

    use super::*;

    fn task(desired: TaskState) -> Task {
        Task { id: "t".into(), service: Some(ServiceId::from("s")), desired_state: desired, ..Task::default() }
    }

    fn facts(state: TaskState, prepared: bool) -> Facts {
        Facts { state, prepared, networks_ready: true }
    }

    #[test]
    fn a_task_walks_from_assigned_to_running() {
        let t = task(TaskState::Running);
        let mut f = facts(TaskState::Assigned, false);
        let mut seen = vec![];
        for _ in 0..12 {
            let action = step(&t, f);
            match action {
                Action::Mark(state, message) => {
                    assert!(state > f.state, "{state} after {}", f.state);
                    f.state = state;
                    seen.push(message);
                }
                Action::Prepare => f.prepared = true,
                Action::Start => f.state = TaskState::Running,
                Action::Watch => break,
                other => panic!("{other:?} at {f:?}"),
            }
        }
        assert_eq!(f.state, TaskState::Running);
        assert_eq!(seen, ["accepted", "preparing", "prepared", "starting"]);
    }

    #[test]
    fn a_task_that_is_only_to_be_ready_waits_there() {
        assert_eq!(step(&task(TaskState::Ready), facts(TaskState::Ready, true)), Action::Rest);
        assert_eq!(
            step(&task(TaskState::Running), facts(TaskState::Ready, true)),
            Action::Mark(TaskState::Starting, "starting")
        );
    }

    #[test]
    fn stopping_touches_a_container_only_where_there_may_be_one() {
        let t = task(TaskState::Shutdown);
        assert_eq!(step(&t, facts(TaskState::Accepted, false)), Action::Mark(TaskState::Shutdown, "shutdown"));
        assert_eq!(step(&t, facts(TaskState::Preparing, false)), Action::Stop);
        assert_eq!(step(&t, facts(TaskState::Running, true)), Action::Stop);
        assert_eq!(step(&t, facts(TaskState::Failed, true)), Action::Rest);
    }

    #[test]
    fn nothing_is_prepared_before_its_networks_are_applied() {
        let mut t = task(TaskState::Running);
        t.networks = vec![NetworkAttachment {
            network: "n".into(),
            addresses: vec!["10.0.1.2/24".parse().unwrap()],
            ..NetworkAttachment::default()
        }];
        let mut applied = NodeNetworks::default();
        assert!(!networks_ready(&t, &applied));
        applied.tasks.push(std::sync::Arc::new(t.clone()));
        assert!(!networks_ready(&t, &applied));
        applied.views.insert("n".into(), std::sync::Arc::default());
        assert!(networks_ready(&t, &applied));
        let f = Facts { networks_ready: false, ..facts(TaskState::Preparing, false) };
        assert_eq!(step(&t, f), Action::AwaitNetworks);
    }

    #[test]
    fn a_returning_daemon_takes_its_containers_over() {
        let t = task(TaskState::Running);
        let status = ContainerStatus::default();
        let at = |state, prepared| Resume::At { state, prepared };
        let running = Found::Running(status.clone());
        assert_eq!(resume(&t, TaskState::Running, Some(&running)), at(TaskState::Running, true));
        assert_eq!(resume(&t, TaskState::Running, Some(&Found::Exited(status))), at(TaskState::Running, true));
        assert_eq!(resume(&t, TaskState::Assigned, Some(&running)), at(TaskState::Starting, true));
        assert_eq!(resume(&t, TaskState::Starting, None), at(TaskState::Starting, false));
        assert_eq!(resume(&t, TaskState::Running, None), Resume::Lost);
    }
}
